"""A lab with a pool in it: one mode of forwarding, loaded as the product loads it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from ipaddress import ip_address
from typing import TYPE_CHECKING, Self

from nftlb.apply import Applier
from nftlb.compiler import Membership
from nftlb.kernel import LibNftables
from nftlb.lab import VIP4, VIP6, Lab
from nftlb.model import Backend, Config, Forward, Listener, Pool, Protocol

if TYPE_CHECKING:
    from collections.abc import Sequence

    from nftlb.lab import Servers

PORT = 53
BACKEND_PORT = 5353


@dataclass(frozen=True)
class Mode:
    """A way of forwarding, with or without the fast path."""

    forward: Forward
    ingress: bool = False

    def __str__(self) -> str:
        return f"{self.forward}{'+ingress' if self.ingress else ''}"

    @property
    def dsr(self) -> bool:
        return self.forward is Forward.DSR

    @property
    def port(self) -> int:
        """Where the backends listen: `dsr` leaves the port as it is."""
        return PORT if self.dsr else BACKEND_PORT


NAT = Mode(Forward.NAT)
STATELESS = Mode(Forward.STATELESS)
STATELESS_INGRESS = Mode(Forward.STATELESS, ingress=True)
DSR = Mode(Forward.DSR)
DSR_INGRESS = Mode(Forward.DSR, ingress=True)
MODES = (NAT, STATELESS, STATELESS_INGRESS, DSR, DSR_INGRESS)


def vip(version: int) -> str:
    return {4: VIP4, 6: VIP6}[version]


def down(*names: str) -> Membership:
    """Everyone up but these backends of the pool `dns`, in both families."""
    return Membership.with_down(("dns", name + suffix) for name in names for suffix in ("", "-6"))


class World:
    """A context manager: the lab's hosts, UDP servers on the backends, and the pool `dns` at both VIPs' port 53."""

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
        self.load(self.pool())
        return self

    def __exit__(self, *exception: object) -> None:
        self.kernel.close()
        if self._serve:
            self.servers.__exit__(*exception)
        self.lab.__exit__(*exception)

    def pool(self, port: int = 0) -> Pool:
        """The pool; `port` is where its backends listen, 0 for the mode's own."""
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
        return Pool(name="dns", listen=listen, forward=self.mode.forward, ingress=interface, backends=tuple(backends))

    def load(self, *pools: Pool, membership: Membership | None = None) -> None:
        """Bring pools into the balancer's kernel, as `nftlb apply` does."""
        config = Config(pools=pools)
        self.lab.balancer.call(self.applier.load, config, membership or Membership())

    def update(self, membership: Membership) -> None:
        """Tell the balancer who is up, as the daemon does."""
        self.lab.balancer.call(self.applier.update, membership)

    def senders(self) -> dict[str, int]:
        """Datagrams that arrived, by the host that sent them."""
        return dict(Counter(one.sender for one in self.servers.received))
