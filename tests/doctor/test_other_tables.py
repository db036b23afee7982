"""Rules of other tables, as nft's JSON has them: which packets they match, and which rules do harm."""

from __future__ import annotations

from typing import Any

import pytest
from doctor_facts import DSR, NAT, check_facts, faults

from nftlb.config import parse_config
from nftlb.doctor import Severity
from nftlb.doctor.host import NftFacts
from nftlb.doctor.matching import follow_chain, forwarded_traffic, read_chains
from nftlb.doctor.other_tables import check_other_tables


def chain(name: str, hook: str = "", policy: str = "accept", kind: str = "filter", prio: int = 0) -> dict[str, Any]:
    base = {"type": kind, "hook": hook, "prio": prio, "policy": policy} if hook else {}
    return {"chain": {"family": "inet", "table": "t", "name": name, **base}}


def rule(where: str, *expressions: dict[str, Any]) -> dict[str, Any]:
    return {"rule": {"family": "inet", "table": "t", "chain": where, "handle": 9, "expr": list(expressions)}}


def match(left: dict[str, Any], right: Any, op: str = "==") -> dict[str, Any]:
    return {"match": {"op": op, "left": left, "right": right}}


def payload(protocol: str, field: str) -> dict[str, Any]:
    return {"payload": {"protocol": protocol, "field": field}}


OUTBOUND = NAT.replace("5353", "53").replace("  dns:\n", "  dns:\n    outbound: true\n")
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
    def test_fates_of_a_packet(self, rules: list[dict[str, Any]], expected: set[str]) -> None:
        """The possible fates of a tracked UDP datagram to 10.0.1.2, port 5353, in a chain with the policy drop."""
        chains = read_chains([chain("c", "forward", "drop"), chain("d"), *rules])
        traffic = next(forwarded_traffic(parse_config(NAT)))

        assert expected == follow_chain(chains, chains["inet t", "c"], traffic).fates

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
            (OUTBOUND, chain("c", "postrouting", kind="nat", prio=100), {"masquerade": None}, ["error"]),
            (OUTBOUND, chain("c", "postrouting", kind="nat", prio=90), {"xt": {"type": "target", "name": "SNAT"}},
             ["error"]),
            (OUTBOUND, chain("c", "postrouting"), ACCEPT, []),
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
    def test_rules_that_do_harm(
        self, text: str, base: dict[str, Any], statement: dict[str, Any], expected: list[str]
    ) -> None:
        """A rule that matches every packet is a finding only in chains where it does harm."""
        found = list(check_other_tables(NftFacts(foreign=(base, rule("c", statement))), parse_config(text)))

        assert expected == [str(fault.severity) for fault in faults(found)]

    @pytest.mark.parametrize(("text", "expected"), [(NAT, []), (OUTBOUND, ["ip saddr 10.0.1.2 udp sport 53 accept"])])
    def test_firewalls_that_drop_requests_of_backends(self, text: str, expected: list[str]) -> None:
        """A firewall that accepts translated packets and replies may drop what backends send by themselves."""
        translated = rule("c", match({"ct": {"key": "status"}}, "dnat", "in"), ACCEPT)
        replies = rule("c", match({"ct": {"key": "state"}}, "established", "in"), ACCEPT)
        objects = (chain("c", "forward", "drop"), translated, replies)
        found = faults(list(check_other_tables(NftFacts(foreign=objects), parse_config(text))))

        assert [f"nft insert rule inet t c {words}" for words in expected] == [fault.fix for fault in found]
        assert all("drops requests of backends" in fault.message for fault in found)

    def test_tables_of_iptables_are_fixed_with_iptables(self) -> None:
        """The program refuses to show tables with rules that iptables can't have written."""
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
        (finding,) = faults(check_facts(nft=NftFacts(version="1.0.6", foreign=tuple(objects))))

        assert finding.subject == "table ip nat, chain DOCKER, handle 5"
        assert finding.severity is Severity.WARNING
        assert finding.fix == "iptables -t nat -I PREROUTING -p udp -d 192.0.2.53 --dport 53 -j ACCEPT"
