"""The report of a change: a line in the log, an event and a hook."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pool_builders import backend, config, pool

from nftlb.daemon import notifier
from nftlb.daemon.notifier import Notifier
from nftlb.health import Change
from nftlb.model import EventKind, Hooks

if TYPE_CHECKING:
    from nftlb.daemon.notifier import HookCall
    from nftlb.service import Event

HOOKS = Hooks(
    backend_up=("up",), backend_down=("notify", "down"), quorum_down=("page", "me"), priority_changed=("moved",)
)
DNS = pool(
    "dns",
    ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp"),
    (backend("ns1", "10.0.0.11:5353"), backend("ns6", "[2001:db8::11]")),
    hooks=HOOKS,
)
DOWN = Change(EventKind.BACKEND_DOWN, "dns", "ns1", "up", "down", "dns: no answer within 1s")
UP = Change(EventKind.BACKEND_UP, "dns", "ns6", "down", "up", "dns: noerror")
QUORUM = Change(EventKind.QUORUM_DOWN, "dns", "", "up", "down", "0 of 2 backends are usable, the quorum is 1")
DRAINED = Change(EventKind.BACKEND_CHANGED, "dns", "ns1", "admin enabled", "admin drain", "by the operator")

MOVED = Change(EventKind.PRIORITY_CHANGED, "dns", "", "1", "2", "priority 1 has 0 of 2 backends usable")


class RecordedReports:
    """Records events and hooks, in the place of the bus and the HookRunner."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: list[HookCall] = []
        self.notifier = Notifier(self, self)  # type: ignore[arg-type]

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def run(self, call: HookCall) -> None:
        self.calls.append(call)


@pytest.mark.parametrize(
    ("change", "level", "line"),
    [
        (DOWN, logging.WARNING, "dns/ns1: down, was up: dns: no answer within 1s"),
        (UP, logging.INFO, "dns/ns6: up, was down: dns: noerror"),
        (
            QUORUM,
            logging.ERROR,
            "pool dns: quorum down, was up: 0 of 2 backends are usable, the quorum is 1",
        ),
        (MOVED, logging.INFO, "pool dns: priority 2, was 1: priority 1 has 0 of 2 backends usable"),
        (DRAINED, logging.INFO, "dns/ns1: admin drain, was admin enabled: by the operator"),
    ],
    ids=["down", "up", "quorum", "priority", "drained"],
)
def test_each_change_is_logged_in_a_line(
    change: Change, level: int, line: str, caplog: pytest.LogCaptureFixture
) -> None:
    """The line has fields for programs, and a level by severity."""
    caplog.set_level(logging.INFO, "nftlb")

    RecordedReports().notifier.report([change], config(DNS))

    (record,) = caplog.records
    assert (level, line) == (record.levelno, record.getMessage())
    fields = {"event": change.kind, "pool": "dns", "old": change.old, "new": change.new, "reason": change.reason}
    if change.backend:
        fields["backend"] = change.backend
    assert fields == record.fields  # type: ignore[attr-defined]


def test_an_event_for_each() -> None:
    """Each change is one complete event, in order."""
    recorded = RecordedReports()

    recorded.notifier.report([DOWN, QUORUM, UP], config(DNS))

    assert [DOWN, QUORUM, UP] == [
        Change(event.kind, event.pool, event.backend, event.old, event.new, event.reason) for event in recorded.events
    ]


def test_the_environment_of_a_hook_is_complete() -> None:
    """The environment of a hook has the event, its subject, the address and the reason."""
    recorded = RecordedReports()

    recorded.notifier.report([DOWN], config(DNS))

    (call,) = recorded.calls
    assert (("dns", "ns1"), ("notify", "down")) == (call.key, call.argv)
    assert {
        "NFTLB_EVENT": "backend_down",
        "NFTLB_POOL": "dns",
        "NFTLB_BACKEND": "ns1",
        "NFTLB_ADDRESS": "10.0.0.11",
        "NFTLB_PORT": "5353",
        "NFTLB_OLD": "up",
        "NFTLB_NEW": "down",
        "NFTLB_REASON": "dns: no answer within 1s",
    } == call.environment


def test_missing_values_of_a_hook_are_empty() -> None:
    """Missing addresses and ports are empty, and the reason has no NUL."""
    recorded = RecordedReports()
    strange = Change(EventKind.BACKEND_UP, "dns", "ns6", "down", "up", "said a\0b")

    recorded.notifier.report([QUORUM, strange], config(DNS))

    of_pool, of_backend = (call.environment for call in recorded.calls)
    assert ("", "", "") == (of_pool["NFTLB_BACKEND"], of_pool["NFTLB_ADDRESS"], of_pool["NFTLB_PORT"])
    assert ("2001:db8::11", "", "said ab") == (
        of_backend["NFTLB_ADDRESS"],
        of_backend["NFTLB_PORT"],
        of_backend["NFTLB_REASON"],
    )


def test_hooks_only_where_they_are_wanted() -> None:
    """A change without a hook or without a pool is logged and published nevertheless."""
    recorded = RecordedReports()
    up = Change(EventKind.QUORUM_UP, "dns", "", "down", "up", "all is well")
    gone = Change(EventKind.BACKEND_DOWN, "gone", "x", "up", "down", "no answer")
    absent = Change(EventKind.BACKEND_DOWN, "dns", "gone", "up", "down", "no answer")

    recorded.notifier.report([DRAINED, up, gone, absent], config(DNS))

    assert 4 == len(recorded.events)
    assert [("dns", "gone")] == [call.key for call in recorded.calls]
    assert "" == recorded.calls[0].environment["NFTLB_ADDRESS"]


def test_a_hook_is_told_the_priorities() -> None:
    """A hook for priorities gets the priority before and the priority that serves."""
    recorded = RecordedReports()
    recorded.notifier.report([MOVED], config(DNS))

    (call,) = recorded.calls
    environment = call.environment
    assert (("moved",), "1", "2") == (call.argv, environment["NFTLB_OLD"], environment["NFTLB_NEW"])


def test_many_changes_do_not_hold_up_the_loop(monkeypatch: pytest.MonkeyPatch) -> None:
    """Other work runs between the reports, which keep their order and the time of the change."""
    monkeypatch.setattr(notifier, "AT_ONCE", 3)
    reports = RecordedReports()
    many = [replace(DOWN, reason=str(number)) for number in range(10)]

    async def test() -> list[int]:
        reports.notifier.report(many, config(DNS))
        reports.notifier.report([UP], config(DNS))
        seen = []
        while len(reports.events) <= len(many):
            seen.append(len(reports.events))
            await asyncio.sleep(0)
        return seen

    assert [3, 6, 9] == asyncio.run(test())
    assert [*map(str, range(10)), UP.reason] == [event.reason for event in reports.events]
    assert 1 == len({event.at for event in reports.events[:10]})
    assert [event.reason for event in reports.events] == [call.environment["NFTLB_REASON"] for call in reports.calls]


def test_the_end_reports_what_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """Changes shortly before the end of the daemon are in the log and in the saved events."""
    monkeypatch.setattr(notifier, "AT_ONCE", 3)
    reports = RecordedReports()

    async def test() -> None:
        reports.notifier.report([DOWN] * 10, config(DNS))
        reports.notifier.close()

    asyncio.run(test())
    assert 10 == len(reports.events)
