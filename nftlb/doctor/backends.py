"""Whether packets get to the backends. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.kernel.rtnetlink import LOCAL, UNICAST
from nftlb.model import Forward
from nftlb.model.kinds import is_link_local
from nftlb.requirements import has_source, sources

from .finding import Finding, error, ok

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.kernel.interfaces import Interface
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
    """The addresses whose routes are of interest: listeners, sources, backends, and the routers that lead to them."""
    for pool in config.pools:
        yield from (listener.address for listener in pool.listen)
        yield from sources(pool)
        yield from (backend.address for backend in pool.backends)
        yield from (backend.via for backend in pool.backends if backend.via is not None)


def _judge_backend(pool: Pool, backend: Backend, host: Host) -> Finding | None:
    subject = f"backend {pool.name}/{backend.name}"
    if finding := _judge_device(subject, backend, host):
        return finding
    goal = backend.via or backend.address if pool.forward is Forward.DSR else backend.address
    if is_link_local(goal):
        return None  # on the link of `device`, whatever the routing table says
    return _judge_way(subject, pool, backend, goal, host)


def _judge_device(subject: str, backend: Backend, host: Host) -> Finding | None:
    if not backend.device:
        return None
    interface = host.interface(backend.device)
    if interface is None:
        return error(subject, f"there is no interface called {backend.device}", "ip link show")
    if not interface.up:
        return error(subject, f"its interface {backend.device} is down", f"ip link set {backend.device} up")
    return None


def _judge_way(subject: str, pool: Pool, backend: Backend, goal: IPAddress, host: Host) -> Finding | None:
    route = host.routes.get(goal)
    if route is None:
        return error(subject, f"there is no route to {goal}", f"ip route add {goal} via ROUTER")
    device = host.device(route)
    if route.kind == LOCAL:
        if pool.forward is not Forward.DSR:
            return None
        return error(subject, f"{goal} is this host's own: packets would come back for ever", "use `forward: nat`")
    if route.kind != UNICAST or (device is not None and device.name == "lo"):
        return error(subject, f"{goal} can't be sent to: {_kind(route.kind)}", f"ip route get {goal}")
    if pool.forward is Forward.DSR and route.gateway is not None and not backend.device:
        return error(
            subject,
            f"`forward: dsr` needs it on a network of this host, but {goal} is behind the router {route.gateway}",
            f"use `forward: nat`, or give it `via: {route.gateway}` if that router knows that the listeners' addresses "
            "are to be sent there",
        )
    return None if has_source(pool, backend, route) else _judge_source(subject, goal, device)


def _judge_source(subject: str, goal: IPAddress, device: Interface | None) -> Finding:
    message = f"no address of this host can be the source towards {goal}, as masquerade needs"
    return error(subject, message, f"ip address add ADDRESS dev {device.name if device else 'INTERFACE'}")


def _kind(kind: int) -> str:
    # include/uapi/linux/rtnetlink.h, RTN_*
    return {3: "a broadcast address", 4: "an anycast address", 5: "a multicast address"}.get(
        kind, "its route ends here"
    )
