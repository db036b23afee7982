"""Backends with link-local addresses: IPv6 needs `dsr` and the interface, IPv4 works in every mode."""

from __future__ import annotations

import asyncio
from collections import Counter
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from packets.world import DSR, DSR_INGRESS, NAT, PORT, STATELESS, World, vip

from nftlb.config import parse
from nftlb.daemon.checker import _checks
from nftlb.lab import VIP6, links
from nftlb.probes import probe_for, run

if TYPE_CHECKING:
    from packets.world import Mode

    from nftlb.health import Result
    from nftlb.model import Config

LINK_LOCAL = {"b1": "fe80::9:1", "b2": "fe80::9:2", "b3": "fe80::9:3"}
KINDS = (f"udp: {{send: '9 health'}}, port: {PORT}", "icmp: {}", f"tcp: {{}}, port: {PORT + 1}")


def written(world: World, backends: dict[str, str], health: str = "") -> Config:
    """A pool as a file has it, with these backends."""
    ingress = "ingress: eth0," if world.mode.ingress else ""
    listed = ", ".join(f"{name}: {text}" for name, text in backends.items())
    return parse(
        f"""pools: {{dns: {{listen: "[{VIP6}]:{PORT}/udp", forward: {world.mode.forward}, {ingress} {health}
        backends: {{{listed}}}}}}}"""
    )


def turns(world: World, version: int = 6) -> Counter[str]:
    """Who answers 30 datagrams of one socket; all come from the service, once."""
    with world.lab.client.connect((vip(version), PORT), connected=False) as client:
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
    """Each gets every third datagram, though no global address of the backends is known to the balancer."""
    with World(mode, offload=offload) as world:
        for host in world.lab.backends:
            host.run(["ip", "address", "add", f"{LINK_LOCAL[host.name]}/64", "dev", "eth0"])
        form = '"{}%eth0"' if as_text else '{{address: "{}", device: eth0}}'
        config = written(world, {name: form.format(address) for name, address in LINK_LOCAL.items()})
        world.load(*config.pools)

        assert {"b1": 10, "b2": 10, "b3": 10} == turns(world)
        assert "" == world.lab.balancer.call(world.applier.diff, config)


def test_dsr_by_link_local_routers(mode: Mode) -> None:
    """`via` is a link-local address too: the usual next hop of IPv6."""
    with World(mode) as world:
        for host in world.lab.backends:
            host.run(["ip", "address", "add", f"{LINK_LOCAL[host.name]}/64", "dev", "eth0"])
        form = '{{address: "fd00:99::{}", via: "{}", device: eth0}}'
        world.load(*written(world, {n: form.format(n[1:], address) for n, address in LINK_LOCAL.items()}).pools)

        assert {"b1": 10, "b2": 10, "b3": 10} == turns(world)


@pytest.mark.parametrize("kind", KINDS)
def test_checks_leave_by_the_interface_of_the_backend(kind: str) -> None:
    """A link-local address says nothing without its interface, and checks know it from the backend."""
    with World(DSR) as world, world.lab.serve_tcp(PORT + 1):
        for host in world.lab.backends:
            host.run(["ip", "address", "add", f"{LINK_LOCAL[host.name]}/64", "dev", "eth0"])
        backends = {name: f'"{address}%eth0"' for name, address in LINK_LOCAL.items()} | {"nobody": '"fe80::9:99%eth0"'}
        config = written(world, backends, f"health: {{{kind}, timeout: 2s}},")

        async def check() -> dict[str, Result]:
            subjects = [(subject, health) for _, health, subject in _checks(config.pools[0])]
            results = await asyncio.gather(*(run(probe_for(health.check), subject) for subject, health in subjects))
            return {subject.backend: result for (subject, _), result in zip(subjects, results, strict=True)}

        results = world.lab.balancer.call(lambda: asyncio.run(check()))
    assert {"b1": True, "b2": True, "b3": True, "nobody": False} == {n: one.passed for n, one in results.items()}


def test_the_same_address_on_two_interfaces_is_two_hosts() -> None:
    """Marks and routes of `dsr` tell them apart."""
    with World(DSR) as world:
        balancer = world.lab.balancer
        b1, b2 = world.lab.backends[:2]
        for number, host in ((1, b1), (2, b2)):
            # A second link of its own for each of the two, with the same address at its far end.
            name = f"own{number}"
            balancer.call(links.make_veths, [links.Veth(name, f"far{number}", host.fileno())])
            balancer.run(["ip", "link", "set", name, "up"])
            host.run(["ip", "link", "set", f"far{number}", "up"])
            host.run(["ip", "address", "add", "fe80::9:9/64", "dev", f"far{number}"])
        world.load(*written(world, {"b1": '"fe80::9:9%own1"', "b2": '"fe80::9:9%own2"'}).pools)

        assert {"b1": 15, "b2": 15} == turns(world)


@pytest.mark.parametrize("mode", [NAT, STATELESS], ids=str)
def test_link_local_backends_of_ipv4(mode: Mode) -> None:
    """The kernel routes 169.254.0.0/16 like every other network."""
    with World(mode) as world:
        pool = world.pool()
        backends = [one for one in pool.backends if one.address.version == 4]
        for number, (host, backend) in enumerate(zip(world.lab.backends, backends, strict=True), 1):
            host.run(["ip", "address", "add", f"169.254.{number}.2/24", "dev", "eth0"])
            world.lab.balancer.run(["ip", "address", "add", f"169.254.{number}.1/24", "dev", host.name])
            object.__setattr__(backend, "address", ip_address(f"169.254.{number}.2"))
        world.load(pool)

        assert {"b1": 10, "b2": 10, "b3": 10} == turns(world, 4)
