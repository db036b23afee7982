"""Agent checks."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import BOTH, V4, cancelled, check_streams, clean, closed_port, mute, sends, streams, subject

from nftlb.model import Admin, Agent
from nftlb.probes import Failed, Success, probe_for, run_probe
from nftlb.probes.agent import read_agent_reply

if TYPE_CHECKING:
    from nftlb.health import CheckResult

HEALTHY = [
    (b"up", Success("up")),
    (b"up\n", Success("up")),
    (b"UP\r\n", Success("up")),
    (b"ready", Success("ready", None, Admin.ENABLED)),
    (b"drain", Success("drain", None, Admin.DRAIN)),
    (b"maint\n", Success("maint", None, Admin.MAINTENANCE)),
    (b"75%", Success("75%", 75)),
    (b"0%", Success("0%", 0)),
    (b"256%", Success("256%", 256)),
    (b"999999%", Success("999999%", 25600)),
    (b"up ready 50%\n", Success("up ready 50%", 50, Admin.ENABLED)),
    (b"\tup,drain ,75%", Success("up drain 75%", 75, Admin.DRAIN)),
    (b"ready maint 10% 20%", Success("ready maint 10% 20%", 20, Admin.MAINTENANCE)),
    (b"up#all is well, 3% load", Success("up: all is well, 3% load")),
    (b"up\ndown", Success("up")),
    (b"up\0down", Success("up")),
    (b"down up", Success("down up")),
    (b"up maxconn:30 \xff\n", Success("up maxconn:30 \ufffd (not understood: maxconn:30 \ufffd)")),
]
UNHEALTHY = [
    (b"down", "down", None, None),
    (b"failed\n", "failed", None, None),
    (b"fail", "fail", None, None),
    (b"stopped#for the night\n", "stopped: for the night", None, None),
    (b"Down#Out of Memory\x1b[31m", "down: Out of Memory\ufffd[31m", None, None),
    (b"down 50% drain", "down 50% drain", 50, Admin.DRAIN),
    (b"up down", "up down", None, None),
    (b"", "the agent said nothing", None, None),
    (b"\r\nup", "the agent said nothing", None, None),
    (b"HTTP/1.1 400 Bad Request", 'the agent said "HTTP/1.1 400 Bad Request"', None, None),
    (b"75", 'the agent said "75"', None, None),
    (b"-5%", 'the agent said "-5%"', None, None),
    (b"#up", 'the agent said "#up"', None, None),
]


@pytest.mark.parametrize(("said", "answer"), HEALTHY)
def test_healthy(said: bytes, answer: Success) -> None:
    """Words change weight and admin state; the last state in the reply counts."""
    assert answer == read_agent_reply(said)


@pytest.mark.parametrize(("said", "reason", "weight", "admin"), UNHEALTHY)
def test_unhealthy(said: bytes, reason: str, weight: int | None, admin: Admin | None) -> None:
    """An agent that sends `down`, or no known word, fails; weight and admin state count nevertheless."""
    with pytest.raises(Failed) as failure:
        read_agent_reply(said)

    assert (reason, weight, admin) == (failure.value.reason, failure.value.weight, failure.value.admin)


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("said", [b"up 75% drain\n", b"down 75% drain"])
def test_over_the_wire(host: str, said: bytes) -> None:
    """The result has the agent's weight and admin state, whether the agent is up or down."""
    result = _check(said, host)

    assert (said.startswith(b"up"), said.strip().decode()) == (result.passed, result.reason)
    assert (75, Admin.DRAIN) == (result.weight, result.admin)


def _check(said: bytes, host: str = V4) -> CheckResult:
    async def main() -> CheckResult:
        async with streams(sends(said), host) as port:
            return await clean(probe_for(Agent(port=port)), subject(host))

    return asyncio.run(main())


def test_a_line_is_enough() -> None:
    """An agent need not close the connection, may send its reply in pieces, and may wait for a request."""
    seen = []

    async def agent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readexactly(len("héy!!".encode())))
        for byte in b"drain\n":
            writer.write(bytes([byte]))
            await writer.drain()
            await asyncio.sleep(0)
        await reader.read()

    async def main() -> tuple[bool, Admin | None]:
        async with streams(agent) as port:
            result = await clean(probe_for(Agent(port=port, send="héy!!")), subject(port=1))
        return result.passed, result.admin

    assert (True, Admin.DRAIN) == asyncio.run(main())
    assert {"héy!!".encode()} == set(seen)


def test_unreachable() -> None:
    """An agent that can't be reached fails, and changes neither weight nor admin state."""
    result = asyncio.run(run_probe(probe_for(Agent(port=closed_port())), subject()))

    assert (False, "connection refused", None, None) == (result.passed, result.reason, result.weight, result.admin)


def test_silent() -> None:
    """A silent agent fails the check."""

    async def main() -> str:
        async with streams(mute) as port:
            return (await clean(probe_for(Agent(port=port)), subject(seconds=0.05))).reason

    assert "no answer within 0.05s" == asyncio.run(main())


def test_too_much() -> None:
    """An endless line fails the check."""
    result = _check(b"up " * 2000)

    assert (False, "more than 4096 bytes without an end") == (result.passed, result.reason)


def test_cancelled() -> None:
    """A cancelled check leaves no socket."""

    async def main() -> None:
        begun = asyncio.Event()

        async def agent(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
            begun.set()
            await reader.read()

        async with streams(agent) as port:
            await cancelled(probe_for(Agent(port=port)), subject(), begun)

    asyncio.run(main())


@settings(max_examples=300)
@given(st.binary(max_size=300), st.lists(st.sampled_from([b"up", b"down", b"%", b"9%", b"#", b" ", b"maint"])))
def test_any_bytes(noise: bytes, words: list[bytes]) -> None:
    """Arbitrary bytes give a result, and no other exception."""
    try:
        answer = read_agent_reply(b"".join(words) + noise)
    except Failed as failure:
        answer = Success(failure.reason, failure.weight)
    assert answer.weight is None or 0 <= answer.weight <= 25600


def test_an_agent_check_does_not_use_the_backends_port() -> None:
    """An agent has its own port: the check does not use the backend's port."""
    assert not check_streams(Agent(port=closed_port()), sends(b"up")).passed
