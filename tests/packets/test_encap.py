"""`encap` of `dsr`: backends behind routers get each datagram of a client socket through a tunnel, and answer directly.

The kernel of a test machine may have no tunnels, so `tunnel_stand_in` takes their place: see there what is real.
"""

from __future__ import annotations

import errno
import os
from contextlib import ExitStack
from dataclasses import dataclass, replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from encap_lab import EVERYONE, EncapLab, beyond, swapping
from hop_limits import set_ttl, time_exceeded
from keyed_clients import Asker
from packet_tap import Tap
from pool_lab import NAT, PORT, PoolLab, close_slow_path, down, vip

from nftlb.compiler.routes import tunnel_hop
from nftlb.errors import KernelError
from nftlb.kernel.policy_routing import PolicyRouting
from nftlb.kernel.tunnels import DOOMED_GROUP, KINDS, TunnelLinks
from nftlb.lab import VIP4
from nftlb.model import Config, Encap, Membership
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.kernel.netlink import Netlink
    from nftlb.kernel.tunnels import Tunnel
    from nftlb.model import Pool


@pytest.fixture(params=[Encap.IPIP, Encap.GRE], ids=str, scope="module")
def encap_lab(request: pytest.FixtureRequest) -> Iterator[EncapLab]:
    with EncapLab(request.param) as encap_lab:
        yield encap_lab


@pytest.fixture(scope="module")
def ipip_lab() -> Iterator[EncapLab]:
    with EncapLab(Encap.IPIP) as encap_lab:
        yield encap_lab


def slow(encap_lab: EncapLab) -> Pool:
    return replace(encap_lab.pool(), ingress=())


def in_turns(encap_lab: EncapLab, version: int, size: int, *, zero_checksum: bool = False) -> None:
    """Send from one socket; assert strict turns, whole datagrams, one reply each, and the source of the replies."""
    with encap_lab.lab.client.connect((vip(version), PORT), connected=False, zero_checksum=zero_checksum) as client:
        answers = client.exchange(9, size=size, reply_size=64)
    turns = [answer.backend for answer in answers]
    assert (sorted(turns[:3]), turns) == (EVERYONE, turns[:3] * 3)
    assert {(vip(version), PORT)} == {answer.source for answer in answers}
    assert {(1, True)} == {(answer.copies, answer.whole) for answer in answers}


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("fast", [False, True], ids=["", "ingress"])
def test_a_tunnel_is_one_hop(encap_lab: EncapLab, fast: bool, version: int) -> None:
    """A TTL of 1 does not enter a tunnel: the client gets an error. A TTL of 2 enters a tunnel with 1, and arrives."""
    lab = encap_lab.lab
    encap_lab.load(encap_lab.pool() if fast else slow(encap_lab))
    encap_lab.servers.clear()
    with ExitStack() as stack:
        asker = stack.enter_context(Asker(lab.client, version))
        at_client = stack.enter_context(Tap(lab.client))
        ends = {beyond(number)[version == 6] for number in range(1, 4)}
        made = [name for name, one in encap_lab.tunnels.made.items() if str(one.remote) in ends]
        taps = [stack.enter_context(Tap(lab.balancer, name)) for name in made]
        for ttl in (1, 2, 3, 2, 1):
            set_ttl(asker.sock, ttl)
            asker.send(f"with {ttl}".encode())
        encap_lab.servers.wait(3)
        received = encap_lab.servers.settle()  # the error about the last datagram is here too
        inner = [packet for tap in taps for packet in tap.datagrams()]
        assert 2 == len(time_exceeded(at_client))
    assert ["with 2", "with 2", "with 3"] == sorted(one.payload.decode() for one in received)
    assert [(b"with 2", 1), (b"with 2", 1), (b"with 3", 2)] == sorted((one.payload, one.ttl) for one in inner)


@pytest.mark.parametrize("version", [4, 6])
def test_each_datagram_goes_to_the_next_backend(encap_lab: EncapLab, version: int) -> None:
    """Datagrams of one socket, whole, in fragments and without a checksum, take strict turns through the tunnels."""
    encap_lab.load(slow(encap_lab))
    before = len(encap_lab.openers.opened)
    if version == 6:
        # The router in the middle may not make fragments: the client learns from this datagram what fits.
        with encap_lab.lab.client.connect((vip(6), PORT), connected=False) as client:
            client.exchange(1, size=4000, timeout=0.2)
    for size in (40, 1400, 4000):
        in_turns(encap_lab, version, size)
    in_turns(encap_lab, 4, 1000, zero_checksum=True)
    assert len(encap_lab.openers.opened) - before >= 36


@pytest.mark.parametrize("version", [4, 6])
def test_the_fast_path_leads_into_the_tunnels(encap_lab: EncapLab, version: int) -> None:
    """With `ingress`, packets of up to 1280 bytes with the outer header take strict turns on the fast path.

    Larger packets take the ordinary chains, since the kernel answers only there that a packet does not fit.
    """
    encap_lab.load(encap_lab.pool())
    outer = KINDS[encap_lab.encap, version].overhead
    largest = 1280 - outer - {4: 28, 6: 48}[version]
    close_slow_path(encap_lab)
    try:
        for size in (40, largest):
            in_turns(encap_lab, version, size)
        with encap_lab.lab.client.connect((vip(version), PORT)) as client:
            (caught,) = client.exchange(1, size=largest + 1, reply_size=64, timeout=0.2)
    finally:
        encap_lab.lab.nft("delete table inet trap")
    in_turns(encap_lab, version, largest + 1)
    assert caught.copies == 0


@pytest.mark.parametrize("version", [4, 6])
def test_the_sender_of_a_packet_that_does_not_fit_gets_an_error(ipip_lab: EncapLab, version: int) -> None:
    """A packet with DF that only the outer header makes too large is refused with the size that fits."""
    ipip_lab.load(slow(ipip_lab))
    headers = {4: 28, 6: 48}[version]
    overhead = {4: 20, 6: 40}[version]
    with ipip_lab.lab.client.connect((vip(version), PORT), dont_fragment=True) as client:
        (lost,) = client.exchange(1, size=1500 - headers, reply_size=64, timeout=0.5)
        refused, fits = (
            client.exchange(1, size=1500 - headers - overhead + 1)[0],
            client.exchange(1, size=1500 - headers - overhead)[0],
        )
    assert (lost.copies, refused.error and refused.error.errno, fits.copies) == (0, errno.EMSGSIZE, 1)


@pytest.mark.parametrize("fast", [False, True], ids=["routed", "ingress"])
def test_swaps_lose_no_datagram(ipip_lab: EncapLab, fast: bool) -> None:
    """While backends leave and return, each datagram of a socket gets one answer, from the service's address."""
    ipip_lab.load(ipip_lab.pool() if fast else slow(ipip_lab))
    memberships = [down(*names) for names in (("b1",), (), ("b2", "b3"), ("b2",))]
    with swapping(ipip_lab, memberships), ipip_lab.lab.client.connect((VIP4, PORT), connected=False) as client:
        answers = client.exchange(3000, pipelined=True)
    assert {1} == {answer.copies for answer in answers}
    assert {(VIP4, PORT)} == {answer.source for answer in answers}
    assert EVERYONE == sorted({answer.backend for answer in answers})


def test_nothing_is_left_after_removal_and_others_stay(ipip_lab: EncapLab) -> None:
    """`remove` deletes tunnels, rules and routes, and nothing that was there before; so does a pool without encap."""
    ipip_lab.lab.balancer.call(ipip_lab.applier.remove)
    before = ipip_lab.devices()
    ipip_lab.load(ipip_lab.pool())
    assert ipip_lab.devices().count(" nftlb-") >= 6
    assert {tunnel_hop(Encap.IPIP, ip_address(address)) for n in (1, 2, 3) for address in beyond(n)} == set(
        ipip_lab.lab.balancer.call(ipip_lab.applier.routing.current).values()
    )
    ipip_lab.load(replace(PoolLab.pool(ipip_lab), forward=NAT.forward, ingress=()))
    without = ipip_lab.devices()
    ipip_lab.load(ipip_lab.pool())
    ipip_lab.lab.balancer.call(ipip_lab.applier.remove)

    assert (before, before) == (without, ipip_lab.devices())


def test_tunnels_that_others_delete_come_back(ipip_lab: EncapLab) -> None:
    """`diff` shows the loss, the next load makes the tunnel and its route again, and a load after that does nothing."""
    pool = slow(ipip_lab)
    config = Config(pools=(pool,))
    ipip_lab.load(pool)
    hop = tunnel_hop(Encap.IPIP, ip_address(beyond(2)[0]))
    ipip_lab.lab.balancer.run(["ip", "link", "delete", hop.device])

    lost = ipip_lab.lab.balancer.call(ipip_lab.applier.diff, config)
    applied = ipip_lab.lab.balancer.call(ipip_lab.applier.load, config)

    assert f"ipip to {beyond(2)[0]} dev {hop.device}" in lost
    assert [change.split(" group")[0] for change in applied.routing if "link" in change] == [
        f"ip link add {hop.device} up"
    ]
    in_turns(ipip_lab, 4, 100)
    assert not ipip_lab.lab.balancer.call(ipip_lab.applier.load, config)
    assert not ipip_lab.lab.balancer.call(ipip_lab.applier.diff, config)


def test_a_first_load_replaces_a_tunnel_that_is_down(ipip_lab: EncapLab) -> None:
    """Each `nftlb apply` is a first load. It makes the tunnel again, and the fast path leads into the new tunnel."""
    balancer = ipip_lab.lab.balancer
    ipip_lab.load(ipip_lab.pool())
    tunnel = tunnel_hop(Encap.IPIP, ip_address(beyond(1)[0])).device
    balancer.run(["ip", "link", "set", tunnel, "down"])
    ipip_lab.applier = balancer.call(Applier, ipip_lab.kernel, routing=PolicyRouting(ipip_lab.tunnels))
    ipip_lab.load(ipip_lab.pool())
    in_turns(ipip_lab, 4, 64)


def test_an_interrupted_deletion_is_finished(ipip_lab: EncapLab) -> None:
    """A tunnel that was about to be deleted is made again if it is needed, and deleted if not."""
    pool = slow(ipip_lab)
    ipip_lab.load(pool)
    name = tunnel_hop(Encap.IPIP, ip_address(beyond(2)[0])).device
    doom = ["ip", "link", "set", name, "group", str(DOOMED_GROUP)]
    ipip_lab.lab.balancer.run(doom)

    applied = ipip_lab.lab.balancer.call(ipip_lab.applier.load, Config(pools=(pool,)))
    in_turns(ipip_lab, 4, 100)
    ipip_lab.lab.balancer.run(doom)
    ipip_lab.lab.balancer.call(ipip_lab.applier.remove)

    assert [change.split(" group")[0] for change in applied.routing if "link" in change] == [
        f"ip link delete {name}",
        f"ip link add {name} up",
    ]
    assert " nftlb-" not in ipip_lab.devices()


def test_an_interface_of_another_program_is_not_taken(ipip_lab: EncapLab) -> None:
    """An interface with the name of a tunnel, which nftlb did not make, stays and gets no packet of the fast path.

    `apply` refuses the file and names the interface; the daemon leaves the tunnel and the fast path of the pool out.
    """
    ipip_lab.lab.balancer.call(ipip_lab.applier.remove)
    name = tunnel_hop(Encap.IPIP, ip_address(beyond(1)[0])).device
    config = Config(pools=(ipip_lab.pool(),))
    ipip_lab.lab.balancer.run(["ip", "link", "add", name, "up", "type", "bridge"])
    try:
        with pytest.raises(KernelError, match=f"did not make is called {name}: ip link set {name} name"):
            ipip_lab.load(ipip_lab.pool())
        applied = ipip_lab.lab.balancer.call(ipip_lab.applier.load, config, Membership(), lenient=True)
        assert [line for line in applied.lacking if name in str(line)]
        assert name not in ipip_lab.lab.nft("list ruleset")
        assert " bridge " in ipip_lab.lab.balancer.run(["ip", "-details", "link", "show", name])
    finally:
        ipip_lab.lab.balancer.run(["ip", "link", "delete", name])
    ipip_lab.lab.balancer.call(ipip_lab.applier.load, config, Membership(), lenient=True)
    assert name in ipip_lab.lab.nft("list ruleset")
    in_turns(ipip_lab, 4, 100)


@dataclass(frozen=True)
class NoTunnels(TunnelLinks):
    """A kernel without tunnels."""

    def add(self, netlink: Netlink, tunnel: Tunnel) -> None:  # noqa: ARG002 - that of the real one
        raise OSError(errno.EOPNOTSUPP, os.strerror(errno.EOPNOTSUPP))


def test_without_tunnels_in_the_kernel_other_pools_work(ipip_lab: EncapLab) -> None:
    """`apply` refuses the file and leaves the rules as they are; the daemon loads all but the tunnels, and says why."""
    balancer = ipip_lab.lab.balancer
    applier = Applier(ipip_lab.kernel, routing=PolicyRouting(NoTunnels()))
    other = replace(PoolLab.pool(ipip_lab, PORT), forward=NAT.forward, ingress=())
    far = tuple(replace(one, address=ip_address(one.address) + 1) for one in other.listen)
    config = Config(pools=(other, replace(ipip_lab.pool(), name="far", listen=far)))
    ipip_lab.load(other)

    with pytest.raises(
        KernelError, match=r"no interfaces of the type ipip, .* for 3 addresses .* modprobe ipip, or .*"
    ):
        balancer.call(applier.load, config)
    in_turns(ipip_lab, 4, 100)
    applied = balancer.call(applier.load, config, Membership(), lenient=True)
    in_turns(ipip_lab, 4, 100)

    assert [str(line).split(", which")[0] for line in applied.lacking] == [
        f"this kernel has no interfaces of the type {kind}" for kind in ("ipip", "ip6tnl")
    ]
