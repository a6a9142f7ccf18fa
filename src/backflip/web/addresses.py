"""Web addresses in the one spelling that browsers use. Leaves out who may come from where (`guard`)."""

from __future__ import annotations

from urllib.parse import SplitResult, urlsplit

from backflip.errors import ConfigError

PORTS = {"http": 80, "https": 443}
"""What browsers leave out."""


def host_of(address: str) -> str | None:
    """Return host and port of an http or https address as a browser spells them, None where it is none.

    Small letters, no default port, letters beyond ASCII in their ASCII form.
    """
    found = _split(address)
    return None if found is None else _host(found)


def public_address(address: str) -> str:
    """Return where people find a server, as a browser spells it, such as https://judge.example.org.

    Raises:
        ConfigError: it is no such address, or holds more: a name, a password, a path. Every page lies right below the host.
    """
    found = _split(address)
    host = None if found is None else _host(found)
    if found is None or host is None or found.query or found.fragment:
        raise ConfigError(f"--public-url {address} is no web address; expected https://...")
    plain = f"{found.scheme}://{host}"
    if found.username is not None or found.password is not None:
        raise ConfigError(f"--public-url holds a name or a password, which no browser sends as such; expected {plain}")
    if found.path not in ("", "/"):
        raise ConfigError(
            f"--public-url {address} has a path, and the pages lie right below the host; expected {plain}"
        )
    return plain


def _split(address: str) -> SplitResult | None:
    try:
        found = urlsplit(address)
        _ = found.port
    except ValueError:  # such as a port that is no number
        return None
    return found if found.scheme in PORTS and found.hostname else None


def _host(found: SplitResult) -> str | None:
    name = (found.hostname or "").lower()
    try:
        name = name if name.isascii() else name.encode("idna").decode()
    except UnicodeError:
        return None
    name = f"[{name}]" if ":" in name else name
    return name if found.port in (None, PORTS[found.scheme]) else f"{name}:{found.port}"
