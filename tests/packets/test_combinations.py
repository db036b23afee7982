"""Each combination of mode, service address, ports, client and IP version, with ONE client socket.

Every datagram gets its turn, and exactly one reply, from the service; and no host gets a packet that was not sent to
it. Cells that can't work are in `combinations.LIMITS`: they must fail, and a command must report the limit.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from combinations import DSR, Cell, Limit, Place, Way, Who, cells, document, limit_of
from sites import Site

from nftlb.doctor import Severity, examine
from nftlb.explain import Question, as_text, explain_packet
from nftlb.model import Endpoint, Protocol, Udp
from nftlb.probes import Subject, probe_for, run_probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.health import CheckResult
    from nftlb.lab import DatagramResult, LabClient, Received
    from nftlb.model import Config

COUNT = 12
REQUESTS = 6
PROBES = 4
BYSTANDER = 47000
"""The source port of another client, while the balancer is a client."""
TIMEOUT = 20.0
TIMEOUT_OF_LIMITS = 0.1
"""Seconds to wait for replies that are not expected."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "packets.md"


class Sites:
    """The current lab. A cell that needs another lab replaces it."""

    def __init__(self) -> None:
        self._site: Site | None = None
        self._key: object = None

    def at(self, cell: Cell) -> Site:
        """The hosts for a cell."""
        key = (cell.way in DSR, cell.place, cell.offload)
        if self._site is None or self._key != key:
            self.close()
            self._site = Site(cell.place, dsr=cell.way in DSR, offload=cell.offload).__enter__()
            self._key = key
        return self._site

    def close(self) -> None:
        if self._site is not None:
            site, self._site = self._site, None
            site.__exit__(None, None, None)


@pytest.fixture(scope="module")
def sites() -> Iterator[Sites]:
    made = Sites()
    yield made
    made.close()


@pytest.mark.parametrize("cell", cells(), ids=str)
def test_cell(cell: Cell, sites: Sites) -> None:
    """The datagrams of a cell are balanced and get replies, or a limit applies and is reported."""
    site = sites.at(cell)
    config = site.load(cell.way, cell.ports)
    limit = limit_of(cell)
    if limit is None:
        _TRIALS[cell.who](site, cell, TIMEOUT)
        return
    with pytest.raises(AssertionError):
        _TRIALS[cell.who](site, cell, TIMEOUT_OF_LIMITS)
    assert limit.storm or COUNT >= len(site.servers.settle())
    assert_reported(limit, site, cell, config)


def test_the_document_has_the_tested_table() -> None:
    """docs/packets.md has the table of the cells that are tested here."""
    assert document() in DOCUMENT.read_text(encoding="utf-8"), f"this belongs into {DOCUMENT}:\n{document()}"


def try_client(site: Site, cell: Cell, timeout: float) -> None:
    """A client's datagrams go to the backends in turn, and each gets one reply from the service."""
    service = site.service[cell.version], cell.ports.asked
    with site.client(site.host(cell.who), service, cell.source_port) as client:
        answers = exchange(client, COUNT, timeout)
        received = site.servers.settle()
        late = client.drain()
    turns = Counter(answer.backend for answer in answers)
    shares = [COUNT] if cell.way is Way.FLOW else [COUNT // 2, COUNT // 2]
    assert shares == list(turns.values()), summary(answers, received)
    assert turns == Counter(datagram.backend for datagram in received), summary(answers, received)
    assert turns.keys() <= {"b1", "b2"}, summary(answers, received)
    assert {(service, 1)} == {(answer.source, answer.copies) for answer in answers}
    assert [] == late


def try_peer(site: Site, cell: Cell, timeout: float) -> None:
    """A host is served, also if the balancer has just sent it a request from the service's address and port."""
    with ask(site, cell) as question:
        assert [1, 1] == [answer.copies for answer in exchange(question, 2, timeout)]
    site.servers.clear()
    try_client(site, cell, timeout)


def try_own_requests(site: Site, cell: Cell, timeout: float) -> None:
    """The balancer's own requests to a server outside get replies, and change no turn of a client."""
    service = site.service[cell.version], cell.ports.asked
    answers: list[DatagramResult] = []
    others: list[DatagramResult] = []
    with ask(site, cell) as question, site.client(site.lab.client, service, BYSTANDER) as client:
        while len(answers) < REQUESTS and all(answer.copies for answer in (*answers, *others)):
            answers += question.exchange(1, timeout=timeout)
            # Two datagrams: with one, turns that the replies take could cancel each other out.
            others += client.exchange(2, timeout=timeout)
        received = site.servers.settle()
        late = [*question.drain(), *client.drain()]
    outside = site.outside.address(cell.version), cell.ports.asked
    details = f"{summary(answers, received)}; the client: {summary(others, [])}"
    assert {("client2", outside, 1): REQUESTS} == Counter(
        (answer.backend, answer.source, answer.copies) for answer in answers
    ), details
    assert_undisturbed(others, cell, details)
    assert {"client2": REQUESTS} | Counter(answer.backend for answer in others) == Counter(
        datagram.backend for datagram in received
    )
    assert [] == late


def try_checks(site: Site, cell: Cell, timeout: float) -> None:
    """Health checks get replies, and change no turn of a client."""
    probe = probe_for(Udp(send="ping"))
    port = cell.ports.at_backends
    subjects = [
        Subject("service", host.name, ip_address(site.address(host, cell.version)), port, None, timeout)
        for host in site.lab.backends
    ]

    async def check() -> list[CheckResult]:
        return list(await asyncio.gather(*(run_probe(probe, subject) for subject in subjects)))

    results: list[CheckResult] = []
    others: list[DatagramResult] = []
    service = site.service[cell.version], cell.ports.asked
    with site.client(site.lab.client, service, BYSTANDER) as client:
        while len(results) < PROBES * len(subjects) and all(result.passed for result in results):
            results += site.lab.balancer.call(asyncio.run, check())
            others += client.exchange(2, timeout=timeout)
        received = site.servers.settle()
        assert [] == client.drain()
    assert {(True, "answered"): PROBES * len(subjects)} == Counter((result.passed, result.reason) for result in results)
    assert_undisturbed(others, cell, summary(others, []))
    expected = Counter(answer.backend for answer in others) + Counter({"b1": PROBES, "b2": PROBES})
    assert expected == Counter(datagram.backend for datagram in received)


_TRIALS = {
    Who.ELSEWHERE: try_client,
    Who.BALANCER: try_client,
    Who.BACKEND: try_client,
    Who.ASKED: try_peer,
    Who.OWN: try_own_requests,
    Who.CHECK: try_checks,
}


def ask(site: Site, cell: Cell) -> LabClient:
    """A socket of the balancer to the server outside, with the service's address as source if the host has it."""
    source = "" if cell.place is Place.ABSENT else site.service[cell.version]
    target = site.outside.address(cell.version), cell.ports.asked
    return site.client(site.lab.balancer, target, cell.source_port, source)


def exchange(client: LabClient, count: int, timeout: float) -> list[DatagramResult]:
    """Send datagrams one by one until a datagram is lost: more datagrams would show nothing new."""
    answers: list[DatagramResult] = []
    while len(answers) < count and all(answer.copies for answer in answers):
        answers += client.exchange(1, timeout=timeout)
    return answers


def assert_undisturbed(answers: list[DatagramResult], cell: Cell, details: str) -> None:
    """A client's datagrams went to the backends in turn or, by flow, all to the same backend."""
    first = answers[0].backend
    second = first if cell.way is Way.FLOW else {"b1": "b2", "b2": "b1"}.get(first)
    assert [(first, second)[number % 2] for number in range(len(answers))] == [answer.backend for answer in answers], (
        details
    )


def assert_reported(limit: Limit, site: Site, cell: Cell, config: Config) -> None:
    """The command for a limit reports the limit."""
    if limit.explain:
        host = site.host(cell.who)
        address = site.address(host, cell.version) if cell.who is Who.BACKEND else host.address(cell.version)
        source = Endpoint(ip_address(address), cell.source_port)
        service = Endpoint(ip_address(site.service[cell.version]), cell.ports.asked)
        text = " ".join(as_text(explain_packet(config, Question(source, service, Protocol.UDP))).split())
        assert limit.explain in text
    if limit.doctor:
        findings = site.lab.balancer.call(examine, config)
        assert [
            finding for finding in findings if finding.severity is not Severity.OK and limit.doctor in finding.message
        ]
    assert limit.explain or limit.doctor


def summary(answers: list[DatagramResult], received: list[Received]) -> str:
    """A text about the results."""
    turns = dict(Counter(answer.backend for answer in answers))
    return f"answers {turns} from { ({answer.source for answer in answers}) }, {len(received)} datagrams at the servers"
