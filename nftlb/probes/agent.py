"""Probes with an agent of HAProxy, which replies with a line of words (HAProxy's manual, `agent-check`)."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from nftlb.model import Admin
from nftlb.printable import one_line, quoted

from .probe import Failed, Probe, Success
from .stream import open_stream

if TYPE_CHECKING:
    from nftlb.model import Agent

    from .probe import Subject

_LIMIT = 4096
_END = re.compile(rb"[\r\n\0]")
_SEPARATORS = re.compile(r"[ ,\t]+")
_PERCENT = re.compile(r"([0-9]{1,9})%")
_HIGHEST = 25600  # in per cent, as in HAProxy: from a weight of 1 to the highest, 256
_ADMINS = {"ready": Admin.ENABLED, "drain": Admin.DRAIN, "maint": Admin.MAINTENANCE}
_DOWN = ("down", "fail", "failed", "stopped")


class AgentProbe(Probe):
    def __init__(self, check: Agent) -> None:
        self._port = check.port
        self._send = (check.send or "").encode()

    async def probe(self, subject: Subject) -> Success:
        async with open_stream(subject, self._port) as stream:
            if self._send:
                await stream.send(self._send)
            while _END.search(stream.received) is None and await stream.more(_LIMIT):
                pass
        return read_agent_reply(stream.received)


def read_agent_reply(said: bytes) -> Success:
    """Parse an agent's reply. Of several words for the same thing the last counts. Raises Failed.

    A reply without any known word fails the check.
    """
    line = _END.split(said, maxsplit=1)[0].decode(errors="replace")
    words, _, description = line.partition("#")
    weight = admin = state = None
    unknown = []
    for word in filter(None, _SEPARATORS.split(words.lower())):
        if word in _ADMINS:
            admin = _ADMINS[word]
        elif word == "up" or word in _DOWN:
            state = word
        elif percent := _PERCENT.fullmatch(word):
            weight = min(int(percent[1]), _HIGHEST)
        else:
            unknown.append(word)
    if (weight, admin, state) == (None, None, None):
        raise Failed(f"the agent said {quoted(line)}" if line.strip() else "the agent said nothing")
    reason = " ".join(filter(None, _SEPARATORS.split(words.lower())))
    if text := one_line(description):
        reason = f"{reason}: {text}"
    if unknown:
        reason += f" (not understood: {one_line(' '.join(unknown), 60)})"
    if state in _DOWN:
        raise Failed(reason, weight, admin)
    return Success(reason, weight, admin)
