"""`nftlb top`: rates, the lines that it shows, and the terminal that it draws on."""

from __future__ import annotations

import json
import os
import re
import select
import signal
import socket
import threading
import time
from contextlib import contextmanager
from dataclasses import replace
from itertools import count
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
from fake_api import NOW, Api, backend, fake_api, pool, status, troubled
from hypothesis import given, settings
from hypothesis import strategies as st
from pseudo_terminal import Terminal

from nftlb.cli import main, screen
from nftlb.cli.rates import MOST_FAULTS, Order, Sample, head_lines, rate_data, rate_rows, rate_table_lines
from nftlb.cli.screen import BACKSPACE, DOWN, ESCAPE, PAGE_DOWN, RETURN, UP, Screen, keys_of
from nftlb.cli.terminal import TextStyle
from nftlb.cli.top_view import CarryOut, Preview, Quit, TopView, press, screen_lines
from nftlb.client import StatusView, read_status_view

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.service import Status


pytest_plugins = ("cli_fixtures",)

STATUS = ("GET", "/api/v1/status")
COMMANDS_PAGE = Path(__file__).parents[2] / "docs/commands.md"


def seen(shown: Status) -> StatusView:
    return read_status_view(shown.model_dump(mode="json"))


def reading(at: float, *packets: int) -> Sample:
    backends = tuple(backend(f"ns{i}", i, packets=count, bytes=count * 100) for i, count in enumerate(packets, 1))
    return Sample(seen(status(pools=(pool(backends=backends),))), at)


def test_rates() -> None:
    """Differences over the time between two samples; none for a new backend or after a reset of its counters."""
    before, now = reading(10.0, 100, 100, 100), reading(12.0, 300, 50, 120, 7)
    found = {row.name: (row.packets, row.bits) for row in rate_rows(before, now, Order.NAME)}
    assert {
        "dns/ns1": (100.0, 80_000.0),
        "dns/ns2": (None, None),
        "dns/ns3": (10.0, 8000.0),
        "dns/ns4": (None, None),
    } == found
    assert [None] * 4 == [row.packets for row in rate_rows(None, now, Order.NAME)]
    assert [None] * 4 == [row.packets for row in rate_rows(replace(before, at=12.0), now, Order.NAME)]


@pytest.mark.parametrize(
    ("order", "expected"),
    [
        (Order.RATE, ["ns2", "ns3", "ns1"]),
        (Order.PACKETS, ["ns1", "ns2", "ns3"]),
        (Order.NAME, ["ns1", "ns2", "ns3"]),
        (Order.STATE, ["ns1", "ns2", "ns3"]),
    ],
)
def test_order(order: Order, expected: list[str]) -> None:
    """The busiest backend first by default."""
    shown = rate_rows(reading(0, 900, 0, 0), reading(1, 900, 200, 100), order)
    assert expected == [row.backend.name for row in shown]


def test_order_by_state() -> None:
    """Backends that are down, then those without packets, then the rest."""
    shown = rate_rows(None, Sample(seen(troubled()), 0), Order.STATE)
    assert ["ns2", "ns4", "ns3", "ns1"] == [row.backend.name for row in shown]


def test_a_filter_by_state() -> None:
    """A filter matches the states that are shown."""
    standby = pool(backends=(backend("ns1"), backend("ns2", 2, priority=2, standby=True, in_rotation=False)))
    rows = rate_rows(None, Sample(seen(status(pools=(standby,))), 0), Order.NAME)
    found = {word: [row.backend.name for row in rows if TopView(filter=word).matches(row)] for word in ("up", "stand")}
    assert {"up": ["ns1", "ns2"], "stand": ["ns2"]} == found


def test_a_filter_by_label() -> None:
    """A filter matches the labels of a backend as NAME=VALUE."""
    behind = (backend("ns1", labels={"site": "fra"}), backend("ns2", 2, labels={"site": "ams"}))
    rows = rate_rows(None, Sample(seen(status(pools=(pool(backends=behind),))), 0), Order.NAME)
    assert ["ns2"] == [row.backend.name for row in rows if TopView(filter="Site=ams").matches(row)]


def test_lines() -> None:
    """The daemon, the sum, and a row for each backend with the share that it should get and the share that it got."""
    now = reading(1, 300, 100)
    shown = rate_rows(reading(0, 0, 0), now, Order.RATE)
    style = TextStyle(width=100)
    assert [
        "nftlb 0.1.0, ready, running for 3d1h (pid 42)",
        "400 packets/s to 2 backends",
        "POOL/BACKEND  STATE  ADMIN    WT  SHARE    NOW  PKT/S  BIT/S  PACKETS  ADDRESS",
        "dns/ns1       ✓ up   enabled   1  50.0%  75.0%    300   240k      300  10.0.0.11:5353",
        "dns/ns2       ✓ up   enabled   1  50.0%  25.0%    100  80.0k      100  10.0.0.12:5353",
    ] == [*head_lines(now, shown, NOW, style), *rate_table_lines(shown, style)]
    narrow = ["dns/ns2       ✓ up   enabled   1  50.0%  25.0%    100  80.0k      100"]
    assert narrow == rate_table_lines(shown, TextStyle(width=80))[-1:]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(20, 200), st.integers(1, 50), st.booleans(), st.integers(0, 60))
def test_lines_fit_the_terminal(height: int, width: int, count: int, sick: bool, steps: int) -> None:
    """Never more lines than the terminal has; lines left out are counted, and the chosen backend is shown."""
    now = Sample(seen(troubled()), 1) if sick else reading(1, *range(count))
    rows = rate_rows(None, now, Order.RATE)
    view = TopView()
    for _ in range(steps):
        view, _ = press(view, DOWN, [row.name for row in rows])
    lines = screen_lines(view, now, rows, NOW, TextStyle(width=width), height)
    assert len(lines) <= height
    if height > MOST_FAULTS + 7:
        hidden = len(rows) - sum(line[2:].startswith("dns/ns") for line in lines)
        assert ([f"... {hidden} more"] if hidden else []) == [line for line in lines if line.startswith("... ")]
        assert [view.chosen[:14]] == [line[2:16].strip() for line in lines if line.startswith("> ")] or not steps


def test_a_narrow_terminal() -> None:
    """The packets per second are on the screen at 40 columns too."""
    now = reading(1, 2000, 0)
    titles, *rows = rate_table_lines(rate_rows(reading(0, 0, 0), now, Order.NAME), TextStyle(width=40), "  ")
    assert ["POOL/BACKEND", "STATE", "NOW", "PKT/S"] == titles.split()
    assert ["2000", "0"] == [row.split()[-1] for row in rows]
    assert 40 >= max(map(len, rows))


def pressed(view: TopView, *keys: str) -> tuple[TopView, list[Any]]:
    """The view after some keys, with two backends, and the actions."""
    actions = []
    for key in keys:
        view, action = press(view, key, ["dns/ns1", "dns/ns2"])
        actions += [] if action is None else [action]
        if isinstance(action, Preview):
            view = view.asking(action.proposal, ["dns would have no usable backend"])
    return view, actions


@pytest.mark.parametrize(
    ("keys", "chosen"),
    [((DOWN,), "dns/ns1"), ((DOWN, "j"), "dns/ns2"), ((DOWN, DOWN, DOWN, UP), "dns/ns1"), ((UP,), "dns/ns2")],
)
def test_keys_choose_a_backend(keys: tuple[str, ...], chosen: str) -> None:
    """The arrow keys, j and k; the ends of the list are the end."""
    assert chosen == pressed(TopView(), *keys)[0].chosen


def test_keys_that_sort_filter_and_quit() -> None:
    """An order follows the other; a filter has an effect while it is typed, and Escape ends it."""
    orders = [pressed(TopView(), *"s" * count)[0].order for count in range(5)]
    assert [*Order, Order.RATE] == orders
    assert "ns2" == pressed(TopView(), "/", "n", "s", "1", BACKSPACE, "2")[0].filter
    assert ("ns", "") == tuple(pressed(TopView(), "/", "n", "s", RETURN, *more)[0].filter for more in ((), (ESCAPE,)))
    assert "q" == pressed(TopView(), "/", "q")[0].filter
    assert [[Quit()]] * 4 == [pressed(TopView(), key)[1] for key in ("q", "Q", "\x03", "\x04")]


@pytest.mark.parametrize(
    ("keys", "wanted", "words"),
    [
        (("d",), {"admin": "drain"}, "drain dns/ns1"),
        (("e",), {"admin": "enabled"}, "enable dns/ns1"),
        (("m",), {"admin": "maintenance"}, "maintenance dns/ns1"),
        (("w", "1", "2", RETURN), {"weight": 12}, "weight dns/ns1 12"),
    ],
)
def test_a_change_asks_first(keys: tuple[str, ...], wanted: dict[str, Any], words: str) -> None:
    """The consequences are shown; y carries the change out, and any other key does not."""
    view, actions = pressed(TopView(), DOWN, *keys)
    assert [("dns", "ns1", wanted, words)] == [tuple(action.proposal) for action in actions]
    lines = screen_lines(view, reading(1, 1, 1), [], NOW, TextStyle(), 24)
    assert ["! dns would have no usable backend", f"{words}? y: yes, any other key: no"] == lines[-2:]

    assert [CarryOut(actions[0].proposal)] == pressed(view, "y")[1]
    assert ([], "nothing changed") == (pressed(view, "n")[1], pressed(view, "n")[0].note)
    assert [] == pressed(view, "q")[1]


@pytest.mark.parametrize(
    "keys", [("d",), ("w",), (DOWN, "w", RETURN), (DOWN, "w", *"257", RETURN), (DOWN, "w", "1", ESCAPE)]
)
def test_keys_without_effect(keys: tuple[str, ...]) -> None:
    """No backend is chosen, or the weight is not a weight, or typing is ended by Escape: nothing is asked for."""
    assert [] == pressed(TopView(), *keys)[1]


@given(st.text())
def test_keys_of_any_text(text: str) -> None:
    """Each character is a key, and each known sequence one; unknown sequences are not keys."""
    assert [UP, "x", DOWN, ESCAPE] == list(keys_of("\x1b[A" + "x" + "\x1b[1;5C" + "\x1bOB" + "\x1b"))
    plain = text.replace("\x1b", "").replace("\x7f", "").replace("\b", "").replace("\r", "").replace("\n", "")
    assert list(plain) == list(keys_of(plain))
    list(keys_of(text))


@pytest.mark.parametrize(
    ("first", "rest", "key"), [(b"\x1b", b"[B", DOWN), (b"\x1b[6", b"~", PAGE_DOWN), (b"\xc3", b"\xa9", "é")]
)
def test_a_key_in_two_parts(first: bytes, rest: bytes, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Through a network, the rest of a key may come after its beginning, which alone would mean Escape."""
    reading, writing = os.pipe()
    signals, other = socket.socketpair()
    with signals, other, os.fdopen(reading, "rb"), os.fdopen(writing, "wb", buffering=0) as typed:
        monkeypatch.setattr(screen, "_REST", 10.0)
        typed.write(first)

        def write_rest() -> None:
            while select.select([reading], [], [], 0)[0]:  # until the first part has been read
                pass
            typed.write(rest)

        thread = threading.Thread(target=write_rest)
        thread.start()
        assert [key] == Screen(reading, signals).keys(time.monotonic() + 10)
        thread.join()

        monkeypatch.setattr(screen, "_REST", 0.0)
        typed.write(b"\x1b")
        assert [ESCAPE] == Screen(reading, signals).keys(time.monotonic() + 10)


def test_top_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Two samples, printed once as plain text; without `--once` too, if standard output is a pipe."""
    numbers = count(1000, 1000)

    def document() -> Any:
        number = next(numbers)
        return json.loads(status(pools=(pool(backends=(backend(packets=number, bytes=0),)),)).model_dump_json())

    api.answers[STATUS] = 200, document
    for arguments in (["--once"], ["-b"], []):
        assert 0 == main(["top", "--interval", "0.1", *arguments])
        out, error = capsys.readouterr()
        row = out.splitlines()[-1].split()
        assert ("", "dns/ns1", "100.0%") == (error, row[0], row[6])
        assert 0 < float(row[7].replace("k", "e3")) <= 10_000  # less if this machine is slow
        assert "\x1b" not in out
    assert 6 == len(api.asked)

    assert 0 == main(["top", "dns", "--interval", "0.1", "--json"])
    found = json.loads(capsys.readouterr().out)
    (row,) = found["backends"]
    assert ("dns", "ns1", 1.0) == (row["pool"], row["name"], row["measured_share"])
    assert pytest.approx(1000 / found["seconds"], rel=0.01) == row["packets_per_second"]
    measured = {"pool", "measured_share", "packets_per_second", "bits_per_second"}
    (shown,) = document()["pools"][0]["backends"]
    assert {name: shown[name] for name in row.keys() - measured} == {name: row[name] for name in row.keys() - measured}
    assert {"address", "port", "weight", "labels"} <= row.keys()


def test_the_fields_of_top_are_documented() -> None:
    """docs/commands.md names each field of `nftlb top --json`."""
    (row,) = rate_rows(None, reading(10.0, 100), Order.NAME)
    section = COMMANDS_PAGE.read_text().split("\n## Top\n")[1].split("\n## ")[0]
    assert set() == rate_data(row).keys() - set(re.findall(r"`(\w+)`", section))


@contextmanager
def live() -> Iterator[tuple[Terminal, Api]]:
    with fake_api() as served:
        terminal = Terminal(served.where)
        try:
            yield terminal, served
        finally:
            terminal.close()


@pytest.mark.parametrize(("keys", "ended"), [(b"q", 0), (b"\x03", 0)])
def test_top_quits(keys: bytes, ended: int) -> None:
    """By q or ^C, with status 0 and a restored terminal."""
    with live() as (terminal, _):
        terminal.see("\x1b[?1049h")
        terminal.see("dns/ns2")
        terminal.type(keys)
        assert ended == terminal.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_top_is_killed(number: signal.Signals) -> None:
    """SIGTERM and SIGHUP end it, and the terminal is restored too."""
    with live() as (terminal, _):
        terminal.see("dns/ns2")
        terminal.process.send_signal(number)
        assert 128 + number == terminal.end()


def test_top_updates() -> None:
    """Shows rates from the second sample on, uses a resized terminal, and waits for a daemon that restarts."""
    with live() as (terminal, served):
        terminal.see("0 packets/s to 2 backends")
        assert "10.0.0.11:5353" not in terminal.see("dns/ns2")
        terminal.resize(24, 120)
        terminal.see("10.0.0.11:5353")
        terminal.type(b"x")  # a key without a meaning
        served.answers[STATUS] = 500, {"error": "starting"}
        terminal.see("! the daemon refused: starting")
        served.show(status(pools=(pool("sip"),)))
        terminal.see("sip/ns2")
        terminal.type(b"q")
        assert 0 == terminal.end()


def test_keys_before_the_question_do_not_answer_it() -> None:
    """The rest of a pasted text and a key during the preview confirm nothing; a key after the question does."""
    path = "/api/v1/pools/dns/backends/ns1"
    preview, change = ("PATCH", f"{path}?preview=true"), ("PATCH", path)
    with live() as (terminal, served):

        def consequences() -> Any:
            terminal.type(b"y")
            return {"consequences": ["dns has one backend less"]}

        served.answers[preview] = 200, consequences
        served.answers[change] = 200, backend(admin="maintenance").model_dump(mode="json")
        terminal.see("dns/ns2")
        terminal.type(b"jmy")
        for _ in range(3):  # the screen is drawn again and again
            terminal.see("maintenance dns/ns1? y: yes")
        assert [preview] == [tuple(asked[:2]) for asked in served.asked if asked[0] == "PATCH"]
        terminal.type(b"y")
        terminal.see("dns/ns1: maintenance, weight 1")
        assert [preview, change] == [tuple(asked[:2]) for asked in served.asked if asked[0] == "PATCH"]
        terminal.type(b"q")
        assert 0 == terminal.end()


def test_a_terminal_that_can_not_move_its_cursor() -> None:
    """On TERM=dumb, as in Emacs, `top` prints one interval, without escape sequences."""
    with fake_api() as served:
        terminal = Terminal(served.where, "top", "--interval", "0.1", TERM="dumb")
        try:
            shown = terminal.see("dns/ns2")
            assert 0 == terminal.process.wait(30)
        finally:
            terminal.close()
    assert "POOL/BACKEND" in shown
    assert "\x1b" not in shown


def test_status_watches() -> None:
    """`status --watch` shows each new state, waits for a daemon that restarts, and ends with q."""
    with fake_api() as served:
        terminal = Terminal(served.where, "status", "--watch", "--interval", "0.1")
        try:
            terminal.see("2/2 in service")
            served.answers[STATUS] = 500, {"error": "starting"}
            terminal.see("! the daemon refused: starting")
            served.show(status(pools=(pool("sip"),)))
            terminal.see("sip")
            terminal.type(b"q")
            assert 0 == terminal.end()
        finally:
            terminal.close()


def test_status_watches_without_a_terminal(
    api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """In a pipe too, `status --watch` waits for a daemon that restarts, and reports the reason once."""
    answers = iter(
        [api.answers[STATUS], (500, {"error": "starting"}), (500, {"error": "starting"}), api.answers[STATUS]]
    )

    def pause(_: float) -> None:
        if (answer := next(answers, None)) is None:
            raise KeyboardInterrupt
        api.answers[STATUS] = answer

    monkeypatch.setattr(screen, "time", SimpleNamespace(sleep=pause))
    assert 0 == main(["status", "--watch"])
    out, error = capsys.readouterr()
    assert 3 == out.count("2/2 in service")
    reason = "nftlb: the daemon refused: starting; for details see `nftlb status` and the daemon's log; trying again\n"
    assert reason == error
