"""What a packet meets in the compiled rules is what tests/compiler/costs.txt says: no cost rises unnoticed."""

from __future__ import annotations

import re
from ipaddress import ip_address

import cost_table
import packet_cost
import pytest
from cost_table import BACKENDS, SETTINGS, Counted, Setting

from nftlb.lab import userns

SMALL = [setting for setting in SETTINGS if setting.pools == min(cost_table.SIZES)]


@pytest.fixture(autouse=True)
def _own_namespaces() -> None:
    userns.ensure()


@pytest.mark.parametrize("setting", SETTINGS, ids=str)
def test_no_packet_costs_more_than_the_table_says(setting: Setting) -> None:
    """The cost of each kind of packet is that of the table. `make costs` writes the table after a wanted change."""
    counted = list(Counted(setting).lines())
    committed = cost_table.committed(setting)

    assert costs(committed) == costs(counted), f"the table: {committed}; the rules: {counted}"
    assert committed == counted


def costs(lines: list[str]) -> dict[str, int]:
    """Return the cost of each kind of packet, in tenths of a nanosecond."""
    found = (re.fullmatch(r".*  (\w+) +(\d+)\.(\d) ns .*", line) for line in lines)
    return {match[1]: int(match[2] + match[3]) for match in found if match}


def test_the_table_has_only_lines_of_counted_settings() -> None:
    """Each line of the table belongs to a setting that is counted."""
    assert cost_table.all_committed() == [line for setting in SETTINGS for line in cost_table.committed(setting)]


@pytest.mark.parametrize("setting", SMALL, ids=str)
def test_the_counter_sends_packets_where_the_rules_send_them(setting: Setting) -> None:
    """Requests take turns among the backends, replies come from the service: what was counted was the right path."""
    passages = Counted(setting).passages()
    requests, strangers = passages["request"], passages["nobody"]

    targets: set[int | bytes]
    if setting.way == "nat":
        targets = {request.zone for request in requests}
        new = {passage.packet.destination for passage in passages["first"]}
        every = {ip_address(setting.backend(0, backend)).packed for backend in range(BACKENDS)}
        assert new < every if "hash" in setting.mode else new == every
    elif setting.way in ("stateless", "stateless-early"):
        targets = {request.packet.destination for request in requests}
    elif setting.way == "dsr":
        targets = {request.mark for request in requests}
    else:
        assert {"fwd"} == {request.end for request in requests}
        targets = {request.neighbour for request in requests}
    # With a key, all packets of the client reach one backend.
    assert (1 if "hash" in setting.mode else BACKENDS) == len(targets)
    if setting.way.startswith("stateless"):
        service = ip_address(setting.service(0)).packed
        assert {(service, 53)} == {(passage.packet.source, passage.packet.ports[0]) for passage in passages["reply"]}
    assert [("forwarded", 0, 9999)] == [(passage.end, passage.zone, passage.packet.ports[1]) for passage in strangers]


def test_an_additional_rule_raises_the_cost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rule that each packet meets raises the cost of all packets by a rule and its expressions."""
    setting = SMALL[0]
    before = costs(list(Counted(setting).lines()))
    rules = cost_table.rules

    def with_a_rule(of: Setting) -> str:
        base = "priority raw; policy accept;\n"
        return rules(of).replace(base, f"{base}\t\tmeta l4proto tcp counter\n")

    monkeypatch.setattr(cost_table, "rules", with_a_rule)
    after = costs(list(Counted(setting).lines()))
    more = packet_cost.WEIGHTS["rule"] + packet_cost.WEIGHTS["meta"] + packet_cost.WEIGHTS["compare"]

    assert {kind: cost + more for kind, cost in before.items()} == after


def test_an_expression_without_a_weight_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rules with an expression that the counter does not know are not counted as cheaper."""
    rules = cost_table.rules

    def with_a_limit(of: Setting) -> str:
        base = "priority raw; policy accept;\n"
        return rules(of).replace(base, f"{base}\t\tlimit rate 5/second\n")

    monkeypatch.setattr(cost_table, "rules", with_a_limit)
    with pytest.raises(packet_cost.NotModelledError, match="limit"):
        list(Counted(SMALL[0]).lines())
