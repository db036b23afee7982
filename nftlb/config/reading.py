"""Reads single values from plain data (None, bool, int, str, list, dict). No I/O.

A reader returns the value, or raises `Unfit`, whose text has the found value and the allowed values. This module does
not know files and positions.
"""

from __future__ import annotations

import re
import socket
from enum import StrEnum
from functools import partial
from ipaddress import AddressValueError, IPv4Address, IPv6Address
from socket import AF_INET, inet_pton
from typing import TypeVar

from nftlb.model.constraints import DAY, INTERFACE, LINES, PATH, SERVER_NAME, TextPattern
from nftlb.model.hash_keys import ADDRESS_BITS, KEY_WORDS, LAST_BYTE, MOST_BYTES, HashKey, payload_key, prefix_key
from nftlb.model.kinds import (
    ANY,
    UNSPECIFIED,
    Endpoint,
    Fallback,
    FallbackKind,
    Family,
    IPAddress,
    Listener,
    Milliseconds,
    MinHealthy,
    Protocol,
    Rate,
    Source,
    SourceEntry,
    SourceKind,
    SourceLengths,
    UnixSocket,
    is_link_local,
)
from nftlb.model.patterns import BadPattern, compiled
from nftlb.printable import printable, show

from . import meant

ADDRESS_AND_PORT = "an address and a port, such as 10.0.0.11:5353 or [2001:db8::11]:5353"
LISTENER = (
    "ADDRESS:PORT/udp, /tcp or /sctp, such as 192.0.2.53:53/udp or [2001:db8::53]:53/udp; in place of ADDRESS also an "
    "interface, or *"
)
REPLIES = "replies"
"""The value of `passive` for silent backends."""
DURATION = "a whole number with a unit, such as 500ms, 2s, 1m or 1h"


_LONGEST_ADVICE = 300
"""Advice may repeat a value, which may have megabytes."""


class Unfit(ValueError):  # noqa: N818 - raised for the input of a user, not for an error of nftlb
    """A value is not allowed in its place. The text has the found value and the allowed values.

    `advice`: what the user probably means, and how to write it.
    """

    def __init__(self, found: object, what: str, allowed: str, advice: str = "") -> None:
        plain = meant.in_ascii(found)
        advice = f"some characters are not ASCII; in ASCII: {plain}" if plain else advice or meant.comment(found)
        hint = f"{printable(advice)}; " if 0 < len(advice) <= _LONGEST_ADVICE else ""
        super().__init__(f"{show(found)} is {what}; {hint}allowed: {allowed}")


_DIGITS = re.compile(r"[0-9]{1,10}")


def whole_number(what: str, low: int, high: int, found: object, *, quotes: bool = True) -> int:
    """Read a number. `quotes`: a text with digits may have been quoted, because it is not a part of another text."""
    if isinstance(found, int) and not isinstance(found, bool) and low <= found <= high:
        return found
    advice = meant.number(what, found)
    if isinstance(found, str) and _DIGITS.fullmatch(found) and low <= int(found) <= high:
        wrong = ["leading zeros"] if found.startswith("0") and found != "0" else []
        wrong += ["quotes"] if quotes else []
        advice = f"write {int(found)}, without {' or '.join(wrong)}"
    raise Unfit(found, f"not {what}", f"{low} to {high}", advice)


read_port = partial(whole_number, "a port", 1, 65535)


def _port_in_text(digits: str) -> int:
    return whole_number("a port", 1, 65535, digits_or_text(digits), quotes=False)


_HEXADECIMAL = re.compile(r"0[xX][0-9A-Fa-f]{1,8}")


def read_mark(high: int, found: object) -> int:
    """Read a firewall mark, which other tools show in hexadecimal."""
    if isinstance(found, str) and _HEXADECIMAL.fullmatch(found):
        found = int(found, 16)
    return whole_number("a firewall mark", 1, high, found)


def read_boolean(found: object) -> bool:
    if isinstance(found, bool):
        return found
    raise Unfit(found, "not a boolean", "true or false, without quotes", meant.boolean(found))


Word = TypeVar("Word", bound=StrEnum)


def read_word(words: type[Word], what: str, found: object) -> Word:
    if isinstance(found, str) or type(found) is int:  # a number, if the word consists of digits
        try:
            return words(str(found))
        except ValueError:
            pass
    raise Unfit(found, f"not {what}", ", ".join(words), meant.word(found, list(words)))


def read_text(pattern: TextPattern, found: object) -> str:
    """Read text that matches a pattern as a whole; a number is read as its digits, which YAML reads without loss."""
    if isinstance(found, int) and not isinstance(found, bool):
        found = str(found)
    if isinstance(found, str) and pattern.pattern.fullmatch(found):
        return found
    allowed = f"{pattern.allowed}; to mean the word, quote it" if isinstance(found, bool) else pattern.allowed
    raise Unfit(found, f"not {pattern.what}", allowed, meant.text(pattern, found))


_UNITS = {"ms": 1, "s": 1000, "m": 60_000, "h": 3_600_000}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h)")


def read_duration(low: Milliseconds, high: Milliseconds, found: object, *, whole_seconds: bool = False) -> Milliseconds:
    if found == 0 and low == 0 and found is not False:
        return 0
    match = _DURATION.fullmatch(found) if isinstance(found, str) else None
    if match is None:
        raise Unfit(found, "not a duration", DURATION, meant.duration(found))
    duration = int(match[1]) * _UNITS[match[2]]
    if not low <= duration <= high:
        longest = "24h" if high == DAY else f"{high // 60_000}m"
        raise Unfit(found, "too short" if duration < low else "too long", f"{shown_duration(low)} to {longest}")
    if whole_seconds and duration % 1000:
        raise Unfit(found, "not in whole seconds", "whole seconds, such as 30s, 5m or 1h")
    return duration


def shown_duration(duration: Milliseconds) -> str:
    """The duration as a user would write it, in seconds if possible."""
    return f"{duration}ms" if duration % 1000 else f"{duration // 1000}s"


_PERCENT = re.compile(r"(100|[0-9]{1,2})%")


def read_percent(found: object) -> int:
    match = _PERCENT.fullmatch(found) if isinstance(found, str) else None
    if match is None:
        raise Unfit(found, "not a share", "0% to 100%, in whole per cent", meant.percent(found))
    return int(match[1])


_SHARE = re.compile(r"(100|[1-9][0-9]?)%")
MOST_BACKENDS = 65535


def read_min_healthy(found: object) -> MinHealthy:
    """Read a number of backends, or a share of their weight."""
    if isinstance(found, str) and (match := _SHARE.fullmatch(found)):
        return MinHealthy(int(match[1]), percent=True)
    if isinstance(found, int) and not isinstance(found, bool) and 1 <= found <= MOST_BACKENDS:
        return MinHealthy(found)
    raise Unfit(
        found,
        "neither a number of backends nor a share",
        f"1 to {MOST_BACKENDS} without quotes, or 1% to 100% in whole per cent",
    )


_PREFIX = re.compile(r"source/([1-9][0-9]{0,2})(?:/([1-9][0-9]{0,2}))?")
_BYTES = re.compile(r"payload@([0-9]{1,4})\+([0-9]{1,4})")


def read_hash_key(found: object) -> HashKey:
    """Read a key of `balance: hash`."""
    if not isinstance(found, str):
        raise Unfit(found, "not a key", _KEYS)
    if found in KEY_WORDS:
        return KEY_WORDS[found]
    if match := _PREFIX.fullmatch(found):
        return _read_prefix_key(found, *(int(bits) for bits in match.groups() if bits))
    if match := _BYTES.fullmatch(found):
        offset, length = int(match[1]), int(match[2])
        if not 1 <= length <= MOST_BYTES or offset + length > LAST_BYTE:
            allowed = f"1 to {MOST_BYTES} bytes among the first {LAST_BYTE}, such as payload@4+8"
            raise Unfit(found, "not a part of the payload that rules can read", allowed)
        return payload_key(offset, length)
    if found == "sip-call-id":
        reason = "not a key: rules read bytes at fixed places, and the Call-ID of SIP may stand anywhere in a message"
        raise Unfit(found, reason, "source, which sends all calls of a client to the same backend")
    raise Unfit(found, "not a key", _KEYS, "" if "/" in found else meant.word(found, KEY_WORDS))


_KEYS = f"{', '.join(KEY_WORDS)}, source/24, source/24/56 (IPv4/IPv6), or payload@OFFSET+LENGTH in bytes"


def _read_prefix_key(found: str, first: int, *second: int) -> HashKey:
    limits = [ADDRESS_BITS[Family.IP], ADDRESS_BITS[Family.IP6]] if second else [ADDRESS_BITS[Family.IP6]]
    if any(bits > limit for bits, limit in zip((first, *second), limits, strict=True)):
        raise Unfit(found, "longer than an address", "up to 32 bits of an IPv4 address, up to 128 of an IPv6 address")
    return prefix_key(first, *second)


_RATE = re.compile(r"([1-9][0-9]{0,6})/(s|second|m|minute|h|hour)")
_PERIODS = {"s": 1, "m": 60, "h": 3600}
_MOST_PACKETS = 1_000_000


def read_rate(found: object) -> Rate:
    """Read a number of packets in a period."""
    match = _RATE.fullmatch(found) if isinstance(found, str) else None
    if match is None or int(match[1]) > _MOST_PACKETS:
        allowed = f"1 to {_MOST_PACKETS} packets in a second, minute or hour, such as 100/s or 5/m"
        raise Unfit(found, "not a rate", allowed, meant.rate(found))
    return Rate(int(match[1]), _PERIODS[match[2][0]])


_PER_SOURCE = re.compile(r"source(?:/([1-9][0-9]{0,2}))?")
_IPV4_BITS, _IPV6_BITS = 32, 128


def read_source_lengths(found: object) -> SourceLengths:
    """Read one length of a prefix, or a list of one length per family. Up to 32, the length is one of IPv4."""
    allowed = "source, source/1 to source/32 (IPv4), source/33 to source/128 (IPv6), or a list of one per family"
    given: dict[str, int] = {}
    for text in _one_per_family(found, "a kind of source", allowed):
        match = _PER_SOURCE.fullmatch(text) if isinstance(text, str) else None
        bits = int(match[1] or 0) if match else _IPV6_BITS + 1
        if bits > _IPV6_BITS:
            raise Unfit(text, "not a kind of source", allowed)
        key, name = ("ip", "IPv4") if bits <= _IPV4_BITS else ("ip6", "IPv6")
        if bits and key in given:
            raise Unfit(text, f"a second length for {name}", "one per family")
        if bits:
            given[key] = bits
    return SourceLengths(**given)


PREFIX = "an address or a prefix, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32"


def read_source_entry(found: object) -> SourceEntry:
    """Read an address, a prefix, or the path of a file."""
    if isinstance(found, str) and found.startswith("/"):
        return SourceEntry(read_text(PATH, found))
    if not isinstance(found, str):
        raise Unfit(found, "not a source", f"{PREFIX}, or the absolute path of a file")
    version, span = read_prefix(found, f"{PREFIX}, or the absolute path of a file")
    return SourceEntry(ip=(span,)) if version == 4 else SourceEntry(ip6=(span,))  # noqa: PLR2004


def read_prefix(text: str, allowed: str = PREFIX) -> tuple[int, tuple[int, int]]:
    """Read an address or a prefix: the version of IP, and the first and last address as numbers.

    A list may have a hundred thousand prefixes, and the classes of `ipaddress` would take five times as long.
    """
    address, slash, length = text.partition("/")
    version, size, family = (6, _IPV6_BITS, socket.AF_INET6) if ":" in address else (4, _IPV4_BITS, socket.AF_INET)
    try:
        first = int.from_bytes(socket.inet_pton(family, address), "big")
    except (OSError, ValueError):
        raise Unfit(text, "neither an address nor a prefix", allowed, meant.prefix(text)) from None
    bits = size
    if slash:
        if not _NUMBER.fullmatch(length) or int(length) > size:
            raise Unfit(text, "neither an address nor a prefix", f"a length from 0 to {size} behind the /")
        bits = int(length)
    last = first | (1 << size - bits) - 1
    if first >> size - bits << size - bits != first:
        start = (first >> size - bits << size - bits).to_bytes(size // 8, "big")
        raise Unfit(text, "a prefix with bits behind its length", f"{socket.inet_ntop(family, start)}/{bits}")
    return version, (first, last)


def read_address(
    found: object, allowed: str = "an IPv4 or IPv6 address, without port, brackets or leading zeros"
) -> IPAddress:
    """Read an address that a packet can be sent to."""
    if not isinstance(found, str):
        raise Unfit(found, "not an address", allowed)
    address: IPAddress
    try:
        if ":" in found:
            address = IPv6Address(found)
            reason = _unreachable_6(address)
        else:
            # inet_pton reads the same IPv4 addresses as `ipaddress`, in a third of the time.
            packed = inet_pton(AF_INET, found)
            address = IPv4Address(packed)
            reason = "a multicast address" if packed[0] in _MULTICAST else _SPECIAL.get(packed)
    except (OSError, ValueError):
        advice = meant.address(found, names=allowed.startswith("a host name"))
        raise Unfit(found, "not an address", allowed, advice) from None
    if reason:
        raise Unfit(found, reason, "a unicast address")
    return address


def read_server(found: object) -> IPAddress | str:
    """Read the address of a backend, or a host name whose addresses come from DNS."""
    if isinstance(found, str) and SERVER_NAME.pattern.fullmatch(found):
        return found
    return read_address(found, "a host name, or an IPv4 or IPv6 address without port, brackets or leading zeros")


_MULTICAST = range(224, 240)
"""The first bytes of multicast addresses."""
_SPECIAL = {bytes(4): "the unspecified address", b"\xff" * 4: "the broadcast address"}


def _unreachable_6(address: IPv6Address) -> str | None:
    if address.is_unspecified:
        return "the unspecified address"
    if address.is_multicast:
        return "a multicast address"
    if address.scope_id is not None:
        return "scoped to an interface"
    return "an IPv4-mapped address" if address.ipv4_mapped is not None else None


def split_port(text: str) -> tuple[str, str | None]:
    """Split `ADDRESS:PORT`, `[ADDRESS]:PORT` or a bare address; the port is None if there is none.

    Brackets belong to IPv6 addresses only: around anything else they stay, so that no reader accepts the text.
    """
    if text.startswith("["):
        address, bracket, rest = text[1:].partition("]")
        if not bracket or ":" not in address or (rest and not rest.startswith(":")):
            return text, None
        return address, rest[1:] if rest else None
    if text.count(":") == 1 and "://" not in text:
        address, _, port = text.partition(":")
        return address, port
    return text, None


def digits_or_text(text: str) -> int | str:
    """The number of a text of plain digits, so that a reader of numbers can check it; any other text stays."""
    return int(text) if _NUMBER.fullmatch(text) else text


_NUMBER = re.compile(r"0|[1-9][0-9]{0,9}")


def read_endpoint(found: object, allowed: str = ADDRESS_AND_PORT) -> Endpoint:
    address, port = split_port(found) if isinstance(found, str) else ("", None)
    if port is None:
        advice = meant.word(found, _FALLBACKS) if allowed is FALLBACK else ""
        raise Unfit(found, "not an address with a port", allowed, advice or meant.endpoint(found))
    return Endpoint(read_address(address, allowed), _port_in_text(port))


_DNS_PORT = 53


def read_dns_server(found: object) -> Endpoint:
    """Read the address of a DNS server, with its port if it is not 53. Unlike elsewhere, loopback addresses work."""
    allowed = "an address, or an address and a port, such as 10.0.0.53 or [2001:db8::53]:5353"
    address, port = split_port(found) if isinstance(found, str) else ("", None)
    if not isinstance(found, str):
        raise Unfit(found, "not an address", allowed)
    return Endpoint(read_address(address, allowed), _DNS_PORT if port is None else _port_in_text(port))


def read_listener(found: object) -> Listener:
    endpoint, _, protocol = found.rpartition("/") if isinstance(found, str) else ("", "", "")
    address, ports = split_port(endpoint)
    if ports is None or not address or _NO_LISTENER.search(str(found)) or meant.in_ascii(found):
        raise Unfit(found, "not a listener", LISTENER, meant.listener(found))
    first, dash, last = ports.partition("-")
    first_port = _port_in_text(first)
    last_port = _port_in_text(last) if dash else first_port
    if last_port < first_port:
        advice = f"write {last_port}-{first_port}"
        raise Unfit(ports, "not a range of ports", "the lower port first, such as 16384-16484", advice)
    place, host = _read_place(address)
    return Listener(place, first_port, last_port, read_word(Protocol, "a protocol", protocol), host)


_NO_LISTENER = re.compile(r"://|,|\s|/[A-Za-z]+[/+|&]")
_OTHER_PLACE = re.compile(r"[0-9.]*|[0-9]+\..*|.*:.*|.*\.[^0-9].*|localhost", re.IGNORECASE)
"""Texts that are rather a mistyped address or a host name than an interface. Behind a dot, interfaces of VLANs have a
number: eth0.100."""


_UNSPECIFIED = {str(address): address for address in UNSPECIFIED.values()}


def _read_place(text: str) -> tuple[IPAddress, str]:
    """Read what stands before the port of a listener: an address, or what stands for addresses of this host.

    Return the address and "", or else the unspecified address and the text.
    """
    if text in _UNSPECIFIED:
        return _UNSPECIFIED[text], text
    named = INTERFACE.pattern.fullmatch(text) and not _OTHER_PLACE.fullmatch(text)
    if text == ANY or named:
        return UNSPECIFIED[Family.IP], text
    return read_address(text, LISTENER), ""


def read_source_address(found: object) -> Source:
    if isinstance(found, str) and found in {SourceKind.MASQUERADE, SourceKind.KEEP}:
        return Source(SourceKind(found))
    allowed = "masquerade, keep, an address, or a list of one address per family"
    if advice := meant.word(found, [SourceKind.MASQUERADE, SourceKind.KEEP]):
        raise Unfit(found, "not a source", allowed, advice)
    return Source(SourceKind.ADDRESS, read_addresses(found, allowed))


def read_addresses(
    found: object, allowed: str = "an address, or a list of one address per family"
) -> tuple[IPAddress, ...]:
    """Read one address, or a list of one address per family."""
    addresses = tuple(read_address(text, allowed) for text in _one_per_family(found, "a source", allowed))
    _refuse_second_of_family(addresses)
    return addresses


_FALLBACKS = [str(FallbackKind.REJECT), str(FallbackKind.DROP), str(FallbackKind.ALL)]
FALLBACK = "reject, drop, all, an address:port, or a list of one address:port per family"


def read_fallback(found: object) -> Fallback:
    if isinstance(found, str) and found in _FALLBACKS:
        return Fallback(FallbackKind(found))
    sorry = tuple(read_endpoint(text, FALLBACK) for text in _one_per_family(found, "a fallback", FALLBACK))
    _refuse_second_of_family(tuple(endpoint.address for endpoint in sorry))
    return Fallback(FallbackKind.SORRY, sorry)


def _one_per_family(found: object, what: str, allowed: str) -> list[object]:
    if isinstance(found, str):
        return [found]
    if isinstance(found, list) and found:
        return found
    raise Unfit(found, f"not {what}", allowed)


def _refuse_second_of_family(addresses: tuple[IPAddress, ...]) -> None:
    versions = set()
    for address in addresses:
        if address.version in versions:
            raise Unfit(address, f"a second IPv{address.version} address", "one per family")
        versions.add(address.version)


def read_api_listen(found: object) -> Endpoint | UnixSocket:
    allowed = "address:port, such as 127.0.0.1:9146, or unix:/run/nftlb/api.sock"
    if isinstance(found, str) and found.startswith("unix:"):
        return UnixSocket(
            read_text(PATH._replace(what="a place for the API", allowed=allowed), found.removeprefix("unix:"))
        )
    address, port = split_port(found) if isinstance(found, str) else ("", None)
    if port is None:
        raise Unfit(found, "not a place for the API", allowed, meant.api_place(found))
    try:  # unlike elsewhere, 0.0.0.0 and :: are allowed: they mean all addresses of this host
        parsed = IPv6Address(address) if ":" in address else IPv4Address(address)
    except AddressValueError:
        raise Unfit(found, "not a place for the API", allowed, meant.api_place(found)) from None
    if is_link_local(parsed):
        raise Unfit(found, "a link-local address, which is valid on one interface only", allowed)
    return Endpoint(parsed, _port_in_text(port))


def read_regex(found: object) -> str:
    text = read_text(LINES._replace(what="a regular expression", allowed="text"), found)
    try:
        compiled(text)
    except BadPattern as error:
        raise Unfit(found, "not a regular expression", f"RE2's syntax ({error})") from None
    return text


def read_hex(found: object) -> bytes:
    allowed = 'pairs of hexadecimal digits, such as "00 ff" (quote them)'
    if not isinstance(found, str):
        raise Unfit(found, "not bytes in hexadecimal", allowed)
    try:
        return bytes.fromhex(found)
    except ValueError:
        raise Unfit(found, "not bytes in hexadecimal", allowed) from None


_STATUS = re.compile(r"([1-9][0-9]{2})(?:-([1-9][0-9]{2}))?")


def read_status_codes(found: object) -> tuple[int, int]:
    """Read a status code or a range of status codes, as the first and the last code."""
    match = _STATUS.fullmatch(str(found)) if isinstance(found, (int, str)) else None
    if match is None or int(match[2] or match[1]) < int(match[1]):
        allowed = "a status code or a range, such as 200 or 200-299"
        raise Unfit(found, "not a status", allowed, meant.status_codes(found))
    return int(match[1]), int(match[2] or match[1])
