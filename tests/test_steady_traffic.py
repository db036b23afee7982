"""The traffic of the tests in tests/support/steady_traffic.py: its errors say which datagrams were lost, and when."""

from __future__ import annotations

import re

import pytest
from steady_traffic import Flow, Sent, describe_bursts

from nftlb.lab import Lab

PORT = 5353


def test_turns_of_one_backend_are_one_burst() -> None:
    """A burst has its lost datagrams, all that were sent meanwhile, and its times from a given moment on."""
    missing = [Sent(number, 100 + number / 1000) for number in (*range(20, 80, 3), *range(200, 210))]

    assert "20 of 58 sent 0.020 s to 0.077 s after that time, 10 of 10 sent 0.200 s to 0.209 s after that time" == (
        describe_bursts(missing, 100.0)
    )


def test_datagrams_without_replies_are_described() -> None:
    """The error has the burst, and what sockets and processors of this machine dropped."""
    with (
        Lab(backends=1) as lab,
        lab.serve(PORT, answer=False),
        Flow(lab.client, (lab.backends[0].ipv4, PORT), rate=1000) as flow,
    ):
        flow.wait(20)
        with pytest.raises(TimeoutError) as error:
            flow.pause(timeout=1)

    number = len(flow.sent)
    said = str(error.value)
    assert f"{number} datagrams were not answered within 1 s: {number} of {number} sent 0.000 s to " in said
    assert re.search(r"the client's socket dropped 0, and the queues of the processors, .*, \d+$", said)
