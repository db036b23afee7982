"""The outages of a backend, as data for parametrised tests.

>>> with Unbound(host) as server, Link(lab, host) as link, KILLED.cause(server, link):
...     ...  # the check must notice the outage
...  # the check must notice the end of the outage
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from threading import Event, Thread
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

    from servers.daemon import Daemon
    from servers.link import Link
    from servers.services import Service

LATE = 0.6
"""Seconds by which slow replies (for TCP, each round trip) are delayed: more than a check's time-out."""
FLAP = 0.25
"""Seconds after which a flapping server changes from running to stopped, and back."""


class Symptom(Enum):
    """The symptom of an outage in a single request."""

    NOTHING = "nothing"
    SILENCE = "silence"
    """No reply; with the link down, EHOSTUNREACH from our own kernel is possible after three seconds."""
    REFUSAL = "refusal"
    """ECONNREFUSED: by UDP an ICMP port-unreachable, by TCP a reset."""
    WRONG = "wrong"
    LATE = "late"
    CHANGING = "changing"
    """Sometimes a reply, sometimes none."""


@dataclass(frozen=True)
class Outage:
    """A kind of outage. `cause`: a context manager, inside which the outage lasts.

    When `with` begins or ends, the outage has surely begun or ended: no later request finds the former state. For a
    flapping server, this is true only of the end.
    """

    name: str
    symptom: Symptom
    cause: Callable[[Daemon, Link], AbstractContextManager[None]]

    def can_have(self, service: Service) -> bool:
        """Whether this kind of server can have the outage: a server without replies is neither wrong nor slow."""
        return service.answers or self.symptom not in {Symptom.WRONG, Symptom.LATE}

    def can_be_seen(self, service: Service) -> bool:
        """Whether a check can notice the outage: without replies, only ICMP errors can be noticed."""
        return self.symptom is not Symptom.NOTHING and (service.answers or self.symptom is Symptom.REFUSAL)


@contextmanager
def _healthy(_daemon: Daemon, _link: Link) -> Iterator[None]:
    yield


@contextmanager
def _stopped(daemon: Daemon, _link: Link) -> Iterator[None]:
    daemon.stop()
    try:
        yield
    finally:
        daemon.resume()


@contextmanager
def _killed(daemon: Daemon, _link: Link) -> Iterator[None]:
    daemon.kill()
    try:
        yield
    finally:
        daemon.start()


@contextmanager
def _link_down(_daemon: Daemon, link: Link) -> Iterator[None]:
    link.down()
    try:
        yield
    finally:
        link.up()


@contextmanager
def _wrong(daemon: Daemon, _link: Link) -> Iterator[None]:
    daemon.wrong()
    try:
        yield
    finally:
        daemon.right()


@contextmanager
def _slow(_daemon: Daemon, link: Link) -> Iterator[None]:
    link.slow(LATE)
    try:
        yield
    finally:
        link.fast()


@contextmanager
def _flapping(daemon: Daemon, _link: Link) -> Iterator[None]:
    enough = Event()
    problems: list[Exception] = []

    def flap() -> None:
        try:
            while True:
                daemon.stop()
                if enough.wait(FLAP):
                    return
                daemon.resume()
                if enough.wait(FLAP):
                    return
        except Exception as problem:  # noqa: BLE001 - raised in the thread that waits for us
            problems.append(problem)

    thread = Thread(target=flap, name="flapping", daemon=True)
    thread.start()
    try:
        yield
    finally:
        enough.set()
        thread.join()
        daemon.resume()
    if problems:
        raise problems[0]


HEALTHY = Outage("healthy", Symptom.NOTHING, _healthy)
STOPPED = Outage("stopped", Symptom.SILENCE, _stopped)
KILLED = Outage("killed", Symptom.REFUSAL, _killed)
LINK_DOWN = Outage("link-down", Symptom.SILENCE, _link_down)
WRONG = Outage("wrong", Symptom.WRONG, _wrong)
SLOW = Outage("slow", Symptom.LATE, _slow)
FLAPPING = Outage("flapping", Symptom.CHANGING, _flapping)

OUTAGES = (HEALTHY, STOPPED, KILLED, LINK_DOWN, WRONG, SLOW, FLAPPING)
