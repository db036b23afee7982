"""The balancer is one hop, like a router: a datagram with a TTL (hop limit) of 1 ends here with an error.

ONE client socket sends the datagrams of a test.
"""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest
from hop_limits import send_all_errors, set_ttl, time_exceeded
from keyed_clients import Asker, explained
from packet_tap import Tap
from peers import Peer
from pool_lab import (
    BACKEND_PORT,
    DSR_INGRESS,
    FORMS,
    MODES,
    NAT,
    PORT,
    STATELESS,
    STATELESS_EARLY,
    STATELESS_INGRESS,
    PoolLab,
    close_slow_path,
    vip,
)
from servers.processes import await_that

from nftlb.model import Guard, Per, Rate, SourceKind

if TYPE_CHECKING:
    from pool_lab import Mode

VERSIONS = (4, 6)
TTLS = (2, 1, 3, 1, 2, 1)


def send(asker: Asker, *ttls: int) -> None:
    """Send a datagram with each TTL."""
    for number, ttl in enumerate(ttls):
        set_ttl(asker.sock, ttl)
        asker.send(f"{number} with {ttl}".encode())


def passing(ttls: tuple[int, ...]) -> list[tuple[bytes, int]]:
    """The datagrams that have to arrive, with the TTL that is left."""
    return [(f"{number} with {ttl}".encode(), ttl - 1) for number, ttl in enumerate(ttls) if ttl > 1]


def arrived(taps: list[Tap]) -> list[tuple[bytes, int]]:
    """The datagrams that came from the client, with their TTL."""
    found = [packet for tap in taps for packet in tap.datagrams() if b" with " in packet.payload]
    return sorted((packet.payload, packet.ttl) for packet in found if not packet.outgoing)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize(
    ("mode", "options"),
    [
        *((mode, {}) for mode in MODES),
        (NAT, {"per": Per.FLOW}),
        (NAT, {"source": SourceKind.KEEP}),
        (STATELESS, {"hairpin": True}),
        (STATELESS_INGRESS, {"hairpin": True}),
    ],
    ids=str,
)
def test_a_request_loses_one_hop(mode: Mode, options: dict[str, Any], version: int) -> None:
    """A TTL of 1 ends at the balancer: the client gets one error, a backend gets nothing. A TTL of 2 arrives with 1.

    With nat and dsr, the error quotes the datagram that the client sent. With stateless, the error quotes a backend,
    as `explain` says.
    """
    with PoolLab(mode) as pool_lab, ExitStack() as stack:
        lab = pool_lab.lab
        send_all_errors(lab.balancer)
        pool = replace(pool_lab.pool(), **options)
        pool_lab.load(pool)
        asker = stack.enter_context(Asker(lab.client, version))
        at_client = stack.enter_context(Tap(lab.client))
        taps = [stack.enter_context(Tap(host)) for host in lab.backends]
        send(asker, *TTLS)
        pool_lab.servers.settle()
        assert passing(TTLS) == arrived(taps)
        quoted = time_exceeded(at_client)
        assert TTLS.count(1) == len(quoted)
        servers = {(host.address(version), BACKEND_PORT) for host in lab.backends}
        said = dict(explained(pool, asker.endpoint(lab.client.address(version)), b"").remarks)["last hop"]
        assert (servers if "quotes the address of a backend" in said else {(vip(version), PORT)}) >= set(quoted)


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("guard", [None, Guard(rate=Rate(1, 3600), burst=1000)], ids=["", "guard"])
@pytest.mark.parametrize("mode", [STATELESS_INGRESS, DSR_INGRESS], ids=str)
def test_the_fast_path_leaves_the_last_hop_alone(mode: Mode, guard: Guard | None, version: int) -> None:
    """Whatever form the rules have, a TTL of 1 takes the ordinary chains, which send the error; a TTL of 2 does not.

    A datagram that takes the ordinary chains takes no turn of the fast path.
    """
    with PoolLab(mode) as pool_lab, ExitStack() as stack:
        lab = pool_lab.lab
        send_all_errors(lab.balancer)
        asker = stack.enter_context(Asker(lab.client, version))
        at_client = stack.enter_context(Tap(lab.client))
        taps = [stack.enter_context(Tap(host)) for host in lab.backends]
        for services in ((), *FORMS.values()):
            pool_lab.load_with(services, guard=guard)
            send(asker, *TTLS)
            pool_lab.servers.settle()
            assert passing(TTLS) == arrived(taps)
            assert TTLS.count(1) == len(time_exceeded(at_client))
            pool_lab.servers.clear()
            close_slow_path(pool_lab)
            send(asker, 2, 1, 2, 1, 2, 1)
            pool_lab.servers.settle()
            assert [1, 1, 1] == list(pool_lab.servers.counts.values())
            assert [] == time_exceeded(at_client)
            lab.nft("delete table inet trap")
            for tap in taps:
                tap.packets()


@pytest.mark.parametrize("version", VERSIONS)
@pytest.mark.parametrize("mode", [NAT, STATELESS, STATELESS_EARLY], ids=str)
def test_a_reply_loses_one_hop(mode: Mode, version: int) -> None:
    """A reply with a TTL of 2 reaches the client with 1, from the service. A reply with a TTL of 1 does not."""
    with PoolLab(mode, backends=1, weights=(1,), serve=False) as pool_lab, ExitStack() as stack:
        lab = pool_lab.lab
        (host,) = lab.backends
        backend = stack.enter_context(Peer(host, version, BACKEND_PORT))
        client = stack.enter_context(Peer(lab.client, version, 7777))
        at_client = stack.enter_context(Tap(lab.client))
        at_backend = stack.enter_context(Tap(host))
        for ttl in (1, 2):
            client.send("request", (vip(version), PORT))
            text, source = backend.receive()
            set_ttl(backend.socket, ttl)
            backend.send(f"{text} with {ttl}", source)
        assert ("request with 2", (vip(version), PORT)) == client.receive()
        assert [(b"request with 2", 1)] == arrived([at_client])
        # In prerouting, the reply already has the service's address, to which the error goes.
        wanted = [source] * (mode is not STATELESS_EARLY)
        errors: list[tuple[str, int]] = []

        def came() -> bool:
            errors.extend(time_exceeded(at_backend))
            return len(errors) >= len(wanted)

        await_that(came, "the error about the first reply")
        assert wanted == errors
