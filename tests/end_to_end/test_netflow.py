"""softflowd exports flows through the balancer to two nfcapd, which decode all of them."""

from __future__ import annotations

from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from flow_export import IPFIX, V9, Nfcapd, export, template_flows
from packet_tap import Tap
from servers.processes import await_that

from nftlb.kernel import LibNftables
from nftlb.lab import VIP4, VIP6, Lab
from nftlb.model import (
    Backend,
    Config,
    Fallback,
    FallbackKind,
    Forward,
    Listener,
    Membership,
    Pool,
    Protocol,
    Templates,
)
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from typing import Self

PORT, BACKEND_PORT = 2055, 9995
FIRST = range(1000, 3000)
SECOND = range(3000, 4000)
THIRD = range(4000, 6000)


class Export:
    """The lab: the client exports to the service, nfcapd runs on b1 and b2."""

    def __init__(self, family: int, version: int, *, templates: bool = True) -> None:
        self.family, self.version = family, version
        self.templates = Templates.ALL if templates else None
        self._in_rotation = 2
        self._due = 0
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        self.lab = self._stack.enter_context(Lab(backends=2))
        self.collectors = {
            host.name: self._stack.enter_context(Nfcapd(host, host.address(self.family), BACKEND_PORT))
            for host in self.lab.backends
        }
        self.tap = self._stack.enter_context(Tap(self.lab.client))
        kernel = self.lab.balancer.call(LibNftables)
        self._stack.callback(kernel.close)
        self._applier = self.lab.balancer.call(Applier, kernel, "nftlb")
        self.lab.balancer.call(self._applier.load, Config(pools=(self.pool(),)), Membership())
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def pool(self) -> Pool:
        backends = tuple(
            Backend(name=host.name, address=ip_address(host.address(self.family)), port=BACKEND_PORT)
            for host in self.lab.backends
        )
        vip = ip_address({4: VIP4, 6: VIP6}[self.family])
        return Pool(
            name="netflow",
            listen=(Listener(vip, PORT, PORT, Protocol.UDP),),
            forward=Forward.STATELESS,
            templates=self.templates,
            fallback=Fallback(FallbackKind.DROP),
            backends=backends,
        )

    def update(self, *down: str) -> None:
        """Take backends out of rotation, as the daemon does."""
        self._in_rotation = len(self.collectors) - len(down)
        membership = Membership.with_down(("netflow", name) for name in down)
        self.lab.balancer.call(self._applier.update, membership)

    def export(self, ports: range) -> tuple[int, int]:
        """Export these flows, and wait until the collectors have decoded what they got.

        Return the datagrams with templates, and the flows in these datagrams.
        """
        target = f"{VIP4}:{PORT}" if self.family == 4 else f"[{VIP6}]:{PORT}"
        self.tap.packets()
        export(self.lab.client, target, self.version, ports)
        sent = [packet for packet in self.tap.datagrams() if packet.outgoing and packet.destination[1] == PORT]
        assert 1 == len({packet.source for packet in sent})  # ONE socket
        begins, flows = template_flows(packet.payload for packet in sent)
        self._due += len(sent) + (begins * (self._in_rotation - 1) if self.templates else 0)
        await_that(self._all_are_decoded, f"{self._due} datagrams at the collectors")
        return begins, flows

    def _all_are_decoded(self) -> bool:
        collectors = self.collectors.values()
        return self._due == sum(one.received() for one in collectors) and all(one.waits() for one in collectors)

    def decoded(self) -> dict[str, list[int]]:
        """End the collectors; return the flows that each has decoded, by their source ports."""
        for collector in self.collectors.values():
            collector.stop()  # nfcapd reads no more datagrams after the signal
        return {name: collector.flows() for name, collector in self.collectors.items()}


@pytest.mark.parametrize("version", [V9, IPFIX], ids=["v9", "ipfix"])
@pytest.mark.parametrize("family", [4, 6])
def test_both_collectors_decode_one_exporter(family: int, version: int) -> None:
    """Together, the collectors have every flow. Only flows behind templates in the same datagram are in both."""
    with Export(family, version) as lab:
        templates, twice = lab.export(FIRST)
        found = lab.decoded()
    print(f"{templates} datagrams with templates, {twice} flows in them, { ({n: len(f) for n, f in found.items()}) }")  # noqa: T201
    assert templates > 1
    assert set(FIRST) == {*found["b1"], *found["b2"]}
    assert len(FIRST) + twice == len(found["b1"]) + len(found["b2"])
    for flows in found.values():
        assert len(flows) == len(set(flows))
        assert len(flows) > len(FIRST) // 3


@pytest.mark.parametrize("version", [V9, IPFIX], ids=["v9", "ipfix"])
def test_a_collector_is_killed_and_returns(version: int) -> None:
    """The other collector gets all flows meanwhile; after the return, both decode again."""
    with Export(4, version) as lab:
        lab.collectors["b1"].kill()
        lab.update("b1")
        lab.export(SECOND)
        lab.collectors["b1"].start()
        lab.update()
        _, twice = lab.export(THIRD)
        found = lab.decoded()
    assert set(SECOND) == {port for port in found["b2"] if port in SECOND}
    assert [] == [port for port in found["b1"] if port in SECOND]
    third = {name: [port for port in flows if port in THIRD] for name, flows in found.items()}
    assert set(THIRD) == {*third["b1"], *third["b2"]}
    assert len(THIRD) + twice == len(third["b1"]) + len(third["b2"])


def test_without_the_key_flows_are_lost() -> None:
    """If templates take turns like data, a collector can't decode some flows."""
    with Export(4, V9, templates=False) as lab:
        lab.export(FIRST)
        found = lab.decoded()
    assert len(set(FIRST) - {*found["b1"], *found["b2"]}) > 0
