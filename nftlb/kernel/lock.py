"""Only one nftlb writes a table at a time: it holds a file in /run/nftlb, one for each network namespace and table.

Who can write to that folder can take the lock: root, and the user that root gave the folder to. The lock is a record
lock (fcntl(2)): the kernel tells which process holds the lock, gives the lock back however that process ends, and hands
the lock to no child.

A user namespace without a folder of its own has a network that no other user can enter. There the lock is an abstract
socket of the network namespace, as in versions before this one.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import struct
import sys
import time
from contextlib import ExitStack, suppress

# The first load waits for all that is imported here: nftlb/preload.py.
TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from socket import socket
    from typing import Self

    from nftlb.errors import SystemFault

FOLDER: str | os.PathLike[str] = "/run/nftlb"
_FOR_OTHERS = stat.S_IWGRP | stat.S_IWOTH
_NOT_FOR_THE_OWNER = stat.S_IRWXG | stat.S_IRWXO
_FLOCK = struct.Struct("hhqqi0q")
"""struct flock of fcntl(2): type, whence, start, length, process."""
_NOTE_BYTES = 400
_PLAIN = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 @%+=:,./-_")
"""What needs no quotes for a shell; a word with a blank inside is read as two words, which is good enough here."""
_UNUSABLE = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOENT)
_held: set[tuple[int, str]] = set()
"""By this process, whose number is part of it: a child that was forked holds none. To the kernel a second lock of one
process is no other."""


class Lock:
    """A lock that is held until `close()`, or the end of the process; a context manager."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._stack.close()


def hold(table: str) -> Lock:
    """Be the only one to write that table in this network namespace.

    Raises SystemFault if another process is, and names that process; or if this user can't have the lock.
    """
    name = _name(table)
    with ExitStack() as stack:
        try:
            _hold(name, table, stack)
        except OSError as error:
            if error.errno not in _UNUSABLE or not _in_user_namespace():
                raise _unusable(name, error) from error
            stack.enter_context(_abstract_socket(table))
        return Lock(stack.pop_all())


def _hold(name: str, table: str, stack: ExitStack) -> None:
    folder = _folder()
    stack.callback(os.close, folder)
    key = os.getpid(), f"{FOLDER}/{name}"
    if key in _held:
        raise _taken(table, f"process {os.getpid()} (this one)")
    for file in _opened(folder, name):
        # To close a file gives back every lock of this process on the file: not so here, since there is none.
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
                continue  # who held it has just removed the file, and the next process would make another
            stack.push(kept.pop_all())
        break
    _held.add(key)
    stack.callback(_held.discard, key)
    stack.callback(_remove, folder, name)
    with suppress(OSError):  # no space left: the lock holds without a note
        os.ftruncate(file, 0)
        os.pwrite(file, _note().encode(), 0)


def _name(table: str) -> str:
    """Name the file: namespaces share the folder. When the number of a dead one comes again, its lock is free."""
    namespace = os.stat("/proc/thread-self/ns/net")  # noqa: PTH116 - pathlib takes long to import
    return f"{table}.{namespace.st_dev}-{namespace.st_ino}.lock"


def _folder() -> int:
    """Open the folder, or make it. SystemFault if a stranger could take the lock, or keep others from it."""
    with suppress(FileExistsError):
        os.mkdir(FOLDER)  # noqa: PTH102
        os.chmod(FOLDER, 0o755)  # noqa: PTH101, S103 - whatever the umask: the daemon's socket may be there
    try:
        folder = os.open(FOLDER, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
        raise _fault(f"{FOLDER} is no folder; needed: a folder for locks: remove what is there") from None
    status = os.fstat(folder)
    if status.st_mode & _FOR_OTHERS:
        os.close(folder)
        raise _fault(
            f"{FOLDER} can be written by others than its owner (mode {stat.S_IMODE(status.st_mode):04o}), who could "
            f"keep nftlb from starting; allowed: 0755 or less: chmod go-w {FOLDER}"
        )
    return folder


def _opened(folder: int, name: str) -> Iterator[int]:
    """Open the file of the lock, or make it; again and again, as long as the caller finds it to be another by then."""
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
            raise _fault(
                f"{FOLDER}/{name} is not a lock of nftlb's (mode {stat.filemode(status.st_mode)}, owner "
                f"{status.st_uid}); needed: a file with mode 0600 of user {owner}, as the folder: remove what is there"
            )
        yield file


def _make(folder: int, name: str) -> None:
    """Make the file, at once as the folder's owner's: where root makes the file, the daemon's user has to open it."""
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
    """Leave no file behind for each namespace there ever was."""
    with suppress(OSError):
        os.unlink(name, dir_fd=folder)


def _note() -> str:
    """What the next process says of this one: the command, and since when."""
    words = [sys.argv[0].rpartition("/")[2], *sys.argv[1:]]
    command = " ".join(words)
    if not all(words) or set(command) - _PLAIN:
        import shlex  # noqa: PLC0415 - hardly ever needed

        command = shlex.join(words)
    return f"`{command[:_NOTE_BYTES]}`, since {time.strftime('%Y-%m-%d %H:%M:%S UTC', time.gmtime())}"


def _holder(file: int) -> str:
    """Who holds the lock: the process by the kernel's word, the rest by the process's own note."""
    asked = _FLOCK.pack(fcntl.F_WRLCK, os.SEEK_SET, 0, 0, 0)
    kind, *_, process = _FLOCK.unpack(fcntl.fcntl(file, fcntl.F_GETLK, asked))
    if kind == fcntl.F_UNLCK:
        return "a process that has just ended"
    who = f"process {process}" if process > 0 else "a process of another PID namespace"
    note = os.pread(file, 4 * _NOTE_BYTES, 0).decode(errors="replace")
    told = "".join(one if one.isprintable() else "?" for one in note)
    return f"{who} ({told})" if told else who


def _taken(table: str, who: str) -> SystemFault:
    return _fault(
        f"another nftlb runs for the table {table} in this network namespace: {who}: stop it, have it `nftlb reload`, "
        "or set `table:`"
    )


def _unusable(name: str, error: OSError) -> SystemFault:
    why = error.strerror or str(error)
    if error.errno not in _UNUSABLE:
        return _fault(f"the lock {FOLDER}/{name} can't be had: {why}")
    return _fault(
        f"the lock {FOLDER}/{name} can't be had: {why}; needed: a folder that this user may write to: run nftlb as "
        f"root, or have root do `install -d -m 755 -o USER {FOLDER}` for the user that nftlb runs as; in a container "
        "with a read-only root, mount a tmpfs on /run"
    )


def _in_user_namespace() -> bool:
    """Whether this process is in another than the first user namespace, and so has a network that others can't enter.

    Or it has no power over the network, and gets no further than here.
    """
    with open("/proc/self/uid_map", encoding="ascii") as file:  # noqa: PTH123 - see above
        return file.read().split() != ["0", "0", "4294967295"]


def _fault(message: str) -> SystemFault:
    from nftlb.errors import SystemFault  # noqa: PLC0415 - see above

    return SystemFault(message)


def _abstract_socket(table: str) -> socket:
    import socket  # noqa: PLC0415 - see above

    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        lock.bind(f"\0nftlb/{table}")
    except OSError as error:
        lock.close()
        if error.errno == errno.EADDRINUSE:
            raise _taken(table, "a process of this user namespace") from None
        raise
    return lock
