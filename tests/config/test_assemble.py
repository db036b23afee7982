"""The settings under `defaults`, and backends that are added and removed at run time."""

from __future__ import annotations

import json
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from config_texts import faults
from config_texts import pool as read_pool
from pool_builders import DNS, backend, config, pool

from nftlb.config import amend, parse_config, read_backend, write_backend
from nftlb.errors import ConfigError
from nftlb.model import Admin, Backend, Dns, Forward, Icmp, PassiveReplies, RecordType, Udp

OTHER = pool("other", "192.0.2.54:53/udp", (backend("a", "10.0.1.1:53"),))
BOTH = config(DNS, OTHER)


def refused(function: Any, *args: Any, **options: Any) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        function(*args, **options)
    return str(caught.value).splitlines()


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        ("10.0.0.20:53", Backend(name="x", address=ip_address("10.0.0.20"), port=53)),
        ({"address": "10.0.0.20"}, Backend(name="x", address=ip_address("10.0.0.20"))),
        (
            {"address": "2001:db8::20", "port": 53, "weight": 0, "admin": "drain"},
            Backend(name="x", address=ip_address("2001:db8::20"), port=53, weight=0, admin=Admin.DRAIN),
        ),
    ],
)
def test_a_backend_is_read_as_in_a_file(written: Any, expected: Backend) -> None:
    """A backend is read in its short form and as a mapping."""
    assert expected == read_backend("dns", "x", written)


@pytest.mark.parametrize(
    "written",
    [
        "10.0.0.20:53",
        "10.0.0.20",
        "[2001:db8::20]:53",
        "2001:db8::20",
        {"address": "10.0.0.20", "port": 53, "weight": 5},
        {"address": "10.0.0.20", "port": None},
        {"address": "10.0.0.20", "priority": 2},
    ],
)
def test_a_file_and_the_api_read_the_same_backend(written: Any) -> None:
    """A backend of a file, which is read in a shorter way if it is plain, has the value that the API reads."""
    document = {
        "pools": {"dns": {"listen": ["192.0.2.53:53/udp", "[2001:db8::53]:53/udp"], "backends": {"x": written}}}
    }

    assert (read_backend("dns", "x", written),) == parse_config(json.dumps(document)).pools[0].backends


@pytest.mark.parametrize(
    "written",
    [
        "10.0.0.20:0",
        "10.0.0.020:53",
        "224.0.0.1:53",
        "0.0.0.0:53",
        "255.255.255.255:53",
        "[::]:53",
        {"address": "10.0.0.20", "port": True},
        {"address": "10.0.0.20", "weight": 257},
        {"port": 53},
        ["10.0.0.20"],
    ],
)
def test_a_file_and_the_api_report_the_same_fault(written: Any) -> None:
    """A backend with a fault has the same message in a file and in a request to the API."""
    document = {"pools": {"dns": {"listen": "192.0.2.53:53/udp", "backends": {"x": written}}}}

    lines = (*refused(read_backend, "dns", "x", written), *refused(parse_config, json.dumps(document)))
    of_api, of_file = (line.partition("backends.x")[2].partition(": ")[2] for line in lines)

    assert of_api == of_file


def test_all_faults_of_a_backend_are_reported() -> None:
    """Each fault has its path, and the same message as in a file."""
    found = refused(read_backend, "dns", "x", {"address": "no where", "port": 0, "weight": 1000, "wait": 1})

    assert [f"request: pools.dns.backends.x.{key}" for key in ("address", "port", "wait", "weight")] == sorted(
        line.rpartition(": ")[0].partition(": ")[0] + ": " + line.split(": ")[1] for line in found
    )


@pytest.mark.parametrize("name", ["", "-x", "a/b", "x" * 100, "a b", "_sorry"])
def test_bad_names(name: str) -> None:
    """A name that the file could not have is refused."""
    assert 1 == len(refused(read_backend, "dns", name, "10.0.0.20:53"))


@pytest.mark.parametrize("written", [None, 5, [], "10.0.0.20:0", {"port": 53}])
def test_a_value_that_is_not_a_backend(written: Any) -> None:
    """Any value that is not a backend is a ConfigError, not an internal error."""
    assert 1 == len(refused(read_backend, "dns", "x", written))


def test_added_at_the_end() -> None:
    """A new backend comes after the others; other pools do not change."""
    new = backend("x", "10.0.0.20:5353")

    assert config(replace(DNS, backends=(*DNS.backends, new)), OTHER) == amend(BOTH, "dns", add=[new])


def test_removed() -> None:
    """A backend is removed; the others keep their order."""
    assert config(replace(DNS, backends=DNS.backends[1:]), OTHER) == amend(BOTH, "dns", remove=["b1"])


def test_exchanged() -> None:
    """A backend is replaced by a backend of the same name in one step, even if it is the only backend."""
    new = backend("a", "10.0.1.2:53")

    assert config(DNS, replace(OTHER, backends=(new,))) == amend(BOTH, "other", add=[new], remove=["a"])


@pytest.mark.parametrize(
    ("new", "message"),
    [
        (backend("x", "10.0.0.11:5353"), "10.0.0.11:5353 is also pools.dns.backends.b1"),
        (backend("x", "[2001:db8::1]:53"), "[2001:db8::1]:53 is IPv6, but the pool listens on IPv4 only"),
    ],
)
def test_rules_hold(new: Backend, message: str) -> None:
    """A violation of the rules of the file is refused, with its path."""
    (line,) = refused(amend, BOTH, "dns", add=[new])

    assert line.startswith(f"request: pools.dns.backends.x: {message}")


def test_a_quorum_must_stay_possible() -> None:
    """A backend that the quorum needs can't be removed."""
    (line,) = refused(amend, config(replace(DNS, quorum=2)), "dns", remove=["b1"])

    assert line == "request: pools.dns.quorum: 2 is more than the number of backends; allowed: at most 1"


def test_zones_run_out() -> None:
    """Zones are counted as for a file."""
    (line,) = refused(amend, config(DNS, zones=65532), "dns", add=[backend("x", "10.0.0.20:53")])

    assert line.startswith("request: zones.first: 5 conntrack zones from 65532 on are needed")


def test_inapplicable_defaults_are_allowed_again() -> None:
    """Defaults that do not apply to the `forward` of a pool cause no fault when a backend is added later."""
    file = parse_config(
        """
        defaults: {source: keep, passive: true, ingress: [eth0], health: {icmp: }}
        pools:
          dsr: {listen: 192.0.2.2:53/udp, forward: dsr, backends: {a: 10.0.0.2}}
        """
    )

    assert Forward.DSR is amend(file, "dsr", add=[backend("b", "10.0.0.3")]).pools[0].forward


@pytest.mark.parametrize(
    "written",
    [
        {"address": "10.0.0.1"},
        {"address": "2001:db8::1", "port": 53, "weight": 0, "admin": "drain"},
        {"address": "fe80::1", "device": "eth1", "via": "fe80::2"},
        {"address": "ns.example.com", "port": 53, "priority": 2},
        {"srv": "_sip._udp.example.com", "device": "eth1"},
        {"address": "10.0.0.1", "labels": {"site": "fra", "rack": "r12"}},
        {"srv": "_sip._udp.example.com", "labels": {"site": "fra"}},
    ],
)
def test_a_backend_is_written_as_it_was_read(written: dict[str, object]) -> None:
    """A backend that was added at run time is stored as a file has it, without its defaults, and read again."""
    assert written == write_backend(read_backend("dns", "ns9", {"priority": 1, **written}))


def test_defaults_are_merged_deeply() -> None:
    """A pool has the defaults for all keys that it does not set, in nested mappings too."""
    defaults = "defaults: {quorum: 1, health: {interval: 3s, rise: 5}, hooks: {backend_up: [/a], backend_down: [/b]}}"
    merged = read_pool("health: {icmp: , rise: 4}, hooks: {backend_up: [/c]}", before=defaults)

    assert (3000, 4) == (merged.health[0].interval, merged.health[0].rise)
    assert (("/c",), ("/b",)) == (merged.hooks.backend_up, merged.hooks.backend_down)


def test_defaults_with_timers_only_make_no_check() -> None:
    """Default times apply to the checks of a pool; a pool without checks has none."""
    before = "defaults: {health: {interval: 3s}}"

    assert () == read_pool("quorum: 1", before=before).health
    assert () == read_pool("health: []", before=before).health
    assert [3000, 1000] == [
        check.interval for check in read_pool("health: [{icmp: }, {tcp: , interval: 1s}]", before=before).health
    ]


def test_a_default_check_applies_to_pools_without_a_check() -> None:
    """A default check applies to every pool without a check, and to no pool with a check of another kind."""
    before = "defaults: {health: {dns: {name: example.com, type: AAAA}, interval: 3s}}"

    assert [Dns(name="example.com", type=RecordType.AAAA)] == [
        health.check for health in read_pool("quorum: 1", before=before).health
    ]
    assert [Dns(name="example.com", type=RecordType.AAAA)] == [
        health.check for health in read_pool("health: {rise: 1}", before=before).health
    ]
    assert [Dns(name="example.org", type=RecordType.AAAA)] == [
        health.check for health in read_pool("health: {dns: {name: example.org}}", before=before).health
    ]
    assert [Icmp(), Udp()] == [
        health.check for health in read_pool("health: [{icmp: }, {udp: }]", before=before).health
    ]
    assert () == read_pool("health: []", before=before).health


def test_defaults_without_use_for_forward_are_left_out() -> None:
    """A default source is not a fault of a stateless pool, which has no source."""
    config = parse_config(
        """
        defaults: {source: keep, passive: true, ingress: [eth0], health: {icmp: }}
        pools:
          nat: {listen: 192.0.2.1:53/udp, backends: {a: 10.0.0.1}}
          dsr: {listen: 192.0.2.2:53/udp, forward: dsr, backends: {a: 10.0.0.2}}
        """
    )

    assert [("keep", True, ()), ("masquerade", None, ("eth0",))] == [
        (pool.source, pool.passive, pool.ingress) for pool in config.pools
    ]


def test_defaults_for_flows_of_udp_concern_no_other_pools() -> None:
    """Defaults for flows of UDP are left out of other pools, whose servers may be those of a pool with a helper."""
    config = parse_config(
        """
        defaults: {per: flow, session_timeout: 30s, helper: tftp}
        pools:
          boot: {listen: 192.0.2.1:69/udp, backends: {a: 10.0.0.1}}
          web: {listen: 192.0.2.1:80/tcp, backends: {a: 10.0.0.1}}
          log: {listen: 192.0.2.1:514/udp, per: packet, backends: {a: 10.0.0.1}}
          fast: {listen: 192.0.2.2:53/udp, per: packet, forward: stateless, backends: {a: 10.0.0.2}}
        """
    )

    assert [(30_000, "tftp"), (None, None), (None, None), (None, None)] == [
        (pool.session_timeout, pool.helper) for pool in config.pools
    ]


def test_a_fault_of_the_defaults_is_reported_once() -> None:
    """A fault of the defaults is reported once, at its place, even if many pools use it."""
    pools = "".join(f"  p{i}: {{listen: 192.0.2.{i}:53/udp, backends: {{a: 10.0.0.1}}}}\n" for i in range(1, 100))

    assert ["1:19: defaults.panic: 5 is not a share; write 5%; allowed: 0% to 100%, in whole per cent"] == faults(
        f"defaults: {{panic: 5}}\npools:\n{pools}"
    )


def test_faults_of_unused_defaults_are_reported() -> None:
    """A fault of the defaults is reported even if every pool sets its own value."""
    assert ["1:20: defaults.quorum: 0 is not a quorum; allowed: 1 to 65535"] == faults(
        "defaults: {quorum: 0}\npools: {dns: {listen: 192.0.2.53:53/udp, quorum: 1, backends: {a: 10.0.0.1}}}"
    )


def test_defaults_for_replies_and_requests_of_backends() -> None:
    """Pools where a default can have no effect are without it; its own keys of a pool are never left out."""
    config = parse_config(
        """
        defaults: {passive: replies, count_replies: true, outbound: true}
        pools:
          dns: {listen: 192.0.2.1:53/udp, outbound: false, backends: {a: 10.0.0.1}}
          stateless: {listen: 192.0.2.2:53/udp, forward: stateless, backends: {a: 10.0.0.2}}
          dsr: {listen: 192.0.2.3:53/udp, forward: dsr, backends: {a: 10.0.0.3}}
          tcp: {listen: 192.0.2.4:53/tcp, backends: {a: 10.0.0.4}}
          flows: {listen: [192.0.2.5:53/udp, 192.0.2.5:53/tcp], per: flow, backends: {a: 10.0.0.5}}
        """
    )
    limits = PassiveReplies()
    assert [
        (limits, True, False),
        (limits, True, True),
        (None, False, False),
        (None, False, False),
        (None, False, True),
    ] == [(pool.passive, pool.count_replies, pool.outbound) for pool in config.pools]
    with pytest.raises(ConfigError, match="for a pool without a udp listener"):
        parse_config("pools: {tcp: {listen: 192.0.2.4:53/tcp, backends: {a: 10.0.0.4}, passive: replies}}")
