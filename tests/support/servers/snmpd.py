"""snmpd of Net-SNMP, which returns sysUpTime to the community `public` (v1 and v2c)."""

from __future__ import annotations

import os
import signal
from typing import TYPE_CHECKING, ClassVar

from servers.daemon import ANSWER_TIMEOUT, Daemon, bracketed
from servers.exchange import Answer, ask_udp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.lab import Host

COMMUNITY = "public"
SYS_UP_TIME = "1.3.6.1.2.1.1.3.0"
_SYS_UP_TIME = bytes.fromhex("2b06010201010300")
_INTEGER, _STRING, _NULL, _OID, _SEQUENCE, _TIME_TICKS, _NO_SUCH_OBJECT, _GET = 2, 4, 5, 6, 0x30, 0x43, 0x80, 0xA0


class Snmpd(Daemon):
    """Healthy: returns its sysUpTime. Wrong: lacks the object (v2c: noSuchObject; v1: noSuchName)."""

    name = "snmpd"
    default_port = 161
    check: ClassVar[Mapping[str, Mapping[str, str]]] = {"snmp": {"community": COMMUNITY, "oid": SYS_UP_TIME}}

    def configure(self) -> None:
        self._write(hidden=False)
        (self.directory / "state").mkdir(exist_ok=True)

    def command(self) -> list[str]:
        # -C: without the machine's own configuration; -I: only these modules, for a faster start.
        return [
            "snmpd", "-f", "-C", "-c", str(self.directory / "snmpd.conf"), "-Lo", "-p", str(self.directory / "pid"),
            "-I", "system_mib,sysORTable,vacm_conf,usmConf",
        ]  # fmt: skip

    def variables(self) -> dict[str, str]:
        return {"SNMP_PERSISTENT_DIR": str(self.directory / "state"), "MIBS": ""}

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        identifier = os.urandom(3)
        answer, seconds = ask_udp(source or self.host, self.target, _get(identifier), timeout)
        ours = _value(_INTEGER, b"\1" + identifier) in answer
        # The value, or the exception, follows the name of the object.
        tag = answer.partition(_value(_OID, _SYS_UP_TIME))[2][:1]
        what = {bytes([_TIME_TICKS]): "sysUpTime", bytes([_NO_SUCH_OBJECT]): "noSuchObject"}.get(tag, tag.hex())
        return Answer(ours and what == "sysUpTime", what, seconds)

    def mislead(self, *, wrong: bool) -> None:
        self._write(hidden=wrong)
        os.kill(self.pid, signal.SIGHUP)

    def _write(self, *, hidden: bool) -> None:
        addresses = ",".join(
            f"{'udp6' if ':' in address else 'udp'}:{bracketed(address)}:{self.port}" for address in self.addresses
        )
        (self.directory / "snmpd.conf").write_text(
            f"""
agentaddress {addresses}
rocommunity {COMMUNITY} default -V seen
rocommunity6 {COMMUNITY} default -V seen
view seen included .1
{"view seen excluded .1.3.6.1.2.1.1.3" if hidden else ""}
""",
            encoding="utf-8",
        )


def _value(tag: int, content: bytes) -> bytes:
    """Encode a value of less than 128 bytes in BER."""
    return bytes([tag, len(content)]) + content


def _get(identifier: bytes) -> bytes:
    """Encode a GetRequest of v2c for sysUpTime.0; the identifier has three bytes."""
    zero = _value(_INTEGER, b"\0")
    variables = _value(_SEQUENCE, _value(_SEQUENCE, _value(_OID, _SYS_UP_TIME) + _value(_NULL, b"")))
    request = _value(_GET, _value(_INTEGER, b"\1" + identifier) + zero + zero + variables)
    return _value(_SEQUENCE, _value(_INTEGER, b"\1") + _value(_STRING, COMMUNITY.encode()) + request)
