"""A lab with a pool in one mode of forwarding, loaded in the same way as by the product."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from nftlb.kernel import LibNftables
from nftlb.lab import VIP4, VIP6, Lab
from nftlb.model import Backend, Config, Forward, Listener, Membership, Pool, Protocol, Replies
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from nftlb.lab import Servers
    from nftlb.model import BackendState, Guard

PORT = 53
BACKEND_PORT = 5353


@dataclass(frozen=True)
class Mode:
    """A way of forwarding, with or without the fast path."""

    forward: Forward
    ingress: bool = False
    early: bool = False
    """Replies are rewritten in prerouting."""

    def __str__(self) -> str:
        return f"{self.forward}{'+ingress' if self.ingress else ''}{'+prerouting' if self.early else ''}"

    @property
    def dsr(self) -> bool:
        return self.forward is Forward.DSR

    @property
    def port(self) -> int:
        """The port at which the backends listen. `dsr` does not change the port."""
        return PORT if self.dsr else BACKEND_PORT


NAT = Mode(Forward.NAT)
STATELESS = Mode(Forward.STATELESS)
STATELESS_INGRESS = Mode(Forward.STATELESS, ingress=True)
STATELESS_EARLY = Mode(Forward.STATELESS, early=True)
DSR = Mode(Forward.DSR)
DSR_INGRESS = Mode(Forward.DSR, ingress=True)
MODES = (NAT, STATELESS, STATELESS_INGRESS, STATELESS_EARLY, DSR, DSR_INGRESS)


FORMS = {
    "a few addresses": ((0, (54, 55, 56, 57)),),
    "many addresses": tuple((number, (53,)) for number in range(1, 6)),
    "many addresses, a few ports": ((0, (54,)), *((number, (53,)) for number in range(1, 6))),
    "many addresses, many ports": ((0, (54, 55, 56, 57)), *((number, (53,)) for number in range(1, 6))),
}
"""Services beside `dns` with which the rules find `dns` in another form, as the distance of the address from the VIPs,
and the ports. No client sends to these services."""


def vip(version: int) -> str:
    return {4: VIP4, 6: VIP6}[version]


def down(*names: str, pools: Iterable[str] = ("dns",)) -> Membership:
    """All backends are up except these of the pools, in both families."""
    return Membership.with_down((pool, name + suffix) for pool in pools for name in names for suffix in ("", "-6"))


def of(states: Mapping[str, BackendState]) -> Membership:
    """These states of backends of the pool `dns`, in both families."""
    return Membership(
        {"dns": frozenset((name + suffix, state) for name, state in states.items() for suffix in ("", "-6"))}
    )


class PoolLab:
    """A context manager: the lab's hosts, UDP servers on the backends, and the pool `dns` at port 53 of both VIPs."""

    def __init__(
        self,
        mode: Mode,
        *,
        backends: int = 3,
        clients: int = 1,
        offload: bool = True,
        weights: Sequence[int] = (1, 1, 1),
        mtu: dict[str, int] | None = None,
        serve: bool = True,
        zero_checksum: bool = False,
    ) -> None:
        self.mode = mode
        self.weights = weights
        self.lab = Lab(backends=backends, clients=clients, offload=offload, dsr=mode.dsr, mtu=mtu)
        self.servers: Servers
        self._serve = serve
        self._zero_checksum = zero_checksum

    def __enter__(self) -> Self:
        self.lab.__enter__()
        if self._serve:
            self.servers = self.lab.serve(self.mode.port, zero_checksum=self._zero_checksum)
            self.servers.__enter__()
        self.kernel = self.lab.balancer.call(LibNftables)
        self.applier = self.lab.balancer.call(Applier, self.kernel, "nftlb")
        for host in self.lab.backends if self.mode.early else ():
            self.lab.balancer.sysctl(f"net.ipv4.conf.{host.name}.accept_local", 1)
        self.load(self.pool())
        return self

    def __exit__(self, *exception: object) -> None:
        self.kernel.close()
        if self._serve:
            self.servers.__exit__(*exception)
        self.lab.__exit__(*exception)

    def pool(self, port: int = 0) -> Pool:
        """The pool; `port` is the port of its backends, 0 for the mode's own port."""
        backends = []
        for number, host in enumerate(self.lab.backends):
            device = ("eth0" if self.mode.dsr else host.name) if self.mode.ingress else None
            for suffix, address in (("", host.ipv4), ("-6", host.ipv6)):
                backends.append(
                    Backend(
                        name=host.name + suffix,
                        address=ip_address(address),
                        port=None if self.mode.dsr else port or BACKEND_PORT,
                        weight=self.weights[number],
                        device=device,
                    )
                )
        listen = tuple(Listener(ip_address(address), PORT, PORT, Protocol.UDP) for address in (VIP4, VIP6))
        interface = ("eth0" if self.mode.dsr else "client1",) if self.mode.ingress else ()
        replies = Replies.PREROUTING if self.mode.early else Replies.POSTROUTING
        return Pool(
            name="dns",
            listen=listen,
            forward=self.mode.forward,
            ingress=interface,
            replies=replies,
            backends=tuple(backends),
        )

    def load_with(self, services: Iterable[tuple[int, Iterable[int]]], *, guard: Guard | None = None) -> None:
        """Load the pool, perhaps with a guard, and a pool for each of these other services (see `FORMS`)."""
        dns = self.pool()
        others = (
            replace(
                self.pool(2000 + 100 * distance + port),
                name=f"more{distance}-{port}",
                listen=tuple(
                    replace(one, address=one.address + distance, first_port=port, last_port=port) for one in dns.listen
                ),
            )
            for distance, ports in services
            for port in ports
        )
        self.load(replace(dns, guard=guard), *others)

    def load(self, *pools: Pool, membership: Membership | None = None) -> None:
        """Load pools into the balancer's kernel, as `nftlb apply` does."""
        config = Config(pools=pools)
        applied = self.lab.balancer.call(self.applier.load, config, membership or Membership())
        assert () == applied.slower

    def update(self, membership: Membership) -> None:
        """Load a membership into the balancer's kernel, as the daemon does."""
        self.lab.balancer.call(self.applier.update, membership)

    def senders(self) -> dict[str, int]:
        """The number of datagrams that arrived, by sending host."""
        return dict(Counter(datagram.sender for datagram in self.servers.received))


TRAP = f"""
table inet trap {{
    chain prerouting {{
        type filter hook prerouting priority -450
        ip daddr {vip(4)} udp dport {PORT} drop
        ip6 daddr {vip(6)} udp dport {PORT} drop
    }}
}}
"""


def close_slow_path(pool_lab: PoolLab) -> None:
    """Drop the packets that pass by the rules on the ingress hook, if the mode has such rules."""
    if pool_lab.mode.ingress:
        pool_lab.lab.nft(TRAP)
