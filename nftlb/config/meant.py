"""What a user probably means by a value that is not allowed, and how to write it. Pure; only called for bad values.

Each function returns the advice for a message, or an empty text if the intention is not clear.
"""

from __future__ import annotations

import re
import unicodedata
from contextlib import suppress
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from nftlb.model.constraints import TextPattern

_DASHES_AND_QUOTES = str.maketrans("\u2010\u2011\u2012\u2013\u2014\u2212", "------", "\u2018\u2019\u201c\u201d")


def in_ascii(found: object) -> str:
    """The same text in ASCII characters; empty if the text is in ASCII, or also has other letters.

    Input methods for East Asian languages write wide letters and digits. Word processors write other dashes and quotes.
    Web pages have blanks of other widths, and characters without any width.
    """
    if not isinstance(found, str) or found.isascii():
        return ""
    plain = unicodedata.normalize("NFKC", found).translate(_DASHES_AND_QUOTES)
    plain = "".join(letter for letter in plain if unicodedata.category(letter) != "Cf").strip()
    return plain if plain.isascii() else ""


def comment(found: object) -> str:
    """Advice for a value with `#` and no blank before it, which YAML does not read as a comment."""
    return "a comment needs a blank before #" if isinstance(found, str) and re.search(r"\w#", found) else ""


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
    # keys of balance: hash
    "src": "source",
    "client": "source",
    "client-ip": "source",
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
    in_other_letters = next((one for one in allowed if one.lower() == text), "")  # types of DNS records are in capitals
    meant = in_other_letters or tunnel or _WORDS.get(text, "")
    if meant not in allowed:
        # Another short word is rather another thing: FTP is not TFTP.
        meant = _nearest(text, allowed, _ALIKE) if len(text) >= _SHORTEST_SLIP else ""
    return f"write {meant}" if meant else ""


_SHORTEST_SLIP, _MOST_LETTERS = 4, 2
"""The length of the shortest value for which a similar word is looked for, and how many letters may be missing."""
_ALIKE, _SIMILAR = 0.8, 0.6
"""How much of two texts must be equal (`SequenceMatcher.ratio`): of values, and of keys, whose advice is a question."""
_KEYS = {
    **dict.fromkeys(("scheduler", "sched", "lb_algo", "lvs_sched", "algorithm", "hash"), "balance"),
    **dict.fromkeys(("lb_kind", "lvs_method", "mode", "fwd"), "forward"),
    **dict.fromkeys(("persistent", "persistence", "persistence_timeout", "sticky", "affinity"), "per"),
    **dict.fromkeys(("real", "real_server", "real_servers", "servers", "nodes", "members"), "backends"),
    **dict.fromkeys(("upstream", "upstreams", "endpoints", "targets"), "backends"),
    **dict.fromkeys(("bind", "frontend", "vip", "virtual", "virtual_server", "protocol", "port"), "listen"),
    **dict.fromkeys(("check", "checks", "healthcheck", "health_check", "monitor", "probe"), "health"),
    **dict.fromkeys(("sorry_server", "sorry", "backup"), "fallback"),
    **dict.fromkeys(("host", "hostname", "ip", "server", "name"), "address"),
    **dict.fromkeys(("state", "status", "disabled", "enabled"), "admin"),
    **dict.fromkeys(("ping", "icmp_ping"), "icmp"),
    **dict.fromkeys(("url", "uri"), "path"),
    **dict.fromkeys(("code", "codes", "status_code", "expect"), "status"),
    **dict.fromkeys(("up", "notify_up", "on_up"), "backend_up"),
    **dict.fromkeys(("down", "notify_down", "on_down"), "backend_down"),
    **dict.fromkeys(("script", "command", "external", "misc_check"), "exec"),
    **dict.fromkeys(("inter", "delay_loop", "delay"), "interval"),
    **dict.fromkeys(("service", "services", "virtual_servers", "virtuals"), "pools"),
}
"""Keys of other programs, and the key of nftlb. A key only counts where its counterpart is allowed."""


def key(found: str, allowed: Collection[str], *, slips: bool = True) -> str:
    """The key that is meant by an unknown key; empty if that is not clear. `slips`: also a similar key."""
    text = (in_ascii(found) or found).strip().lower().replace("-", "_")
    meant = text if text in allowed else _KEYS.get(text, "")
    if meant in allowed:
        return meant
    return _nearest(text, allowed, _SIMILAR) if slips else ""


def _nearest(text: str, allowed: Collection[str], ratio: float) -> str:
    """The text of `allowed` that differs from `text` by a slip of the keyboard; empty if there is none."""
    from difflib import get_close_matches  # noqa: PLC0415 - not worth loading for a good file

    alike = sorted(word for word in allowed if abs(len(word) - len(text)) <= _MOST_LETTERS)
    near = get_close_matches(text, alike, n=1, cutoff=ratio)
    return near[0] if near else ""


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
    if match is None:
        return ""
    whole, fraction, unit = int(match[1]), match[2], match[3].lower()
    if fraction is not None:
        parts = whole * 1000 + int(fraction.ljust(3, "0"))
        return f"write {parts}ms" if parts and _UNITS.get(unit) == "s" else ""
    if not whole:
        return ""
    if not unit:
        return f"the unit is missing; write {whole}s or {whole}ms"
    if unit in {"d", "day", "days"}:
        return f"write {24 * whole}h"
    return f"write {whole}{_UNITS[unit]}" if unit in _UNITS else ""


_FRACTION = re.compile(r"0?\.([0-9]{1,2})|([0-9]{1,3})\s*%?")
_WHOLE = 100


def percent(found: object) -> str:
    """Advice for a share: a number without `%`, a blank before `%`, or a fraction of 1."""
    match = None if isinstance(found, bool) else _FRACTION.fullmatch(str(found))
    if match is None:
        return ""
    number = int(match[1].ljust(2, "0")) if match[1] else int(match[2])
    return f"write {number}%" if number <= _WHOLE else ""


_MOST_PACKETS = 1_000_000
_RATE = re.compile(r"([1-9][0-9]{0,6})\s*(?:(?:packets?|p)?\s*(?:/|per\b|p(?=s$))\s*([a-z]+))?")


def rate(found: object) -> str:
    """Advice for a number of packets in a period: without a period, or with another name of the period."""
    # With single blanks, the expression takes linear time.
    match = None if isinstance(found, bool) else _RATE.fullmatch(" ".join(str(found).lower().split()))
    if match is None:
        return ""
    if int(match[1]) > _MOST_PACKETS:
        return ""
    if not match[2]:
        return f"the period is missing; write {match[1]}/s or {match[1]}/m"
    unit = _UNITS.get(match[2], "")
    return f"write {match[1]}/{unit}" if unit in {"s", "m", "h"} else ""


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


_URL = re.compile(r"([A-Za-z]+)://([^/\s]+)(?:/\S*)?")
_WITH_BLANKS = re.compile(
    r"([0-9A-Fa-f.:\[\]]+)(?:\s*:\s*|\s+)([0-9]{1,5})(?:\s*/\s*|\s+)(udp|tcp|sctp)", re.IGNORECASE
)
_SEVERAL_PROTOCOLS = re.compile(r"/[A-Za-z]+[/+|&][A-Za-z]+$")
_LISTENER_PROTOCOLS = {"udp", "tcp", "sctp"}
_PORTS = re.compile(r"[0-9]{1,5}(?:-[0-9]{1,5})?")


def listener(found: object) -> str:
    """Advice for a listener: a missing or wrong part, several parts, a URL, an IPv6 address without brackets."""
    if type(found) is int and 0 < found <= _MOST_PORT:
        return f"the address is missing; write ADDRESS:{found}/udp"
    return _listener(found) if isinstance(found, str) else ""


def _listener(found: str) -> str:
    if "," in found or _SEVERAL_PROTOCOLS.search(found):
        return "write a list with one address, one port or range of ports, and one protocol in each item"
    if len(found.split()) > 1 and (spaced := _WITH_BLANKS.fullmatch(found)):
        place, protocol = _joined(spaced[1].strip("[]"), spaced[2]), spaced[3].lower()
        return f"write {_quoted(f'{place}/{protocol}')}"
    url = _URL.fullmatch(found)
    if url and url[1].lower() in _LISTENER_PROTOCOLS:
        place, protocol = url[2], url[1]
    else:
        place, _, protocol = found.rpartition("/") if "/" in found else (found, "", "")
    end = f"/{protocol.lower() or 'udp'}"
    advice = _place(place, end)
    if not advice:
        host, ports = _split(place)
        if url and url[1].lower() not in _LISTENER_PROTOCOLS:
            advice = "a URL does not work here"
        elif host and protocol and url:
            advice = f"write {_quoted(_joined(host, ports) + end)}" if _PORTS.fullmatch(ports) else ""
        elif host == "*" and not ports:
            advice = f'the port is missing; write "*:PORT{end}", such as "*:53{end}"'
        elif not host or host.isdecimal():
            number = ports or host
            advice = f"the address is missing; write ADDRESS:{number}{end}" if number.isdecimal() else ""
        elif not protocol and _PORTS.fullmatch(ports) and (_is_address(host) or ":" not in host):
            written = _joined(host, ports)
            advice = f"the protocol is missing; write {_quoted(f'{written}/udp')} or {_quoted(f'{written}/tcp')}"
    return advice


def endpoint(found: object) -> str:
    """Advice for an address with a port."""
    if not isinstance(found, str):
        return ""
    url = _URL.fullmatch(found)
    place = url[2] if url else _with_colon(found)
    if advice := _place(place, ""):
        return advice
    return f"write {_quoted(place)}" if place != found and _split(place)[1].isdecimal() else ""


def _place(text: str, end: str) -> str:
    """Advice for an address with a port, which something is wrong with. `end` follows the port."""
    host, port = _split(text)
    if advice := _nearly(host, port):
        return advice
    if not _is_address(host):
        return ""
    if text.startswith("[") and ":" not in host:
        return f"write {_joined(host, port or 'PORT')}{end}, without brackets"
    if ":" in host and not text.startswith("["):
        return f"the IPv6 address needs brackets; write {_quoted(_joined(host, port or 'PORT') + end)}"
    if port:
        return ""
    example = f", such as {_quoted(_joined(host, '53') + end)}" if end else ""
    return f"the port is missing; write {_quoted(_joined(host, 'PORT') + end)}{example}"


_HOST_NAME = re.compile(r"(?=.*[A-Za-z])[A-Za-z0-9_]([A-Za-z0-9_.-]{0,250}[A-Za-z0-9_.])?")
_LEADING_ZEROS = re.compile(r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}")
_WITH_WEIGHT = re.compile(r"(\S+)\s+weight[ =:]\s*([0-9]{1,3})")


def server(found: str) -> str:
    """Advice for the short form of a server: brackets around an IPv4 address, or a blank before the port."""
    host, port = _split(_with_colon(found))
    if not (port.isdecimal() and _is_address(host)):
        return ""
    end = ", without brackets" if found.startswith("[") and ":" not in host else ""
    return f"write {_quoted(_joined(host, port))}{end}"


def address(found: object, *, names: bool = False) -> str:
    """Advice for an address: a part out of range, a host name, leading zeros, a URL, or a port or a weight behind it.

    `names`: host names are allowed, so this one is wrong for another reason.
    """
    if not isinstance(found, str):
        return ""
    url, weighted = _URL.fullmatch(found), _WITH_WEIGHT.fullmatch(found)
    place = url[2] if url else weighted[1] if weighted else found
    host, port = _split(place)
    plain = _is_address(host)
    if advice := _nearly(host, port):
        pass
    elif "," in found:
        advice = "write one address here"
    elif url:
        advice = f"write {_quoted(place)}"
    elif weighted:
        server = f"{_in_flow(host)}, port: {port}" if port.isdecimal() and plain else _in_flow(host if plain else place)
        advice = f"write {{address: {server}, weight: {weighted[2]}}}"
    elif port.isdecimal() and plain:
        advice = f"write the address {host} and the port {port} as two values"
    elif plain and place == f"[{host}]":
        advice = f"write {host}, without brackets"
    elif _LEADING_ZEROS.fullmatch(found):
        shorter = ".".join(str(int(part)) for part in found.split("."))
        advice = f"write {shorter}, without leading zeros" if shorter != found and _is_address(shorter) else ""
    elif not names and _is_name(found):
        advice = "a host name does not work here; write an address"
    return advice


def prefix(found: str) -> str:
    """Advice for an address or a prefix: a host name, a range, or what is nearly an address."""
    several = _RANGE.fullmatch(found)
    if several and _is_address(several[1]):
        return "a range of addresses does not work here; write prefixes"
    host, slash, _ = found.partition("/")
    if advice := _nearly(host, ""):
        return advice
    if not slash and _is_name(host):
        return "host names and relative paths do not work here"
    return address(host) if not slash else ""


def api_place(found: object) -> str:
    """Advice for the place where the API listens: a port or a path alone, a name of this host, a URL."""
    text = str(found)
    if text.isdecimal() and not isinstance(found, bool):
        return f"the address is missing; write 127.0.0.1:{text}" if 0 < int(text[:9]) <= _MOST_PORT else ""
    if text.startswith("/"):
        return f"write unix:{text}"
    url = _URL.fullmatch(text)
    place = url[2] if url else text
    host, port = _split(place)
    if host.lower() == "localhost" and port.isdecimal():
        return f"a host name does not work here; write 127.0.0.1:{port}"
    if host == "*" and port.isdecimal():
        return f"write 0.0.0.0:{port}, or [::]:{port} with quotes"
    return address(host) or endpoint(found)


_NAME_AND_VALUE = re.compile(r"([A-Za-z][\w.-]*):(\S+)")
_URL_PATH = re.compile(r"[A-Za-z]+://[^/\s]+(/\S*)?")
_WORDS_OF_A_NAME = re.compile(r"[A-Za-z][\w.-]*(?: [\w.-]+)+")
_INTERFACES = re.compile(r"[A-Za-z][\w.@-]+(?:[ ,]+[A-Za-z][\w.@-]+)+")


def text(pattern: TextPattern, found: object) -> str:
    """Advice for text that does not match a pattern. What the advice tells to write matches the pattern."""
    if not isinstance(found, str):
        return ""
    what, fits = pattern.what, pattern.pattern.fullmatch
    advice = ""
    if what.startswith("a name of"):
        joined = (found.replace(" ", joint) for joint in "-_") if _WORDS_OF_A_NAME.fullmatch(found) else ()
        name = next(filter(fits, joined), "")
        before_colon = fits(found.partition(":")[0])
        advice = f"write {name}" if name else without_blank(found) if before_colon else ""
    elif what == "a host name":
        url = _URL.fullmatch(found)
        host, port = _split(url[2] if url else found)
        advice = f"write {host}" if (url or port.isdecimal()) and fits(host) else ""
    elif what == "an interface" and _INTERFACES.fullmatch(found):
        names = found.replace(",", " ").split()
        advice = f"write a list: [{', '.join(names)}]" if all(map(fits, names)) else ""
    elif what == "a path of a URL":
        url = _URL_PATH.fullmatch(found)
        path = url[1] or "/" if url else f"/{found}"
        advice = f"write {path}" if (url or _PLAIN_WORD.fullmatch(found)) and fits(path) else ""
    return advice


def without_blank(found: object) -> str:
    """Advice for a key and its value that YAML reads as one text, because no blank is behind the colon."""
    lines = [_NAME_AND_VALUE.fullmatch(line) for line in found.split()] if isinstance(found, str) else []
    first = lines[0] if lines and all(lines) else None
    if first is None or _is_address(first[1]) or first[2].startswith("//"):
        return ""
    return f"a blank is missing behind the colon; write {first[1]}: {first[2]}"


_PLAIN_WORD = re.compile(r"[A-Za-z0-9_./=+@%-]+")


def listed(found: object) -> str:
    """Advice for a list of words that is written as text."""
    words = found.split() if isinstance(found, str) else []
    plain = words and all(map(_PLAIN_WORD.fullmatch, words))
    return f"write [{', '.join(words)}]" if plain else ""


def status_codes(found: object) -> str:
    """Advice for a class of status codes."""
    match = re.fullmatch(r"([1-9])xx", str(found).strip().lower())
    return f"write {match[1]}00-{match[1]}99" if match else ""


def _is_name(text: str) -> bool:
    return bool(_HOST_NAME.fullmatch(text)) and ("." in text or text.lower() == "localhost")


_MOST_PORT, _LONGEST_PORT = 65535, 5
_PARTS, _MOST_OF_PART, _LONGEST_PART = 4, 255, 3


_NETWORK = re.compile(r"(\S+)/[0-9]{1,3}")
_RANGE = re.compile(r"([^\s-]+)\s*-\s*(?:[0-9]{1,3}|[0-9A-Fa-f]*[.:]\S+)")


def _nearly(host: str, port: str) -> str:
    """Advice for what is nearly an address, and for a number that is not a port; empty if both may be right."""
    network, several = _NETWORK.fullmatch(host), _RANGE.fullmatch(host)
    advice = ""
    if network and _is_address(network[1]):
        advice = f"a network does not work here; write the address of one host, such as {network[1]}"
    elif several and _is_address(several[1]):
        advice = f"a range of addresses does not work here; write one address, such as {several[1]}"
    elif host.endswith(".") and _is_address(host[:-1]):
        advice = f"write {host[:-1]}, without the dot at the end"
    return advice or _numbers(host) or _port(port)


def _numbers(host: str) -> str:
    """Advice for an IPv4 address with a part that is not a number up to 255, or with too many or too few numbers."""
    parts = host.split(".")
    numbers = [part for part in parts if part.isascii() and part.isdecimal()]
    wrong = [part for part in parts if part not in numbers or len(part) > _LONGEST_PART or int(part) > _MOST_OF_PART]
    readable = all(part.isascii() and part.isalnum() for part in parts)
    if wrong and readable and len(parts) == _PARTS and len(numbers) >= _PARTS - 1:
        return f"{wrong[0]} in {host} is not a number from 0 to {_MOST_OF_PART}"
    if not wrong and len(parts) not in {1, _PARTS}:
        return f"an IPv4 address has {_PARTS} numbers, and {host} has {len(parts)}"
    return ""


def _port(port: str) -> str:
    """Advice for a number that is not a port."""
    first = port.partition("-")[0]
    if first.isascii() and first.isdecimal() and not (len(first) <= _LONGEST_PORT and 0 < int(first) <= _MOST_PORT):
        return f"{first} is not a port from 1 to {_MOST_PORT}"
    return ""


def _split(text: str) -> tuple[str, str]:
    """The address without brackets, and the text behind its colon; the port of an IPv6 address may lack brackets."""
    if text.startswith("["):
        host, bracket, rest = text[1:].partition("]")
        return (host, rest.removeprefix(":")) if bracket else (text, "")
    host, _, last = text.rpartition(":")
    if ":" not in host:
        return (host, last) if ":" in text else (text, "")
    # In a text with `:::`, it is not clear which colon is too many.
    return (host, last) if last.isdecimal() and _is_address(host) and ":::" not in text else (text, "")


def _with_colon(text: str) -> str:
    """The text with one colon in place of the blanks before a port."""
    host, *rest = text.split() or [""]
    port = "".join(rest).removeprefix(":")
    if not rest or not _PORTS.fullmatch(port):
        return text
    return f"{host if host.endswith('::') else host.removesuffix(':')}:{port}"


def _joined(host: str, port: str) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


def _quoted(text: str) -> str:
    """The text as YAML: a bracket at the begin would start a list."""
    return f'"{text}"' if text.startswith("[") else text


def _in_flow(host: str) -> str:
    """The host as YAML in braces: a colon at the end would end a key."""
    return f'"{host}"' if ":" in host else host


def _is_address(text: str) -> bool:
    with suppress(AddressValueError):
        return bool(IPv6Address(text) if ":" in text else IPv4Address(text))
    return False
