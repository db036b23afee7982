"""Parses the text of rules to statements. It knows exactly the words that nftlb writes, and refuses all others."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import NoReturn, TypeAlias

_TOKEN = re.compile(r'"[^"]*"|[{},]|@[^\s{},:]+|[^\s{},]+')
_PORTS = re.compile(r":(\d+)-(\d+)")
_FIELDS = (
    "ip frag-off & 0x3fff",
    "ct original zone",
    "ct direction",
    "ct state",
    "ct protocol",
    "fib daddr type",
    "fib saddr . iif oif",
    "oif",
    "meta l4proto",
    "meta mark",
    "meta pkttype",
    *(f"{ip} {name}" for ip in ("ip", "ip6") for name in ("saddr", "daddr")),
    *("ip ttl", "ip protocol", "ip6 hoplimit", "ip6 nexthdr", "th sport", "th dport"),
    *(f"{protocol} {name}" for protocol in ("udp", "tcp", "sctp") for name in ("sport", "dport")),
    "udp checksum",
    *(f"{icmp} {name}" for icmp in ("icmp", "icmpv6") for name in ("type", "code")),
    "iif",
    "oif",
)


class Unreadable(Exception):  # noqa: N818 - it is about a rule
    """A rule has words that the tracer does not know. Extend the tracer: it must not guess."""


@dataclass(frozen=True)
class Named:
    """A set or map by its name."""

    name: str


@dataclass(frozen=True)
class Inline:
    """A set or map that is part of its rule; a set has no data."""

    elements: tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class Fields:
    """A concatenation of fields of the packet or of its metadata."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Number:
    """`numgen inc`, `numgen random` or `jhash FIELD . FIELD`: a number below `modulus`."""

    kind: str
    modulus: int
    fields: tuple[str, ...] = ()


@dataclass(frozen=True)
class Mapped:
    """The data of a map for a key. If the map has no such key, the rule does not match."""

    key: Fields | Number
    map: Named | Inline


@dataclass(frozen=True)
class Match:
    fields: Fields | Number
    operator: str
    value: str | Named | Inline


@dataclass(frozen=True)
class Put:
    """Sets a field to a number or to the data of a map."""

    field: str
    value: str | Mapped


@dataclass(frozen=True)
class Nat:
    """`dnat`, `snat` or `masquerade`, to one of `ports` if there are any; without a `value` the address stays."""

    kind: str
    value: str | Mapped = ""
    ports: range = range(0)


@dataclass(frozen=True)
class Verdict:
    """`accept`, `drop`, `return`, `goto CHAIN`, `jump CHAIN`, or the verdict in a map."""

    value: str | Mapped


@dataclass(frozen=True)
class Reject:
    how: str


@dataclass(frozen=True)
class Send:
    """`fwd`: sends the packet out at once, past all other hooks."""

    via: str
    device: str


@dataclass(frozen=True)
class Plain:
    """`counter`, `notrack`, `tproxy`, `log`, `dup`, `ct timeout`, `ct helper`, or a `limit` that is never reached.

    Also `update`, which puts the source of the packet into a set; no source is above its limit here. `over` is a limit
    that only packets above it match.
    """

    word: str


Statement: TypeAlias = Match | Put | Nat | Verdict | Reject | Send | Plain


@lru_cache(maxsize=4096)
def read_rule(text: str) -> tuple[Statement, ...]:
    """Return the statements of a rule in order, without the comment."""
    reader = _Reader(text)
    statements = []
    while reader.peek():
        if reader.take("comment"):
            reader.next()
        else:
            statements.append(reader.statement())
    return tuple(statements)


@lru_cache(maxsize=4096)
def read_verdict(text: str) -> Verdict:
    """Parse a verdict as an element of a map has it."""
    statements = read_rule(text)
    match statements:
        case (Verdict() as verdict,):
            return verdict
    raise Unreadable(text)


_WORDS = {"counter": Plain, "notrack": Plain, "accept": Verdict, "drop": Verdict, "return": Verdict}


class _Reader:
    def __init__(self, text: str) -> None:
        self.text = text
        self.tokens: list[str] = _TOKEN.findall(text)
        self.at = 0

    def statement(self) -> Statement:  # noqa: C901, PLR0911, PLR0912 - a table of words
        for word, make in _WORDS.items():
            if self.take(word):
                return make(word)  # type: ignore[return-value]
        if self.take("masquerade"):
            return Nat("masquerade", ports=self.ports() if self.take("to") else range(0))
        if self.take("tproxy to :1"):
            return Plain("tproxy")
        for word in ("ct timeout", "ct helper"):
            if self.take(f"{word} set"):
                self.next()
                return Plain(word)
        if self.take("dup to"):
            self.next()
            if self.take("device"):
                self.next()
            return Plain("dup")
        if self.take("log prefix"):
            return self.log()
        if self.take("update") or self.take("add"):
            while self.next() != "}":
                pass
            return Plain("update")
        if self.take("limit rate over"):
            self.limit()
            return Plain("over")
        if self.take("limit rate"):
            return self.limit()
        if self.take("reject"):
            return Reject("tcp reset" if self.take("with tcp reset") else "")
        for word in ("goto", "jump"):
            if self.take(word):
                return Verdict(f"{word} {self.next()}")
        for kind in ("dnat", "snat"):
            if self.take(f"{kind} to") or self.take(f"{kind} ip to") or self.take(f"{kind} ip6 to"):
                return Nat(kind, "" if _PORTS.fullmatch(self.peek()) else self.value(), self.ports())
        if self.take("fwd ip to") or self.take("fwd ip6 to"):
            return self.send()
        return self.about_fields()

    def log(self) -> Plain:
        self.next()
        self.after("group")
        self.after("snaplen")
        return Plain("log")

    def limit(self) -> Plain:
        while self.next() != "packets":
            pass
        return Plain("limit")

    def send(self) -> Send:
        via = self.next()
        if not self.take("device"):
            self.refuse()
        return Send(via, self.next().strip('"'))

    def about_fields(self) -> Statement:
        key = self.key()
        if self.take("vmap"):
            return Verdict(Mapped(key, self.map()))
        if isinstance(key, Number):
            return Match(key, "!=" if self.take("!=") else "==", self.next())
        if self.take("set"):
            return Put(" . ".join(key.names), self.value())
        operator = next((word for word in ("!=", "==", ">=", ">", "<") if self.take(word)), "==")
        if self.peek()[:1] in ("{", "@"):
            return Match(key, operator, self.map())
        return Match(key, operator, self.next())

    def value(self) -> str | Mapped:
        key = self.key_if_any()
        if key is None:
            return self.next()
        if not self.take("map"):
            self.refuse()
        return Mapped(key, self.map())

    def ports(self) -> range:
        """Parse the ports that come next; empty if there are none."""
        found = _PORTS.fullmatch(self.peek())
        if found is None:
            return range(0)
        self.next()
        return range(int(found[1]), int(found[2]) + 1)

    def key(self) -> Fields | Number:
        return self.key_if_any() or self.refuse()

    def key_if_any(self) -> Fields | Number | None:
        for kind in ("numgen inc", "numgen random"):
            if self.take(kind):
                return Number(kind, self.after("mod"))
        if self.take("jhash"):
            hashed = self.names()
            number = Number("jhash", self.after("mod"), hashed)
            self.after("seed")
            return number
        names = self.names()
        return Fields(names) if names else None

    def names(self) -> tuple[str, ...]:
        """Parse fields with dots between them; empty if no field comes next."""
        names = []
        while field := self.field():
            names.append(field)
            if not self.take("."):
                return tuple(names)
        return () if not names else self.refuse()

    def field(self) -> str:
        name = next((name for name in _FIELDS if self.take(name)), "")
        return f"{name} & {self.next()}" if name and self.take("&") else name or self.raw()

    def raw(self) -> str:
        """Parse bits of a header, `@nh,128,32` or `@nh,48,32 & 0x3fff00ff`."""
        if self.peek() not in ("@nh", "@th"):
            return ""
        words = [self.next() for _ in range(5)]
        return "".join(words) + (f" & {self.next()}" if self.take("&") else "")

    def map(self) -> Named | Inline:
        word = self.next()
        if word.startswith("@"):
            return Named(word[1:])
        if word != "{":
            self.refuse()
        elements = []
        while word != "}":
            element = []
            while (word := self.next()) not in (",", "}"):
                element.append(word)
            key, _, data = " ".join(element).partition(" : ")
            elements.append((key, data))
        return Inline(tuple(elements))

    def after(self, word: str) -> int:
        if not self.take(word):
            self.refuse()
        return int(self.next(), 0)

    def take(self, words: str) -> bool:
        """Skip these words if they come next; return whether they did."""
        expected = words.split(" ")
        if self.tokens[self.at : self.at + len(expected)] != expected:
            return False
        self.at += len(expected)
        return True

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def next(self) -> str:
        if self.at == len(self.tokens):
            self.refuse()
        self.at += 1
        return self.tokens[self.at - 1]

    def refuse(self) -> NoReturn:
        raise Unreadable(f"{self.text}\n  from here on: {' '.join(self.tokens[self.at :]) or 'its end'}")
