"""Who may use a file that holds a secret, by its owner, group and mode."""

from __future__ import annotations

import grp
import os
import stat
from contextlib import suppress

_OURS = "nftlb"
"""The group of the package and of the Ansible role: files of /etc/nftlb are `root:nftlb` with mode 0640."""


def exposure(status: os.stat_result) -> str:
    """Say in words who may use the file and should not; empty if nobody.

    As ssh does, with one exception: the group may read, if that is root's, this process's own, or the group `nftlb`. So
    may a systemd credential, which has root's.
    """
    if not stat.S_ISREG(status.st_mode):
        return ""  # a pipe of a shell holds nothing for others
    mode = stat.S_IMODE(status.st_mode)
    if mode & stat.S_IRWXO:
        return f"every user of this host may {_verb(mode & stat.S_IWOTH)} it (mode {mode:04o})"
    if mode & stat.S_IWGRP or (mode & stat.S_IRWXG and status.st_gid not in _groups()):
        return f"its group {_name(status.st_gid)} may {_verb(mode & stat.S_IWGRP)} it (mode {mode:04o})"
    return ""


def _verb(writes: int) -> str:
    return "write" if writes else "read"


def _groups() -> set[int]:
    groups = {0, os.getegid(), *os.getgroups()}
    with suppress(KeyError):
        groups.add(grp.getgrnam(_OURS).gr_gid)
    return groups


def _name(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
