"""Backends with link-local addresses: IPv6 needs `dsr` and the interface, IPv4 works in every mode."""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from added_addresses import add_addresses
from pool_lab import DSR, DSR_INGRESS, NAT, PORT, STATELESS, PoolLab, vip
from tcp_connections import TcpServers

from nftlb.config import parse_config
from nftlb.daemon.checker import _checks
from nftlb.lab import VIP6, links
from nftlb.probes import probe_for, run_probe

if TYPE_CHECKING:
    from pool_lab import Mode

    from nftlb.health import CheckResult
    from nftlb.model import Config

LINK_LOCAL = {"b1": "fe80::9:1", "b2": "fe80::9:2", "b3": "fe80::9:3"}
KINDS = (f"udp: {{send: '9 health'}}, port: {PORT}", "icmp: {}", f"tcp: {{}}, port: {PORT + 1}")


def written(pool_lab: PoolLab, backends: dict[str, str], health: str = "") -> Config:
    """A configuration with these backends, as from a file."""
    ingress = "ingress: eth0," if pool_lab.mode.ingress else ""
    listed = ", ".join(f"{name}: {text}" for name, text in backends.items())
    return parse_config(
        f"""pools: {{dns: {{listen: "[{VIP6}]:{PORT}/udp", forward: {pool_lab.mode.forward}, {ingress} {health}
        backends: {{{listed}}}}}}}"""
    )


def turns(pool_lab: PoolLab, version: int = 6) -> Counter[str]:
    """The backends of 30 datagrams of one socket. Each datagram has exactly one reply, from the service."""
    with pool_lab.lab.client.connect((vip(version), PORT), connected=False) as client:
        answers = client.exchange(30)
    assert {((vip(version), PORT), 1)} == {(answer.source, answer.copies) for answer in answers}
    return Counter(answer.backend for answer in answers)


@pytest.fixture(params=[DSR, DSR_INGRESS], ids=str)
def mode(request: pytest.FixtureRequest) -> Mode:
    found: Mode = request.param
    return found


@pytest.mark.parametrize("offload", [True, False], ids=["offload", "no-offload"])
@pytest.mark.parametrize("as_text", [True, False], ids=["scoped", "device"])
def test_dsr_to_link_local_backends(mode: Mode, offload: bool, as_text: bool) -> None:
    """Each backend gets every third datagram, although the balancer knows no global address of the backends."""
    with PoolLab(mode, offload=offload) as pool_lab:
        for host in pool_lab.lab.backends:
            add_addresses(host, "eth0", f"{LINK_LOCAL[host.name]}/64")
        form = '"{}%eth0"' if as_text else '{{address: "{}", device: eth0}}'
        config = written(pool_lab, {name: form.format(address) for name, address in LINK_LOCAL.items()})
        pool_lab.load(*config.pools)

        assert {"b1": 10, "b2": 10, "b3": 10} == turns(pool_lab)
        assert "" == pool_lab.lab.balancer.call(pool_lab.applier.diff, config)


def test_dsr_by_link_local_routers(mode: Mode) -> None:
    """`via` may be a link-local address, the usual next hop of IPv6."""
    with PoolLab(mode) as pool_lab:
        for host in pool_lab.lab.backends:
            add_addresses(host, "eth0", f"{LINK_LOCAL[host.name]}/64")
        form = '{{address: "fd00:99::{}", via: "{}", device: eth0}}'
        pool_lab.load(*written(pool_lab, {n: form.format(n[1:], address) for n, address in LINK_LOCAL.items()}).pools)

        assert {"b1": 10, "b2": 10, "b3": 10} == turns(pool_lab)


@pytest.mark.parametrize("kind", KINDS)
def test_checks_leave_by_the_interface_of_the_backend(kind: str) -> None:
    """A link-local address needs its interface; checks use the interface of the backend."""
    with PoolLab(DSR) as pool_lab, TcpServers(pool_lab.lab.backends, PORT + 1):
        for host in pool_lab.lab.backends:
            add_addresses(host, "eth0", f"{LINK_LOCAL[host.name]}/64")
        backends = {name: f'"{address}%eth0"' for name, address in LINK_LOCAL.items()} | {
            "missing": '"fe80::9:99%eth0"'
        }
        config = written(pool_lab, backends, f"health: {{{kind}, timeout: 2s}},")

        async def check() -> dict[str, CheckResult]:
            subjects = [(subject, health) for _, health, subject in _checks(config.pools[0])]
            results = await asyncio.gather(
                *(run_probe(probe_for(health.check), subject) for subject, health in subjects)
            )
            return {subject.backend: result for (subject, _), result in zip(subjects, results, strict=True)}

        results = pool_lab.lab.balancer.call(lambda: asyncio.run(check()))
    assert {"b1": True, "b2": True, "b3": True, "missing": False} == {
        n: outcome.passed for n, outcome in results.items()
    }


def test_the_same_address_on_two_interfaces_is_two_hosts() -> None:
    """Equal addresses on two links are distinguished by the marks and routes of `dsr`."""
    with PoolLab(DSR) as pool_lab:
        balancer = pool_lab.lab.balancer
        b1, b2 = pool_lab.lab.backends[:2]
        for number, host in ((1, b1), (2, b2)):
            # A second link for each of the two backends, with the same address at its far end.
            name = f"own{number}"
            balancer.call(links.make_veths, [links.Veth(name, f"far{number}", host.fileno())])
            balancer.run(["ip", "link", "set", name, "up"])
            host.run(["ip", "link", "set", f"far{number}", "up"])
            host.run(["ip", "address", "add", "fe80::9:9/64", "dev", f"far{number}"])
        pool_lab.load(*written(pool_lab, {"b1": '"fe80::9:9%own1"', "b2": '"fe80::9:9%own2"'}).pools)

        assert {"b1": 15, "b2": 15} == turns(pool_lab)


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_link_local_backends_of_ipv4(mode: Mode) -> None:
    """The kernel routes 169.254.0.0/16 like any other network."""
    with PoolLab(mode) as pool_lab:
        pool = pool_lab.pool()
        backends = [target for target in pool.backends if target.address.version == 4]
        for number, (host, backend) in enumerate(zip(pool_lab.lab.backends, backends, strict=True), 1):
            host.run(["ip", "address", "add", f"169.254.{number}.2/24", "dev", "eth0"])
            pool_lab.lab.balancer.run(["ip", "address", "add", f"169.254.{number}.1/24", "dev", host.name])
            object.__setattr__(backend, "address", ip_address(f"169.254.{number}.2"))
        pool_lab.load(pool)

        assert {"b1": 10, "b2": 10, "b3": 10} == turns(pool_lab, 4)
