"""Only one writes a table."""

from __future__ import annotations

import socket
import subprocess
import sys

import pytest

from nftlb.errors import SystemFault
from nftlb.kernel.lock import hold
from nftlb.lab import Namespace

HOLD = "import sys; from nftlb.kernel.lock import hold; lock = hold(sys.argv[1]); print('held', flush=True); input()"
TABLE = "lock_of_a_test"


def test_a_second_one_is_told() -> None:
    """While one holds it, another of the same table can't; one of another table can; afterwards it is free."""
    with hold(TABLE):
        with pytest.raises(SystemFault, match=f"another nftlb runs for the table {TABLE}"):
            hold(TABLE)
        hold(f"{TABLE}_2").close()
    hold(TABLE).close()


def test_another_network_namespace_is_another_matter() -> None:
    """As tables belong to a namespace, so does the lock."""
    with hold(TABLE), Namespace("other") as other:
        other.call(hold, TABLE).close()


def test_it_is_free_after_kill_9() -> None:
    """The kernel gives it back however the process ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, TABLE], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert "held\n" == process.stdout.readline()
        with pytest.raises(SystemFault):
            hold(TABLE)
        process.kill()
    hold(TABLE).close()


def test_children_do_not_inherit_it() -> None:
    """A hook that outlives the daemon holds up no other."""
    with hold(TABLE) as lock:
        assert not lock.get_inheritable()
        assert socket.AF_UNIX is lock.family
