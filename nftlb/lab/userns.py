"""The lab without root: a user namespace in which this process may make network namespaces.

Inside, nft, veth and all hooks work as for root, and nothing outside can be changed.
"""

from __future__ import annotations

import ctypes
import errno
import os
from pathlib import Path

from nftlb.errors import SystemFault

from .namespace import CLONE_NEWNET

CLONE_NEWUSER = 0x10000000
_CAP_NET_ADMIN = 12
_CAP_SYS_ADMIN = 21
_NEEDED = 1 << _CAP_NET_ADMIN | 1 << _CAP_SYS_ADMIN

_libc = ctypes.CDLL(None, use_errno=True)


def permitted() -> bool:
    """Return whether this process may make network namespaces and configure them."""
    status = Path("/proc/thread-self/status").read_text(encoding="ascii")
    effective = next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:"))
    return int(effective, 16) & _NEEDED == _NEEDED


def ensure() -> None:
    """Make sure that this process may build a lab. If it may not, move it into a new user namespace as root.

    Call this before the first thread is started: the kernel moves only processes with a single thread. The process has
    uid 0 in the new namespace, and is still the same user outside. It also leaves the host's network for an empty
    network, in which `lo` is down.

    Raises SystemFault, with the fix, if this system does not permit user namespaces.
    """
    if permitted():
        return
    uid, gid = os.geteuid(), os.getegid()
    if _libc.unshare(CLONE_NEWUSER | CLONE_NEWNET) != 0:
        raise _refusal(ctypes.get_errno())
    try:
        # Without `deny`, only a privileged user may map groups. Otherwise a process could drop a group to which
        # a file's mode denies access.
        _write("/proc/self/setgroups", "deny")
        _write("/proc/self/uid_map", f"0 {uid} 1")
        _write("/proc/self/gid_map", f"0 {gid} 1")
    except OSError as problem:
        raise _refusal(problem.errno or errno.EPERM) from problem


def _write(path: str, text: str) -> None:
    """Write the text in one system call, which the map files require."""
    fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
    try:
        os.write(fd, text.encode("ascii"))
    finally:
        os.close(fd)


def _refusal(number: int) -> SystemFault:
    """Return the error, with the sysctls that forbid user namespaces and how to set them."""
    if number == errno.EINVAL:
        return SystemFault("can't enter a user namespace: this process has more than one thread; run it as root")
    switches = (
        ("user.max_user_namespaces", "0", "sysctl -w user.max_user_namespaces=10000"),
        ("kernel.unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        (
            "kernel.apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    )
    fixes = [fix for name, forbids, fix in switches if _sysctl(name) == forbids]
    fix = " or ".join(["run it as root", *fixes]) if fixes else "run it as root; in a container, allow user namespaces"
    return SystemFault(f"can't enter a user namespace: {os.strerror(number)}: {fix}")


def _sysctl(name: str) -> str:
    try:
        return Path("/proc/sys", name.replace(".", "/")).read_text(encoding="ascii").strip()
    except OSError:
        return ""
