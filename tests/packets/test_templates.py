"""`templates: all`: template sets reach every backend, data records take turns. ONE client socket sends everything."""

from __future__ import annotations

import struct
import threading
from typing import TYPE_CHECKING

import pytest
from flow_datagrams import (
    BACKENDS,
    DATA,
    IPFIX,
    OPTIONS,
    TEMPLATE,
    V9,
    Exporter,
    arrived,
    exporting,
    flow_datagram,
)
from hop_limits import send_all_errors, time_exceeded
from lab_parameters import with_and_without_offload
from packet_tap import Tap
from pool_lab import DSR, DSR_INGRESS, NAT, STATELESS, STATELESS_INGRESS, PoolLab, down

from nftlb.model import Membership

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool_lab import Mode

MODES = (NAT, STATELESS, STATELESS_INGRESS, DSR, DSR_INGRESS)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_templates_reach_every_backend(mode: Mode, version: int) -> None:
    """Every backend in rotation gets each template once, from the exporter's address; data take strict turns."""
    with PoolLab(mode, zero_checksum=True) as lab, Exporter(lab, version) as exporter:
        lab.load(exporting(lab, mode))
        number = 0
        for backends, states in ((BACKENDS, Membership()), (("b1", "b3"), down("b2")), (BACKENDS, Membership())):
            lab.update(states)
            for flow_version in (V9, IPFIX):
                templates: list[int] = []
                data: list[int] = []
                for kind, size in ((TEMPLATE, 64), (DATA, 64), (OPTIONS, 64), (TEMPLATE, 3000), *[(DATA, 64)] * 5):
                    exporter.send(flow_datagram(flow_version, kind, number, size))
                    (data if kind == DATA else templates).append(number)
                    number += 1
                sources = {record.source for record in lab.servers.settle()}
                found = arrived(lab)
                for name in BACKENDS:
                    assert (templates if name in backends else []) == [one for one in found[name] if one in templates]
                taken = sorted(one for name in BACKENDS for one in found[name] if one in data)
                assert data == taken
                assert {len(data) // len(backends)} == {sum(one in data for one in found[name]) for name in backends}
                assert {exporter.source} == sources


@pytest.mark.parametrize("version", [4, 6])
@with_and_without_offload
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_copies_of_templates_are_counted_separately(mode: Mode, offload: bool, version: int) -> None:
    """Counts of packets add up to the datagrams of the client; with its copies, a backend has all that it got."""
    kinds = (TEMPLATE, DATA, DATA, TEMPLATE, OPTIONS, DATA, DATA)
    with PoolLab(mode, offload=offload) as lab, Exporter(lab, version) as exporter:
        lab.load(exporting(lab, mode))
        for number, kind in enumerate(kinds):
            exporter.send(flow_datagram(V9, kind, number))
        got = {name: len(numbers) for name, numbers in arrived(lab).items()}
        counts = lab.lab.balancer.call(lab.applier.counters)
    names = {name: name if version == 4 else f"{name}-6" for name in BACKENDS}
    packets = {name: counts[f"dns/{backend}"].packets for name, backend in names.items()}
    copies = {name: counts[f"template/dns/{backend}"].packets for name, backend in names.items()}
    assert len(kinds) == sum(packets.values())
    assert 3 * (len(BACKENDS) - 1) == sum(copies.values())
    assert got == {name: packets[name] + copies[name] for name in BACKENDS}


@pytest.mark.parametrize("version", [4, 6])
@with_and_without_offload
def test_templates_without_a_checksum(version: int, offload: bool) -> None:
    """Templates with a UDP checksum of zero reach every backend."""
    with PoolLab(STATELESS, zero_checksum=True, offload=offload) as lab:
        lab.load(exporting(lab, STATELESS))
        with Exporter(lab, version, zero_checksum=True) as exporter:
            exporter.send(flow_datagram(V9, TEMPLATE, 1))
            exporter.send(flow_datagram(V9, TEMPLATE, 2, 3000))
        assert {name: [1, 2] for name in BACKENDS} == arrived(lab)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("mode", [NAT, STATELESS, STATELESS_INGRESS, DSR, DSR_INGRESS], ids=str)
def test_templates_end_with_their_ttl(mode: Mode, version: int) -> None:
    """A template with a TTL of 1 is not copied, so no template circles between balancers that are backends.

    The exporter gets one error for each of these templates.
    """
    with PoolLab(mode) as lab, Exporter(lab, version) as exporter, Tap(lab.lab.client) as tap:
        send_all_errors(lab.lab.balancer)
        lab.load(exporting(lab, mode))
        for number, ttl in enumerate((2, 1, 1, 2)):
            exporter.set_ttl(ttl)
            exporter.send(flow_datagram(V9, TEMPLATE, number))
        assert {name: [0, 3] for name in BACKENDS} == arrived(lab)
        assert 2 == len(time_exceeded(tap))


def other_datagrams() -> Iterator[bytes]:
    """Datagrams that are no templates: NetFlow v5, sFlow, a set of data, short and empty datagrams."""
    yield struct.pack("!HH", 5, 1) + bytes(20) + bytes(48)
    yield struct.pack("!II", 5, 1) + bytes(60)
    yield flow_datagram(V9, DATA, 0)
    yield flow_datagram(IPFIX, DATA, 0)
    yield struct.pack("!H", 9)
    yield b""


def test_other_datagrams_take_turns() -> None:
    """Datagrams without templates take strict turns, whatever their length and content."""
    with PoolLab(STATELESS) as lab, Exporter(lab, 4) as exporter:
        lab.load(exporting(lab, STATELESS))
        for payload in other_datagrams():
            exporter.send(payload)
        assert {"b1": 2, "b2": 2, "b3": 2} == (lab.servers.settle(), lab.servers.counts)[1]


BATCH = 50
"""Datagrams that are sent before all of them must have arrived, so that no buffer is ever full."""


def swap_until(lab: PoolLab, ended: threading.Event, swaps: list[Membership]) -> None:
    """Take b2 out and in until the end, and record the swaps."""
    while not ended.is_set():
        state = Membership() if len(swaps) % 2 else down("b2")
        lab.applier.update(state)
        swaps.append(state)


@pytest.mark.parametrize(("mode", "version"), [(NAT, 4), (STATELESS, 6), (STATELESS_INGRESS, 4), (DSR, 4)], ids=str)
def test_templates_during_swaps(mode: Mode, version: int) -> None:
    """While b2 comes and goes, b1 and b3 get every template exactly once, and data are neither lost nor doubled."""
    ended = threading.Event()
    swaps: list[Membership] = []
    count = 0
    with PoolLab(mode) as lab, Exporter(lab, version) as exporter:
        lab.load(exporting(lab, mode))
        thread = threading.Thread(target=lambda: lab.lab.balancer.call(swap_until, lab, ended, swaps), name="swaps")
        thread.start()
        try:
            while thread.is_alive() and (count < 30 * BATCH or len(swaps) < 30):
                for number in range(count, count + BATCH):
                    exporter.send(flow_datagram(V9, TEMPLATE if number % 3 == 0 else DATA, number))
                count += BATCH
                lab.servers.settle()
        finally:
            ended.set()
            thread.join()
        found = arrived(lab)
    print(f"{mode} IPv{version}: {count} datagrams, {len(swaps)} swaps")  # noqa: T201
    assert len(swaps) >= 30
    for name in ("b1", "b3"):
        assert list(range(0, count, 3)) == [number for number in found[name] if number % 3 == 0]
    data = sorted(number for name in BACKENDS for number in found[name] if number % 3)
    assert [number for number in range(count) if number % 3] == data
