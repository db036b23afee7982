"""`session_timeout`: how long conntrack keeps a flow of `per: flow` without packets."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from conntrack_entries import UdpEntry, udp_entries
from pool_lab import BACKEND_PORT, NAT, PORT, PoolLab, down, vip
from servers.processes import await_that

from nftlb.model import Per, Pool

if TYPE_CHECKING:
    from nftlb.lab import Host

VERSIONS = (4, 6)
SHORT = 3
"""Seconds of silence after which a flow ends. A busy machine must not stand still for so long within a flow."""
OTHER_PORT = 54
DEFAULTS = ("net.netfilter.nf_conntrack_udp_timeout", "net.netfilter.nf_conntrack_udp_timeout_stream")


def timed(pool: Pool, seconds: int) -> Pool:
    """The pool by flow, with a `session_timeout`."""
    return replace(pool, per=Per.FLOW, session_timeout=seconds * 1000)


def untimed(pool: Pool) -> Pool:
    """A pool by flow at another port, without a `session_timeout`."""
    listen = tuple(replace(listener, first_port=OTHER_PORT, last_port=OTHER_PORT) for listener in pool.listen)
    return replace(pool, name="other", per=Per.FLOW, listen=listen)


def set_defaults(host: Host, seconds: int) -> None:
    """Set the time-outs of the host for UDP, for entries without and with replies."""
    for name in DEFAULTS:
        host.sysctl(name, seconds)


@pytest.mark.parametrize("where", ["client", "balancer"])
@pytest.mark.parametrize("version", VERSIONS)
def test_a_flow_ends_after_the_time_out(version: int, where: str) -> None:
    """A silent flow ends after the time-out of its pool, also if the client is the balancer; other flows stay.

    The next datagram of the same socket takes the next turn.
    """
    with PoolLab(NAT) as pool_lab:
        lab = pool_lab.lab
        set_defaults(lab.balancer, 500)
        pool_lab.load(timed(pool_lab.pool(), SHORT), untimed(pool_lab.pool()))
        host = lab.client if where == "client" else lab.balancer
        with host.connect((vip(version), PORT)) as client, host.connect((vip(version), OTHER_PORT)) as other:
            assert ["b1"] * 3 == [answer.backend for answer in client.exchange(3)]
            assert ["b1"] * 3 == [answer.backend for answer in other.exchange(3)]
            await_that(lambda: not udp_entries(lab.balancer, version, PORT), "the end of the flow")
            (kept,) = udp_entries(lab.balancer, version, OTHER_PORT)
            assert 400 < kept.seconds <= 500
            answers = client.exchange(3)
            assert ["b1"] * 3 == [answer.backend for answer in other.exchange(3)]
        assert ["b2"] * 3 == [answer.backend for answer in answers]
        assert {((vip(version), PORT), 1)} == {(answer.source, answer.copies) for answer in answers}


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flow_outlasts_the_default_of_the_host(version: int) -> None:
    """With a longer time-out than the host's, a silent flow stays with its backend; other flows end."""
    with PoolLab(NAT) as pool_lab:
        lab = pool_lab.lab
        set_defaults(lab.balancer, SHORT)
        pool_lab.load(timed(pool_lab.pool(), 600), untimed(pool_lab.pool()))
        with (
            lab.client.connect((vip(version), PORT)) as client,
            lab.client.connect((vip(version), OTHER_PORT)) as other,
        ):
            assert ["b1"] * 3 == [answer.backend for answer in client.exchange(3)]
            assert ["b1"] * 3 == [answer.backend for answer in other.exchange(3)]
            await_that(lambda: not udp_entries(lab.balancer, version, OTHER_PORT), "the end of the other flow")
            (kept,) = udp_entries(lab.balancer, version, PORT)
            assert 500 < kept.seconds <= 600
            assert ["b1"] * 3 == [answer.backend for answer in client.exchange(3)]
            assert ["b2"] * 3 == [answer.backend for answer in other.exchange(3)]


@pytest.mark.parametrize("version", VERSIONS)
def test_a_flow_without_replies_has_the_same_time_out(version: int) -> None:
    """The time-out of the pool counts in both states of an entry, before and after the first reply."""
    with PoolLab(NAT, serve=False) as pool_lab:
        lab = pool_lab.lab
        pool_lab.load(timed(pool_lab.pool(), 600))
        with lab.serve(BACKEND_PORT, answer=False), lab.client.connect((vip(version), PORT)) as client:
            client.send(2)
            await_that(lambda: bool(udp_entries(lab.balancer, version, PORT)), "an entry")
            (entry,) = udp_entries(lab.balancer, version, PORT)
        assert 500 < entry.seconds <= 600


@pytest.mark.parametrize("version", VERSIONS)
def test_a_change_of_the_time_out_keeps_flows(version: int) -> None:
    """Flows keep their backends when the time-out changes. New flows have the new time-out.

    Earlier flows have the time-outs of the host from their next packet on: when a time-out is
    deleted, the kernel removes the time-out from all entries.
    """
    with PoolLab(NAT) as pool_lab:
        lab = pool_lab.lab
        set_defaults(lab.balancer, 300)
        pool_lab.load(timed(pool_lab.pool(), 600))

        def entry(port: int) -> UdpEntry:
            return next(found for found in udp_entries(lab.balancer, version, PORT) if found.source[1] == port)

        with lab.client.connect((vip(version), PORT)) as before, lab.client.connect((vip(version), PORT)) as after:
            port = before.source[1]
            assert {"b1"} == {answer.backend for answer in before.exchange(3)}
            assert 500 < entry(port).seconds <= 600
            pool_lab.load(timed(pool_lab.pool(), 900))
            assert 500 < entry(port).seconds <= 600
            answers = before.exchange(3)
            assert [("b1", 1)] * 3 == [(answer.backend, answer.copies) for answer in answers]
            assert 200 < entry(port).seconds <= 300
            assert {"b2"} == {answer.backend for answer in after.exchange(3)}
            assert 800 < entry(after.source[1]).seconds <= 900
            pool_lab.update(down("b1"))
            assert {"b2"} == {answer.backend for answer in after.exchange(3)}
            assert 800 < entry(after.source[1]).seconds <= 900
            assert {"b2", "b3"} >= {answer.backend for answer in before.exchange(3)}


def test_a_time_out_that_another_program_changed_is_restored() -> None:
    """Another time-out of the same name, and objects of other kinds in our table, are replaced and deleted."""
    with PoolLab(NAT) as pool_lab:
        lab = pool_lab.lab
        pool_lab.load(timed(pool_lab.pool(), 600))
        before = lab.balancer.run(["nft", "-s", "list", "table", "ip", "nftlb"])
        lab.nft("flush chain ip nftlb first/dns; delete ct timeout ip nftlb session-600s")
        lab.nft(
            "add ct timeout ip nftlb session-600s { protocol udp; policy = { unreplied : 9, replied : 9 } ; }\n"
            "add counter ip nftlb session-600s\n"
            'add rule ip nftlb first/dns ct timeout set "session-600s" counter name "session-600s"'
        )
        pool_lab.load(timed(pool_lab.pool(), 600))
        after = lab.balancer.run(["nft", "-s", "list", "table", "ip", "nftlb"])
        assert sorted(before.splitlines()) == sorted(after.splitlines())
        with lab.client.connect((vip(4), PORT)) as client:
            assert {"b1"} == {answer.backend for answer in client.exchange(3)}
            (entry,) = udp_entries(lab.balancer, 4, PORT)
        assert 500 < entry.seconds <= 600
