"""`nftlb status`, and the text that it shares with `nftlb top`: tables, numbers, ages, colours."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pytest
from fake_api import NOW, Api, backend, fake_api, pool, status, troubled
from hypothesis import given, settings
from hypothesis import strategies as st

from nftlb.cli import main
from nftlb.cli.status import status_text
from nftlb.cli.terminal import (
    Cell,
    Colour,
    Column,
    TextStyle,
    age_text,
    aligned_lines,
    number_text,
    output_style,
)
from nftlb.client import StatusView, read_status_view
from nftlb.service import CollectorStatus, Fault, GuardStatus, NameStatus

if TYPE_CHECKING:
    from nftlb.service import Status


pytest_plugins = ("cli_fixtures",)

STATUS = ("GET", "/api/v1/status")


def seen(shown: Status) -> StatusView:
    return read_status_view(shown.model_dump(mode="json"))


def text(shown: Status, **look: Any) -> str:
    found = seen(shown)
    return status_text(found, found.pools, NOW, TextStyle(**look))


CALM = """\
nftlb 0.1.0, ready, running for 3d1h (pid 42)

dns  ready for 3d1h, 2/2 in service (quorum 1), 24.7k packets
  192.0.2.53:53/udp, [2001:db8::53]:53/udp
  BACKEND  ADDRESS         STATE  ADMIN    WT  SHARE  PACKETS  SINCE  REASON
  ns1      10.0.0.11:5353  ✓ up   enabled   1  50.0%    12.3k  2h13m  noerror in 0.4 ms
  ns2      10.0.0.12:5353  ✓ up   enabled   1  50.0%    12.3k  2h13m  noerror in 0.4 ms
"""


def test_dropped_packets_are_shown() -> None:
    """A pool with a guard has a line with what was dropped, by reason."""
    guards = (GuardStatus(rate=12345, banned=7, denied=0, full=1), GuardStatus(rate=0, banned=0, denied=0, full=0))
    lines = text(status(pools=[pool("a", guard=guards[0]), pool("b", guard=guards[1]), pool("c")])).splitlines()

    shown = [line for line in lines if "guard:" in line]
    assert ["  guard: dropped 12.3k above the rate, 7 banned, 1 no room", "  guard: dropped no packets"] == shown


NAMED = """\
  ns is ns.example.com: 2 backends, answered 20s ago, asked again in 40s
  127.0.0.1:53 is left out: a loopback address
  far is SRV _dns._udp.example.com: 1 backend, saved by an earlier run
  far-10.0.0.1-53 is absent; the operator had set: drain, weight 3
  far-10.0.0.2-53 is absent; the operator had set: drain, weight 3
  far-10.0.0.3-53 is absent; the operator had set: drain, weight 3
  far-10.0.0.4-53 is absent; the operator had set: drain, weight 3
  far-10.0.0.5-53 is absent; the operator had set: drain, weight 3
  2 more are absent that the operator had changed
  new is new.example.com: 0 backends, not answered yet, asked again in 2s
"""


def test_names() -> None:
    """Each name has a line with its backends and the age of its answer, and lines for addresses left out or kept."""

    def name(name: str, lookup: str, *backends: str, **changed: Any) -> NameStatus:
        given = {"answered": None, "expires": None, "trouble": "", "left_out": ()}
        return NameStatus(name=name, lookup=lookup, backends=backends, **{**given, **changed})

    left_out = ("127.0.0.1:53 is left out: a loopback address",)
    kept = {f"far-10.0.0.{last}-53": "drain, weight 3" for last in range(1, 8)}
    ago, later = NOW - timedelta(seconds=20), NOW + timedelta(seconds=40)
    names = (
        name("ns", "ns.example.com", "ns1", "ns2", answered=ago, expires=later, left_out=left_out),
        name("far", "SRV _dns._udp.example.com", "far-1", kept=kept),
        name("new", "new.example.com", expires=NOW + timedelta(seconds=2)),
    )

    assert NAMED in text(status(pools=(pool(names=names),)))


def test_a_pool_without_backends() -> None:
    """A pool whose names have no answer yet is shown too."""
    shown = status(ready=False, pools=(pool(backends=(), ready=False, healthy=0, mode="fallback", priority=None),))

    assert "dns  not ready for 3d1h, 0/0 in service (quorum 1), fallback, 24.7k packets" in text(shown)


TROUBLED = """\
nftlb 0.1.0, not ready, running for 3d1h (pid 42)
! kernel: its rules are not as wanted: Operation not permitted
! configuration: refused 5m ago; the previous one stays in use: /etc/nftlb/pools.yaml
    /etc/nftlb/pools.yaml:3:5: pools.dns.lissen: unknown key
! state_dir: No space left on device (for 1m30s)
! pool dns: not ready: 1 usable, 3 needed
! pool dns: panic: too few backends are up, so all enabled backends are used
! pool dns: 2 of 4 down: ns2, ns4

dns  not ready for 3d1h, 2/4 in service, 1 usable (quorum 3), panic, 24.7k packets
  192.0.2.53:53/udp, [2001:db8::53]:53/udp
  BACKEND  ADDRESS         STATE         ADMIN         WT  SHARE  PACKETS  SINCE
  ns1      10.0.0.11:5353  ✓ up          enabled        1  50.0%    12.3k  2h13m
  ns2      10.0.0.12:5353  ✗ down        enabled        3   0.0%    12.3k  2h13m
    no answer within 1s
  ns3      10.0.0.13:5353  ○ up, idle    drain          1   0.0%    12.3k  2h13m
  ns4      10.0.0.14       ✗ down, used  maintenance…   1  50.0%    12.3k  2h13m
    refused
"""


def test_status_without_faults() -> None:
    """A line for the daemon, then each pool and its backends, with a column of reasons if it fits."""
    assert CALM == text(status(), width=100)


def test_status_with_faults() -> None:
    """Faults are first; at 80 columns the reasons of backends that are down have separate lines."""
    assert TROUBLED == text(troubled(), width=80)


STANDBY = """\
! pool dns: priority 2 serves instead of 1; a lower priority takes over in 7s

dns  ready for 3d1h, 1/2 in service, 2 usable (quorum 1), priority 2, 24.7k packets
  192.0.2.53:53/udp, [2001:db8::53]:53/udp
  BACKEND  ADDRESS         STATE      ADMIN    WT  PRIO   SHARE  PACKETS  SINCE
  ns1      10.0.0.11:5353  ○ standby  enabled   1     1    0.0%    12.3k  2h13m
  ns2      10.0.0.12:5353  ✓ up       enabled   1     2  100.0%    12.3k  2h13m
"""


def test_status_with_priorities() -> None:
    """A pool with several priorities has a column for them, and the status says which serves instead of the lowest."""
    behind = (backend("ns1", standby=True, in_rotation=False, share=0.0), backend("ns2", 2, priority=2, share=1.0))
    shown = pool(backends=behind, priority=2, preempts_at=NOW + timedelta(seconds=7))

    assert STANDBY == text(status(pools=(shown,)), width=80).partition("\n")[2]
    shared = pool(backends=behind, priority=None, min_healthy="2")
    text_ = "! pool dns: no priority serves alone (min_healthy 2), so all usable backends are used"
    assert text_ in text(status(pools=(shared,)), width=100)
    calm = pool(backends=behind, priority=1)
    assert "!" not in text(status(pools=(calm,)), width=100)


ANSWERED = """\
  BACKEND  ADDRESS         STATE   ADMIN    WT  SHARE  PACKETS  ANSWERED  SINCE
  ns1      10.0.0.11:5353  ✓ up    enabled   1  50.0%    12.3k     99.5%  2h13m
  ns2      10.0.0.12:5353  ✗ down  enabled   1   0.0%    12.3k         -  2h13m
"""


COPIES = """\
  BACKEND  ADDRESS         STATE  ADMIN    WT  SHARE  PACKETS  COPIES  ANSWERED  SINCE
  ns1      10.0.0.11:5353  ✓ up   enabled   1  50.0%    12.3k    1234     99.5%  2h13m
"""


def test_status_with_copies_of_templates() -> None:
    """A pool with `templates` has a column for the copies that each backend got besides its packets."""
    seen = status(pools=(pool(backends=(backend("ns1", copies=1234, answered=0.995, reason=""),)),))

    assert text(seen, width=90).endswith(COPIES)


def test_status_with_counted_replies() -> None:
    """A pool whose replies are counted has a column for the share of answered packets."""
    behind = (backend("ns1", answered=0.995), backend("ns2", 2, up=False, in_rotation=False, share=0.0, reason=""))

    assert text(status(pools=(pool(backends=behind),)), width=84).endswith(ANSWERED)


def test_status_with_collectors() -> None:
    """Each collector has a line with its copies; a collector that is down is among the faults."""
    since = NOW - timedelta(minutes=5)
    archive = CollectorStatus(
        name="archive", address="10.0.9.9", port=9995, one_in=1, up=True, since=since, reason="icmp: fine",
        packets=2500, bytes=250000, checks=(),
    )  # fmt: skip
    sample = archive.model_copy(update={"name": "sample", "one_in": 10, "up": False, "reason": "icmp: no answer"})
    lines = text(status(pools=(pool(collectors=(archive, sample)),)), width=120, unicode=False)
    assert "  copies to archive 10.0.9.9:9995  + up for 5m, 2500 packets\n" in lines
    assert "  copies to sample 10.0.9.9:9995, 1 in 10  x down for 5m, 2500 packets, icmp: no answer\n" in lines
    assert "pool dns: no copies to sample, which is down" in lines


def test_status_in_ascii() -> None:
    """For a terminal without Unicode."""
    shown = text(troubled(), width=80, unicode=False)
    assert shown.isascii()
    assert "x down, used  maintenan..." in shown


def test_status_in_colour_has_the_same_text() -> None:
    """Without its colours the text is the same."""
    coloured = text(troubled(), width=80, colour=True)
    assert "\x1b[31m✗ down\x1b[0m" in coloured
    for style in ("0", *Colour):
        coloured = coloured.replace(f"\x1b[{style}m", "")
    assert TROUBLED == coloured


@pytest.mark.parametrize("width", [80, 200])
def test_status_of_many_backends(width: int) -> None:
    """With 300 backends, long names and IPv6, no line is wider than the terminal; backends down are counted first."""
    many = tuple(
        backend(f"resolver-{i:03}.region-{i % 7}.example.net", i, address=f"2001:db8:aaaa:bbbb:cccc:dddd:eeee:{i:x}",
                up=i % 50 != 7, in_rotation=i % 50 != 7, reason="no answer within 1s: " + "very " * 30)
        for i in range(300)
    )  # fmt: skip
    lines = text(status(pools=(pool(backends=many, healthy=294),)), width=width).splitlines()
    assert [] == [line for line in lines if len(line) > width and not line.startswith("!")]
    assert "! pool dns: 6 of 300 down: resolver-007.region-0.example.net, " in lines[1]
    assert lines[1].endswith(" and 1 more")
    assert 300 == sum("resolver" in line for line in lines[2:])


def test_status_command(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """In a pipe it is neither cut nor coloured; status 0 also with backends down; shows only the given pools."""
    api.show(status(pools=(pool("dns"), pool("sip", ready=False, backends=(backend("s1", up=False),)))))
    assert 0 == main(["status"])
    whole = capsys.readouterr().out
    assert ["dns", "sip"] == [line.split()[0] for line in whole.splitlines() if "ready for" in line]
    assert "\x1b" not in whole
    assert 0 == main(["status", "sip"])
    assert ["sip"] == [line.split()[0] for line in capsys.readouterr().out.splitlines() if "ready for" in line]


@pytest.mark.parametrize("command", [["status"], ["status", "--problems"], ["top", "--once", "--interval", "0.1"]])
def test_problems_of_other_pools_are_left_out(command: list[str], api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A command for one pool shows only this pool and its problems."""
    down = backend("s1", up=False, in_rotation=False)
    faults = (
        Fault(what="route to 10.0.0.1", message="there is no route, backend dns/b1", since=NOW, pools=("dns",)),
        Fault(what="IPv4 forwarding", message="this host does not forward", since=NOW, pools=("web", "sip")),
        Fault(what="state_dir", message="full", since=NOW),
    )
    pools = (pool("dns", ready=False, lacking=("no eth7",)), pool("sip", backends=(down,)), pool("web"))
    api.show(status(pools=pools, faults=faults))
    assert 0 == main([*command, "sip"])
    lines = capsys.readouterr().out
    assert "! pool sip: 1 of 1 down: s1" in lines
    assert "dns" not in lines
    assert ("! IPv4 forwarding: " in lines, "! state_dir: full" in lines) == (True, True)
    assert 0 == main(command)
    assert "! route to 10.0.0.1: there is no route, backend dns/b1 (for " in capsys.readouterr().out


def test_status_as_json(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Prints the daemon's whole document, unknown keys too, or only the given pools in it."""
    api.show(status(pools=(pool("dns"), pool("sip"))))
    document = api.answers[STATUS][1]
    document["news"] = "of a newer daemon"
    assert 0 == main(["status", "--json"])
    assert document == json.loads(capsys.readouterr().out)
    assert 0 == main(["status", "--json", "sip"])
    assert {**document, "pools": document["pools"][1:]} == json.loads(capsys.readouterr().out)


LABELS = """\
  labels: site=fra
  BACKEND  ADDRESS         STATE  ADMIN    WT  SHARE  PACKETS  SINCE  LABELS             REASON
  ns1      10.0.0.11:5353  ✓ up   enabled   1  50.0%    12.3k  2h13m  -                  noerror in 0.4 ms
  ns2      10.0.0.12:5353  ✓ up   enabled   1  50.0%    12.3k  2h13m  rack=r2, site=ams  noerror in 0.4 ms
"""


def labelled() -> Status:
    """A pool with labels, one of whose backends has its own, and a pool without."""
    behind = (backend("ns1", labels={"site": "fra"}), backend("ns2", 2, labels={"site": "ams", "rack": "r2"}))
    return status(pools=(pool(labels={"site": "fra"}, backends=behind), pool("sip")))


def test_labels() -> None:
    """The labels of a pool have a line; a column has those of backends that differ. There are none without labels."""
    assert LABELS in text(labelled(), width=160)
    assert "LABELS" not in text(status(pools=(pool("sip"),)))


NARROW_LABELS = """\
  BACKEND  ADDRESS         STATE  ADMIN    WT  SHARE  PACKETS  SINCE
  ns1      10.0.0.11:5353  ✓ up   enabled   1  50.0%    12.3k  2h13m
  ns2      10.0.0.12:5353  ✓ up   enabled   1  50.0%    12.3k  2h13m
    rack=r2, site=ams
"""


@pytest.mark.parametrize("width", range(40, 130))
def test_labels_on_a_narrow_terminal(width: int) -> None:
    """Labels are never cut: if their column has no room, they have separate lines."""
    shown = text(labelled(), width=width)
    assert "rack=r2, site=ams" in shown
    assert max(map(len, shown.splitlines())) <= max(width, 79)
    assert (NARROW_LABELS in shown) is (68 <= width < 87)


def test_status_by_label(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Only backends with all labels are shown, and only their pools; the counts of a pool are those of all backends."""
    api.show(labelled())
    assert 0 == main(["status", "--label", "site=ams", "--label", "rack=r2"])
    out = capsys.readouterr().out
    assert ("  ns2 " in out, "  ns1 " in out, "sip" in out, "2/2 in service" in out) == (True, False, False, True)
    assert 0 == main(["status", "--problems", "--label", "site=ams"])
    assert "no problems" in capsys.readouterr().out
    assert 0 == main(["status", "--json", "--label", "site=ams"])
    (found,) = json.loads(capsys.readouterr().out)["pools"]
    assert ["ns2"] == [shown["name"] for shown in found["backends"]]
    assert 1 == main(["status", "sip", "--label", "site=ams"])


@pytest.mark.parametrize("command", ["status", "top"])
def test_unknown_pool(command: str, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and a similar name."""
    api.show(status())
    assert 1 == main([command, "dsn"])
    assert ("", "dsn: no such pool; did you mean dns?\n") == tuple(capsys.readouterr())


def test_status_imports_no_slow_modules() -> None:
    """The command imports neither pydantic nor YAML nor aiohttp: each takes longer than all other imports."""
    program = "import sys; from nftlb.cli import main; main(); print(*sys.modules)"
    with fake_api() as served:
        done = subprocess.run(
            [sys.executable, "-c", program, "status", "--url", served.where], capture_output=True, text=True, check=True
        )
    modules = set(done.stdout.splitlines()[-1].split())
    assert set() == {"pydantic", "yaml", "aiohttp", "asyncio", "nftlb.model", "nftlb.config"} & modules


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        (timedelta(seconds=-5), "0s"),
        (timedelta(seconds=59.9), "59s"),
        (timedelta(minutes=1), "1m"),
        (timedelta(minutes=61), "1h1m"),
        (timedelta(days=400, minutes=59), "400d"),
    ],
)
def test_age(span: timedelta, expected: str) -> None:
    """The two largest units; never negative, also if the clock is behind that of the daemon."""
    assert expected == age_text(span.total_seconds())


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (9999, "9999"), (10_000, "10.0k"), (99_949, "99.9k"), (99_960, "100k"),
     (999_600, "1.0M"), (2**64, "18.4E")]
)  # fmt: skip
def test_short(number: float, expected: str) -> None:
    """At most five characters."""
    assert expected == number_text(number)


@settings(deadline=None)
@given(st.floats(0, 9e20))
def test_short_is_short(number: float) -> None:
    """At most five characters for any number."""
    assert len(number_text(number)) <= 5


def test_columns_are_cut_or_left_out() -> None:
    """The last column that may be cut is cut first; a `whole` column is left out instead."""
    columns = (Column("A", least=3), Column("B"), Column("C", least=0, whole=True))
    row = [Cell("aaaaaa"), Cell("bb"), Cell("cc")]
    assert ["A       B   C", "aaaaaa  bb  cc"] == aligned_lines(columns, [row], TextStyle(width=14))
    assert ["A       B", "aaaaaa  bb"] == aligned_lines(columns, [row], TextStyle(width=13))
    assert ["A    B", "aa…  bb"] == aligned_lines(columns, [row], TextStyle(width=9))


def test_columns_for_narrow_terminals() -> None:
    """If nothing can be cut any more, spare columns are left out with their gap, the lowest number first.

    The room that this leaves is for the columns that would be cut.
    """
    columns = (Column("A", least=3), Column("B", spare=2), Column("C", spare=1), Column("D"))
    row = [Cell("aaaaaa"), Cell("bb"), Cell("cc"), Cell("dd")]
    assert ["A    B   C   D", "aa…  bb  cc  dd"] == aligned_lines(columns, [row], TextStyle(width=15))
    assert ["A       B   D", "aaaaaa  bb  dd"] == aligned_lines(columns, [row], TextStyle(width=14))
    assert ["A      B   D", "aaaa…  bb  dd"] == aligned_lines(columns, [row], TextStyle(width=13))
    assert ["A       D", "aaaaaa  dd"] == aligned_lines(columns, [row], TextStyle(width=10))
    assert ["A    D", "aa…  dd"] == aligned_lines(columns, [row], TextStyle(width=7))


@pytest.mark.parametrize("width", [50, 60, 70])
def test_status_on_a_narrow_terminal(width: int) -> None:
    """No row is wider than the terminal, which would wrap it. The state and the share stay."""
    lines = text(troubled(), width=width).splitlines()
    rows = [line for line in lines if line.startswith("  ns")]
    assert 4 == len(rows)
    assert [] == [line for line in rows if len(line) > width]
    assert ["BACKEND", "ADDRESS", "STATE", "SHARE"] == [
        word
        for word in next(line for line in lines if "BACKEND" in line).split()
        if word not in {"ADMIN", "WT", "SINCE"}
    ]


@pytest.mark.parametrize("width", [50, 60, 70])
def test_status_of_a_pool_with_all_columns_on_a_narrow_terminal(width: int) -> None:
    """No row is wider than the terminal: copies, answered packets and priorities are left out as other columns are."""
    behind = (
        backend("exporter-1", 1, copies=1234, answered=0.995, packets=10**7, priority=100),
        backend("exporter-2", 2, copies=1234, answered=0.995, in_rotation=False, standby=True, priority=200),
    )
    lines = text(status(pools=(pool(backends=behind),)), width=width).splitlines()
    table = [line for line in lines if line.startswith(("  BACKEND", "  expo"))]
    assert 3 == len(table)
    assert [] == [line for line in table if len(line) > width]
    assert all(word in table[0] for word in ("STATE", "SHARE"))
    wide = text(status(pools=(pool(backends=behind),)), width=120)
    assert all(word in wide for word in ("COPIES", "ANSWERED", "PRIO"))


def test_style_of_a_pipe(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Without a terminal: unlimited width, or that of COLUMNS, and no colours."""
    monkeypatch.delenv("COLUMNS", raising=False)
    with capfd.disabled():
        reading_end, writing_end = os.pipe()
        with os.fdopen(reading_end), os.fdopen(writing_end, "w", encoding="latin-1") as out:
            monkeypatch.setattr(sys, "stdout", out)
            assert TextStyle(100_000, colour=False, unicode=False) == output_style()
            monkeypatch.setenv("COLUMNS", "90")
            assert 90 == output_style().width
            monkeypatch.undo()
