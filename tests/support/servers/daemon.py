"""The base of the real servers that run in namespaces of the lab."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from servers import processes
from servers.guard import Guard
from servers.processes import PATIENCE, await_that
from servers.programs import environment, program

from nftlb.errors import SystemFault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from servers.exchange import Answer

    from nftlb.lab import Host

ANSWER_TIMEOUT = 20.0
"""The default time limit of `ask` in seconds. A healthy server of the lab needs milliseconds on an idle machine."""
_FIRST_PATIENCE, _LAST_PATIENCE = 0.1, 1.0
_LISTENING = "0A"
_UNCONNECTED = "07"
_LOG_TAIL = 2000


class Daemon(ABC):
    """A server, which runs inside `with`. Its files are in a separate directory, which is deleted at the end.

    >>> with Lab() as lab, Unbound(lab.backends[0], port=5353) as server:
    ...     assert server.ask(lab.balancer).right
    ...     server.kill()

    The server runs in the foreground, as the leader of a process group, and as root, so that it can read and write its
    files. Servers of the same kind can run in different namespaces; in one namespace, they need different ports.
    """

    name: ClassVar[str]
    default_port: ClassVar[int]
    transport: ClassVar[str] = "udp"
    answers: ClassVar[bool] = True
    """Whether the server replies. Without replies it can be neither wrong nor slow."""

    def __init__(self, host: Host, *, port: int = 0, version: int = 4, addresses: Sequence[str] = ()) -> None:
        """Choose the listening address: the host's own address of that IP version, unless `addresses` is given.

        `port` is the usual port of the service by default. Starts nothing.
        """
        self.host = host
        self.port = port or self.default_port
        self.addresses = tuple(addresses) or (host.address(version),)
        self._process: subprocess.Popen[str] | None = None
        self._guard: Guard | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.host.name}>"

    # ---- different in each server ----

    @property
    @abstractmethod
    def check(self) -> Mapping[str, Any]:
        """The health check for this server, as in a configuration file: `{"dns": {"name": "example.com"}}`."""

    @abstractmethod
    def configure(self) -> None:
        """Write the configuration of a server with right replies into `directory`."""

    @abstractmethod
    def command(self) -> list[str]:
        """The command line, without the path of the program."""

    @abstractmethod
    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        """Send a request from a host of the lab; by default from the server's host, without any link.

        Raises TimeoutError, ConnectionRefusedError or another OSError when there is no answer.
        """

    @abstractmethod
    def mislead(self, *, wrong: bool) -> None:
        """Make the running server give wrong replies, or right replies again. May take effect after the return."""

    # ---- common to all servers ----

    @property
    def directory(self) -> Path:
        """The directory of the server's files, which exists inside `with`."""
        if self._guard is None:
            raise RuntimeError(f"{self!r} is used outside of its `with`")
        return self._guard.directory

    @property
    def address(self) -> str:
        """The server's first address."""
        return self.addresses[0]

    @property
    def target(self) -> tuple[str, int]:
        """The first address, and the port."""
        return (self.address, self.port)

    @property
    def running(self) -> bool:
        """Whether the server's process exists, running or stopped."""
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        """The process, and the process group."""
        if self._process is None:
            raise RuntimeError(f"{self!r} has not been started")
        return self._process.pid

    def __enter__(self) -> Self:
        self._guard = Guard(self.name)
        try:
            self.start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def start(self) -> None:
        """Start the server, and wait for its first right reply.

        Raises SystemFault, with the end of the log, without such a reply.
        """
        if self.running:
            raise RuntimeError(f"{self!r} runs already")
        self.configure()
        path, *arguments = self.command()
        with (self.directory / "log").open("w", encoding="utf-8") as log:
            self._process = self.host.popen(
                [program(path), *arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**environment(), **self.variables()},
                start_new_session=True,  # and a new process group
            )
        self._watch(self.pid)
        try:
            await_that(self._bound, f"{self!r} listening at port {self.port}")
            self._await_answer(right=True)
        except (SystemFault, OSError) as problem:
            raise SystemFault(f"{self!r} did not start: {problem}\n{self.log()[-_LOG_TAIL:]}") from problem

    def variables(self) -> dict[str, str]:
        """Additions to the environment of `programs.environment`."""
        return {}

    def stop(self) -> None:
        """Stop all processes of the server (SIGSTOP). Its sockets stay open and fill, without replies."""
        processes.stop(self.pid)

    def resume(self) -> None:
        """Continue the processes (SIGCONT). The server then replies to the waiting requests."""
        processes.resume(self.pid)

    def kill(self) -> None:
        """Kill all processes, also stopped ones, and wait until they have ended. May be called again."""
        if self._process is not None:
            processes.kill(self._process.pid)
            self._process.wait(PATIENCE)
            self._watch(None)

    def wrong(self) -> None:
        """Make the server give wrong replies until `right` or `start`."""
        self.mislead(wrong=True)
        self._await_answer(right=False)

    def right(self) -> None:
        """Make the server give right replies again."""
        self.mislead(wrong=False)
        self._await_answer(right=True)

    def close(self) -> None:
        """Kill the server and delete its files."""
        try:
            self.kill()
        finally:
            if self._guard is not None:
                self._guard.close()
                self._guard = None

    def log(self) -> str:
        """The output and errors since the last start."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def _watch(self, group: int | None) -> None:
        if self._guard is not None:
            self._guard.watch(group)

    def _await_answer(self, *, right: bool) -> None:
        """Send requests from the server's host until the reply is right, or wrong."""
        deadline = time.monotonic() + PATIENCE
        timeout = _FIRST_PATIENCE  # a server may lose requests while it starts
        while True:
            said: object
            try:
                said = answer = self.ask(timeout=timeout)
                if answer.right is right:
                    return
            except (TimeoutError, ConnectionError) as problem:
                said = problem
            timeout = min(2 * timeout, _LAST_PATIENCE)
            if not self.running or time.monotonic() > deadline:
                raise SystemFault(f"no {'right' if right else 'wrong'} answer, but: {said!r}")

    def _bound(self) -> bool:
        """Whether the namespace has a socket at each address of the server."""
        if not self.running:
            raise SystemFault("it has ended")
        state = {"udp": _UNCONNECTED, "tcp": _LISTENING}[self.transport]
        return all(self._has_socket(address, state) for address in self.addresses)

    def _has_socket(self, address: str, state: str) -> bool:
        # A line has its number, the local address as hexadecimal `address:port`, the remote address and the state.
        # An address is in words of 32 bits, each in the byte order of the machine.
        family, table = (socket.AF_INET6, f"{self.transport}6") if ":" in address else (socket.AF_INET, self.transport)
        words = struct.iter_unpack("=I", socket.inet_pton(family, address))
        local = "".join(f"{word:08X}" for (word,) in words) + f":{self.port:04X}"
        try:
            lines = Path(f"/proc/{self.pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:  # the process has just ended, and has no namespace any more
            return False
        return any(fields[1] == local and fields[3] == state for fields in map(str.split, lines))


def repeat(template: str, values: Sequence[str]) -> str:
    """A line of a configuration for each value, which replaces `{}`."""
    return "\n".join(template.format(value) for value in values)


def bracketed(address: str) -> str:
    """An IPv6 address in brackets; an IPv4 address unchanged."""
    return f"[{address}]" if ":" in address else address
