"""chronyd as an NTP server with its own reference. It never changes the clock (`-x`)."""

from __future__ import annotations

import os
import struct
import subprocess
from typing import TYPE_CHECKING, Any, ClassVar

from servers.daemon import ANSWER_TIMEOUT, Daemon, repeat
from servers.exchange import Answer, ask_udp
from servers.processes import PATIENCE
from servers.programs import environment, program

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.lab import Host

STRATUM = 10
_NTP = struct.Struct("!BBbb11I")
_VERSION_4_CLIENT = 4 << 3 | 3
_UNSYNCHRONISED = 3


class Chrony(Daemon):
    """Healthy: replies as synchronised, at STRATUM. Wrong: replies as not synchronised (leap 3, stratum 0).

    It can have one address of each family.
    """

    name = "chrony"
    default_port = 123
    check: ClassVar[Mapping[str, Mapping[str, Any]]] = {"ntp": {}}

    def configure(self) -> None:
        # Commands only by a Unix socket: chronyd demands a directory that no other user can enter.
        (self.directory / "chrony.conf").write_text(
            f"""
port {self.port}
{repeat("bindaddress {}", self.addresses)}
allow all
local stratum {STRATUM}
cmdport 0
bindcmdaddress {self.directory}/control
pidfile {self.directory}/pid
""",
            encoding="utf-8",
        )

    def command(self) -> list[str]:
        return ["chronyd", "-d", "-x", "-u", "root", "-f", str(self.directory / "chrony.conf")]

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        sent = os.urandom(8)
        question = bytes([_VERSION_4_CLIENT]).ljust(40, b"\0") + sent
        answer, seconds = ask_udp(source or self.host, self.target, question, timeout)
        flags, stratum, *_ = _NTP.unpack_from(answer)
        leap = flags >> 6
        right = answer[24:32] == sent and leap != _UNSYNCHRONISED and stratum == STRATUM
        return Answer(right, f"leap {leap}, stratum {stratum}", seconds)

    def mislead(self, *, wrong: bool) -> None:
        self.control("local", "off") if wrong else self.control("local", "stratum", str(STRATUM))

    def control(self, *command: str) -> str:
        """Run a command of chronyc(1), and return its output."""
        argv = [program("chronyc"), "-h", str(self.directory / "control"), *command]
        return subprocess.run(
            argv, check=True, capture_output=True, text=True, timeout=PATIENCE, env=environment()
        ).stdout
