"""Checks on hosts as values: faults that are hard to make on a real host."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from doctor_facts import DSR, HEALTHY, NAT, check_facts, fault_names, faults

from nftlb.compiler import Compiled
from nftlb.config import parse_config
from nftlb.doctor import Severity, check_all
from nftlb.doctor.features import FEATURES, check_nft, feature_texts
from nftlb.doctor.host import _ipvs, read_nft
from nftlb.kernel.rtnetlink import LOCAL, Route, RoutingRule
from nftlb.kernel.surroundings import ALL_INTERFACES, ForwardingSettings, Interface
from nftlb.lab import Namespace
from nftlb.model import Encap

if TYPE_CHECKING:
    from collections.abc import Mapping

    from nftlb.doctor import Finding


class TestJudgements:
    """Hosts that are hard to make for real."""

    def test_a_healthy_host_has_no_faults(self) -> None:
        assert fault_names(check_facts()) == []

    def test_cautions_are_findings(self) -> None:
        """The warnings of `nftlb check` are among the findings."""
        dhcp = check_facts(NAT.replace(":53/udp", ":67/udp"))
        assert [("pool dns", "source: keep")] == [(fault.subject, fault.fix) for fault in faults(dhcp)]
        shared = check_facts(
            NAT.replace("192.0.2.53:53/udp", "192.0.2.53:53-54/udp").replace(
                "    backends", "    source: keep\n    backends"
            )
        )
        assert [("pool dns", "a separate backend port for each listener")] == [
            (fault.subject, fault.fix) for fault in faults(shared)
        ]

    def test_a_collector_without_a_route(self) -> None:
        """The finding is a warning, because only copies are lost; with a route there is none."""
        copied = NAT.replace("    backends", "    mirror: {archive: 10.0.2.9}\n    backends")
        assert ["warning collector dns/archive"] == fault_names(check_facts(copied))
        routes = {**HEALTHY.routes, ip_address("10.0.2.9"): HEALTHY.routes[ip_address("10.0.2.2")]}
        assert [] == fault_names(check_facts(copied, routes=routes))

    def test_routes_from_router_advertisements_survive_forwarding(self) -> None:
        """The fix sets accept_ra too: with forwarding on, the host would delete its default route."""
        forwarding = {**HEALTHY.forwarding, 6: {ALL_INTERFACES: ForwardingSettings()}}
        (finding,) = faults(check_facts(forwarding=forwarding, advertised=frozenset({"eth1.7"})))

        assert finding.fix == "sysctl -w net/ipv6/conf/eth1.7/accept_ra=2 net.ipv6.conf.all.forwarding=1"

    def test_what_is_not_known_is_not_good(self) -> None:
        """A kernel that does not tell whether it forwards, and a process that can't read /proc/sys."""
        found = check_facts(forwarding={4: HEALTHY.forwarding[4]})
        assert ["unknown forwarding"] == [
            f"{one.severity} {one.subject}" for one in found if one.subject == "forwarding"
        ]
        assert ["unknown settings"] == fault_names(check_facts(NAT, hides_sysctls=True))
        (hidden,) = faults(check_facts(NAT.replace("  dns:", "  dns:\n    forward: stateless"), hides_sysctls=True))
        assert hidden.message.endswith("not known: the ports that Linux gives to sockets")

    def test_the_fill_of_conntrack_is_known_where_settings_are_hidden(self) -> None:
        """Netlink tells it, so a table that is too small is found. Support for SCTP is not known there."""
        text = NAT.replace("192.0.2.53:53/udp,", "192.0.2.53:53/sctp,")
        config = parse_config(text)
        host = replace(HEALTHY, sysctls={}, conntrack={"entries": 90, "limit": 100}, hides_sysctls=True)

        found = fault_names(list(check_all(config, Compiled(config), host)))

        assert ["unknown settings", "warning conntrack", "warning conntrack"] == sorted(found)

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            (
                {"conntrack": {"entries": 7, "limit": 19_999}},
                "room for 19999 entries: 9999 clients of pool dns, with 2 entries each",
            ),
            ({"conntrack": {"entries": 220_000, "limit": 262_144}}, "220000 of at most 262144 entries are in use"),
            ({"sysctls": {"net/netfilter/nf_conntrack_udp_timeout": 600}}, "nf_conntrack_udp_timeout is 600 s"),
        ],
    )
    def test_the_size_of_conntrack(self, changes: Mapping[str, Any], message: str) -> None:
        (finding,) = faults(check_facts(**changes))

        assert (finding.subject, finding.severity) == ("conntrack", Severity.WARNING)
        assert message in finding.message
        assert finding.fix.startswith("sysctl -w net.netfilter.nf_conntrack")

    def test_conntrack_without_a_limit_has_room(self) -> None:
        """A table without a limit is never too full, whatever it holds."""
        found = check_facts(conntrack={"entries": 1_000_000})

        assert fault_names(found) == []
        assert "room for any number of clients at a time, with 2 entries each (pool dns)" in [
            finding.message for finding in found
        ]

    def test_conntrack_that_is_not_loaded_is_not_judged(self) -> None:
        """The rules load conntrack. Before, its limit is not known, and nothing is said about its size."""
        assert not any(finding.subject == "conntrack" for finding in check_facts(conntrack={}))

    def test_conntrack_does_not_matter_to_stateless_pools(self) -> None:
        """`stateless` makes no conntrack entries."""
        text = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n")

        assert fault_names(check_facts(text, conntrack={"entries": 7, "limit": 10})) == []

    def test_sctp_needs_support_in_conntrack(self) -> None:
        text = NAT.replace("192.0.2.53:53/udp,", "192.0.2.53:53/sctp,")
        sysctls = {name: value for name, value in HEALTHY.sysctls.items() if "sctp" not in name}
        config = parse_config(text)

        assert fault_names(list(check_all(config, Compiled(config), HEALTHY))) == []
        assert fault_names(list(check_all(config, Compiled(config), replace(HEALTHY, sysctls=sysctls)))) == [
            "error conntrack"
        ]

    @pytest.mark.parametrize(
        ("lines", "warned"),
        [
            (("passive: false", "health: {dns: }"), True),
            (("passive: false", "health: {dns: }", "source: [10.0.1.1, 'fd00:1::1']"), True),
            (("passive: false", "health: {dns: , source: [10.0.1.9, 'fd00:1::9']}"), False),
            (("passive: false", "health: {http: }"), False),
            (("passive: false", "health: {dns: }", "source: keep"), False),
            (("passive: true", "health: {dns: }"), False),
            (("health: {dns: }",), False),
        ],
    )
    def test_icmp_errors_that_traffic_uses_up(self, lines: tuple[str, ...], warned: bool) -> None:
        """Without passive detection, a backend without a server is found late."""
        more = "".join(f"    {line}\n" for line in lines)
        found = faults(check_facts(NAT.replace("  dns:\n", f"  dns:\n{more}")))

        assert [("pool dns", Severity.WARNING)] * warned == [
            (finding.subject, finding.severity) for finding in found if finding.subject == "pool dns"
        ]

    def test_datagrams_joined_on_arrival(self) -> None:
        (finding,) = faults(check_facts(joining_offloads={"eth0": ("rx-udp-gro-forwarding", "rx-gro-list")}))

        assert finding.fix == "ethtool -K eth0 rx-udp-gro-forwarding off rx-gro-list off"

    def test_the_fast_path_of_an_interface_with_vlans(self) -> None:
        """Its ingress hook gets the frames of the VLANs too. An interface of a VLAN gets its own frames only."""
        fast = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n    ingress: [eth0]\n")
        devices = (*HEALTHY.interfaces, Interface(7, "clients", vlan_of=2))
        (found,) = faults(check_facts(fast, interfaces=devices))

        assert (found.subject, found.severity) == ("interface eth0", Severity.WARNING)
        assert "carries VLANs (clients)" in found.message
        assert "in place of eth0" in found.fix
        assert faults(check_facts(fast.replace("eth0", "clients"), interfaces=devices)) == []
        assert faults(check_facts(fast, interfaces=(*HEALTHY.interfaces, Interface(7, "clients")))) == []

    def test_the_fast_path_of_an_interface_below_a_macvlan(self) -> None:
        """Frames to the macvlan (`use_vmac` of keepalived) take the fast path only if `ingress` names the macvlan."""
        fast = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n    ingress: [eth0]\n")
        devices = (*HEALTHY.interfaces, Interface(7, "vrrp.51", macvlan_of=2))

        def said(text: str) -> list[str]:
            return [found.message for found in check_facts(text, interfaces=devices) if "fast path" in found.message]

        (found,) = faults(check_facts(fast, interfaces=devices))
        assert (found.subject, found.severity) == ("interface eth0", Severity.WARNING)
        assert "is below a macvlan (vrrp.51)" in found.message
        assert "add vrrp.51" in found.fix
        assert [found.message] == said(fast)
        both = fast.replace("[eth0]", "[eth0, vrrp.51]")
        assert [True] == ["can use the fast path from eth0, vrrp.51" in message for message in said(both)]
        assert faults(check_facts(both, interfaces=devices)) == []

    def test_the_fast_path_of_a_bridge_whose_packets_pass_rules_first(self) -> None:
        """Rules see the packets of bridges before the fast path if a sysctl says so. Each IP version has its sysctl."""
        sysctls = {"net/bridge/bridge-nf-call-iptables": 1, "net/bridge/bridge-nf-call-ip6tables": 1}
        devices = (*HEALTHY.interfaces, Interface(7, "br0", bridge=True))
        fast = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n    ingress: [br0]\n")

        def found(text: str, **changes: int) -> list[Finding]:
            return [
                one
                for one in check_facts(text, interfaces=devices, sysctls={**sysctls, **changes})
                if one.subject == "interface br0" or "can use the fast path" in one.message
            ]

        (finding,) = found(fast)
        assert finding.severity is Severity.WARNING
        assert "(bridge-nf-call-iptables and bridge-nf-call-ip6tables): packets are not faster" in finding.message
        assert "lost" not in finding.message
        # `--fix` must not run this: firewalls of containers may need the setting.
        assert finding.fix.startswith("remove br0 from `ingress`; or, if no other program needs it, set bridge-nf-call")
        (finding,) = found(DSR.replace("[eth0]", "[br0]"), **{"net/bridge/bridge-nf-call-iptables": 0})
        assert "(bridge-nf-call-ip6tables)" in finding.message
        assert "the fragments of larger packets are lost" in finding.message
        assert [Severity.OK] == [one.severity for one in found(fast, **dict.fromkeys(sysctls, 0))]
        assert [Severity.OK] == [one.severity for one in found(fast.replace("[br0]", "[eth0]"))]

    def test_backends_behind_a_bridge_whose_packets_pass_rules(self) -> None:
        """Clients behind the same port are not served, except by `dsr`, which leaves the destination as it is."""
        devices = tuple(replace(one, bridge=one.name == "eth0") for one in HEALTHY.interfaces)

        def found(text: str, value: int = 1) -> list[Finding]:
            sysctls = {"net/bridge/bridge-nf-call-iptables": value}
            findings = check_facts(text, interfaces=devices, sysctls=sysctls)
            return [one for one in findings if one.subject == "interface eth0"]

        (finding,) = found(NAT)
        assert finding.severity is Severity.WARNING
        assert "packets of pool dns are lost if clients and backends are behind the same port" in finding.message
        assert "if no other program needs it, set bridge-nf-call-iptables to 0" == finding.fix
        assert [] == found(NAT, 0) + found(DSR.replace("    ingress: [eth0]\n", ""))

    def test_dsr_from_interfaces_of_a_vrf(self) -> None:
        """Packets from a VRF take two turns of `dsr` pools, unless they take the fast path."""
        devices = tuple(replace(one, vrf=7 if one.name == "eth0" else 0) for one in HEALTHY.interfaces)
        devices = (*devices, Interface(7, "blue"))
        slow = DSR.replace("    ingress: [eth0]\n", "")

        def found(text: str) -> list[Finding]:
            return [one for one in check_facts(text, interfaces=devices) if one.subject == "interface blue"]

        (finding,) = found(slow)
        assert finding.severity is Severity.WARNING
        assert "each packet from eth0 to the rules twice" in finding.message
        assert "two turns of pool dns" in finding.message
        assert "add eth0 to `ingress`" in finding.fix
        assert [] == found(DSR) + found(NAT) + found(slow.replace("forward: dsr", "forward: dsr\n    balance: hash"))

    def test_services_of_ipvs(self) -> None:
        """Read as the kernel prints them. Only a service at a listener's address, port and protocol matters."""
        lines = [
            "IP Virtual Server version 1.2.1 (size=4096)",
            "Prot LocalAddress:Port Scheduler Flags",
            "  -> RemoteAddress:Port Forward Weight ActiveConn InActConn",
            "UDP  C0000235:0035 rr ops",
            "  -> 0A000102:14E9      Masq    1      0          0",
            "TCP  [2001:0db8:0000:0000:0000:0000:0000:0053]:0035 rr",
            "FWM  00000001 rr",
        ]
        services = frozenset(_ipvs(lines))
        assert services == {("udp", ip_address("192.0.2.53"), 53), ("tcp", ip_address("2001:db8::53"), 53)}

        (finding,) = faults(check_facts(ipvs=services))
        assert (finding.subject, finding.fix) == ("pool dns", "ipvsadm -D -u 192.0.2.53:53")

    def test_many_backends_without_a_route(self) -> None:
        """One cause is one finding, with the number of backends; `--fix` and the page show this list too."""
        backends = ", ".join(f"b{number}: 10.0.9.{number}" for number in range(1, 9))
        text = f"pools: {{dns: {{listen: '192.0.2.53:53/udp', backends: {{{backends}}}}}}}"
        (found,) = (finding for finding in check_facts(text) if "no route" in finding.message)
        assert ("routes to backends", "ip route add 10.0.9.1 via ROUTER") == (found.subject, found.fix)
        assert "there is no route to 10.0.9.1, backend dns/b1; the same for dns/b2, dns/b3, dns/b4 and 4 more" == (
            found.message
        )

    def test_a_default_route_through_loopback(self) -> None:
        routes = {**HEALTHY.routes, ip_address("10.0.1.2"): Route(4, 254, index=1)}

        assert fault_names(check_facts(routes=routes)) == ["error backend dns/b1"]

    def test_a_broadcast_address_and_this_host_itself_as_backends(self) -> None:
        """Neither gets packets with `dsr`; the message says why."""
        own = {**HEALTHY.routes, ip_address("198.51.100.11"): Route(4, 255, index=1, kind=LOCAL)}
        broadcast = {**own, ip_address("198.51.100.12"): Route(4, 255, index=2, kind=3)}

        found = [
            fault.message for fault in faults(check_facts(DSR, routes=broadcast)) if "backend dns/b" in fault.subject
        ]
        assert [
            "198.51.100.11 is an address of this host: packets would come back endlessly",
            "packets can't be sent to 198.51.100.12, backend dns/b2: it is a broadcast address",
        ] == found

    def test_own_routing_rules_do_not_clash(self) -> None:
        """The routing rules of nftlb have its protocol number."""
        addresses = ("198.51.100.11", "198.51.100.12", "2001:db8:1::b1", "2001:db8:1::b2")
        routes = {
            **HEALTHY.routes,
            **{ip_address(address): Route(ip_address(address).version, 254, index=2) for address in addresses},
        }
        ours, theirs = (RoutingRule(4, 60001, mark=60001, mask=0xFFFFFFFF, protocol=number) for number in (110, 3))

        assert fault_names(check_facts(DSR, routes=routes, rules=(ours,))) == []
        assert fault_names(check_facts(DSR, routes=routes, rules=(theirs,))) == ["warning marks"]


class TestFeatures:
    """The features that the rules need are tried with the kernel itself."""

    def test_all_features_can_be_tried(self) -> None:
        """A kernel with all features refuses none, in both families."""
        with Namespace("features") as host:
            nft = host.call(read_nft, feature_texts(None), "nftlb")

        assert nft.refused == {}
        assert len(nft.tried) == 2 * len(FEATURES)

    def test_a_refused_feature_is_an_error_with_its_reason(self) -> None:
        """A statement that does not exist stands for a missing feature."""
        name = "choosing packet by packet (ip)"
        with Namespace("features") as host:
            nft = host.call(read_nft, {name: "table ip t {\n chain c {\n numgen jump\n }\n}\n"}, "nftlb")

        assert list(nft.refused) == [name]
        findings = list(check_facts(nft=nft))
        assert f"error nftables, {name}" in fault_names(findings)
        assert "modprobe nft_numgen" in next(
            finding.fix for finding in findings if finding.subject == f"nftables, {name}"
        )

    def test_only_features_that_a_configuration_uses_are_tried(self) -> None:
        """Features for IPv6, NAT and `dsr` are tried only for configurations that use them."""
        nat = feature_texts(parse_config("pools: {a: {listen: 192.0.2.1:53/udp, backends: {b: 10.0.0.1}}}"))
        fast = feature_texts(parse_config(DSR))

        assert not [name for name in nat if "(ip6)" in name or "ingress" in name or "fragments" in name]
        assert "masquerading (ip)" in nat
        assert not [name for name in fast if "zone" in name]
        assert "sending on from the ingress hook (ip6)" in fast


@pytest.mark.parametrize(
    ("version", "said"),
    [("1.0.6", ""), ("1.1.3", ""), ("1.1.7", ""), ("1.0.5", "older"), ("1.1.8", "newer"), ("1.2.0", "newer")],
)
def test_a_version_of_nft_that_is_not_tested(version: str, said: str) -> None:
    """An older or newer nft is a warning that names the tested versions; a tested version is not a fault."""
    finding = next(check_nft(replace(HEALTHY.nft, version=version)))

    assert ("warning" if said else "ok") == finding.severity
    assert f"version {version}" in finding.message
    assert said in finding.message
    assert not said or "1.0.6 to 1.1.7" in finding.message


TUNNELLED = """
pools:
  dns:
    forward: dsr
    encap: gre
    listen: [192.0.2.53:53/udp, "[2001:db8::53]:53/udp"]
    backends: {b1: 10.0.1.2, c1: "fd00:2::2"}
"""
FAR = Route(4, 254, ip_address("10.0.0.9"), index=2, source=ip_address("10.0.1.1"))
ROUTED = {**HEALTHY.routes, ip_address("10.0.1.2"): FAR}


def test_tunnels_need_room_on_the_path() -> None:
    """The interface, or the route, must carry the largest packet and the outer header, which is larger for IPv6."""
    wide = (Interface(1, "lo", 65536), Interface(2, "eth0", 1524), Interface(3, "eth1.7", 1544))
    found = faults(check_facts(TUNNELLED, routes=ROUTED))
    assert ["pool dns"] * 2 == [fault.subject for fault in found]
    assert "path to b1 by eth0 carries 1500: packets of more than 1476 bytes" in found[0].message
    assert "path to c1 by eth1.7 carries 1500: packets of more than 1456 bytes" in found[1].message
    assert [True, True] == [f"mtu {size}, " in fault.fix for size, fault in zip((1524, 1544), found, strict=True)]
    assert [] == faults(check_facts(TUNNELLED, routes=ROUTED, interfaces=wide))
    narrow = {**ROUTED, ip_address("10.0.1.2"): replace(FAR, mtu=1400)}
    (fault,) = faults(check_facts(TUNNELLED, routes=narrow, interfaces=wide))
    assert "carries 1400: packets of more than 1376 bytes" in fault.message


def test_with_tunnels_the_service_need_not_be_on_this_host() -> None:
    """No finding advises to add the address of a service: replies that pass this host would be lost with it."""
    wide = (Interface(1, "lo", 65536), Interface(2, "eth0", 1600), Interface(3, "eth1.7", 1600))
    service = ip_address("192.0.2.53")
    said = {fault.subject: fault for fault in check_facts(TUNNELLED, routes=ROUTED, interfaces=wide)}
    assert "replies that pass this host as a router are lost" in said[f"address {service}"].message
    assert "" == said[f"address {service}"].fix
    elsewhere = {**ROUTED, service: FAR}
    (fault,) = faults(check_facts(TUNNELLED, routes=elsewhere, interfaces=wide))
    assert f"address {service}" == fault.subject
    assert "a route to 192.0.2.53 through this host, on the router to the clients" == fault.fix
    (fault,) = faults(check_facts(NAT, routes={**HEALTHY.routes, service: FAR}))
    assert "ip address add 192.0.2.53/32 dev lo" == fault.fix


def test_tunnels_need_their_type_in_the_kernel() -> None:
    """A missing type is an error with the name of its module; a router on the way to the backend is none."""
    wide = (Interface(1, "lo", 65536), Interface(2, "eth0", 1600), Interface(3, "eth1.7", 1600))
    missing = frozenset({(Encap.GRE, 6), (Encap.IPIP, 4)})
    (fault,) = faults(check_facts(TUNNELLED, routes=ROUTED, interfaces=wide, missing_tunnels=missing))
    assert ("error", "encap gre") == (str(fault.severity), fault.subject)
    assert "no interfaces of the type ip6gre" in fault.message
    assert "modprobe ip6_gre" in fault.fix
