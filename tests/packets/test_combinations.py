"""What works where: each combination of mode, service address, ports, client and IP version, with ONE client socket.

Every datagram gets its turn, and one answer, from the service; and no host gets a packet that nobody sent to it. What
can't be right is declared in `combinations.LIMITS`: it must not work, and a command must say so.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from packets.combinations import DSR, Cell, Limit, Place, Way, Who, cells, document, limit_of
from packets.sites import Site

from nftlb.doctor import Severity, examine
from nftlb.explain import Question, as_text, explain
from nftlb.model import Endpoint, Protocol, Udp
from nftlb.probes import Subject, probe_for, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.health import Result
    from nftlb.lab import Answer, Client, Received
    from nftlb.model import Config

COUNT = 12
QUESTIONS = 6
PROBES = 4
BYSTANDER = 47000
"""The port of a client elsewhere, while the balancer asks."""
TIMEOUT = 2.0
TIMEOUT_OF_LIMITS = 0.1
"""Seconds to wait for what is not going to come."""
DOCUMENT = Path(__file__).parents[2] / "docs" / "packets.md"


class Sites:
    """The lab at hand: made anew when a cell needs another."""

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
    """The datagrams of a cell are spread and answered; or a limit holds, and is told."""
    site = sites.at(cell)
    config = site.load(cell.way, cell.ports)
    limit = limit_of(cell)
    if limit is None:
        _TRIALS[cell.who](site, cell, TIMEOUT)
        return
    with pytest.raises(AssertionError):
        _TRIALS[cell.who](site, cell, TIMEOUT_OF_LIMITS)
    assert limit.storm or COUNT >= len(site.servers.settle())
    assert_told(limit, site, cell, config)


def test_the_document_says_so() -> None:
    """The table in docs/packets.md is the one that is tried here."""
    assert document() in DOCUMENT.read_text(encoding="utf-8"), f"this belongs into {DOCUMENT}:\n{document()}"


def try_client(site: Site, cell: Cell, timeout: float) -> None:
    """A client's datagrams take turns, and each gets one answer, from the service."""
    service = site.service[cell.version], cell.ports.asked
    with site.client(site.host(cell.who), service, cell.source_port) as client:
        answers = exchange(client, COUNT, timeout)
        received = site.servers.settle()
        late = client.drain()
    turns = Counter(one.backend for one in answers)
    shares = [COUNT] if cell.way is Way.FLOW else [COUNT // 2, COUNT // 2]
    assert shares == list(turns.values()), summary(answers, received)
    assert turns == Counter(one.backend for one in received), summary(answers, received)
    assert turns.keys() <= {"b1", "b2"}, summary(answers, received)
    assert {(service, 1)} == {(one.source, one.copies) for one in answers}
    assert [] == late


def try_asked(site: Site, cell: Cell, timeout: float) -> None:
    """A client is a client, also when the balancer has just sent it a question from the service's address and port."""
    with ask(site, cell) as question:
        assert [1, 1] == [one.copies for one in exchange(question, 2, timeout)]
    site.servers.clear()
    try_client(site, cell, timeout)


def try_questions(site: Site, cell: Cell, timeout: float) -> None:
    """The balancer's own questions to a server outside are answered, and take nobody's turn."""
    service = site.service[cell.version], cell.ports.asked
    answers: list[Answer] = []
    others: list[Answer] = []
    with ask(site, cell) as question, site.client(site.lab.client, service, BYSTANDER) as client:
        while len(answers) < QUESTIONS and all(one.copies for one in (*answers, *others)):
            answers += question.exchange(1, timeout=timeout)
            others += client.exchange(
                2, timeout=timeout
            )  # with one, an answer's turn and a reply's would make up for each other
        received = site.servers.settle()
        late = [*question.drain(), *client.drain()]
    outside = site.outside.address(cell.version), cell.ports.asked
    told = f"{summary(answers, received)}; the client: {summary(others, [])}"
    assert {("client2", outside, 1): QUESTIONS} == Counter((one.backend, one.source, one.copies) for one in answers), (
        told
    )
    assert_undisturbed(others, cell, told)
    assert {"client2": QUESTIONS} | Counter(one.backend for one in others) == Counter(one.backend for one in received)
    assert [] == late


def try_checks(site: Site, cell: Cell, timeout: float) -> None:
    """Health checks are answered, and take nobody's turn."""
    probe = probe_for(Udp(send="ping"))
    port = cell.ports.at_backends
    subjects = [
        Subject("service", host.name, ip_address(site.address(host, cell.version)), port, None, timeout)
        for host in site.lab.backends
    ]

    async def check() -> list[Result]:
        return list(await asyncio.gather(*(run(probe, one) for one in subjects)))

    results: list[Result] = []
    others: list[Answer] = []
    service = site.service[cell.version], cell.ports.asked
    with site.client(site.lab.client, service, BYSTANDER) as client:
        while len(results) < PROBES * len(subjects) and all(one.passed for one in results):
            results += site.lab.balancer.call(asyncio.run, check())
            others += client.exchange(2, timeout=timeout)
        received = site.servers.settle()
        assert [] == client.drain()
    assert {(True, "answered"): PROBES * len(subjects)} == Counter((one.passed, one.reason) for one in results)
    assert_undisturbed(others, cell, summary(others, []))
    expected = Counter(one.backend for one in others) + Counter({"b1": PROBES, "b2": PROBES})
    assert expected == Counter(one.backend for one in received)


_TRIALS = {
    Who.ELSEWHERE: try_client,
    Who.BALANCER: try_client,
    Who.BACKEND: try_client,
    Who.ASKED: try_asked,
    Who.QUESTION: try_questions,
    Who.CHECK: try_checks,
}


def ask(site: Site, cell: Cell) -> Client:
    """A socket of the balancer that asks the server outside, from the service's address if the host has that."""
    source = "" if cell.place is Place.ABSENT else site.service[cell.version]
    target = site.outside.address(cell.version), cell.ports.asked
    return site.client(site.lab.balancer, target, cell.source_port, source)


def exchange(client: Client, count: int, timeout: float) -> list[Answer]:
    """One datagram after the other, until one is lost: the rest would say nothing new."""
    answers: list[Answer] = []
    while len(answers) < count and all(one.copies for one in answers):
        answers += client.exchange(1, timeout=timeout)
    return answers


def assert_undisturbed(answers: list[Answer], cell: Cell, told: str) -> None:
    """A client's datagrams went to the backends in turn or, by flow, all to one."""
    first = answers[0].backend
    second = first if cell.way is Way.FLOW else {"b1": "b2", "b2": "b1"}.get(first)
    assert [(first, second)[number % 2] for number in range(len(answers))] == [one.backend for one in answers], told


def assert_told(limit: Limit, site: Site, cell: Cell, config: Config) -> None:
    """The command that has to name a limit does."""
    if limit.explain:
        host = site.host(cell.who)
        address = site.address(host, cell.version) if cell.who is Who.BACKEND else host.address(cell.version)
        source = Endpoint(ip_address(address), cell.source_port)
        service = Endpoint(ip_address(site.service[cell.version]), cell.ports.asked)
        text = " ".join(as_text(explain(config, Question(source, service, Protocol.UDP))).split())
        assert limit.explain in text
    if limit.doctor:
        findings = site.lab.balancer.call(examine, config)
        assert [one for one in findings if one.severity is not Severity.OK and limit.doctor in one.message]
    assert limit.explain or limit.doctor


def summary(answers: list[Answer], received: list[Received]) -> str:
    """What happened, for a person."""
    turns = dict(Counter(one.backend for one in answers))
    return f"answers {turns} from { ({one.source for one in answers}) }, {len(received)} datagrams at the servers"
