"""By which names the API may be asked, and from which pages: a page of another site must not ask it through a browser.

A site can let its own name point to this host's address (DNS rebinding); the browser then takes our answers for that
site's. The name is in `Host`, so a request with a name that is not ours gets no answer.
"""

from __future__ import annotations

import re
import socket
from dataclasses import dataclass
from functools import cache
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias
from urllib.parse import urlsplit

from aiohttp import web

from nftlb.model.reading import show

from .errors import Refused

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp.typedefs import Handler, Middleware

_HOST = re.compile(r"(?:\[(?P<six>[^\[\]]*)\]|(?P<name>[^:\[\]]*))(?P<port>:[0-9]*)?")
_READS = frozenset({"GET", "HEAD", "OPTIONS"})
_PORTS = {"http": ":80", "https": ":443"}
_HOSTS_FILE = "/etc/hosts"


@dataclass(frozen=True)
class Names:
    """Names in lower case: those of `api.hosts`, and this host's own. Addresses and `localhost` are always allowed."""

    configured: frozenset[str] = frozenset()
    own: frozenset[str] = frozenset()

    def allows(self, host: str) -> bool:
        """Whether a request with this `Host` is for us."""
        found = _HOST.fullmatch(host)
        if found is None:
            return False
        name = _plain(found["six"] or found["name"] or "")
        return name in self.configured or name in self.own or _needs_no_name(name)

    def allows_page(self, origin: str, host: str) -> bool:
        """Whether a page of this `Origin` may change something: our own page, or a page of a configured name."""
        try:
            parts = urlsplit(origin)
            name = _plain(parts.hostname or "")
        except ValueError:
            return False
        port = _PORTS.get(parts.scheme, "")
        same = parts.netloc.lower().removesuffix(port) == host.lower().removesuffix(port)
        return bool(name) and (same or name in self.configured)


Allowed: TypeAlias = "Callable[[], Names]"
"""Gives the names of now: a reload may change them."""


def names(configured: tuple[str, ...] = ()) -> Names:
    """Give these names, and those that this host has by itself. Asks no name server."""
    return Names(frozenset(map(_plain, configured)), own_names(socket.gethostname(), _read(_HOSTS_FILE)))


@cache
def no_further_names() -> Names:
    """Be the names of an API that nothing was configured for."""
    return names()


def own_names(hostname: str, hosts_file: str) -> frozenset[str]:
    """Give the host's name, and what a text such as /etc/hosts has beside that name."""
    found = {_plain(hostname)}
    for line in hosts_file.splitlines():
        aliases = [_plain(word) for word in line.partition("#")[0].split()[1:]]
        if _plain(hostname) in aliases:
            found.update(aliases)
    return frozenset(found - {""})


def guard(allowed: Allowed) -> Middleware:
    """Make a middleware that refuses requests for other names (421), and changes by pages of other sites (403)."""

    @web.middleware
    async def check(request: web.Request, handler: Handler) -> web.StreamResponse:
        hosts = request.headers.getall("Host", [])
        if len(hosts) > 1:
            raise Refused(400, "there are two Host headers; allowed: one")
        host = hosts[0] if hosts else ""  # HTTP/1.0 needs none, and every browser sends one
        now = allowed()
        if host and not _local(request) and not now.allows(host):
            raise Refused(421, f"{show(host)} is no name of this API; {_mend(now)}")
        origin = request.headers.get("Origin")
        if origin is not None and request.method not in _READS and not now.allows_page(origin, host):
            raise Refused(403, f"a page of another site ({show(origin)}) may not change anything; {_mend(now)}")
        return await handler(request)

    return check


def _mend(now: Names) -> str:
    own = "".join(f"{name}, " for name in sorted(now.own))
    return f"allowed: an address, localhost, {own}and the names in hosts under api"


def _local(request: web.Request) -> bool:
    """Whether it came through a Unix socket, which no browser can use."""
    return request.transport is not None and isinstance(request.transport.get_extra_info("sockname"), str)


def _needs_no_name(name: str) -> bool:
    """Whether no name server was asked for it: an address, or this host itself by RFC 6761."""
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        ip_address(name)
    except ValueError:
        return False
    return True


def _plain(name: str) -> str:
    return name.lower().removesuffix(".")


def _read(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
