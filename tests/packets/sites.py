"""The hosts for the combinations of mode, service address, client and ports (`combinations.py`).

Three layouts, each with two backends (`b1`, `b2`), a client (`client1`), and a server outside the pool (`client2`):

    routed    the balancer has an interface to each of the other hosts, and all packets pass the balancer
    one-armed one segment, in which each host has one address, the balancer too; for modes that change the source
    direct    for dsr: the clients' segment, and a second one between balancer and backends; backends answer clients
              on the clients' segment, and hold the service's address on loopback
"""

from __future__ import annotations

import json
import socket
from typing import TYPE_CHECKING, Any, Self

from combinations import VERSIONS, Place, Ports, Way, Who

from nftlb.config import parse_config
from nftlb.kernel import LibNftables
from nftlb.kernel.netlink import NETLINK_NETFILTER, Netlink
from nftlb.lab import VIP4, VIP6, Lab, LabClient, Servers, links
from nftlb.lab.datagram import Datagram, DatagramKind
from nftlb.lab.links import InterfacePlan, RoutePlan, Veth
from nftlb.lab.plan import HostPlan, Plan
from nftlb.swap.applier import Applier

if TYPE_CHECKING:
    from nftlb.lab import Host
    from nftlb.model import Config

PORTS = sorted({ports.at_backends for ports in Ports} | {ports.asked for ports in Ports})
"""The ports of the servers."""
STORM = 300
"""The most replies of the servers for one cell: a loop of replies to replies then ends."""

_SEGMENT = {4: "198.51.100.{}", 6: "2001:db8:1::{}"}
"""The clients' network in layouts with a segment."""
_BEHIND = {4: "10.0.0.{}", 6: "fd00::{}"}
"""The network between balancer and backends, for dsr."""
_FRONT = {4: "198.51.100.1", 6: "2001:db8:1::1"}
_SERVICE = {
    Place.LOOPBACK: {4: VIP4, 6: VIP6},
    Place.ABSENT: {4: "203.0.113.53", 6: "2001:db8:cb::53"},
    Place.FRONT: _FRONT,
    Place.ONLY: _FRONT,
}


def _service(place: Place, *, dsr: bool) -> dict[int, str]:
    """The service's addresses, by IP version."""
    if place is Place.BACK:
        return {4: "10.0.0.1", 6: "fd00::1"} if dsr else {4: "10.0.1.1", 6: "fd00:1::1"}
    return _SERVICE[place]


class _SharedPort(LabClient):
    """A client at a port to which a server of its host is also bound, as in requests between NTP servers."""

    def _prepare(self, source: tuple[str, int], *, zero_checksum: bool, dont_fragment: bool) -> None:
        self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        super()._prepare(source, zero_checksum=zero_checksum, dont_fragment=dont_fragment)


class _Echo(Servers):
    """Replies to all datagrams, replies too, up to STORM times."""

    def _open(self, version: int, port: int) -> socket.socket:
        sock = super()._open(version, port)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return sock

    def _reply(self, name: str, payload: bytes, decoded: tuple[Datagram, bool] | None) -> bytes:
        if decoded and decoded[0].kind is DatagramKind.FENCE:
            return decoded[0].reply(name).encode()
        with self._changed:
            if len(self._records) > STORM:
                return b""
        if decoded:
            return decoded[0].reply(name).encode()
        return super()._reply(name, payload, decoded)


class Site:
    """A context manager: the hosts for one place of the service's address, with servers, at first without rules."""

    def __init__(self, place: Place, *, dsr: bool, offload: bool = True) -> None:
        self.place = place
        self.dsr = dsr
        self.service = _service(place, dsr=dsr)
        self.lab = Lab(backends=2, clients=2, offload=offload)
        if dsr or place is Place.ONLY:
            self.lab.plan = self._segment()
        self._loaded: tuple[Way, Ports] | None = None

    def __enter__(self) -> Self:
        self.lab.__enter__()
        if self.dsr:
            self._add_segment()
        self._add_way_out()
        self._serving = [*self.lab.backends, self.outside]
        self.servers = _Echo(
            self._serving, PORTS, versions=VERSIONS, answer=True, zero_checksum=False, fence_from=self.lab.client
        )
        self.servers.__enter__()
        self.kernel = self.lab.balancer.call(LibNftables)
        self.applier = self.lab.balancer.call(Applier, self.kernel, "nftlb")
        return self

    def __exit__(self, *exception: object) -> None:
        self.kernel.close()
        self.servers.__exit__(*exception)
        self.lab.__exit__(*exception)

    @property
    def outside(self) -> Host:
        """The server that is not a backend."""
        return self.lab.clients[1]

    def host(self, who: Who) -> Host:
        """The client's host."""
        return {
            Who.ELSEWHERE: self.lab.client,
            Who.BALANCER: self.lab.balancer,
            Who.BACKEND: self.lab.backends[0],
            Who.ASKED: self.outside,
        }[who]

    def client(self, host: Host, target: tuple[str, int], port: int, source: str = "") -> LabClient:
        """Open ONE socket that sends from this port, even if a server of that host uses the port.

        Beside such a server, the socket receives only datagrams from the target; otherwise from any host.
        """
        return _SharedPort(
            host,
            target,
            connected=host in self._serving and port in PORTS,
            source=(source, port),
            zero_checksum=False,
            dont_fragment=False,
        )

    def load(self, way: Way, ports: Ports) -> Config:
        """Load the rules, delete all conntrack entries, and return the configuration."""
        config = parse_config(self.config(way, ports))
        if self._loaded != (way, ports):
            self._loaded = None
            for host in self.lab.backends if way.forward == "stateless" else ():
                self.lab.balancer.sysctl(f"net.ipv4.conf.{host.name}.accept_local", int(way.early))
            applied = self.lab.balancer.call(self.applier.load, config)
            assert () == applied.slower
            self.lab.balancer.call(self.applier.tidy, at_once=True)
            self._loaded = way, ports
        self.lab.balancer.call(_flush_conntrack)
        self.servers.clear()
        return config

    def address(self, host: Host, version: int) -> str:
        """The address of a backend in the pool."""
        return _BEHIND[version].format(_last(host.name, version)) if self.dsr else host.address(version)

    def _backend(self, host: Host, version: int, port: int | None) -> dict[str, Any]:
        return {"address": self.address(host, version), **({"port": port} if port else {})}

    def config(self, way: Way, ports: Ports) -> str:
        """The configuration file, as JSON."""
        pool: dict[str, Any] = {
            "listen": [f"{self.service[4]}:{ports.listened}/udp", f"[{self.service[6]}]:{ports.listened}/udp"],
            "forward": way.forward,
            "backends": {
                f"{host.name}-v{version}": self._backend(host, version, 5353 if ports is Ports.TRANSLATED else None)
                for host in self.lab.backends
                for version in (4, 6)
            },
        }
        if way is Way.KEEP:
            pool["source"] = "keep"
        elif way is Way.ADDRESS:
            # The worst choice: the service's own address. An address that is not on the host does not work.
            pool["source"] = list(({4: VIP4, 6: VIP6} if self.place is Place.ABSENT else self.service).values())
        elif way is Way.FLOW:
            pool["per"] = "flow"
        if way.hairpin:
            pool["hairpin"] = True
        if way.early:
            pool["replies"] = "prerouting"
        if way.ingress:
            pool["ingress"] = [
                interface.name for interface in self.lab.balancer.plan.interfaces if interface.name != "lo"
            ]
            if self.dsr:
                pool["ingress"].append("eth1")
        return json.dumps({"pools": {"service": pool}}, indent=1)

    def _segment(self) -> Plan:
        """A layout with one segment, in which every host has one address."""
        held = tuple(f"{address}/{_HOST_PREFIX[version]}" for version, address in self.service.items())
        hosts = [_on_segment("balancer", held if self.place is Place.LOOPBACK else ())]
        hosts += [_on_segment(name) for name in ("client1", "client2")]
        hosts += [_on_segment(name, held if self.dsr else ()) for name in ("b1", "b2")]
        ports = tuple(InterfacePlan(host.name, bridge="br0") for host in hosts)
        switch = HostPlan("switch", "", "", (InterfacePlan("lo"), InterfacePlan("br0"), *ports))
        return Plan((switch, *hosts), "switch", "br0")

    def _add_segment(self) -> None:
        """Make the second segment, between balancer and backends: the interfaces `eth1`."""
        hosts = [self.lab.balancer, *self.lab.backends]
        switch = self.lab.hosts["switch"]
        ports = [InterfacePlan("br1"), *(InterfacePlan(f"{host.name}-1", bridge="br1") for host in hosts)]
        switch.call(links.make_veths, [Veth(f"{host.name}-1", "eth1", host.fileno()) for host in hosts], "br1")
        for host in hosts:
            eth1 = InterfacePlan("eth1", _addresses(_BEHIND, host.name))
            host.call(links.configure_interfaces, [eth1], [], checksum_offload=self.lab.offload)
        switch.call(links.configure_interfaces, ports, [], checksum_offload=self.lab.offload)
        for host in hosts:
            host.call(links.await_running, ["eth1"])
        switch.call(links.await_running, [port.name for port in ports])

    def _add_way_out(self) -> None:
        """Give the balancer a default route, so that packets to absent addresses can leave."""
        device = "eth0" if "switch" in self.lab.hosts else "client2"
        routes = [RoutePlan("0.0.0.0/0", device, self.outside.ipv4), RoutePlan("::/0", device, self.outside.ipv6)]
        self.lab.balancer.call(links.configure_interfaces, [], routes, checksum_offload=self.lab.offload)


_HOST_PREFIX = {4: 32, 6: 128}


def _on_segment(name: str, held: tuple[str, ...] = ()) -> HostPlan:
    """A host of the clients' network; it has other addresses on loopback, which it answers no ARP for as a backend."""
    routes: tuple[RoutePlan, ...] = ()
    if name.startswith("client"):
        routes = (RoutePlan("0.0.0.0/0", "eth0", _FRONT[4]), RoutePlan("::/0", "eth0", _FRONT[6]))
    balancer = name == "balancer"
    return HostPlan(
        name,
        _SEGMENT[4].format(_last(name, 4)),
        _SEGMENT[6].format(_last(name, 6)),
        (InterfacePlan("lo", held), InterfacePlan("eth0", _addresses(_SEGMENT, name))),
        routes,
        forwards=balancer,
        silent_vips=not balancer,
    )


def _addresses(network: dict[int, str], name: str) -> tuple[str, str]:
    return f"{network[4].format(_last(name, 4))}/24", f"{network[6].format(_last(name, 6))}/64"


def _last(name: str, version: int) -> str:
    """The last part of a host's address."""
    if name == "balancer":
        return "1"
    if name.startswith("client"):
        return f"{1 + int(name[-1])}"
    return f"{'b' if version == 6 else '1'}{name[-1]}"


def _flush_conntrack() -> None:
    with Netlink(NETLINK_NETFILTER) as netlink:
        # IPCTNL_MSG_CT_DELETE; a request without a tuple deletes all entries of the network namespace.
        netlink.change(0x102, bytes(4))
