"""Reads the facts about this host that the checks need. All I/O of the doctor is here."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nftlb.errors import KernelError, NftlbError, SystemFault
from nftlb.kernel import rtnetlink
from nftlb.kernel.binding import how_to_get_it, nftables_binding
from nftlb.kernel.conntrack import read_fill, shared_zones
from nftlb.kernel.ethtool import read_joining_offloads
from nftlb.kernel.generation import Generation
from nftlb.kernel.netlink import NETLINK_ROUTE, Netlink
from nftlb.kernel.surroundings import (
    ForwardingSettings,
    Interface,
    Lookup,
    Surroundings,
    forwards,
    read_forwarding,
    read_interfaces,
)
from nftlb.kernel.tunnels import missing_kinds

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Mapping

    from nftlb.kernel.rtnetlink import IPAddress, Route, RoutingRule
    from nftlb.model import Encap

_GLOBAL = (
    "net/bridge/bridge-nf-call-ip6tables",
    "net/bridge/bridge-nf-call-iptables",
    "net/netfilter/nf_conntrack_checksum",
    "net/netfilter/nf_conntrack_sctp_timeout_established",
    "net/netfilter/nf_conntrack_udp_timeout",
    "net/netfilter/nf_conntrack_udp_timeout_stream",
)
_SYSCTLS = Path("/proc/sys")
_ROUTER_ADVERTISEMENT = 9  # RTPROT_RA


@dataclass(frozen=True)
class NftFacts:
    """The answers of libnftables. With a `problem`, the reason why it can't be used, all but `fix` is empty."""

    problem: str = ""
    fix: str = ""
    version: str = ""
    tried: Mapping[str, str] = field(default_factory=dict)
    """By name, the texts that were checked, and not loaded."""
    refused: Mapping[str, str] = field(default_factory=dict)
    """By name, the first line of the reason why a text was refused."""
    foreign: tuple[Mapping[str, Any], ...] = ()
    """All objects of other tables as `nft --json list` has them, without the elements of sets."""


@dataclass(frozen=True)
class HostFacts:
    """The state of the host. Sysctls are by name with slashes, such as `net/ipv4/ip_forward`, if they exist.

    `hides_sysctls`: this process can't read /proc/sys, as in the daemon's unit, so the ports and `sysctls` are empty.
    """

    nft: NftFacts = field(default_factory=NftFacts)
    sysctls: Mapping[str, int] = field(default_factory=dict)
    hides_sysctls: bool = False
    conntrack: Mapping[str, int] = field(default_factory=dict)
    """The fill of conntrack, as `read_fill` returns it. Also known without /proc/sys."""
    forwarding: Mapping[int, Mapping[int, ForwardingSettings]] = field(default_factory=dict)
    """By IP version and index of the interface. Read by netlink, and so also known without /proc/sys."""
    interfaces: tuple[Interface, ...] = ()
    routes: Mapping[IPAddress, Route | None] = field(default_factory=dict)
    """The routes of packets to the addresses that were looked up; None for an address without a route."""
    rules: tuple[RoutingRule, ...] = ()
    advertised: frozenset[str] = frozenset()
    """Interfaces with a default route from router advertisements."""
    joining_offloads: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    """By interface, the receive offloads that join datagrams."""
    legacy: tuple[str, ...] = ()
    """Tables of the old iptables: `ip nat`, ..."""
    ipvs: frozenset[tuple[str, IPAddress, int]] = frozenset()
    """Virtual services of IPVS: protocol, address, port."""
    shared_zones: Mapping[int, int] | None = None
    """Conntrack zones of other programs, with the number of entries; None without the permission to read them."""
    local_ports: range = range(32768, 61000)
    """The ports from which Linux picks for sockets that name no port, except the reserved ones."""
    reserved_ports: tuple[range, ...] = ()
    missing_tunnels: frozenset[tuple[Encap, int]] = frozenset()
    """The types of tunnels that pools need and the kernel lacks, as keys of `KINDS`."""

    @cached_property
    def surroundings(self) -> Surroundings:
        """The facts that the requirements of pools are compared with."""
        return Surroundings(
            self.interfaces,
            {Lookup(address): route for address, route in self.routes.items()},
            {version: self.forwards(version) is not False for version in rtnetlink.FAMILIES},
            missing_tunnels=self.missing_tunnels,
        )

    def reserves(self, port: int) -> bool:
        """Whether Linux gives this port only to sockets that name it."""
        return any(port in ports for ports in self.reserved_ports)

    def interface(self, name: str) -> Interface | None:
        return self.surroundings.interface(name)

    def interface_of(self, route: Route) -> Interface | None:
        return next((interface for interface in self.interfaces if interface.index == route.index), None)

    def forwards(self, version: int) -> bool | None:
        """Whether this host forwards packets of an IP version; None if that is not known."""
        return forwards(self.forwarding.get(version, {}))

    def sends_redirects(self, interface: str) -> bool:
        """Whether a sysctl lets an interface, or `all`, send ICMP redirects."""
        return self.sysctls.get(f"net/ipv4/conf/{interface}/send_redirects", 0) > 0


def read_host(
    nft_texts: Mapping[str, str],
    own_table: str,
    addresses: Iterable[IPAddress],
    tunnels: Iterable[tuple[Encap, int]] = (),
) -> HostFacts:
    """Read all facts in the network namespace of this thread.

    `addresses` are those to look up routes for, `tunnels` the types that pools need.
    """
    nft = read_nft(nft_texts, own_table)  # first: to check texts loads kernel modules, which the rest depends on
    with Netlink(NETLINK_ROUTE) as netlink:
        interfaces = read_interfaces(netlink)
        routes = {address: rtnetlink.route_to(netlink, address) for address in dict.fromkeys(addresses)}
        rules = tuple(rule for version in rtnetlink.FAMILIES for rule in _rules(netlink, version))
        forwarding = {version: read_forwarding(netlink, version) for version in rtnetlink.FAMILIES}
        advertised = rtnetlink.read_routes(netlink, 6, _ROUTER_ADVERTISEMENT)
    names = [interface.name for interface in interfaces]
    return HostFacts(
        nft=nft,
        sysctls=_sysctls(names),
        hides_sysctls=not (_SYSCTLS / "net/ipv4").is_dir(),
        conntrack=read_fill(),
        forwarding=forwarding,
        interfaces=interfaces,
        routes=routes,
        rules=rules,
        advertised=frozenset(rtnetlink.interface_name(route.index) for route in advertised if not route.prefix_length),
        joining_offloads={name: found for name in names if (found := read_joining_offloads(name))},
        legacy=tuple(
            f"{family} {table}"
            for family, file in (("ip", "ip_tables_names"), ("ip6", "ip6_tables_names"))
            for table in _proc_net(file)
        ),
        ipvs=frozenset(_ipvs(_proc_net("ip_vs"))),
        shared_zones=_shared_zones(),
        local_ports=_local_ports(),
        reserved_ports=tuple(_ranges(_sysctl("net/ipv4/ip_local_reserved_ports").replace(",", " ").split())),
        missing_tunnels=missing_kinds(tunnels),
    )


def _rules(netlink: Netlink, version: int) -> list[RoutingRule]:
    try:
        return rtnetlink.read_rules(netlink, version)
    except OSError:  # a kernel without routing rules
        return []


def _sysctls(interfaces: Iterable[str]) -> dict[str, int]:
    names = list(_GLOBAL)
    names += [f"net/ipv4/conf/{interface}/send_redirects" for interface in ("all", *interfaces)]
    found = {}
    for name in names:
        try:
            found[name] = int(_sysctl(name))
        except ValueError:
            continue
    return found


def _sysctl(name: str) -> str:
    """The text of a sysctl; empty if it does not exist or may not be read."""
    try:
        return (_SYSCTLS / name).read_text(encoding="ascii")
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
    """The lines of a file; none if it does not exist or may not be read.

    /proc/net would show the namespace of the main thread, not that of this thread.
    """
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


# --- libnftables ------------------------------------------------------------------------------------------------------


def read_nft(tried: Mapping[str, str], own_table: str) -> NftFacts:
    """Check these texts without loading them, and read all tables but those called `own_table`."""
    try:
        nft = nftables_binding().Nftables()
    except SystemFault:
        return NftFacts("this Python has no binding of libnftables", how_to_get_it())
    try:
        with Generation() as generation:
            generation.read()
    except SystemFault as fault:  # libnftables would also print a message of its own
        trouble, _, fix = str(fault).partition(": ")
        return NftFacts(trouble, fix)
    except KernelError:
        pass  # libnftables has the reason
    nft.set_json_output(True)
    nft.set_terse_output(True)
    status, output, message = nft.cmd("list tables")
    if status:
        return NftFacts(f"nf_tables can't be used: {_first_line(message)}", "modprobe nf_tables")
    objects = json.loads(output)["nftables"]
    tables = [item["table"] for item in objects if "table" in item]
    foreign: list[Mapping[str, Any]] = []
    for table in tables:
        if table["name"] != own_table:
            status, output, _ = nft.cmd(f"list table {table['family']} {table['name']}")
            if status == 0:  # the table may have been deleted meanwhile
                foreign += json.loads(output)["nftables"][1:]
    version = next((item["metainfo"]["version"] for item in objects if "metainfo" in item), "")
    return NftFacts("", "", version, tried, _refused(nft, tried), tuple(foreign))


def _refused(nft: Any, tried: Mapping[str, str]) -> dict[str, str]:
    refused = {}
    nft.set_dry_run(True)
    for name, text in tried.items():
        status, _, message = nft.cmd(text)
        if status:
            refused[name] = _first_line(message)
    return refused


def _first_line(message: str) -> str:
    """The reason of an error, without its place and without the echo of the text."""
    line = next((line for line in message.splitlines() if "rror" in line), message.strip())
    return line.partition("Error: ")[2] or line
