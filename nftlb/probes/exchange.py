"""The exchange of a request datagram and its reply.

This happens thousands of times a second. So it uses a socket and a future instead of asyncio's transports and
protocols, and its own epoll and time-outs instead of the loop's readers and timers.
"""

from __future__ import annotations

import asyncio
import select
import socket
from itertools import islice
from typing import TYPE_CHECKING, Generic, Protocol, TypeVar
from weakref import WeakKeyDictionary

from .probe import Failed, no_answer, open_socket

if TYPE_CHECKING:
    from collections.abc import Callable

    from .probe import Subject

T = TypeVar("T")

_LARGEST = 65535
_IPV6 = 6
# Datagrams to read when the time is over: a raw socket's queue may hold the replies to many checks before this check's
# reply, but a flood must not keep this process busy.
_LAST_LOOKS = 100
_OTHERS = 8
_PAUSE = 0.02


class NotOurs(Exception):  # noqa: N818 - an outcome
    """A datagram is not the reply to the request, so the wait goes on. A time-out quotes its text."""


def connected(
    subject: Subject,
    port: int,
    kind: int = socket.SOCK_DGRAM,
    protocol: int = 0,
    option: tuple[int, int, bytes] | None = None,
) -> socket.socket:
    """Return a new datagram socket, connected to the subject, with the socket option `option` set.

    Each socket has a new port, so a late reply to an earlier check can't count. Raises OSError and SystemFault.
    """
    opened = open_socket(subject, kind, protocol)
    try:
        if option is not None:
            opened.setsockopt(*option)
        if subject.address.version == _IPV6:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        opened.connect((str(subject.address), port))
    except BaseException:
        opened.close()
        raise
    return opened


# include/uapi/linux/in.h, in6.h. Without it, the kernel reports no ICMP error but port-unreachable.
_IP_RECVERR, _IPV6_RECVERR = 11, 25


class Silence(Failed):
    """No reply came in time."""


async def exchange(
    opened: socket.socket, request: bytes, read: Callable[[bytes], T], seconds: float, others: int = _OTHERS
) -> T:
    """Send the request, wait until `read` accepts a datagram, and return its result. Closes the socket.

    `read` raises NotOurs to go on waiting. Its other exceptions, and OSError, are passed on. Raises Silence after
    `seconds`. The datagrams that are in the socket then are read first: a reply that came in time counts, even if this
    process runs late. asyncio.timeout would cancel the wait without reading.

    After each `others` datagrams that are not the reply, reading pauses, each time for twice as long. So a flood of
    datagrams does not keep this process busy.
    """
    loop = asyncio.get_running_loop()
    with opened:
        descriptor = opened.fileno()
        opened.send(request)
        waits = waits_of(loop)
        answered: asyncio.Future[T] = loop.create_future()
        waits.add(descriptor, _ReplyWait(waits, opened, read, others, answered), seconds)
        try:
            return await answered
        finally:
            waits.forget(descriptor, seconds)
            del answered  # its exception refers to this frame: garbage that only the collector frees


class _ReplyWait(Generic[T]):
    """The wait for the reply of one exchange. The future `answered` receives the result of `read`."""

    __slots__ = ("_answered", "_ignored", "_others", "_pauses", "_read", "_seen", "_socket", "_waits")

    def __init__(
        self,
        waits: Waits,
        opened: socket.socket,
        read: Callable[[bytes], T],
        others: int,
        answered: asyncio.Future[T],
    ) -> None:
        self._answered = answered
        self._waits = waits
        self._socket = opened
        self._read = read
        self._others = others
        self._seen = self._pauses = 0
        self._ignored = ""

    def receive_next(self) -> None:
        """Read a datagram. After each `others` that were not the reply, pause."""
        if self._receive():
            self._seen += 1
            if self._seen % self._others == 0:
                self._waits.pause(self._socket.fileno(), _PAUSE * 2**self._pauses)
                self._pauses += 1

    def give_up(self, seconds: float) -> None:
        """Read the datagrams that wait, and end."""
        # If this process was stopped, the loop may end the wait first, with the reply still in the socket.
        # Some replies take milliseconds to read, for instance SNMP: of these, fewer are read here too.
        looks = _LAST_LOOKS if self._others >= _OTHERS else self._others
        while looks and self._receive():
            looks -= 1
        if not self._answered.done():
            note = f"; {self._ignored}" if self._ignored else ""
            self._answered.set_exception(Silence(no_answer(seconds) + note))

    def _receive(self) -> bool:
        """Read a datagram. Return True if it was not the reply, so another may follow."""
        if self._answered.done():  # by an earlier datagram, or cancelled: the wait is about to be forgotten
            return False
        try:
            self._answered.set_result(self._read(self._socket.recv(_LARGEST)))
        except NotOurs as other:
            self._ignored = str(other)
            return True
        except BlockingIOError:  # the datagram had a wrong checksum
            return False
        except (Failed, OSError) as error:
            # The traceback would refer to this frame, and so to the future: garbage that only the collector frees.
            self._answered.set_exception(error.with_traceback(None))
        except StopIteration as error:  # a future refuses this exception
            self._answered.set_exception(RuntimeError(f"a reply can't be read: {error!r}"))
        except Exception as error:  # noqa: BLE001 - raised again where the reply is awaited
            self._answered.set_exception(error)
        return False


AT_ONCE = 32
"""The most waits that are called in one turn of the loop. After a stall, thousands of sockets can be readable; without
a limit, the work for their checks would stall the loop again."""


class Wait(Protocol):
    """What waits for datagrams of a socket."""

    def receive_next(self) -> None:
        """Read from the socket, which is readable or has an error."""

    def give_up(self, seconds: float) -> None:
        """End: so many seconds have passed."""


class Waits:
    """All waits for datagrams. Made once for each loop, and closed with the loop.

    The loop's add_reader and remove_reader take a third of the time of a datagram check. An epoll that the loop sees as
    one reader takes a tenth. The loop's timers are compared in Python, and cancelled timers stay for a while. Waits of
    the same length end in the order in which they began, so they need one timer.
    """

    # No reference to the loop: it is the weak key of _OF_LOOPS.
    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self._epoll = select.epoll()
        self._waiting: dict[int, Wait] = {}
        self._ends: dict[float, dict[int, float]] = {}
        loop.add_reader(self._epoll.fileno(), self._call)

    def add(self, descriptor: int, wait: Wait, seconds: float) -> None:
        """Call `wait` whenever the socket is readable or has an error, and after so many seconds."""
        self._epoll.register(descriptor, select.EPOLLIN)
        self._waiting[descriptor] = wait
        loop = asyncio.get_running_loop()
        end = loop.time() + seconds
        ends = self._ends.get(seconds)
        if ends is None:
            ends = self._ends[seconds] = {}
            loop.call_at(end, self._end, seconds)
        ends[descriptor] = end

    def pause(self, descriptor: int, seconds: float) -> None:
        """For so many seconds, call only for errors and at the end."""
        self._epoll.modify(descriptor, 0)
        asyncio.get_running_loop().call_later(seconds, self._resume, descriptor, self._waiting[descriptor])

    def forget(self, descriptor: int, seconds: float) -> None:
        """Stop the calls. The caller has to close the socket right after, which removes it from the epoll."""
        del self._waiting[descriptor]
        del self._ends[seconds][descriptor]

    def _resume(self, descriptor: int, wait: Wait) -> None:
        if self._waiting.get(descriptor) is wait:  # not closed, and opened again by another check
            self._epoll.modify(descriptor, select.EPOLLIN)

    def _call(self) -> None:
        for descriptor, _ in self._epoll.poll(0, AT_ONCE):
            # A program that is just being started may keep a closed socket open for a moment.
            if (wait := self._waiting.get(descriptor)) is not None:
                wait.receive_next()

    def _end(self, seconds: float) -> None:
        """End the waits of this length whose time is over."""
        loop = asyncio.get_running_loop()
        ends, now = self._ends[seconds], loop.time()
        try:
            for descriptor in [number for number, end in islice(ends.items(), AT_ONCE) if end <= now]:
                self._waiting[descriptor].give_up(seconds)
        finally:  # a fault of one wait, for instance a lack of memory, must not stop the timer of all others
            if ends:  # those that have ended are forgotten before the next call
                loop.call_at(next(iter(ends.values())), self._end, seconds)
            else:
                del self._ends[seconds]


_OF_LOOPS: WeakKeyDictionary[asyncio.AbstractEventLoop, Waits] = WeakKeyDictionary()


def waits_of(loop: asyncio.AbstractEventLoop) -> Waits:
    found = _OF_LOOPS.get(loop)
    if found is None:
        found = _OF_LOOPS[loop] = Waits(loop)
    return found
