"""Which combinations of mode, service address, ports and client there are, and what can't be right. No I/O here.

`test_combinations.py` tries each with packets; "What works where" in docs/packets.md is written from the same values.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from textwrap import wrap
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

VERSIONS = (4, 6)


class Way(StrEnum):
    """A mode with the options that matter here, as docs/packets.md writes it."""

    MASQUERADE = "nat"
    ADDRESS = "nat, source: ADDRESS"
    KEEP = "nat, source: keep"
    FLOW = "nat, per: flow"
    STATELESS = "stateless"
    STATELESS_INGRESS = "stateless, ingress"
    STATELESS_HAIRPIN = "stateless, hairpin: true"
    STATELESS_INGRESS_HAIRPIN = "stateless, ingress, hairpin: true"
    DSR = "dsr"
    DSR_INGRESS = "dsr, ingress"

    @property
    def forward(self) -> str:
        return self.value.partition(",")[0]

    @property
    def ingress(self) -> bool:
        return self in (Way.STATELESS_INGRESS, Way.STATELESS_INGRESS_HAIRPIN, Way.DSR_INGRESS)

    @property
    def hairpin(self) -> bool:
        return self in (Way.STATELESS_HAIRPIN, Way.STATELESS_INGRESS_HAIRPIN)


STATELESS = frozenset(way for way in Way if way.forward == "stateless")
DSR = frozenset(way for way in Way if way.forward == "dsr")
SOURCE_CHANGES = frozenset({Way.MASQUERADE, Way.ADDRESS, Way.FLOW})


class Place(StrEnum):
    """Where the service's address is."""

    LOOPBACK = "loopback"
    FRONT = "the interface to clients"
    BACK = "the interface to a backend"
    ONLY = "the host's one interface"
    ABSENT = "not on the host"


class Ports(StrEnum):
    """What the service listens at."""

    ONE = "one port"
    TRANSLATED = "one port, another at the backends"
    NARROW = "a narrow range"
    WIDE = "a wide range"

    @property
    def listened(self) -> str:
        return {Ports.NARROW: "33000-33099", Ports.WIDE: "16384-65000"}.get(self, "123")

    @property
    def asked(self) -> int:
        """The port at which the service is asked here. A wide range covers most of the ephemeral range, too."""
        return {Ports.NARROW: 33000, Ports.WIDE: 20000}.get(self, 123)

    @property
    def at_backends(self) -> int:
        return 5353 if self is Ports.TRANSLATED else self.asked

    @property
    def other(self) -> int:
        """A client's port that is not the one asked. The ranges have it."""
        return 33050

    @property
    def everywhere(self) -> bool:
        """Whether this is tried with the service's address in each place; else in two."""
        return self in (Ports.ONE, Ports.WIDE)


class Who(StrEnum):
    """Whose datagrams they are."""

    ELSEWHERE = "client elsewhere"
    BALANCER = "client on the balancer"
    BACKEND = "client on a backend"
    ASKED = "client that the balancer has just asked"
    QUESTION = "the balancer's own questions"
    CHECK = "health checks"


class From(StrEnum):
    """The port that they are sent from."""

    SAME = "the service's port"
    OTHER = "another port"


@dataclass(frozen=True)
class Cell:
    """One combination."""

    way: Way
    place: Place
    ports: Ports
    who: Who
    source: From
    version: int
    offload: bool = True

    def __str__(self) -> str:
        offload = () if self.offload else ("no checksum offload",)
        words = (self.way, f"address: {self.place}", self.ports, self.who, f"from {self.source}", f"IPv{self.version}")
        return " | ".join((*words, *offload))

    @property
    def source_port(self) -> int:
        return self.ports.asked if self.source is From.SAME else self.ports.other

    @property
    def serves_there(self) -> bool:
        """Whether the backends serve at the port that the datagrams are sent from."""
        match self.ports:
            case Ports.TRANSLATED:
                return False
            case Ports.ONE:
                return self.source is From.SAME
            case _:
                return True


@dataclass(frozen=True)
class Limit:
    """Cells that can't be right, why not, and which command says so: in `explain` or `doctor`, with these words."""

    reason: str
    ways: Collection[Way]
    who: Collection[Who] = tuple(Who)
    places: Collection[Place] = tuple(Place)
    versions: Collection[int] = VERSIONS
    serving: bool = False
    """Only datagrams that are sent from a port at which the backends serve."""
    storm: bool = False
    """Servers that answer whatever comes, answers too, answer each other for ever."""
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
        "What the balancer itself sends is not balanced in `stateless` and `dsr`: it would keep the route that it had "
        "before.",
        ways=STATELESS | DSR,
        who={Who.BALANCER},
        explain="not balanced",
    ),
    Limit(
        "A backend of a `stateless` pool that asks the service from a port at which it serves: without conntrack, "
        "nothing tells its requests from its replies. Other backends see the service as their client, and answer that; "
        "servers that answer whatever comes then answer each other for ever. Let it ask from another port.",
        ways=STATELESS,
        who={Who.BACKEND},
        serving=True,
        storm=True,
        explain="sends from a port at which it serves",
    ),
    Limit(
        "A packet that falls to the backend that sent it comes back with the backend's own address as its source, and "
        "is lost. `hairpin: true` makes it right.",
        ways=STATELESS - {Way.STATELESS_HAIRPIN, Way.STATELESS_INGRESS_HAIRPIN},
        who={Who.BACKEND},
        storm=True,
        explain="With `hairpin: true`",
    ),
    Limit(
        "With `dsr` every backend holds the service's address, so a backend that asks the service answers itself.",
        ways=DSR,
        who={Who.BACKEND},
        explain="answers itself",
    ),
    Limit(
        "With `dsr` the backends hold the service's address. When the balancer has no other address towards them, they "
        "don't answer its questions for their hardware address (ARP).",
        ways=DSR,
        places={Place.BACK},
        versions={4},
        doctor="which backends of `forward: dsr` hold themselves",
    ),
    Limit(
        "With `dsr`, checks that leave from the service's address are answered to the backend itself.",
        ways=DSR,
        who={Who.CHECK},
        places={Place.BACK},
        doctor="which backends of `forward: dsr` hold themselves",
    ),
)


def limit_of(cell: Cell) -> Limit | None:
    """The first limit that holds for a cell."""
    return next((one for one in LIMITS if one.holds(cell)), None)


def cells() -> list[Cell]:
    """All of them, those of one lab and one ruleset next to each other."""
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


# --- what the documents say -------------------------------------------------------------------------------------------


def document() -> str:
    """The table for docs/packets.md, and its notes."""
    lines = [
        f"| mode | address | {' | '.join(Who)} |",
        f"|---|---|{'---|' * len(Who)}",
    ]
    tried = cells()
    for way in Way:
        for place in dict.fromkeys(one.place for one in tried if one.way is way):
            words = [
                _outcome([one for one in tried if (one.way, one.place, one.who) == (way, place, who)]) for who in Who
            ]
            lines.append(f"| `{way}` | {place} | {' | '.join(words)} |")
    lines.append("")
    for number, one in enumerate(LIMITS, 1):
        command = "doctor" if one.doctor else "explain"
        lines += wrap(f"{number}. {one.reason} `nftlb {command}` says so.", 118, subsequent_indent="   ")
    return "".join(f"{line}\n" for line in lines)


def _outcome(of: list[Cell]) -> str:
    """What a person reads in one field of the table: `yes`, or what works and the numbers of the notes on it."""
    found = [(one, limit_of(one)) for one in of]
    notes = sorted({LIMITS.index(limit) + 1 for _, limit in found if limit})
    if not notes:
        return "yes"
    works = [version for version in VERSIONS if any(one.version == version and not limit for one, limit in found)]
    answer = {0: "no", 1: "IPv6 only", 2: "in part"}[len(works)]
    return f"{answer} ({', '.join(map(str, notes))})"
