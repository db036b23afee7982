"""Whether interfaces suit: those of the fast path and of checks; and what all do to datagrams on arrival. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Forward

from .finding import Finding, error, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.kernel.interfaces import Interface
    from nftlb.model import Backend, Config, Pool

    from .host import Host


def judge(config: Config, host: Host) -> Iterator[Finding]:
    """Look at each pool's `ingress` and the devices of its checks, then at offloads."""
    for pool in config.pools:
        uses = [(name, "`ingress`") for name in pool.ingress]
        uses += [(health.device, "`device` under health") for health in pool.health if health.device]
        for name, use in dict.fromkeys(uses):
            yield from _judge_interface(name, f"{use} of pool {pool.name}", host)
        entrances = [found for found in map(host.interface, pool.ingress) if found]
        if entrances:
            yield from _judge_fast_path(pool, entrances, host)
    for name, offloads in host.batching.items():
        yield warning(
            f"interface {name}",
            f"joins datagrams of a client on arrival ({', '.join(offloads)}): they go to a backend by the batch",
            f"ethtool -K {name} {' '.join(f'{offload} off' for offload in offloads)}",
        )


def _judge_interface(name: str, use: str, host: Host) -> Iterator[Finding]:
    interface = host.interface(name)
    if interface is None:
        yield error(f"interface {name}", f"{use}: there is none", "ip link show")
    elif not interface.up:
        yield warning(f"interface {name}", f"{use}: it is down", f"ip link set {name} up")


def _judge_fast_path(pool: Pool, entrances: list[Interface], host: Host) -> Iterator[Finding]:
    exits: dict[str, Interface] = {}
    for backend in pool.backends:
        device = _exit(pool, backend, host)
        if device is None:
            yield warning(
                f"pool {pool.name}",
                f"is not on the fast path, since the way to {backend.name} is not known: packets take the ordinary one",
                f"give backend {backend.name} a `device` and, if a router leads there, a `via`",
            )
            return
        exits[device.name] = device
    narrow = {(entrance, device) for entrance in entrances for device in exits.values() if device.mtu < entrance.mtu}
    for entrance, device in sorted(narrow, key=lambda pair: (pair[0].name, pair[1].name)):
        yield warning(
            f"interface {device.name}",
            f"has an MTU of {device.mtu}, {entrance.name} one of {entrance.mtu}: on the fast path of pool {pool.name}, "
            "packets between the two sizes are lost, and nobody is told",
            f"ip link set {device.name} mtu {entrance.mtu}",
        )
    if not narrow:
        names = ", ".join(entrance.name for entrance in entrances)
        yield ok(f"pool {pool.name}", f"can take the fast path from {names} to {', '.join(sorted(exits))}")


def _exit(pool: Pool, backend: Backend, host: Host) -> Interface | None:
    """The interface that leads to a backend, as far as it is known."""
    if backend.device:
        return host.interface(backend.device)
    goal = backend.via or backend.address
    route = host.routes.get(goal)
    if route is None or (route.gateway and pool.forward is Forward.DSR and not backend.via):
        return None
    device = host.device(route)
    return None if device is None or device.name == "lo" else device
