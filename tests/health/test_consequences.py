"""What a change would lead to: a sentence for each loss of service, and none where nothing is lost."""

from __future__ import annotations

import pytest
from pool_builders import backend, backends, config, pool, sorry

from nftlb.health import CheckResult, PoolStates, Standing, consequences, consequences_of_reload
from nftlb.health.consequences import MOST_SENTENCES
from nftlb.model import Admin, BackendChange, Config, Fallback, FallbackKind, Forward, Health, Icmp, Pool

FAIL = CheckResult(passed=False, reason="no answer", seconds=1.0)
PING = Health(check=Icmp(), fall=1)
UDP = "192.0.2.53:53/udp"
DRAIN = BackendChange(admin=Admin.DRAIN)
MAINTENANCE = BackendChange(admin=Admin.MAINTENANCE)


def dns(behind: int = 2, listen: str | tuple[str, ...] = UDP, **options: object) -> Pool:
    servers = backends(*(f"10.0.0.{11 + number}:53" for number in range(behind)))
    return pool("dns", listen, servers, health=(PING,), **options)


def after(of: Pool, change: BackendChange, *down: str, name: str = "b1", changed_to: Pool | None = None) -> list[str]:
    """The consequences of a change of a backend while others are down, or of a change of the pool."""
    states = PoolStates.begin(config(of), {}, 0.0)
    for failed in down:
        states.record_result("dns", failed, 0, FAIL, 1.0)
    new, _ = states.with_config(config(changed_to or of), 2.0)
    if changed_to is None:
        new.set_by_operator("dns", [name], change, 2.0)
    return list(consequences(*(Standing(one.pools["dns"], one.state("dns", 2.0)) for one in (states, new))))


LOST = "the pool dns would lose its quorum, and would not be ready: "
QUORUM = f"{LOST}0 of 2 backends would be usable, the quorum is 1"

NOBODY = "the pool dns would have no usable backend; "


@pytest.mark.parametrize(
    ("fallback", "words"),
    [
        (Fallback(FallbackKind.REJECT), "its packets would be rejected"),
        (Fallback(FallbackKind.DROP), "its packets would be dropped"),
        (Fallback(FallbackKind.ALL), "all its enabled backends would get packets, also those that are down"),
        (sorry("10.0.0.99:53"), "its packets would go to the sorry server 10.0.0.99:53"),
    ],
)
@pytest.mark.parametrize("change", [DRAIN, MAINTENANCE, BackendChange(weight=0)])
def test_the_last_backend(change: BackendChange, fallback: Fallback, words: str) -> None:
    """Without the last backend in service, the fallback treats the packets, and the quorum is lost."""
    assert [NOBODY + words, QUORUM] == after(dns(fallback=fallback), change, "b2")


def test_a_backend_among_others() -> None:
    """No service is lost if others serve, if the backend was out already, or if it comes back."""
    assert [] == after(dns(), DRAIN)
    assert [] == after(dns(), DRAIN, "b1")
    assert [] == after(dns(), BackendChange(weight=7))
    assert [] == after(dns(), BackendChange())
    assert [] == after(dns(), BackendChange(admin=Admin.ENABLED), "b2")


def test_below_the_quorum() -> None:
    """The quorum is lost while backends still serve; a quorum that was lost before is not lost again."""
    lost = f"{LOST}2 of 3 backends would be usable, the quorum is 3"
    assert [lost] == after(dns(3, quorum=3), DRAIN)
    assert [] == after(dns(3, quorum=3), DRAIN, "b2")


def test_another_priority() -> None:
    """The next priority serves; a change of a standby backend has no consequence."""
    servers = (backend("b1", "10.0.0.11:53"), backend("b2", "10.0.0.12:53", priority=2))
    of = pool("dns", UDP, servers, health=(PING,))

    assert ["the pool dns would switch to priority 2, from priority 1"] == after(of, DRAIN)
    assert ["the pool dns would switch to priority 2, from priority 1"] == after(of, BackendChange(priority=3))
    assert [] == after(of, DRAIN, name="b2")


def test_panic() -> None:
    """Below the threshold all enabled backends get packets."""
    # Of the enabled weight of 5, a weight of 3 is in service; without b1, a weight of 1 of 3.
    others = (backend(f"c{number}", f"10.0.0.2{number}:53") for number in range(3))
    servers = (backend("b1", "10.0.0.11:53", weight=2), *others)
    of = pool("dns", UDP, servers, health=(PING,), panic=50)

    words = (
        "the pool dns would be in panic: less than 50% of its weight would be usable, so all enabled backends "
        "would get packets, also those that are down"
    )
    assert [words] == after(of, DRAIN, "c0", "c1")


def test_connections_are_cut() -> None:
    """Maintenance and removal cut the connections of a pool that has some; a drain does not."""
    cut = ["the connections to dns/b1 would be cut at once; a drain lets them end"]
    tcp = dns(listen=(UDP, "192.0.2.53:53/tcp"))

    assert cut == after(tcp, MAINTENANCE)
    assert [] == after(tcp, DRAIN)
    assert [] == after(dns(), MAINTENANCE)
    assert [] == after(tcp, MAINTENANCE, "b1")
    without = pool("dns", (UDP, "192.0.2.53:53/tcp"), dns().backends[1:], health=(PING,))
    assert cut == after(tcp, DRAIN, changed_to=without)


def test_a_removal() -> None:
    """A removal of the last backend in service is judged as a drain."""
    without = pool("dns", UDP, dns().backends[1:], health=(PING,))

    lost = QUORUM.replace("0 of 2", "0 of 1")
    assert [f"{NOBODY}its packets would be rejected", lost] == after(dns(), DRAIN, "b2", changed_to=without)


def test_two_families() -> None:
    """With listeners of two families, a sentence names the family that is concerned."""
    servers = (backend("b1", "10.0.0.11:53"), backend("b2", "[2001:db8::2]:53"))
    of = pool("dns", (UDP, "[2001:db8::53]:53/udp"), servers, health=(PING,))

    assert ["the pool dns (ip) would have no usable backend; its packets would be rejected"] == after(of, DRAIN)


def of_reload(before: Config, after: Config, *down: str) -> list[str]:
    """The consequences of another configuration, while these backends of the pool `dns` are down."""
    states = PoolStates.begin(before, {}, 0.0)
    for name in down:
        states.record_result("dns", name, 0, FAIL, 1.0)
    new, _ = states.with_config(after, 2.0)
    old_standings, new_standings = (
        {name: Standing(of.pools[name], of.state(name, 2.0)) for name in of.pools} for of in (states, new)
    )
    return consequences_of_reload(old_standings, new_standings, after)


def test_what_a_reload_removes() -> None:
    """Each pool, listener and backend that another configuration does not have is named; others are not."""
    sip = pool("sip", ("192.0.2.60:5060/udp", "192.0.2.61:5060/udp"), backends("10.0.1.1"))
    before = config(dns(8), sip)
    assert [] == of_reload(before, before)
    assert [] == of_reload(config(sip), before)
    assert [
        "the pool dns would lose 6 of its 8 backends: b3, b4, b5, b6, b7 and 1 more",
        "the pool sip would be removed; packets to 192.0.2.60:5060/udp, 192.0.2.61:5060/udp would not be balanced",
    ] == of_reload(before, config(dns(2)))
    moved = pool("voice", "192.0.2.60:5060/udp", backends("10.0.1.1"))
    assert ["the pool sip would not listen on 192.0.2.61:5060/udp any more"] == of_reload(
        before, config(dns(8), pool("sip", "192.0.2.62:5060/udp", backends("10.0.1.1")), moved)
    )


RANGE = "192.0.2.60:5000-5010/udp"


@pytest.mark.parametrize(
    ("listen", "lost"),
    [
        (("192.0.2.60:5000-5020/udp",), ""),
        (("192.0.2.60:4000-5010/udp",), ""),
        (("192.0.2.60:5000-5003/udp", "192.0.2.60:5004-5010/udp"), ""),
        (("192.0.2.60:5006-5020/udp", "192.0.2.60:4000-5005/udp"), ""),
        (("192.0.2.60:5001-5010/udp",), "192.0.2.60:5000/udp"),
        (("192.0.2.60:5000-5008/udp",), "192.0.2.60:5009-5010/udp"),
        (("192.0.2.60:5002-5003/udp", "192.0.2.60:5007/udp"), ", ".join(
            f"192.0.2.60:{ports}/udp" for ports in ("5000-5001", "5004-5006", "5008-5010")
        )),
        (("192.0.2.60:5011-5020/udp", "192.0.2.60:4000-4999/udp"), RANGE),
        (("192.0.2.61:5000-5010/udp", "192.0.2.60:5000-5010/tcp"), RANGE),
    ],
)  # fmt: skip
def test_port_ranges_of_a_reload(listen: tuple[str, ...], lost: str) -> None:
    """Only the ports are named that no listener has any more, in this pool or in another."""
    servers = backends("10.0.1.1")
    expected = [f"the pool sip would not listen on {lost} any more"] if lost else []
    before = config(pool("sip", RANGE, servers))

    assert expected == of_reload(before, config(pool("sip", listen, servers)))
    first, *others = (pool(f"p{number}", text, servers) for number, text in enumerate(listen))
    new = config(pool("sip", "192.0.2.99:53/udp", servers), first, *others)
    assert expected == of_reload(before, new)


TCP = (UDP, "192.0.2.53:53/tcp")


def test_connections_that_a_reload_cuts() -> None:
    """A pool has one sentence about its lost backends and one about other connections, each with a few names."""
    tcp, stays = dns(20, listen=TCP), pool("stays", "192.0.2.54:53/tcp", backends("10.0.1.1"))
    others = "b3, b4, b5, b6, b7 and 13 more"
    lost = f"the pool dns would lose 18 of its 20 backends: {others}"
    assert [f"{lost}; connections to them would be cut at once"] == of_reload(config(tcp), config(dns(2, listen=TCP)))
    assert [lost] == of_reload(config(tcp), config(dns(2, listen=TCP)), *(f"b{number}" for number in range(3, 21)))
    assert [lost] == of_reload(config(dns(20)), config(dns(2)))

    stopped = (
        *tcp.backends[:2],
        *(backend(f"b{number}", f"10.0.0.{10 + number}:53", admin=Admin.MAINTENANCE) for number in range(3, 21)),
    )
    names = f"dns/{others}".replace(", ", ", dns/")
    assert [f"the connections to {names} would be cut at once; a drain lets them end"] == of_reload(
        config(tcp), config(pool("dns", TCP, stopped, health=(PING,)))
    )

    removed = f"the pool dns would be removed; packets to {', '.join(TCP)} would not be balanced"
    assert [f"{removed}; its connections over tcp would be cut at once"] == of_reload(config(tcp, stays), config(stays))
    assert [removed] == of_reload(config(dns(1, listen=TCP), stays), config(stays), "b1")
    assert [removed] == of_reload(config(dns(listen=TCP, forward=Forward.DSR), stays), config(stays))


def test_a_reload_with_many_consequences() -> None:
    """The last sentence says how many others there are."""
    pools = [pool(f"p{number}", f"192.0.2.60:{5000 + number}/udp", backends("10.0.1.1")) for number in range(150)]
    found = of_reload(config(*pools), config(pools[-1]))

    assert (MOST_SENTENCES, "the pool p98 would be removed") == (len(found), found[98].partition(";")[0])
    assert "and 50 more consequences" == found[99]
    assert MOST_SENTENCES == len(of_reload(config(*pools), config(*pools[MOST_SENTENCES:])))
    assert "more" not in of_reload(config(*pools), config(*pools[MOST_SENTENCES:]))[-1]
