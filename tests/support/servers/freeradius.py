"""FreeRADIUS, which answers Status-Server (RFC 5997)."""

from __future__ import annotations

import hashlib
import hmac
import os
import struct
from typing import TYPE_CHECKING, ClassVar

from servers.daemon import ANSWER_TIMEOUT, Daemon
from servers.exchange import Answer, ask_udp
from servers.programs import data

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.lab import Host

SECRET = "testing123"  # noqa: S105 - of a server in a namespace
_ACCESS_ACCEPT, _STATUS_SERVER = 2, 12
_USER_NAME, _MESSAGE_AUTHENTICATOR = 1, 80
_HEADER = struct.Struct("!BBH16s")


class FreeRadius(Daemon):
    """Healthy: replies to Status-Server with Access-Accept. Wrong: replies with Access-Reject."""

    name = "freeradius"
    default_port = 1812
    check: ClassVar[Mapping[str, Mapping[str, str]]] = {"radius": {"secret": SECRET}}

    def configure(self) -> None:
        # A Status-Server with a user name sets the further replies. FreeRADIUS would read a file again only at SIGHUP,
        # which it ignores within five seconds of the last SIGHUP, and a program takes 100 ms.
        listeners = "\n".join(
            f"  listen {{\n    type = auth\n    {'ipv6addr' if ':' in address else 'ipv4addr'} = {address}\n"
            f"    port = {self.port}\n  }}"
            for address in self.addresses
        )
        (self.directory / "radiusd.conf").write_text(
            f"""
prefix = /usr
libdir = {data("usr/lib/freeradius")}
raddbdir = {self.directory}
logdir = {self.directory}
run_dir = {self.directory}
db_dir = {self.directory}
pidfile = {self.directory}/pid
hostname_lookups = no
log {{
  destination = stdout
}}
security {{
  reject_delay = 0
  status_server = yes
}}
thread pool {{
  start_servers = 1
  max_servers = 2
  min_spare_servers = 1
  max_spare_servers = 2
  max_requests_per_server = 0
}}
client ipv4 {{
  ipaddr = 0.0.0.0/0
  secret = {SECRET}
}}
client ipv6 {{
  ipv6addr = ::/0
  secret = {SECRET}
}}
modules {{
  always verdict {{
    rcode = ok
  }}
}}
server default {{
{listeners}
  authorize {{
    Autz-Type Status-Server {{
      if (&User-Name) {{
        update request {{
          &Tmp-String-0 := "%{{verdict:%{{User-Name}}}}"
        }}
      }}
      verdict
    }}
  }}
}}
""",
            encoding="utf-8",
        )

    def command(self) -> list[str]:
        return ["freeradius", "-f", "-d", str(self.directory), "-D", data("usr/share/freeradius"), "-n", "radiusd"]

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        return self._request(source, timeout)

    def mislead(self, *, wrong: bool) -> None:
        self._request(None, ANSWER_TIMEOUT, verdict="reject" if wrong else "ok")

    def _request(self, source: Host | None, timeout: float, *, verdict: str = "") -> Answer:
        attributes = bytes([_USER_NAME, 2 + len(verdict)]) + verdict.encode() if verdict else b""
        question = status_server(os.urandom(1)[0], os.urandom(16), attributes)
        answer, seconds = ask_udp(source or self.host, self.target, question, timeout)
        genuine = is_genuine(answer, question)
        code = answer[0]
        return Answer(genuine and code == _ACCESS_ACCEPT, f"code {code}, {'genuine' if genuine else 'forged'}", seconds)


def is_genuine(answer: bytes, question: bytes) -> bool:
    """Whether an answer belongs to the question, and the server knows the secret: RFC 2865, section 3."""
    _, identifier, length, authenticator = _HEADER.unpack_from(answer)
    signed = hashlib.md5(answer[:4] + question[4:20] + answer[20:length] + SECRET.encode()).digest()  # noqa: S324 - RFC 2865
    return identifier == question[1] and hmac.compare_digest(signed, authenticator)


def status_server(identifier: int, authenticator: bytes, attributes: bytes = b"") -> bytes:
    """Return a Status-Server request whose Message-Authenticator is the HMAC of the packet with that attribute zero."""

    def packet(signature: bytes) -> bytes:
        everything = attributes + bytes([_MESSAGE_AUTHENTICATOR, 2 + len(signature)]) + signature
        return _HEADER.pack(_STATUS_SERVER, identifier, _HEADER.size + len(everything), authenticator) + everything

    return packet(hmac.digest(SECRET.encode(), packet(bytes(16)), "md5"))
