"""Faults of a backend's link: it goes down, or all packets of the backend are delayed."""

from __future__ import annotations

import contextlib
import select
import socket
import time
from collections import deque
from pathlib import Path
from threading import Thread
from typing import TYPE_CHECKING, Self

from servers.processes import await_that

from nftlb.lab import links

if TYPE_CHECKING:
    from nftlb.lab import Host, Lab

_INTERFACE = "eth0"
_ETH_P_ALL = 0x0003
_SO_MARK = 36
_MARK = 0x5107
_LARGEST = 65536 + 14
_ASK_EVERY = 20
_ASK_FOR = 3000
"""Milliseconds. The kernel asks three times by default, a second apart."""

# Neighbour discovery is not delayed: late replies to it would cause a further delay, or losses.
_DETOUR = f"""
table netdev slow {{
  chain egress {{
    type filter hook egress device "{_INTERFACE}" priority 0
    meta mark {_MARK} accept
    icmpv6 type {{ nd-neighbor-solicit, nd-neighbor-advert }} accept
    meta protocol {{ ip, ip6 }} fwd to "slow0"
  }}
}}
"""


class Link:
    """The link of a backend of a lab. A context manager: at its end the link is restored."""

    def __init__(self, lab: Lab, host: Host) -> None:
        self.host = host
        self._centre = lab.hosts[lab.plan.centre]
        self._balancer = lab.balancer
        self._towards = host.name if self._centre is lab.balancer else _INTERFACE
        self._detour: _Detour | None = None
        self._down = False

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.fast()
        self.up()

    def down(self) -> None:
        """Unplug the link: both ends lose the carrier, the balancer's end keeps its addresses and routes."""
        self._ask_often()
        # Otherwise the kernel deletes IPv6 addresses when an interface goes down, and servers can't get them again.
        self.host.sysctl(f"net.ipv6.conf.{_INTERFACE}.keep_addr_on_down", 1)
        self.host.run(["ip", "link", "set", _INTERFACE, "down"])
        self._down = True
        # Until the kernel's link watch has noticed, a veth refuses packets with ENOBUFS instead of losing them, unlike
        # a cable; a socket with IP_RECVERR gets this error.
        await_that(lambda: "NO-CARRIER" in self._centre.run(["ip", "link", "show", self.host.name]), "carrier lost")

    def up(self) -> None:
        """Plug the link in again, and wait until packets pass. No effect on a link that is up."""
        if not self._down:
            return
        self.host.run(["ip", "link", "set", _INTERFACE, "up"])
        for route in self.host.plan.routes:  # deleted when the carrier was lost
            via = ["via", route.gateway] if route.gateway else []
            family = "-6" if ":" in route.destination else "-4"
            self.host.run(
                ["ip", family, "route", "replace", route.destination, *via, "dev", route.interface, "proto", "static"]
            )
        self.host.call(links.await_running, [_INTERFACE])
        self._centre.call(links.await_running, [self.host.name])
        self._down = False

    def _ask_often(self) -> None:
        """Make the balancer search for its neighbour for the same time, but with more than one request a second.

        Otherwise, a host would seem to be away for up to a second more than its link. To delete the entry at the
        link's return does not help: the packets that wait for the neighbour would be lost.
        """
        for version in (4, 6):
            scope = f"net.ipv{version}.neigh.{self._towards}"
            self._balancer.sysctl(f"{scope}.retrans_time_ms", _ASK_EVERY)
            self._balancer.sysctl(f"{scope}.mcast_solicit", _ASK_FOR // _ASK_EVERY)

    def slow(self, seconds: float) -> None:
        """Delay every packet that the backend sends, including TCP handshakes and pings.

        Without `tc qdisc ... netem`, because some kernels lack netem.
        """
        self.fast()
        self._detour = _Detour(self.host, seconds)

    def fast(self) -> None:
        """End the delay. Packets that are still delayed are lost."""
        if self._detour is not None:
            self._detour.close()
            self._detour = None


class _Detour:
    """Redirects packets that leave by eth0 into a veth pair, from which a thread sends them later."""

    def __init__(self, host: Host, seconds: float) -> None:
        self._host = host
        self._seconds = seconds
        self._waiting: deque[tuple[float, bytes]] = deque()
        with contextlib.ExitStack() as stack:
            host.call(_make_pair, host.fileno())
            stack.callback(host.run, ["ip", "link", "delete", "slow0"])
            self._in = stack.enter_context(host.call(_packet_socket, "slow1", _ETH_P_ALL))
            self._out = stack.enter_context(host.call(_packet_socket, _INTERFACE, 0))
            # Because of the mark, packets do not take the detour a second time. The rule ends with the namespace.
            self._out.setsockopt(socket.SOL_SOCKET, _SO_MARK, _MARK)
            self._stop_here, self._stop_there = (stack.enter_context(end) for end in socket.socketpair())
            self._thread = Thread(target=self._run, name=f"{host.name}-slow", daemon=True)
            self._thread.start()
            stack.callback(self._thread.join)
            stack.callback(self._stop_here.shutdown, socket.SHUT_RDWR)
            host.run(["nft", "-f", "-"], input=_DETOUR)
            stack.callback(host.run, ["nft", "delete", "table", "netdev", "slow"])
            self._stack = stack.pop_all()

    def close(self) -> None:
        self._stack.close()

    def _run(self) -> None:
        poll = select.poll()
        poll.register(self._in, select.POLLIN)
        poll.register(self._stop_there, select.POLLIN)
        while True:
            left = max(0.0, self._waiting[0][0] - time.monotonic()) if self._waiting else None
            ready = {fd for fd, _ in poll.poll(None if left is None else left * 1000)}
            if self._stop_there.fileno() in ready:
                return
            if self._in.fileno() in ready:
                self._waiting.append((time.monotonic() + self._seconds, self._in.recv(_LARGEST)))
            while self._waiting and self._waiting[0][0] <= time.monotonic():
                with contextlib.suppress(OSError):  # the link is down: the packet is lost, as without the detour
                    self._out.send(self._waiting.popleft()[1])


def _make_pair(namespace: int) -> None:
    """Make slow0 and slow1, which complete the checksums: packets from a packet socket need complete checksums."""
    links.make_veths([links.Veth("slow0", "slow1", namespace)])
    ends = [links.InterfacePlan(name) for name in ("slow0", "slow1")]
    for end in ends:
        # Otherwise these interfaces would send their own packets, which would leave by eth0.
        Path(f"/proc/sys/net/ipv6/conf/{end.name}/disable_ipv6").write_text("1", encoding="ascii")
    links.configure_interfaces(ends, [], checksum_offload=False)
    links.await_running([end.name for end in ends])


def _packet_socket(interface: str, protocol: int) -> socket.socket:
    """Open a socket for whole frames; with protocol 0 it only sends."""
    sock = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    sock.bind((interface, protocol))
    return sock
