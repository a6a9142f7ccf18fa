"""`python -m backflip` is `backflip`."""

from backflip.cli import main

raise SystemExit(main())
