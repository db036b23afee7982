"""A network namespace without a name: it exists as long as this process holds its file descriptor.

Nothing is written to /run and nothing has to be cleaned up. When the descriptor is closed, or the process ends in any
way, the kernel deletes the namespace together with its interfaces, rules and routes.

In Linux each *thread* has its network namespace. So all work is done by threads that enter the namespace: a socket,
child process or libnftables context that such a thread makes stays in the namespace after the thread has ended.
"""

from __future__ import annotations

import ctypes
import errno
import os
import subprocess
from concurrent.futures import Future
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Any, ParamSpec, Self, TypeVar

from nftlb.errors import SystemFault

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

P = ParamSpec("P")
T = TypeVar("T")

CLONE_NEWNET = 0x40000000
COMMAND_TIMEOUT = 30.0
"""The default time limit of a command in `Namespace.run`, in seconds."""

# `os.unshare` and `os.setns` came with Python 3.12; use_errno keeps one errno per thread.
_libc = ctypes.CDLL(None, use_errno=True)


class Namespace:
    """One network namespace, empty at first (even `lo` is down), held by an open file descriptor."""

    def __init__(self, name: str) -> None:
        """Make the namespace. `name` appears in messages only.

        Raises SystemFault if the process may not make namespaces (see `nftlb.lab.userns`).
        """
        self.name = name
        self._fd = _in_thread(_unshare_network, f"{name}-unshare")

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name}>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the descriptor. The namespace ends when the sockets and processes in it have ended too."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def fileno(self) -> int:
        """Return the descriptor that holds the namespace (IFLA_NET_NS_FD of netlink)."""
        return self._fd

    def call(self, function: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        """Run `function` in a thread inside the namespace; return its result or raise its exception."""

        def inside() -> T:
            _enter_network(self._fd)
            return function(*args, **kwargs)

        return _in_thread(inside, f"{self.name}-call")

    def popen(self, argv: Sequence[str], **options: Any) -> subprocess.Popen[str]:
        """Start a process inside the namespace (a child inherits the namespace of the thread that starts it)."""
        return self.call(lambda: subprocess.Popen(argv, **{"text": True, **options}))  # noqa: S603 - no shell, and the lab's own

    def run(self, argv: Sequence[str], **options: Any) -> str:
        """Run a command inside the namespace, wait for its end, and return its standard output.

        Raises subprocess.CalledProcessError if the command fails, and TimeoutExpired after COMMAND_TIMEOUT seconds.
        """
        defaults: dict[str, Any] = {"text": True, "check": True, "capture_output": True, "timeout": COMMAND_TIMEOUT}
        done = self.call(lambda: subprocess.run(argv, **{**defaults, **options}))  # noqa: PLW1510, S603 - see defaults
        return str(done.stdout)

    def sysctl(self, name: str, value: int | str | None = None) -> str:
        """Set a sysctl of the namespace, such as `net.ipv4.ip_forward`, if `value` is given, and return its value.

        /proc/sys/net shows the namespace of the thread that opens it. A name may be written with slashes, for
        interfaces with dots in their names: `net/ipv4/conf/eth0.7/rp_filter`.
        """
        path = Path("/proc/sys", name if "/" in name else name.replace(".", "/"))

        def access() -> str:
            if value is not None:
                path.write_text(f"{value}\n", encoding="ascii")
            return path.read_text(encoding="ascii").strip()

        return self.call(access)

    def proc_net(self, name: str) -> str:
        """Return the text of /proc/net/`name` of the namespace.

        /proc/net shows the main thread's namespace, so /proc/thread-self/net is read.
        """
        return self.call(Path("/proc/thread-self/net", name).read_text, encoding="ascii")


def _in_thread(function: Callable[[], T], name: str) -> T:
    """Run `function` in a separate thread, so that this thread stays in its namespace."""
    future: Future[T] = Future()

    def work() -> None:
        try:
            future.set_result(function())
        except BaseException as problem:  # noqa: BLE001 - raised again in the calling thread
            future.set_exception(problem)

    thread = Thread(target=work, name=name, daemon=True)
    thread.start()
    thread.join()
    return future.result()


def _unshare_network() -> int:
    if _libc.unshare(CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        if number == errno.ENOSPC:
            fix = "raise sysctl user.max_net_namespaces"
        else:
            fix = "run it as root, or call nftlb.lab.userns.ensure() first; in a container grant CAP_SYS_ADMIN"
        raise SystemFault(f"can't make a network namespace: {os.strerror(number)}: {fix}")
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _enter_network(fd: int) -> None:
    if _libc.setns(fd, CLONE_NEWNET) != 0:
        number = ctypes.get_errno()
        raise OSError(number, f"setns: {os.strerror(number)}")
