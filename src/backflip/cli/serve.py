"""`backflip serve`: the place where people judge, over the store of a run or one of its own.

Left out: the application (`backflip.web`).
"""

from __future__ import annotations

import socket
import time
from collections.abc import Sequence
from pathlib import Path

from backflip.cli.exchange import store_of
from backflip.cli.options import Options
from backflip.errors import ConfigError, MissingExtra
from backflip.web.addresses import public_address

HOME_HOURS = 24.0
"""How long the first owner's invitation holds, and a link to a new password."""


def main(argv: Sequence[str]) -> int:
    """Serve until Ctrl-C."""
    found = _options().read(argv[1:])
    if not 0 <= found.port < 65536:
        raise ConfigError(f"--port {found.port} is no port; expected 0 to 65535")
    if found.public_url is not None:
        found.public_url = public_address(found.public_url)
    if found.host not in ("127.0.0.1", "localhost", "::1") and not (found.public_url or "").startswith("https://"):
        print(
            "note: whoever can reach this address can listen in; put a proxy with TLS before it and give --public-url https://..."
        )
    try:
        import uvicorn

        from backflip.web.app import create_app
    except ImportError as error:
        raise MissingExtra(
            f"the pages for people need more packages ({error}); run: pip install 'backflip[web]'"
        ) from error
    from backflip.store import Store
    from backflip.store.people import People

    where = store_of(found.store, must_exist="://" not in found.store)
    if found.reset_password is not None:
        return _reset_password(where, found.reset_password, found.public_url or _address(found.host, found.port))
    with Store.open(where) as store, _listening(found.host, found.port) as listener:
        public = found.public_url or _address(found.host, listener.getsockname()[1])
        people = People(store)
        if found.invite_owner or not any(one.role == "owner" and one.state != "erased" for one in people.everybody()):
            token = people.invite("owner", "printed by backflip serve", time.time(), HOME_HOURS)
            print(f"become an owner of this study (works once, for a day): {public}/join/{token}")
        print(f"serving {store.where} at {public}; stop with Ctrl-C", flush=True)
        config = uvicorn.Config(
            create_app(store, public),
            log_level="warning",
            proxy_headers=found.trust_proxy is not None,
            forwarded_allow_ips=found.trust_proxy,
            server_header=False,
            access_log=False,
            timeout_graceful_shutdown=5,
        )
        uvicorn.Server(config).run(sockets=[listener])
    return 0


def _options() -> Options:
    parser = Options("serve", "Serve the pages on which people judge, and those of the study's owner.")
    parser.add_argument(
        "store",
        metavar="RUN",
        nargs="?",
        default="runs/latest",
        help="run folder, SQLite file, or postgresql:// URL (default: runs/latest)",
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen at (default: this machine only)")
    parser.add_argument("--port", type=int, default=8000, help="port to listen at (default: 8000; 0: any that is free)")
    parser.add_argument(
        "--public-url", metavar="URL", help="where people find it, behind a proxy with TLS: https://judge.example.org"
    )
    parser.add_argument(
        "--trust-proxy", metavar="ADDRESS", help="address of the proxy whose X-Forwarded headers are believed"
    )
    parser.add_argument(
        "--invite-owner", action="store_true", help="print an invitation for an owner, though there is one"
    )
    parser.add_argument(
        "--reset-password",
        metavar="NAME",
        help="print a link by which NAME, who forgot it, chooses a new password, and stop; works while the server runs",
    )
    return parser


def _reset_password(where: str | Path, name: str, public: str) -> int:
    """Print a link to a new password: whoever may write the store may let an owner in who forgot theirs.

    Raises:
        ConfigError: nobody has this name.
    """
    from backflip.store import Store
    from backflip.store.people import People
    from backflip.store.resets import AT_THE_MACHINE, Resets

    with Store.open(where) as store:
        people = People(store)
        if (secret := people.secret_of(name)) is None:
            owners = [one.name for one in people.everybody() if one.role == "owner" and one.state != "erased"]
            raise ConfigError(
                f'nobody in {store.where} is called "{name}"; its owners are: {", ".join(owners) or "none"}'
            )
        token = Resets(store).make(secret[0].id, AT_THE_MACHINE, time.time(), HOME_HOURS)
    print(f"a new password for {secret[0].name} (works once, for a day): {public}/reset/{token}")
    return 0


def _address(host: str, port: int) -> str:
    return f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}"


def _listening(host: str, port: int) -> socket.socket:
    """Return a listening socket. Raises ConfigError where the address cannot be had."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # Named as TCP, for only then do answers leave at once: what is sent in two pieces waits 40 ms for the other side between them.
    made = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        made.bind((host, port))
        made.listen(128)
    except OSError as error:
        made.close()
        raise ConfigError(
            f"cannot listen at {host}:{port}: {error.strerror or error}; choose another --port or --host"
        ) from error
    return made
