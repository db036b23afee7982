"""`count_replies`: packets and replies of each backend are counted exactly. The tests use ONE client socket."""

from __future__ import annotations

import errno
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from blaster import Membership as Members
from copies_lab import CopiesLab
from lab_parameters import offload_id
from pool_lab import BACKEND_PORT, NAT, PORT, STATELESS, STATELESS_EARLY, STATELESS_INGRESS, PoolLab, down, vip
from servers.processes import await_that
from under_fire import fire, swap_in_turn

from nftlb.health import PoolStates, SilentBackends
from nftlb.model import Config, DropReason, Guard, PassiveReplies, Per, Rate, SourceKind
from nftlb.ruleset import Count

if TYPE_CHECKING:
    from blaster import Blaster
    from pool_lab import Mode

    from nftlb.model import Pool

pytest_plugins = ("lab_fixtures",)

COUNTING = (NAT, STATELESS, STATELESS_INGRESS, STATELESS_EARLY)
EVERYONE = frozenset(("b1", "b2", "b3"))


def load(pool_lab: PoolLab, pool: Pool) -> None:
    pool_lab.load(replace(pool, count_replies=True))


def counts(pool_lab: PoolLab) -> dict[str, tuple[int, int]]:
    """The packets and replies of each backend; without backends that have neither."""
    found = pool_lab.lab.balancer.call(pool_lab.applier.reply_counts)
    both = {name: (one.requests.packets, one.replies.packets) for name, one in found.items()}
    return {name.removeprefix("dns/").removesuffix("-6"): count for name, count in both.items() if any(count)}


def dropped(pool_lab: PoolLab) -> int:
    """How many packets the guard has dropped."""
    found = pool_lab.lab.balancer.call(pool_lab.applier.counters)
    return found.get(DropReason.RATE.owner("dns"), Count(0, 0)).packets


@pytest.mark.parametrize(
    ("mode", "version", "offload"),
    [*((mode, version, True) for mode in COUNTING for version in (4, 6)), (NAT, 4, False), (STATELESS, 6, False)],
    ids=offload_id,
)
def test_counts_are_exact(mode: Mode, version: int, offload: bool) -> None:
    """Each packet counts once, each reply counts once, and what the balancer exchanges with backends does not count."""
    with PoolLab(mode, offload=offload) as pool_lab:
        load(pool_lab, pool_lab.pool())
        host = pool_lab.lab.backends[0]
        with pool_lab.lab.client.connect((vip(version), PORT)) as client:
            answers = client.exchange(12)
            assert {(vip(version), PORT)} == {answer.source for answer in answers}
            client.send(6)
            client.exchange(3, size=3000)
        with pool_lab.lab.balancer.connect((host.address(version), BACKEND_PORT)) as check:
            assert [host.name] * 5 == [answer.backend for answer in check.exchange(5)]
        assert dict.fromkeys(("b1", "b2", "b3"), (7, 5)) == counts(pool_lab)
        config = Config(pools=(replace(pool_lab.pool(), count_replies=True),))
        assert "" == pool_lab.lab.balancer.call(pool_lab.applier.diff, config)


@pytest.mark.parametrize(("mode", "version"), [(NAT, 4), (STATELESS, 6)], ids=str)
def test_only_packets_behind_a_guard_count_and_no_copies(mode: Mode, version: int) -> None:
    """Packets that a guard drops are no requests, and neither copies nor the replies of collectors count."""
    with CopiesLab(mode) as pool_lab:
        pool = replace(pool_lab.mirrored(), guard=Guard(rate=Rate(1, 3600), burst=6), count_replies=True)
        pool_lab.load(pool)
        with pool_lab.lab.client.connect((vip(version), PORT)) as client:
            client.exchange(6)
            client.send(4)
        await_that(lambda: dropped(pool_lab) == 4, "4 packets are dropped")
        assert {"b1": (3, 3), "b2": (3, 3)} == counts(pool_lab)
        assert len(pool_lab.copies()) == 6
        assert "" == pool_lab.lab.balancer.call(pool_lab.applier.diff, Config(pools=(pool,)))


@pytest.mark.parametrize("port", [True, False], ids=["port", "no-port"])
@pytest.mark.parametrize("version", [4, 6])
def test_flows(version: int, port: bool) -> None:
    """`per: flow`: packets and replies count for the backend of the flow."""
    with PoolLab(NAT, serve=False) as pool_lab, pool_lab.lab.serve(BACKEND_PORT if port else PORT):
        pool = replace(pool_lab.pool(), per=Per.FLOW)
        if not port:
            pool = replace(pool, backends=tuple(replace(backend, port=None) for backend in pool.backends))
        load(pool_lab, pool)
        with (
            pool_lab.lab.client.connect((vip(version), PORT)) as first,
            pool_lab.lab.client.connect((vip(version), PORT)) as second,
        ):
            assert ["b1"] * 4 == [answer.backend for answer in first.exchange(4)]
            second.send(3)
            assert ["b2"] == [answer.backend for answer in second.exchange(1)]
        assert {"b1": (4, 4), "b2": (4, 1)} == counts(pool_lab)


@pytest.mark.parametrize(("version", "per"), [(4, Per.PACKET), (6, Per.PACKET), (4, Per.FLOW), (6, Per.FLOW)], ids=str)
def test_icmp_errors_are_no_replies(version: int, per: Per) -> None:
    """A closed port refuses datagrams: no reply counts, and a pool of one-way traffic loses none of its backends."""
    with PoolLab(NAT, serve=False) as pool_lab:
        _, *others = pool_lab.lab.backends
        pool = replace(pool_lab.pool(), per=per, passive=PassiveReplies(min_packets=1, window=60_000, most_out=100))
        silent, states = SilentBackends(Config(pools=(pool,))), PoolStates.begin(Config(pools=(pool,)), {}, 0.0)
        pool_lab.load(pool)
        with ExitStack() as stack:
            stack.enter_context(pool_lab.lab.serve(BACKEND_PORT, backends=others, answer=False))
            target = (vip(version), PORT)
            clients = [stack.enter_context(pool_lab.lab.client.connect(target)) for _ in pool_lab.lab.backends]
            for moment in (0, 10, 20):
                found = pool_lab.lab.balancer.call(pool_lab.applier.reply_counts)
                both = {name: (one.requests.packets, one.replies.packets) for name, one in found.items()}
                silent.record({("dns", name.removeprefix("dns/")): count for name, count in both.items()}, moment)
                # The first backend refuses its turn, the others receive and do not reply.
                turns = zip(clients, (20, 0.2, 0.2), strict=True)
                answers = [answer for client, timeout in turns for answer in client.exchange(1, timeout=timeout)]
                assert [errno.ECONNREFUSED] == [answer.error.errno for answer in answers if answer.error]
        assert dict.fromkeys(("b1", "b2", "b3"), (3, 0)) == counts(pool_lab)
        assert {} == silent.judge(states.pools, 20.0)


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("near", [True, False], ids=["client-here", "client-elsewhere"])
def test_a_backend_on_the_balancer(near: bool, version: int) -> None:
    """The replies of a server on the balancer count once, for clients on the balancer too."""
    own = {4: "10.0.1.1", 6: "fd00:1::1"}[version]
    with PoolLab(NAT, serve=False) as pool_lab:
        lab = pool_lab.lab
        pool = pool_lab.pool()
        backends = [
            replace(backend, address=ip_address(own)) if backend.name.startswith("b1") else backend
            for backend in pool.backends
            if backend.address.version == version
        ]
        listen = tuple(listener for listener in pool.listen if listener.address.version == version)
        load(pool_lab, replace(pool, listen=listen, backends=tuple(backends)))
        host = lab.balancer if near else lab.client
        with lab.serve(BACKEND_PORT, backends=[lab.balancer, *lab.backends[1:]]):
            with host.connect((vip(version), PORT)) as client:
                assert ["balancer", "b2", "b3"] * 3 == [answer.backend for answer in client.exchange(9)]
            assert dict.fromkeys(("b1", "b2", "b3"), (3, 3)) == counts(pool_lab)


@pytest.mark.parametrize("source", [SourceKind.KEEP, SourceKind.MASQUERADE])
def test_clients_at_the_port_of_the_service_and_on_backends(source: SourceKind) -> None:
    """A client whose port is that of the service, and a client on a backend, count like all others."""
    with PoolLab(NAT) as pool_lab:
        load(pool_lab, replace(pool_lab.pool(), source=source))
        with pool_lab.lab.client.connect((vip(4), PORT), source_port=PORT) as client:
            assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
        with pool_lab.lab.backends[0].connect((vip(4), PORT)) as client:
            assert ["b1", "b2", "b3"] == [answer.backend for answer in client.exchange(3)]
        assert dict.fromkeys(("b1", "b2", "b3"), (2, 2)) == counts(pool_lab)


@pytest.mark.alone
@pytest.mark.parametrize(("mode", "version"), [(NAT, 4), (NAT, 6), (STATELESS, 4), (STATELESS, 6)], ids=str)
def test_swaps_under_fire(blaster: Blaster, mode: Mode, version: int) -> None:
    """A full load from one socket loses nothing while backends leave and return, and each reply is counted."""
    with PoolLab(mode, serve=False) as pool_lab:
        load(pool_lab, pool_lab.pool())
        steps = [(down(*names), Members(0, 0, EVERYONE.difference(names))) for names in ((), ("b1",), ("b2",), ("b3",))]
        change = partial(swap_in_turn, pool_lab, steps=steps, least=20)
        fired = fire(blaster, pool_lab, version, change, replies=True)
        found = counts(pool_lab)
    assert {} == fired.faults
    assert [] == fired.ledger.outside(fired.found)
    assert fired.ledger.counts == {name: requests for name, (requests, _) in found.items()}
    assert fired.ledger.counts == {name: replies for name, (_, replies) in found.items()}
    assert len(fired.found) > 20  # with fewer swaps, the test would prove nothing
