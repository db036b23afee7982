"""What decides about a packet in a pool with keys, and how `explain` shows it."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pool_builders import backend, backends, config, pool

from nftlb.config.reading import read_endpoint, read_hash_key
from nftlb.explain import Question, as_data, as_text, explain_packet
from nftlb.explain.choice import key_bytes
from nftlb.model import Balance, Endpoint, Membership, Protocol, Templates

SERVICE = "192.0.2.1:443"
THREE = backends("10.0.0.1", "10.0.0.2", "10.0.0.3")
IDS = tuple(replace(server, server_id=bytes([0, number])) for number, server in enumerate(THREE, 1))


@pytest.mark.parametrize(
    ("key", "client", "payload", "expected"),
    [
        ("source", "198.51.100.7:5", "", "c6336407"),
        ("source/20", "198.51.100.7:5", "", "c6336000"),
        ("source/20/33", "[2001:db8:ff00::7]:5", "", "20010db8800000000000000000000000"),
        ("source-port", "198.51.100.7:258", "", "c633640701020000"),  # registers are filled up with zeros
        ("payload@1+3", "198.51.100.7:5", "0102030405", "020304"),  # but a single part is not
        ("payload@1+3", "198.51.100.7:5", "010203", None),
        ("radius-identifier", "198.51.100.7:5", "01ab", "c6336407ab000000"),
        ("netflow-source-id", "198.51.100.7:5", "000a" + "00" * 10 + "11223344", "c633640711223344"),
    ],
)
def test_the_bytes_that_are_hashed(key: str, client: str, payload: str, expected: str | None) -> None:
    """The parts of a key, as they are in the kernel's registers."""
    found = key_bytes(read_hash_key(key), read_endpoint(client), bytes.fromhex(payload))
    assert expected == (None if found is None else found.hex())


def lines(key: str, payload: str | None, *down: str, ids: bool = False) -> str:
    """Return the line about slots that `explain` prints for a datagram."""
    behind = IDS if ids else THREE
    of = pool("web", f"{SERVICE}/udp", behind, balance=Balance.HASH, key=read_hash_key(key))
    question = Question(
        read_endpoint("198.51.100.7:40000"),
        read_endpoint(SERVICE),
        Protocol.UDP,
        None if payload is None else bytes.fromhex(payload),
    )
    found = explain_packet(config(of), question, Membership.with_down(("web", name) for name in down))
    text = as_text(found)
    return text.partition("slots\n  ")[2].partition("\n")[0]


@pytest.mark.parametrize(
    ("payload", "down", "expected"),
    [
        ("400800021122334455", (), "server id 0002 in the connection id (short header): every packet with it -> b2"),
        ("c000000001080800031122334400", (), "server id 0003 in the connection id (long header): every packet with "),
        ("400800021122334455", ("b1", "b3"), "server id 0002 in the connection id (short header): every packet with "),
        ("400800021122334455", ("b2",), "slot 127 of 256, by the first 8 bytes of the connection id of QUIC: every "),
        ("e0e0", (), "no key in this datagram (the first 8 bytes of the connection id of QUIC), so it takes the next"),
        (None, (), "the first 8 bytes of the connection id of QUIC: give the payload with --payload or --payload-file"),
        ("4028", ("b1", "b2"), "every packet -> b3"),
        ("4028", ("b1", "b2", "b3"), "none: no backend is left"),
    ],
)
def test_what_decides_about_a_datagram_of_quic(payload: str | None, down: tuple[str, ...], expected: str) -> None:
    """A server id in the pool decides, then the hash, then the turn."""
    assert lines("quic-cid", payload, *down, ids=True).startswith(expected)


def test_data_for_programs() -> None:
    """JSON has the backend of the datagram, and what decided."""
    of = pool("web", f"{SERVICE}/udp", IDS, balance=Balance.HASH, key=read_hash_key("quic-cid"), quic_lb_config=1)
    question = Question(Endpoint(THREE[0].address, 9), read_endpoint(SERVICE), Protocol.UDP, b"\x40\x28\0\3" + bytes(9))
    found = as_data(explain_packet(config(of), question))
    assert (None, "b3") == (found["slot"], found["target"])
    assert "server id 0003 in the connection id (short header)" == found["decided_by"]
    turns = as_data(explain_packet(config(replace(of, balance=Balance.ROUND_ROBIN)), question))
    assert (None, None, None) == (turns["slot"], turns["target"], turns["decided_by"])


def test_one_backend_needs_no_payload() -> None:
    """With one backend, the payload decides nothing."""
    of = pool(
        "web", f"{SERVICE}/udp", (backend("b1", "10.0.0.1"),), balance=Balance.HASH, key=read_hash_key("gtp-teid")
    )
    question = Question(read_endpoint("198.51.100.7:40000"), read_endpoint(SERVICE), Protocol.UDP)
    assert "every packet -> b1" in as_text(explain_packet(config(of), question))


@pytest.mark.parametrize(
    ("payload", "copied"),
    [
        ("0009" + "00" * 18 + "0000", "NetFlow v9"),
        ("0009" + "00" * 18 + "0001", "NetFlow v9"),
        ("0009" + "00" * 18 + "0100", ""),  # data
        ("0009" + "00" * 18 + "00", ""),
        ("000a" + "00" * 14 + "0002", "IPFIX"),
        ("000a" + "00" * 14 + "0003", "IPFIX"),
        ("000a" + "00" * 14 + "0000", ""),
    ],
)
@pytest.mark.parametrize("balance", [Balance.HASH, Balance.ROUND_ROBIN])
def test_templates_reach_every_backend(balance: Balance, payload: str, copied: str) -> None:
    """Templates use no key and take no turn."""
    of = pool("flows", f"{SERVICE}/udp", THREE, balance=balance, templates=Templates.ALL)
    question = Question(read_endpoint("198.51.100.7:4"), read_endpoint(SERVICE), Protocol.UDP, bytes.fromhex(payload))
    text = as_text(explain_packet(config(of), question))
    assert bool(copied) is (
        f"every backend in rotation gets this datagram, which begins with templates of {copied}" in text
    )
