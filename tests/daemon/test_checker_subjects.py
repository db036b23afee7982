"""The subject that the checker gives to a probe: port, source, device and mark of each check."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from typing import Any

import pytest
from checker_world import PING, A, B
from pool_builders import backend, pool

from nftlb.daemon import checker as module


@pytest.mark.parametrize(
    ("health_port", "behind", "listen", "expected"),
    [
        (9000, "10.0.0.1:53", "192.0.2.53:53/udp", 9000),
        (None, "10.0.0.1:5353", "192.0.2.53:53/udp", 5353),
        (None, "10.0.0.1", "192.0.2.53:53/udp", 53),
        (None, "[2001:db8::1]", ("192.0.2.53:53/udp", "[2001:db8::53]:54/udp"), 54),
    ],
)
def test_the_port(health_port: int | None, behind: str, listen: Any, expected: int) -> None:
    """The port of the check; without one, the port of the backend; without both, the port of the listener."""
    health = replace(PING, port=health_port)
    ((_, _, subject),) = module._checks(pool("dns", listen, (backend("b1", behind),), health=(health,)))

    assert expected == subject.port


def test_the_source() -> None:
    """Checks use the pool's source address of the backend's family, and the time-out of the check."""
    four, six = backend("b1", "10.0.0.1:53"), backend("b2", "[2001:db8::1]:53")
    sources = (six.address + 8, four.address + 8)
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    checks = list(module._checks(pool("dns", listen, (four, six), health=(PING,), source_addresses=sources)))

    assert ["10.0.0.9", "2001:db8::9"] == [str(subject.source) for _, _, subject in checks]
    assert {0.5} == {subject.timeout for _, _, subject in checks}
    assert [A, B] == [place for place, _, _ in checks]


def test_the_source_of_a_check_overrides_the_pools() -> None:
    """The source of the check overrides the pool's source, for the families for which the check has an address."""
    four, six = backend("b1", "10.0.0.1:53"), backend("b2", "[2001:db8::1]:53")
    listen = ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp")
    health = (replace(PING, source=(IPv4Address("10.0.0.5"),)), PING)
    made = pool("dns", listen, (four, six), health=health, source_addresses=(six.address + 8, four.address + 8))

    sources = [str(subject.source) for _, _, subject in module._checks(made)]
    assert ["10.0.0.5", "10.0.0.9", "2001:db8::9", "2001:db8::9"] == sources


def test_the_device_and_mark_of_a_check_are_used() -> None:
    """Each check has the device and the mark of its own options."""
    health = (replace(PING, device="eth1"), replace(PING, mark=16), PING)
    made = pool("dns", ("192.0.2.53:53/udp",), (backend("b1", "10.0.0.1:53"),), health=health)

    ways = [(subject.device, subject.mark) for _, _, subject in module._checks(made)]
    assert [("eth1", None), (None, 16), (None, None)] == ways
