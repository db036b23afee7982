"""Unbound, a DNS server over UDP and TCP, with the name example.com."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING, ClassVar

import dns.flags
import dns.message
import dns.rcode
from servers.daemon import ANSWER_TIMEOUT, Daemon, repeat
from servers.exchange import Answer, ask_udp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.lab import Host

NAME = "example.com"
ADDRESS = "192.0.2.1"
"""The address of NAME."""


class Unbound(Daemon):
    """Healthy: replies with ADDRESS. Wrong: refuses (rcode REFUSED)."""

    name = "unbound"
    default_port = 53
    check: ClassVar[Mapping[str, Mapping[str, str]]] = {"dns": {"name": NAME, "type": "A"}}

    def configure(self) -> None:
        # The defaults for threads, chroot, user and the control socket, which is a TCP port, do not fit.
        (self.directory / "unbound.conf").write_text(
            f"""
server:
  directory: "{self.directory}"
  chroot: ""
  username: ""
  do-daemonize: no
  use-syslog: no
  logfile: ""
  pidfile: "{self.directory}/pid"
  num-threads: 1
  port: {self.port}
{repeat("  interface: {}", self.addresses)}
  access-control: 0.0.0.0/0 allow
  access-control: ::0/0 allow
  module-config: "iterator"
  local-zone: "{NAME}." static
  local-data: "{NAME}. 60 IN A {ADDRESS}"
remote-control:
  control-enable: yes
  control-interface: "{self.directory}/control"
  control-use-cert: no
""",
            encoding="utf-8",
        )

    def command(self) -> list[str]:
        return ["unbound", "-d", "-c", str(self.directory / "unbound.conf")]

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        question = dns.message.make_query(NAME, "A")
        wire, seconds = ask_udp(source or self.host, self.target, question.to_wire(), timeout)
        answer = dns.message.from_wire(wire)
        found = [item.to_text() for records in answer.answer for item in records]
        right = question.is_response(answer) and found == [ADDRESS]
        return Answer(right, f"{dns.rcode.to_text(answer.rcode())} {found}", seconds)

    def mislead(self, *, wrong: bool) -> None:
        self.control(f"local_zone {NAME}. {'always_refuse' if wrong else 'static'}")

    def control(self, command: str) -> str:
        """Run a command of unbound-control(8). Raises RuntimeError for any reply but `ok`."""
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(ANSWER_TIMEOUT)
            sock.connect(str(self.directory / "control"))
            sock.sendall(f"UBCT1 {command}\n".encode())
            with sock.makefile() as reader:
                said = reader.read()
        if said != "ok\n":
            raise RuntimeError(f"unbound-control {command}: {said}")
        return said
