"""Examinations of real hosts in namespaces: each fault is found, and its fix removes it."""

from __future__ import annotations

import ctypes
import socket
import sys
from typing import TYPE_CHECKING

import pytest
from doctor_facts import DSR, NAT, fault_names, faults
from unprivileged import unprivileged

from nftlb.config import parse_config
from nftlb.doctor import Finding, Severity, examine
from nftlb.kernel.generation import read_generation
from nftlb.lab import Lab, Namespace

if TYPE_CHECKING:
    from collections.abc import Iterator


class TestRealHosts:
    """Namespaces: a fault is found, and its fix, pasted into a shell, removes it."""

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
        """Expect these findings and no others, and none after all fixes are done."""
        config = parse_config(text)
        findings = host.call(examine, config)
        assert expected == fault_names(findings)

        for finding in faults(findings):
            host.run(["sh", "-ec", finding.fix])
        assert fault_names(host.call(examine, config)) == []

    def test_a_good_host_has_no_faults(self, balancer: Namespace, dsr_balancer: Namespace) -> None:
        """The labs of the other tests have no faults."""
        for host, text in ((balancer, NAT), (dsr_balancer, DSR)):
            findings = host.call(examine, parse_config(text))
            assert fault_names(findings) == []
            assert Finding(Severity.OK, "backends", "4 of 4 have a route") in findings

    def test_ports_that_are_given_to_sockets(self, dsr_balancer: Namespace) -> None:
        """Linux may use an alias port and a wide range of a listener. Ports that are reserved already stay reserved."""
        dsr_balancer.sysctl("net.ipv4.ip_local_port_range", "20000 61100")
        dsr_balancer.sysctl("net.ipv4.ip_local_reserved_ports", "8000-8001,21000")
        text = DSR.replace("192.0.2.53:53/udp,", "192.0.2.53:53/udp, 192.0.2.53:19000-22000/udp,")

        self.check(dsr_balancer, text, ["warning own ports"])
        assert "8000-8001,20000-22000,61053" == dsr_balancer.sysctl("net.ipv4.ip_local_reserved_ports")

    def test_no_port_is_left_for_sockets(self, dsr_balancer: Namespace) -> None:
        """The fix is not to reserve all ports: the host itself could make no connections."""
        findings = dsr_balancer.call(
            examine, parse_config(DSR.replace("192.0.2.53:53/udp", "192.0.2.53:1024-65535/udp"))
        )
        assert fault_names(findings) == ["warning own ports"]
        assert faults(findings)[0].fix.startswith("listen at fewer ports")

    def test_a_wide_range_of_ports_that_are_given_to_sockets(self, dsr_balancer: Namespace) -> None:
        """A wide range that overlaps Linux's default range is handled by the rules, with a finding that says so."""
        findings = dsr_balancer.call(
            examine, parse_config(DSR.replace("192.0.2.53:53/udp", "192.0.2.53:33000-60000/udp"))
        )
        assert fault_names(findings) == []
        assert ["tracks this host's own traffic because 192.0.2.53:33000-60000/udp is a wide range"] == [
            finding.message for finding in findings if finding.subject == "conntrack"
        ]

    def test_a_host_with_only_the_service_address(self, dsr_balancer: Namespace) -> None:
        """Backends hold the address too, so the host needs another address."""
        text = DSR.replace("192.0.2.53:53", "198.51.100.1:53").replace("[2001:db8::53]:53", "[2001:db8:1::1]:53")
        found = faults(dsr_balancer.call(examine, parse_config(text)))
        arp = "answer neither its health checks nor its ARP requests"
        holds = "which backends of `forward: dsr` hold themselves: they"
        assert [
            f"this host sends to b1, b2 from 198.51.100.1, {holds} {arp}",
            f"this host sends to c1, c2 from 2001:db8:1::1, {holds} don't answer its health checks",
        ] == [finding.message for finding in found]

        for address, prefix, second in (
            ("198.51.100.1", 24, "198.51.100.1/32"),
            ("2001:db8:1::1", 64, "2001:db8:1::1/128 preferred_lft 0"),
        ):
            own = f"{address.removesuffix('1')}9/{prefix}"
            for command in (f"del {address}/{prefix}", f"add {own}", f"add {second}"):
                dsr_balancer.run(["ip", "address", *command.split(), "dev", "eth0"])
        assert fault_names(dsr_balancer.call(examine, parse_config(text))) == []

    def test_backends_as_clients(self, balancer: Namespace) -> None:
        """With `stateless` they lose packets. The finding is not a fault of the host."""
        found = {
            forward: [
                finding.message
                for finding in balancer.call(
                    examine, parse_config(NAT.replace("  dns:", f"  dns:\n    forward: {forward}"))
                )
                if finding.subject == "backends as clients"
            ]
            for forward in ("nat", "stateless")
        }
        assert [] == found["nat"]
        assert [
            "a backend that sends to its own pool loses the packets that go to itself: dns (no `hairpin: true`)"
        ] == found["stateless"]

    def test_nothing_is_changed(self, balancer: Namespace) -> None:
        """The examination changes neither rules nor their generation number."""
        before = balancer.call(read_generation)

        balancer.call(examine, parse_config(NAT))
        balancer.call(examine, None)

        assert before == balancer.call(read_generation)
        assert balancer.run(["nft", "list", "ruleset"]) == ""

    def test_no_forwarding(self, balancer: Namespace) -> None:
        for name in ("ipv4.ip_forward", "ipv6.conf.all.forwarding"):
            balancer.sysctl(f"net.{name}", 0)

        self.check(balancer, NAT, ["error forwarding"] * 2)

    def test_settings_are_read_without_proc_sys(self, dsr_balancer: Namespace) -> None:
        """The daemon's unit hides /proc/sys. Forwarding and filters are found, and what is not known is named."""
        for name, value in (("ip_forward", 0), ("conf.all.rp_filter", 1)):
            dsr_balancer.sysctl(f"net.ipv4.{name}", value)
        code = "import sys; from nftlb.config import parse_config; from nftlb.doctor import examine\n"
        code += "for one in examine(parse_config(sys.argv[1])): print(one.severity, one.subject)"
        hidden = 'mount -t proc -o subset=pid proc /proc && exec "$@"'
        out = dsr_balancer.run(["unshare", "-m", "sh", "-ec", hidden, "sh", sys.executable, "-c", code, DSR])
        found = [line for line in out.splitlines() if not line.startswith("ok ")]
        assert ["error forwarding", "unknown settings", "warning rp_filter"] == sorted(found)
        assert not {"ok forwarding", "ok own ports"} & set(out.splitlines())

    def test_no_forwarding_from_one_interface(self, balancer: Namespace) -> None:
        balancer.sysctl("net.ipv4.conf.client1.forwarding", 0)

        self.check(balancer, NAT, ["warning forwarding"])

    def test_without_a_configuration_forwarding_is_a_warning(self, balancer: Namespace) -> None:
        """The host may not have to balance IPv6."""
        balancer.sysctl("net.ipv6.conf.all.forwarding", 0)

        assert fault_names(balancer.call(examine, None)) == ["warning forwarding"]

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
        """On a link without a peer, duplicate address detection does not end, and the address stays tentative."""
        balancer.run(["ip", "link", "add", "nix0", "type", "veth", "peer", "name", "nix1"])
        balancer.sysctl("net.ipv6.conf.nix0.accept_dad", 1)
        balancer.run(["ip", "link", "set", "nix0", "up"])
        balancer.run(["ip", "address", "add", "2001:db8::77/64", "dev", "nix0"])

        text = NAT.replace("2001:db8::53", "2001:db8::77")
        assert fault_names(balancer.call(examine, parse_config(text))) == ["warning address 2001:db8::77"]

    def test_backends_without_a_route(self, balancer: Namespace) -> None:
        balancer.run(["ip", "route", "del", "10.0.1.0/24", "dev", "b1"])
        balancer.run(["ip", "-6", "route", "add", "unreachable", "fd00:2::2/128"])

        findings = balancer.call(examine, parse_config(NAT))

        assert fault_names(findings) == ["error backend dns/b1", "error backend dns/c2"]

    def test_a_backend_behind_a_router(self, dsr_balancer: Namespace) -> None:
        """With `dsr` this is an error, unless the backend has a `via`."""
        dsr_balancer.run(["ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.12"])
        text = DSR.replace("b2: 198.51.100.12", "b2: {address: 203.0.113.7}")

        assert fault_names(dsr_balancer.call(examine, parse_config(text))) == [
            "error backend dns/b2",
            "warning pool dns",
        ]
        text = text.replace("203.0.113.7", "203.0.113.7, via: 198.51.100.12")
        assert fault_names(dsr_balancer.call(examine, parse_config(text))) == []

    def test_link_local_backends(self, dsr_balancer: Namespace) -> None:
        """Only their interface is checked: the routing table has link-local addresses on every link."""
        dsr_balancer.run(["ip", "link", "add", "spare0", "type", "veth", "peer", "name", "spare1"])
        text = DSR.replace('"2001:db8:1::b1"', '"fe80::b1%spare0"').replace('"2001:db8:1::b2"', '"fe80::b2%eth0"')
        self.check(dsr_balancer, text, ["error backend dns/c1"])

        missing = dsr_balancer.call(examine, parse_config(text.replace("spare0", "nix0")))
        assert "error backend dns/c1" in fault_names(missing)

    @pytest.mark.parametrize(
        ("address", "other"), [("10.9.9.9", "fd00:1::1"), ("fd00:9::9", "10.0.1.1")], ids=["ipv4", "ipv6"]
    )
    @pytest.mark.parametrize("where", ["pool", "health"])
    def test_a_source_that_this_host_does_not_have(
        self, balancer: Namespace, address: str, other: str, where: str
    ) -> None:
        """The source of a pool or of a health check is missing until the host has it."""
        source = f"source: ['{address}', '{other}']"
        line = {"pool": source, "health": f"health: {{icmp: , {source}}}"}[where]
        text = NAT.replace("  dns:\n", f"  dns:\n    {line}\n")
        assert [f"error address {address}"] == fault_names(balancer.call(examine, parse_config(text)))

        balancer.run(["ip", "address", "add", address, "dev", "b1", *(["nodad"] if ":" in address else [])])
        findings = balancer.call(examine, parse_config(text))
        assert [] == fault_names(findings)
        both = ", ".join(sorted((address, other)))
        assert Finding(Severity.OK, "sources", f"{both}: addresses of this host") in findings

    def test_a_source_that_is_the_services_own_address(self, balancer: Namespace) -> None:
        """A VRRP backup does not have the address, which is not an error."""
        balancer.run(["ip", "address", "del", "192.0.2.53/32", "dev", "lo"])
        text = NAT.replace("  dns:\n", "  dns:\n    source: [192.0.2.53, '2001:db8::53']\n")

        assert ["warning address 192.0.2.53"] == fault_names(balancer.call(examine, parse_config(text)))

    def test_no_address_to_masquerade_with(self, balancer: Namespace) -> None:
        """A route leads to the backend, but the host has no address for masquerade."""
        for name in ("lo", "client1", "b1", "b2"):
            balancer.run(["ip", "-4", "address", "flush", "dev", name])
        balancer.run(["ip", "route", "add", "10.0.1.2/32", "dev", "b1"])
        balancer.run(["ip", "route", "add", "10.0.2.2/32", "dev", "b2"])

        found = fault_names(balancer.call(examine, parse_config(NAT)))
        assert ["warning address 192.0.2.53", "error backend dns/b1", "error backend dns/b2"] == found

    def test_interfaces_of_the_fast_path(self, dsr_balancer: Namespace) -> None:
        """A missing interface is an error. Kernels before 6.16 also refuse the whole ruleset: another finding."""
        findings = dsr_balancer.call(examine, parse_config(DSR.replace("[eth0]", "[eth0, nix0]")))

        assert fault_names(findings)[-1] == "error interface nix0"

    def test_interfaces_of_checks(self, balancer: Namespace) -> None:
        balancer.run(["ip", "link", "set", "client1", "down"])
        health = "[{icmp: , device: client1}, {dns: , device: nix0}, {dns: , device: nix0}, {udp: , device: b1}]"
        findings = balancer.call(examine, parse_config(NAT.replace("  dns:\n", f"  dns:\n    health: {health}\n")))

        assert ["warning interface client1", "error interface nix0"] == fault_names(findings)

    def test_sizes_on_the_fast_path(self, balancer: Namespace) -> None:
        balancer.run(["ip", "link", "set", "b2", "mtu", "1400"])
        text = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n    ingress: [client1]\n")

        self.check(balancer, text, ["warning interface b2"])

    def test_rules_that_take_packets_from_conntrack(self, balancer: Namespace) -> None:
        """Name servers use such rules to avoid conntrack."""
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

    def test_rules_that_drop_forwarded_packets(self, balancer: Namespace) -> None:
        """A firewall that accepts only replies."""
        balancer.run(
            ["nft", "add table inet t; add chain inet t c { type filter hook forward priority 0; policy drop; }"]
        )
        balancer.run(["nft", "add rule inet t c ct state established,related accept"])

        self.check(balancer, NAT, ["error table inet t, chain c"])

    def test_rules_that_drop_untracked_packets(self, balancer: Namespace) -> None:
        """Without conntrack, each direction needs a rule for each backend. The findings name the first rule of each."""
        balancer.run(["nft", "add table ip t; add chain ip t c { type filter hook forward priority 0; policy drop; }"])
        text = NAT.replace("  dns:\n", "  dns:\n    forward: stateless\n")

        findings = faults(balancer.call(examine, parse_config(text)))

        assert [finding.fix for finding in findings] == [
            "nft insert rule ip t c ip daddr 10.0.1.2 udp dport 5353 accept",
            "nft insert rule ip t c ip saddr 10.0.1.2 udp sport 5353 accept",
        ]

    def test_zones_of_other_programs(self, balancer: Namespace) -> None:
        """Both conntrack entries and rules of other programs use zones."""
        zones = ["--zone", "2", "-s", "192.0.2.1", "-d", "192.0.2.2", "--sport", "1", "--dport", "2"]
        balancer.run(["conntrack", "-I", "-p", "udp", "-t", "600", *zones])
        balancer.run(["nft", "add table ip t; add chain ip t c { type filter hook output priority raw; }"])
        balancer.run(["nft", "add rule ip t c ct zone set ip daddr map { 10.9.9.9 : 4, 10.9.9.8 : 900 }"])

        (finding,) = faults(balancer.call(examine, parse_config(NAT)))

        assert (finding.subject, finding.fix) == ("conntrack zones", "zones: {first: 901}")
        assert finding.message == "2, 4: other programs use these zones too (1 entries, 1 by rules)"
        assert fault_names(balancer.call(examine, parse_config("zones: {first: 901}" + NAT))) == []

    def test_marks_of_other_programs(self, dsr_balancer: Namespace) -> None:
        dsr_balancer.run(["ip", "rule", "add", "fwmark", "0xea60/0xfff0", "lookup", "7"])

        (finding,) = faults(dsr_balancer.call(examine, parse_config(DSR)))

        assert (finding.subject, finding.fix) == ("marks", "marks: {first: 10000}")
        assert fault_names(dsr_balancer.call(examine, parse_config(finding.fix + DSR))) == []

    def test_tables_of_the_old_iptables(self, balancer: Namespace) -> None:
        """The kernel makes a table when a program first asks for it (IPT_SO_GET_INFO), as iptables does."""

        def ask_for_table() -> int:
            info, size = ctypes.create_string_buffer(b"nat", 84), ctypes.c_uint(84)
            with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as sock:
                return int(ctypes.CDLL(None).getsockopt(sock.fileno(), socket.SOL_IP, 64, info, ctypes.byref(size)))

        there = balancer.call(ask_for_table) == 0  # newer kernels can be built without it

        assert fault_names(balancer.call(examine, parse_config(NAT))) == ["warning iptables (legacy)"] * there

    def test_without_privileges_the_other_checks_go_on(self, balancer: Namespace) -> None:
        findings = unprivileged(balancer, lambda: examine(parse_config(NAT)))

        assert fault_names(findings) == ["error nftables"]
        assert Finding(Severity.OK, "backends", "4 of 4 have a route") in findings

    def test_without_the_binding_the_other_checks_go_on(
        self, balancer: Namespace, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setitem(sys.modules, "nftables", None)

        (finding,) = faults(balancer.call(examine, parse_config(NAT)))

        assert "nftables" == finding.subject
        assert finding.fix.startswith("apt install python3-nftables")
