"""SIPp as a SIP server, which replies to OPTIONS over UDP."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Any, ClassVar

from servers.daemon import ANSWER_TIMEOUT, Daemon, bracketed
from servers.exchange import Answer, ask_udp

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.lab import Host

# A MESSAGE whose body is a number sets the status of further replies to OPTIONS. SIPp has no other way, and a new start
# would be an outage.
_SCENARIO = """<?xml version="1.0" encoding="UTF-8"?>
<scenario name="options">
  <Global variables="wrong"/>
  <recv request="OPTIONS" optional="true" next="options"/>
  <recv request="MESSAGE">
    <action><ereg regexp="[01]" search_in="body" assign_to="wrong"/></action>
  </recv>
  <send next="end"><![CDATA[
{ok}
]]></send>
  <label id="options"/>
  <nop>
    <action>
      <strcmp assign_to="difference" variable="wrong" value="1"/>
      <test assign_to="is_wrong" variable="difference" compare="equal" value="0"/>
    </action>
  </nop>
  <nop test="is_wrong" next="refusal"/>
  <send next="end"><![CDATA[
{ok}
]]></send>
  <label id="refusal"/>
  <send><![CDATA[
{unavailable}
]]></send>
  <label id="end"/>
  <Reference variables="is_wrong"/>
</scenario>
"""
RESPONSE = """SIP/2.0 {status}
[last_Via:]
[last_From:]
[last_To:];tag=[call_number]
[last_Call-ID:]
[last_CSeq:]
Content-Length: 0
"""


class Sipp(Daemon):
    """Healthy: replies to OPTIONS with 200. Wrong: replies with 503. It has only one address."""

    name = "sipp"
    default_port = 5060
    check: ClassVar[Mapping[str, Mapping[str, Any]]] = {"sip": {}}

    def configure(self) -> None:
        (self.directory / "options.xml").write_text(
            _SCENARIO.format(
                ok=RESPONSE.format(status="200 OK"), unavailable=RESPONSE.format(status="503 Service Unavailable")
            ),
            encoding="utf-8",
        )

    def command(self) -> list[str]:
        return [
            "sipp", "-sf", str(self.directory / "options.xml"), "-i", self.address, "-p", str(self.port), "-t", "u1",
            "-nostdin",
        ]  # fmt: skip

    def ask(self, source: Host | None = None, *, timeout: float = ANSWER_TIMEOUT) -> Answer:
        return self._request("OPTIONS", "", source, timeout)

    def mislead(self, *, wrong: bool) -> None:
        self._request("MESSAGE", str(int(wrong)), None, ANSWER_TIMEOUT)

    def _request(self, method: str, body: str, source: Host | None, timeout: float) -> Answer:
        asker = source or self.host
        own, server, call = bracketed(asker.ipv4), bracketed(self.address), secrets.token_hex(8)
        lines = (
            f"{method} sip:{server}:{self.port} SIP/2.0",
            # rport (RFC 3581): the reply goes to the source port of the request.
            f"Via: SIP/2.0/UDP {own};branch=z9hG4bK{call};rport",
            "Max-Forwards: 70",
            f"From: <sip:harness@{own}>;tag={call}",
            f"To: <sip:{server}:{self.port}>",
            f"Call-ID: {call}",
            f"CSeq: 1 {method}",
            f"Content-Length: {len(body)}",
            "",
            body,
        )
        reply, seconds = ask_udp(asker, self.target, "\r\n".join(lines).encode(), timeout)
        status, *headers = reply.decode().splitlines()
        ours = f"Call-ID: {call}" in headers
        return Answer(ours and status.startswith("SIP/2.0 200 "), status, seconds)
