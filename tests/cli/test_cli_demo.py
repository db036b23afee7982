"""The demonstration shows the expected figures, and leaves nothing behind."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from nftlb.cli.demo import _Flow
from nftlb.lab import DatagramResult

NFTLB = Path(sys.executable).with_name("nftlb")


def state() -> list[str]:
    """Return everything that a lab could leave: links, named namespaces, rules, mounts."""
    asked = (["ip", "-o", "link"], ["ip", "netns", "list"], ["ip", "rule"], ["cat", "/proc/self/mounts"])
    return [subprocess.run(argv, capture_output=True, text=True, check=True).stdout for argv in asked]


def show(*wrapper: str) -> str:
    done = subprocess.run([*wrapper, NFTLB, "demo"], capture_output=True, text=True, timeout=250, check=False)
    assert (0, "") == (done.returncode, done.stderr)
    return done.stdout


def check(output: str) -> None:
    """Check the printed figures."""
    for vip in ("192.0.2.53", "2001:db8::53"):
        turns = " ".join(["b1 b2 b3"] * 4)
        assert f"ONE client socket sends 12 datagrams to {vip} port 53, answered by:\n    {turns}\n" in output
        assert f"replies came from {vip} port 53\n" in output
    parts = dict(re.findall(r"^    (all three live|b2 is [a-z]+) +(\S.*)$", output, re.MULTILINE))
    assert {"b1", "b2", "b3"} == set(parts["all three live"].split()[::2])
    assert {"b1", "b3"} == set(parts["b2 is out"].split()[::2])
    assert {"b1", "b2", "b3"} == set(parts["b2 is back"].split()[::2])
    assert "; otherwise lost: 0, answered twice: 0\n    replies came from 192.0.2.53 port 53\n" in output
    assert "dns/b2: down, was up: passive: port unreachable\n    dns/b2: up, was down: udp: answered" in output


class DelayedReply:
    """A client whose seventh datagram gets its reply with the next datagrams."""

    def __init__(self) -> None:
        self._sent = 0

    def exchange(self, count: int, **_: object) -> list[DatagramResult]:
        begin, self._sent = self._sent, self._sent + count
        answers = [DatagramResult(number, "b1", copies=1) for number in range(begin, self._sent)]
        if not begin:
            answers[7] = DatagramResult(7)
        if begin == count:
            answers.append(DatagramResult(7, "b2", copies=1))
        return answers

    def close(self) -> None:
        """Nothing is open."""


def test_a_delayed_reply_is_not_lost() -> None:
    """On a busy machine, a reply can come after the time for which the demonstration waits before it sends more."""
    with _Flow(DelayedReply()) as flow:  # type: ignore[arg-type]
        part = flow.part(200)
    answers = flow.answers[part]
    assert list(range(len(answers))) == [answer.sequence for answer in answers]
    assert {1} == {answer.copies for answer in answers}
    assert "b2" == answers[7].backend


def test_demo_shows_and_leaves_nothing() -> None:
    """IPv4 and IPv6 in strict turn, a backend leaves and returns without further losses, the machine is unchanged."""
    before = state()
    check(show())
    assert before == state()


def test_demo_without_rights() -> None:
    """In a user namespace, without root's privileges outside, the demonstration shows the same."""
    check(show("unshare", "--user", "--map-root-user", "--"))
