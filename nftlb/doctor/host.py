"""What the checks want to know of this host, read once; and nothing else here does I/O but `nft` and what it calls."""

from __future__ import annotations

from dataclasses import dataclass, field
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.errors import NftlbError
from nftlb.kernel import rtnetlink
from nftlb.kernel.conntrack import shared_zones
from nftlb.kernel.interfaces import Interface, read_interfaces
from nftlb.kernel.netlink import NETLINK_ROUTE, Netlink

from .batching import read_batching
from .nft import Nft, read_nft

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nftlb.kernel.rtnetlink import IPAddress, Route, Rule

_GLOBAL = (
    "net/ipv4/ip_forward",
    "net/ipv6/conf/all/forwarding",
    "net/netfilter/nf_conntrack_checksum",
    "net/netfilter/nf_conntrack_count",
    "net/netfilter/nf_conntrack_max",
    "net/netfilter/nf_conntrack_sctp_timeout_established",
    "net/netfilter/nf_conntrack_udp_timeout",
    "net/netfilter/nf_conntrack_udp_timeout_stream",
)
_PER_INTERFACE = ("forwarding", "rp_filter", "send_redirects")
_ROUTER_ADVERTISEMENT = 9  # RTPROT_RA


@dataclass(frozen=True)
class Host:
    """The host as it was found. Sysctls by name with slashes, such as `net/ipv4/ip_forward`; absent ones left out."""

    nft: Nft = field(default_factory=Nft)
    sysctls: Mapping[str, int] = field(default_factory=dict)
    interfaces: tuple[Interface, ...] = ()
    routes: Mapping[IPAddress, Route | None] = field(default_factory=dict)
    """How packets to the addresses that were asked for would go; None: nowhere."""
    rules: tuple[Rule, ...] = ()
    advertised: frozenset[str] = frozenset()
    """Interfaces with a default route from router advertisements."""
    batching: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By interface, receive offloads that join datagrams."""
    legacy: tuple[str, ...] = ()
    """Tables of the old iptables: `ip nat`, ..."""
    ipvs: frozenset[tuple[str, IPAddress, int]] = frozenset()
    """IPVS' virtual services: protocol, address, port."""
    shared_zones: Mapping[int, int] | None = None
    """Conntrack zones of others, and how many entries each has; None: not permitted to look."""
    local_ports: range = range(32768, 61000)
    """The ports that sockets get which name none, but for the reserved ones."""
    reserved_ports: tuple[range, ...] = ()

    def reserves(self, port: int) -> bool:
        """Whether no socket gets this port unless it names it."""
        return any(port in one for one in self.reserved_ports)

    def interface(self, name: str) -> Interface | None:
        return next((interface for interface in self.interfaces if interface.name == name), None)

    def device(self, route: Route) -> Interface | None:
        return next((interface for interface in self.interfaces if interface.index == route.index), None)

    def per_interface(self, version: int, setting: str, interface: str) -> int:
        """A sysctl of an interface; 0 where there is none."""
        return self.sysctls.get(f"net/ipv{version}/conf/{interface}/{setting}", 0)


def read_host(nft_texts: Mapping[str, str], own_table: str, addresses: Iterable[IPAddress]) -> Host:
    """Read it all, in the network namespace of this thread. `addresses`: whose routes are of interest."""
    nft = read_nft(nft_texts, own_table)  # first: trying things out loads the modules that the rest shows up with
    with Netlink(NETLINK_ROUTE) as netlink:
        interfaces = read_interfaces(netlink)
        routes = {address: rtnetlink.route_to(netlink, address) for address in dict.fromkeys(addresses)}
        rules = tuple(rule for version in rtnetlink.FAMILIES for rule in _rules(netlink, version))
        advertised = rtnetlink.routes(netlink, 6, _ROUTER_ADVERTISEMENT)
    names = [interface.name for interface in interfaces]
    return Host(
        nft=nft,
        sysctls=_sysctls(names),
        interfaces=interfaces,
        routes=routes,
        rules=rules,
        advertised=frozenset(rtnetlink.interface_name(one.index) for one in advertised if not one.prefix_length),
        batching={name: found for name in names if (found := read_batching(name))},
        legacy=tuple(
            f"{family} {table}"
            for family, file in (("ip", "ip_tables_names"), ("ip6", "ip6_tables_names"))
            for table in _proc_net(file)
        ),
        ipvs=frozenset(_ipvs(_proc_net("ip_vs"))),
        shared_zones=_shared_zones(),
        local_ports=_local_ports(),
        reserved_ports=tuple(_ranges(_sysctl("net/ipv4/ip_local_reserved_ports").replace(",", " ").split())),
    )


def _rules(netlink: Netlink, version: int) -> list[Rule]:
    try:
        return rtnetlink.rules(netlink, version)
    except OSError:  # a kernel without them
        return []


def _sysctls(interfaces: Iterable[str]) -> dict[str, int]:
    names = list(_GLOBAL)
    for interface in ("all", *interfaces):
        names += [f"net/ipv4/conf/{interface}/{setting}" for setting in _PER_INTERFACE]
    found = {}
    for name in names:
        try:
            found[name] = int(_sysctl(name))
        except ValueError:
            continue
    return found


def _sysctl(name: str) -> str:
    """A sysctl's text; empty where it is absent or forbidden."""
    try:
        return Path("/proc/sys", name).read_text(encoding="ascii")
    except OSError:
        return ""


def _local_ports() -> range:
    match _sysctl("net/ipv4/ip_local_port_range").split():
        case [first, last]:
            return range(int(first), int(last) + 1)
    return range(0)


def _ranges(texts: Iterable[str]) -> Iterator[range]:
    """Read `53` and `8000-8010`."""
    for text in texts:
        first, _, last = text.partition("-")
        yield range(int(first), int(last or first) + 1)


def _proc_net(file: str) -> list[str]:
    """The lines of a file; none where it is absent or forbidden. /proc/net itself shows the main thread's namespace."""
    try:
        return Path("/proc/thread-self/net", file).read_text(encoding="ascii").splitlines()
    except OSError:
        return []


def _ipvs(lines: Iterable[str]) -> Iterable[tuple[str, IPAddress, int]]:
    """Read `UDP  C0000235:0035 rr` and `UDP  [2001:0db8::...]:0035 rr`."""
    for line in lines:
        protocol, _, rest = line.partition(" ")
        if protocol in ("TCP", "UDP", "SCTP"):
            address, _, port = rest.split()[0].rpartition(":")
            number = IPv6Address(address.strip("[]")) if "[" in address else ip_address(int(address, 16))
            yield protocol.lower(), number, int(port, 16)


def _shared_zones() -> Mapping[int, int] | None:
    try:
        return shared_zones()
    except NftlbError:
        return None
