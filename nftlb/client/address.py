"""Where the daemon listens, as users write it. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import urlsplit

from nftlb.errors import ConfigError, Problem

ALLOWED = "http://ADDRESS:PORT, https://NAME:PORT or unix:/PATH"
PORT = 9146


@dataclass(frozen=True, slots=True)
class Address:
    """A host and a port, with or without TLS; or the path of a unix socket, and then nothing else counts."""

    host: str = "127.0.0.1"
    port: int = PORT
    tls: bool = False
    prefix: str = ""
    """What a proxy in front of the daemon wants before `/api`."""
    socket: str = ""

    def __str__(self) -> str:
        if self.socket:
            return f"unix:{self.socket}"
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{self.prefix}"


def read_address(text: str) -> Address:
    """Read a URL, `unix:/PATH`, or `ADDRESS:PORT` as `api.listen` has it; ConfigError if it is none of them."""
    if text.startswith("unix:"):
        path = text.removeprefix("unix:")
        if not path.startswith("/") or "\0" in path:
            raise _unfit(text)
        return Address(socket=path)
    try:
        parts = urlsplit(text if "://" in text else f"http://{text}")
        host, port = parts.hostname, parts.port
    except ValueError:
        raise _unfit(text) from None
    whole = parts.scheme in {"http", "https"} and host and not (parts.query or parts.fragment or "@" in parts.netloc)
    if not whole or not host or not f"{host}{parts.path}".isprintable() or " " in f"{host}{parts.path}":
        raise _unfit(text)
    return Address(host, port or PORT, parts.scheme == "https", parts.path.rstrip("/"))


def _unfit(text: str) -> ConfigError:
    return ConfigError([Problem("the daemon's address", 0, 0, "", f"{text!r} is none; allowed: {ALLOWED}")])
