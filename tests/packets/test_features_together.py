"""Options together, while backends are drained, weights change, and priorities are lost and return, in every mode.

ONE client socket sends all datagrams of a test. Each datagram reaches the backend that `explain` shows.
"""

from __future__ import annotations

import select
from collections import Counter
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from flow_datagrams import DATA, TEMPLATE, V9, Exporter, arrived, exporting, flow_datagram
from flow_trial import flows_with_extras, keeps_flows, try_flows
from group_steps import BACKENDS, HOSTS, STEPS, WEIGHTS, in_groups
from group_trial import try_groups, with_extras
from keyed_clients import expected, explained
from lab_parameters import offload_id
from peers import Peer
from pool_lab import DSR, DSR_INGRESS, MODES, NAT, PORT, STATELESS, STATELESS_INGRESS, PoolLab, close_slow_path, vip

from nftlb.explain import Question, explain_packet
from nftlb.model import Balance, Config, Endpoint, Per, Protocol, SourceKind, payload_key

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pool_lab import Mode

VERSIONS = (4, 6)


def open_lab(mode: Mode, **options: Any) -> PoolLab:
    """The lab with the backends of `group_steps`, and a second client."""
    return PoolLab(mode, backends=len(HOSTS), clients=2, weights=WEIGHTS, **options)


def endpoint(address: tuple[str, int]) -> Endpoint:
    return Endpoint(ip_address(address[0]), address[1])


@pytest.fixture(scope="module")
def group_lab(request: pytest.FixtureRequest) -> Iterator[PoolLab]:
    """The lab of a mode. In modes on the ingress hook, only packets that the rules there take reach a backend."""
    mode, offload = request.param
    with open_lab(mode, offload=offload) as pool_lab:
        close_slow_path(pool_lab)
        yield pool_lab


def permitted_in(mode: Mode) -> frozenset[str]:
    """The options that `nftlb check` permits in a mode, also per packet."""
    return frozenset(("guard", *["mirror"] * (not mode.ingress), *["count_replies"] * (not mode.dsr)))


def cases() -> Iterator[tuple[tuple[Mode, bool], frozenset[str]]]:
    """Modes with and without checksum offload, without options and with all options that `nftlb check` permits there.

    Two modes also have each option alone.
    """
    for mode in MODES:
        permitted = permitted_in(mode)
        alone = sorted(permitted) if mode in (NAT, STATELESS) else []
        yield from (((mode, True), frozenset(extras)) for extras in ((), *((one,) for one in alone), permitted))
        if mode in (NAT, STATELESS_INGRESS, DSR):
            yield (mode, False), frozenset(permitted)


def words(value: object) -> str:
    match value:
        case frozenset():
            return "+".join(sorted(value)) or "plain"
        case (mode, offload):
            return f"{mode}-{offload_id(offload)}"
        case _:
            return str(value)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("balance", [Balance.ROUND_ROBIN, Balance.HASH])
@pytest.mark.parametrize(("group_lab", "extras"), [*cases()], indirect=["group_lab"], ids=words)
def test_options_while_backends_change(
    group_lab: PoolLab, extras: frozenset[str], balance: Balance, version: int
) -> None:
    """Datagrams take exact turns or follow their keys, and are counted, limited and copied exactly, at each step."""
    try_groups(group_lab, with_extras(group_lab, extras, balance), version)


# --- flows ------------------------------------------------------------------------------------------------------------


def cases_of_flows() -> Iterator[tuple[tuple[Mode, bool], frozenset[str], Balance]]:
    """`nat` without options, with each option, and with all. Modes without conntrack keep flows together by a key."""
    permitted = frozenset(("count_replies", "guard", "mirror", "passive", "session_timeout"))
    yield from (((NAT, True), frozenset((one,)), Balance.ROUND_ROBIN) for one in sorted(permitted))
    for balance in (Balance.ROUND_ROBIN, Balance.HASH):
        yield (NAT, True), frozenset(), balance
        yield from (((NAT, offload), permitted, balance) for offload in (True, False))
    yield from (((mode, True), permitted_in(mode), Balance.HASH) for mode in MODES if mode is not NAT)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(("group_lab", "extras", "balance"), [*cases_of_flows()], indirect=["group_lab"], ids=words)
def test_flows_while_backends_change(
    group_lab: PoolLab, extras: frozenset[str], balance: Balance, version: int
) -> None:
    """Flows take exact turns or follow their keys, and stay with backends that are drained or stand by.

    They move when their backend is down or in maintenance. All their datagrams are counted, limited and copied.
    """
    try_flows(group_lab, flows_with_extras(group_lab, extras, balance), version)


# --- templates --------------------------------------------------------------------------------------------------------

TEMPLATE_MODES = (NAT, STATELESS, STATELESS_INGRESS, DSR, DSR_INGRESS)
NUMBER = payload_key(12, 4)
"""The number of a datagram, in the header of NetFlow v9: each datagram has its own key."""


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("balance", [Balance.ROUND_ROBIN, Balance.HASH])
@pytest.mark.parametrize("mode", TEMPLATE_MODES, ids=str)
def test_templates_while_backends_change(mode: Mode, balance: Balance, version: int) -> None:
    """At each step, templates reach each backend in rotation once, and data take exact turns or follow their keys."""
    with open_lab(mode) as lab, Exporter(lab, version) as exporter:
        key = {"key": NUMBER} if balance is Balance.HASH else {}
        pool = in_groups(exporting(lab, mode), balance=balance, **key)
        client = endpoint(exporter.source)
        lab.load(pool)
        for step in STEPS:
            lab.update(step.membership)
            count = 2 + 4 * sum(step.shares.values())
            sent = [flow_datagram(V9, TEMPLATE if number < 2 else DATA, number) for number in range(count)]
            for payload in sent:
                exporter.send(payload)
            found = arrived(lab)
            for name in HOSTS:
                assert ([0, 1] if name in step.shares else []) == [one for one in found[name] if one < 2], step.about
            data = {name: [one for one in found[name] if one >= 2] for name in step.shares}
            if balance is Balance.HASH:
                owners = {number: expected(pool, client, sent[number], step.membership) for number in range(2, count)}
                assert {name: [one for one in owners if owners[one] == name] for name in data} == data, step.about
            else:
                got = {name: len(of_one) for name, of_one in data.items()}
                assert {name: 4 * share for name, share in step.shares.items()} == got, step.about
            choice = explained(pool, client, sent[0], step.membership).choice
            assert len(step.shares) == 1 or (choice and choice.by.startswith("every backend in rotation gets this"))


# --- requests of backends ---------------------------------------------------------------------------------------------


class Conversation:
    """A socket on each backend at the port of the service, and a socket outside for each backend that it asks."""

    def __init__(self, pool_lab: PoolLab, version: int, stack: ExitStack) -> None:
        self.service = (vip(version), PORT)
        lab = pool_lab.lab
        self.backends = {host.name: stack.enter_context(Peer(host, version, PORT)) for host in lab.backends}
        self.peers = {
            host.name: stack.enter_context(Peer(lab.client, version, 7000 + number))
            for number, host in enumerate(lab.backends)
        }
        self.client = stack.enter_context(Peer(lab.client, version, 7777))

    def ask(self, name: str) -> str:
        """Let a backend ask its peer, and the peer answer. Return the backend that gets the answer."""
        peer = self.peers[name]
        self.backends[name].send("INVITE", peer.address)
        assert ("INVITE", self.service) == peer.receive()
        peer.send("200 OK", self.service)
        return self._received("200 OK", peer.address)[0]

    def request(self) -> str:
        """Let the client send a request to the service. Return the backend that gets the request, and replies."""
        self.client.send("OPTIONS", self.service)
        name, source = self._received("OPTIONS", None)
        self.backends[name].send(name, source)
        assert (name, self.service) == self.client.receive()
        return name

    def _received(self, text: str, source: tuple[str, int] | None) -> tuple[str, tuple[str, int]]:
        """The backend that has received this text, and its source. No other backend has received anything."""
        sockets = {backend.socket: name for name, backend in self.backends.items()}
        (ready,), _, _ = select.select(list(sockets), [], [], 5)
        name = sockets[ready]
        received, seen = self.backends[name].receive()
        assert (text, source or seen) == (received, seen)
        return name, seen


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("balance", [Balance.ROUND_ROBIN, Balance.HASH])
@pytest.mark.parametrize(
    ("mode", "source", "per"),
    [
        *((NAT, source, per) for source in (SourceKind.KEEP, SourceKind.MASQUERADE) for per in Per),
        (STATELESS, None, Per.PACKET),
    ],
    ids=str,
)
def test_requests_of_backends_while_backends_change(
    mode: Mode, source: SourceKind | None, per: Per, balance: Balance, version: int
) -> None:
    """Each backend asks from the service at each step, also if it is drained, on standby or down.

    With nat, the backend that asked gets the answer. With stateless, the backend of the peer's key or the next turn
    gets the answer. Requests of a client go where `explain` says, meanwhile, or stay with the backend of their flow.
    """
    with open_lab(mode, serve=False) as lab, ExitStack() as stack:
        options = {} if source is None else {"source": source}
        pool = in_groups(lab.pool(PORT), balance=balance, outbound=True, per=per, **options)
        lab.load(pool)
        of_flow = ""
        talk = Conversation(lab, version, stack)
        for name in BACKENDS:
            question = Question(endpoint(talk.backends[name].address), endpoint(talk.peers[name].address), Protocol.UDP)
            assert f"leaves from {endpoint(talk.service)}" in explain_packet(Config(pools=(pool,)), question).reason
        for step in STEPS:
            lab.update(step.membership)
            for name in BACKENDS:
                got = talk.ask(name)
                if mode is NAT:
                    assert name == got, step.about
                elif balance is Balance.HASH:
                    peer = endpoint(talk.peers[name].address)
                    assert expected(pool, peer, b"200 OK", step.membership) == got, step.about
                else:
                    assert got in step.shares
            client = endpoint(talk.client.address)
            reached = [talk.request() for _ in range(2 * sum(step.shares.values()))]
            if per is Per.FLOW:
                stays = of_flow and keeps_flows(of_flow, step)
                of_flow = of_flow if stays else reached[0]
                assert {of_flow} == set(reached), step.about
                owners = (
                    step.shares if balance is Balance.ROUND_ROBIN else {expected(pool, client, b"", step.membership)}
                )
                assert stays or of_flow in owners, step.about
            elif balance is Balance.HASH:
                assert {expected(pool, client, b"OPTIONS", step.membership)} == set(reached), step.about
            else:
                assert {name: 2 * share for name, share in step.shares.items()} == Counter(reached), step.about


# --- the fast path ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", MODES, ids=str)
def test_datagrams_in_fragments(mode: Mode, version: int) -> None:
    """They are joined before they take turns, and do not take the fast path; `explain` says so."""
    with PoolLab(mode) as lab, lab.lab.client.connect((vip(version), PORT), connected=False) as sender:
        said = explained(lab.pool(), endpoint((lab.lab.client.address(version), 40000)), b"")
        remarks = dict(said.remarks)
        assert "joined before a slot is picked" in remarks["fragments"]
        answers = sender.exchange(3, size=4000)
        assert [(name.removesuffix("-6"), 1, True) for name in said.slots] == [
            (answer.backend, answer.copies, answer.whole) for answer in answers
        ]
        close_slow_path(lab)
        (answer,) = sender.exchange(1, size=4000, timeout=0.5)
        assert ("fragments" in remarks["fast path"], answer.copies) == ((True, 0) if mode.ingress else (False, 1))


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [STATELESS_INGRESS, DSR_INGRESS], ids=str)
def test_datagrams_without_a_checksum_on_the_fast_path(mode: Mode, version: int) -> None:
    """They take the fast path with dsr, which changes no checksum, and not with stateless; `explain` says so."""
    with PoolLab(mode, zero_checksum=True) as lab:
        close_slow_path(lab)
        client = endpoint((lab.lab.client.address(version), 40000))
        said = dict(explained(lab.pool(), client, b"").remarks)["fast path"]
        with lab.lab.client.connect((vip(version), PORT), connected=False, zero_checksum=True) as sender:
            (answer,) = sender.exchange(1, timeout=20 if mode.dsr else 0.5)
        assert ("datagrams without a checksum" in said, answer.copies) == ((False, 1) if mode.dsr else (True, 0))
