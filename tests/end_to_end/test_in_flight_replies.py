"""In-flight replies come from the service, even if the backend, the pool or the mode changes meanwhile.

ONE client socket of each IP version sends. The servers are stopped during the change, so they reply after the change.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest
from daemon_process import PORT, VIP, Running, at
from lab_parameters import with_and_without_offload
from servers.answerer import Answerer
from steady_traffic import Flow, Sent, sources, twice

from nftlb.lab import Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

Pools = dict[str, Any]


class Change(NamedTuple):
    """A change while replies are in flight: `how` gets the pools of the file before."""

    before: dict[str, str]
    how: Callable[[Running, Pools], None]
    serves: bool = True
    """Whether the service exists afterwards."""


def deleted(daemon: Running, _pools: Pools) -> None:
    """b3 is deleted through the API."""
    for name in _names("b3"):
        assert 204 == daemon.call("DELETE", f"/api/v1/pools/dns/backends/{name}")[0]


def reloaded(*to: Callable[[Pools], Pools]) -> Callable[[Running, Pools], None]:
    """The file is replaced by each of these, one after the other."""

    def reload(daemon: Running, pools: Pools) -> None:
        for turn in to:
            daemon.write(turn(pools))
            assert 200 == daemon.call("POST", "/api/v1/reload")[0]

    return reload


def restarted(to: Callable[[Pools], Pools]) -> Callable[[Running, Pools], None]:
    """The daemon is killed, and the next daemon finds another file."""

    def restart(daemon: Running, pools: Pools) -> None:
        daemon.kill()
        daemon.write(to(pools))
        daemon.start()

    return restart


def forwarded(**options: str) -> Callable[[Pools], Pools]:
    """The same listener and backends with another way of forwarding."""

    def turn(pools: Pools) -> Pools:
        kept = {name: pools["dns"][name] for name in ("listen", "backends")}
        return {"dns": kept | options}

    return turn


def without_b3(pools: Pools) -> Pools:
    backends = {name: backend for name, backend in pools["dns"]["backends"].items() if name not in _names("b3")}
    return {"dns": pools["dns"] | {"backends": backends}}


def without_all(_pools: Pools) -> Pools:
    return {"other": {"listen": "198.51.100.53:99/udp", "backends": {"b9": "203.0.113.9:9"}}}


def another_for_b3(pools: Pools) -> Pools:
    """Without b3, and with another pool whose backend needs a conntrack zone."""
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


def dual(lab: Lab, options: Mapping[str, Any], port: int = PORT) -> Pools:
    """A pool of DNS over both versions of IP, with each host of the lab as a backend of both, as in a file.

    With port 0, backends have no port in the file.
    """
    listen = [f"{at(address, 53)}/udp" for address in VIP.values()]
    addresses = {
        name: host.address(version)
        for host in lab.backends
        for name, version in zip(_names(host.name), VIP, strict=True)
    }
    backends = {name: at(address, port) if port else address for name, address in addresses.items()}
    return {"dns": {"listen": listen, "backends": backends, **options}}


def _names(host: str) -> tuple[str, str]:
    """The names of a host's IPv4 and IPv6 address in the file."""
    return host, f"{host}-6"


def assert_answered_across(
    change: Callable[[], None], lab: Lab, servers: Sequence[Answerer], *, serves: bool = True
) -> list[list[Sent]]:
    """Send traffic, and let the servers reply only after the change. Return the datagrams of each socket.

    Every datagram gets exactly one reply, from the service.
    """
    with ExitStack() as stack:
        flows = [stack.enter_context(Flow(lab.client, (address, 53), rate=1000)) for address in VIP.values()]

        def wait(count: int) -> None:
            for flow in flows:
                flow.wait(count)

        wait(100)
        for server in servers:
            server.stop()
        wait(300)
        if not serves:
            for flow in flows:
                flow.hold()
        change()
        if serves:
            wait(100)
        for server in servers:
            server.resume()
        for flow in flows:
            flow.pause()
        sent = [flow.stop() for flow in flows]

    for address, own in zip(VIP.values(), sent, strict=True):
        assert [] == twice(own)
        assert {(address, 53)} == sources(own)
    return sent


@pytest.mark.parametrize(
    # By turns: each way of forwarding has several changes, so its in-flight replies come with and without offload.
    ("change", "offload"),
    [(change, number % 2 == 1) for number, change in enumerate(CHANGES)],
    ids=CHANGES,
)
def test_in_flight_replies(change: str, offload: bool, tmp_path: Path) -> None:
    """In-flight replies come from the service, even if the backend, the pool or the way of forwarding has changed."""
    before, how, serves = CHANGES[change]
    with Lab(backends=3, offload=offload) as lab, ExitStack() as stack:
        servers = [
            stack.enter_context(Answerer(host, port=PORT, addresses=[host.ipv4, host.ipv6])) for host in lab.backends
        ]
        pools = dual(lab, before)
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, pools))
        sent = assert_answered_across(lambda: how(daemon, pools), lab, servers, serves=serves)

        expected = 1 if before is FLOW else 3
        assert [expected, expected] == [len({datagram.backend for datagram in own[100:400]}) for own in sent]


@with_and_without_offload
@pytest.mark.parametrize("before", ["nat", "dsr"])
def test_in_flight_replies_beside_dsr(before: str, offload: bool, tmp_path: Path) -> None:
    """The same holds between `nat` and `dsr`; for `dsr`, every backend also has the service's addresses."""
    with Lab(backends=3, offload=offload, dsr=True) as lab, ExitStack() as stack:
        servers = [
            stack.enter_context(Answerer(host, port=53, addresses=[host.ipv4, host.ipv6, *VIP.values()]))
            for host in lab.backends
        ]
        nat = dual(lab, {}, 53)
        dsr = dual(lab, {"forward": "dsr"}, 0)
        first, second = (nat, dsr) if before == "nat" else (dsr, nat)
        daemon = stack.enter_context(Running(lab.balancer, tmp_path, first))
        change = reloaded(lambda _: second)
        sent = assert_answered_across(lambda: change(daemon, first), lab, servers)

        assert [3, 3] == [len({datagram.backend for datagram in own[100:400]}) for own in sent]
