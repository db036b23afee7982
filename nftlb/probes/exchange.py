"""A datagram there, and the one that answers it back.

Thousands of times a second, hence without transports and protocols: a socket, a reader and a future.
"""

from __future__ import annotations

import asyncio
import socket
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from .faults import open_socket
from .probe import Failed, no_answer
from .readiness import readiness

if TYPE_CHECKING:
    from collections.abc import Callable

    from .subject import Subject

T = TypeVar("T")

_LARGEST = 65535
# So many datagrams are looked at when time is up: a raw socket's queue may hold answers to many checks before ours, yet
# someone who floods us can't keep us here.
_LAST_LOOKS = 100
_OTHERS = 8
_PAUSE = 0.02


class NotOurs(Exception):  # noqa: N818 - an outcome
    """A datagram is no answer to what was asked, so the wait goes on; its text is told at a time-out."""


def connected(
    subject: Subject,
    port: int,
    kind: int = socket.SOCK_DGRAM,
    protocol: int = 0,
    option: tuple[int, int, bytes] | None = None,
) -> socket.socket:
    """Return a datagram socket of this check's own, connected to the subject; `option` is set on it.

    With a new port each time, a late answer to an earlier check can't count. Raises OSError and SystemFault.
    """
    opened = open_socket(subject, kind, protocol)
    try:
        if option is not None:
            opened.setsockopt(*option)
        if opened.family == socket.AF_INET6:
            opened.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
        else:
            opened.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
        opened.connect((str(subject.address), port))
    except BaseException:
        opened.close()
        raise
    return opened


# include/uapi/linux/in.h, in6.h. Without it, the kernel keeps all ICMP errors but port-unreachable to itself.
_IP_RECVERR, _IPV6_RECVERR = 11, 25


class Silence(Failed):
    """The time was over before anything answered."""


async def exchange(
    opened: socket.socket, request: bytes, read: Callable[[bytes], T], seconds: float, others: int = _OTHERS
) -> T:
    """Send, then wait until `read` makes something of a datagram; closes the socket.

    `read` raises NotOurs to go on waiting. Its other exceptions, and OSError, are passed on. Raises Silence after
    so many seconds, by a timer of its own: an answer that is already there when this process comes to look is one,
    however late it looks. asyncio.timeout would cancel what waits for it.

    After each `others` datagrams that are no answer, none is looked at for a while, the next time for twice as long:
    who floods us with them does not keep us busy.
    """
    loop = asyncio.get_running_loop()
    answered: asyncio.Future[T] = loop.create_future()
    ignored: list[str] = []
    with opened:
        descriptor = opened.fileno()
        opened.send(request)
        ready = readiness(loop)
        receive = partial(_receive, opened, read, answered, ignored)
        resumption: asyncio.TimerHandle | None = None
        seen = pauses = 0

        def hear() -> None:
            nonlocal resumption, seen, pauses
            if receive():
                seen += 1
                if seen % others == 0:
                    ready.pause(descriptor)
                    resumption = loop.call_later(_PAUSE * 2**pauses, ready.resume, descriptor)
                    pauses += 1

        ready.add(descriptor, hear)
        timer = loop.call_later(seconds, _give_up, receive, answered, seconds, ignored)
        try:
            return await answered
        finally:
            timer.cancel()
            if resumption is not None:
                resumption.cancel()
            ready.forget(descriptor)


def _receive(
    opened: socket.socket, read: Callable[[bytes], T], answered: asyncio.Future[T], ignored: list[str]
) -> bool:
    """Take a datagram; True if it was not ours, so that there may be another behind it."""
    if answered.done():  # by a datagram before, or cancelled: the reader is about to be removed
        return False
    try:
        answered.set_result(read(opened.recv(_LARGEST)))
    except NotOurs as other:
        ignored[:] = [str(other)]
        return True
    except BlockingIOError:  # it was there, but its checksum is wrong
        return False
    except Exception as error:  # noqa: BLE001 - it belongs to the one who waits
        answered.set_exception(error)
    return False


def _give_up(receive: Callable[[], bool], answered: asyncio.Future[T], seconds: float, ignored: list[str]) -> None:
    # If this process was stopped, the loop may come to the timer first, with the answer in the socket.
    looks = _LAST_LOOKS
    while looks and receive():
        looks -= 1
    if not answered.done():
        answered.set_exception(Silence("; ".join([no_answer(seconds), *ignored])))
