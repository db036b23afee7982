"""A lock that lets only one nftlb write a table: a file in /run/nftlb for each network namespace and table.

Every user who can write to that folder can take the lock: root, and the user to whom root gave the folder. The lock is
a record lock (fcntl(2)): the kernel knows which process holds the lock, releases the lock however that process ends,
and passes the lock to no child.

A user namespace without its own folder has a network that no other user can enter. There the lock is an abstract
socket of the network namespace, as in earlier versions.
"""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import socket
import stat
import struct
import sys
import time
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.errors import SystemFault
from nftlb.sockets import namespace

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER: str | os.PathLike[str] = "/run/nftlb"
_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_NOT_FOR_THE_OWNER = stat.S_IRWXG | stat.S_IRWXO
_FLOCK = struct.Struct("hhqqi0q")
"""struct flock of fcntl(2): type, whence, start, length, process."""
_NOTE_BYTES = 400
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
_held: set[tuple[int, str]] = set()
"""The locks of this process, as (process id, file): a forked child holds none. This set is needed because the kernel
grants a second lock on the same file to the same process."""


def hold_lock(table: str) -> ExitStack:
    """Take the lock for writing a table in this network namespace, until `close()` or the end of the process.

    Raises SystemFault if another process holds the lock, with the name of that process, or if this user may not take
    the lock.
    """
    name = _name(table)
    with ExitStack() as stack:
        try:
            _hold(name, table, stack)
        except OSError as error:
            if error.errno not in _UNUSABLE or not _in_user_namespace():
                raise _unusable(name, error) from error
            stack.enter_context(_abstract_socket(table))
        return stack.pop_all()


def _hold(name: str, table: str, stack: ExitStack) -> None:
    folder = _folder()
    stack.callback(os.close, folder)
    key = os.getpid(), f"{FOLDER}/{name}"
    if key in _held:
        raise _taken(table, f"process {os.getpid()} (this one)")
    for file in _opened(folder, name):
        # Closing a file releases every lock of this process on the file. At this point it has none.
        kept = ExitStack()
        kept.callback(os.close, file)
        with kept:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                if error.errno not in (errno.EACCES, errno.EAGAIN):
                    raise
                raise _taken(table, _holder(file)) from None
            if not _is_still(folder, name, file):
                continue  # its holder has just deleted the file; the next process would make a new file
            stack.push(kept.pop_all())
        break
    _held.add(key)
    stack.callback(_held.discard, key)
    stack.callback(_remove, folder, name)
    _mark(folder, table)
    with suppress(OSError):  # no space left: the lock works without the note
        os.ftruncate(file, 0)
        os.pwrite(file, _note().encode(), 0)


def _name(table: str) -> str:
    """Return the name of the file: namespaces share the folder. A reused namespace number has a free lock."""
    return f"{table}.{namespace()}.lock"


def _folder() -> int:
    """Open the folder, or make it. Raises SystemFault if other users could take or block the lock."""
    with suppress(FileExistsError):
        os.mkdir(FOLDER)  # noqa: PTH102
        os.chmod(FOLDER, 0o755)  # noqa: PTH101, S103 - whatever the umask: the daemon's socket may be there
    try:
        folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise SystemFault(
            f"{FOLDER} is not a folder; needed: a folder for locks: remove the file that is there"
        ) from None
    status = os.fstat(folder)
    if status.st_mode & _FOR_OTHERS:
        os.close(folder)
        raise SystemFault(
            f"{FOLDER} can be written by others than its owner (mode {stat.S_IMODE(status.st_mode):04o}), who could "
            f"keep nftlb from starting; allowed: 0755 or less: chmod go-w {FOLDER}"
        )
    return folder


def _opened(folder: int, name: str) -> Iterator[int]:
    """Open the lock's file, or make it. The caller takes the next if the file was replaced after it was opened."""
    flags = os.O_RDWR | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    while True:
        try:
            file = os.open(name, flags, dir_fd=folder)
        except FileNotFoundError:
            _make(folder, name)
            continue
        status, owner = os.fstat(file), os.fstat(folder).st_uid
        if not stat.S_ISREG(status.st_mode) or status.st_uid != owner or status.st_mode & _NOT_FOR_THE_OWNER:
            os.close(file)
            raise SystemFault(
                f"{FOLDER}/{name} is not a lock of nftlb (mode {stat.filemode(status.st_mode)}, owner "
                f"{status.st_uid}); needed: a file with mode 0600 of user {owner}, as the folder: remove what is there"
            )
        yield file


def _make(folder: int, name: str) -> None:
    """Make the file, with the folder's owner from the start: the daemon's user must be able to open root's file."""
    new = f"{name}.{os.urandom(4).hex()}"
    file = os.open(new, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder)
    try:
        owner = os.fstat(folder)
        if os.fstat(file).st_uid != owner.st_uid:
            os.fchown(file, owner.st_uid, owner.st_gid)
        with suppress(FileExistsError):
            os.link(new, name, src_dir_fd=folder, dst_dir_fd=folder, follow_symlinks=False)
    finally:
        os.close(file)
        os.unlink(new, dir_fd=folder)


def _is_still(folder: int, name: str, file: int) -> bool:
    try:
        return os.path.samestat(os.fstat(file), os.stat(name, dir_fd=folder, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _remove(folder: int, name: str) -> None:
    """Delete the file, so that old namespaces leave no files."""
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _mark(folder: int, table: str) -> None:
    """Leave an empty file for each table that was written since the boot: nftlb/preload.sh looks for other tables.

    The file stays when the table is removed: another network namespace, with the same folder, may have such a table.
    A file too many costs the next start one listing.
    """
    with suppress(FileExistsError):
        os.close(os.open(f"{table}.used", os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=folder))


def _note() -> str:
    """Return the note about this process for the message of the next: the command and its start."""
    command = shlex.join([sys.argv[0].rpartition("/")[2], *sys.argv[1:]])
    return f"`{command[:_NOTE_BYTES]}`, since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}"


def _holder(file: int) -> str:
    """Return who holds the lock: the process id from the kernel, the rest from that process's note."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, process = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return "a process that has just ended"
    who = f"process {process}" if process > 0 else "a process of another PID namespace"
    note = os.pread(file, 4 * _NOTE_BYTES, 0).decode(errors="replace")
    text = "".join(letter if letter.isprintable() else "?" for letter in note)
    return f"{who} ({text})" if text else who


def _taken(table: str, who: str) -> SystemFault:
    return SystemFault(
        f"another nftlb runs for the table {table} in this network namespace: {who}: stop it, use `nftlb reload`, or "
        "set another `table:`"
    )


def _unusable(name: str, error: OSError) -> SystemFault:
    why = error.strerror or str(error)
    if error.errno not in _UNUSABLE:
        return SystemFault(f"the lock {FOLDER}/{name} can't be taken: {why}")
    return SystemFault(
        f"the lock {FOLDER}/{name} can't be taken: {why}; needed: a folder that this user may write to: run nftlb as "
        f"root, or run as root `install -d -m 755 -o USER {FOLDER}` for the user that nftlb runs as; in a container "
        "with a read-only root, mount a tmpfs on /run"
    )


def _in_user_namespace() -> bool:
    """Whether this process is in a separate user namespace, with a network that other users can't enter.

    If it shares the host's network instead, it may not change that network, and fails later.
    """
    return Path("/proc/self/uid_map").read_text(encoding="ascii").split() != ["0", "0", "4294967295"]


def _abstract_socket(table: str) -> socket.socket:
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(f"\0nftlb/{table}")
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(table, "a process of this user namespace") from None
        raise
    return lock
