"""The kernel's counters as numbers that never decrease."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from nftlb.daemon.counters import MOST_GONE, Counters
from nftlb.model import DropReason
from nftlb.ruleset import Count

OWNERS = ("dns/ns1", "dns/ns2", "dns/_sorry", "web.1/a")
READINGS = st.dictionaries(
    st.sampled_from(OWNERS), st.builds(Count, packets=st.integers(0, 50), bytes=st.integers(0, 5000))
)


def taken(*readings: dict[str, Count]) -> Counters:
    counters = Counters()
    for reading in readings:
        counters.record(reading)
    return counters


def test_counters_have_the_kernels_values() -> None:
    """A counter has the kernel's value; a backend without a counter has zero."""
    counters = taken({"dns/ns1": Count(3, 300)}, {"dns/ns1": Count(5, 500)})

    assert Count(5, 500) == counters.of("dns", "ns1")
    assert Count(0, 0) == counters.of("dns", "ns2")


def test_a_flush_loses_nothing() -> None:
    """After a flush and a restoration, counters continue from their old values."""
    counters = taken({"dns/ns1": Count(5, 500)}, {"dns/ns1": Count(2, 200)}, {"dns/ns1": Count(3, 300)})

    assert Count(8, 800) == counters.of("dns", "ns1")


def test_the_counter_of_a_backend_that_returns_continues() -> None:
    """The counter of a backend that leaves and returns continues."""
    counters = taken({"dns/ns1": Count(5, 500)}, {}, {"dns/ns1": Count(1, 100)})

    assert Count(6, 600) == counters.of("dns", "ns1")


def test_a_pool_counts_sorry_servers_and_removed_backends() -> None:
    """A pool counts its sorry server and removed backends, and no pool with a similar name."""
    counters = taken(
        {"dns/ns1": Count(5, 500), "dns/ns2": Count(1, 10), "dns.x/ns1": Count(90, 90)},
        {"dns/ns1": Count(6, 600), "dns/_sorry": Count(2, 20), "dns.x/ns1": Count(90, 90)},
    )

    assert Count(9, 630) == counters.of_pool("dns")
    assert Count(90, 90) == counters.of_pool("dns.x")
    assert Count(0, 0) == counters.of_pool("other")


def test_backends_that_left_long_ago_are_forgotten() -> None:
    """The memory for former backends is bounded. Their packets still count for the pool."""
    counters = Counters()
    for number in range(2 * MOST_GONE):
        counters.record({f"dns/ns-{number}": Count(2, 200), "dns/_rate": Count(number, 1)})

    known = [number for number in range(2 * MOST_GONE) if counters.of("dns", f"ns-{number}").packets]
    assert [*range(MOST_GONE - 1, 2 * MOST_GONE)] == known
    assert 4 * MOST_GONE == counters.of_pool("dns").packets
    assert Count(2 * MOST_GONE - 1, 1) == counters.dropped("dns", DropReason.RATE)


@given(st.lists(READINGS, min_size=1, max_size=12))
def test_counters_never_decrease(readings: list[dict[str, Count]]) -> None:
    """No value of a backend or pool ever decreases, whatever the kernel lists."""
    counters = Counters()
    before = [Count(0, 0)] * (len(OWNERS) + 2)
    for reading in readings:
        counters.record(reading)
        backends = [counters.of(*owner.split("/")) for owner in OWNERS]
        figures = [*backends, counters.of_pool("dns"), counters.of_pool("web.1")]
        assert all(
            old.packets <= new.packets and old.bytes <= new.bytes for old, new in zip(before, figures, strict=True)
        )
        assert sum(backend.packets for backend in backends[:3]) == counters.of_pool("dns").packets
        before = figures


def test_dropped_packets_are_no_packets_of_the_pool() -> None:
    """What a guard drops is counted by reason, never decreases, and is not among the packets of the pool."""
    counters = taken(
        {"dns/ns1": Count(5, 500), "dns/_rate": Count(7, 700)}, {"dns/ns1": Count(6, 600), "dns/_rate": Count(2, 200)}
    )

    assert Count(6, 600) == counters.of_pool("dns")
    assert Count(9, 900) == counters.dropped("dns", DropReason.RATE)
    assert Count(0, 0) == counters.dropped("dns", DropReason.FULL)
