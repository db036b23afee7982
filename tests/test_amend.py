"""Backends added to a configuration at run time, and removed, by the rules of the file."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from pools import DNS, backend, config, pool

from nftlb.config import amend, parse, read_backend
from nftlb.errors import ConfigError
from nftlb.model import Admin, Backend, Forward

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
    """In its short form and as a mapping."""
    assert expected == read_backend("dns", "x", written)


def test_all_that_is_wrong_with_a_backend_is_told() -> None:
    """Each fault with its path, in the words of the file's own messages."""
    found = refused(read_backend, "dns", "x", {"address": "nowhere", "port": 0, "weight": 1000, "wait": 1})

    assert [f"request: pools.dns.backends.x.{key}" for key in ("address", "port", "wait", "weight")] == sorted(
        line.rpartition(": ")[0].partition(": ")[0] + ": " + line.split(": ")[1] for line in found
    )


@pytest.mark.parametrize("name", ["", "-x", "a/b", "x" * 100, "a b", "_sorry"])
def test_bad_names(name: str) -> None:
    """A name that the file could not have is refused."""
    assert 1 == len(refused(read_backend, "dns", name, "10.0.0.20:53"))


@pytest.mark.parametrize("written", [None, 5, [], "10.0.0.20:0", {"port": 53}])
def test_what_is_no_backend(written: Any) -> None:
    """Nonsense is refused, never a fault of ours."""
    assert 1 == len(refused(read_backend, "dns", "x", written))


def test_added_at_the_end() -> None:
    """A new backend stands after the others; no other pool is touched."""
    new = backend("x", "10.0.0.20:5353")

    assert config(replace(DNS, backends=(*DNS.backends, new)), OTHER) == amend(BOTH, "dns", add=[new])


def test_removed() -> None:
    """A backend is gone; the others keep their order."""
    assert config(replace(DNS, backends=DNS.backends[1:]), OTHER) == amend(BOTH, "dns", remove=["b1"])


def test_exchanged() -> None:
    """Of one name at the same time: the old is gone, the new is there; even where the old was the only one."""
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
    """What the rules of the file forbid is refused, with the place at fault."""
    (line,) = refused(amend, BOTH, "dns", add=[new])

    assert line.startswith(f"request: pools.dns.backends.x: {message}")


def test_a_quorum_must_stay_possible() -> None:
    """A backend that the quorum needs can't be removed."""
    (line,) = refused(amend, config(replace(DNS, quorum=2)), "dns", remove=["b1"])

    assert line == "request: pools.dns.quorum: 2 is more than the pool has backends; allowed: at most 1"


def test_zones_run_out() -> None:
    """Numbers that are ours are counted as for a file."""
    (line,) = refused(amend, config(DNS, zones=65532), "dns", add=[backend("x", "10.0.0.20:53")])

    assert line.startswith("request: zones.first: 5 conntrack zones are needed from 65532 on")


def test_what_the_file_was_allowed_is_allowed_again() -> None:
    """Defaults that were left out for a way to forward are no fault when a backend is added later."""
    file = parse(
        """
        defaults: {source: keep, passive: true, ingress: [eth0], health: {icmp: }}
        pools:
          dsr: {listen: 192.0.2.2:53/udp, forward: dsr, backends: {a: 10.0.0.2}}
        """
    )

    assert Forward.DSR is amend(file, "dsr", add=[backend("b", "10.0.0.3")]).pools[0].forward
