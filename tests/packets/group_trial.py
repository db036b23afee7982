"""Tries options of a pool while its backends change (`group_steps`): where each datagram goes, counts, and copies."""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from itertools import chain, repeat
from typing import TYPE_CHECKING

from group_steps import SORRY_HOST, STEPS, host_of, in_groups
from keyed_clients import Asker, expected, order_of_turns
from servers.processes import await_that

from nftlb.lab.servers import Servers
from nftlb.model import Balance, Collector, Encap, Forward, Guard, Rate, payload_key

if TYPE_CHECKING:
    from collections.abc import Mapping

    from group_steps import Step
    from pool_lab import PoolLab

    from nftlb.model import Pool

KEY = payload_key(3, 5)
KEYS = 20
CYCLES = 2
ABOVE = 3
"""The datagrams at the end that are above the limit of the guard."""
COLLECTOR_PORT = 9995
SLOW = Rate(1, 3600)
"""No packet comes back while a test runs, so a burst is exact."""


def with_extras(pool_lab: PoolLab, extras: frozenset[str], balance: Balance) -> Pool:
    """The pool of the lab in groups, with options: `mirror`, `guard` and `count_replies`.

    The guard lets exactly the datagrams of all steps pass.
    """
    pool = (
        in_groups(pool_lab.pool(), balance=balance, key=KEY) if balance is Balance.HASH else in_groups(pool_lab.pool())
    )
    sent = sum(CYCLES * sum(step.shares.values()) for step in STEPS)
    sent += len(STEPS) * KEYS if balance is Balance.HASH else 0
    return with_options(pool_lab, pool, extras, sent)


def with_options(pool_lab: PoolLab, pool: Pool, extras: frozenset[str], burst: int) -> Pool:
    """The pool with options: `mirror`, `guard`, which lets `burst` datagrams pass, and `count_replies`."""
    if "mirror" in extras:
        host = pool_lab.lab.clients[1]
        mirror = tuple(
            Collector(name=f"archive{suffix}", address=ip_address(address), port=COLLECTOR_PORT)
            for suffix, address in (("", host.ipv4), ("-6", host.ipv6))
        )
        pool = replace(pool, mirror=mirror, ingress=())
    if "guard" in extras:
        pool = replace(pool, guard=Guard(rate=SLOW, burst=burst))
    return replace(pool, count_replies="count_replies" in extras)


def collecting(pool_lab: PoolLab, version: int) -> Servers:
    """The collector of copies. Its fence comes from the balancer: replies to others are dropped.

    It answers, unless its answers would reach clients past the balancer.
    """
    clients, balancer = pool_lab.lab.clients, pool_lab.lab.balancer
    return Servers(
        [clients[1]],
        (COLLECTOR_PORT,),
        versions=(version,),
        answer=pool_lab.lab.plan.centre == balancer.name,
        zero_checksum=False,
        fence_from=balancer,
    )


def try_groups(pool_lab: PoolLab, pool: Pool, version: int) -> None:
    """Take the pool through all steps, with datagrams from ONE socket, and compare all that can be counted.

    Each datagram reaches the backend that `explain` shows, and gets one reply, from the service.
    """
    lab = pool_lab.lab
    # Without the guard, its sets with the sources of an earlier trial go.
    pool_lab.load(replace(pool, guard=None))
    lab.balancer.call(pool_lab.applier.tidy, at_once=True)
    pool_lab.load(pool)
    pool_lab.servers.clear()
    with ExitStack() as stack:
        archive = stack.enter_context(collecting(pool_lab, version))
        asker = stack.enter_context(Asker(lab.client, version))
        trial = _Trial(pool_lab, pool, asker, version)
        before = counted(pool_lab)
        for step in STEPS:
            trial.take(step)
        exceed(pool, asker)
        client = (lab.client.address(version), asker.sock.getsockname()[1])
        compare(pool_lab, pool, before, trial.got, [(payload, client) for payload in trial.sent], archive)
        assert asker.is_idle()


def exceed(pool: Pool, asker: Asker) -> None:
    """Send datagrams above the limit of the guard, if the pool has a guard."""
    for number in range(ABOVE if pool.guard else 0):
        asker.send(f"above {number}".encode())


def counted(pool_lab: PoolLab) -> Counter[str]:
    """The packets of backends and collectors, the replies of backends, and what the guard dropped."""
    balancer, applier = pool_lab.lab.balancer, pool_lab.applier
    found: Counter[str] = Counter()
    for owner, count in balancer.call(applier.counters).items():
        name = owner.removeprefix("dns/")
        found[host_of(name)] += count.packets
    for owner, replies in balancer.call(applier.reply_counts).items():
        found[f"{host_of(owner.removeprefix('dns/'))} replies"] += replies.replies.packets
    return found


def compare(
    pool_lab: PoolLab,
    pool: Pool,
    before: Counter[str],
    got: Counter[str],
    sent: list[tuple[bytes, tuple[str, int]]],
    archive: Servers,
) -> None:
    """Compare what was sent with the counts since `before`, with what arrived, and with the copies in the archive.

    `got`: how many datagrams each backend replied to. `sent`: their payloads, with the clients.
    """
    wanted = Counter(got)
    if pool.count_replies:
        wanted += Counter({f"{name} replies": count for name, count in got.items() if name != SORRY_HOST})
    if pool.mirror:
        wanted["collector/dns/archive"] = len(sent)
    if pool.guard:
        wanted["_rate"] = ABOVE
    await_that(lambda: counted(pool_lab) - before == wanted, f"these counts: {wanted}")
    assert +got == +Counter(pool_lab.servers.counts)
    if pool.forward is not Forward.NAT:
        assert {client for _, client in sent} == {datagram.source for datagram in pool_lab.servers.received}
    copies = [(datagram.payload, datagram.source) for datagram in archive.settle()]
    assert (sorted(sent) if pool.mirror else []) == sorted(copies)


class _Trial:
    """Sends the datagrams of the steps. `sent`: the payloads; `got`: how many reached each backend."""

    def __init__(self, pool_lab: PoolLab, pool: Pool, asker: Asker, version: int) -> None:
        self.sent: list[bytes] = []
        self.got: Counter[str] = Counter()
        self._pool_lab, self._pool, self._asker = pool_lab, pool, asker
        self._client = asker.endpoint(pool_lab.lab.client.address(version))
        # IPv6 tunnels lose the first datagram that is too large, and the fast path leaves fragments alone.
        whole = pool.ingress or (version == 6 and pool.encap is not Encap.NONE)
        self._payloads = [
            f"abc{number:05}".encode() + bytes(3000 if number % 4 == 0 and not whole else 0) for number in range(KEYS)
        ]
        self._owners: dict[bytes, str] = {}
        self._shares: Mapping[str, int] = {}

    def take(self, step: Step) -> None:
        """Change the states of backends, and send datagrams with keys, and without."""
        self._pool_lab.update(step.membership)
        if self._pool.balance is Balance.HASH:
            self._send_keys(step)
        count = CYCLES * sum(step.shares.values())
        turns = [self._ask(b"turn") for _ in range(count)]  # too short for a key
        assert {name: CYCLES * share for name, share in step.shares.items()} == Counter(turns), step.about
        if self._pool.balance is Balance.ROUND_ROBIN:
            order = order_of_turns(self._pool, self._client, step.membership)
            assert list(chain.from_iterable(repeat(order, CYCLES))) == turns, step.about
        self._shares = step.shares

    def _send_keys(self, step: Step) -> None:
        owners = {}
        for payload in self._payloads:
            owners[payload] = self._ask(payload)
            assert expected(self._pool, self._client, payload, step.membership) == owners[payload], step.about
        assert set(owners.values()) == step.shares.keys(), step.about
        for payload, was in self._owners.items():
            now = owners[payload]
            # A key moves only away from a backend that has less weight, or to a backend that has more.
            lost = step.shares.get(was, 0) < self._shares[was]
            assert was == now or lost or step.shares[now] > self._shares.get(now, 0), (step.about, payload)
        self._owners = owners

    def _ask(self, payload: bytes) -> str:
        backend = self._asker.ask(payload)
        self.sent.append(payload)
        self.got[backend] += 1
        return backend
