"""SNMP checks."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probing import BOTH, NOTED, cancel_datagrams, check_datagrams, says, silent
from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto import api

from nftlb.model import Snmp, SnmpVersion
from nftlb.probes import Failed
from nftlb.probes.exchange import NotOurs
from nftlb.probes.snmp import SnmpProbe

if TYPE_CHECKING:
    from collections.abc import Callable

    from probing import Datagrams

MODULES = {SnmpVersion.V1: api.PROTOCOL_MODULES[0], SnmpVersion.V2C: api.PROTOCOL_MODULES[1]}
UPTIME = "1.3.6.1.2.1.1.3.0"


def answer(wire: bytes, version: SnmpVersion, change: Callable[[Any, Any], object] | None = None) -> bytes:
    """An agent's reply, with 42 for every object, except for the changes that `change` makes."""
    module = MODULES[version]
    request, _ = decoder.decode(wire, asn1Spec=module.Message())
    response = module.apiMessage.get_response(request)
    pdu = module.apiMessage.get_pdu(response)
    asked = module.apiPDU.get_varbinds(module.apiMessage.get_pdu(request))
    module.apiPDU.set_varbinds(pdu, [(oid, module.Integer(42)) for oid, _ in asked])
    if change is not None:
        change(module, pdu)
    encoded: bytes = encoder.encode(response)
    return encoded


def answering(change: Callable[[Any, Any], object] | None = None, version: SnmpVersion = SnmpVersion.V2C) -> Datagrams:
    return lambda wire: [answer(wire, version, change)]


@pytest.mark.parametrize("host", BOTH)
@pytest.mark.parametrize("version", list(SnmpVersion))
def test_healthy(host: str, version: SnmpVersion) -> None:
    """An agent that has the object passes, and the reason has the value."""
    result = check_datagrams(Snmp(version=version), answering(version=version), host)

    assert (True, f'{UPTIME} is "42"') == (result.passed, result.reason)


def test_the_request() -> None:
    """Community and object are those of the check; each request has another id."""
    seen = []

    def serve(wire: bytes) -> list[bytes]:
        seen.append(wire)
        return [answer(wire, SnmpVersion.V2C)]

    result = check_datagrams(Snmp(community="sécret", oid=".1.3.6.1.2.1.1.5.0"), serve)

    assert (True, '1.3.6.1.2.1.1.5.0 is "42"') == (result.passed, result.reason)
    module = MODULES[SnmpVersion.V2C]
    messages = [decoder.decode(wire, asn1Spec=module.Message())[0] for wire in seen]
    pdus = [module.apiMessage.get_pdu(message) for message in messages]
    assert {"sécret".encode()} == {bytes(module.apiMessage.get_community(message)) for message in messages}
    assert {"1.3.6.1.2.1.1.5.0"} == {str(module.apiPDU.get_varbinds(pdu)[0][0]) for pdu in pdus}
    assert len(seen) == len({int(module.apiPDU.get_request_id(pdu)) for pdu in pdus})


def _value(kind: str) -> Callable[[Any, Any], object]:
    return lambda module, pdu: module.apiPDU.set_varbinds(pdu, [(UPTIME, getattr(module, kind)(""))])


def _error(module: Any, pdu: Any) -> None:
    module.apiPDU.set_error_status(pdu, 2)


def _other_object(module: Any, pdu: Any) -> None:
    module.apiPDU.set_varbinds(pdu, [("1.3.6.1.2.1.1.4.0", module.Integer(1))])


def _no_object(module: Any, pdu: Any) -> None:
    module.apiPDU.set_varbinds(pdu, [])


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (_value("NoSuchObject"), f"{UPTIME}: noSuchObject"),
        (_value("NoSuchInstance"), f"{UPTIME}: noSuchInstance"),
        (_value("EndOfMibView"), f"{UPTIME}: endOfMibView"),
        (_error, "error noSuchName"),
        (_other_object, f"answered without {UPTIME}"),
        (_no_object, f"answered without {UPTIME}"),
    ],
)
def test_unhealthy(change: Callable[[Any, Any], object], reason: str) -> None:
    """An agent without the object fails the check, in every form of the reply."""
    result = check_datagrams(Snmp(), answering(change))

    assert (False, reason) == (result.passed, result.reason)


def test_error_of_version_1() -> None:
    """Version 1 has only the error."""
    result = check_datagrams(Snmp(version=SnmpVersion.V1), answering(_error, SnmpVersion.V1))

    assert (False, "error noSuchName") == (result.passed, result.reason)


def _other_id(module: Any, pdu: Any) -> None:
    module.apiPDU.set_request_id(pdu, int(module.apiPDU.get_request_id(pdu)) ^ 1)


@pytest.mark.parametrize(
    ("serve", "note"),
    [
        (answering(_other_id), "not for our request"),
        (says(b""), "not SNMP of our version"),
        (says(b"\x30\x80"), "not SNMP of our version"),
        (lambda wire: [wire], "not SNMP of our version"),
        (lambda wire: [answer(wire, SnmpVersion.V2C).replace(b"\x02\x01\x01", b"\x02\x01\x00", 1)], "not SNMP"),
    ],
)
def test_foreign_messages_are_ignored_and_named(serve: Datagrams, note: str) -> None:
    """Datagrams that are not the reply, such as our own request, are ignored, and named at the time-out."""
    result = check_datagrams(Snmp(), serve, seconds=NOTED)

    assert not result.passed
    assert result.reason.startswith(f"no answer within 0.6s; the reply was {note}")


def test_foreign_messages_before_the_reply_are_ignored() -> None:
    """The reply counts, after any other datagrams."""
    result = check_datagrams(Snmp(), lambda wire: [b"", *answering(_other_id)(wire), answer(wire, SnmpVersion.V2C)])

    assert result.passed


def test_silent_and_refused() -> None:
    """A silent agent fails the check after the time-out, a closed port at once."""
    assert "no answer within 0.05s" == check_datagrams(Snmp(), silent, seconds=0.05).reason
    assert "connection refused" == check_datagrams(Snmp(), None).reason


def test_cancelled() -> None:
    """A cancelled check leaves no socket."""
    cancel_datagrams(Snmp())


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=100), st.integers(0, 100), st.integers(0, 255))
def test_any_bytes(noise: bytes, at: int, value: int) -> None:
    """Arbitrary bytes, and replies with a changed byte, give a result, and no other exception."""
    probe = SnmpProbe(Snmp())
    reply = answer(probe.request(7), SnmpVersion.V2C)
    changed = bytearray(reply)
    changed[at % len(changed)] = value
    for wire in (noise, reply[: at % len(reply)] + noise, bytes(changed)):
        try:
            assert probe.read_reply(7, wire).reason.startswith(UPTIME)
        except (NotOurs, Failed) as outcome:
            assert len(str(outcome)) < 500  # noqa: PT017 - either is right
