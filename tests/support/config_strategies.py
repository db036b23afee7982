"""Hypothesis strategies: configurations, valid ones only, and states of their backends."""

from __future__ import annotations

import json
from itertools import cycle, islice
from typing import Any

from hypothesis import reject
from hypothesis import strategies as st

from nftlb.config import parse_config
from nftlb.config.reading import read_listener
from nftlb.errors import ConfigError
from nftlb.model import Admin, BackendState, Config, Listener, Membership

Document = dict[str, Any]

INTERFACES = ("eth0", "eth1.7")
PORTS = ("53", "54", "5353", "100-200", "150-250", "201-201", "30000-40000")
VIPS = {4: ("192.0.2.53", "192.0.2.54"), 6: ("[2001:db8::53]", "[2001:db8::]")}
POOLS = ("a", "b.c", "D-e", "f_9")
GUARDS: tuple[Document, ...] = (
    {"rate": "100/s"},
    {"rate": "5/m", "ban": "60s", "per": ["source/24", "source/64"], "clients": True},
    {"deny": ["203.0.113.0/24", "2001:db8:66::/48"], "allow": ["198.51.100.0/24", "198.51.101.7"], "rate": "100/s"},
    {"deny": ["203.0.113.0/24", "203.0.113.7", "203.0.114.0/24"]},
)
"""Guards that let the packets of the tests pass."""
FORWARDS = ("nat", "nat", "stateless", "dsr")


def _listen(draw: st.DrawFn) -> list[str]:
    versions = draw(st.sampled_from(((4,), (4,), (6,), (4, 6))))
    count = draw(st.integers(len(versions), len(versions) + 2))
    protocols = st.sampled_from(("udp", "udp", "udp", "tcp", "sctp"))
    return [
        f"{draw(st.sampled_from(VIPS[version]))}:{draw(st.sampled_from(PORTS))}/{draw(protocols)}"
        for version in islice(cycle(versions), count)
    ]


def _without_overlaps(listen: list[str], taken: list[Listener]) -> list[str]:
    """Return the listeners that overlap no listener in `taken`, and add them to it."""
    free = []
    for text in listen:
        listener = read_listener(text)
        if not any(_overlap(listener, other) for other in taken):
            taken.append(listener)
            free.append(text)
    return free


def _overlap(listener: Listener, other: Listener) -> bool:
    same = (listener.address, listener.protocol) == (other.address, other.protocol)
    return same and listener.first_port <= other.last_port and other.first_port <= listener.last_port


def _address(version: int, net: int, host: int) -> str:
    return f"10.0.{net}.{host}" if version == 4 else f"2001:db8:{net}::{host}"


def _endpoint(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _backends(draw: st.DrawFn, versions: list[int], *, net: int, ports: list[int | None], near: bool) -> Document:
    count = draw(st.integers(len(versions), len(versions) + 2))
    names = draw(st.permutations(("ns1", "ns2", "3", "x.y", "Z_-")))
    hosts = draw(st.permutations((11, 12, 13, 14, 14)))
    found: Document = {}
    for index in range(count):
        version = versions[index % len(versions)]
        backend: Document = {"address": _address(version, net, hosts[index])}
        if port := draw(st.sampled_from(ports)):
            backend["port"] = port
        backend["weight"] = draw(st.integers(0 if index >= len(versions) else 1, 3))
        backend["priority"] = draw(st.sampled_from((1, 1, 1, 2, 0)))
        backend["admin"] = draw(st.sampled_from((*["enabled"] * 5, "drain", "maintenance")))
        if near:
            backend["device"] = "eth1"
            if draw(st.booleans()):
                backend["via"] = "10.0.99.1" if version == 4 else "fe80::1"
        found[names[index]] = backend
    return found


def _add_copies(draw: st.DrawFn, pool: Document, versions: list[int], number: int) -> None:
    """Add collectors and `templates` to some of the pools that can have them."""
    if not any(listener.endswith("/udp") for listener in pool["listen"]):
        return
    ranged = any("-" in listener.rpartition(":")[2] for listener in pool["listen"])
    if draw(st.booleans()) and "device" not in next(iter(pool["backends"].values())):
        collectors = {}
        for name, version in zip(("archive", "6.x"), versions, strict=False):
            collectors[name] = {"address": _address(version, 95, number + 1), "one_in": draw(st.sampled_from((1, 10)))}
            if not ranged:
                collectors[name]["port"] = draw(st.sampled_from((53, 9995)))
        pool["mirror"] = collectors
    by_nat = pool["forward"] == "nat"
    possible = pool.get("per") != "flow" and (not by_nat or pool["source"] == "keep")
    if possible and not (by_nat and ranged and any("port" in one for one in pool["backends"].values())):
        pool |= draw(st.sampled_from(({}, {"templates": "all"})))


@st.composite
def pools(draw: st.DrawFn, name: str, listen: list[str] | None = None) -> Document:
    """Draw a pool. The number in its name gives pools without conntrack different servers."""
    number = POOLS.index(name)
    listen = listen or _listen(draw)
    versions = sorted({6 if listener.startswith("[") else 4 for listener in listen})
    forward = draw(st.sampled_from(FORWARDS))
    ingress = forward != "nat" and draw(st.booleans())
    flows = not all(listener.endswith("/udp") for listener in listen)
    with_port = forward == "nat" or (forward == "stateless" and not any("-" in listener for listener in listen))
    near, net = ingress, 0 if forward == "nat" else number + 1
    backends = _backends(draw, versions, net=net, ports=[None, 53, 5353] if with_port else [None], near=near)
    pool: Document = {
        "listen": listen,
        "forward": forward,
        "balance": "hash" if forward != "nat" and flows else draw(st.sampled_from(("round-robin", "random", "hash"))),
        "backends": backends,
        "min_healthy": "60%" if len({one["priority"] for one in backends.values()}) > len(versions) else 1,
        "panic": draw(st.sampled_from(("0%", "0%", "60%"))),
        "fallback": draw(st.sampled_from(("reject", "drop", "all"))),
        "guard": draw(st.sampled_from((None, None, *GUARDS))),
    }
    if forward == "nat":
        # By default, hints of refusals are asked for where there are a UDP listener and a health check.
        passive = (
            draw(st.sampled_from((None, True, False)))
            if any(listener.endswith("/udp") for listener in listen)
            else False
        )
        if passive is not None:
            pool["passive"] = passive
        if passive is not False:
            pool["health"] = {"icmp": {}}
        pool["per"] = draw(st.sampled_from(("packet", "packet", "flow")))
        if pool["per"] == "flow" and any(listener.endswith("/udp") for listener in listen):
            pool["session_timeout"] = draw(st.sampled_from(("1s", "5m")))
            if not flows and not any("-" in listener for listener in listen) and number == 0:
                pool["helper"] = "tftp"
        pool["source"] = draw(st.sampled_from(("masquerade", "keep", "address")))
        if pool["source"] == "address":
            pool["source"] = [{4: "10.0.0.2", 6: "2001:db8::2"}[version] for version in versions]
    if with_port and draw(st.sampled_from((False, False, True))):
        addresses = [_address(version, 90 + number, 99) for version in versions]
        pool["fallback"] = [_endpoint(address, draw(st.sampled_from((53, 8053)))) for address in addresses]
    if forward == "stateless":
        pool["hairpin"] = draw(st.booleans())
        pool["replies"] = draw(st.sampled_from(("postrouting", "prerouting")))
    _add_copies(draw, pool, versions, number)
    if ingress:
        pool["ingress"] = draw(st.lists(st.sampled_from(INTERFACES), min_size=1, unique=True))
    return pool


@st.composite
def documents(draw: st.DrawFn, most: int = 3) -> Document:
    """Draw the pools of a file that the loader accepts."""
    names = draw(st.lists(st.sampled_from(POOLS), min_size=1, max_size=most, unique=True))
    return _settled({name: draw(pools(name)) for name in names})


@st.composite
def changed(draw: st.DrawFn, before: Document) -> Document:
    """Draw similar pools, as after a reload."""
    names = list(before)
    after = {name: before[name] for name in draw(st.permutations(names))}
    name = draw(st.sampled_from(names))
    match draw(st.sampled_from(("pool", "pool", "guard", "backends", "exchange", "listener", "more", "less"))):
        case "pool":
            after[name] = draw(pools(name, before[name]["listen"]))
        case "guard":
            after[name] = {**before[name], "guard": draw(st.sampled_from((None, *GUARDS)))}
        case "backends":
            other = draw(pools(name, before[name]["listen"]))
            if other["forward"] == before[name]["forward"]:
                after[name] = {**before[name], "backends": other["backends"]}
        case "exchange":
            other_name = draw(st.sampled_from(POOLS))
            body = after.pop(name)
            if other_name in after:
                after[name] = after[other_name]
            after[other_name] = body
        case "listener":
            after[name] = {**before[name], "listen": [*before[name]["listen"][1:], *_listen(draw)[:1]]}
        case "more":
            new = draw(st.sampled_from(POOLS))
            after = {new: draw(pools(new)), **after}
        case "less" if len(names) > 1:
            del after[name]
    return _settled(after)


def _settled(document: Document) -> Document:
    """Remove listeners that overlap earlier listeners. Reject what the loader refuses otherwise."""
    taken: list[Listener] = []
    settled = {name: {**pool, "listen": _without_overlaps(pool["listen"], taken)} for name, pool in document.items()}
    try:
        load(settled)
    except ConfigError:
        reject()
    return settled


def load(document: Document) -> Config:
    return parse_config(json.dumps({"pools": document}))


def configs(most: int = 3) -> st.SearchStrategy[Config]:
    """Draw a whole configuration that the loader accepts."""
    return documents(most).map(load)


@st.composite
def memberships(draw: st.DrawFn, config: Config) -> Membership:
    """Draw states of some of the backends and collectors."""
    states = st.builds(
        BackendState,
        up=st.booleans(),
        admin=st.sampled_from((None, None, Admin.DRAIN, Admin.ENABLED)),
        weight=st.sampled_from((None, None, 0, 1, 2)),
        priority=st.sampled_from((None, None, 1, 2)),
        waiting=st.sampled_from((False, False, True)),
    )
    found = {}
    for pool in config.pools:
        names = [*(backend.name for backend in pool.backends), *(collector.name for collector in pool.mirror)]
        chosen = draw(st.lists(st.sampled_from(names), max_size=2, unique=True))
        found[pool.name] = frozenset((name, draw(states)) for name in chosen)
    return Membership(found)
