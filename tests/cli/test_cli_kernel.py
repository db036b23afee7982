"""Commands that read or change the kernel's rules: `apply`, `diff`, `remove`, `restore`."""

from __future__ import annotations

import signal
import subprocess
import sys
from contextlib import ExitStack, nullcontext
from ipaddress import ip_address
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import pytest
from fake_api import fake_api, status
from installed_command import GOOD, NFTLB, outcome

from nftlb.cli import diff
from nftlb.cli.apply import changes_text
from nftlb.cli.daemon import DaemonAccess
from nftlb.client import Unreachable, addresses
from nftlb.kernel import surroundings
from nftlb.kernel.lock import hold_lock
from nftlb.lab import Namespace
from nftlb.swap.applier import Applied

if TYPE_CHECKING:
    from collections.abc import Callable

    from nftlb.model import Config


pytest_plugins = ("cli_fixtures",)


@pytest.mark.parametrize("name", ["apply", "diff", "remove"])
def test_without_libnftables(name: str, good: str) -> None:
    """Status 3, and the package to install."""
    program = "import sys; sys.modules['nftables'] = None; from nftlb.cli import main; sys.exit(main())"
    done = subprocess.run([sys.executable, "-c", program, name, good], capture_output=True, text=True, check=False)
    assert (3, "") == (done.returncode, done.stdout)
    assert "apt install python3-nftables" in done.stderr


POWERLESS = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", NFTLB]


@pytest.mark.parametrize("name", ["apply", "diff", "remove"])
def test_without_root(name: str) -> None:
    """Status 3, and the advice to run nftlb as root."""
    done = subprocess.run([*POWERLESS, name, "-"], input=GOOD, capture_output=True, text=True, timeout=60, check=False)
    assert (3, "") == (done.returncode, done.stdout)
    assert "run nftlb as root" in done.stderr


def test_doctor_without_root() -> None:
    """The doctor has a finding for this, and libnftables prints nothing to standard error."""
    done = subprocess.run([*POWERLESS, "doctor"], capture_output=True, text=True, timeout=60, check=False)
    assert (3, "") == (done.returncode, done.stderr)
    finding = "error    nftables: not permitted to use nftables\n         run nftlb as root, or with CAP_NET_ADMIN\n"
    assert finding in done.stdout


def test_apply_diff_and_remove(inside: Callable[..., tuple[int, str, str]], good: str) -> None:
    """Output and status of each, from an empty kernel to an empty kernel again."""
    status, out, error = inside("diff", good)
    assert (1, "") == (status, error)
    assert out.startswith(
        f"--- kernel\n+++ {good}\n@@ table ip nftlb: chain backend/dns/b1 @@\n+chain backend/dns/b1\n"
    )

    assert (0, f"{good}: 1 transaction\n", "") == inside("apply", good)
    assert (0, f"{good}: nothing to change\n", "") == inside("apply", good)
    assert (0, "", "") == inside("apply", "--quiet", "-", input=GOOD)
    assert (0, "", "") == inside("diff", good)

    assert (0, "table nftlb: 1 transaction\n", "") == inside("remove")
    assert (0, "table nftlb: nothing to remove\n", "") == inside("remove")
    assert (0, "", "") == inside("remove", "--quiet", good)


def test_diff_exits_with_2_for_bad_input(bad: str) -> None:
    """Status 2, since 1 means that there are differences."""
    status, out, error = outcome("diff", bad)
    assert (2, "") == (status, out)
    assert error.startswith(f"{bad}:3:5: ")


def test_the_file_sets_the_name_of_the_tables(inside: Callable[..., tuple[int, str, str]]) -> None:
    """`apply`, `diff` and `remove` use the `table` of the file."""
    other = f"table: mine\n{GOOD}"
    assert 0 == inside("apply", "-", input=other)[0]
    assert (0, "table nftlb: nothing to remove\n", "") == inside("remove")
    assert (0, "", "") == inside("diff", "-", input=other)
    assert (0, "table mine: 1 transaction\n", "") == inside("remove", "-", input=other)


STATELESS = GOOD.replace("    listen", "    forward: stateless\n    listen").replace(", 192.0.2.53:53/tcp", "")


WITHOUT_B2 = STATELESS.replace("      b2: 10.0.0.12:5353\n", "")


def test_apply_waits_for_in_flight_replies(inside: Callable[..., tuple[int, str, str]]) -> None:
    """The command waits if replies may be in flight; afterwards the kernel has only the rules of the file."""
    assert 0 == inside("apply", "-", input=STATELESS)[0]
    status, out, error = inside("apply", "--linger", "0.2", "-", input=WITHOUT_B2)
    assert (0, "") == (status, error)
    assert out.endswith("; waiting 0.2 s for in-flight replies\n")
    assert (0, "", "") == inside("diff", "-", input=WITHOUT_B2)


def test_apply_without_waiting(inside: Callable[..., tuple[int, str, str]]) -> None:
    """With `--linger 0` it does not wait, and prints nothing about replies."""
    assert 0 == inside("apply", "-", input=STATELESS)[0]
    status, out, error = inside("apply", "--linger", "0", "-", input=WITHOUT_B2)
    assert (0, "") == (status, error)
    assert "in-flight" not in out
    assert (0, "", "") == inside("diff", "-", input=WITHOUT_B2)


def test_apply_is_interrupted_while_it_waits() -> None:
    """After ^C it deletes the rules for in-flight replies at once."""
    with Namespace("cli") as namespace:
        assert 0 == namespace.call(outcome, "apply", "-", input=STATELESS)[0]
        # A shell that runs the tests in the background ignores SIGINT, and its children inherit that.
        argv = ["env", "--default-signal=INT", NFTLB, "apply", "--linger", "600", "-"]
        with (
            namespace.popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process,
            ExitStack() as stack,
        ):
            stack.callback(process.kill)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(WITHOUT_B2)
            process.stdin.close()
            assert "waiting 600 s for in-flight replies" in process.stdout.readline()
            assert 1 == namespace.call(outcome, "diff", "-", input=WITHOUT_B2)[0]
            process.send_signal(signal.SIGINT)
            assert 130 == process.wait(20)
        assert (0, "", "") == namespace.call(outcome, "diff", "-", input=WITHOUT_B2)


@pytest.mark.parametrize("name", ["apply", "remove", "restore"])
def test_writing_commands_fail_while_the_lock_is_held(name: str, good: str) -> None:
    """While another nftlb holds the lock these change nothing and fail; `diff` works."""
    with Namespace("cli") as namespace:
        assert 0 == namespace.call(outcome, "apply", good)[0]
        before = namespace.call(outcome, "diff", "-", input=WITHOUT_B2)
        with namespace.call(hold_lock, "nftlb"):
            status, out, error = namespace.call(outcome, name, good)
            assert (3, "") == (status, out)
            assert error.startswith("nftlb: another nftlb runs for the table nftlb in this network namespace: ")
            assert before == namespace.call(outcome, "diff", "-", input=WITHOUT_B2)
        assert (0, "", "") == namespace.call(outcome, "diff", good)


def test_text_of_changes() -> None:
    """Singular, plural, and no change."""
    assert "" == changes_text(Applied())
    assert "1 transaction, 1 change of routing, 1 conntrack entry deleted" == changes_text(Applied(("a",), ("b",), 1))
    assert "2 transactions, 2 changes of routing, 3 conntrack entries deleted" == changes_text(
        Applied(("a",) * 2, ("b",) * 2, 3)
    )


def test_diff_has_the_addresses_for_backends_of_the_daemon(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A backend of another family that was added at run time gives `*` this family too, as in the daemon."""
    file = tmp_path / "nftlb.yaml"
    file.write_text("pools: {a: {listen: '*:53/udp', backends: {b1: 10.0.0.1}}}")
    added = SimpleNamespace(name="b2", address="2001:db8:1::1", port=None, weight=1, priority=1, added=True)
    vars(added).update(up=True, admin="enabled", admin_since=None, agent=None, standby=False)
    seen = SimpleNamespace(
        pid=1, host="lb1", pools=[SimpleNamespace(name="a", backends=[added], priority=1, preempts_at=None)]
    )
    addresses = {"eth0": (ip_address("192.0.2.53"), ip_address("2001:db8::53"))}
    compared: list[Config] = []
    monkeypatch.setattr(diff, "_status", lambda *_: seen)
    monkeypatch.setattr(surroundings, "read_host_addresses", lambda: addresses)
    kernel = SimpleNamespace(diff=lambda config, _: compared.append(config))
    monkeypatch.setattr(diff, "unlocked_applier", lambda _: nullcontext(kernel))

    diff.diff_command.main([str(file)], standalone_mode=False)
    assert ["192.0.2.53:53/udp", "[2001:db8::53]:53/udp"] == [str(one) for one in compared[0].pools[0].listen]


def test_diff_asks_the_daemon_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of several daemons, that of the file's table; none with --file-only, or if only daemons of other tables run."""
    places = {table: str(tmp_path / f"{table}.sock") for table in ("core", "nftlb", "edge")}
    monkeypatch.setattr(addresses, "sockets_here", lambda: places)
    monkeypatch.delenv("NFTLB_URL", raising=False)
    daemon = DaemonAccess(None, None, None)
    with ExitStack() as stack:
        apis = {table: stack.enter_context(fake_api(Path(path))) for table, path in places.items()}
        apis["edge"].show(status(pid=7))
        found = diff._status(daemon, "edge")
        assert found is not None
        assert 7 == found.pid
        assert None is diff._status(daemon, "other")
        del places["nftlb"]
        with pytest.raises(Unreachable, match="several daemons run here"):
            daemon.reader()
        assert [0, 0, 1] == [len(api.asked) for api in apis.values()]


def test_diff_does_not_need_the_daemon(good: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """With --file-only, NFTLB_URL is not read; else a bad NFTLB_URL is bad input, with status 2."""
    monkeypatch.setenv("NFTLB_URL", "http://")
    with Namespace("diff") as namespace:
        assert 1 == namespace.call(outcome, "diff", "--file-only", good)[0]
        result, _, error = namespace.call(outcome, "diff", good)
    assert (2, True) == (result, "'http://' is not an address of a daemon" in error)
