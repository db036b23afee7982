"""`outbound: true`: requests that backends themselves send leave from the service, and replies find the backend."""

from __future__ import annotations

import select
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from copies_lab import CopiesLab
from packet_tap import Tap
from peers import TIMEOUT, Peer
from pool_lab import NAT, PORT, STATELESS, PoolLab, down, vip
from servers.daemon import bracketed
from servers.programs import environment, program
from servers.sipp import RESPONSE

from nftlb.model import Balance, Config, Guard, Per, Rate, SourceKind

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Iterator
    from pathlib import Path

    from pool_lab import Mode

    from nftlb.lab import Host
    from nftlb.model import Pool

VERSIONS = (4, 6)
SIP = 5060


def outbound(pool_lab: PoolLab, **changes: object) -> Pool:
    """The pool with backends at the port of the service."""
    options = {"balance": Balance.HASH, "source": SourceKind.KEEP, "outbound": True, **changes}
    if pool_lab.mode is STATELESS:
        del options["source"]
    return replace(pool_lab.pool(PORT), **options)  # type: ignore[arg-type]


class Call:
    """A peer outside, and a socket on each backend."""

    def __init__(self, pool_lab: PoolLab, version: int, stack: ExitStack, port: int = PORT) -> None:
        lab = pool_lab.lab
        self.service = (vip(version), port)
        self.peer = stack.enter_context(Peer(lab.client, version, port))
        self.backends = [stack.enter_context(Peer(host, version, port)) for host in lab.backends]

    def ask(self, backend: Peer, text: str = "INVITE") -> tuple[str, int]:
        """Let a backend send a request to the peer. Return the source that the peer sees."""
        backend.send(text, self.peer.address)
        received, source = self.peer.receive()
        assert text == received
        return source

    def answer(self, backend: Peer, source: tuple[str, int], text: str = "200 OK") -> None:
        """Let the peer answer. Check that this backend gets the answer from the peer."""
        self.peer.send(text, source)
        assert (text, self.peer.address) == backend.receive()

    def request(self) -> Peer:
        """Let the peer send a request to the service. Return the backend that got and answered the request."""
        self.peer.send("OPTIONS", self.service)
        return self.reached()

    def reached(self) -> Peer:
        """Wait for a request to the service. Return the backend that got the request; no other backend got one."""
        select.select([backend.socket for backend in self.backends], [], [], TIMEOUT)
        (backend,) = [backend for backend in self.backends if not backend.is_idle()]
        return backend


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("source", [SourceKind.KEEP, SourceKind.MASQUERADE])
@pytest.mark.parametrize("version", VERSIONS)
def test_nat_without_an_entry(version: int, source: SourceKind, offload: bool) -> None:
    """Each backend asks a peer from the address and port of the service, and gets the answer itself."""
    for number in range(3):
        with PoolLab(NAT, offload=offload, serve=False) as pool_lab, ExitStack() as stack:
            pool_lab.load(outbound(pool_lab, source=source))
            call = Call(pool_lab, version, stack)
            asking = call.backends[number]
            for text in ("REGISTER", "INVITE", "I" * 4000):
                assert call.service == call.ask(asking, text)
                call.answer(asking, call.service)
            assert all(backend.is_idle() for backend in call.backends)
            if number == 0:
                config = Config(pools=(outbound(pool_lab, source=source),))
                assert "" == pool_lab.lab.balancer.call(pool_lab.applier.diff, config)


@pytest.mark.parametrize("source", [SourceKind.KEEP, SourceKind.MASQUERADE])
@pytest.mark.parametrize("version", VERSIONS)
def test_nat_with_an_entry(version: int, source: SourceKind) -> None:
    """A backend asks a peer that is a client of this backend at the moment, from the same port to the same port."""
    with PoolLab(NAT, serve=False) as pool_lab, ExitStack() as stack:
        pool_lab.load(outbound(pool_lab, source=source))
        call = Call(pool_lab, version, stack)
        backend = call.request()
        assert call.service == call.ask(backend)
        call.peer.send("200 OK", call.service)
        assert "200 OK" == backend.receive()[0]
        assert all(other.is_idle() for other in call.backends)


@pytest.mark.parametrize("version", VERSIONS)
def test_answers_meet_guard_and_mirror(version: int) -> None:
    """A guard limits the answers of a peer, and `mirror` copies those that pass; requests of backends are free."""
    with CopiesLab(NAT, serve=False) as pool_lab, ExitStack() as stack:
        guard = Guard(rate=Rate(1, 3600), burst=2)
        pool_lab.load(replace(outbound(pool_lab), mirror=pool_lab.collectors(), guard=guard))
        call = Call(pool_lab, version, stack)
        asking = call.backends[1]
        for _ in range(2):
            assert call.service == call.ask(asking)
            call.answer(asking, call.service)
        assert call.service == call.ask(asking)
        call.peer.send("200 OK", call.service)
        assert all(backend.is_idle() for backend in call.backends)
        assert len(pool_lab.copies()) == 2


@pytest.mark.parametrize("source", [SourceKind.KEEP, SourceKind.MASQUERADE])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_peer_on_the_balancer(version: int, source: SourceKind) -> None:
    """A peer on the balancer, at the very address of the service, sees the service, and answers the backend.

    As a client, the same peer is still balanced.
    """
    with PoolLab(NAT, serve=False) as pool_lab, ExitStack() as stack:
        pool_lab.load(outbound(pool_lab, source=source))
        call = Call(pool_lab, version, stack)
        call.peer = stack.enter_context(Peer(pool_lab.lab.balancer, version, 7777))
        for text in ("REGISTER", "INVITE", "I" * 4000):
            assert call.service == call.ask(call.backends[1], text)
            call.answer(call.backends[1], call.service)
        assert all(backend.is_idle() for backend in call.backends)
        client = stack.enter_context(Peer(pool_lab.lab.balancer, version, 7778))
        client.send("OPTIONS", call.service)
        call.reached()
        config = Config(pools=(outbound(pool_lab, source=source),))
        assert "" == pool_lab.lab.balancer.call(pool_lab.applier.diff, config)


@pytest.mark.parametrize("version", VERSIONS)
def test_two_backends_ask_one_peer(version: int) -> None:
    """The second backend leaves from another port of the service's address; each backend gets its own answer."""
    with PoolLab(NAT, serve=False) as pool_lab, ExitStack() as stack:
        pool_lab.load(outbound(pool_lab))
        call = Call(pool_lab, version, stack)
        first, second, _ = call.backends
        assert call.service == call.ask(first)
        address, port = call.ask(second)
        assert vip(version) == address
        assert port != PORT
        call.answer(second, (address, port), "for the second")
        call.answer(first, call.service, "for the first")


@pytest.mark.parametrize("version", VERSIONS)
def test_by_flow_and_at_any_port(version: int) -> None:
    """`per: flow`, with backends that keep the port: requests leave from the service, and answers come back."""
    with PoolLab(NAT, serve=False) as pool_lab, ExitStack() as stack:
        pool = outbound(pool_lab, per=Per.FLOW)
        pool_lab.load(replace(pool, backends=tuple(replace(one, port=None) for one in pool.backends)))
        call = Call(pool_lab, version, stack)
        assert call.service == call.ask(call.backends[2])
        call.answer(call.backends[2], call.service)


@pytest.mark.parametrize("version", VERSIONS)
def test_swaps_and_reloads(version: int) -> None:
    """Requests and answers go on while backends leave and return, the asking backend too, and while pools change."""
    with PoolLab(NAT, serve=False) as pool_lab, ExitStack() as stack:
        pool = outbound(pool_lab)
        pool_lab.load(pool)
        call = Call(pool_lab, version, stack)
        asking = call.backends[1]
        for names in (("b1",), ("b2",), ("b2", "b3"), ()) * 5:
            pool_lab.update(down(*names))
            assert call.service == call.ask(asking)
            call.answer(asking, call.service)
        # Without any backend, the fallback decides about all packets for the service, also about answers.
        pool_lab.update(down("b1", "b2", "b3"))
        assert call.service == call.ask(asking)
        call.peer.send("200 OK", call.service)
        assert asking.is_idle()
        pool_lab.update(down())
        for reloaded in (replace(pool, count_replies=True), pool) * 3:
            pool_lab.load(reloaded)
            assert call.service == call.ask(asking)
            call.answer(asking, call.service)


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_other_ports_and_pools_without_the_key(version: int, mode: Mode) -> None:
    """A request from another port leaves from the backend's own address; with nat, so does one without the key."""
    with PoolLab(mode, serve=False) as pool_lab, ExitStack() as stack:
        pool_lab.load(outbound(pool_lab))
        call = Call(pool_lab, version, stack)
        elsewhere = stack.enter_context(Peer(pool_lab.lab.backends[0], version, 7777))
        assert elsewhere.address == call.ask(elsewhere)
        if mode is NAT:
            pool_lab.load(outbound(pool_lab, outbound=False))
            assert call.backends[1].address == call.ask(call.backends[1])


@pytest.mark.parametrize("version", VERSIONS)
def test_stateless(version: int) -> None:
    """Requests leave from the service; answers go to the backend of the peer's address, whichever backend asked."""
    with PoolLab(STATELESS, serve=False) as pool_lab, ExitStack() as stack:
        pool_lab.load(outbound(pool_lab))
        call = Call(pool_lab, version, stack)
        chosen = call.request()
        for backend in call.backends:
            assert call.service == call.ask(backend)
            call.answer(chosen, call.service)


# --- SIPp, a SIP client and server ------------------------------------------------------------------------------------

_HEADERS = """{first}
Via: SIP/2.0/UDP [local_ip]:[local_port];branch=[branch];rport
From: <sip:pbx@[local_ip]>;tag=[call_number]
To: <sip:carrier@[remote_ip]>
Call-ID: [call_id]
CSeq: {number} {method}
Contact: <sip:pbx@[local_ip]:[local_port]>
Max-Forwards: 70
Content-Length: 0
"""
CALL = (("REGISTER", True), ("INVITE", True), ("ACK", False), ("BYE", True))
"""The requests of a registration and a call, and whether there is an answer."""


def scenario(steps: list[str]) -> str:
    return f'<?xml version="1.0" encoding="UTF-8"?>\n<scenario name="call">\n{"".join(steps)}</scenario>\n'


def message(text: str) -> str:
    return f"<send><![CDATA[\n{text}\n]]></send>\n"


def caller() -> str:
    """The scenario of the backend."""
    steps, number = [], 0
    for method, answered in CALL:
        number += method != "ACK"  # an ACK has the number of its INVITE
        first = f"{method} sip:carrier@[remote_ip]:[remote_port] SIP/2.0"
        steps.append(message(_HEADERS.format(first=first, number=number, method=method)))
        steps += ['<recv response="200"/>\n'] if answered else []
    return scenario(steps)


def carrier() -> str:
    """The scenario of the server outside."""
    steps = []
    for method, answered in CALL:
        steps.append(f'<recv request="{method}"/>\n')
        steps += [message(RESPONSE.format(status="200 OK"))] if answered else []
    return scenario(steps)


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
@pytest.mark.parametrize("version", VERSIONS)
def test_a_backend_registers_and_calls(version: int, mode: Mode, tmp_path: Path) -> None:
    """SIPp on a backend registers and calls a server outside; all its messages come from the service.

    With stateless, the backend that calls is the backend of the server's address.
    """
    (tmp_path / "caller.xml").write_text(caller())
    (tmp_path / "carrier.xml").write_text(carrier())
    with PoolLab(mode, serve=False) as pool_lab, ExitStack() as stack:
        pool_lab.load(_sip(outbound(pool_lab)))
        with ExitStack() as first:
            call = Call(pool_lab, version, first, SIP)
            number = call.backends.index(call.request())
        host, peer = pool_lab.lab.backends[number], pool_lab.lab.client
        # conntrack has the request of before: the calls are those of a peer that is a client at the moment.
        tap = stack.enter_context(Tap(peer))
        server = stack.enter_context(_sipp(peer, version, tmp_path / "carrier.xml"))
        client = stack.enter_context(
            _sipp(host, version, tmp_path / "caller.xml", f"{bracketed(peer.address(version))}:{SIP}")
        )
        assert (0, 0) == (client.wait(30), server.wait(30))
        datagrams = [packet for packet in tap.datagrams() if not packet.outgoing]
    methods = [packet.payload.split(b" ", 1)[0].decode() for packet in datagrams]
    assert [method for method, _ in CALL] == list(dict.fromkeys(methods))
    assert {(vip(version), SIP)} == {packet.source for packet in datagrams}


def _sip(pool: Pool) -> Pool:
    """The pool at the port of SIP."""
    listen = tuple(replace(listener, first_port=SIP, last_port=SIP) for listener in pool.listen)
    return replace(pool, listen=listen, backends=tuple(replace(backend, port=SIP) for backend in pool.backends))


@contextmanager
def _sipp(host: Host, version: int, file: Path, *target: str) -> Iterator[subprocess.Popen[str]]:
    """SIPp with a scenario, for one call. SIPp is ended at the end."""
    own = bracketed(host.address(version))
    command = [program("sipp"), *target, "-sf", str(file), "-i", own, "-p", str(SIP), "-t", "u1", "-m", "1"]
    log = file.with_suffix(".log").open("w")
    process = host.popen(
        [*command, "-nostdin", "-timeout", "25"], stdout=log, stderr=log, env=environment(), cwd=file.parent
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
        log.close()
