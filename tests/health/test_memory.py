"""The text of the state file."""

from __future__ import annotations

import re
from ipaddress import ip_address
from unittest.mock import patch

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nftlb.health import Memory, PoolMemory
from nftlb.health.memory import BackendMemory, read_memory, remember_answers, remembered_answers, write_memory
from nftlb.model import Admin, FoundServer, HostLookup

WORDS = st.text(max_size=12)
ADMIN = st.sampled_from(Admin)
BACKENDS = st.builds(
    BackendMemory,
    endpoint=WORDS,
    checks=st.lists(st.booleans(), max_size=3).map(tuple),
    admin=st.none() | ADMIN,
    weight=st.none() | st.integers(0, 256),
    file_admin=ADMIN,
    file_weight=st.integers(0, 256),
    priority=st.none() | st.integers(0, 255),
    file_priority=st.integers(0, 255),
)
WRITTEN = st.text(max_size=20) | st.dictionaries(WORDS, st.text(max_size=9) | st.integers(0, 65535), max_size=3)
POOLS = st.builds(
    PoolMemory,
    backends=st.dictionaries(WORDS, BACKENDS, max_size=3),
    added=st.dictionaries(WORDS, WRITTEN, max_size=3),
    removed=st.lists(WORDS, max_size=3).map(tuple),
)
MEMORIES = st.builds(Memory, format=st.just(1), table=WORDS, pools=st.dictionaries(WORDS, POOLS, max_size=3))


@given(MEMORIES)
def test_round_trip(memory: Memory) -> None:
    """A saved state is read as it was written, from text and from bytes."""
    assert memory == read_memory(write_memory(memory)) == read_memory(write_memory(memory).encode())


def test_answers_of_dns_are_saved() -> None:
    """Hosts and SRV records keep all that an answer has, and stay different."""
    answers = {
        HostLookup("ns.lab"): (FoundServer(ip_address("10.0.0.1")), FoundServer(ip_address("2001:db8::1"))),
        HostLookup("_sip._udp.lab", srv=True): (FoundServer(ip_address("10.0.0.2"), 5060, 65535, 3),),
        HostLookup("empty.lab"): (),
    }
    saved = write_memory(Memory(format=1, names=remember_answers(answers)))

    assert answers == remembered_answers(read_memory(saved))


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("", "Invalid JSON: EOF while parsing a value at line 1 column 0"),
        (write_memory(Memory(format=1))[:-4], "Invalid JSON: EOF while parsing"),
        ('{"hello": "world"}', "format: Field required"),
        ('{"format": 2}', "format: Input should be 1"),
        ('{"format": 1, "future": true}', "future: Extra inputs are not permitted"),
        ('{"format": 1, "pools": {"dns": {"backends": {"a": {"endpoint": "x", "weight": 257}}}}}', "pools.dns."),
        ("[1]", "Input should be an object"),
        (b"\xff\xfe\x00", "Invalid JSON: "),
        ("[" * 1000, "Invalid JSON: recursion limit exceeded"),
    ],
    ids=["empty", "torn", "foreign", "newer", "new-key", "weight", "list", "no-text", "deep"],
)
def test_invalid_texts_are_refused(text: str | bytes, reason: str) -> None:
    """A damaged, foreign or newer text raises a ValueError with the reason in one line."""
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        read_memory(text)

    assert 1 == len(str(caught.value).splitlines())


def test_the_text_of_an_unchanged_pool_is_short() -> None:
    """The text of a pool without changes is short."""
    memory = Memory(format=1, pools={"dns": PoolMemory(backends={"a": BackendMemory(endpoint="10.0.0.1:53")})})

    assert '{"format":1,"pools":{"dns":{"backends":{"a":{"endpoint":"10.0.0.1:53"}}}}}' == "".join(
        write_memory(memory).split()
    )


def test_the_text_of_an_unchanged_pool_is_cached() -> None:
    """The text of pools that did not change is cached: few of ten thousand backends change in two seconds."""
    pool = PoolMemory(backends={"a": BackendMemory(endpoint="10.0.0.1:53")})
    first = write_memory(Memory(format=1, pools={"dns": pool}))

    with patch.object(PoolMemory, "model_dump_json", side_effect=AssertionError("it is written again")):
        second = write_memory(Memory(format=1, table="other", pools={"dns": pool}))

    assert first.splitlines()[1:] == second.splitlines()[1:]
    assert "other" == read_memory(second).table
