"""How long the wishes for absent addresses are kept over restarts, also if the clock of the host jumps."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest

from nftlb.config import parse_config, resolve
from nftlb.health import Memory, PoolMemory, PoolStates
from nftlb.health.absent import KEPT, KEPT_AFTER_START
from nftlb.health.memory import read_memory, write_memory
from nftlb.model import Admin, BackendChange, Config, FoundServer, HostLookup

NOON = datetime(2026, 1, 2, 12, tzinfo=UTC)
NAME = "ns-10.0.0.2"
DAY, HOUR = 86400.0, 3600.0


def answered(*addresses: str) -> Config:
    """A pool with one name, and this answer of DNS."""
    file = parse_config("pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns: ns.lab:53}}}")
    return resolve(file, {HostLookup("ns.lab"): tuple(FoundServer(ip_address(each)) for each in addresses)}).config


def later(seconds: float) -> datetime:
    return NOON + timedelta(seconds=seconds)


def saved(after: float, at: datetime) -> dict[str, PoolMemory]:
    """The saved state, `after` seconds after the departure of a drained address. `at`: the time of day of the save."""
    states = PoolStates.begin(answered("10.0.0.1", "10.0.0.2"), {}, 0.0)
    states.set_by_operator("dns", [NAME], BackendChange(admin=Admin.DRAIN), 0.0, NOON)
    states, _ = states.with_config(answered("10.0.0.1"), 0.0)
    states.memory(0.0, NOON)
    return dict(read_memory(write_memory(Memory(format=1, pools=states.memory(after, at)))).pools)


def left(memory: dict[str, PoolMemory], at: datetime | None) -> float | None:
    """The seconds for which a daemon that starts now keeps the wish; None if it has none."""
    absent = PoolStates.begin(answered("10.0.0.1"), memory, 50.0, at).pools["dns"].absent
    return absent[NAME].until - 50.0 if NAME in absent else None


@pytest.mark.parametrize(
    ("after", "at", "start", "expected"),
    [
        pytest.param(0, 0, 0, DAY, id="at-once"),
        pytest.param(0, 0, 20 * HOUR, 4 * HOUR, id="without-the-daemon"),
        pytest.param(20 * HOUR, 20 * HOUR, 20 * HOUR, 4 * HOUR, id="with-the-daemon"),
        pytest.param(20 * HOUR, 20 * HOUR, 22 * HOUR, 2 * HOUR, id="both"),
        pytest.param(DAY - 1, DAY - 1, DAY - 1, HOUR, id="an-hour-at-least"),
        pytest.param(20 * HOUR, 20 * HOUR + 9000 * DAY, 9000 * DAY + 21 * HOUR, 3 * HOUR, id="set-before-the-save"),
        pytest.param(20 * HOUR, 20 * HOUR, 9000 * DAY, HOUR, id="ahead-at-the-start"),
        pytest.param(20 * HOUR, 20 * HOUR, -9000 * DAY, DAY, id="behind-at-the-start"),
        pytest.param(DAY + 1, DAY + 1, DAY + 1, None, id="over"),
        pytest.param(DAY + 1, -9000 * DAY, -9000 * DAY, None, id="over-and-set-back"),
    ],
)
def test_the_time_over_a_restart(after: float, at: float, start: float, expected: float | None) -> None:
    """The time goes on. A clock that jumps neither ends it at once, nor makes it longer than a day."""
    assert (DAY, HOUR) == (KEPT, KEPT_AFTER_START)
    assert expected == left(saved(after, later(at)), later(start))


def test_clocks_that_are_not_read_at_once() -> None:
    """Restarts, with some milliseconds between the readings of the two clocks, do not change the saved time."""
    memory = first = saved(0.0, later(0.4))
    for number in range(10):
        states = PoolStates.begin(answered("10.0.0.1"), memory, number + 0.003, later(number + 0.001))
        memory = states.memory(number + 0.005, later(number + 0.009))
    assert first["dns"].backends[NAME] == memory["dns"].backends[NAME]


@pytest.mark.parametrize("at", [NOON, None])
def test_a_state_without_the_time(at: datetime | None) -> None:
    """The state of an earlier version is read, and the day begins."""
    of_dns = saved(0.0, NOON)["dns"]
    old = of_dns.backends[NAME].model_copy(update={"kept_until": None})
    memory = of_dns.model_copy(update={"backends": {NAME: old}})
    assert "kept_until" not in memory.text
    assert DAY == left({"dns": memory}, at)
