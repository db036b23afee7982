"""Facts about a healthy host, and two configurations, for the tests of the doctor."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

from nftlb.compiler import Compiled
from nftlb.config import parse_config
from nftlb.doctor import Finding, Severity, check_all
from nftlb.doctor.features import check_nft
from nftlb.doctor.host import HostFacts, NftFacts
from nftlb.kernel.rtnetlink import LOCAL, Route
from nftlb.kernel.surroundings import ALL_INTERFACES, ForwardingSettings, Interface

NAT = """
pools:
  dns:
    listen: [192.0.2.53:53/udp, "[2001:db8::53]:53/udp"]
    backends: {b1: "10.0.1.2:5353", b2: "10.0.2.2:5353", c1: "[fd00:1::2]:5353", c2: "[fd00:2::2]:5353"}
"""
DSR = """
pools:
  dns:
    forward: dsr
    ingress: [eth0]
    listen: [192.0.2.53:53/udp, "[2001:db8::53]:53/udp"]
    backends: {b1: 198.51.100.11, b2: 198.51.100.12, c1: "2001:db8:1::b1", c2: "2001:db8:1::b2"}
"""


def faults(findings: list[Finding]) -> list[Finding]:
    return [finding for finding in findings if finding.severity is not Severity.OK]


def fault_names(findings: list[Finding]) -> list[str]:
    """The severity and subject of each fault."""
    return [f"{fault.severity} {fault.subject}" for fault in faults(findings)]


HEALTHY = HostFacts(
    nft=NftFacts(version="1.0.6"),
    sysctls={
        "net/netfilter/nf_conntrack_sctp_timeout_established": 210,
        "net/netfilter/nf_conntrack_udp_timeout": 30,
        "net/netfilter/nf_conntrack_udp_timeout_stream": 120,
    },
    conntrack={"entries": 7, "limit": 262144},
    forwarding={version: {ALL_INTERFACES: ForwardingSettings(forwarding=1)} for version in (4, 6)},
    interfaces=(Interface(1, "lo", 65536), Interface(2, "eth0"), Interface(3, "eth1.7")),
    routes={
        ip_address("192.0.2.53"): Route(4, 255, index=1, kind=LOCAL),
        ip_address("2001:db8::53"): Route(6, 255, index=1, kind=LOCAL),
        ip_address("10.0.1.2"): Route(4, 254, index=2, source=ip_address("10.0.1.1")),
        ip_address("10.0.2.2"): Route(4, 254, index=3, source=ip_address("10.0.2.1")),
        ip_address("fd00:1::2"): Route(6, 254, index=2, source=ip_address("fd00:1::1")),
        ip_address("fd00:2::2"): Route(6, 254, index=3, source=ip_address("fd00:2::1")),
    },
    shared_zones={},
)


def check_facts(text: str = NAT, **changes: Any) -> list[Finding]:
    """The findings for a healthy host with some changes. Sysctls are added to the host's own."""
    config = parse_config(text)
    if "sysctls" in changes:
        changes["sysctls"] = {**HEALTHY.sysctls, **changes["sysctls"]}
    host = replace(HEALTHY, **changes)
    found = list(check_all(config, Compiled(config), host))
    if "nft" in changes:
        found += check_nft(host.nft)
    return found
