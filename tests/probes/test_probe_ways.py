"""The interface and the firewall mark of checks of every kind."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from added_addresses import add_addresses
from probing import open_files, subject
from unprivileged import unprivileged

from nftlb.errors import SystemFault
from nftlb.lab import Lab, Namespace
from nftlb.model import Agent, Dns, Http, Icmp, Ntp, Radius, Sip, Snmp, Tcp, Transport, Udp
from nftlb.probes import probe_for, run_probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.health import CheckResult
    from nftlb.model import AnyCheck

CHECKS: list[AnyCheck] = [
    Dns(), Dns(transport=Transport.TCP), Udp(), Icmp(), Tcp(), Http(), Radius(secret="x"),  # noqa: S106
    Sip(), Sip(transport=Transport.TCP), Ntp(), Snmp(), Agent(port=9),
]  # fmt: skip
HOSTS = ("10.0.9.9", "fd00:9::9")
LINK_LOCAL = ("fe80::9:1", "fe80::9:9")  # of the link to b2: the address here, and the address there
MARK = 0x80000009


def named(check: AnyCheck) -> str:
    return f"{check.kind}-{getattr(check, 'transport', '')}"


@pytest.fixture(scope="module")
def balancer() -> Iterator[Namespace]:
    """A host whose routes to HOSTS lead to b1, which drops their packets. HOSTS are b2, with all ports closed."""
    with Lab(backends=2) as lab:
        b1, b2 = lab.backends
        b2.sysctl("net.ipv4.icmp_ratelimit", 0)
        b2.sysctl("net.ipv6.icmp.ratelimit", 0)
        for address, to_b1, to_b2 in zip(HOSTS, (b1.ipv4, b1.ipv6), (b2.ipv4, b2.ipv6), strict=True):
            version = "-6" if ":" in address else "-4"
            add_addresses(b2, "lo", f"{address}/{128 if ':' in address else 32}")
            lab.balancer.run(["ip", "route", "add", address, "via", to_b1, "dev", "b1", "metric", "1"])
            lab.balancer.run(["ip", "route", "add", address, "via", to_b2, "dev", "b2", "metric", "2"])
            lab.balancer.run(["ip", "route", "add", address, "via", to_b2, "dev", "b2", "table", "9"])
            lab.balancer.run(["ip", version, "rule", "add", "fwmark", str(MARK), "lookup", "9"])
        for host, address, device in zip((lab.balancer, b2), LINK_LOCAL, ("b2", "eth0"), strict=True):
            add_addresses(host, device, f"{address}/64")
        yield lab.balancer


def check_from(host: Namespace, check: AnyCheck, address: str, **way: Any) -> CheckResult:
    """Check port 9 of an address once, from a host."""
    return host.call(lambda: asyncio.run(run_probe(probe_for(check), subject(address, 9, **way))))


def reached(check: AnyCheck, result: CheckResult) -> bool:
    """Whether the host with the closed ports replied."""
    if check.kind == "icmp":
        return result.passed
    return "connection refused" in result.reason


@pytest.mark.parametrize("address", HOSTS)
@pytest.mark.parametrize("check", CHECKS, ids=named)
def test_device_and_mark_decide_the_path(balancer: Namespace, check: AnyCheck, address: str) -> None:
    """The device of checks decides where their packets go, and so does their mark, if routing rules use it."""
    assert reached(check, check_from(balancer, check, address, device="b2"))
    assert reached(check, check_from(balancer, check, address, mark=MARK))
    for other in ({}, {"device": "b1"}, {"mark": MARK - 1}, {"device": "b1", "mark": MARK}):
        assert "no answer within 0.05s" in check_from(balancer, check, address, seconds=0.05, **other).reason


@pytest.mark.parametrize("check", [Udp(), Icmp(), Tcp()], ids=named)
def test_a_source_of_the_device(balancer: Namespace, check: AnyCheck) -> None:
    """An address on a single link can be used if the device is configured."""
    result = check_from(balancer, check, LINK_LOCAL[1], device="b2", source=LINK_LOCAL[0])
    assert reached(check, result)


@pytest.mark.parametrize("check", CHECKS, ids=named)
def test_no_such_device(check: AnyCheck) -> None:
    """If this host lacks the device, the state of the backend does not change; no socket is left."""

    async def main() -> None:
        probe = probe_for(check)
        before = open_files()
        with pytest.raises(SystemFault, match="eth77 is not an interface of this host: add it"):
            await run_probe(probe, subject(port=9, device="eth77"))
        assert before == open_files()

    asyncio.run(main())


def test_a_source_that_is_not_there(balancer: Namespace) -> None:
    """The fault names the device too, because a VRF has separate addresses."""
    with pytest.raises(SystemFault, match=r"192\.0\.2\.77 is not an address of b2: add it"):
        check_from(balancer, Udp(), HOSTS[0], device="b2", source="192.0.2.77")


@pytest.mark.parametrize("check", [Udp(), Tcp(), Http()], ids=named)
def test_marks_are_not_for_everybody(check: AnyCheck) -> None:
    """Without the capability, the state of the backend does not change."""

    def unable() -> None:
        with pytest.raises(SystemFault, match=f"not permitted to send with the mark {MARK}: .* CAP_NET_ADMIN"):
            asyncio.run(run_probe(probe_for(check), subject(port=9, mark=MARK)))

    with Namespace("marks") as namespace:
        unprivileged(namespace, unable)
