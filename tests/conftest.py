"""What all tests need: slow tests start first, and tests of ordinary users run in a user namespace.

See `nftlb.lab.userns` for the latter.
"""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

import pytest
from daemons.programs import version
from hypothesis import HealthCheck, settings

from nftlb.errors import SystemFault
from nftlb.lab import userns

JUDGE = "2.2.7"


def pytest_configure() -> None:
    """Set up what is the same for all tests.

    An ordinary user's process moves while it has one thread, and before xdist starts others in the same namespace.
    Where that is forbidden, each test that needs it fails with the mend.
    """
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # nft is there, which Debian's users do not look for
    # How long an example takes tells how busy the machine is.
    settings.register_profile("any machine", deadline=None, suppress_health_check=[HealthCheck.too_slow])
    settings.load_profile("any machine")
    if userns.permitted():
        return
    # There it is root, and pytest would take the temporary directory of the real one.
    os.environ.setdefault("LOGNAME", f"user-{os.getuid()}")
    with suppress(SystemFault):
        userns.ensure()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)


@pytest.hookimpl(trylast=True)  # after pytest has put the tests of a fixture's parameter together
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Start the slow tests first: a slow test that starts last is what all other processes wait for in the end.

    Leave out what compares with a keepalived that this Debian does not have.
    """
    judged = [item for item in items if item.get_closest_marker("judged_by_keepalived")]
    if judged and f"Keepalived v{JUDGE} " not in version("keepalived"):
        config.hook.pytest_deselected(items=judged)
        items[:] = [item for item in items if item not in judged]
    items.sort(key=lambda item: item.get_closest_marker("slow") is None)
