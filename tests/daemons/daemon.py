"""A real server in a namespace of the lab: what all of them have in common."""

from __future__ import annotations

import socket
import struct
import subprocess
import time
from abc import ABC, abstractmethod
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self

from daemons import processes
from daemons.guard import Guard
from daemons.processes import PATIENCE, await_that
from daemons.programs import environment, program

from nftlb.errors import SystemFault

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from daemons.exchange import Answer

    from nftlb.lab import Host

ANSWER_TIMEOUT = 1.0
"""Seconds that `ask` waits unless told otherwise; a healthy server of the lab needs milliseconds."""
_FIRST_PATIENCE = 0.1
_LISTENING = "0A"
_UNCONNECTED = "07"
_LOG_TAIL = 2000


class Daemon(ABC):
    """A server, which runs inside `with`; all that it writes is in a directory of its own that vanishes at the end.

    >>> with Lab() as lab, Unbound(lab.backends[0], port=5353) as server:
    ...     assert server.ask(lab.balancer).right
    ...     server.kill()

    It runs in the foreground, as the leader of a process group, and as root, so that it can read and write there.
    Any number of the same kind can run in different namespaces; two in one namespace need different ports.
    """

    name: ClassVar[str]
    default_port: ClassVar[int]
    transport: ClassVar[str] = "udp"
    answers: ClassVar[bool] = True
    """False: it only listens, and so can be neither wrong nor slow."""

    def __init__(self, host: Host, *, port: int = 0, version: int = 4, addresses: Sequence[str] = ()) -> None:
        """Choose where it will listen: at the host's own address of that IP version, unless `addresses` says where.

        `port` is the service's own by default. Starts nothing.
        """
        self.host = host
        self.port = port or self.default_port
        self.addresses = tuple(addresses) or (host.address(version),)
        self._process: subprocess.Popen[str] | None = None
        self._guard: Guard | None = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} on {self.host.name}>"

    # ---- of each server ----

    @property
    @abstractmethod
    def check(self) -> Mapping[str, Any]:
        """The health check that suits it, as in a file: `{"dns": {"name": "example.com"}}`."""

    @abstractmethod
    def configure(self) -> None:
        """Write its files into `directory`, such that it answers rightly."""

    @abstractmethod
    def command(self) -> list[str]:
        """Return its command line, without the path of the program."""

    @abstractmethod
    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        """Ask it a question from a host of the lab; from its own, past every link, by default.

        Raises TimeoutError, ConnectionRefusedError or another OSError when there is no answer.
        """

    @abstractmethod
    def mislead(self, *, wrong: bool) -> None:
        """Have the running server answer wrongly, or rightly again, by its own means; need not be done at return."""

    # ---- of all ----

    @property
    def directory(self) -> Path:
        """Where all of its files are; exists inside `with`."""
        if self._guard is None:
            raise RuntimeError(f"{self!r} is used outside of its `with`")
        return self._guard.directory

    @property
    def address(self) -> str:
        """The first address that it listens at."""
        return self.addresses[0]

    @property
    def target(self) -> tuple[str, int]:
        """The first address, and the port."""
        return (self.address, self.port)

    @property
    def running(self) -> bool:
        """Whether its process is there, be it stopped."""
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
        """Start it, and return when it has given its first right answer, whatever it did before it was killed.

        Raises SystemFault, with the end of its log, when it does not.
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
                start_new_session=True,  # and with it a process group of its own
            )
        self._watch(self.pid)
        try:
            await_that(self._bound, f"{self!r} listening at port {self.port}")
            self._await_answer(right=True)
        except (SystemFault, OSError) as problem:
            raise SystemFault(f"{self!r} did not start: {problem}\n{self.log()[-_LOG_TAIL:]}") from problem

    def variables(self) -> dict[str, str]:
        """Return what its environment has besides `programs.environment`."""
        return {}

    def stop(self) -> None:
        """Stop all of its processes (SIGSTOP): its sockets stay, and fill, and nothing is answered."""
        processes.stop(self.pid)

    def resume(self) -> None:
        """Let its processes go on (SIGCONT): it then answers what has come meanwhile."""
        processes.resume(self.pid)

    def kill(self) -> None:
        """Kill all of its processes, stopped ones too: at return they and their sockets are gone. Again is no error."""
        if self._process is not None:
            processes.kill(self._process.pid)
            self._process.wait(PATIENCE)
            self._watch(None)

    def wrong(self) -> None:
        """Have it answer wrongly from now on, until `right` or `start`."""
        self.mislead(wrong=True)
        self._await_answer(right=False)

    def right(self) -> None:
        """Have it answer rightly again."""
        self.mislead(wrong=False)
        self._await_answer(right=True)

    def close(self) -> None:
        """Kill it and take its files away."""
        try:
            self.kill()
        finally:
            if self._guard is not None:
                self._guard.close()
                self._guard = None

    def log(self) -> str:
        """Return what it has written to standard output and error since it was last started."""
        return (self.directory / "log").read_text(encoding="utf-8", errors="replace")

    def _watch(self, group: int | None) -> None:
        if self._guard is not None:
            self._guard.watch(group)

    def _await_answer(self, *, right: bool) -> None:
        """Ask from its own host until the answer is right, or wrong."""
        deadline = time.monotonic() + PATIENCE
        timeout = _FIRST_PATIENCE  # a server may lose what comes while it starts
        while True:
            said: object
            try:
                said = answer = self.ask(timeout=timeout)
                if answer.right is right:
                    return
            except (TimeoutError, ConnectionError) as problem:
                said = problem
            timeout = min(2 * timeout, ANSWER_TIMEOUT)
            if not self.running or time.monotonic() > deadline:
                raise SystemFault(f"no {'right' if right else 'wrong'} answer, but: {said!r}")

    def _bound(self) -> bool:
        """Tell whether its namespace has a socket at each of its addresses."""
        if not self.running:
            raise SystemFault("it has ended")
        state = {"udp": _UNCONNECTED, "tcp": _LISTENING}[self.transport]
        return all(self._has_socket(address, state) for address in self.addresses)

    def _has_socket(self, address: str, state: str) -> bool:
        # A line has its number, the local address as hexadecimal `address:port`, the remote one and the state. The
        # address is in words of 32 bits, each in the order of the machine.
        family, table = (socket.AF_INET6, f"{self.transport}6") if ":" in address else (socket.AF_INET, self.transport)
        words = struct.iter_unpack("=I", socket.inet_pton(family, address))
        local = "".join(f"{word:08X}" for (word,) in words) + f":{self.port:04X}"
        try:
            lines = Path(f"/proc/{self.pid}/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except FileNotFoundError:  # it has just ended, and so has no namespace any more
            return False
        return any(fields[1] == local and fields[3] == state for fields in map(str.split, lines))


def repeat(template: str, values: Sequence[str]) -> str:
    """Write a line of a configuration for each value, which takes the place of `{}`."""
    return "\n".join(template.format(value) for value in values)


def bracketed(address: str) -> str:
    """Write an IPv6 address in brackets, and any other as it is."""
    return f"[{address}]" if ":" in address else address
