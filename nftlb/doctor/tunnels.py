"""Checks what tunnels to backends need of this host (`encap`): types of the kernel, room for the outer header. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.kernel.tunnels import KINDS
from nftlb.model import Encap
from nftlb.requirements import tunnel_lacks

from .finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Backend, Config, Pool

    from .host import HostFacts

_ETHERNET = 1500


def check_tunnels(config: Config, host: HostFacts) -> Iterator[Finding]:
    """Check the kernel and the MTU of the path to each backend that is reached through a tunnel."""
    for pool in config.pools:
        if pool.encap is Encap.NONE:
            continue
        yield from (error(lack.subject, lack.message, lack.fix) for lack in tunnel_lacks(pool, host.surroundings))
        yield from _check_room(pool, host)


def _check_room(pool: Pool, host: HostFacts) -> Iterator[Finding]:
    largest = _largest_packet(pool, host)
    narrow: dict[tuple[str, int, int], list[str]] = {}
    for backend in pool.backends:
        path = _path(backend, host)
        overhead = KINDS[pool.encap, backend.address.version].overhead
        if path and path[1] < largest + overhead:
            narrow.setdefault((*path, overhead), []).append(backend.name)
    for (device, mtu, overhead), names in narrow.items():
        yield warning(
            f"pool {pool.name}",
            f"packets of clients may have {largest} bytes, and the tunnel adds {overhead}, but the path to "
            f"{', '.join(names)} by {device} carries {mtu}: packets of more than {mtu - overhead} bytes are sent in "
            "fragments, or their senders get ICMP errors",
            f"ip link set {device} mtu {largest + overhead}, and the same on the whole path; or let clients send at "
            f"most {mtu - overhead} bytes",
        )
    if not narrow:
        yield ok(f"pool {pool.name}", f"packets of {largest} bytes fit into the tunnels to the backends")


def _largest_packet(pool: Pool, host: HostFacts) -> int:
    """The MTU that packets of clients come with: that of the interfaces in `ingress`, or else that of Ethernet."""
    return max((found.mtu for found in map(host.interface, pool.ingress) if found), default=_ETHERNET)


def _path(backend: Backend, host: HostFacts) -> tuple[str, int] | None:
    """The interface towards a backend, and the largest packet on the path, as far as this host knows."""
    route = host.routes.get(backend.address)
    device = host.interface_of(route) if route else None
    if route is None or device is None or device.name == "lo":
        return None
    return device.name, min(device.mtu, route.mtu or device.mtu)
