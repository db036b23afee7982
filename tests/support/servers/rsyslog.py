"""rsyslogd, which writes syslog lines from UDP to a file. It sends no replies."""

from __future__ import annotations

import os
import secrets
import socket
import time
from typing import TYPE_CHECKING, Any, ClassVar

from servers.daemon import ANSWER_TIMEOUT, Daemon
from servers.exchange import Answer, open_udp
from servers.programs import data

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.lab import Host

_PAUSE = 0.002


class Rsyslog(Daemon):
    """Healthy: the line is in its file. The server can't be wrong or slow, and seems healthy when stopped."""

    name = "rsyslog"
    default_port = 514
    answers = False
    check: ClassVar[Mapping[str, Mapping[str, Any]]] = {"udp": {"send": "<13>check", "expect": "no-icmp-error"}}

    def configure(self) -> None:
        inputs = "\n".join(
            f'input(type="imudp" address="{address}" port="{self.port}" ruleset="all")' for address in self.addresses
        )
        (self.directory / "rsyslog.conf").write_text(
            f"""
global(workDirectory="{self.directory}")
module(load="imudp")
template(name="line" type="string" string="%rawmsg%\\n")
{inputs}
ruleset(name="all") {{
  action(type="omfile" file="{self.directory}/received" template="line")
}}
""",
            encoding="utf-8",
        )

    def command(self) -> list[str]:
        # This directory of modules replaces the built-in directory.
        return [
            "rsyslogd", "-n", "-f", str(self.directory / "rsyslog.conf"), "-i", str(self.directory / "pid"),
            "-M", data("usr/lib/*/rsyslog"),
        ]  # fmt: skip

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        """Send a line, and wait until it is in the file; see `Daemon.ask`."""
        token = secrets.token_hex(8)
        with open_udp(source or self.host, self.target, timeout) as sock:
            begun = time.monotonic()
            sock.send(f"<13>{token}".encode())
            while not any(token in line for line in self.received()):
                if problem := sock.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
                    raise OSError(problem, os.strerror(problem))
                if time.monotonic() - begun > timeout:
                    raise TimeoutError("the line is not in the file")
                time.sleep(_PAUSE)
            return Answer(right=True, what="received", seconds=time.monotonic() - begun)

    def mislead(self, *, wrong: bool) -> None:
        raise NotImplementedError(f"rsyslogd answers nothing, so nothing {'wrong' if wrong else 'right'} either")

    def received(self) -> list[str]:
        """The lines received since the first start, including the lines of `ask`."""
        path = self.directory / "received"
        return path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []
