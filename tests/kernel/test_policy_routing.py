"""Routing rules and routes by mark, in separate namespaces, verified with `ip`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING, Any

import pytest
from unprivileged import unprivileged

from nftlb.compiler import Hop
from nftlb.errors import KernelError, SystemFault
from nftlb.kernel import rtnetlink
from nftlb.kernel.policy_routing import PartlyRefusedError, PolicyRouting, find_hops
from nftlb.lab import VIP4, VIP6, Lab

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nftlb.lab import Namespace

STEER = """
table inet steer {
    chain prerouting {
        type filter hook prerouting priority raw; policy accept;
        ip daddr 192.0.2.53 udp dport 53 notrack meta mark set numgen inc mod 3 offset 60001
        ip6 daddr 2001:db8::53 udp dport 53 notrack meta mark set numgen inc mod 3 offset 60011
    }
    chain join { meta l4proto udp tproxy to :1; }
}
"""


@pytest.fixture
def lab() -> Iterator[Lab]:
    with Lab(backends=3, dsr=True) as lab:
        yield lab


@pytest.fixture
def host(lab: Lab) -> Namespace:
    return lab.balancer


def steered(lab: Lab) -> dict[int, Hop]:
    """Return marks for all backends: 60001... for IPv4, with the device that the kernel finds, 60011... for IPv6."""
    ipv4 = {60001 + n: Hop(ip_address(backend.ipv4), "") for n, backend in enumerate(lab.backends)}
    ipv6 = {60011 + n: Hop(ip_address(backend.ipv6), "eth0") for n, backend in enumerate(lab.backends)}
    return ipv4 | ipv6


def apply(host: Namespace, wanted: dict[int, Hop]) -> list[str]:
    return host.call(PolicyRouting().apply, wanted)


def everything(host: Namespace) -> str:
    """Return all rules and routes of IPv4 and IPv6, with all details of iproute2."""
    commands = [
        ["ip", f"-{version}", "-details", *what]
        for version in (4, 6)
        for what in (["rule"], ["route", "show", "table", "all"])
    ]
    return "".join(host.run(command) for command in commands)


def rules(host: Namespace, version: int = 4) -> list[str]:
    return host.run(["ip", f"-{version}", "rule"]).replace("\t", " ").splitlines()


@pytest.mark.parametrize(("vip", "version"), [(VIP4, 4), (VIP6, 6)])
@pytest.mark.parametrize("size", [64, 4000])
def test_packets_for_a_local_address_go_to_the_backend_of_their_mark(
    lab: Lab, host: Namespace, vip: str, version: int, size: int
) -> None:
    """One socket's datagrams, whole or in fragments, reach each backend in turn, and replies come from the VIP."""
    apply(host, steered(lab))
    lab.nft(STEER)
    with lab.serve(port=53, versions=(version,)), lab.client.connect((vip, 53)) as client:
        answers = client.exchange(6, size=size, reply_size=64)

    assert ["b1", "b2", "b3"] * 2 == [answer.backend for answer in answers]


def test_without_policy_routing_packets_stay_on_the_balancer(lab: Lab) -> None:
    """Marks alone change nothing, because the VIP is an address of the balancer."""
    lab.nft(STEER)
    with lab.serve(port=53, versions=(4,)) as servers, lab.client.connect((VIP4, 53)) as client:
        answers = client.exchange(3)

        assert [111] * 3 == [answer.error.errno for answer in answers if answer.error]
        assert servers.settle() == []


def test_our_routing_rules_precede_the_local_rule(lab: Lab, host: Namespace) -> None:
    """`ip rule` then shows our rules before the local rule, and foreign rules unmoved."""
    host.run(["ip", "rule", "add", "fwmark", "5", "lookup", "5", "pref", "10"])

    apply(host, steered(lab))

    assert rules(host) == [
        "0: from all fwmark 0xea61 lookup 60001 proto 110",
        "0: from all fwmark 0xea62 lookup 60002 proto 110",
        "0: from all fwmark 0xea63 lookup 60003 proto 110",
        "0: from all lookup local",
        "10: from all fwmark 0x5 lookup 5",
        "32766: from all lookup main",
        "32767: from all lookup default",
    ]


def test_after_removal_all_is_as_before_byte_by_byte(lab: Lab, host: Namespace) -> None:
    """Foreign rules and routes stay, with their marks, tables and protocols."""
    for command in (
        "-4 rule add fwmark 60001/0xffff lookup 700 pref 10",
        "-6 rule add from fd00::/8 lookup 60001 pref 11 protocol static",
        "-4 route add default via 198.51.100.12 table 60009 protocol static",
        "-6 route add default via 2001:db8:1::b2 table 60011 metric 9",
    ):
        host.run(["ip", *command.split()])
    before = everything(host)

    apply(host, steered(lab))
    assert before != everything(host)

    assert len(host.call(PolicyRouting().remove)) == 12
    assert before == everything(host)


def test_correct_routing_rules_are_not_changed(lab: Lab, host: Namespace) -> None:
    """A second call changes nothing; a hop without a device accepts any device."""
    assert len(apply(host, steered(lab))) == 16
    settled = everything(host)

    assert apply(host, steered(lab)) == []
    assert settled == everything(host)


def test_the_current_state_is_read_from_the_kernel(lab: Lab, host: Namespace) -> None:
    """The devices are those that the kernel found; a mark without its rule or route is left out."""
    wanted = steered(lab)
    assert host.call(PolicyRouting().current) == {}

    apply(host, wanted)
    assert {mark: Hop(hop.via, "eth0") for mark, hop in wanted.items()} == host.call(PolicyRouting().current)

    host.run(["ip", "rule", "del", "fwmark", "60001"])
    host.run(["ip", "-6", "route", "del", "default", "table", "60012"])
    assert wanted.keys() - {60001, 60012} == host.call(PolicyRouting().current).keys()


def test_only_the_difference_is_changed_and_additions_come_first(lab: Lab, host: Namespace) -> None:
    """One mark is deleted, one added, and one gets another hop in place of the old hop."""
    first, second, third = (ip_address(backend.ipv4) for backend in lab.backends)
    apply(host, {60001: Hop(first, ""), 60002: Hop(second, "eth0")})

    changes = apply(host, {60002: Hop(third, "eth0"), 60003: Hop(second, "eth0")})

    assert changes == [
        f"ip -4 route replace default via {third} dev eth0 table 60002",
        f"ip -4 route add default via {second} dev eth0 table 60003",
        "ip -4 rule add fwmark 0xea63 lookup 60003 pref 0",
        "ip -4 rule add from all lookup local pref 0",
        "ip -4 rule delete from all lookup local pref 0",
        "ip -4 rule delete fwmark 0xea61 lookup 60001 pref 0",
        f"ip -4 route delete default via {first} dev eth0 table 60001",
    ]
    assert {60002: Hop(third, "eth0"), 60003: Hop(second, "eth0")} == host.call(PolicyRouting().current)


def test_deleted_rules_and_routes_are_restored(lab: Lab, host: Namespace) -> None:
    """Restored are a deleted rule, a route deleted with its interface, and the position of the local rule."""
    wanted = steered(lab)
    apply(host, wanted)
    settled = rules(host)
    host.run(["ip", "rule", "del", "fwmark", "60003"])
    host.run(["ip", "link", "set", "eth0", "down"])
    host.run(["ip", "link", "set", "eth0", "up"])
    host.run(["ip", "-6", "address", "add", "2001:db8:1::1/64", "dev", "eth0", "nodad"])

    apply(host, wanted)

    assert settled == rules(host)
    assert wanted.keys() == host.call(PolicyRouting().current).keys()


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> list[list[rtnetlink.RoutingRule]]:
    """Yield the rules of the IP version after every single change."""
    seen: list[list[rtnetlink.RoutingRule]] = []

    def watch(original: Callable[[Any, rtnetlink.RoutingRule], None]) -> Callable[[Any, rtnetlink.RoutingRule], None]:
        def change(netlink: Any, rule: rtnetlink.RoutingRule) -> None:
            original(netlink, rule)
            seen.append(rtnetlink.read_rules(netlink, rule.version))

        return change

    monkeypatch.setattr(rtnetlink, "add_rule", watch(rtnetlink.add_rule))
    monkeypatch.setattr(rtnetlink, "delete_rule", watch(rtnetlink.delete_rule))
    return seen


def test_the_host_is_never_without_its_local_rule(
    lab: Lab, host: Namespace, watched: list[list[rtnetlink.RoutingRule]]
) -> None:
    """After each step a local rule exists at preference 0, with the kernel's protocol number."""
    apply(host, steered(lab))
    apply(host, {60009: Hop(ip_address(lab.backends[0].ipv4), "")})
    host.call(PolicyRouting().remove)

    assert len(watched) == 20
    for state in watched:
        assert rtnetlink.RoutingRule(state[0].version, rtnetlink.LOCAL_TABLE, protocol=2) in state


def test_flushed_rules_leave_the_host_reachable(lab: Lab, host: Namespace) -> None:
    """`ip rule flush` keeps the local rule, because it has preference 0."""
    apply(host, steered(lab))

    host.run(["ip", "rule", "flush"])

    assert rules(host)[-1] == "0: from all lookup local"


def test_an_interrupted_change_is_completed(lab: Lab, host: Namespace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that dies between two steps leaves two local rules; the next process leaves one."""
    before = everything(host)

    def die(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rtnetlink, "delete_rule", die)
        with pytest.raises(KeyboardInterrupt):
            apply(host, steered(lab))
    assert rules(host).count("0: from all lookup local") == 2

    host.call(PolicyRouting().remove)
    assert before == everything(host)


def test_a_moved_local_rule_is_not_moved_again(lab: Lab, host: Namespace) -> None:
    """If the local rule was moved to another preference, it stays there: ours come before it anyway."""
    host.run(["ip", "rule", "add", "lookup", "local", "pref", "100"])
    host.run(["ip", "rule", "del", "lookup", "local", "pref", "0"])
    before = everything(host)

    apply(host, {60001: Hop(ip_address(lab.backends[0].ipv4), "")})
    assert rules(host)[:2] == ["0: from all fwmark 0xea61 lookup 60001 proto 110", "100: from all lookup local"]
    assert list(host.call(PolicyRouting().current)) == [60001]

    host.call(PolicyRouting().remove)
    assert before == everything(host)


@pytest.mark.parametrize(
    ("mark", "hop", "message"),
    [
        (60009, Hop(ip_address("203.0.113.1"), ""), "203.0.113.1 .* must be on a network that this host has"),
        (60009, Hop(ip_address("2001:db9::1"), ""), "2001:db9::1 .* must be on a network that this host has"),
        (60009, Hop(ip_address("198.51.100.11"), "nix0"), "no interface called nix0"),
        (254, Hop(ip_address("198.51.100.11"), ""), "mark 254 can't be used"),
        (60008, Hop(ip_address("198.51.100.11"), ""), "60008: File exists.*: set marks.first"),
    ],
)
def test_a_refused_route_does_not_prevent_the_others(
    lab: Lab, host: Namespace, mark: int, hop: Hop, message: str
) -> None:
    """If one backend can't be steered to, the others are steered nevertheless."""
    host.run(["ip", "route", "add", "default", "via", "198.51.100.12", "table", "60008"])
    wanted = steered(lab)

    with pytest.raises(PartlyRefusedError, match=message) as caught:
        apply(host, {mark: hop, **wanted})

    assert all(any(f"table {made} " in f"{change} " for change in caught.value.changes) for made in wanted)
    assert wanted.keys() == host.call(PolicyRouting().current).keys()


def test_a_hop_that_became_impossible_is_not_steered_to(lab: Lab, host: Namespace) -> None:
    """A mark whose route is refused gets no rule: its packets must not go elsewhere."""
    apply(host, {60001: Hop(ip_address(lab.backends[0].ipv4), "")})
    before = rules(host)[1:]

    with pytest.raises(KernelError):
        apply(host, {60001: Hop(ip_address("203.0.113.1"), "")})

    assert host.call(PolicyRouting().current) == {}
    assert before == rules(host)


def test_without_privileges_the_error_says_so(lab: Lab, host: Namespace) -> None:
    """Without privileges, reading works, and changing raises SystemFault."""
    assert unprivileged(host, PolicyRouting().current) == {}
    with pytest.raises(SystemFault, match="run nftlb as root"):
        unprivileged(host, lambda: PolicyRouting().apply(steered(lab)))


def test_hops_are_those_of_the_routing_table(host: Namespace) -> None:
    """A neighbour is its own next hop, others have the router; local and unreachable addresses are left out."""
    host.run(["ip", "route", "add", "203.0.113.0/24", "via", "198.51.100.12"])
    host.run(["ip", "-6", "route", "add", "2001:db8:99::/48", "via", "fe80::1", "dev", "eth0"])
    host.run(["ip", "route", "add", "10.99.0.0/16", "via", "inet6", "2001:db8:1::b1"])
    host.run(["ip", "route", "add", "blackhole", "10.98.0.0/16"])
    host.run(["ip", "-6", "route", "add", "unreachable", "2001:db8:98::/48"])
    known = {
        "198.51.100.11": "198.51.100.11",
        "2001:db8:1::b1": "2001:db8:1::b1",
        "203.0.113.7": "198.51.100.12",
        "2001:db8:99::7": "fe80::1",
    }
    left_out = [VIP4, VIP6, "127.0.0.1", "::1", "10.0.0.1", "fd00::1", "10.99.0.1", "10.98.0.1", "2001:db8:98::1"]

    found = host.call(find_hops, [ip_address(address) for address in [*known, *left_out]])

    assert {ip_address(address): Hop(ip_address(via), "eth0") for address, via in known.items()} == found


def test_hops_do_not_follow_our_own_marks(lab: Lab, host: Namespace) -> None:
    """The lookup of a backend's next hop has the same result with and without steering."""
    backend = ip_address(lab.backends[0].ipv4)
    before = host.call(find_hops, [backend])

    apply(host, steered(lab))

    assert before == host.call(find_hops, [backend])
