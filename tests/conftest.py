"""The set-up of all tests: slow tests start first, and tests of an ordinary user run in a user namespace.

`nftlb.lab.userns` describes the user namespace.
"""

from __future__ import annotations

import os
import re
import subprocess
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, settings
from servers.programs import version

from nftlb.errors import SystemFault
from nftlb.lab import userns

JUDGE = "2.2.7"
WITHOUT_OFFLOAD = re.compile(r"\bno-offload\b")
"""In the id of a test that is repeated without checksum offload: see `lab_parameters.offload_id`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option of the stages that run with this kernel once more, with another nft or Python."""
    parser.addoption(
        "--offload-only", action="store_true", help="leave out the tests that are repeated without checksum offload"
    )


def pytest_configure() -> None:
    """Set up the environment of all tests.

    The process of an ordinary user enters a user namespace while it has one thread, and before xdist starts other
    processes there. If that is forbidden, each test that needs the namespace fails with a message that names the fix.
    """
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # the place of nft, which is not in the PATH of Debian's users
    # The time of an example depends on the load of the machine, so it has no limit.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")
    if userns.permitted():
        return
    # In the user namespace this process is root, and pytest would use the temporary directory of the real root.
    os.environ.setdefault("LOGNAME", f"user-{os.getuid()}")
    with suppress(SystemFault):
        userns.ensure()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.hookimpl(trylast=True)  # after pytest has put the tests of a fixture's parameter together
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the slow tests first, because all other processes wait for a slow test that starts last.

    Leave out the tests that compare with a keepalived version that this Debian does not have and, with --offload-only,
    those without offload.
    """
    left_out = [item for item in items if item.get_closest_marker("judged_by_keepalived")]
    if left_out and f"Keepalived v{JUDGE} " in version("keepalived"):
        left_out = []
    if config.getoption("offload_only", default=False):
        left_out += [item for item in items if WITHOUT_OFFLOAD.search(item.name)]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        names = {id(item) for item in left_out}
        items[:] = [item for item in items if id(item) not in names]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
