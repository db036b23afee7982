"""Rulesets written by hand. They test the lab, and show what the compiled rules must do."""

from __future__ import annotations

from nftlb.lab import VIP4, VIP6
from nftlb.lab.plan import switched

PORT = 53
BACKEND_PORT = 5353

_FAMILY = {4: "ip", 6: "ip6"}
_VIP = {4: VIP4, 6: VIP6}


def backend(version: int, number: int) -> str:
    """The address of a backend of the routed lab."""
    return {4: f"10.0.{number}.2", 6: f"fd00:{number:x}::2"}[version]


def per_flow(version: int) -> str:
    """Plain NAT: its chain sees only the first packet of a connection, so ONE socket stays with one backend."""
    family = _FAMILY[version]
    addresses = ", ".join(f"{slot} : {backend(version, slot + 1)}" for slot in range(3))
    return f"""
table {family} trap {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    {family} daddr {_VIP[version]} udp dport {PORT} dnat to numgen inc mod 3 map {{ {addresses} }} : {BACKEND_PORT}
  }}
}}"""


def per_packet(version: int, backends: int = 3) -> str:
    """The mode `nat`: one conntrack zone per backend."""
    family, protocol = _FAMILY[version], {4: "ip protocol", 6: "ip6 nexthdr"}[version]
    zones = ", ".join(f"original . {n} : {backend(version, n)} . {BACKEND_PORT}" for n in range(1, backends + 1))
    slots = ", ".join(f"{slot} : {slot + 1}" for slot in range(backends))
    return f"""
table {family} zones {{
  map services {{
    typeof {family} daddr . udp dport : verdict
    elements = {{ {_VIP[version]} . {PORT} : goto pool }}
  }}
  map zones {{
    typeof ct direction . ct original zone : {family} daddr . udp dport
    elements = {{ {zones} }}
  }}
  chain pool {{
    ct original zone set numgen inc mod {backends} map {{ {slots} }}
  }}
  chain prerouting-raw {{
    type filter hook prerouting priority raw
    {family} daddr . udp dport vmap @services
  }}
  chain output-raw {{
    type filter hook output priority raw
    {family} daddr . udp dport vmap @services
  }}
  chain prerouting {{
    type nat hook prerouting priority dstnat
    {protocol} udp dnat to ct direction . ct original zone map @zones
  }}
  chain output {{
    type nat hook output priority -100
    {protocol} udp dnat to ct direction . ct original zone map @zones
  }}
  chain postrouting {{
    type nat hook postrouting priority srcnat
    ct original zone 1-{backends} {protocol} udp masquerade
  }}
}}"""


def direct_return(port: int) -> str:
    """The mode `dsr` on the ingress hook, for IPv4 and IPv6. Ports are not changed."""
    hosts = [switched(3, 1, {}).host(f"b{number}") for number in (1, 2, 3)]
    chains = "\n".join(
        f"chain {host.name}-{version} {{ fwd {_FAMILY[version]} to {address} device eth0\n }}"
        for host in hosts
        for version, address in ((4, host.ipv4), (6, host.ipv6))
    )
    slots = {
        version: ", ".join(f"{slot} : goto {host.name}-{version}" for slot, host in enumerate(hosts))
        for version in (4, 6)
    }
    return f"""
table netdev direct {{
  {chains}
  chain ingress {{
    type filter hook ingress device eth0 priority 0
    ip daddr {VIP4} udp dport {port} numgen inc mod 3 vmap {{ {slots[4]} }}
    ip6 daddr {VIP6} udp dport {port} numgen inc mod 3 vmap {{ {slots[6]} }}
  }}
}}"""


def whole_flows() -> str:
    """Connections of TCP and SCTP to the backends in turn."""
    v4, v6 = (", ".join(f"{slot} : {backend(version, slot + 1)}" for slot in range(3)) for version in (4, 6))
    return f"""
table inet flows {{
  chain prerouting {{
    type nat hook prerouting priority dstnat
    ip daddr {VIP4} meta l4proto {{ tcp, sctp }} dnat ip to numgen inc mod 3 map {{ {v4} }}
    ip6 daddr {VIP6} meta l4proto {{ tcp, sctp }} dnat ip6 to numgen inc mod 3 map {{ {v6} }}
  }}
}}"""


def one_rule(family: str, hook: str, rule: str) -> str:
    """A table of one chain with one rule. `hook` is as in `filter hook forward priority 0`."""
    return f"table {family} one {{\n  chain one {{\n    type {hook}\n    {rule}\n  }}\n}}"
