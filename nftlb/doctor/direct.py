"""Whether backends of `forward: dsr` can tell this host from the service, whose address they hold themselves. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Forward

from .finding import Finding, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.kernel.rtnetlink import IPAddress
    from nftlb.model import Config

    from .host import Host

# By IP version: what is lost, and how the service's address becomes the one that nothing is sent from.
_LOST = {
    4: "they answer neither its health checks nor, when it looks for them, to ARP",
    6: "they don't answer its health checks",
}
_SECOND = {
    4: "the service's with a prefix of /32, as a later one",
    6: "the service's with a prefix of /128 and `preferred_lft 0`",
}


def judge(config: Config, host: Host) -> Iterator[Finding]:
    """Look at the address that this host itself has towards each backend."""
    for pool in config.pools:
        if pool.forward is not Forward.DSR:
            continue
        listened = {listener.address for listener in pool.listen}
        found: dict[IPAddress, list[str]] = {}
        for backend in pool.backends:
            route = host.routes.get(backend.address)
            if route is not None and route.source in listened:
                found.setdefault(route.source, []).append(backend.name)
        for address, names in found.items():
            yield warning(
                f"pool {pool.name}",
                f"this host sends to {', '.join(names)} from {address}, which backends of `forward: dsr` hold "
                f"themselves: {_LOST[address.version]}",
                "give the interface to the backends an address of its own, and then " + _SECOND[address.version],
            )
