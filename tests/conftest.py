"""What ordinary users need: without root all tests run in a user namespace (see `nftlb.lab.userns`)."""

from __future__ import annotations

import os
import subprocess
from contextlib import suppress

from nftlb.errors import SystemFault
from nftlb.lab import userns


def pytest_configure() -> None:
    """Move this process while it has one thread, and before xdist starts others in the same namespace.

    Where that is forbidden, each test that needs it fails with the mend.
    """
    os.environ["PATH"] += ":/usr/sbin:/sbin"  # nft is there, which Debian's users do not look for
    if userns.permitted():
        return
    # There it is root, and pytest would take the temporary directory of the real one.
    os.environ.setdefault("LOGNAME", f"user-{os.getuid()}")
    with suppress(SystemFault):
        userns.ensure()
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
