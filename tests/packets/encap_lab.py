"""A lab with backends behind routers, which get their datagrams through tunnels (`encap` of `dsr`).

The kernel of a test machine may have no tunnels, so `tunnel_stand_in` takes their place: see there what is real.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from ipaddress import ip_address
from itertools import cycle
from threading import Event
from typing import TYPE_CHECKING, Self

from pool_lab import DSR_INGRESS, PORT, PoolLab
from tunnel_stand_in import Openers, StandInTunnels

from nftlb.kernel import LibNftables
from nftlb.kernel.policy_routing import PolicyRouting
from nftlb.lab import VIP4, VIP6, Lab
from nftlb.lab.servers import SocketLoop
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from nftlb.lab import Host
    from nftlb.model import Encap, Membership, Pool

EVERYONE = ["b1", "b2", "b3"]


class EncapLab(PoolLab):
    """The routed lab, in which backends have addresses behind their router, and the address of the service.

    The balancer has no address of the service, since replies pass it as they pass any router.
    """

    def __init__(self, encap: Encap, *, weights: Sequence[int] = (1, 1, 1)) -> None:
        super().__init__(DSR_INGRESS, weights=weights)
        self.lab = Lab(backends=len(weights), clients=2)
        self.encap = encap
        self.openers: Openers
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.lab.__enter__()
        balancer = self.lab.balancer
        own = [f"address delete {address} dev lo" for address in (f"{VIP4}/32", f"{VIP6}/128")]
        for number, host in enumerate(self.lab.backends, 1):
            own += [
                f"route add {there} via {near}"
                for there, near in zip(beyond(number), (host.ipv4, host.ipv6), strict=True)
            ]
            batch(host, [f"address add {address} dev lo" for address in (VIP4, VIP6, *beyond(number))])
        batch(balancer, own)
        self.servers = self._stack.enter_context(self.lab.serve(PORT))
        self.openers = self._stack.enter_context(Openers(self.lab.backends, self.encap))
        self.loop = self._stack.enter_context(SocketLoop("tunnels"))
        self.tunnels = StandInTunnels(balancer, self.loop, self._stack)
        self.kernel = balancer.call(LibNftables)
        self._stack.callback(self.kernel.close)
        self.applier = balancer.call(Applier, self.kernel, routing=PolicyRouting(self.tunnels))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        self.lab.__exit__(*exception)

    def pool(self, port: int = 0) -> Pool:
        pool = super().pool(port)
        backends = (
            replace(one, address=ip_address(beyond(int(one.name[1]))[one.name.endswith("-6")]), device=None)
            for one in pool.backends
        )
        return replace(pool, encap=self.encap, ingress=("client1",), backends=tuple(backends))

    def devices(self) -> str:
        """All that a load may leave behind: interfaces, rules and routes."""
        commands = ["link show", *(f"-{version} {what} show" for version in (4, 6) for what in ("rule", "route"))]
        shown = [self.lab.balancer.run(["ip", "-oneline", *command.split()]) for command in commands]
        return "".join(shown).replace("\\", "\n")


def beyond(number: int) -> tuple[str, str]:
    """The addresses of a backend, to which only routes lead."""
    return f"172.20.{number}.1", f"fd00:beef::{number}"


def batch(host: Host, commands: list[str]) -> None:
    host.run(["ip", "-batch", "-"], input="".join(f"{command}\n" for command in commands))


@contextmanager
def swapping(pool_lab: PoolLab, memberships: Sequence[Membership]) -> Iterator[list[Membership]]:
    """Change from membership to membership while the block runs, and until each had its turn.

    The value of the block has the memberships so far.
    """
    ended = Event()
    done: list[Membership] = []

    def swap() -> None:
        for membership in cycle(memberships):
            pool_lab.update(membership)
            done.append(membership)
            if ended.is_set() and len(done) > len(memberships):
                return

    with ThreadPoolExecutor(1) as thread:
        swaps = thread.submit(swap)
        try:
            yield done
        finally:
            ended.set()
        swaps.result()
