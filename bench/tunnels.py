"""Sends datagrams through the tunnels of this kernel, as nftlb sets them up, and prints what arrived.

The tests use a stand-in for tunnels, because the kernel of a test machine may lack them. This program needs the types
of interfaces ipip, ip6tnl, gre and ip6gre, for instance Debian's kernel, and names those that are missing. It applies
pools with `encap`, and sends datagrams of one client socket to backends behind routers. The exit status is 1 if
something went wrong. It takes half a minute.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections import Counter
from contextlib import ExitStack
from ipaddress import ip_address
from typing import TYPE_CHECKING

from nftlb.kernel import LibNftables
from nftlb.kernel.tunnels import KINDS, missing_kinds
from nftlb.lab import VIP4, VIP6, Lab
from nftlb.model import Backend, Config, Encap, Forward, Listener, Pool, Protocol
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.lab import Host

PORT = 53
VIPS = {4: VIP4, 6: VIP6}
HEADERS = {4: 28, 6: 48}
IP_MTU_DISCOVER, PMTUDISC_DONT = 10, 0
COUNT = 12
EVERYONE = {"b1": 4, "b2": 4, "b3": 4}
OPENER = {"ipip": "type ipip", "gre": "type gre", "ip6tnl": "type ip6tnl mode ip6ip6", "ip6gre": "type ip6gre"}
TRAP = """
table inet trap {
    chain prerouting {
        type filter hook prerouting priority -450
        udp dport 53 drop
    }
}
"""


def beyond(number: int) -> dict[int, str]:
    """Return the addresses of a backend behind its router, by IP version."""
    return {4: f"172.20.{number}.1", 6: f"fd00:beef::{number}"}


def batch(host: Host, commands: list[str]) -> None:
    host.run(["ip", "-batch", "-"], input="".join(f"{command}\n" for command in commands))


def prepare(lab: Lab, encap: Encap, versions: list[int]) -> None:
    """Give the backends their addresses and the other ends of the tunnels, and the balancer the routes there."""
    routes = [f"address delete {VIP4}/32 dev lo", f"address delete {VIP6}/128 dev lo"]
    for number, host in enumerate(lab.backends, 1):
        commands = [f"address add {address} dev lo" for address in (VIP4, VIP6, *beyond(number).values())]
        for version in versions:
            opener = OPENER[KINDS[encap, version].name]
            commands += [
                f"link add open{version} {opener} local {beyond(number)[version]}",
                f"link set open{version} up",
            ]
        batch(host, commands)
        routes += [f"route add {beyond(number)[4]} via {host.ipv4}", f"route add {beyond(number)[6]} via {host.ipv6}"]
    batch(lab.balancer, routes)


def pool(encap: Encap, versions: list[int], *, fast: bool) -> Pool:
    backends = [
        Backend(name=f"b{number}{'' if version == 4 else '-6'}", address=ip_address(beyond(number)[version]))
        for version in versions
        for number in (1, 2, 3)
    ]
    return Pool(
        name="dns",
        listen=tuple(Listener(ip_address(VIPS[version]), PORT, PORT, Protocol.UDP) for version in versions),
        forward=Forward.DSR,
        encap=encap,
        ingress=("client1",) if fast else (),
        backends=tuple(backends),
    )


def sent(lab: Lab, version: int, size: int, *, zero_checksum: bool = False, fragments: bool = False) -> str:
    """Send datagrams of one socket. Return what went wrong; empty if all is right. `fragments`: without DF."""
    with lab.client.connect((VIPS[version], PORT), connected=False, zero_checksum=zero_checksum) as client:
        if fragments:
            with socket.socket(fileno=os.dup(client.fileno())) as same:
                same.setsockopt(socket.IPPROTO_IP, IP_MTU_DISCOVER, PMTUDISC_DONT)
        answers = client.exchange(COUNT, size=size, reply_size=64, timeout=1)
    found = Counter(answer.backend for answer in answers)
    sources = {answer.source for answer in answers if answer.copies}
    right = found == EVERYONE and sources == {(VIPS[version], PORT)} and all(answer.whole for answer in answers)
    return "" if right else f"{dict(found)} from {sources}"


def too_large(lab: Lab, version: int, overhead: int) -> str:
    """Send a datagram with DF that only the outer header makes too large. Return what went wrong."""
    size = 1500 - HEADERS[version]
    with lab.client.connect((VIPS[version], PORT), dont_fragment=True) as client:
        (first,) = client.exchange(1, size=size, reply_size=64, timeout=0.5)
        (above,) = client.exchange(1, size=size - overhead + 1, reply_size=64, timeout=0.5)
        (fits,) = client.exchange(1, size=size - overhead, reply_size=64, timeout=1)
    refused = above.error.errno if above.error else 0
    right = (first.copies, refused, fits.copies) == (0, errno.EMSGSIZE, 1)
    return "" if right else f"{first.copies} answers, then error {refused}, then {fits.copies} answers"


def cases(lab: Lab, encap: Encap, version: int, *, fast: bool) -> Iterator[tuple[str, str]]:
    """Yield each case with what went wrong."""
    overhead = KINDS[encap, version].overhead
    whole = 1500 - HEADERS[version]
    if fast:
        lab.nft(TRAP)  # packets that took the ordinary chains would be lost
    yield "40 bytes", sent(lab, version, 40)
    yield "1280 bytes with all headers", sent(lab, version, 1280 - HEADERS[version] - overhead)
    if version == 4:
        yield "without a checksum", sent(lab, version, 1000, zero_checksum=True)
    if fast:
        lab.nft("delete table inet trap")
    yield "as large as fits", sent(lab, version, whole - overhead)
    if version == 4:
        yield "too large by a byte, without DF", sent(lab, version, whole - overhead + 1, fragments=True)
    yield "too large, with DF", too_large(lab, version, overhead)
    yield "too large, once the client knows", sent(lab, version, whole - overhead + 1)
    yield "fragments of the client", sent(lab, version, 4000)


def state(lab: Lab) -> str:
    """The names of all interfaces, and all rules and routes that nftlb might have made."""
    names = sorted(line.split(":")[1] for line in lab.balancer.run(["ip", "-oneline", "link"]).splitlines())
    commands = (f"-{version} {what}" for version in (4, 6) for what in ("rule", "route show table all protocol 110"))
    return "".join([*names, *(lab.balancer.run(["ip", *command.split()]) for command in commands)])


def attempt(encap: Encap, versions: list[int]) -> Iterator[tuple[str, str]]:
    """Yield all cases of a tunnel with what went wrong."""
    for fast in (False, True):
        with ExitStack() as stack:
            lab = stack.enter_context(Lab(backends=3))
            prepare(lab, encap, versions)
            stack.enter_context(lab.serve(PORT))
            kernel = lab.balancer.call(LibNftables)
            stack.callback(kernel.close)
            before = state(lab)
            applier = lab.balancer.call(Applier, kernel)
            config = Config(pools=(pool(encap, versions, fast=fast),))
            lab.balancer.call(applier.load, config)
            for version in versions:
                name = f"{KINDS[encap, version].name:6} {'ingress' if fast else 'routed'}"
                for case, wrong in cases(lab, encap, version, fast=fast):
                    yield f"{name}: {case}", wrong
            again = lab.balancer.call(applier.load, config)
            yield f"{encap}: a second load changes nothing", "" if not again else str(again)
            lab.balancer.call(applier.remove)
            yield f"{encap}: nothing is left", "" if state(lab) == before else state(lab)


def main() -> int:
    failed = 0
    missing = missing_kinds(KINDS)
    for key in sorted(missing):
        print(f"this kernel has no {KINDS[key].name}: {KINDS[key].option}")
    for encap in (Encap.IPIP, Encap.GRE):
        versions = [version for version in (4, 6) if (encap, version) not in missing]
        for case, wrong in attempt(encap, versions) if versions else ():
            print(f"{'WRONG' if wrong else 'right'} {case} {wrong}".rstrip(), flush=True)
            failed += bool(wrong)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
