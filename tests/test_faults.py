"""What of the world does not work: told when it begins and ends, shown between."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from nftlb.daemon.faults import Faults
from nftlb.service import EventKind

if TYPE_CHECKING:
    import pytest

    from nftlb.service import Event


def test_a_fault_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    """However often it is found, one line in the log and one event, until the message is another one."""
    told: list[Event] = []
    faults = Faults(told.append)

    faults.set("state_dir", "disk full")
    faults.set("state_dir", "disk full")
    faults.set("state_dir", "read-only")

    assert ["state_dir: disk full", "state_dir: read-only"] == caplog.messages
    assert [(EventKind.FAULT, "disk full"), (EventKind.FAULT, "read-only")] == [(one.kind, one.reason) for one in told]
    assert [{"what": "state_dir"}] * 2 == [one.details for one in told]


def test_a_fault_lasts_until_it_is_cleared(caplog: pytest.LogCaptureFixture) -> None:
    """It is shown since when it began, also if the message changes, and no more once it is gone."""
    caplog.set_level(logging.INFO, "nftlb")
    told: list[Event] = []
    faults = Faults(told.append)
    faults.set("api", "in use")
    (began,) = faults.all()
    faults.set("api", "not there")
    faults.set("kernel", "refused")

    assert [("api", "not there"), ("kernel", "refused")] == [(one.what, one.message) for one in faults.all()]
    assert began.since == faults.all()[0].since

    faults.clear("api")
    assert ["kernel"] == [one.what for one in faults.all()]
    assert (EventKind.FAULT_GONE, {"what": "api"}) == (told[-1].kind, told[-1].details)
    assert "api: works again" == caplog.messages[-1]


def test_what_works_is_not_told_to_work() -> None:
    """Clearing what was no fault is no event."""
    told: list[Event] = []
    faults = Faults(told.append)

    faults.clear("api")

    assert [] == told
    assert () == faults.all()
