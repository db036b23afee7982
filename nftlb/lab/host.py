"""A host of the lab: a namespace with addresses, from which one can talk UDP and TCP."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.lab.client import Client
from nftlb.lab.flows import Flow
from nftlb.lab.namespace import Namespace
from nftlb.lab.sctp import SctpFlow
from nftlb.lab.tap import Tap

if TYPE_CHECKING:
    from nftlb.lab.plan import HostPlan


class Host(Namespace):
    """A client, a backend or the balancer. `ipv4` and `ipv6` are its own addresses (of a routed balancer: the VIPs)."""

    def __init__(self, plan: HostPlan) -> None:
        super().__init__(plan.name)
        self.plan = plan
        self.ipv4 = plan.ipv4
        self.ipv6 = plan.ipv6

    def address(self, version: int) -> str:
        """Return the address of IP version 4 or 6."""
        return {4: self.ipv4, 6: self.ipv6}[version]

    def connect(
        self,
        target: tuple[str, int],
        *,
        connected: bool = True,
        source_port: int = 0,
        source_address: str = "",
        zero_checksum: bool = False,
        dont_fragment: bool = False,
        error_queue: bool = False,
    ) -> Client:
        """Open ONE UDP socket on this host that talks to `target` (see `Client`).

        A connected socket sees only replies from `target`, and ICMP errors as OSError. With `connected=False` it also
        sees replies from anywhere else, and errors only with `error_queue` (IP_RECVERR). `zero_checksum` sends UDP
        without a checksum and, over IPv6, accepts such. `dont_fragment` sets DF and refuses what the known path can't
        take.
        """
        return Client(
            self,
            target,
            connected=connected,
            source=(source_address, source_port),
            zero_checksum=zero_checksum,
            dont_fragment=dont_fragment,
            error_queue=error_queue,
        )

    def dial(self, target: tuple[str, int], *, source_port: int = 0) -> Flow:
        """Open a TCP connection to one of `Lab.serve_tcp` and learn which backend took it."""
        return Flow(self, target, source_port)

    def associate(self, target: tuple[str, int], *, source_port: int) -> SctpFlow:
        """Begin an SCTP association with one of `Lab.serve_sctp` and learn which backend took it."""
        return SctpFlow(self, target, source_port=source_port)

    def tap(self, interface: str = "eth0") -> Tap:
        """Watch the packets of an interface, both directions, until the tap is closed."""
        return Tap(self, interface)
