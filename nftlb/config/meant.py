"""What a user probably means by a value that is not allowed, and how to write it. Pure; only called for bad values.

Each function returns the advice for a message, or an empty text if the intention is not clear.
"""

from __future__ import annotations

import re
from contextlib import suppress
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

_NO_CONNECTIONS = "nftlb does not count connections; write round-robin"
_WORDS = {
    # ways to forward, as keepalived, ipvsadm, ldirectord and dpvs name them
    "dr": "dsr",
    "gate": "dsr",
    "gatewaying": "dsr",
    "direct": "dsr",
    "masq": "nat",
    "masquerade": "nat",
    "masquerading": "nat",
    "fullnat": "nat",
    "fnat": "nat",
    "snat": "nat",
    "dnat": "nat",
    # ways to balance
    "rr": "round-robin",
    "roundrobin": "round-robin",
    "round_robin": "round-robin",
    "wrr": "round-robin",
    "weighted": "round-robin",
    "sh": "hash",
    "mh": "hash",
    "maglev": "hash",
    "source": "hash",
    "ip_hash": "hash",
    "iphash": "hash",
    "consistent": "hash",
    # units, states and protocols
    "connection": "flow",
    "connections": "flow",
    "session": "flow",
    "flows": "flow",
    "datagram": "packet",
    "packets": "packet",
    "disable": "maintenance",
    "disabled": "maintenance",
    "maint": "maintenance",
    "enable": "enabled",
    "ready": "enabled",
    "drained": "drain",
    "draining": "drain",
}
"""Words of other programs, and the words of nftlb. A word only counts where its counterpart is allowed."""
_TUNNELS = {
    **dict.fromkeys(("tun", "tunnel", "ipip", "ip6ip6", "ipip6", "ip6tnl"), "ipip"),
    **dict.fromkeys(("gre", "ip6gre"), "gre"),
}
"""Words of other programs for a tunnel, as a way to forward or as the type of an interface, and the words of nftlb."""
_COUNTS_CONNECTIONS = {"leastconn", "least_conn", "lc", "wlc", "lblc", "lblcr", "sed", "nq", "lblb"}


def word(found: object, allowed: Collection[str]) -> str:
    """Advice for a word: the same word in other letters, or the word of another program."""
    if not isinstance(found, str):
        return ""
    text = found.strip().lower()
    if text in _COUNTS_CONNECTIONS and "round-robin" in allowed:
        return _NO_CONNECTIONS
    tunnel = _TUNNELS.get(text)
    if tunnel and "dsr" in allowed:
        return f"write dsr, with encap: {tunnel}"
    meant = text if text in allowed else tunnel or _WORDS.get(text, "")
    return f"write {meant}" if meant in allowed else ""


_TRUE, _FALSE = {"yes", "on", "y", "1", "true", "enabled"}, {"no", "off", "n", "0", "false", "disabled"}


def boolean(found: object) -> str:
    """Advice for true and false."""
    text = str(found).strip().lower()
    return "write true" if text in _TRUE else "write false" if text in _FALSE else ""


_UNITS = {
    **dict.fromkeys(("ms", "msec", "msecs", "millisecond", "milliseconds"), "ms"),
    **dict.fromkeys(("s", "sec", "secs", "second", "seconds"), "s"),
    **dict.fromkeys(("m", "min", "mins", "minute", "minutes"), "m"),
    **dict.fromkeys(("h", "hr", "hrs", "hour", "hours"), "h"),
}
_DURATION = re.compile(r"([0-9]{1,9})(?:\.([0-9]{1,3}))?\s*([A-Za-z]*)")


def duration(found: object) -> str:
    """Advice for a duration: without a unit, with another name of the unit, with a blank, or with a fraction."""
    match = None if isinstance(found, bool) else _DURATION.fullmatch(str(found).strip())
    if match is None or not int(match[1]):
        return ""
    whole, fraction, unit = int(match[1]), match[2], match[3].lower()
    if fraction is not None:
        return f"write {whole * 1000 + int(fraction.ljust(3, '0'))}ms" if _UNITS.get(unit) == "s" else ""
    if not unit:
        return f"the unit is missing; write {whole}s or {whole}ms"
    if unit in {"d", "day", "days"}:
        return f"write {24 * whole}h"
    return f"write {whole}{_UNITS[unit]}" if unit in _UNITS else ""


_FRACTION = re.compile(r"0?\.([0-9]{1,2})|([0-9]{1,3})")
_WHOLE = 100


def percent(found: object) -> str:
    """Advice for a share: a number without `%`, or a fraction of 1."""
    match = None if isinstance(found, bool) else _FRACTION.fullmatch(str(found))
    if match is None:
        return ""
    number = int(match[1].ljust(2, "0")) if match[1] else int(match[2])
    return f"write {number}%" if number <= _WHOLE else ""


_PORT_AND_PROTOCOL = re.compile(r"([0-9]{1,5})/[A-Za-z]+")
_PORT_AND_WEIGHT = re.compile(r"([0-9]{1,5})\s+weight[ =:]\s*([0-9]{1,3})")
_NAME = re.compile(r"[A-Za-z][A-Za-z0-9-]*")


def number(what: str, found: object) -> str:
    """Advice for a whole number. `what`: the kind of number, such as `a port`."""
    if not isinstance(found, str):
        return ""
    if what == "a port":
        if match := _PORT_AND_PROTOCOL.fullmatch(found):
            return f"write {match[1]}; the protocol belongs to listen"
        if match := _PORT_AND_WEIGHT.fullmatch(found):
            return f"write {{address: ADDRESS, port: {match[1]}, weight: {match[2]}}}"
        return "write the number of the port; names of services are not looked up" if _NAME.fullmatch(found) else ""
    return "" if found.isdecimal() or found.lower().startswith("0x") else "write a whole number"


_URL = re.compile(r"([A-Za-z]+)://([^/]+)/?")
_LISTENER_PROTOCOLS = {"udp", "tcp", "sctp"}


def listener(found: object) -> str:
    """Advice for a listener: a missing part, a URL, an IPv6 address without brackets."""
    if not isinstance(found, str):
        return ""
    if (match := _URL.fullmatch(found)) and match[1].lower() in _LISTENER_PROTOCOLS:
        return f"write {match[2]}/{match[1].lower()}"
    endpoint, slash, protocol = found.rpartition("/")
    if not slash:
        endpoint, protocol = found, "udp"
    end = f"/{protocol.lower()}"
    host, colon, port = endpoint.rpartition(":")
    advice = ""
    if bracketed := _bracketed(endpoint, "PORT"):
        advice = f'the IPv6 address needs brackets; write "{bracketed}{end}"'
    elif not colon and _is_address(endpoint):
        advice = f"the port is missing; write {endpoint}:PORT{end}, such as {endpoint}:53{end}"
    elif not host and port.isdecimal():
        advice = f"the address is missing; write ADDRESS:{port}{end}"
    elif host and not slash:
        advice = f"the protocol is missing; write {found}/udp or {found}/tcp"
    return advice


def endpoint(found: object) -> str:
    """Advice for an address with a port."""
    if not isinstance(found, str):
        return ""
    if match := _URL.fullmatch(found):
        return f"write {match[2]}"
    if bracketed := _bracketed(found, "PORT"):
        return f'the IPv6 address needs brackets; write "{bracketed}"'
    return f"the port is missing; write {found}:PORT" if _is_address(found) else ""


_HOST_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_]([A-Za-z0-9_.-]{0,250}[A-Za-z0-9_.])?")
_LEADING_ZEROS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_WITH_WEIGHT = re.compile(r"(\S+)\s+weight[ =:]\s*([0-9]{1,3})")


def address(found: object, *, names: bool = False) -> str:
    """Advice for an address: a host name, leading zeros, a URL, or an address with a port or a weight.

    `names`: host names are allowed, so this one is wrong for another reason.
    """
    if not isinstance(found, str):
        return ""
    if match := _URL.fullmatch(found):
        return f"write {match[2]}"
    if match := _WITH_WEIGHT.fullmatch(found):
        host, colon, port = match[1].rpartition(":")
        server = f"{host}, port: {port}" if colon and _is_address(host) else match[1]
        return f"write {{address: {server}, weight: {match[2]}}}"
    host, colon, port = found.rpartition(":")
    plain = host[1:-1] if host.startswith("[") and host.endswith("]") else host
    if colon and port.isdecimal() and _is_address(plain):
        return f"write the address {plain} and the port {port} as two values"
    if _LEADING_ZEROS.fullmatch(found):
        plain = ".".join(str(int(part)) for part in found.split("."))
        return f"write {plain}, without leading zeros" if plain != found and _is_address(plain) else ""
    named = not names and _HOST_NAME.fullmatch(found) and ("." in found or found.lower() == "localhost")
    return "a host name does not work here; write an address" if named else ""


def _bracketed(text: str, port: str) -> str:
    """The IPv6 address of `text` in brackets, with its port or `port`; empty if `text` is no IPv6 address."""
    if text.startswith("[") or text.count(":") < 2:  # noqa: PLR2004 - an IPv6 address has at least two
        return ""
    host, _, last = text.rpartition(":")
    if last.isdecimal() and _is_address(host):
        return f"[{host}]:{last}"
    return f"[{text}]:{port}" if _is_address(text) else ""


def _is_address(text: str) -> bool:
    with suppress(AddressValueError):
        return bool(IPv6Address(text) if ":" in text else IPv4Address(text))
    return False
