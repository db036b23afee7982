"""Probes by reading one SNMP object. Only pysnmp's messages are used: its engine and MIBs take seconds to start."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any

from pyasn1.codec.ber import decoder, encoder
from pysnmp.proto import api

from nftlb.model import SnmpVersion
from nftlb.printable import quoted

from .exchange import NotOurs, connected, exchange
from .probe import Failed, Probe, Success

if TYPE_CHECKING:
    from nftlb.model import Snmp

    from .probe import Subject

# Bytes; one object fits. pyasn1 takes 20 ms for 1500 bytes at worst, and a second for the largest datagram.
_SHORTEST, _LARGEST = 20, 1500
_OTHERS = 2
_PROTOCOLS = {SnmpVersion.V1: api.SNMP_VERSION_1, SnmpVersion.V2C: api.SNMP_VERSION_2C}


class SnmpProbe(Probe):
    keeps_time = True

    def __init__(self, check: Snmp) -> None:
        self._check = check
        self._oid = check.oid.lstrip(".")
        self._protocol = api.PROTOCOL_MODULES[_PROTOCOLS[check.version]]

    async def probe(self, subject: Subject) -> Success:
        number = secrets.randbelow(1 << 31)
        request = self.request(number)
        opened = connected(subject, subject.required_port)
        return await exchange(opened, request, lambda reply: self.read_reply(number, reply), subject.timeout, _OTHERS)

    def request(self, number: int) -> bytes:
        """Encode the message whose request-id is `number`."""
        protocol = self._protocol
        pdu = protocol.GetRequestPDU()
        protocol.apiPDU.set_defaults(pdu)
        protocol.apiPDU.set_request_id(pdu, number)
        protocol.apiPDU.set_varbinds(pdu, [(self._oid, protocol.Null(""))])
        message = protocol.Message()
        protocol.apiMessage.set_defaults(message)
        protocol.apiMessage.set_community(message, self._check.community.encode())
        protocol.apiMessage.set_pdu(message, pdu)
        encoded: bytes = encoder.encode(message)
        return encoded

    def read_reply(self, number: int, reply: bytes) -> Success:
        """Judge the reply to the request `number`. Raises Failed and NotOurs."""
        if len(reply) < _SHORTEST:
            raise NotOurs("the reply was not SNMP of our version")
        if number.to_bytes(4).lstrip(b"\0") not in reply:
            raise NotOurs("the reply was not for our request")
        if len(reply) > _LARGEST:
            raise Failed(f"reply is {len(reply)} bytes long, more than {_LARGEST}")
        try:
            found, status, binds = self._decode(reply)
        except Exception as error:  # pyasn1 does not document its exceptions for malformed bytes
            raise NotOurs("the reply was not SNMP of our version") from error
        if found != number:
            raise NotOurs("the reply was not for our request")
        if status:
            raise Failed(f"error {status}")
        if len(binds) != 1 or binds[0][0] != self._oid:
            raise Failed(f"answered without {self._oid}")
        _, kind, value = binds[0]
        # In version 2c these types take the place of the value.
        if kind in {"NoSuchObject", "NoSuchInstance", "EndOfMibView"}:
            raise Failed(f"{self._oid}: {kind[0].lower()}{kind[1:]}")
        return Success(f"{self._oid} is {quoted(value)}")

    def _decode(self, reply: bytes) -> tuple[int, str, list[tuple[str, str, str]]]:
        """Return the request-id, the name of the error (or nothing), and (object, type, value) of all objects."""
        protocol = self._protocol
        message, _ = decoder.decode(reply, asn1Spec=protocol.Message())
        if int(message["version"]) != _PROTOCOLS[self._check.version]:
            raise ValueError("another version")
        pdu = protocol.apiMessage.get_pdu(message)
        if not pdu.isSameTypeWith(protocol.GetResponsePDU()):
            raise ValueError("not a response")
        status = protocol.apiPDU.get_error_status(pdu)
        binds = [
            (".".join(map(str, tuple(oid))), type(value).__name__, _text(value))
            for oid, value in protocol.apiPDU.get_varbinds(pdu)
        ]
        return int(protocol.apiPDU.get_request_id(pdu)), status.prettyPrint() if status else "", binds


def _text(value: Any) -> str:
    text: str = value.prettyPrint()
    return text
