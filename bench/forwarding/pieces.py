"""The weights of tests/support/packet_cost.py: rules of few kinds of expressions, and what each kind adds. Pure.

Packets that no pool has pass the rules of a piece. What a piece adds to plain routing is a sum of weights, so the
weights are the solution of linear equations.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from cases import BACKEND_PORT, NOBODY, OTHER, OTHER_PORT, PORT, REQUEST, Case, address, service

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

TIMES = 10
"""The number of repetitions of an expression in most pieces."""
_TRACKING = """
chain nat-in { type nat hook prerouting priority dstnat; }
chain nat-out { type nat hook postrouting priority srcnat; }
chain never { ct state new
}
"""
"""NAT chains alone do not make the kernel track connections."""
_SETS = """
set four { type ipv4_addr; size 64; elements = { 192.0.2.1, 192.0.2.2 } }
set fixed { type ipv4_addr . inet_proto . inet_service; size 64; elements = { 192.0.2.1 . udp . 53 } }
set growing { type ipv4_addr . inet_proto . inet_service; elements = { 192.0.2.1 . udp . 53 } }
"""
_KEY = "ip daddr . meta l4proto . th dport"


@dataclass(frozen=True)
class Piece:
    """Rules, and how often a packet meets each kind of work there. `tables` is nft text."""

    name: str
    tables: str
    meets: Mapping[str, int] = field(default_factory=dict)
    packets: str = NOBODY


def _raw(name: str, rules: Sequence[str], meets: Mapping[str, int], more: str = "") -> Piece:
    """Return rules in a chain at prerouting, before conntrack."""
    chain = "\n".join(["chain raw {", "type filter hook prerouting priority raw;", *rules, "}"])
    return Piece(name, f"table ip pieces {{\n{_SETS}{more}\n{chain}\n}}", {"hook prerouting": 1, **meets})


def _row(name: str, expression: str, meets: Sequence[str]) -> Piece:
    """Return one rule that repeats an expression. `{n}` there is a number that grows, `{x}` in hexadecimal digits."""
    repeated = (expression.format(n=n, x=f"{n:02x}") for n in range(20, 20 + TIMES))
    return _raw(name, [" ".join(repeated)], {"rule": 1, **dict.fromkeys(meets, TIMES)})


def _device(name: str, rules: str, meets: Mapping[str, int]) -> Piece:
    chain = f"chain ingress {{\ntype filter hook ingress device c0 priority 0;\n{rules}\n}}"
    return Piece(name, f"table netdev pieces {{\n{chain}\n}}", {"hook ingress": 1, **meets})


def _gotos() -> Piece:
    chains = "\n".join(f"chain c{n} {{ goto c{n + 1}\n}}" for n in reversed(range(1, TIMES)))
    last = f"chain c{TIMES} {{ }}\n"
    work = dict.fromkeys(("rule", "immediate", "goto"), TIMES)
    return _raw("gotos", ["goto c1"], work, last + chains)


PIECES = (
    _raw("hook-prerouting", [], {}),
    Piece(
        "hook-postrouting",
        "table ip pieces {\nchain out { type filter hook postrouting priority raw;\n}\n}",
        {"hook postrouting": 1},
    ),
    _device("hook-ingress", "", {}),
    _raw(
        "rules",
        [f"ip daddr != 192.0.2.{n}" for n in range(TIMES)],
        dict.fromkeys(("rule", "load", "compare"), TIMES),
    ),
    _row("compares", "@nh,128,32 != 0xc00002{x}", ("load", "compare")),
    _row("slow-loads", "@nh,32,128 != 0xc00002{x}", ("slow load", "compare")),
    _row("metas", "meta l4proto != {n}", ("meta", "compare")),
    _row("masks", "@nh,128,32 & 0xffffff00 != 0xc000{x}00", ("load", "mask", "compare")),
    _row("slow-compares", "@nh,64,8 > {n}", ("load", "slow compare")),
    _row("look-ups-of-4-bytes", "ip daddr != @four", ("load", "look up 4 bytes")),
    _raw(
        "look-ups",
        [" ".join([f"{_KEY} != @fixed"] * TIMES)],
        {"rule": 1, "load": 2 * TIMES, "meta": TIMES, "look up": TIMES},
    ),
    _raw(
        "look-ups-growing",
        [" ".join([f"{_KEY} != @growing"] * TIMES)],
        {"rule": 1, "load": 2 * TIMES, "meta": TIMES, "look up, growing": TIMES},
    ),
    _row("numgens", "numgen inc mod 1000000000 != {n}", ("numgen", "compare")),
    _row("hashes", "jhash ip saddr mod 1000000000 seed 0x1 != {n}", ("load", "jhash", "compare")),
    _row("counters", "counter", ("counter",)),
    _raw("verdicts", ["continue"] * TIMES, dict.fromkeys(("rule", "immediate"), TIMES)),
    _gotos(),
    _row("addresses-written", f"ip daddr set {OTHER}", ("immediate", "write address")),
    _raw(
        "ports-written",
        [f"meta l4proto udp {' '.join([f'udp dport set {OTHER_PORT}'] * TIMES)}"],
        {"rule": 1, "meta": 1, "compare": 1, "immediate": TIMES, "write port": TIMES},
    ),
    _row("marks", "meta mark set {n}", ("immediate", "set mark")),
    _row("fibs", "fib daddr type != local", ("fib", "compare")),
    _raw(
        "updates",
        [
            " ".join(
                ["update @sources { ip saddr timeout 10s limit rate 1000000/second burst 1000000 packets }"] * TIMES
            )
        ],
        {"rule": 1, "load": TIMES, "update": TIMES},
        "set sources { type ipv4_addr; size 65536; flags dynamic,timeout; }",
    ),
    _raw("copies", [f'dup to {OTHER} device "b1"'], {"rule": 1, "immediate": 2, "dup": 1}),
    _raw("notrack", ["notrack"], {"rule": 1, "notrack": 1}),
    Piece("defragment", "table ip pieces { chain never { meta l4proto udp tproxy to :1\n}\n}", {"defragment": 1}),
    Piece("conntrack", f"table ip pieces {{{_TRACKING}}}", {"defragment": 1, "conntrack": 1}),
    _raw(
        "zone",
        ["ct original zone set 1"],
        {"rule": 1, "immediate": 1, "set zone": 1, "defragment": 1, "conntrack": 1},
        _TRACKING,
    ),
    Piece(
        "connections",
        f"table ip pieces {{{_TRACKING}\nchain seen {{ type filter hook prerouting priority mangle;\n"
        + " ".join(f"ct original zone != {n}" for n in range(20, 20 + TIMES))
        + "\n}\n}",
        {"hook prerouting": 1, "rule": 1, "ct": TIMES, "compare": TIMES, "defragment": 1, "conntrack": 1},
    ),
    Piece(
        "translation",
        "table ip pieces {\nchain nat-in { type nat hook prerouting priority dstnat;\n"
        f"ip daddr {service(0)} udp dport {PORT} dnat to {address(0)}:{BACKEND_PORT}\n}}\n"
        "chain nat-out { type nat hook postrouting priority srcnat; masquerade\n}\n}",
        {"defragment": 1, "conntrack": 1, "translate": 2},
        REQUEST,
    ),
    _device("fwd", f"fwd ip to {address(0)} device b1", {"rule": 1, "immediate": 2, "fwd": 1}),
)


def cases() -> list[Case]:
    """Return the base lines and the pieces as cases."""
    target = {NOBODY: (OTHER, OTHER_PORT), REQUEST: (address(0), BACKEND_PORT)}
    found = [Case("routing", packets, target=target[packets]) for packets in (NOBODY, REQUEST)]
    for piece in PIECES:
        found.append(Case(piece.name, piece.packets, nft=piece.tables))
        if piece.packets == REQUEST:
            found[-1].target = (service(0), PORT)
    return found


def weights(added: Mapping[str, float]) -> dict[str, float]:
    """Return the nanoseconds of each kind of work, from the nanoseconds that each piece adds."""
    kinds = list(dict.fromkeys(kind for piece in PIECES for kind in piece.meets))
    rows = [[float(piece.meets.get(kind, 0)) for kind in kinds] + [added[piece.name]] for piece in PIECES]
    # A load and a comparison never come alone; both are inline, so each gets half.
    rows.append([{"load": 1.0, "compare": -1.0}.get(kind, 0.0) for kind in kinds] + [0.0])
    return dict(zip(kinds, _solve(rows), strict=True))


def _solve(rows: list[list[float]]) -> list[float]:
    """Return the solution of linear equations by Gauss and Jordan. A row has the factors, then the sum."""
    for column in range(len(rows)):
        pivot = max(range(column, len(rows)), key=lambda row: abs(rows[row][column]))
        rows[column], rows[pivot] = rows[pivot], rows[column]
        rows[column] = [value / rows[column][column] for value in rows[column]]
        for row in range(len(rows)):
            if row != column:
                factor = rows[row][column]
                rows[row] = [value - factor * other for value, other in zip(rows[row], rows[column], strict=True)]
    return [row[-1] for row in rows]
