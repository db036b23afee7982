"""`nftlb health`: exit status, thresholds and performance data for Nagios, and the plain form for scripts."""

from __future__ import annotations

import json
from contextlib import suppress
from typing import Any

import pytest
from fake_api import NOW, Api, backend, pool, status, troubled
from hypothesis import given
from hypothesis import strategies as st

from nftlb.cli import main
from nftlb.cli.health import read_range
from nftlb.model import Admin
from nftlb.service import ConfigStatus, Fault, KernelStatus

pytest_plugins = ("cli_fixtures",)

DATA = "'dns in service'=2;;;0;2 'dns packets'=24690c"
DOWN = backend("ns2", 2, up=False, in_rotation=False, share=0.0)


def outcome_of(capsys: pytest.CaptureFixture[str], *arguments: str) -> tuple[int, str]:
    """The exit status and the first line, without the performance data. Nothing is on standard error."""
    result = main(["health", *arguments])
    out, error = capsys.readouterr()
    assert "" == error
    return result, out.splitlines()[0].partition(" | ")[0]


def test_nagios_of_one_pool(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Faults that concern only other pools are left out."""
    of_dns = Fault(what="route to 10.0.0.1", message="no route", since=NOW, pools=("dns",))
    api.show(status(pools=(pool(), pool("sip")), faults=(of_dns,)))
    assert (1, "NFTLB WARNING - route to 10.0.0.1: no route") == outcome_of(capsys, "dns", "--nagios")
    assert (0, "NFTLB OK - 1 pool ready, 2 of 2 backends in service") == outcome_of(capsys, "sip", "--nagios")


def test_nagios_without_a_problem(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 0, and one line with the performance data of each pool."""
    api.show(status(pools=(pool(), pool("a'b=c|d"))))
    assert 0 == main(["health", "--nagios"])
    other = DATA.replace("dns", "a_b_c_d")
    text = "NFTLB OK - 2 pools ready, 4 of 4 backends in service"
    assert (f"{text} | {DATA} {other}\n", "") == tuple(capsys.readouterr())
    assert (0, "NFTLB OK - 1 pool ready, 2 of 2 backends in service") == outcome_of(capsys, "dns", "--nagios")


@pytest.mark.parametrize(
    ("shown", "expected", "words"),
    [
        ({"pools": (pool(backends=(backend(), DOWN)),)}, 1, "WARNING - dns: down: ns2"),
        ({"pools": (pool(mode="panic"),)}, 1, "WARNING - dns: panic"),
        (
            {"pools": (pool(mode="fallback", priority=None),)},
            2,
            "CRITICAL - dns: no backend is usable, so the fallback is used",
        ),
        ({"pools": (pool(ready=False, healthy=0),)}, 2, "CRITICAL - dns: not ready: 0 usable, 1 needed"),
        ({"pools": (pool(ready=False, lacking=("no eth7",)),)}, 2, "CRITICAL - dns: not ready: no eth7"),
        ({"pools": (pool(priority=2),)}, 1, "WARNING - dns: priority 2 serves"),
        ({"pools": (pool(priority=None),)}, 1, "WARNING - dns: no priority serves alone"),
        ({"faults": (Fault(what="state_dir", message="full | now", since=NOW),)}, 1, "WARNING - state_dir: full / now"),
        (
            {"kernel": KernelStatus(synced=False, error="no", swaps=1, failures=1, restored=0, last_swap=None)},
            2,
            "CRITICAL - the kernel lacks the wanted rules: no",
        ),
        (
            {"config": ConfigStatus(file="/x.yaml", success=False, loaded=NOW, attempted=NOW, problems=("a",))},
            1,
            "WARNING - /x.yaml was refused, and the configuration before is in use",
        ),
    ],
)
def test_nagios_with_a_problem(
    shown: dict[str, Any], expected: int, words: str, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each problem has its state, and is the text."""
    api.show(status(**shown))
    assert (expected, f"NFTLB {words}") == outcome_of(capsys, "--nagios")


def test_nagios_counts_many_backends(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Nagios cuts long lines, and the text of a message too. The number of backends that are down stays."""
    down = tuple(backend(f"b{number}", up=False, in_rotation=False) for number in range(1, 251))
    api.show(status(pools=(pool(backends=(backend(), *down)),)))
    assert (1, "NFTLB WARNING - dns: down: b1, b2, b3, b4, b5 and 245 more") == outcome_of(capsys, "--nagios")


def test_nagios_shows_the_worst_first(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """All problems have lines; the first line has the worst, and the performance data."""
    api.show(troubled())
    assert 2 == main(["health", "--nagios"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("NFTLB CRITICAL - the kernel lacks the wanted rules: Operation not permitted | 'dns in ")
    assert "dns: down: ns2, ns4" == lines[-1]


def test_a_drained_backend_is_no_problem(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A backend that the operator took out may be down, unless a threshold counts it."""
    drained = backend("ns2", 2, up=False, in_rotation=False, admin=Admin.DRAIN)
    api.show(status(pools=(pool(backends=(backend(), drained), healthy=1),)))
    assert 0 == outcome_of(capsys, "--nagios")[0]
    found = outcome_of(capsys, "--nagios", "--warning", "2:")
    assert (1, "NFTLB WARNING - dns: 1 of 2 backends in service, wanted 2:") == found
    assert 2 == outcome_of(capsys, "--nagios", "-w", "2:", "-c", "2:")[0]
    assert 0 == outcome_of(capsys, "--nagios", "-w", "1:", "-c", "1:")[0]


def test_nagios_unknown(api: Api, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 3 and one line without a daemon, for an unknown pool, a wrong command line, and a wrong environment."""
    assert (3, "NFTLB UNKNOWN - dsn: no such pool; did you mean dns?") == outcome_of(capsys, "dsn", "--nagios")
    assert (3, "NFTLB UNKNOWN - no daemon can be reached at http://127.0.0.1:1: Connection refused; ") == (
        (found := outcome_of(capsys, "--nagios", "--url", "127.0.0.1:1"))[0],
        found[1][: len("NFTLB UNKNOWN - no daemon can be reached at http://127.0.0.1:1: Connection refused; ")],
    )
    assert 1 == len(api.asked)
    wrong = {
        ("--warning", "x"): "'x' is not a range; allowed: ",
        ("--critical", "5:2"): "'5:2' is not a range; allowed: ",
        ("--nosuch",): "No such option",
        ("--url", "127.0.0.1", "--socket", "/x"): "--url and --socket were both given; allowed: one of them.",
        ("--url", "ftp://x"): "the daemon's address: 'ftp://x' is not an address of a daemon; allowed: ",
    }
    for arguments, words in wrong.items():
        result, line = outcome_of(capsys, "--nagios", *arguments)
        assert (3, True, True) == (result, line.startswith("NFTLB UNKNOWN - "), words in line)
    monkeypatch.setenv("NFTLB_URL", "http://")
    assert (3, "NFTLB UNKNOWN - the daemon's address: 'http://'") == (
        (found := outcome_of(capsys, "--nagios"))[0],
        found[1].partition(" is not ")[0],
    )
    assert 2 == main(["health", "--nosuch"])
    assert 2 == main(["health", "--warning", "2:"])
    assert "only used with --nagios" in capsys.readouterr().err


def test_for_scripts(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each pool; status 1 if one of them is not ready."""
    api.show(status(pools=(pool(), pool("sip", ready=False, healthy=0))))
    assert 1 == main(["health"])
    assert ("dns: ready\nsip: not ready: 0 usable, 1 needed\n", "") == tuple(capsys.readouterr())
    assert 0 == main(["health", "dns"])


def test_as_json(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """The same facts and the same exit status; not together with --nagios."""
    api.show(status(pools=(pool(), pool("sip", ready=False, healthy=0))))
    assert 1 == main(["health", "--json"])
    sip = {"name": "sip", "ready": False, "reason": "0 usable, 1 needed"}
    assert {"pools": [{"name": "dns", "ready": True, "reason": ""}, sip]} == json.loads(capsys.readouterr().out)
    assert (3, "NFTLB UNKNOWN - --json and --nagios were both given; allowed: one of them.") == outcome_of(
        capsys, "--json", "--nagios"
    )
    assert 0 == main(["health", "--json", "dns"])


@pytest.mark.parametrize(
    ("text", "alerting", "quiet"),
    [
        ("10", [-1, 11], [0, 5, 10]),
        ("10:", [9, -1], [10, 99]),
        ("~:10", [11], [-5, 10]),
        ("2:5", [1, 6], [2, 5]),
        ("@2:5", [2, 5], [1, 6]),
        (":5", [6, -1], [0, 5]),
    ],
)
def test_ranges(text: str, alerting: list[float], quiet: list[float]) -> None:
    """The ranges are those of the guidelines for Nagios plugins."""
    found = read_range(text)
    assert [True] * len(alerting) == [found.alerts(value) for value in alerting]
    assert [False] * len(quiet) == [found.alerts(value) for value in quiet]


@given(st.text())
def test_any_text_is_a_range_or_refused(text: str) -> None:
    """Any text is a range, which is outside of itself or not, or a ValueError."""
    with suppress(ValueError):
        assert read_range(text).alerts(0) in {True, False}
