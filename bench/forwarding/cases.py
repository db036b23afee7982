"""The ways of forwarding that are compared, and what each needs on the balancer. Pure.

The network is that of the kit (its script lab.sh): interfaces c0 to the client 10.1.0.2, and b1, b2, b3 to three hosts.
Each host has the addresses of a third of the backends. Pool number N listens on a separate address in 10.0.0.0/16,
port 53; its backends have port 5300 + N (with direct server return, port 53).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.compiler import Compiled
from nftlb.config import parse_config
from nftlb.kernel.tunnels import Tunnel
from nftlb.model import Encap
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Iterator

CLIENT = "10.1.0.2"
OTHER, OTHER_PORT, COLLECTOR_PORT = "10.3.0.2", 9999, 9995
"""The destination of packets that no pool has, behind the first host."""
PORT, BACKEND_PORT = 53, 5300
HOSTS = 3
REQUEST, REPLY, NOBODY = "request", "reply", "nobody"


@dataclass(frozen=True)
class Setting:
    """A comparison: the size of the configuration, and the packets that are sent."""

    pools: int = 1
    backends: int = 3
    flows: int = 1
    bytes: int = 64
    packets: str = REQUEST

    def __str__(self) -> str:
        return f"{self.packets}-{self.pools}x{self.backends}-{self.flows}-flows-{self.bytes}-bytes"

    @property
    def pool(self) -> int:
        """The pool that gets the packets: the middle pool, which linear rules find after half of all pools."""
        return self.pools // 2


@dataclass
class Case:
    """The rules on the balancer, and the packets to send. Texts are input of nft -f, ipvsadm -R and other programs."""

    name: str
    packets: str
    nft: str = ""
    ipvsadm: str = ""
    iptables: str = ""
    ip: str = ""
    sysctl: str = ""
    """A setting of the balancer, `NAME=VALUE`."""
    target: tuple[str, int] = (OTHER, OTHER_PORT)
    servers: tuple[tuple[int, str, int], ...] = ()
    """The number of the host, address and port of each backend that sends replies."""
    copies: bool = False
    """Whether the balancer sends copies to the collector, in addition to the datagrams that are counted."""


_MIRROR = f"mirror: {{archive: '{OTHER}:{COLLECTOR_PORT}'}}"
STANDARD = {
    "nat": "forward: nat",
    "nat-keep": "forward: nat, source: keep",
    "stateless": "forward: stateless",
    "stateless-early": "forward: stateless, replies: prerouting",
    "stateless-ingress": "forward: stateless, ingress: c0",
    "dsr": "forward: dsr",
    "dsr-ingress": "forward: dsr, ingress: c0",
}
"""The settings of a pool in each mode, without options that cost something."""
WITH_OPTIONS = {
    "dsr-encap": "forward: dsr, encap: ipip",
    "dsr-ingress-encap": "forward: dsr, encap: ipip, ingress: c0",
    "nat-guard": "forward: nat, guard: {rate: 1000000/s}",
    "stateless-ingress-guard": "forward: stateless, ingress: c0, guard: {rate: 1000000/s}",
    "nat-hash": "forward: nat, balance: hash",
    "stateless-hash-payload": "forward: stateless, balance: hash, key: payload@4+8",
    "stateless-ingress-hash-payload": "forward: stateless, ingress: c0, balance: hash, key: payload@4+8",
    "nat-mirror": f"forward: nat, {_MIRROR}",
    "stateless-mirror": f"forward: stateless, {_MIRROR}",
    "nat-count-replies": "forward: nat, count_replies: true",
    "stateless-count-replies": "forward: stateless, count_replies: true",
    "nat-outbound": "forward: nat, outbound: true",
    "nat-passive": "forward: nat, passive: replies",
    "nat-keep-templates": "forward: nat, source: keep, templates: all",
    "stateless-templates": "forward: stateless, templates: all",
    "stateless-ingress-templates": "forward: stateless, ingress: c0, templates: all",
    "nat-priority": "forward: nat",
    "stateless-ingress-priority": "forward: stateless, ingress: c0",
    "nat-flow": "forward: nat, per: flow",
    "nat-flow-session-timeout": "forward: nat, per: flow, session_timeout: 30s",
}
"""The settings of a pool with options. A way has the name of its mode first.

`priority` gives the pool another backend, which waits. `nat-flow` is the way without an option for `session_timeout`.
"""
MODES = STANDARD | WITH_OPTIONS
OTHERS = ("routing", "tracked", "ipvs", "ipvs-ops", "ipvs-ops-replyfix", "iptables-statistic", "naive-numgen")
"""`tracked` is plain routing on a host that tracks all connections and has NAT chains without rules."""
TRACKING = """
table ip other {
  chain in { type nat hook prerouting priority dstnat; }
  chain out { type nat hook postrouting priority srcnat; }
  chain never { ct state new
  }
}
"""
"""Chains alone do not make the kernel track connections. An expression for it does, even if no packet gets there."""
DIRECT = ("routing", "tracked")
"""The client sends to a backend's own address."""
NAMES = (*OTHERS, *MODES)
BESIDE_OTHERS = (*OTHERS, *STANDARD)
"""The ways of most tables."""
BESIDE_MODES = ("nat", "nat-keep", "stateless", "stateless-ingress", "dsr", "dsr-ingress", *WITH_OPTIONS)
"""The ways of the tables of options: each option, and the modes without options."""
REFERENCES = ("routing", "ipvs-ops")
"""Each comparison has these cases, with requests: costs are relative to what `ipvs-ops` adds to `routing`."""


def cases(setting: Setting, names: tuple[str, ...]) -> list[Case]:
    """Return the references, then the other cases."""
    found = [_case(name, setting, REQUEST) for name in REFERENCES]
    for name in ("routing", *names):
        # Replies do not pass the balancer with direct server return.
        if (setting.packets, name) not in {(case.packets, case.name) for case in found} and not (
            setting.packets == REPLY and name.startswith("dsr")
        ):
            found.append(_case(name, setting, setting.packets))
    return found


def service(pool: int) -> str:
    return f"10.0.{pool // 250}.{pool % 250 + 1}"


def host(backend: int) -> int:
    return backend % HOSTS + 1


def address(backend: int) -> str:
    return f"10.2.{host(backend)}.{backend // HOSTS + 2}"


def _port(mode: str, pool: int) -> int:
    """The port of a service: with `outbound`, that of its backends."""
    return BACKEND_PORT + pool if "outbound" in mode else PORT


def _names_devices(mode: str) -> bool:
    """Whether backends have the interface that leads to them. With a tunnel, the routes of the host lead to them."""
    return ("ingress" in mode or mode == "dsr") and "encap" not in mode


def configuration(setting: Setting, mode: str) -> str:
    """Return the configuration file of a mode."""
    lines = ["pools:"]
    for pool in range(setting.pools):
        lines += [
            f"  p{pool}:",
            f"    {{listen: '{service(pool)}:{_port(mode, pool)}/udp', {MODES[mode]}, backends: {{",
        ]
        waiting = 1 if mode.endswith("priority") else 0
        for backend in range(setting.backends + waiting):
            port = "" if mode.startswith("dsr") else f", port: {BACKEND_PORT + pool}"
            device = f", device: b{host(backend)}" if _names_devices(mode) else ""
            priority = ", priority: 2" if backend == setting.backends else ""
            lines.append(f"      b{backend}: {{address: {address(backend)}{port}{device}{priority}}},")
        lines.append("    }}")
    return "\n".join(lines)


def _case(name: str, setting: Setting, packets: str) -> Case:
    case = Case(name, packets, copies="mirror" in name)
    if packets != NOBODY:
        direct = (address(0), BACKEND_PORT + setting.pool)
        case.target = direct if name in DIRECT else (service(setting.pool), _port(name, setting.pool))
    if packets == REPLY:
        numbers = range(1 if name in DIRECT else setting.backends)
        case.servers = tuple((host(backend), address(backend), BACKEND_PORT + setting.pool) for backend in numbers)
    if name in MODES:
        compiled = Compiled(parse_config(configuration(setting, name), f"{name}.yaml"))
        case.nft = file_text(compiled.ruleset())
        case.ip = "\n".join(_policy_routing(compiled))
        if name == "stateless-early":
            # Replies have a local source when they are routed.
            case.sysctl = "net.ipv4.conf.all.accept_local=1"
    elif name.startswith("ipvs"):
        case.ipvsadm = "\n".join(_ipvs(setting, "" if name == "ipvs" else " --ops"))
        case.nft = _replies_fixed(setting) if name == "ipvs-ops-replyfix" else ""
    elif name == "iptables-statistic":
        case.iptables = "\n".join(_statistic(setting))
    elif name == "naive-numgen":
        case.nft = _naive(setting)
    elif name == "tracked":
        case.nft = TRACKING
    return case


def _policy_routing(compiled: Compiled) -> Iterator[str]:
    """Yield the commands of `ip` for backends with a mark, as the daemon sets them."""
    hops = compiled.steered()
    for tunnel in {Tunnel(hop.device, hop.encap, hop.via) for hop in hops.values() if hop.encap is not Encap.NONE}:
        yield tunnel.command.removeprefix("ip ")
    for mark, hop in hops.items():
        via = f"via {hop.via} " if hop.encap is Encap.NONE else ""
        yield f"route add default {via}dev {hop.device} table {mark}"
        yield f"rule add pref 0 fwmark {mark} lookup {mark}"
    if hops:
        yield "rule add pref 0 lookup local protocol 110"
        yield "rule del pref 0 lookup local protocol kernel"


def _ipvs(setting: Setting, flags: str) -> Iterator[str]:
    for pool in range(setting.pools):
        yield f"-A -u {service(pool)}:{PORT} -s rr{flags}"
        for backend in range(setting.backends):
            yield f"-a -u {service(pool)}:{PORT} -r {address(backend)}:{BACKEND_PORT + pool} -m"


def _replies_fixed(setting: Setting) -> str:
    """Return rules that give replies of IPVS --ops, which has forgotten the request, the source of the service."""
    sources = ", ".join(address(backend) for backend in range(setting.backends))
    match = f'oifname "c0" ip saddr {{ {sources} }}'
    if setting.pools == 1:
        rule = f"{match} udp sport {BACKEND_PORT} ip saddr set {service(0)} udp sport set {PORT}"
    else:
        pools = ", ".join(f"{BACKEND_PORT + pool} : {service(pool)}" for pool in range(setting.pools))
        rule = f"{match} ip saddr set udp sport map {{ {pools} }} udp sport set {PORT}"
    return _chain("filter", "postrouting", "mangle", [rule])


def _naive(setting: Setting) -> str:
    rules = []
    for pool in range(setting.pools):
        slots = ", ".join(f"{n} : {address(n)} . {BACKEND_PORT + pool}" for n in range(setting.backends))
        target = f"dnat to numgen inc mod {setting.backends} map {{ {slots} }}"
        rules.append(f"ip daddr {service(pool)} udp dport {PORT} {target}")
    return _chain("nat", "prerouting", "dstnat", rules)


def _statistic(setting: Setting) -> Iterator[str]:
    yield "*nat"
    for pool in range(setting.pools):
        for backend in range(setting.backends):
            left = setting.backends - backend
            turn = f"-m statistic --mode nth --every {left} --packet 0 " if left > 1 else ""
            to = f"{address(backend)}:{BACKEND_PORT + pool}"
            yield f"-A PREROUTING -d {service(pool)} -p udp --dport {PORT} {turn}-j DNAT --to-destination {to}"
    yield "COMMIT"


def _chain(kind: str, hook: str, priority: str, rules: list[str]) -> str:
    head = f"type {kind} hook {hook} priority {priority}; policy accept;"
    return "\n".join(["table ip other {", "chain one {", head, *rules, "}", "}"])
