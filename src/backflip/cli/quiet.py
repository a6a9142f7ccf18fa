"""What other libraries print of their own accord, and a command line does not want between its lines.

Only commands use it: a library that imports Backflip keeps its own settings. Left out: warnings, which are kept.
"""

from __future__ import annotations

import sys


def without_foreign_bars() -> None:
    """Turn off the progress bars of transformers, which has them for reading and writing a model; ours say what goes on."""
    if "transformers" in sys.modules:
        from transformers.utils import logging

        logging.disable_progress_bar()
