"""What the kernel counted, so that it never goes backwards."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nftlb.daemon.counters import Counters
from nftlb.ruleset import Count

OWNERS = ("dns/ns1", "dns/ns2", "dns/_sorry", "web.1/a")
READINGS = st.dictionaries(
    st.sampled_from(OWNERS), st.builds(Count, packets=st.integers(0, 50), bytes=st.integers(0, 5000))
)


def taken(*readings: dict[str, Count]) -> Counters:
    counters = Counters()
    for reading in readings:
        counters.take(reading)
    return counters


def test_what_the_kernel_says() -> None:
    """A counter is what the kernel has; who has none was sent nothing."""
    counters = taken({"dns/ns1": Count(3, 300)}, {"dns/ns1": Count(5, 500)})

    assert Count(5, 500) == counters.of("dns", "ns1")
    assert Count(0, 0) == counters.of("dns", "ns2")


def test_a_flush_loses_nothing() -> None:
    """After the tables were flushed and restored, counting goes on from where it was."""
    counters = taken({"dns/ns1": Count(5, 500)}, {"dns/ns1": Count(2, 200)}, {"dns/ns1": Count(3, 300)})

    assert Count(8, 800) == counters.of("dns", "ns1")


def test_who_is_gone_for_a_while_keeps_what_it_had() -> None:
    """A backend that leaves the tables and comes back begins where it left."""
    counters = taken({"dns/ns1": Count(5, 500)}, {}, {"dns/ns1": Count(1, 100)})

    assert Count(6, 600) == counters.of("dns", "ns1")


def test_a_pool_counts_all_that_it_sent_on() -> None:
    """Also what its sorry server got, and backends that are gone; and not what another pool of a like name did."""
    counters = taken(
        {"dns/ns1": Count(5, 500), "dns/ns2": Count(1, 10), "dns.x/ns1": Count(90, 90)},
        {"dns/ns1": Count(6, 600), "dns/_sorry": Count(2, 20), "dns.x/ns1": Count(90, 90)},
    )

    assert Count(9, 630) == counters.of_pool("dns")
    assert Count(90, 90) == counters.of_pool("dns.x")
    assert Count(0, 0) == counters.of_pool("other")


@given(st.lists(READINGS, min_size=1, max_size=12))
def test_nothing_goes_backwards(readings: list[dict[str, Count]]) -> None:
    """Whatever the kernel says, no figure of a backend or a pool is ever smaller than it was."""
    counters = Counters()
    before = [Count(0, 0)] * (len(OWNERS) + 2)
    for reading in readings:
        counters.take(reading)
        backends = [counters.of(*owner.split("/")) for owner in OWNERS]
        figures = [*backends, counters.of_pool("dns"), counters.of_pool("web.1")]
        assert all(
            old.packets <= new.packets and old.bytes <= new.bytes for old, new in zip(before, figures, strict=True)
        )
        assert sum(one.packets for one in backends[:3]) == counters.of_pool("dns").packets
        before = figures
