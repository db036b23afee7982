"""Makes a draft obey the rules of a pool of ours; what that changes is noted. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from math import gcd
from typing import TYPE_CHECKING, Any

from nftlb.model import Balance, Family, Forward, IPAddress, Listener, Protocol
from nftlb.model.checks import CHECKS
from nftlb.model.kinds import endpoint_text, family, unforwarded

from .draft import ALL_PORTS
from .programs import forms
from .statements import shortened
from .yaml_text import flow

if TYPE_CHECKING:
    from .draft import Check, Draft, Server

BALANCES = {
    "rr": Balance.ROUND_ROBIN,
    "wrr": Balance.ROUND_ROBIN,
    "sh": Balance.HASH,
    "mh": Balance.HASH,
    "dh": Balance.HASH,
    "twos": Balance.RANDOM,
}
COUNTING = {"lc", "wlc", "lblc", "lblcr", "sed", "nq", "fo", "ovf"}
"""Those that count connections, or look at weights first. Anything else is no scheduler of LVS's."""
SAME = {"rr", "wrr", "sh", "mh"}
WITHOUT_WEIGHTS = {"rr", "lc"}
MOST_WEIGHT = 256


@dataclass
class Taken:
    """The ports that pools already listen on; and where some pool has all the rest."""

    ports: dict[tuple[IPAddress, Protocol], set[int]] = field(default_factory=lambda: defaultdict(set))
    wholes: set[tuple[IPAddress, Protocol]] = field(default_factory=set)

    def take(self, address: IPAddress, protocol: Protocol, port: int) -> bool:
        """Take a port, if it is free."""
        there = self.ports[address, protocol]
        if port in there:
            return False
        there.add(port)
        return True

    def listens(self, address: IPAddress, protocol: Protocol, ports: Ports) -> bool:
        """Whether some pool listens there on one of these ports."""
        if (address, protocol) in self.wholes:
            return True
        there = self.ports.get((address, protocol))
        return there is not None and ports.meet(there)

    def rest(self, address: IPAddress, protocol: Protocol) -> list[tuple[int, int]]:
        """Take all ports that are free; in ranges."""
        if (address, protocol) in self.wholes:
            return []
        self.wholes.add((address, protocol))
        low, last = ALL_PORTS
        free = []
        for port in sorted(self.ports[address, protocol]):
            free.append((low, port - 1))
            low = port + 1
        return [(first, end) for first, end in (*free, (low, last)) if first <= end]


@dataclass(frozen=True)
class Ports:
    """Ports that packets are for: single ones, and ranges, of which there are few."""

    singles: frozenset[int]
    ranges: tuple[tuple[int, int], ...] = ()

    def meet(self, others: set[int]) -> bool:
        between = (first <= port <= last for first, last in self.ranges for port in others)
        return not self.singles.isdisjoint(others) or any(between)


def _ports_by_family(listen: list[Listener]) -> dict[Family, Ports]:
    found = {}
    for one in {listener.family for listener in listen}:
        own = {(listener.first_port, listener.last_port) for listener in listen if listener.family is one}
        singles = frozenset(first for first, last in own if first == last)
        found[one] = Ports(singles, tuple(sorted((first, last) for first, last in own if first != last)))
    return found


@dataclass
class Settled:
    """A pool: its settings in their order, notes to some of them, and its servers, with what is written for each."""

    listen: list[Listener]
    servers: list[Server]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    backends: list[Any] = field(default_factory=list)
    health: list[Check] = field(default_factory=list)
    after: dict[str, Any] = field(default_factory=dict)
    """What stands after the backends."""


def listeners(draft: Draft, taken: Taken, *, all_ports: bool) -> list[Listener]:
    """Those of one port; or for all ports those of the ports that nobody else has."""
    found = []
    for one in draft.listen:
        if (one.ports == ALL_PORTS) is not all_ports:
            continue
        if reason := unforwarded(one.address):
            draft.notes.missing(one.line, f"{Listener(one.address, *one.ports, draft.protocol)}: {reason}")
            continue
        if all_ports:
            free = taken.rest(one.address, draft.protocol)
        else:
            free = [one.ports] if taken.take(one.address, draft.protocol, one.ports[0]) else []
        found += [Listener(one.address, *ports, draft.protocol) for ports in free]
        if not free:
            listener = Listener(one.address, *one.ports, draft.protocol)
            draft.notes.missing(one.line, f"{listener}: another pool, or this one, listens there already")
    return found


def settle(draft: Draft, listen: list[Listener], taken: Taken) -> Settled | None:
    """Make it a pool, where all pools listen where they do; None if nothing is left of it."""
    pool = Settled(listen, _servers(draft, listen, taken) if listen else [])
    if not pool.servers:
        what = "backend" if listen else "listener"
        draft.notes.missing(draft.line, f"{draft.written}: no {what} is left of it")
        for server in draft.servers if not listen else ():
            draft.notes.missing(server.line, f"real server {server.address}: no listener is left of its service")
        return None
    _forward(draft, pool)
    balance = _balance(draft, pool)
    _health(draft, pool)
    _quorum(draft, pool)
    _sorry(draft, pool, taken)
    _hooks(draft, pool)
    weights = _weights(draft, pool, balance)
    pool.backends = [_backend(draft, server, weight) for server, weight in zip(pool.servers, weights, strict=True)]
    return pool


def _servers(draft: Draft, listen: list[Listener], taken: Taken) -> list[Server]:
    ports = _ports_by_family(listen)
    kept: dict[tuple[IPAddress, int | None], Server] = {}
    for server in draft.servers:
        # In dsr packets keep their port, whatever a real server says.
        port = None if draft.forward is Forward.DSR else server.port
        if family(server.address) not in ports:
            reason = "the pool has no listener of its family"
        elif (server.address, port) in kept:
            reason = "it is there already"
        else:
            reason = unforwarded(server.address) or _balanced_again(draft, server.address, port, ports, taken)
        if reason:
            draft.notes.missing(server.line, f"real server {server.address}: {reason}")
        else:
            kept[server.address, port] = server
    return list(kept.values())


def _balanced_again(
    draft: Draft, address: IPAddress, port: int | None, ports: dict[Family, Ports], taken: Taken
) -> str:
    """Why nothing can be sent there: a listener is there, and nothing is balanced twice. Empty if none is."""
    where = ports[family(address)] if port is None else Ports(frozenset({port}))
    if taken.listens(address, draft.protocol, where):
        return "a listener is there, and nothing is balanced twice"
    return ""


def _ports(pool: Settled) -> set[int]:
    return {port for one in pool.listen for port in (one.first_port, one.last_port)}


def _forward(draft: Draft, pool: Settled) -> None:
    if draft.forward is Forward.DSR:
        pool.settings["forward"] = "dsr"
        ports = _ports(pool)
        for server in pool.servers:
            if server.port is not None and {server.port} != ports:
                server.notes.changed(server.line, f"port {server.port}: with dsr packets keep theirs, as with LVS's DR")
    else:
        pool.settings["source"] = "keep"
        pool.notes["source"] = "as LVS's NAT: backends see clients, and route replies through this host"


def _balance(draft: Draft, pool: Settled) -> Balance:
    balance = BALANCES.get(draft.scheduler, Balance.ROUND_ROBIN)
    if draft.scheduler not in SAME:
        word = "hash is of the client's address" if balance is Balance.HASH else f"{balance} counts no connections"
        draft.notes.changed(draft.line, f"scheduler {draft.scheduler}: {word}")
    if draft.persistent:
        balance = Balance.HASH
    udp = draft.protocol is Protocol.UDP
    if draft.forward is Forward.DSR and balance is not Balance.HASH and not (udp and draft.ops):
        balance = Balance.HASH
        unless = "; without `balance` and `per` every datagram is spread on its own" if udp else ""
        draft.notes.changed(
            draft.line, f"balance: hash keeps flows together with dsr, which keeps no record of them{unless}"
        )
    pool.settings["balance"] = str(balance)
    pool.notes["balance"] = f"was {draft.scheduler}" + (", persistent" if draft.persistent else "")
    if udp and not draft.ops:
        pool.settings["per"] = "flow"
        pool.notes["per"] = "as LVS without ops; packet, the default, spreads every datagram on its own"
    return balance


def _weights(draft: Draft, pool: Settled, balance: Balance) -> list[int]:
    """Ours go to 256; a server without weight keeps 0."""
    weights = [server.weight for server in pool.servers]
    if draft.scheduler in WITHOUT_WEIGHTS and balance is Balance.ROUND_ROBIN:
        if len(set(weights) - {0}) > 1:
            pool.notes["balance"] += ", which does not look at weights"
        return [min(weight, 1) for weight in weights]
    if max(weights) > MOST_WEIGHT:
        divisor = gcd(*weights)
        weights = [weight // divisor for weight in weights]
        most = max(weights)
        if most > MOST_WEIGHT:
            weights = [max(round(weight * MOST_WEIGHT / most), min(weight, 1)) for weight in weights]
            draft.notes.changed(draft.line, f"weights are scaled down; allowed: 0 to {MOST_WEIGHT}")
    return weights


def _backend(draft: Draft, server: Server, weight: int) -> Any:
    port = None if draft.forward is Forward.DSR else server.port
    if weight == 1:
        return str(server.address) if port is None else endpoint_text(server.address, port)
    written: dict[str, Any] = {"address": str(server.address)}
    if port is not None:
        written["port"] = port
    if weight == 0:
        # As in LVS: nothing new, while connections go on. All of a pool may be drained, but not all without weight.
        return {**written, "admin": "drain"}
    return {**written, "weight": weight}


# --- health -----------------------------------------------------------------------------------------------------------


def _health(draft: Draft, pool: Settled) -> None:
    """The checks that most servers have, be they written first or last: a pool has the same for all backends."""
    _name_by_variables(draft, pool)
    sets = [_Checks(server) for server in pool.servers]
    often = Counter(one.key for one in sets if one.key)
    if not often:
        return
    most = max(often, key=lambda key: (often[key], len(key), key))
    model = next(one.server for one in sets if one.key == most)
    differing = [one.server for one in sets if one.key != most]
    having = Counter(key for one in sets for key in set(one.key))
    kept = [check for check in model.checks if "exec" not in check or not differing or having[_written(check)] > 1]
    for server in differing:
        own, others = _told_apart(server.checks, model.checks)
        own = f"checks of {server.address} ({own}) differ from {others}"
        draft.notes.changed(server.line, f"{own} of {model.address}: a pool's are the same for all backends")
    if len(kept) < len(model.checks):
        draft.notes.missing(model.line, f"programs that check {model.address} alone: each backend has another")
    if any("exec" in check for check in kept):
        what = f"{draft.program}: a shell makes 2 of the program's exit status 1, which is a mere warning here"
        draft.notes.changed(model.line, what)
    pool.health = [check for check in (_ported(draft, pool, model, check) for check in kept) if check is not None]


class _Checks:
    """What a server is checked with; `key` is the same for the same checks in whatever order."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.key = tuple(sorted(map(_written, server.checks)))


def _written(check: Check) -> str:
    return flow(dict(sorted(check.items())))


def _name_by_variables(draft: Draft, pool: Settled) -> None:
    """Write programs with variables for what is the server's own: in the form that most servers have in common."""
    ports = _ports(pool)
    choices: list[tuple[Server, int, list[Check]]] = []
    often: Counter[str] = Counter()
    for server in pool.servers:
        port = server.port if draft.forward is not Forward.DSR or ports == {server.port} else None
        for index, check in enumerate(server.checks):
            if "exec" in check:
                ways = [{**check, "exec": one} for one in forms(check["exec"], server.address, port)]
                often.update(set(map(_written, ways)))
                choices.append((server, index, ways))
    for server, index, ways in choices:
        server.checks[index] = max(ways, key=lambda way: often[_written(way)])  # of equals the first


def _told_apart(ones: list[Check], others: list[Check]) -> tuple[str, str]:
    """Both in few words: their kinds, or where these are the same all that differs."""
    kinds = [", ".join(next(iter(check)) for check in checks) or "none" for checks in (ones, others)]
    if kinds[0] != kinds[1]:
        return kinds[0], kinds[1]
    pairs = [(one, other) for one, other in zip(ones, others, strict=True) if one != other]
    return _differing(pairs), _differing([(other, one) for one, other in pairs])


def _differing(pairs: list[tuple[Check, Check]]) -> str:
    return shortened(
        ", ".join(flow({key: one[key] for key in one if other.get(key) != one[key]}) for one, other in pairs)
    )


def _ported(draft: Draft, pool: Settled, model: Server, check: Check) -> Check | None:
    """See to it that there is one port to check."""
    kind = next(key for key in check if key in CHECKS)
    if "port" in check or not CHECKS[kind].needs_port:
        return check
    unclear = [one for one in pool.servers if draft.forward is Forward.DSR or one.port is None]
    checked = {one.port for one in pool.servers}
    if not unclear or (len(_ports(pool)) == 1 and checked <= {None, *_ports(pool)}):
        return check
    if len(checked) == 1 and model.port is not None:
        return {**check, "port": model.port}
    draft.notes.missing(model.line, f"check {kind}: its port is not clear; give `port` under health")
    return None


# --- quorum, sorry server, hooks --------------------------------------------------------------------------------------


def _quorum(draft: Draft, pool: Settled) -> None:
    """LVS's quorum is of weight, ours of backends."""
    if draft.quorum == 1 and not draft.hysteresis:
        return
    # Who is drained counts for nothing there, and here.
    weights = [server.weight for server in pool.servers if server.weight] or [1] * len(pool.servers)
    count, total = len(weights), sum(weights)
    wanted = min(max(-(-draft.quorum * count // total), 1), count, 65535)
    beyond = min(draft.hysteresis * count // total, wanted - 1, count - wanted)
    if (wanted, beyond) != (draft.quorum, draft.hysteresis) or len(set(weights)) > 1:
        was = f"quorum {draft.quorum}, hysteresis {draft.hysteresis}"
        draft.notes.changed(draft.line, f"{was} of weight {total}: {wanted} and {beyond} of {count} backends here")
    if wanted > 1:
        pool.after["quorum"] = wanted
    if beyond:
        pool.after["hysteresis"] = beyond
    if draft.sorry is not None:
        draft.notes.changed(draft.sorry.line, "the sorry server comes when no backend is left, not below the quorum")


def _sorry(draft: Draft, pool: Settled, taken: Taken) -> None:
    sorry = draft.sorry
    if sorry is None:
        return
    ports = {
        port for one in pool.listen if one.family is family(sorry.address) for port in (one.first_port, one.last_port)
    }
    port = min(ports) if len(ports) == 1 and (sorry.port is None or draft.forward is Forward.DSR) else sorry.port
    if reason := unforwarded(sorry.address):
        pass
    elif not ports:
        reason = "the pool has no listener of its family"
    elif port is None:
        reason = "it needs a port"
    elif draft.forward is Forward.DSR and (len(ports) > 1 or port not in ports):
        reason = "with dsr it would need the port of every listener"
    elif reason := _balanced_again(draft, sorry.address, port, _ports_by_family(pool.listen), taken):
        pass
    else:
        pool.after["fallback"] = endpoint_text(sorry.address, port)
        return
    draft.notes.missing(sorry.line, f"{sorry.word} {sorry.address}: {reason}")


def _hooks(draft: Draft, pool: Settled) -> None:
    hooks = {key: list(argv) for key, argv in draft.hooks.items() if argv}
    for key, scripts in (
        ("backend_up", [server.up for server in pool.servers]),
        ("backend_down", [server.down for server in pool.servers]),
    ):
        most, times = Counter(scripts).most_common(1)[0]
        if most and times == len(scripts):
            hooks[key] = list(most)
            continue
        for server, script in zip(pool.servers, scripts, strict=True):
            if script:
                server.notes.missing(server.line, f"{' '.join(script)}: a pool has one hook {key} for all its backends")
    if hooks:
        pool.after["hooks"] = hooks
