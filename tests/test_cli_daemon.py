"""The commands that talk to the daemon: what they show and ask, statuses, and what becomes of the terminal."""

from __future__ import annotations

import fcntl
import json
import os
import pty
import select
import signal
import struct
import subprocess
import sys
import termios
import time
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from itertools import count
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from fake_api import NOW, TOKEN, Api, backend, fake_api, pool, status, troubled
from hypothesis import given, settings
from hypothesis import strategies as st

from nftlb.cli import main
from nftlb.cli.columns import Cell, Column, table
from nftlb.cli.looks import Looks, Style, age, looks, short
from nftlb.cli.overview import overview
from nftlb.cli.rates import TROUBLES, Order, Reading, picture, rows
from nftlb.client import Seen, read_status

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.service import Status

NFTLB = str(Path(sys.executable).with_name("nftlb"))
STATUS = ("GET", "/api/v1/status")
PATCH = ("PATCH", "/api/v1/pools/dns/backends/ns1")
RELOAD = ("POST", "/api/v1/reload")


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    """A daemon that the environment names."""
    monkeypatch.delenv("NFTLB_TOKEN_FILE", raising=False)
    with fake_api() as served:
        monkeypatch.setenv("NFTLB_URL", served.where)
        yield served


@pytest.fixture
def token_file(tmp_path: Path) -> str:
    path = tmp_path / "token"
    path.write_text(f"# ours\n\n{TOKEN}\nanother\n")
    path.chmod(0o600)
    return str(path)


def seen(shown: Status) -> Seen:
    return read_status(shown.model_dump(mode="json"))


def text(shown: Status, **look: Any) -> str:
    found = seen(shown)
    return overview(found, found.pools, NOW, Looks(**look))


# --- status -----------------------------------------------------------------------------------------------------------

CALM = """\
nftlb 0.1.0, ready, running for 3d1h (pid 42)

dns  ready for 3d1h, 2/2 healthy (quorum 1), 24.7k packets
  192.0.2.53:53/udp, [2001:db8::53]:53/udp
  BACKEND  ADDRESS         STATE  ADMIN    WT  SHARE  PACKETS  SINCE  REASON
  ns1      10.0.0.11:5353  ✓ up   enabled   1  50.0%    12.3k  2h13m  noerror in 0.4 ms
  ns2      10.0.0.12:5353  ✓ up   enabled   1  50.0%    12.3k  2h13m  noerror in 0.4 ms
"""
TROUBLED = """\
nftlb 0.1.0, not ready, running for 3d1h (pid 42)
! kernel: not as it should be: Operation not permitted
! configuration: refused 5m ago; the one before is in use: /etc/nftlb/pools.yaml
    /etc/nftlb/pools.yaml:3:5: pools.dns.lissen: unknown key
! state_dir: No space left on device (for 1m30s)
! pool dns: not ready: 1 healthy, 3 needed
! pool dns: panic: too few are healthy, so all enabled backends are used
! pool dns: 2 of 4 down: ns2, ns4

dns  not ready for 3d1h, 1/4 healthy (quorum 3), panic, 24.7k packets
  192.0.2.53:53/udp, [2001:db8::53]:53/udp
  BACKEND  ADDRESS         STATE         ADMIN         WT  SHARE  PACKETS  SINCE
  ns1      10.0.0.11:5353  ✓ up          enabled        1  50.0%    12.3k  2h13m
  ns2      10.0.0.12:5353  ✗ down        enabled        3   0.0%    12.3k  2h13m
    no answer within 1s
  ns3      10.0.0.13:5353  ○ up, idle    drain          1   0.0%    12.3k  2h13m
  ns4      10.0.0.14       ✗ down, used  maintenance…   1  50.0%    12.3k  2h13m
    refused
"""


def test_status_when_all_is_well() -> None:
    """A line for the daemon, then each pool and its backends, reasons beside them where there is room."""
    assert CALM == text(status(), width=100)


def test_status_when_nothing_is() -> None:
    """What is wrong stands first; at 80 columns the reasons of backends that are down get lines of their own."""
    assert TROUBLED == text(troubled(), width=80)


def test_status_in_ascii() -> None:
    """Where the terminal knows no more."""
    shown = text(troubled(), width=80, unicode=False)
    assert shown.isascii()
    assert "x down, used  maintenan..." in shown


def test_status_in_colour_says_the_same() -> None:
    """Colours add to what is there, and move nothing."""
    coloured = text(troubled(), width=80, colour=True)
    assert "\x1b[31m✗ down\x1b[0m" in coloured
    for style in ("0", *Style):
        coloured = coloured.replace(f"\x1b[{style}m", "")
    assert TROUBLED == coloured


@pytest.mark.parametrize("width", [80, 200])
def test_status_of_many_backends(width: int) -> None:
    """With 300 backends, long names and IPv6 no line is wider than the terminal, and those down are counted first."""
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
    """Not cut and not coloured in a pipe; status 0 whatever the backends do; only the pools that were asked for."""
    api.show(status(pools=(pool("dns"), pool("sip", ready=False, backends=(backend("s1", up=False),)))))
    assert 0 == main(["status"])
    whole = capsys.readouterr().out
    assert ["dns", "sip"] == [line.split()[0] for line in whole.splitlines() if "ready for" in line]
    assert "\x1b" not in whole
    assert 0 == main(["status", "sip"])
    assert ["sip"] == [line.split()[0] for line in capsys.readouterr().out.splitlines() if "ready for" in line]


def test_status_as_json(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """What the daemon said, all of it, or of it the pools that were asked for."""
    api.show(status(pools=(pool("dns"), pool("sip"))))
    document = api.answers[STATUS][1]
    document["news"] = "of a newer daemon"
    assert 0 == main(["status", "--json"])
    assert document == json.loads(capsys.readouterr().out)
    assert 0 == main(["status", "--json", "sip"])
    assert {**document, "pools": document["pools"][1:]} == json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("command", ["status", "top"])
def test_a_pool_that_is_not_there(command: str, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and what may have been meant."""
    api.show(status())
    assert 1 == main([command, "dsn"])
    assert ("", "dsn: no such pool; did you mean dns?\n") == tuple(capsys.readouterr())


def test_status_begins_fast() -> None:
    """It loads neither pydantic nor YAML nor aiohttp: each would take longer than the rest."""
    program = "import sys; from nftlb.cli import main; main(); print(*sys.modules)"
    with fake_api() as served:
        done = subprocess.run(
            [sys.executable, "-c", program, "status", "--url", served.where], capture_output=True, text=True, check=True
        )
    modules = set(done.stdout.splitlines()[-1].split())
    assert set() == {"pydantic", "yaml", "aiohttp", "asyncio", "nftlb.model", "nftlb.config"} & modules


# --- where the daemon is ----------------------------------------------------------------------------------------------

ALL = [["status"], ["top", "-b"], ["drain", "dns/ns1"], ["enable", "dns/ns1"], ["maintenance", "dns/ns1"],
       ["weight", "dns/ns1", "3"], ["reload"]]  # fmt: skip


@pytest.mark.parametrize("command", ALL)
def test_no_daemon(command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 4, where it was looked for, nothing on standard output."""
    assert 4 == main([*command, "--socket", str(tmp_path / "api.sock")])
    out, error = capsys.readouterr()
    assert "" == out
    assert error.startswith(f"nftlb: no daemon can be reached at unix:{tmp_path}/api.sock: No such file or directory; ")


@pytest.mark.parametrize("arguments", [["--socket", "{}"], ["--url", "unix:{}"]])
def test_a_unix_socket(arguments: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """By either option; an option beats the environment."""
    path = tmp_path / "api.sock"
    with fake_api(path), pytest.MonkeyPatch.context() as patch:
        patch.setenv("NFTLB_URL", "http://127.0.0.1:1")
        assert 0 == main(["status", *(one.format(path) for one in arguments)])
    assert "nftlb 0.1.0, ready" in capsys.readouterr().out


def test_bad_addresses(capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 for what is no address, 2 for two of them."""
    assert 1 == main(["status", "--url", "ftp://x"])
    assert "the daemon's address: 'ftp://x' is none; allowed: http" in capsys.readouterr().err
    assert 2 == main(["status", "--url", "127.0.0.1", "--socket", "/x"])
    assert "--url and --socket" in capsys.readouterr().err


# --- operating --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "wanted"),
    [
        (["drain", "dns/ns1"], {"admin": "drain"}),
        (["enable", "dns/ns1"], {"admin": "enabled"}),
        (["maintenance", "dns/ns1"], {"admin": "maintenance"}),
        (["weight", "dns/ns1", "256"], {"weight": 256}),
    ],
)
def test_changes(
    command: list[str], wanted: dict[str, Any], api: Api, token_file: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The wish goes to the daemon with the file's first token; what came of it is told in a line."""
    api.answers[PATCH] = 200, backend(**{"share": 0.25, **wanted}).model_dump(mode="json")
    assert 0 == main([*command, "--token-file", token_file])
    assert [(*PATCH, wanted, f"Bearer {TOKEN}")] == api.asked
    told = f"{wanted.get('admin', 'enabled')}, weight {wanted.get('weight', 1)}"
    assert f"dns/ns1: {told}, up, 25.0% of the pool's packets\n" == capsys.readouterr().out


def test_a_change_tells_of_the_agent(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """An enabled backend may still be drained, by itself."""
    api.answers[PATCH] = 200, backend(agent="drain", up=False, share=0.0).model_dump(mode="json")
    assert 0 == main(["enable", "dns/ns1"])
    assert "dns/ns1: enabled (its agent: drain), weight 1, down, 0.0% of" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("dsn/ns1", "dsn/ns1: no such pool; did you mean dns?\n"),
        ("dns/ns9", "dns/ns9: no such backend; did you mean ns2?\n"),
        ("dns/zz", "dns/zz: no such backend; there are ns1, ns2\n"),
    ],
)
def test_a_backend_that_is_not_there(target: str, message: str, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1, and what may have been meant."""
    assert STATUS in api.answers
    assert 1 == main(["drain", target])
    assert ("", message) == tuple(capsys.readouterr())


def test_a_backend_that_is_not_there_when_nothing_more_is_known(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The daemon's own words then."""
    del api.answers[STATUS]
    assert 1 == main(["drain", "dns/ns1"])
    assert ("", "nftlb: no such thing\n") == tuple(capsys.readouterr())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["drain", "dns"], "'dns' is not POOL/BACKEND"),
        (["drain", "dns/"], "'dns/' is not POOL/BACKEND"),
        (["drain", "dns/\x1b"], r"'dns/\x1b' is not POOL/BACKEND"),
        (["drain"], "Missing argument 'POOL/BACKEND'"),
        (["weight", "dns/ns1", "257"], "257 is not in the range 0<=x<=256"),
        (["weight", "dns/ns1", "-1"], "No such option"),
        (["top", "--interval", "0"], "0 is not in the range"),
        (["top", "--sort", "luck"], "'luck' is not one of"),
    ],
)
def test_usage(arguments: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 2, before the daemon is asked."""
    assert 2 == main(arguments)
    out, error = capsys.readouterr()
    assert "" == out
    assert message in error


def test_reload(api: Api, token_file: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Silent when it is done; else status 1 and every fault of the file on a line of its own."""
    monkeypatch.setenv("NFTLB_TOKEN_FILE", token_file)
    api.answers[RELOAD] = 200, {}
    assert 0 == main(["reload"])
    assert [(*RELOAD, None, f"Bearer {TOKEN}")] == api.asked
    assert ("", "") == tuple(capsys.readouterr())
    api.answers[RELOAD] = 422, {"error": "the file is bad", "problems": ["a.yaml:1:2: one", "a.yaml:3:4: two"]}
    assert 1 == main(["reload"])
    assert ("", "nftlb: the file is bad\na.yaml:1:2: one\na.yaml:3:4: two\n") == tuple(capsys.readouterr())


@pytest.mark.parametrize("code", [401, 403, 500, 503])
def test_refusals(code: int, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3, and a mend."""
    api.answers[RELOAD] = code, {"error": "no"}
    assert 3 == main(["reload"])
    out, error = capsys.readouterr()
    assert "" == out
    assert error.startswith("nftlb: the daemon refused: no; ")


@pytest.mark.parametrize(
    ("content", "message"),
    [(None, "No such file or directory"), (b"\xff\n", "not a file of tokens"), (b"# none\n", "no token in it"),
     (b"two words\n", "no token in it")],
)  # fmt: skip
def test_a_token_file_that_is_none(
    content: bytes | None, message: str, api: Api, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Status 3 for a change, which isn't tried then; who only looks needs no token."""
    path = tmp_path / "token"
    if content is not None:
        path.write_bytes(content)
        path.chmod(0o600)
    assert 3 == main(["drain", "dns/ns1", "--token-file", str(path)])
    assert capsys.readouterr().err.startswith(f"nftlb: {path}: {message}")
    assert [] == api.asked
    assert 0 == main(["status", "--token-file", str(path)])


def test_a_token_file_for_everybody_is_not_used(api: Api, token_file: str, capsys: pytest.CaptureFixture[str]) -> None:
    """As ssh does with a key: the daemon hears nothing, and the message says how to mend that."""
    Path(token_file).chmod(0o644)
    assert 3 == main(["drain", "dns/ns1", "--token-file", token_file])
    assert f"every user of this host may read it (mode 0644); mend: chmod 600 {token_file}" in capsys.readouterr().err
    assert [] == api.asked


def test_a_token_from_a_pipe(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """As `--token-file <(pass nftlb)` gives it; of what never ends, no more is read than a token may be long."""
    api.answers[RELOAD] = 200, {}
    read, write = os.pipe()
    os.write(write, f"{TOKEN}\n".encode())
    os.close(write)
    assert 0 == main(["reload", "--token-file", f"/dev/fd/{read}"])
    os.close(read)
    assert [(*RELOAD, None, f"Bearer {TOKEN}")] == api.asked

    assert 3 == main(["reload", "--token-file", "/dev/zero"])
    assert "no token in it" in capsys.readouterr().err


# --- completion -------------------------------------------------------------------------------------------------------


def completed(words: str, position: int, url: str) -> tuple[int, list[str], str]:
    environment = {
        **os.environ, "_NFTLB_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": str(position),
        "NFTLB_URL": url,
    }  # fmt: skip
    done = subprocess.run([NFTLB], env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout.split(), done.stderr


def test_completion_of_names() -> None:
    """Backends and pools come from the daemon that the line names, or the environment; without one, silently none."""
    with fake_api() as served:
        assert (0, ["plain,dns/ns1", "plain,dns/ns2"], "") == completed("nftlb drain d", 2, served.where)
        assert (0, ["plain,dns/ns2"], "") == completed(f"nftlb weight --url {served.where} dns/ns2", 4, "127.0.0.1:1")
        assert (0, ["plain,dns"], "") == completed("nftlb status d", 2, served.where)
        assert (0, [], "") == completed("nftlb status dns d", 3, served.where)
    assert (0, [], "") == completed("nftlb drain d", 2, served.where)
    assert (0, [], "") == completed("nftlb drain d", 2, "no:address:at:all")


# --- top --------------------------------------------------------------------------------------------------------------


def reading(at: float, *packets: int) -> Reading:
    backends = tuple(backend(f"ns{i}", i, packets=one, bytes=one * 100) for i, one in enumerate(packets, 1))
    return Reading(seen(status(pools=(pool(backends=backends),))), at)


def test_rates() -> None:
    """Differences over the time between two readings; none for what is new, or was counted anew."""
    before, now = reading(10.0, 100, 100, 100), reading(12.0, 300, 50, 120, 7)
    found = {row.name: (row.packets, row.bits) for row in rows(before, now, Order.NAME)}
    assert {
        "dns/ns1": (100.0, 80_000.0),
        "dns/ns2": (None, None),
        "dns/ns3": (10.0, 8000.0),
        "dns/ns4": (None, None),
    } == found
    assert [None] * 4 == [row.packets for row in rows(None, now, Order.NAME)]
    assert [None] * 4 == [row.packets for row in rows(replace(before, at=12.0), now, Order.NAME)]
    assert [] == rows(before, now, Order.NAME, ["other"])


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
    """The busiest first, unless something else is asked for."""
    shown = rows(reading(0, 900, 0, 0), reading(1, 900, 200, 100), order)
    assert expected == [row.backend.name for row in shown]


def test_the_sick_come_first_by_state() -> None:
    """Down, then without packets, then the rest."""
    shown = rows(None, Reading(seen(troubled()), 0), Order.STATE)
    assert ["ns2", "ns4", "ns3", "ns1"] == [row.backend.name for row in shown]


def test_picture() -> None:
    """The daemon, the sum, and a row for each backend: what it should get, and what it got."""
    now = reading(1, 300, 100)
    shown = rows(reading(0, 0, 0), now, Order.RATE)
    assert [
        "nftlb 0.1.0, ready, running for 3d1h (pid 42)",
        "400 packets/s to 2 backends",
        "",
        "POOL/BACKEND  STATE  ADMIN    WT  SHARE    NOW  PKT/S  BIT/S  PACKETS  ADDRESS",
        "dns/ns1       ✓ up   enabled   1  50.0%  75.0%    300   240k      300  10.0.0.11:5353",
        "dns/ns2       ✓ up   enabled   1  50.0%  25.0%    100  80.0k      100  10.0.0.12:5353",
    ] == picture(now, shown, NOW, Looks(width=100))
    assert ["dns/ns2       ✓ up   enabled   1  50.0%  25.0%    100  80.0k      100"] == picture(
        now, shown, NOW, Looks(width=80)
    )[-1:]


@settings(deadline=None)
@given(st.integers(1, 60), st.integers(20, 200), st.integers(1, 50), st.booleans())
def test_a_picture_fits(height: int, width: int, count: int, sick: bool) -> None:
    """Never more lines than the terminal has; what is left out is counted."""
    now = Reading(seen(troubled()), 1) if sick else reading(1, *range(count))
    lines = picture(now, rows(None, now, Order.RATE), NOW, Looks(width=width), height)
    assert len(lines) <= height
    if len(lines) > TROUBLES + 5:
        assert lines[-1].startswith(("... ", "dns/"))


def test_top_once(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Two readings, one picture, as plain text; in a pipe without asking too."""
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
        assert 1000 <= float(row[7].replace("k", "e3")) <= 10_000
        assert "\x1b" not in out
    assert 6 == len(api.asked)


class Terminal:
    """`nftlb top` on a terminal of its own."""

    def __init__(self, url: str) -> None:
        self._ours, self._its = pty.openpty()
        self.resize(24, 80)
        self.before = termios.tcgetattr(self._its)
        environment = {**os.environ, "NFTLB_URL": url, "TERM": "xterm", "LANG": "C.UTF-8"}
        for name in ("NO_COLOR", "COLUMNS", "LINES"):
            environment.pop(name, None)
        self.process = subprocess.Popen(
            # Whoever ignores ^C, as a shell does for what it runs in the background, hands that down.
            ["env", "--default-signal=INT", "setsid", "--ctty", NFTLB, "top", "--interval", "0.1"],
            stdin=self._its,
            stdout=self._its,
            stderr=self._its,
            env=environment,
        )
        self._shown = b""

    def resize(self, lines: int, columns: int) -> None:
        fcntl.ioctl(self._its, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))

    def type(self, keys: bytes) -> None:
        os.write(self._ours, keys)

    def see(self, expected: str) -> str:
        """Wait until this is shown after all that was seen before."""
        deadline = time.monotonic() + 30
        while (at := self._shown.find(expected.encode())) < 0:
            assert time.monotonic() < deadline, self._shown
            if select.select([self._ours], [], [], 1)[0]:
                self._shown += os.read(self._ours, 1 << 16)
        at += len(expected.encode())
        text, self._shown = self._shown[:at].decode(), self._shown[at:]
        return text

    def end(self) -> int:
        """Wait for the end, which must leave the terminal as it was."""
        self.see("\x1b[?7h\x1b[?25h\x1b[?1049l")
        ended = self.process.wait(30)
        assert self.before == termios.tcgetattr(self._its)
        return ended

    def close(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()
        os.close(self._ours)
        os.close(self._its)


@contextmanager
def live() -> Iterator[tuple[Terminal, Api]]:
    with fake_api() as served:
        terminal = Terminal(served.where)
        try:
            yield terminal, served
        finally:
            terminal.close()


@pytest.mark.parametrize(("keys", "ended"), [(b"q", 0), (b"\x03", 0)])
def test_top_leaves(keys: bytes, ended: int) -> None:
    """By q or ^C: status 0, and the terminal is as it was."""
    with live() as (terminal, _):
        terminal.see("\x1b[?1049h")
        terminal.see("dns/ns2")
        terminal.type(keys)
        assert ended == terminal.end()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_top_is_ended(number: signal.Signals) -> None:
    """A signal ends it, and the terminal is as it was too."""
    with live() as (terminal, _):
        terminal.see("dns/ns2")
        terminal.process.send_signal(number)
        assert 128 + number == terminal.end()


def test_top_lives() -> None:
    """Rates come with the second reading, a resized terminal is filled, and a daemon that restarts is waited for."""
    with live() as (terminal, served):
        terminal.see("0 packets/s to 2 backends")
        assert "10.0.0.11:5353" not in terminal.see("dns/ns2")
        terminal.resize(24, 120)
        terminal.see("10.0.0.11:5353")
        terminal.type(b"x")  # means nothing
        served.answers[STATUS] = 500, {"error": "starting"}
        terminal.see("! the daemon refused: starting")
        served.show(status(pools=(pool("sip"),)))
        terminal.see("sip/ns2")
        terminal.type(b"q")
        assert 0 == terminal.end()


# --- the small things -------------------------------------------------------------------------------------------------


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
    """The two largest units; a clock that is behind the daemon's makes nothing negative."""
    assert expected == age(span.total_seconds())


@pytest.mark.parametrize(
    ("number", "expected"),
    [(0, "0"), (9999, "9999"), (10_000, "10.0k"), (99_949, "99.9k"), (99_960, "100k"),
     (999_600, "1.0M"), (2**64, "18.4E")]
)  # fmt: skip
def test_short(number: float, expected: str) -> None:
    """At most five characters."""
    assert expected == short(number)


@settings(deadline=None)
@given(st.floats(0, 9e20))
def test_short_is_short(number: float) -> None:
    """Whatever is counted."""
    assert len(short(number)) <= 5


def test_a_column_vanishes_or_is_cut() -> None:
    """The last of those that may be cut is cut first; a whole one is shown whole or not at all."""
    columns = (Column("A", least=3), Column("B"), Column("C", least=0, whole=True))
    row = [Cell("aaaaaa"), Cell("bb"), Cell("cc")]
    assert ["A       B   C", "aaaaaa  bb  cc"] == table(columns, [row], Looks(width=14))
    assert ["A       B", "aaaaaa  bb"] == table(columns, [row], Looks(width=13))
    assert ["A    B", "aa…  bb"] == table(columns, [row], Looks(width=9))


def test_looks_of_a_pipe(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """Endless and plain, unless COLUMNS says how wide."""
    monkeypatch.delenv("COLUMNS", raising=False)
    with capfd.disabled():
        reading_end, writing_end = os.pipe()
        with os.fdopen(reading_end), os.fdopen(writing_end, "w", encoding="latin-1") as out:
            monkeypatch.setattr(sys, "stdout", out)
            assert Looks(100_000, colour=False, unicode=False) == looks()
            monkeypatch.setenv("COLUMNS", "90")
            assert 90 == looks().width
            monkeypatch.undo()
