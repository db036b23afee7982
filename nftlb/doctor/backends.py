"""Whether packets get to the backends. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.kernel.rtnetlink import LOCAL, UNICAST
from nftlb.model import Forward

from .finding import Finding, error, ok, sysctls

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.kernel.rtnetlink import IPAddress
    from nftlb.model import Backend, Config, Pool

    from .host import Host


def judge(config: Config, host: Host) -> Iterator[Finding]:
    """Look at the way to every backend; one finding for all that are well."""
    well = 0
    for pool in config.pools:
        for backend in pool.backends:
            finding = _judge_backend(pool, backend, host)
            if finding:
                yield finding
            else:
                well += 1
    if well:
        yield ok("backends", f"there is a way to {well} of {sum(len(pool.backends) for pool in config.pools)}")


def destinations(config: Config) -> Iterator[IPAddress]:
    """The addresses whose routes are of interest: listeners, backends, and the routers that lead to backends."""
    for pool in config.pools:
        yield from (listener.address for listener in pool.listen)
        yield from (backend.address for backend in pool.backends)
        yield from (backend.via for backend in pool.backends if backend.via is not None)


def _judge_backend(pool: Pool, backend: Backend, host: Host) -> Finding | None:
    subject = f"backend {pool.name}/{backend.name}"
    if backend.device and host.interface(backend.device) is None:
        return error(subject, f"there is no interface called {backend.device}", "ip link show")
    goal = backend.via or backend.address if pool.forward is Forward.DSR else backend.address
    route = host.routes.get(goal)
    if route is None:
        return error(subject, f"there is no route to {goal}", f"ip route add {goal} via ROUTER")
    device = host.device(route)
    if route.kind == LOCAL:
        return _judge_local(subject, pool, goal, host)
    if route.kind != UNICAST or (device is not None and device.name == "lo"):
        return error(subject, f"{goal} can't be sent to: {_kind(route.kind)}", f"ip route get {goal}")
    if pool.forward is Forward.DSR and route.gateway is not None and not backend.device:
        return error(
            subject,
            f"`forward: dsr` needs it on a network of this host, but {goal} is behind the router {route.gateway}",
            f"use `forward: nat`, or give it `via: {route.gateway}` if that router knows that the listeners' addresses "
            "are to be sent there",
        )
    return None


def _judge_local(subject: str, pool: Pool, address: IPAddress, host: Host) -> Finding | None:
    if pool.forward is Forward.DSR:
        return error(subject, f"{address} is this host's own: packets would come back for ever", "use `forward: nat`")
    if not address.is_loopback:
        return None
    if address.version == 6:  # noqa: PLR2004 - the version's name is its number
        return error(subject, "the kernel takes no packets for ::1 from outside", "use an address of an interface")
    if host.per_interface(4, "route_localnet", "all"):
        return None
    closed = [
        one.name
        for one in host.interfaces
        if one.up and one.name != "lo" and not host.per_interface(4, "route_localnet", one.name)
    ]
    if not closed:
        return None
    return error(
        subject,
        f"the kernel takes no packets for {address} from {', '.join(closed)}; allowing it opens services on loopback",
        sysctls({f"net/ipv4/conf/{name}/route_localnet": 1 for name in closed}),
    )


def _kind(kind: int) -> str:
    # include/uapi/linux/rtnetlink.h, RTN_*
    return {3: "a broadcast address", 4: "an anycast address", 5: "a multicast address"}.get(
        kind, "its route ends here"
    )
