"""Makes pools from drafts: changes what breaks a rule of nftlb's pools, and notes each change. No I/O."""

from __future__ import annotations

from collections import Counter, defaultdict
from dataclasses import dataclass, field
from ipaddress import IPV4LENGTH, IPv4Network
from math import gcd
from typing import TYPE_CHECKING, Any

from nftlb.model import Balance, Encap, Family, Forward, IPAddress, Listener, Protocol
from nftlb.model.kinds import endpoint_text, family, unforwarded

from .draft import ALL_PORTS
from .fit_checks import common_checks

if TYPE_CHECKING:
    from .draft import Check, Draft, DraftServer, Netmask

BALANCES = {
    "rr": Balance.ROUND_ROBIN,
    "wrr": Balance.ROUND_ROBIN,
    "sh": Balance.HASH,
    "mh": Balance.HASH,
    "dh": Balance.HASH,
    "twos": Balance.RANDOM,
}
COUNTING = {"lc", "wlc", "lblc", "lblcr", "sed", "nq", "fo", "ovf"}
"""Schedulers that count connections, or compare weights first. With BALANCES, these are all schedulers of LVS."""
SAME = {"rr", "wrr", "sh", "mh"}
HASHING = {"sh", "mh"}
"""The schedulers of LVS that have flags."""
BY_PORT = {"sh-port", "mh-port", "flag-2"}
"""The flag of a scheduler by which the client's port counts too. To LVS, the three words are one flag."""
BY_OTHERS = {"sh-fallback", "mh-fallback", "flag-1"}
"""The flag by which the packets of a server that can't serve go to another server, as they always do with nftlb."""
WITHOUT_WEIGHTS = {"rr", "lc"}
MOST_WEIGHT = 256


@dataclass
class UsedPorts:
    """The ports at which pools listen already; `wholes` are the addresses at which a pool has all other ports."""

    ports: dict[tuple[IPAddress, Protocol], set[int]] = field(default_factory=lambda: defaultdict(set))
    wholes: set[tuple[IPAddress, Protocol]] = field(default_factory=set)

    def claim(self, address: IPAddress, protocol: Protocol, port: int) -> bool:
        """Reserve a port; return whether it was free."""
        there = self.ports[address, protocol]
        if port in there:
            return False
        there.add(port)
        return True

    def overlaps(self, address: IPAddress, protocol: Protocol, ports: Ports) -> bool:
        """Whether a pool listens at one of these ports of an address."""
        if (address, protocol) in self.wholes:
            return True
        there = self.ports.get((address, protocol))
        return there is not None and ports.overlap(there)

    def claim_rest(self, address: IPAddress, protocol: Protocol) -> list[tuple[int, int]]:
        """Reserve all free ports of an address; return them as ranges."""
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
    """A set of ports: single ports, and a few ranges."""

    singles: frozenset[int]
    ranges: tuple[tuple[int, int], ...] = ()

    def overlap(self, others: set[int]) -> bool:
        between = (first <= port <= last for first, last in self.ranges for port in others)
        return not self.singles.isdisjoint(others) or any(between)


def _ports_by_family(listen: list[Listener]) -> dict[Family, Ports]:
    found = {}
    for version in {listener.family for listener in listen}:
        own = {(listener.first_port, listener.last_port) for listener in listen if listener.family is version}
        singles = frozenset(first for first, last in own if first == last)
        found[version] = Ports(singles, tuple(sorted((first, last) for first, last in own if first != last)))
    return found


@dataclass
class FittedPool:
    """A pool that fits the rules: its settings in order, notes on some settings, and the text of each server."""

    listen: list[Listener]
    servers: list[DraftServer]
    settings: dict[str, Any] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    backends: list[Any] = field(default_factory=list)
    health: list[Check] = field(default_factory=list)
    after: dict[str, Any] = field(default_factory=dict)
    """The settings to write after the backends."""


def free_listeners(draft: Draft, taken: UsedPorts, *, all_ports: bool) -> list[Listener]:
    """Return the listeners of single ports; or with `all_ports`, listeners at the ports that are still free."""
    found = []
    for wanted in draft.listen:
        if (wanted.ports == ALL_PORTS) is not all_ports:
            continue
        if reason := unforwarded(wanted.address):
            draft.notes.missing(wanted.line, f"{Listener(wanted.address, *wanted.ports, draft.protocol)}: {reason}")
            continue
        host = str(wanted.address) if wanted.address.is_unspecified else ""
        if host and draft.forward is Forward.DSR:
            what = "with dsr, each backend would need all addresses of this host"
            draft.notes.missing(wanted.line, f"{Listener(wanted.address, *wanted.ports, draft.protocol)}: {what}")
            continue
        if all_ports:
            free = taken.claim_rest(wanted.address, draft.protocol)
        else:
            free = [wanted.ports] if taken.claim(wanted.address, draft.protocol, wanted.ports[0]) else []
        found += [Listener(wanted.address, *ports, draft.protocol, host) for ports in free]
        if host and free:
            what = f"{host}: LVS balances packets to this address only; the pool listens on all addresses of this host"
            draft.notes.changed(wanted.line, what)
        if not free:
            listener = Listener(wanted.address, *wanted.ports, draft.protocol)
            draft.notes.missing(wanted.line, f"{listener}: a pool listens at this address and port already")
    return found


def fit_to_pool_rules(draft: Draft, listen: list[Listener], taken: UsedPorts) -> FittedPool | None:
    """Make a pool of a draft. None, with a remark, if it has no listener or no backend that nftlb can use.

    `taken` must have the listeners of all pools.
    """
    pool = FittedPool(listen, _servers(draft, listen, taken) if listen else [])
    if not pool.servers:
        what = "backend" if listen else "listener"
        draft.notes.missing(draft.line, f"{draft.written}: it has no {what} that nftlb can use")
        for server in draft.servers if not listen else ():
            draft.notes.missing(
                server.line, f"real server {server.where}: its service has no listener that nftlb can use"
            )
        return None
    _forward(draft, pool)
    balance = _balance(draft, pool)
    pool.health = common_checks(draft, pool.servers, _ports(pool))
    _quorum(draft, pool)
    _sorry(draft, pool, taken)
    _hooks(draft, pool)
    weights = _weights(draft, pool, balance)
    pool.backends = [_backend(draft, server, weight) for server, weight in zip(pool.servers, weights, strict=True)]
    return pool


def _servers(draft: Draft, listen: list[Listener], taken: UsedPorts) -> list[DraftServer]:
    ports = _ports_by_family(listen)
    kept: dict[tuple[str, int | None], DraftServer] = {}
    for server in draft.servers:
        # With dsr, packets keep their port, whatever port a real server has.
        port = None if draft.forward is Forward.DSR else server.port
        if family(server.address) not in ports:
            reason = "the pool has no listener of its family"
        elif (server.where.lower(), port) in kept:
            reason = "the pool has this backend already"
        else:
            reason = unforwarded(server.address) or _listener_there(draft, server.address, port, ports, taken)
        if reason:
            draft.notes.missing(server.line, f"real server {server.where}: {reason}")
        else:
            kept[server.where.lower(), port] = server
    return list(kept.values())


def _listener_there(
    draft: Draft, address: IPAddress, port: int | None, ports: dict[Family, Ports], taken: UsedPorts
) -> str:
    """Return the reason why a server can't be a backend: a listener has its address and port. Empty if none has."""
    if address.is_unspecified:  # a host name
        return ""
    where = ports[family(address)] if port is None else Ports(frozenset({port}))
    if taken.overlaps(address, draft.protocol, where):
        return "a listener has this address and port"
    return ""


def _ports(pool: FittedPool) -> set[int]:
    return {port for listener in pool.listen for port in (listener.first_port, listener.last_port)}


def _forward(draft: Draft, pool: FittedPool) -> None:
    if draft.forward is Forward.DSR:
        pool.settings["forward"] = "dsr"
        if draft.way.encap is not Encap.NONE:
            pool.settings["encap"] = str(draft.way.encap)
        ports = _ports(pool)
        for server in pool.servers:
            if server.port is not None and {server.port} != ports:
                server.notes.changed(
                    server.line, f"port {server.port}: with dsr packets keep their port, as with LVS's DR"
                )
    else:
        pool.settings["source"] = "keep"
        pool.notes["source"] = (
            "as LVS's NAT: backends see the clients' addresses, and must route replies through this host"
        )


def _balance(draft: Draft, pool: FittedPool) -> Balance:
    balance = BALANCES.get(draft.scheduler, Balance.ROUND_ROBIN)
    if draft.scheduler not in SAME:
        word = "hash uses the client's address" if balance is Balance.HASH else f"{balance} does not count connections"
        draft.notes.changed(draft.line, f"scheduler {draft.scheduler}: {word}")
    by_port = _flags(draft)
    if draft.persistent:
        balance = Balance.HASH
    udp = draft.protocol is Protocol.UDP
    if draft.forward is Forward.DSR and balance is not Balance.HASH and not (udp and draft.ops):
        # LVS chooses a server for each flow. By the address alone, all flows of a client would reach one server.
        balance, by_port = Balance.HASH, True
        unless = "; without `balance`, `key` and `per` every datagram is spread on its own" if udp else ""
        what = "balance: hash with key: source-port keeps each flow together, because dsr keeps no record of flows"
        draft.notes.changed(draft.line, f"{what}{unless}")
    pool.settings["balance"] = str(balance)
    pool.notes["balance"] = f"was {draft.scheduler}" + (", persistent" if draft.persistent else "")
    if draft.persistent and draft.netmask:
        _key(draft, draft.netmask, pool)
    if by_port:
        pool.settings["key"] = "source-port"
    if udp and not draft.ops:
        pool.settings["per"] = "flow"
        pool.notes["per"] = "as LVS without ops; packet, the default, spreads every datagram on its own"
    return balance


def _flags(draft: Draft) -> bool:
    """Return whether the flags of the scheduler let the client's port count; note the flags without a counterpart."""
    by_port = False
    for flags in draft.flags:
        known = {*BY_OTHERS, *(() if draft.persistent else BY_PORT)} if draft.scheduler in HASHING else set()
        by_port |= any(word in BY_PORT & known for word in flags.words)
        if left := [word for word in flags.words if word not in known]:
            some = "" if len(left) == len(flags.words) else f": {', '.join(left)}"
            draft.notes.missing(flags.line, f"{flags.written}{some}")
    return by_port


def _key(draft: Draft, netmask: Netmask, pool: FittedPool) -> None:
    """Count the addresses of a network as one client."""
    lengths = {_length(netmask.value, listener.address.max_prefixlen) for listener in draft.listen}
    length = lengths.pop() if len(lengths) == 1 else None
    if not length:
        draft.notes.missing(netmask.line, f"{netmask.written}: not the length of a part of these addresses")
    elif all(length < listener.address.max_prefixlen for listener in draft.listen):
        pool.settings["key"] = f"source/{length}"


def _length(netmask: str, longest: int) -> int | None:
    """Return how many bits a netmask leaves; None for other texts."""
    if netmask.isdecimal():
        return int(netmask) if int(netmask) <= longest else None
    try:
        return IPv4Network(f"0.0.0.0/{netmask}").prefixlen if longest == IPV4LENGTH else None
    except ValueError:
        return None


def _weights(draft: Draft, pool: FittedPool, balance: Balance) -> list[int]:
    """Scale weights to nftlb's highest weight, 256. A weight of 0 stays 0."""
    weights = [server.weight for server in pool.servers]
    if draft.scheduler in WITHOUT_WEIGHTS and balance is Balance.ROUND_ROBIN:
        if len(set(weights) - {0}) > 1:
            pool.notes["balance"] += ", which ignores weights"
        return [min(weight, 1) for weight in weights]
    if max(weights) > MOST_WEIGHT:
        divisor = gcd(*weights)
        weights = [weight // divisor for weight in weights]
        most = max(weights)
        if most > MOST_WEIGHT:
            weights = [max(round(weight * MOST_WEIGHT / most), min(weight, 1)) for weight in weights]
            draft.notes.changed(draft.line, f"weights are scaled down; allowed: 0 to {MOST_WEIGHT}")
    return weights


def _backend(draft: Draft, server: DraftServer, weight: int) -> Any:
    port = None if draft.forward is Forward.DSR else server.port
    if weight == 1:
        if port is None:
            return server.where
        return f"{server.host}:{port}" if server.host else endpoint_text(server.address, port)
    written: dict[str, Any] = {"address": server.where}
    if port is not None:
        written["port"] = port
    if weight == 0:
        # As in LVS: no new connections, but existing ones go on. All backends may drain; not all may have weight 0.
        return {**written, "admin": "drain"}
    return {**written, "weight": weight}


# --- quorum, sorry server, hooks --------------------------------------------------------------------------------------


def _quorum(draft: Draft, pool: FittedPool) -> None:
    """Translate the quorum: LVS counts weight, nftlb counts backends."""
    if draft.quorum == 1 and not draft.hysteresis:
        return
    # A drained server does not count, neither for LVS nor for nftlb.
    weights = [server.weight for server in pool.servers if server.weight] or [1] * len(pool.servers)
    count, total = len(weights), sum(weights)
    wanted = min(max(-(-draft.quorum * count // total), 1), count, 65535)
    beyond = min(draft.hysteresis * count // total, wanted - 1, count - wanted)
    if (wanted, beyond) != (draft.quorum, draft.hysteresis) or len(set(weights)) > 1:
        was = f"quorum {draft.quorum}, hysteresis {draft.hysteresis}"
        draft.notes.changed(
            draft.line, f"{was} count a weight of {total}; nftlb counts backends: {wanted} and {beyond} of {count}"
        )
    if wanted > 1:
        pool.after["quorum"] = wanted
    if beyond:
        pool.after["hysteresis"] = beyond
    if draft.sorry is not None:
        draft.notes.changed(draft.sorry.line, "the sorry server is used when no backend is up, not below the quorum")


def _sorry(draft: Draft, pool: FittedPool, taken: UsedPorts) -> None:
    sorry = draft.sorry
    if sorry is None:
        return
    ports = {
        port
        for listener in pool.listen
        if listener.family is family(sorry.address)
        for port in (listener.first_port, listener.last_port)
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
    elif reason := _listener_there(draft, sorry.address, port, _ports_by_family(pool.listen), taken):
        pass
    else:
        pool.after["fallback"] = endpoint_text(sorry.address, port)
        return
    draft.notes.missing(sorry.line, f"{sorry.word} {sorry.address}: {reason}")


def _hooks(draft: Draft, pool: FittedPool) -> None:
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
