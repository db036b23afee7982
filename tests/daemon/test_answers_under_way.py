"""Backends, pools and ways of forwarding go while answers are under way: those come from the service all the same.

ONE client socket sends; the servers are stopped meanwhile, so that whatever they got is answered after the change.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemons.answerer import Answerer
from flowing import Flow, Sent, sources, twice
from running import PORT, VIP, Running, at, dns

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

Pools = dict[str, Any]


class Change(NamedTuple):
    """What is done while answers are under way: `how`, given the pools of the file before."""

    before: dict[str, str]
    how: Callable[[Running, Pools], None]
    serves: bool = True
    """Whether the service is there afterwards."""


def deleted(daemon: Running, _pools: Pools) -> None:
    """b3 goes by the API."""
    assert 204 == daemon.call("DELETE", "/api/v1/pools/dns/backends/b3")[0]


def reloaded(*to: Callable[[Pools], Pools]) -> Callable[[Running, Pools], None]:
    """The file becomes each of these, one after the other."""

    def reload(daemon: Running, pools: Pools) -> None:
        for turn in to:
            daemon.write(turn(pools))
            assert 200 == daemon.call("POST", "/api/v1/reload")[0]

    return reload


def restarted(to: Callable[[Pools], Pools]) -> Callable[[Running, Pools], None]:
    """The daemon dies, and another finds another file."""

    def restart(daemon: Running, pools: Pools) -> None:
        daemon.kill()
        daemon.write(to(pools))
        daemon.start()

    return restart


def forwarded(**options: str) -> Callable[[Pools], Pools]:
    """The same listener and backends, forwarded otherwise."""

    def turn(pools: Pools) -> Pools:
        kept = {name: pools["dns"][name] for name in ("listen", "backends")}
        return {"dns": kept | options}

    return turn


def without_b3(pools: Pools) -> Pools:
    backends = {name: one for name, one in pools["dns"]["backends"].items() if name != "b3"}
    return {"dns": pools["dns"] | {"backends": backends}}


def without_all(_pools: Pools) -> Pools:
    return {"other": {"listen": "198.51.100.53:99/udp", "backends": {"b9": "203.0.113.9:9"}}}


def another_for_b3(pools: Pools) -> Pools:
    """Without b3, and with another pool, whose backend needs a conntrack zone of its own."""
    return without_b3(pools) | without_all(pools)


NAT = {"forward": "nat"}
KEEP = {"forward": "nat", "source": "keep"}
STATELESS = {"forward": "stateless"}
FLOW = {"per": "flow", "balance": "hash"}
CHANGES = {
    "stateless-deleted": Change(STATELESS, deleted),
    "stateless-reloaded": Change(STATELESS, reloaded(without_b3)),
    "stateless-restarted": Change(STATELESS, restarted(without_b3)),
    "stateless-gone": Change(STATELESS, reloaded(without_all), serves=False),
    "stateless-to-nat": Change(STATELESS, reloaded(forwarded(**NAT))),
    "stateless-to-nat-keep": Change(STATELESS, reloaded(forwarded(**KEEP))),
    "stateless-to-nat-and-back": Change(STATELESS, reloaded(forwarded(**NAT), forwarded(**STATELESS))),
    "nat-deleted": Change(NAT, deleted),
    "nat-reloaded": Change(NAT, reloaded(without_b3)),
    "nat-replaced": Change(NAT, reloaded(without_b3, another_for_b3)),
    "nat-restarted": Change(NAT, restarted(without_b3)),
    "nat-gone": Change(NAT, reloaded(without_all), serves=False),
    "nat-to-stateless": Change(NAT, reloaded(forwarded(**STATELESS))),
    "nat-to-stateless-at-restart": Change(NAT, restarted(forwarded(**STATELESS))),
    "nat-to-stateless-and-back": Change(NAT, reloaded(forwarded(**STATELESS), forwarded(**NAT))),
    "nat-keep-deleted": Change(KEEP, deleted),
    "nat-keep-to-stateless": Change(KEEP, reloaded(forwarded(**STATELESS))),
    "nat-keep-to-nat": Change(KEEP, reloaded(forwarded(**NAT))),
    "nat-to-nat-keep": Change(NAT, reloaded(forwarded(**KEEP))),
    "nat-to-flow": Change(NAT, reloaded(forwarded(**FLOW))),
    "flow-to-nat": Change(FLOW, reloaded(forwarded(**NAT))),
    "flow-to-nat-keep": Change(FLOW, reloaded(forwarded(**KEEP))),
    "flow-to-stateless": Change(FLOW, reloaded(forwarded(**STATELESS))),
    "flow-gone": Change(FLOW, reloaded(without_all), serves=False),
    "stateless-to-flow": Change(STATELESS, reloaded(forwarded(**FLOW))),
}


def assert_answered_across(
    change: Callable[[], None], lab: Lab, version: int, servers: Sequence[Answerer], *, serves: bool = True
) -> list[Sent]:
    """Let traffic flow, have the servers answer what they have after the change only; return what was sent.

    Every datagram is answered, once, and by the service.
    """
    with Flow(lab.client, (VIP[version], 53), rate=1000) as flow:
        flow.wait(100)
        for server in servers:
            server.stop()
        flow.wait(300)
        if not serves:
            flow.hold()
        change()
        if serves:
            flow.wait(100)
        for server in servers:
            server.resume()
        flow.pause()
        sent = flow.stop()

    assert [] == twice(sent)
    assert {(VIP[version], 53)} == sources(sent)
    return sent


@pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("change", CHANGES)
def test_answers_under_way(change: str, version: int, offload: bool, tmp_path: Path) -> None:
    """They come from the service, whatever became of the backend, the pool or the way of forwarding."""
    before, how, serves = CHANGES[change]
    with Lab(backends=3, offload=offload) as lab, ExitStack() as stack:
        servers = [stack.enter_context(Answerer(host, port=PORT, version=version)) for host in lab.backends]
        pools = dns(lab, version, **before)
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, pools))
        sent = assert_answered_across(lambda: how(daemon, pools), lab, version, servers, serves=serves)

        assert (1 if before is FLOW else 3) == len({one.backend for one in sent[100:400]})


@pytest.mark.parametrize("offload", [False, True], ids=["offload-off", "offload-on"])
@pytest.mark.parametrize("version", [4, 6], ids=["ipv4", "ipv6"])
@pytest.mark.parametrize("before", ["nat", "dsr"])
def test_answers_under_way_beside_dsr(before: str, version: int, offload: bool, tmp_path: Path) -> None:
    """The same between `nat` and `dsr`, for which every backend has a server at the service's address as well."""
    with Lab(backends=3, offload=offload, dsr=True) as lab, ExitStack() as stack:
        servers = [
            stack.enter_context(Answerer(host, port=53, version=version, addresses=[address]))
            for host in lab.backends
            for address in (host.address(version), VIP[version])
        ]
        addresses = {host.name: host.address(version) for host in lab.backends}
        nat = dns(lab, version, backends={name: at(address, 53) for name, address in addresses.items()})
        dsr = dns(lab, version, backends=addresses, forward="dsr")
        first, second = (nat, dsr) if before == "nat" else (dsr, nat)
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, first))
        change = reloaded(lambda _: second)
        sent = assert_answered_across(lambda: change(daemon, first), lab, version, servers)

        assert 3 == len({one.backend for one in sent[100:400]})
