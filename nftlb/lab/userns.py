"""The lab without root: a user namespace in which this process may make network namespaces.

Inside it nft, veth and every hook work as they do for root, and nothing outside can be touched.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from nftlb.errors import SystemFault

CLONE_NEWUSER = 0x10000000
CLONE_NEWNET = 0x40000000
_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
_NEEDED = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN

_libc = ctypes.CDLL(None, use_errno=True)


def permitted() -> bool:
    """Tell whether this process may already make network namespaces and set them up."""
    status = Path("/proc/thread-self/status").read_text(encoding="ascii")
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return int(effective, 16) & _NEEDED == _NEEDED


def ensure() -> None:
    """Make sure that this process may build a lab: when it may not, move it into a user namespace as its root.

    Call it before the first thread is started, because the kernel moves only processes of one thread. The process goes
    on where it was; it is uid 0 in the new namespace and still the same user to everybody outside. It also leaves the
    host's network: afterwards it sees an empty one, and `lo` is down.

    Raises SystemFault, with the mend, when this system does not permit user namespaces.
    """
    if permitted():
        return
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise _refusal(ctypes.get_errno())
    try:
        # Without `deny` the kernel lets nobody but a privileged user map groups: else a process could drop a group that
        # a file's mode shuts out.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as problem:
        raise _refusal(problem.errno or errno.EPERM) from problem


def _write(path: str, text: str) -> None:
    """Write in one system call, as the map files demand."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def _refusal(number: int) -> SystemFault:
    """Find out which of the known locks is shut, and name its key."""
    if number == errno.EINVAL:
        return SystemFault("can't enter a user namespace: this process has more than one thread; run it as root")
    locks = (
        ("user.max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
        ("kernel.unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    )
    mends = [mend for name, shut, mend in locks if _sysctl(name) == shut]
    mend = " or ".join(["run it as root", *mends]) if mends else "run it as root; in a container, allow user namespaces"
    return SystemFault(f"can't enter a user namespace: {os.strerror(number)}: {mend}")


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return ""
