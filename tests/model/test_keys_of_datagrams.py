"""The keys of `balance: hash`: real datagrams of each protocol have the key that the protocol gives them."""

from __future__ import annotations

import pytest
from protocol_datagrams import ENGINE, KEYED, KEYLESS, quic_initial, quic_short

from nftlb.model import KEY_WORDS, Family, HashKey, payload_key, prefix_key, server_id_places


def read(key: HashKey, payload: bytes) -> bytes | None:
    """Return the bytes of the payload in a datagram's key."""
    return next((found for place in key.places if (found := place.read(payload)) is not None), None)


@pytest.mark.parametrize("word", KEYED)
def test_datagrams_that_belong_together_have_the_same_key(word: str) -> None:
    """All datagrams of one connection, tunnel, stream or exporter have the same key, and others have other keys."""
    keys = [{read(KEY_WORDS[word], payload) for payload in KEYED[word](number)} for number in range(200)]

    assert [1] * 200 == [len(found) for found in keys]
    assert 200 == len(set().union(*keys))
    assert None not in set().union(*keys)


@pytest.mark.parametrize("word", KEYLESS)
def test_other_datagrams_have_no_key(word: str) -> None:
    """Other messages of the protocol, and datagrams that are too short, have no key."""
    assert {None} == {read(KEY_WORDS[word], payload) for payload in KEYLESS[word]}


@pytest.mark.parametrize("word", KEYED)
def test_no_shorter_datagram_has_another_key(word: str) -> None:
    """The beginning of a datagram has its key, or none."""
    for payload in KEYED[word](77):
        own = read(KEY_WORDS[word], payload)
        assert {own, None} == {read(KEY_WORDS[word], payload[:length]) for length in range(len(payload) + 1)}


def test_the_values_of_keys() -> None:
    """Each key is the field that its protocol has, in the byte order of the packet."""
    found = {word: read(KEY_WORDS[word], KEYED[word](0x0102)[0]) for word in KEYED}
    expected = {
        "gtp-teid": "00000103",
        "rtp-ssrc": "00000102",
        "wireguard-receiver": "02010000",  # the only protocol here with little-endian numbers
        "netflow-source-id": "00000102",
        "radius-identifier": "02",
    }
    assert expected == {word: key.hex() for word, key in found.items() if word != "quic-cid" and key}
    assert b"\1\2" == read(KEY_WORDS["netflow-source-id"], ENGINE)


def test_keys_of_addresses() -> None:
    """A key has one length for the only family of a pool, or one for each family."""
    assert (32, 128) == tuple(KEY_WORDS["source"].prefix(family) for family in Family)
    assert (24, 24) == tuple(prefix_key(24).prefix(family) for family in Family)
    assert (24, 56) == tuple(prefix_key(24, 56).prefix(family) for family in Family)
    assert ["source/24", "source/24/56", "payload@4+8"] == [
        str(key) for key in (prefix_key(24), prefix_key(24, 56), payload_key(4, 8))
    ]


@pytest.mark.parametrize("length", [1, 2, 8, 15])
def test_server_ids(length: int) -> None:
    """The server id is found behind the first byte of a connection id with the config id, in both headers."""
    own = bytes(range(1, length + 1))
    connection_id = bytes([3 << 5 | length + 4]) + own + b"none"
    datagrams = (quic_short(connection_id, 9), quic_initial(connection_id))

    def found(config_id: int) -> list[bytes | None]:
        key = HashKey(places=server_id_places(config_id, length))
        return [read(key, payload) for payload in datagrams]

    assert [own, own] == found(3)
    assert [None, None] == found(2)
