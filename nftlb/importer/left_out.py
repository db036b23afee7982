"""Keywords of keepalived 2.2 that have no counterpart, by the block that they are in. No I/O."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .draft import Notes
    from .statements import Statement

_CONNECTING = {"bind_port", "log_all_failures"}
_HTTP = _CONNECTING | {"fast_recovery", "http_protocol"}
WITHOUT_COUNTERPART = {
    "virtual_server": {
        "flag-1", "flag-2", "flag-3", "ha_suspend", "hashed", "ip_family", "mh-fallback", "mh-port", "omega",
        "persistence_engine", "sh-fallback", "sh-port", "smtp_alert", "snmp_name", "sorry_server_inhibit",
    },
    "real_server": {"lthreshold", "smtp_alert", "snmp_name", "uthreshold"},
    "HTTP_GET": _HTTP,
    "SSL_GET": _HTTP,
    "url": {"regex_max_offset", "regex_min_offset", "regex_no_match", "regex_options", "regex_stack"},
    "TCP_CHECK": _CONNECTING,
    "SMTP_CHECK": _CONNECTING | {"helo_name"},
    "DNS_CHECK": _CONNECTING,
    "UDP_CHECK": _CONNECTING | {"max_reply_length", "min_reply_length"},
    "PING_CHECK": _CONNECTING | {"connect_port"},
    "MISC_CHECK": {"log_all_failures", "user"},
}  # fmt: skip


def note_left_out(statement: Statement, block: str, notes: Notes) -> None:
    """Note what nobody takes over, and whether keepalived knows it there at all."""
    known = statement.key in WITHOUT_COUNTERPART[block] or statement.key.startswith("include")
    where = "" if block in {"virtual_server", "real_server"} else f" of {block}"
    unknown = "" if known else ": no keyword of keepalived 2.2 there"
    notes.missing(statement.line, f"{statement}{where}{unknown}")
