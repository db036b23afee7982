"""`nftlb history`, `nftlb ruleset` and `nftlb status --problems`: their text and JSON."""

from __future__ import annotations

import json
import subprocess
import time
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from fake_api import Api, backend, pool, status, troubled, with_members
from installed_command import NFTLB

from nftlb.cli import events, main
from nftlb.service import Event

pytest_plugins = ("cli_fixtures",)

NOON = datetime(2026, 3, 1, 12, 0, tzinfo=UTC)


def event(kind: str, **changed: Any) -> dict[str, Any]:
    made = Event.model_validate({"kind": kind, "at": NOON, **changed})
    found: dict[str, Any] = made.model_dump(mode="json")
    return found


@pytest.fixture(autouse=True)
def utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()


def test_history(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest event is last; who did it is shown; all text from the daemon is harmless."""
    kept = [
        event(
            "backend_changed", pool="dns", backend="ns1", new="drain", details={"who": "root", "from": "unix socket"}
        ),
        event("operated", details={"who": "\x1b[2Jroot", "from": ["a", 1], "what": "", "result": "no\nroom"}),
        event("backend_down", pool="dns", backend="ns1", old="up", new="down", reason="no answer\x1b[2J"),
    ]
    api.answers["GET", "/api/v1/history?limit=50"] = 200, {"events": kept}
    assert 0 == main(["history"])
    assert [
        "2026-03-01 12:00:00  backend_down      dns/ns1  up -> down  (no answer\\x1b[2J)",
        "2026-03-01 12:00:00  operated          who=\\x1b[2Jroot  from=['a', 1]  result=no\\nroom",
        "2026-03-01 12:00:00  backend_changed   dns/ns1  drain  who=root  from=unix socket",
    ] == capsys.readouterr().out.splitlines()

    path = "/api/v1/history?pool=dns&backend=ns1&kind=backend_down&limit=3"
    api.answers["GET", path] = 200, {"events": kept[2:]}
    assert 0 == main(["history", "dns/ns1", "--kind", "backend_down", "--limit", "3", "--json"])
    assert kept[2:] == [json.loads(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.parametrize(
    ("where", "query", "message"),
    [
        ("dsn", "pool=dsn", "dsn: no such pool; did you mean dns?\n"),
        ("dns/ns3", "pool=dns&backend=ns3", "dns/ns3: no such backend; did you mean ns2?\n"),
    ],
)
def test_events_of_unknown_names(
    where: str, query: str, message: str, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 1, and a similar name. A name that was removed and still has events is known to the history."""
    kept = api.answers["GET", f"/api/v1/history?{query}&limit=50"] = 200, {"events": []}
    assert 1 == main(["history", where])
    assert ("", message) == tuple(capsys.readouterr())
    assert 1 == main(["events", where])
    assert ("", message) == tuple(capsys.readouterr())

    kept[1]["events"].append(event("backend_down", pool="dns"))
    assert 0 == main(["history", where])
    assert "backend_down" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["archive", "www"])
@pytest.mark.parametrize("command", ["events", "history"])
def test_events_of_collectors_and_names(
    command: str, name: str, api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Collectors, and names whose addresses come from DNS, have events. Before the first event, they are known too."""

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(events, "time", SimpleNamespace(sleep=stop))
    api.show(with_members())
    api.answers["GET", f"/api/v1/history?pool=dns&backend={name}&limit=50"] = 200, {"events": []}
    api.answers["GET", "/api/v1/history?limit=1"] = 200, {"events": []}
    api.answers["GET", "/api/v1/events"] = 200, b"data: " + json.dumps(event("operated")).encode()
    assert 0 == main([command, f"dns/{name}"])
    assert "" == capsys.readouterr().err


def test_history_of_a_removed_pool_without_events_of_a_kind(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The pool is known if there are events of another kind: nothing is printed, with status 0."""
    api.answers["GET", "/api/v1/history?pool=old&kind=swap&limit=50"] = 200, {"events": []}
    kept = api.answers["GET", "/api/v1/history?pool=old&limit=1"] = 200, {"events": [event("reload", pool="old")]}
    assert 0 == main(["history", "old", "--kind", "swap"])
    assert ("", "") == tuple(capsys.readouterr())
    kept[1]["events"].clear()
    assert 1 == main(["history", "old", "--kind", "swap"])
    assert ("", "old: no such pool; known: dns\n") == tuple(capsys.readouterr())


def test_events_of_an_unknown_kind(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 at once, with the kinds that the daemon has. `events` does not wait for such an event."""
    refusal = {"error": "kind: bad is not a kind of event; allowed: backend_up"}
    api.answers["GET", "/api/v1/history?kind=bad&limit=1"] = 400, refusal
    assert 1 == main(["events", "--kind", "bad"])
    assert ("", f"nftlb: {refusal['error']}\n") == tuple(capsys.readouterr())


@pytest.mark.parametrize(("kept", "id_"), [([event("reload", id=41)], "41"), ([], "0")])
def test_events_have_no_gap(
    kept: list[Any], id_: str, api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A stream that ends before its first event is continued at the newest event, and status 503 is only a pause."""
    ready = b"data: " + json.dumps(event("swap", id=42)).encode() + b"\n\n"
    answers = iter([(200, b": nftlb\n\n"), (503, {"error": "too many"}), (200, b"id: 42\n" + ready), (200, b":\n\n")])

    def pause(_: float) -> None:
        if (answer := next(answers, None)) is None:
            raise KeyboardInterrupt
        api.answers["GET", "/api/v1/events"] = answer

    monkeypatch.setattr(events, "time", SimpleNamespace(sleep=pause))
    api.answers["GET", "/api/v1/history?limit=1"] = 200, {"events": kept}
    pause(0)
    assert 0 == main(["events"])
    out, error = capsys.readouterr()
    assert "2026-03-01 12:00:00  swap\n" == out
    assert [
        "nftlb: the daemon refused: too many; for details see `nftlb status` and the daemon's log; trying again"
    ] == (error.splitlines())
    assert [id_, id_, id_, "42"] == api.last_events


def test_events_of_one_of_several_backends(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """A change of several backends is an event of each of them. A line names the first five."""
    found = [
        event("operated", pool="dns", id=number, details={"who": "root", "what": "drain", "backends": names})
        for number, names in enumerate(("ns1, ns2", "ns11, ns2", "ns2, ns3, ns4, ns5, ns6, ns7, ns1"))
    ]
    stream = b"".join(b"id: %d\ndata: %s\n\n" % (one["id"], json.dumps(one).encode()) for one in found)
    api.answers["GET", "/api/v1/events"] = 200, stream
    api.answers["GET", "/api/v1/history?limit=1"] = 200, {"events": []}

    def stop(_: float) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(events, "time", SimpleNamespace(sleep=stop))
    assert 0 == main(["events", "dns/ns1"])
    begin = "2026-03-01 12:00:00  operated          dns  who=root  what=drain  backends="
    assert [f"{begin}ns1, ns2", f"{begin}ns2, ns3, ns4, ns5, ns6 and 2 more"] == capsys.readouterr().out.splitlines()


def test_events_end_with_their_reader(api: Api) -> None:
    """As in `nftlb events | head -1`: the command ends with `head`, and not at the next event."""
    api.answers["GET", "/api/v1/history?limit=1"] = 200, {"events": []}
    api.answers["GET", "/api/v1/events"] = 200, b": nothing happens\n\n"
    with subprocess.Popen([NFTLB, "events"], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.close()
        assert 141 == process.wait(60)


def test_ruleset(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The text of the API, or that text in JSON."""
    text = "table ip nftlb {\n}\n"
    api.answers["GET", "/api/v1/ruleset"] = 200, text.encode()
    assert 0 == main(["ruleset"])
    assert (text, "") == tuple(capsys.readouterr())
    assert 0 == main(["ruleset", "--json"])
    assert {"ruleset": text} == json.loads(capsys.readouterr().out)
    del api.answers["GET", "/api/v1/ruleset"]
    assert 1 == main(["ruleset"])


def test_changes_of_the_ruleset(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The newest change is last, with its local time, its reason and its lines; escape sequences are harmless."""
    changes = [
        {"at": "2026-03-01T12:00:05Z", "reason": "dns/ns1 down", "lines": ["- rule a\x1b", "+ rule b"], "cut": True},
        {"at": "2026-03-01T12:00:00Z", "reason": "start", "lines": ["+ table"], "cut": False},
    ]
    api.answers["GET", "/api/v1/ruleset/changes"] = 200, {"changes": changes}
    assert 0 == main(["ruleset", "--changes"])
    assert (
        "2026-03-01 12:00:00  start\n+ table\n\n"
        "2026-03-01 12:00:05  dns/ns1 down\n- rule a\\x1b\n+ rule b\n... and more lines\n\n" == capsys.readouterr().out
    )
    assert 0 == main(["ruleset", "--changes", "--json"])
    assert {"changes": changes} == json.loads(capsys.readouterr().out)
    api.answers["GET", "/api/v1/ruleset/changes"] = 200, {"changes": "x"}
    assert 4 == main(["ruleset", "--changes"])


def test_problems(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The faults, and the backends that get no packets and do not stand by; else a line that there are none."""
    api.show(troubled())
    assert 0 == main(["status", "--problems"])
    lines = capsys.readouterr().out.splitlines()
    assert "! kernel: its rules are not as wanted: Operation not permitted" in lines
    assert ["dns/ns2", "dns/ns3"] == [line.split()[0] for line in lines if line.startswith("dns/")]

    api.show(status(pools=(pool("sip", backends=(backend(), backend("ns2", 2, in_rotation=False, standby=True))),)))
    assert 0 == main(["status", "--problems"])
    assert "no problems; all backends are in service or stand by" == capsys.readouterr().out.splitlines()[-1]
    assert 2 == main(["status", "--problems", "--json"])


def test_problems_of_one_pool(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The problems of other pools are left out."""
    down = pool("sip", backends=(backend(up=False, in_rotation=False),), ready=False, healthy=0)
    api.show(status(pools=(pool(), down)))
    assert 0 == main(["status", "dns", "--problems"])
    assert "sip" not in capsys.readouterr().out


def test_since_is_that_of_the_admin_state(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """SINCE is the age of the drain, if the drain is younger than the health."""
    document = json.loads(status().model_dump_json())
    document["pools"][0]["backends"][0]["admin_since"] = datetime.now(UTC).isoformat()
    api.answers["GET", "/api/v1/status"] = 200, document
    assert 0 == main(["status"])
    rows = [line.split() for line in capsys.readouterr().out.splitlines() if line.startswith("  ns")]
    assert rows[0][8].endswith("s")
    assert "d" in rows[1][8]
