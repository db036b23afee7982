"""Waits for many sockets: what has its turn before the loop does anything else, and when waits end."""

from __future__ import annotations

import asyncio
import socket
from collections import Counter
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest
from virtual_time import elapsed, play

from nftlb.probes.exchange import AT_ONCE, Waits

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

SOCKETS = 5 * AT_ONCE


class Recorder:
    """A wait that calls these functions."""

    def __init__(self, received: Callable[[], object] = int, ended: Callable[[], object] = int) -> None:
        self._received = received
        self._ended = ended

    def receive_next(self) -> None:
        self._received()

    def give_up(self, _: float) -> None:
        self._ended()


def sockets(stack: ExitStack, count: int, sent: bytes = b"") -> list[socket.socket]:
    """Sockets, each with a datagram to read if there is something to send."""
    receivers = []
    for _ in range(count):
        receiver, sender = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        receivers.append(stack.enter_context(receiver))
        stack.enter_context(sender)
        if sent:
            sender.send(sent)
    return receivers


async def turns_of(called: Counter[int], count: int) -> list[int]:
    """Wait until there were so many calls. Return how many there were after each turn of the loop."""
    turns = []
    async with asyncio.timeout(20):
        while called.total() < count:
            turns.append(called.total())
            await asyncio.sleep(0)
    return [*turns, called.total()]


def test_others_have_their_turn_after_a_stall() -> None:
    """Many can be read at once: a turn of the loop calls a few, and in the end all were called once."""
    called: Counter[int] = Counter()

    async def test() -> list[int]:
        with ExitStack() as stack:
            waits = Waits(asyncio.get_running_loop())
            for receiver in sockets(stack, SOCKETS, b"x"):

                def receive(receiver: socket.socket = receiver) -> None:
                    receiver.recv(1)
                    called[receiver.fileno()] += 1

                waits.add(receiver.fileno(), Recorder(receive), 60)
            return await turns_of(called, SOCKETS)

    turns = asyncio.run(test())
    assert [1] * SOCKETS == list(called.values())
    assert max(after - before for before, after in pairwise(turns)) <= AT_ONCE


def test_others_have_their_turn_when_many_waits_end() -> None:
    """Many waits end at once: a turn of the loop ends a few, and in the end each has ended once."""
    ended: Counter[int] = Counter()

    async def test() -> list[int]:
        with ExitStack() as stack:
            loop = asyncio.get_running_loop()
            waits = Waits(loop)
            for receiver in sockets(stack, SOCKETS):

                def end(descriptor: int = receiver.fileno()) -> None:
                    ended[descriptor] += 1
                    loop.call_soon(waits.forget, descriptor, 1.0)  # as an exchange does

                waits.add(receiver.fileno(), Recorder(ended=end), 1.0)
            await asyncio.sleep(1.0)
            return [0, *await turns_of(ended, SOCKETS)]

    turns = play(test())
    assert [1] * SOCKETS == list(ended.values())
    assert max(after - before for before, after in pairwise(turns)) <= AT_ONCE


def test_a_closed_socket_that_another_process_holds() -> None:
    """The kernel still reports a closed socket that another process holds. No wait is called for it."""

    async def main() -> list[str]:
        called: list[str] = []
        waits = Waits(asyncio.get_running_loop())
        with socket.socket(type=socket.SOCK_DGRAM) as first, socket.socket(type=socket.SOCK_DGRAM) as two:
            first.bind(("127.0.0.1", 0))
            two.bind(("127.0.0.1", 0))
            waits.add(first.fileno(), Recorder(lambda: called.append("one")), 60)
            waits.add(two.fileno(), Recorder(lambda: called.append(two.recv(10).decode())), 60)
            with first.dup() as held:  # as a process does that is just being started
                waits.forget(first.fileno(), 60)
                first.close()
                two.sendto(b"x", held.getsockname())
                two.sendto(b"two", two.getsockname())
                while not called:  # noqa: ASYNC110 - the test is about these calls
                    await asyncio.sleep(0)
            waits.forget(two.fileno(), 60)
        return called

    assert ["two"] == asyncio.run(main())


@pytest.mark.parametrize(
    ("lengths", "forgotten", "expected"),
    [
        ([1.0, 1.0, 1.0], (), [1.0, 1.1, 1.2]),
        ([3.0, 0.5, 1.0], (), [0.6, 1.2, 3.0]),
        ([1.0, 1.0, 1.0], (0,), [1.1, 1.2]),
        ([1.0, 1.0, 1.0], (1, 2), [1.0]),
        ([1.0, 2.0], (0, 1), []),
    ],
)
def test_each_wait_ends_in_its_time(lengths: list[float], forgotten: Iterable[int], expected: list[float]) -> None:
    """Waits that begin 0.1 s apart end after their lengths; waits that are forgotten do not end."""
    found: list[float] = []

    async def scene() -> None:
        with ExitStack() as stack:
            waits = Waits(asyncio.get_running_loop())
            descriptors = [receiver.fileno() for receiver in sockets(stack, len(lengths))]
            for descriptor, seconds in zip(descriptors, lengths, strict=True):

                def end(descriptor: int = descriptor, seconds: float = seconds) -> None:
                    found.append(elapsed())
                    waits.forget(descriptor, seconds)

                waits.add(descriptor, Recorder(ended=end), seconds)
                await asyncio.sleep(0.1)
            for number in forgotten:
                waits.forget(descriptors[number], lengths[number])
            await asyncio.sleep(5)

    play(scene())
    assert expected == found


def test_a_length_without_waits_is_forgotten() -> None:
    """Waits forgets a length that nothing waits for; a new wait of this length ends in its time too."""
    found: list[float] = []

    async def scene() -> None:
        with ExitStack() as stack:
            waits = Waits(asyncio.get_running_loop())
            for receiver in sockets(stack, 3):

                def end(descriptor: int = receiver.fileno()) -> None:
                    found.append(elapsed())
                    waits.forget(descriptor, 1.0)

                waits.add(receiver.fileno(), Recorder(ended=end), 1.0)
                await asyncio.sleep(2)

    play(scene())
    assert [1.0, 3.0, 5.0] == found
