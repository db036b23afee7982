"""Ranges of addresses as the elements of a set."""

from __future__ import annotations

from ipaddress import ip_address, ip_network, summarize_address_range
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.ruleset import AddressRanges, Element, merged

SPANS = st.lists(st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], sum(pair))), max_size=12)


@given(SPANS)
def test_merged_spans_have_the_same_addresses(spans: list[tuple[int, int]]) -> None:
    """Merged spans have the same addresses, and neither overlap nor touch."""
    found = merged(spans)

    assert {n for first, last in spans for n in range(first, last + 1)} == {
        n for first, last in found for n in range(first, last + 1)
    }
    assert all(last + 1 < first for (_, last), (first, _) in pairwise(found))


@pytest.mark.parametrize(
    ("first", "last", "text"),
    [
        ("192.0.2.7", "192.0.2.7", "192.0.2.7"),
        ("192.0.2.0", "192.0.2.255", "192.0.2.0/24"),
        ("192.0.2.1", "192.0.2.2", "192.0.2.1-192.0.2.2"),
        ("192.0.2.0", "192.0.2.2", "192.0.2.0-192.0.2.2"),
        ("0.0.0.0", "255.255.255.255", "0.0.0.0/0"),  # noqa: S104 - the first address
        ("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff", "2001:db8::/32"),
        ("::ffff:0:1", "::ffff:0:1", "::ffff:0.0.0.1"),
    ],
)
def test_keys_are_those_of_nft(first: str, last: str, text: str) -> None:
    """An address, a prefix or a range has the text that nft lists."""
    low, high = ip_address(first), ip_address(last)
    assert [Element(text)] == list(AddressRanges(((int(low), int(high)),), len(low.packed)))


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1))
def test_a_range_that_is_a_prefix_is_written_as_a_prefix(one: int, other: int) -> None:
    """A text has a / exactly if the range is a prefix of more than one address."""
    first, last = sorted((one, other))
    (element,) = AddressRanges(((first, last),), 4)
    whole = list(summarize_address_range(ip_address(first), ip_address(last)))

    assert (len(whole) == 1 and first != last) is ("/" in element.key)
    if "/" in element.key:
        assert whole == [ip_network(element.key)]
