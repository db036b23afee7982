"""The rules for addresses that the kernel forwards no packets from or to. No I/O.

Those are loopback addresses (127.0.0.0/8, ::1) and the link-local addresses of IPv6 (fe80::/10). Such an address can't
be a listener, a `source`, a backend or a sorry server. There is one exception: with `dsr` a backend's address is only
the next hop, so a link-local address works there, provided that its interface is given.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.config.parts import Fault, Where, Whole
from nftlb.model.kinds import Forward, is_link_local, unforwarded

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.config.places import Path
    from nftlb.model.kinds import IPAddress
    from nftlb.model.pool import Backend

_ANOTHER = "an address that other hosts can reach"
_BESIDE = "device: INTERFACE beside it"


def unforwarded_addresses(part: Whole, _: Where) -> Iterator[Fault]:
    """Find such addresses where they can't work, and link-local addresses without their interface."""
    for path, address in _forwarded(part):
        if reason := unforwarded(address):
            yield Fault(path, f"{address} is {reason}; allowed: {_ANOTHER}")
    for backend in part.pool.backends:
        yield from _backend(part, backend)
    for index, health in enumerate(part.pool.health):
        for address in health.source if health.device is None else ():
            if is_link_local(address):
                yield _lacks_interface((*part.path, "health", index, "source"), address, _BESIDE)


def _forwarded(part: Whole) -> Iterator[tuple[Path, IPAddress]]:
    """Give the addresses that packets have on their way in every mode, but for those of backends."""
    for path, listener in part.listeners:
        yield path, listener.address
    for address in part.pool.source_addresses:
        yield (*part.path, "source"), address
    for one in part.pool.fallback.sorry:
        yield (*part.path, "fallback"), one.address


def _backend(part: Whole, backend: Backend) -> Iterator[Fault]:
    path = (*part.path, "backends", backend.name)
    reason = unforwarded(backend.address)
    if reason and not (part.pool.forward is Forward.DSR and is_link_local(backend.address)):
        or_dsr = ", or forward: dsr" if is_link_local(backend.address) else ""
        yield Fault(path, f"{backend.address} is {reason}; allowed: {_ANOTHER}{or_dsr}")
    elif reason and backend.device is None:
        allowed = f"{backend.address}%INTERFACE, or {_BESIDE}"
        yield _lacks_interface(path, backend.address, allowed)
    if backend.via is None:
        return
    if backend.via.is_loopback:
        yield Fault((*path, "via"), f"{backend.via} is {unforwarded(backend.via)}; allowed: the address of a router")
    elif is_link_local(backend.via) and backend.device is None:
        yield _lacks_interface((*path, "via"), backend.via, _BESIDE)


def _lacks_interface(path: Path, address: IPAddress, allowed: str) -> Fault:
    return Fault(path, f"{address} is a link-local address, which needs its interface; allowed: {allowed}")
