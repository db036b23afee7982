"""The combinations of mode, service address, ports and client, and their known limits. No I/O here.

`test_combinations.py` tries each with packets; "What works where" in docs/packets.md is written from the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from textwrap import wrap
from typing import TYPE_CHECKING

from lab_parameters import offload_id

if TYPE_CHECKING:
    from collections.abc import Collection

VERSIONS = (4, 6)


class Way(StrEnum):
    """A mode with the relevant options, as in docs/packets.md."""

    MASQUERADE = "nat"
    ADDRESS = "nat, source: ADDRESS"
    KEEP = "nat, source: keep"
    FLOW = "nat, per: flow"
    STATELESS = "stateless"
    STATELESS_INGRESS = "stateless, ingress"
    STATELESS_HAIRPIN = "stateless, hairpin: true"
    STATELESS_INGRESS_HAIRPIN = "stateless, ingress, hairpin: true"
    STATELESS_EARLY = "stateless, replies: prerouting"
    STATELESS_INGRESS_EARLY = "stateless, ingress, replies: prerouting"
    STATELESS_HAIRPIN_EARLY = "stateless, hairpin: true, replies: prerouting"
    DSR = "dsr"
    DSR_INGRESS = "dsr, ingress"

    @property
    def forward(self) -> str:
        return self.value.partition(",")[0]

    @property
    def ingress(self) -> bool:
        return "ingress" in self.value

    @property
    def hairpin(self) -> bool:
        return "hairpin" in self.value

    @property
    def early(self) -> bool:
        """Whether replies are rewritten in prerouting."""
        return "replies" in self.value


STATELESS = frozenset(way for way in Way if way.forward == "stateless")
EARLY = frozenset(way for way in Way if way.early)
HAIRPIN = frozenset(way for way in Way if way.hairpin)
DSR = frozenset(way for way in Way if way.forward == "dsr")
SOURCE_CHANGES = frozenset({Way.MASQUERADE, Way.ADDRESS, Way.FLOW})


class Place(StrEnum):
    """The place of the service's address."""

    LOOPBACK = "loopback"
    FRONT = "the interface to clients"
    BACK = "the interface to a backend"
    ONLY = "the host's one interface"
    ABSENT = "not on the host"


class Ports(StrEnum):
    """The ports at which the service listens."""

    ONE = "one port"
    TRANSLATED = "one port, another at the backends"
    NARROW = "a narrow range"
    WIDE = "a wide range"

    @property
    def listened(self) -> str:
        return {Ports.NARROW: "33000-33099", Ports.WIDE: "16384-65000"}.get(self, "123")

    @property
    def asked(self) -> int:
        """The port of requests to the service. A wide range also covers most of the ephemeral range."""
        return {Ports.NARROW: 33000, Ports.WIDE: 20000}.get(self, 123)

    @property
    def at_backends(self) -> int:
        return 5353 if self is Ports.TRANSLATED else self.asked

    @property
    def other(self) -> int:
        """A client's port that differs from the requested port. The ranges include it."""
        return 33050

    @property
    def everywhere(self) -> bool:
        """Whether this is tried with the service's address in all places; otherwise in two."""
        return self in (Ports.ONE, Ports.WIDE)


class Who(StrEnum):
    """The sender of the datagrams."""

    ELSEWHERE = "client elsewhere"
    BALANCER = "client on the balancer"
    BACKEND = "client on a backend"
    ASKED = "client to which the balancer has just sent a request"
    OWN = "the balancer's own requests"
    CHECK = "health checks"


class From(StrEnum):
    """The source port of the datagrams."""

    SAME = "the service's port"
    OTHER = "another port"


@dataclass(frozen=True)
class Cell:
    """One combination of mode, service address, ports and client."""

    way: Way
    place: Place
    ports: Ports
    who: Who
    source: From
    version: int
    offload: bool = True

    def __str__(self) -> str:
        offload = () if self.offload else (offload_id(False),)
        words = (self.way, f"address: {self.place}", self.ports, self.who, f"from {self.source}", f"IPv{self.version}")
        return " | ".join((*words, *offload))

    @property
    def source_port(self) -> int:
        return self.ports.asked if self.source is From.SAME else self.ports.other

    @property
    def serves_there(self) -> bool:
        """Whether the backends serve at the source port of the datagrams."""
        match self.ports:
            case Ports.TRANSLATED:
                return False
            case Ports.ONE:
                return self.source is From.SAME
            case _:
                return True


@dataclass(frozen=True)
class Limit:
    """Cells that can't work, why, and the command (`explain` or `doctor`) that reports it with these words."""

    reason: str
    ways: Collection[Way]
    who: Collection[Who] = tuple(Who)
    places: Collection[Place] = tuple(Place)
    versions: Collection[int] = VERSIONS
    serving: bool = False
    """Only datagrams whose source port is a port of the backends."""
    storm: bool = False
    """Servers that reply to all datagrams, replies too, reply to each other without end."""
    explain: str = ""
    doctor: str = ""

    def holds(self, cell: Cell) -> bool:
        return (
            cell.way in self.ways
            and cell.who in self.who
            and cell.place in self.places
            and cell.version in self.versions
            and (cell.serves_there or not self.serving)
        )


LIMITS = (
    Limit(
        "Packets of the balancer itself are not balanced in `stateless` and `dsr`, because they would keep their "
        "former route.",
        ways=STATELESS | DSR,
        who={Who.BALANCER},
        explain="not balanced",
    ),
    Limit(
        "A backend of a `stateless` pool sends requests to the service from the port at which it serves. Without "
        "conntrack, rules can't distinguish its requests from its replies. The other backends see the service as their "
        "client, and reply to the service. Servers that reply to every datagram then reply to each other without end. "
        "Send such requests from another port, or use `replies: prerouting`.",
        ways=STATELESS - EARLY,
        who={Who.BACKEND},
        serving=True,
        storm=True,
        explain="sends from a port at which it serves",
    ),
    Limit(
        "If the turn of a packet is the backend that sent the packet, the packet returns with the backend's own "
        "address as the source, and is lost. `hairpin: true` solves this.",
        ways=STATELESS - HAIRPIN,
        who={Who.BACKEND},
        storm=True,
        explain="Use `hairpin: true`",
    ),
    Limit(
        "With `dsr`, each backend has the service's address, so a backend that sends a request to the service replies "
        "to itself.",
        ways=DSR,
        who={Who.BACKEND},
        explain="answers itself",
    ),
    Limit(
        "With `dsr`, the backends have the service's address. If the balancer has no other address in the network of "
        "the backends, they don't reply to its ARP requests.",
        ways=DSR,
        places={Place.BACK},
        versions={4},
        doctor="which backends of `forward: dsr` hold themselves",
    ),
    Limit(
        "With `dsr`, a backend sends replies to checks from the service's address to itself.",
        ways=DSR,
        who={Who.CHECK},
        places={Place.BACK},
        doctor="which backends of `forward: dsr` hold themselves",
    ),
)


def limit_of(cell: Cell) -> Limit | None:
    """The first limit that applies to a cell."""
    return next((limit for limit in LIMITS if limit.holds(cell)), None)


def cells() -> list[Cell]:
    """All cells, ordered by lab and ruleset."""
    return [
        Cell(way, place, ports, who, source, version, offload)
        for of_lab in (SOURCE_CHANGES | {Way.KEEP} | STATELESS, DSR)
        for offload in (True, False)
        for place in Place
        for way in Way
        if way in of_lab and (place is not Place.ONLY or way in SOURCE_CHANGES)
        for ports in Ports
        if _is_tried(way, place, ports, offload=offload)
        for who in Who
        for source in _sources(who)
        for version in VERSIONS
    ]


def _is_tried(way: Way, place: Place, ports: Ports, *, offload: bool) -> bool:
    if ports is Ports.TRANSLATED and way in DSR:
        return False
    sample = place is (Place.FRONT if way in DSR else Place.BACK)
    if not offload:
        return sample and ports is not Ports.NARROW
    return ports.everywhere or sample or place is Place.LOOPBACK


def _sources(who: Who) -> tuple[From, ...]:
    match who:
        case Who.CHECK:
            return (From.OTHER,)
        case Who.ASKED:
            return (From.SAME,)
        case _:
            return tuple(From)


# --- the table in the documents ---------------------------------------------------------------------------------------


def document() -> str:
    """The table for docs/packets.md, and its notes."""
    lines = [
        f"| mode | address | {' | '.join(Who)} |",
        f"|---|---|{'---|' * len(Who)}",
    ]
    tried = cells()
    for way in Way:
        for place in dict.fromkeys(cell.place for cell in tried if cell.way is way):
            words = [
                _outcome([cell for cell in tried if (cell.way, cell.place, cell.who) == (way, place, who)])
                for who in Who
            ]
            lines.append(f"| `{way}` | {place} | {' | '.join(words)} |")
    lines.append("")
    for number, limit in enumerate(LIMITS, 1):
        command = "doctor" if limit.doctor else "explain"
        lines += wrap(f"{number}. {limit.reason} `nftlb {command}` shows this.", 130, subsequent_indent="   ")
    return "".join(f"{line}\n" for line in lines)


def _outcome(field: list[Cell]) -> str:
    """The text of one field: `yes`, or the working cases and the numbers of the notes."""
    found = [(cell, limit_of(cell)) for cell in field]
    notes = sorted({LIMITS.index(limit) + 1 for _, limit in found if limit})
    if not notes:
        return "yes"
    works = [version for version in VERSIONS if any(cell.version == version and not limit for cell, limit in found)]
    answer = {0: "no", 1: "IPv6 only", 2: "in part"}[len(works)]
    return f"{answer} ({', '.join(map(str, notes))})"
