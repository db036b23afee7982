"""What is told of a change: a line, an event, a hook."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest
from pools import backend, config, pool

from nftlb.daemon.announcer import Announcer
from nftlb.health import Change
from nftlb.model import Hooks
from nftlb.service import EventKind

if TYPE_CHECKING:
    from nftlb.daemon.hooks import Call
    from nftlb.service import Event

HOOKS = Hooks(backend_up=("up",), backend_down=("notify", "down"), quorum_down=("page", "me"))
DNS = pool(
    "dns",
    ("192.0.2.53:53/udp", "[2001:db8::53]:53/udp"),
    (backend("ns1", "10.0.0.11:5353"), backend("ns6", "[2001:db8::11]")),
    hooks=HOOKS,
)
DOWN = Change(EventKind.BACKEND_DOWN, "dns", "ns1", "up", "down", "dns: no answer within 1s")
UP = Change(EventKind.BACKEND_UP, "dns", "ns6", "down", "up", "dns: noerror")
QUORUM = Change(EventKind.QUORUM_DOWN, "dns", "", "up", "down", "0 of 2 backends are healthy, the quorum is 1")
DRAINED = Change(EventKind.BACKEND_CHANGED, "dns", "ns1", "admin enabled", "admin drain", "by the operator")


class Heard:
    """Stands for the bus and the hooks; notes in which order they are told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.calls: list[Call] = []
        self.announcer = Announcer(self, self)  # type: ignore[arg-type]

    def publish(self, event: Event) -> None:
        self.events.append(event)

    def run(self, call: Call) -> None:
        self.calls.append(call)


@pytest.mark.parametrize(
    ("change", "level", "line"),
    [
        (DOWN, logging.WARNING, "dns/ns1: down, was up: dns: no answer within 1s"),
        (UP, logging.INFO, "dns/ns6: up, was down: dns: noerror"),
        (
            QUORUM,
            logging.ERROR,
            "pool dns: quorum down, was up: 0 of 2 backends are healthy, the quorum is 1",
        ),
        (DRAINED, logging.INFO, "dns/ns1: admin drain, was admin enabled: by the operator"),
    ],
    ids=["down", "up", "quorum", "drained"],
)
def test_one_line_a_change(change: Change, level: int, line: str, caplog: pytest.LogCaptureFixture) -> None:
    """With what it is about beside it, for machines; the worse, the louder."""
    caplog.set_level(logging.INFO, "nftlb")

    Heard().announcer.tell([change], config(DNS))

    (record,) = caplog.records
    assert (level, line) == (record.levelno, record.getMessage())
    fields = {"event": change.kind, "pool": "dns", "old": change.old, "new": change.new, "reason": change.reason}
    if change.backend:
        fields["backend"] = change.backend
    assert fields == record.fields  # type: ignore[attr-defined]


def test_an_event_for_each() -> None:
    """In order, and whole."""
    heard = Heard()

    heard.announcer.tell([DOWN, QUORUM, UP], config(DNS))

    assert [DOWN, QUORUM, UP] == [
        Change(one.kind, one.pool, one.backend, one.old, one.new, one.reason) for one in heard.events
    ]


def test_a_hook_is_told_everything() -> None:
    """The environment has what happened to whom, where that is, and why."""
    heard = Heard()

    heard.announcer.tell([DOWN], config(DNS))

    (call,) = heard.calls
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


def test_what_a_hook_can_not_be_told_is_empty() -> None:
    """A pool has no address, a backend that keeps the packet's port has none; and a reason has no NUL."""
    heard = Heard()
    strange = Change(EventKind.BACKEND_UP, "dns", "ns6", "down", "up", "said a\0b")

    heard.announcer.tell([QUORUM, strange], config(DNS))

    of_pool, of_backend = (one.environment for one in heard.calls)
    assert ("", "", "") == (of_pool["NFTLB_BACKEND"], of_pool["NFTLB_ADDRESS"], of_pool["NFTLB_PORT"])
    assert ("2001:db8::11", "", "said ab") == (
        of_backend["NFTLB_ADDRESS"],
        of_backend["NFTLB_PORT"],
        of_backend["NFTLB_REASON"],
    )


def test_hooks_only_where_they_are_wanted() -> None:
    """What has no hook, or no pool any more, is logged and published all the same."""
    heard = Heard()
    up = Change(EventKind.QUORUM_UP, "dns", "", "down", "up", "all is well")
    gone = Change(EventKind.BACKEND_DOWN, "gone", "x", "up", "down", "no answer")
    absent = Change(EventKind.BACKEND_DOWN, "dns", "gone", "up", "down", "no answer")

    heard.announcer.tell([DRAINED, up, gone, absent], config(DNS))

    assert 4 == len(heard.events)
    assert [("dns", "gone")] == [one.key for one in heard.calls]
    assert "" == heard.calls[0].environment["NFTLB_ADDRESS"]
