"""The doctor: judgements on hosts as values, and examinations of real ones, which must be well after the mend."""

from __future__ import annotations

import ctypes
import socket
import sys
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from unprivileged import unprivileged

from nftlb.compiler import Compiled
from nftlb.config import parse
from nftlb.doctor import Finding, Severity, examine
from nftlb.doctor.examination import _judge_nft, judge
from nftlb.doctor.features import FEATURES, needed
from nftlb.doctor.foreign import judge as judge_foreign
from nftlb.doctor.host import Host, _ipvs
from nftlb.doctor.matching import follow, read_chains
from nftlb.doctor.nft import Nft, read_nft
from nftlb.doctor.traffic import forwarded
from nftlb.kernel.generation import generation
from nftlb.kernel.interfaces import Interface
from nftlb.kernel.rtnetlink import LOCAL, Route, Rule
from nftlb.lab import Lab, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

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


def ill(findings: list[Finding]) -> list[Finding]:
    return [one for one in findings if one.severity is not Severity.OK]


def told(findings: list[Finding]) -> list[str]:
    """Severity and subject of what is not well."""
    return [f"{one.severity} {one.subject}" for one in ill(findings)]


class TestRealHosts:
    """Namespaces: what is wrong is found, and its mend, pasted into a shell, puts it right."""

    @pytest.fixture
    def balancer(self) -> Iterator[Namespace]:
        with Lab(backends=2) as lab:
            yield lab.balancer

    @pytest.fixture
    def dsr_balancer(self) -> Iterator[Namespace]:
        with Lab(backends=2, dsr=True) as lab:
            for scope in ("all", "eth0"):
                lab.balancer.sysctl(f"net.ipv4.conf.{scope}.send_redirects", 0)
            yield lab.balancer

    def check(self, host: Namespace, text: str, expected: list[str]) -> None:
        """What is expected is found, and nothing else; nothing is left when all mends are done."""
        config = parse(text)
        findings = host.call(examine, config)
        assert expected == told(findings)

        for finding in ill(findings):
            host.run(["sh", "-ec", finding.mend])
        assert told(host.call(examine, config)) == []

    def test_a_good_host_is_well(self, balancer: Namespace, dsr_balancer: Namespace) -> None:
        """The labs that everything else is tested in."""
        for host, text in ((balancer, NAT), (dsr_balancer, DSR)):
            findings = host.call(examine, parse(text))
            assert told(findings) == []
            assert Finding(Severity.OK, "backends", "there is a way to 4 of 4") in findings

    def test_ports_that_are_given_to_sockets(self, dsr_balancer: Namespace) -> None:
        """An alias, and a wide range that the rules don't care for; what was reserved before stays so."""
        dsr_balancer.sysctl("net.ipv4.ip_local_port_range", "20000 61100")
        dsr_balancer.sysctl("net.ipv4.ip_local_reserved_ports", "8000-8001,21000")
        text = DSR.replace("192.0.2.53:53/udp,", "192.0.2.53:53/udp, 192.0.2.53:19000-22000/udp,")

        self.check(dsr_balancer, text, ["warning own ports"])
        assert "8000-8001,20000-22000,61053" == dsr_balancer.sysctl("net.ipv4.ip_local_reserved_ports")

    def test_no_port_is_left_for_sockets(self, dsr_balancer: Namespace) -> None:
        """To reserve all would take the host its own connections, so that is not what is told."""
        findings = dsr_balancer.call(examine, parse(DSR.replace("192.0.2.53:53/udp", "192.0.2.53:1024-65535/udp")))
        assert told(findings) == ["warning own ports"]
        assert ill(findings)[0].mend.startswith("listen at fewer ports")

    def test_a_wide_range_of_ports_that_are_given_to_sockets(self, dsr_balancer: Namespace) -> None:
        """The rules care for one that Linux's default meets, and that is said."""
        findings = dsr_balancer.call(examine, parse(DSR.replace("192.0.2.53:53/udp", "192.0.2.53:33000-60000/udp")))
        assert told(findings) == []
        assert ["tracks this host's traffic because of 192.0.2.53:33000-60000/udp, a wide range"] == [
            one.message for one in findings if one.subject == "conntrack"
        ]

    def test_the_only_address_is_the_services(self, dsr_balancer: Namespace) -> None:
        """Backends hold it too, so this host needs another one; with that, all is well."""
        text = DSR.replace("192.0.2.53:53", "198.51.100.1:53").replace("[2001:db8::53]:53", "[2001:db8:1::1]:53")
        found = ill(dsr_balancer.call(examine, parse(text)))
        arp = "answer neither its health checks nor, when it looks for them, to ARP"
        holds = "which backends of `forward: dsr` hold themselves: they"
        assert [
            f"this host sends to b1, b2 from 198.51.100.1, {holds} {arp}",
            f"this host sends to c1, c2 from 2001:db8:1::1, {holds} don't answer its health checks",
        ] == [one.message for one in found]

        for address, prefix, second in (
            ("198.51.100.1", 24, "198.51.100.1/32"),
            ("2001:db8:1::1", 64, "2001:db8:1::1/128 preferred_lft 0"),
        ):
            own = f"{address.removesuffix('1')}9/{prefix}"
            for command in (f"del {address}/{prefix}", f"add {own}", f"add {second}"):
                dsr_balancer.run(["ip", "address", *command.split(), "dev", "eth0"])
        assert told(dsr_balancer.call(examine, parse(text))) == []

    def test_backends_as_clients(self, balancer: Namespace) -> None:
        """With `stateless` they lose their own turns, which is said, and is no fault of the host."""
        found = {
            forward: [
                one.message
                for one in balancer.call(examine, parse(NAT.replace("  dns:", f"  dns:\n    forward: {forward}")))
                if one.subject == "backends as clients"
            ]
            for forward in ("nat", "stateless")
        }
        assert [] == found["nat"]
        assert ["a backend that asks its own pool loses what falls to itself: dns (no `hairpin: true`)"] == found[
            "stateless"
        ]

    def test_nothing_is_changed(self, balancer: Namespace) -> None:
        """Neither rules nor their generation number, though a lot of rules were tried out."""
        before = balancer.call(generation)

        balancer.call(examine, parse(NAT))
        balancer.call(examine, None)

        assert before == balancer.call(generation)
        assert balancer.run(["nft", "list", "ruleset"]) == ""

    def test_no_forwarding(self, balancer: Namespace) -> None:
        for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            balancer.sysctl(f"net.{name}", 0)

        self.check(balancer, NAT, ["error forwarding"] * 2)

    def test_no_forwarding_from_one_interface(self, balancer: Namespace) -> None:
        balancer.sysctl("net.ipv4.conf.client1.forwarding", 0)

        self.check(balancer, NAT, ["warning forwarding"])

    def test_without_a_configuration_forwarding_is_a_warning(self, balancer: Namespace) -> None:
        """It may be that this host is not to balance IPv6."""
        balancer.sysctl("net.ipv6.conf.all.forwarding", 0)

        assert told(balancer.call(examine, None)) == ["warning forwarding"]

    def test_strict_reverse_paths(self, dsr_balancer: Namespace) -> None:
        dsr_balancer.sysctl("net.ipv4.conf.all.rp_filter", 1)

        self.check(dsr_balancer, DSR, ["warning rp_filter"])

    @pytest.mark.parametrize("scope", ["all", "eth0"])
    def test_redirects(self, dsr_balancer: Namespace, scope: str) -> None:
        dsr_balancer.sysctl(f"net.ipv4.conf.{scope}.send_redirects", 1)

        self.check(dsr_balancer, DSR, ["warning send_redirects"])

    def test_addresses_that_are_not_local(self, balancer: Namespace) -> None:
        balancer.run(["ip", "address", "flush", "dev", "lo"])

        self.check(balancer, NAT, ["warning address 192.0.2.53", "warning address 2001:db8::53"])

    def test_an_address_that_is_not_yet_usable(self, balancer: Namespace) -> None:
        """Duplicate address detection does not end on a link that goes nowhere: the address stays tentative."""
        balancer.run(["ip", "link", "add", "nix0", "type", "veth", "peer", "name", "nix1"])
        balancer.sysctl("net.ipv6.conf.nix0.accept_dad", 1)
        balancer.run(["ip", "link", "set", "nix0", "up"])
        balancer.run(["ip", "address", "add", "2001:db8::77/64", "dev", "nix0"])

        text = NAT.replace("2001:db8::53", "2001:db8::77")
        assert told(balancer.call(examine, parse(text))) == ["warning address 2001:db8::77"]

    def test_backends_without_a_route(self, balancer: Namespace) -> None:
        balancer.run(["ip", "route", "del", "10.0.1.0/24", "dev", "b1"])
        balancer.run(["ip", "-6", "route", "add", "unreachable", "fd00:2::2/128"])

        findings = balancer.call(examine, parse(NAT))

        assert told(findings) == ["error backend dns/b1", "error backend dns/c2"]

    def test_a_backend_behind_a_router(self, dsr_balancer: Namespace) -> None:
        """With `dsr` that won't do, unless the router is told of."""
        dsr_balancer.run(["ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.12"])
        text = DSR.replace("b2: 198.51.100.12", "b2: {address: 203.0.113.7}")

        assert told(dsr_balancer.call(examine, parse(text))) == ["error backend dns/b2", "warning pool dns"]
        text = text.replace("203.0.113.7", "203.0.113.7, via: 198.51.100.12")
        assert told(dsr_balancer.call(examine, parse(text))) == []

    def test_link_local_backends(self, dsr_balancer: Namespace) -> None:
        """What matters is their interface: the routing table has link-local addresses on every link."""
        dsr_balancer.run(["ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1"])
        text = DSR.replace('"2001:db8:1::b1"', '"fe80::b1%spare0"').replace('"2001:db8:1::b2"', '"fe80::b2%eth0"')
        self.check(dsr_balancer, text, ["error backend dns/c1"])

        missing = dsr_balancer.call(examine, parse(text.replace("spare0", "nix0")))
        assert "error backend dns/c1" in told(missing)

    @pytest.mark.parametrize(
        ("address", "other"), [("10.9.9.9", "fd00:1::1"), ("fd00:9::9", "10.0.1.1")], ids=["ipv4", "ipv6"]
    )
    @pytest.mark.parametrize("where", ["pool", "health"])
    def test_a_source_that_this_host_does_not_have(
        self, balancer: Namespace, address: str, other: str, where: str
    ) -> None:
        """Neither a pool's nor a health check's; and none is missing once it is there."""
        source = f"source: ['{address}', '{other}']"
        line = {"pool": source, "health": f"health: {{icmp: , {source}}}"}[where]
        text = NAT.replace("  dns:\n", f"  dns:\n    {line}\n")
        assert [f"error address {address}"] == told(balancer.call(examine, parse(text)))

        balancer.run(["ip", "address", "add", address, "dev", "b1", *(["nodad"] if ":" in address else [])])
        findings = balancer.call(examine, parse(text))
        assert [] == told(findings)
        both = ", ".join(sorted((address, other)))
        assert Finding(Severity.OK, "sources", f"{both}: this host's own") in findings

    def test_a_source_that_is_the_services_own_address(self, balancer: Namespace) -> None:
        """A VRRP backup has neither of the two."""
        balancer.run(["ip", "address", "del", "192.0.2.53/32", "dev", "lo"])
        text = NAT.replace("  dns:\n", "  dns:\n    source: [192.0.2.53, '2001:db8::53']\n")

        assert ["warning address 192.0.2.53"] == told(balancer.call(examine, parse(text)))

    def test_no_address_to_masquerade_with(self, balancer: Namespace) -> None:
        """The link leads to the backend, but packets could leave with no address."""
        for name in ("lo", "client1", "b1", "b2"):
            balancer.run(["ip", "-4", "address", "flush", "dev", name])
        balancer.run(["ip", "route", "add", "10.0.1.2/32", "dev", "b1"])
        balancer.run(["ip", "route", "add", "10.0.2.2/32", "dev", "b2"])

        found = told(balancer.call(examine, parse(NAT)))
        assert ["warning address 192.0.2.53", "error backend dns/b1", "error backend dns/b2"] == found

    def test_interfaces_of_the_fast_path(self, dsr_balancer: Namespace) -> None:
        """One that is not there makes kernels before 6.16 refuse the whole, which is told as well then."""
        findings = dsr_balancer.call(examine, parse(DSR.replace("[eth0]", "[eth0, nix0]")))

        assert told(findings)[-1] == "error interface nix0"

    def test_interfaces_of_checks(self, balancer: Namespace) -> None:
        balancer.run(["ip", "link", "set", "client1", "down"])
        health = "[{icmp: , device: client1}, {dns: , device: nix0}, {dns: , device: nix0}, {udp: , device: b1}]"
        findings = balancer.call(examine, parse(NAT.replace("  dns:\n", f"  dns:\n    health: {health}\n")))

        assert ["warning interface client1", "error interface nix0"] == told(findings)

    def test_sizes_on_the_fast_path(self, balancer: Namespace) -> None:
        balancer.run(["ip", "link", "set", "b2", "mtu", "1400"])
        text = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n    ingress: [client1]\n")

        self.check(balancer, text, ["warning interface b2"])

    def test_rules_that_take_packets_from_conntrack(self, balancer: Namespace) -> None:
        """What name servers do to be spared conntrack."""
        balancer.run(["nft", "add table inet t; add chain inet t c { type filter hook prerouting priority raw; }"])
        balancer.run(["nft", "add rule inet t c ip daddr 192.0.2.53 udp dport { 53, 853 } notrack"])
        balancer.run(["nft", "add rule inet t c udp sport 53 notrack"])

        self.check(balancer, NAT, ["error table inet t, chain c, handle 3"])

    def test_rules_that_translate_our_packets(self, balancer: Namespace) -> None:
        balancer.run(["nft", "add table ip t; add chain ip t c { type nat hook prerouting priority dstnat; }"])
        balancer.run(["nft", "add chain ip t d; add rule ip t c fib daddr type local jump d"])
        balancer.run(
            ["nft", "add rule ip t d tcp dport 53 dnat to 10.9.9.9; add rule ip t d udp dport 53 redirect to :54"]
        )

        self.check(balancer, NAT, ["warning table ip t, chain d, handle 5"])

    def test_rules_that_drop_what_is_forwarded(self, balancer: Namespace) -> None:
        """A firewall that lets nothing through but answers."""
        balancer.run(
            ["nft", "add table inet t; add chain inet t c { type filter hook forward priority 0; policy drop; }"]
        )
        balancer.run(["nft", "add rule inet t c ct state established,related accept"])

        self.check(balancer, NAT, ["error table inet t, chain c"])

    def test_rules_that_drop_untracked_packets(self, balancer: Namespace) -> None:
        """Without conntrack, each way needs a rule for each backend: the first of each is told."""
        balancer.run(["nft", "add table ip t; add chain ip t c { type filter hook forward priority 0; policy drop; }"])
        text = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n")

        findings = ill(balancer.call(examine, parse(text)))

        assert [one.mend for one in findings] == [
            "nft insert rule ip t c ip daddr 10.0.1.2 udp dport 5353 accept",
            "nft insert rule ip t c ip saddr 10.0.1.2 udp sport 5353 accept",
        ]

    def test_zones_of_others(self, balancer: Namespace) -> None:
        """Entries for both directions are others', and so are rules that make such."""
        zones = ["--zone", "2", "-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", "1", "--dport", "2"]
        balancer.run(["conntrack", "-I", "-p", "udp", "-t", "600", *zones])
        balancer.run(["nft", "add table ip t; add chain ip t c { type filter hook output priority raw; }"])
        balancer.run(["nft", "add rule ip t c ct zone set ip daddr map { 10.9.9.9 : 4, 10.9.9.8 : 900 }"])

        (finding,) = ill(balancer.call(examine, parse(NAT)))

        assert (finding.subject, finding.mend) == ("conntrack zones", "zones: {first: 901}")
        assert finding.message == "2, 4: used by others too (1 entries, 1 by rules)"
        assert told(balancer.call(examine, parse("zones: {first: 901}" + NAT))) == []

    def test_marks_of_others(self, dsr_balancer: Namespace) -> None:
        dsr_balancer.run(["ip", "rule", "add", "fwmark", "0xea60/0xfff0", "lookup", "7"])

        (finding,) = ill(dsr_balancer.call(examine, parse(DSR)))

        assert (finding.subject, finding.mend) == ("marks", "marks: {first: 10000}")
        assert told(dsr_balancer.call(examine, parse(finding.mend + DSR))) == []

    def test_tables_of_the_old_iptables(self, balancer: Namespace) -> None:
        """The kernel makes one when it is first asked for it (IPT_SO_GET_INFO), as the program does."""

        def ask_for_table() -> int:
            info, size = ctypes.create_string_buffer(b"nat", 84), ctypes.c_uint(84)
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
                return int(ctypes.CDLL(None).getsockopt(sock.fileno(), socket.SOL_IP, 64, info, ctypes.byref(size)))

        there = balancer.call(ask_for_table) == 0  # newer kernels can be built without it

        assert told(balancer.call(examine, parse(NAT))) == ["warning iptables (legacy)"] * there

    def test_without_privileges_it_says_so_and_goes_on(self, balancer: Namespace) -> None:
        findings = unprivileged(balancer, lambda: examine(parse(NAT)))

        assert told(findings) == ["error nftables"]
        assert Finding(Severity.OK, "backends", "there is a way to 4 of 4") in findings

    def test_without_the_binding_it_says_so_and_goes_on(
        self, balancer: Namespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "nftables", None)

        (finding,) = ill(balancer.call(examine, parse(NAT)))

        assert (finding.subject, finding.mend) == ("nftables", "apt install python3-nftables")


class TestFeatures:
    """What the rules need is tried out with the kernel itself."""

    def test_everything_can_be_tried(self) -> None:
        """On a kernel that has it all, nothing is refused; each in both families."""
        with Namespace("features") as host:
            nft = host.call(read_nft, needed(None), "nftlb")

        assert nft.refused == {}
        assert len(nft.tried) == 2 * len(FEATURES)

    def test_what_is_refused_is_told_with_the_reason(self) -> None:
        """A made-up statement stands for one that this kernel hasn't got."""
        name = "choosing packet by packet (ip)"
        with Namespace("features") as host:
            nft = host.call(read_nft, {name: "table ip t {\n chain c {\n numgen jump\n }\n}\n"}, "nftlb")

        assert list(nft.refused) == [name]
        findings = list(judge_with(nft=nft))
        assert f"error nftables, {name}" in told(findings)
        assert "modprobe nft_numgen" in next(one.mend for one in findings if one.subject == f"nftables, {name}")

    def test_only_what_a_configuration_uses_is_needed(self) -> None:
        """No IPv6 and no NAT where there is none; nothing that `dsr` needs where there is no `dsr`."""
        nat = needed(parse("pools: {a: {listen: 192.0.2.1:53/udp, backends: {b: 10.0.0.1}}}"))
        fast = needed(parse(DSR))

        assert not [name for name in nat if "(ip6)" in name or "ingress" in name or "fragments" in name]
        assert "masquerading (ip)" in nat
        assert not [name for name in fast if "zone" in name]
        assert "sending on from the ingress hook (ip6)" in fast


HEALTHY = Host(
    nft=Nft(version="1.0.6"),
    sysctls={
        "net/ipv4/ip_forward": 1,
        "net/ipv6/conf/all/forwarding": 1,
        "net/netfilter/nf_conntrack_max": 262144,
        "net/netfilter/nf_conntrack_count": 7,
        "net/netfilter/nf_conntrack_sctp_timeout_established": 210,
        "net/netfilter/nf_conntrack_udp_timeout": 30,
        "net/netfilter/nf_conntrack_udp_timeout_stream": 120,
    },
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


def judge_with(text: str = NAT, **changes: Any) -> list[Finding]:
    """Judge a healthy host with some changes; sysctls are added to those it has."""
    config = parse(text)
    if "sysctls" in changes:
        changes["sysctls"] = {**HEALTHY.sysctls, **changes["sysctls"]}
    host = replace(HEALTHY, **changes)
    found = list(judge(config, Compiled(config), host))
    if "nft" in changes:
        found += _judge_nft(host)
    return found


class TestJudgements:
    """Hosts that can't well be had for real."""

    def test_a_healthy_host_is_well(self) -> None:
        assert told(judge_with()) == []

    def test_cautions_are_told(self) -> None:
        """What `check` warns of, and what only looks different, stands beside what is wrong with the host."""
        dhcp = judge_with(NAT.replace(":53/udp", ":67/udp"))
        assert [("pool dns", "source: keep")] == [(one.subject, one.mend) for one in ill(dhcp)]
        shared = judge_with(
            NAT.replace("192.0.2.53:53/udp", "192.0.2.53:53-54/udp").replace(
                "    backends", "    source: keep\n    backends"
            )
        )
        assert [("pool dns", "a backend port of its own for each listener")] == [
            (one.subject, one.mend) for one in ill(shared)
        ]

    def test_routes_from_router_advertisements_survive_forwarding(self) -> None:
        """Switching forwarding on would make the host forget its default route."""
        (finding,) = ill(judge_with(sysctls={"net/ipv6/conf/all/forwarding": 0}, advertised=frozenset({"eth1.7"})))

        assert finding.mend == "sysctl -w net/ipv6/conf/eth1.7/accept_ra=2 net.ipv6.conf.all.forwarding=1"

    @pytest.mark.parametrize(
        ("sysctls", "message"),
        [
            ({"nf_conntrack_max": 19_999}, "room for 19999 entries: 9999 clients of pool dns, each of which takes 2"),
            ({"nf_conntrack_count": 220_000}, "220000 of at most 262144 entries are in use"),
            ({"nf_conntrack_udp_timeout": 600}, "nf_conntrack_udp_timeout is 600 s"),
        ],
    )
    def test_the_size_of_conntrack(self, sysctls: Mapping[str, int], message: str) -> None:
        (finding,) = ill(judge_with(sysctls={f"net/netfilter/{name}": value for name, value in sysctls.items()}))

        assert (finding.subject, finding.severity) == ("conntrack", Severity.WARNING)
        assert message in finding.message
        assert finding.mend.startswith("sysctl -w net.netfilter.nf_conntrack")

    def test_conntrack_does_not_matter_without_it(self) -> None:
        """`stateless` puts nothing into it."""
        text = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n")

        assert told(judge_with(text, sysctls={"net/netfilter/nf_conntrack_max": 10})) == []

    def test_sctp_needs_a_kernel_that_knows_it(self) -> None:
        text = NAT.replace("192.0.2.53:53/udp,", "192.0.2.53:53/sctp,")
        sysctls = {name: value for name, value in HEALTHY.sysctls.items() if "sctp" not in name}
        config = parse(text)

        assert told(list(judge(config, Compiled(config), HEALTHY))) == []
        assert told(list(judge(config, Compiled(config), replace(HEALTHY, sysctls=sysctls)))) == ["error conntrack"]

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
    def test_refusals_that_traffic_uses_up(self, lines: tuple[str, ...], warned: bool) -> None:
        """Where nobody hears of them, a server that is gone is found late."""
        more = "".join(f"    {line}\n" for line in lines)
        found = ill(judge_with(NAT.replace("  dns:\n", f"  dns:\n{more}")))

        assert [("pool dns", Severity.WARNING)] * warned == [
            (one.subject, one.severity) for one in found if one.subject == "pool dns"
        ]

    def test_datagrams_joined_on_arrival(self) -> None:
        (finding,) = ill(judge_with(batching={"eth0": ("rx-udp-gro-forwarding", "rx-gro-list")}))

        assert finding.mend == "ethtool -K eth0 rx-udp-gro-forwarding off rx-gro-list off"

    def test_services_of_ipvs(self) -> None:
        """Read as the kernel prints them; only one at the same address, port and protocol matters."""
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

        (finding,) = ill(judge_with(ipvs=services))
        assert (finding.subject, finding.mend) == ("pool dns", "ipvsadm -D -u 192.0.2.53:53")

    def test_a_default_route_through_loopback(self) -> None:
        routes = {**HEALTHY.routes, ip_address("10.0.1.2"): Route(4, 254, index=1)}

        assert told(judge_with(routes=routes)) == ["error backend dns/b1"]

    def test_own_steering_rules_are_no_clash(self) -> None:
        """What nftlb itself has made is told by its protocol number."""
        addresses = ("198.51.100.11", "198.51.100.12", "2001:db8:1::b1", "2001:db8:1::b2")
        routes = {
            **HEALTHY.routes,
            **{ip_address(one): Route(ip_address(one).version, 254, index=2) for one in addresses},
        }
        ours, theirs = (Rule(4, 60001, mark=60001, mask=0xFFFFFFFF, protocol=number) for number in (110, 3))

        assert told(judge_with(DSR, routes=routes, rules=(ours,))) == []
        assert told(judge_with(DSR, routes=routes, rules=(theirs,))) == ["warning marks"]


def chain(name: str, hook: str = "", policy: str = "accept", kind: str = "filter", prio: int = 0) -> dict[str, Any]:
    base = {"type": kind, "hook": hook, "prio": prio, "policy": policy} if hook else {}
    return {"chain": {"family": "inet", "table": "t", "name": name, **base}}


def rule(where: str, *expressions: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "t", "chain": where, "handle": 9, "expr": list(expressions)}}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


PREFIX = {"prefix": {"addr": "10.0.0.0", "len": 8}}
ACCEPT, DROP = {"accept": None}, {"drop": None}


class TestOtherTables:
    """Rules as nft's JSON has them."""

    @pytest.mark.parametrize(
        ("rules", "expected"),
        [
            ([], {"drop"}),
            ([rule("c", ACCEPT)], {"accept"}),
            ([rule("c", match({"meta": {"key": "iifname"}}, "eth0"), ACCEPT)], {"accept", "drop"}),
            ([rule("c", match(payload("ip", "daddr"), "10.0.1.2"), ACCEPT)], {"accept"}),
            ([rule("c", match(payload("ip", "daddr"), "10.0.1.2", "!="), ACCEPT)], {"drop"}),
            ([rule("c", match(payload("ip", "daddr"), "10.0.1.3", "!="), ACCEPT)], {"accept"}),
            ([rule("c", match(payload("ip6", "daddr"), "fd00::1", "!="), ACCEPT)], {"drop"}),
            ([rule("c", match(payload("ip", "daddr"), PREFIX), ACCEPT)], {"accept"}),
            ([rule("c", match(payload("ip", "daddr"), {"range": ["10.0.0.1", "10.0.1.1"]}), ACCEPT)], {"drop"}),
            ([rule("c", match(payload("ip", "daddr"), "@trusted"), ACCEPT)], {"accept", "drop"}),
            ([rule("c", match(payload("tcp", "dport"), 5353), ACCEPT)], {"drop"}),
            ([rule("c", match(payload("udp", "dport"), {"set": [1, {"range": [5000, 6000]}]}), ACCEPT)], {"accept"}),
            ([rule("c", match(payload("udp", "sport"), 53), ACCEPT)], {"drop"}),
            ([rule("c", match(payload("udp", "sport"), {"range": [2000, 3000]}), ACCEPT)], {"accept", "drop"}),
            ([rule("c", match({"meta": {"key": "l4proto"}}, {"set": ["tcp", "udp"]}), ACCEPT)], {"accept"}),
            ([rule("c", match({"ct": {"key": "state"}}, ["established", "related"], "in"), ACCEPT)], {"drop"}),
            ([rule("c", match({"ct": {"key": "status"}}, "dnat", "in"), ACCEPT)], {"accept"}),
            ([rule("c", {"xt": {"type": "match", "name": "conntrack"}}, ACCEPT)], {"accept", "drop"}),
            ([rule("c", {"xt": {"type": "match", "name": "tcp"}}, ACCEPT)], {"drop"}),
            ([rule("c", {"jump": {"target": "d"}})], {"drop"}),
            ([rule("c", {"jump": {"target": "d"}}), rule("d", ACCEPT)], {"accept"}),
            ([rule("c", {"jump": {"target": "d"}}), rule("d", {"return": None}), rule("d", ACCEPT)], {"drop"}),
            ([rule("c", {"jump": {"target": "d"}}), rule("d", {"jump": {"target": "c"}})], {"drop"}),
            ([rule("c", {"vmap": {"key": {}, "data": {"set": [[53, {"jump": {"target": "d"}}]]}}}), rule("d", ACCEPT)],
             {"accept", "drop"}),
            ([rule("c", {"limit": {"rate": 1}}, ACCEPT)], {"accept", "drop"}),
            ([rule("c", {"reject": None}), rule("c", ACCEPT)], {"drop"}),
        ],
    )  # fmt: skip
    def test_what_becomes_of_a_packet(self, rules: list[dict[str, Any]], expected: set[str]) -> None:
        """Of a tracked UDP datagram to 10.0.1.2, port 5353, in a chain that drops what it does not accept."""
        chains = read_chains([chain("c", "forward", "drop"), chain("d"), *rules])
        traffic = next(forwarded(parse(NAT)))

        assert expected == follow(chains, chains["inet t", "c"], traffic).fates

    @pytest.mark.parametrize(
        ("text", "base", "statement", "expected"),
        [
            (NAT, chain("c", "prerouting", prio=-300), {"notrack": None}, ["error"]),
            (NAT, chain("c", "prerouting", prio=-150), {"notrack": None}, []),
            (NAT, chain("c", "prerouting", prio=-300), {"xt": {"type": "target", "name": "CT"}}, ["warning"]),
            (NAT, chain("c", "prerouting", kind="nat", prio=-100), {"redirect": {"port": 5}}, ["error"]),
            (NAT, chain("c", "prerouting", kind="nat", prio=-90), {"redirect": {"port": 5}}, []),
            (NAT, chain("c", "output", kind="nat", prio=-100), {"xt": {"type": "target", "name": "DNAT"}}, ["error"]),
            (NAT, chain("c", "postrouting", kind="nat", prio=100), {"masquerade": None}, []),
            (NAT.replace("  dns:\n", "  dns:\n    source: keep\n"), chain("c", "postrouting", kind="nat", prio=100),
             {"masquerade": None}, ["error"]),
            (NAT, chain("c", "forward"), {"flow": {"op": "add", "flowtable": "@f"}}, ["error"]),
            (NAT.replace("  dns:\n", "  dns:\n    per: flow\n"), chain("c", "forward"),
             {"flow": {"op": "add", "flowtable": "@f"}}, []),
            (DSR, chain("c", "prerouting", prio=-300), {"notrack": None}, []),
            (DSR, chain("c", "prerouting", prio=-150), {"mangle": {"key": {"meta": {"key": "mark"}}, "value": 1}},
             ["error"]),
            (DSR, chain("c", "prerouting", prio=-150), {"mangle": {"key": {"meta": {"key": "priority"}}, "value": 1}},
             []),
            (NAT, chain("c", "prerouting", prio=-150), {"xt": {"type": "target", "name": "MARK"}}, []),
            (NAT, chain("c", "forward", "drop"), ACCEPT, []),
            (NAT, chain("c", "forward"), DROP, ["error"]),
            (NAT, chain("c", "input"), DROP, []),
        ],
    )  # fmt: skip
    def test_what_is_in_the_way(
        self, text: str, base: dict[str, Any], statement: dict[str, Any], expected: list[str]
    ) -> None:
        """One rule that meets every packet, in one chain: only where it does harm is it told."""
        found = list(judge_foreign([base, rule("c", statement)], parse(text)))

        assert expected == [str(one.severity) for one in ill(found)]

    def test_tables_of_iptables_are_mended_with_iptables(self) -> None:
        """It refuses to show tables with rules that it can't have written."""
        base = {"type": "nat", "hook": "prerouting", "prio": -100, "policy": "accept"}
        objects: list[dict[str, Any]] = [
            {"chain": {"family": "ip", "table": "nat", "name": "PREROUTING", **base}},
            {"rule": {"family": "ip", "table": "nat", "chain": "PREROUTING", "handle": 3,
                      "expr": [{"xt": {"type": "match", "name": "addrtype"}}, {"jump": {"target": "DOCKER"}}]}},
            {"chain": {"family": "ip", "table": "nat", "name": "DOCKER"}},
            {"rule": {"family": "ip", "table": "nat", "chain": "DOCKER", "handle": 4,
                      "expr": [match(payload("tcp", "dport"), 53), {"xt": {"type": "target", "name": "DNAT"}}]}},
            {"rule": {"family": "ip", "table": "nat", "chain": "DOCKER", "handle": 5,
                      "expr": [match(payload("udp", "dport"), 53), {"xt": {"type": "target", "name": "DNAT"}}]}},
        ]  # fmt: skip
        (finding,) = ill(judge_with(nft=Nft(version="1.0.6", foreign=tuple(objects))))

        assert finding.subject == "table ip nat, chain DOCKER, handle 5"
        assert finding.severity is Severity.WARNING
        assert finding.mend == "iptables -t nat -I PREROUTING -p udp -d 192.0.2.53 --dport 53 -j ACCEPT"


@pytest.mark.parametrize(
    ("version", "said"),
    [("1.0.6", ""), ("1.1.3", ""), ("1.1.7", ""), ("1.0.5", "older"), ("1.1.8", "newer"), ("1.2.0", "newer")],
)
def test_a_version_of_nft_that_nobody_tried(version: str, said: str) -> None:
    """An older or a newer nft is a warning that names the versions which are known; a known one is fine."""
    finding = next(_judge_nft(replace(HEALTHY, nft=replace(HEALTHY.nft, version=version))))

    assert ("warning" if said else "ok") == finding.severity
    assert f"version {version}" in finding.message
    assert said in finding.message
    assert not said or "1.0.6 to 1.1.7" in finding.message
