"""Single values: how they are read from plain data, and the messages for values that are not allowed."""

from __future__ import annotations

import contextlib
from ipaddress import IPv4Address, IPv6Address
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.config import reading
from nftlb.model import (
    Endpoint,
    Listener,
    Protocol,
    Source,
    SourceKind,
)
from nftlb.model.constraints import DAY
from nftlb.printable import show

if TYPE_CHECKING:
    from collections.abc import Callable

V4 = st.integers(1, 0xDFFFFFFF).map(IPv4Address)
V6 = st.integers(1 << 120, (0xFF << 120) - 1).map(IPv6Address)
PORTS = st.integers(1, 65535)


@given(V4 | V6, st.tuples(PORTS, PORTS), st.sampled_from(Protocol))
def test_a_listener_is_read_from_its_text(
    address: IPv4Address | IPv6Address, ports: tuple[int, int], protocol: Protocol
) -> None:
    """The text of a listener reads as the same listener."""
    listener = Listener(address, min(ports), max(ports), protocol)

    assert listener == reading.read_listener(str(listener))


@given(V4 | V6, PORTS)
def test_an_endpoint_is_read_from_its_text(address: IPv4Address | IPv6Address, port: int) -> None:
    """The text of an endpoint reads as the same endpoint."""
    assert Endpoint(address, port) == reading.read_endpoint(str(Endpoint(address, port)))


@pytest.mark.parametrize(
    ("text", "milliseconds"), [("10ms", 10), ("2s", 2000), ("1m", 60_000), ("24h", 86_400_000), ("000s", 0)]
)
def test_durations_are_milliseconds(text: str, milliseconds: int) -> None:
    """A duration of any unit is a number of milliseconds."""
    assert milliseconds == reading.read_duration(0, DAY, text)


@pytest.mark.parametrize(
    ("read", "found", "message"),
    [
        (reading.read_address, "::", ":: is the unspecified address; allowed: a unicast address"),
        (
            reading.read_address,
            "::ffff:10.0.0.1",
            "::ffff:10.0.0.1 is an IPv4-mapped address; allowed: a unicast address",
        ),
        (reading.read_boolean, 1, "1 is not a boolean; write true; allowed: true or false, without quotes"),
        (reading.read_percent, 50, "50 is not a share; write 50%; allowed: 0% to 100%, in whole per cent"),
        (reading.read_port, True, "true is not a port; allowed: 1 to 65535"),
        (reading.read_port, "53", "53 is not a port; write 53, without quotes; allowed: 1 to 65535"),
    ],
)
def test_a_value_that_is_not_allowed(read: Callable[[object], object], found: object, message: str) -> None:
    """The message has the found value and the allowed values."""
    with pytest.raises(reading.Unfit) as caught:
        read(found)

    assert message == str(caught.value)


@given(st.recursive(st.none() | st.booleans() | st.integers() | st.text(), lambda inner: st.lists(inner, max_size=3)))
def test_readers_only_raise_unfit(found: object) -> None:
    """For any plain data, a reader returns a value or raises `Unfit`."""
    for read in (
        reading.read_address,
        reading.read_api_listen,
        reading.read_boolean,
        reading.read_endpoint,
        reading.read_fallback,
        reading.read_hex,
        reading.read_listener,
        reading.read_percent,
        reading.read_port,
        reading.read_regex,
        reading.read_source_address,
        reading.read_status_codes,
    ):
        with contextlib.suppress(reading.Unfit):
            read(found)


@given(st.text())
def test_shown_values_are_short_and_harmless(text: str) -> None:
    """A value in a message is one short printable line."""
    shown = show(text)

    assert shown.isprintable()
    assert len(shown) <= 6 * 60 + 2


def test_sources_are_read() -> None:
    """A source is a word, an address, or one address per family."""
    v4, v6 = IPv4Address("10.0.0.1"), IPv6Address("2001:db8::1")

    assert Source(SourceKind.KEEP) == reading.read_source_address("keep")
    assert Source(SourceKind.ADDRESS, (v4,)) == reading.read_source_address("10.0.0.1")
    assert Source(SourceKind.ADDRESS, (v6, v4)) == reading.read_source_address(["2001:db8::1", "10.0.0.1"])
