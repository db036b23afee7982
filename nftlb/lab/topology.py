"""The lab: clients, the balancer and backends, each in a network namespace of its own (`nftlb.lab.plan` draws them)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

from nftlb.errors import KernelError, SystemFault
from nftlb.lab import links, plan
from nftlb.lab.flows import FlowServers
from nftlb.lab.host import Host
from nftlb.lab.sctp import SctpServers
from nftlb.lab.servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DEFAULT_PORT = 5353


class Lab:
    """A network of namespaces with real packets; exists inside `with`. The balancer has no rules yet: load them.

    >>> with Lab(backends=3) as lab, lab.serve(port=5353) as servers, lab.client.connect((VIP4, 53)) as client:
    ...     lab.nft(ruleset)
    ...     answers = client.exchange(12)

    backends, clients: how many; they are called b1, b2, ... and client1, client2, ...
    offload: whether the interfaces leave checksums to the hardware that they pretend to have. Segmentation offload and
        GRO are always off. Test with both: see `nftlb.lab.offload`.
    dsr: the switched shape, where backends answer clients directly, instead of the routed one.
    mtu: narrows the links of some hosts, both ends: {"client1": 1280}.
    rp_filter: of every host; the kernel's own default is 0, many distributions' is 2.
    """

    def __init__(
        self,
        *,
        backends: int = 3,
        clients: int = 1,
        offload: bool = True,
        dsr: bool = False,
        mtu: Mapping[str, int] | None = None,
        rp_filter: int = 0,
    ) -> None:
        if not (1 <= backends <= plan.MOST_BACKENDS and 1 <= clients <= plan.MOST_CLIENTS):
            raise ValueError(f"1 to {plan.MOST_BACKENDS} backends and 1 to {plan.MOST_CLIENTS} clients")
        self.plan = (plan.switched if dsr else plan.routed)(backends, clients, mtu or {})
        unknown = set(mtu or {}) - {host.name for host in self.plan.hosts}
        if unknown:
            raise ValueError(f"no such host: {', '.join(sorted(unknown))}")
        self.offload = offload
        self.rp_filter = rp_filter
        self.hosts: dict[str, Host] = {}
        self._nftables: Any = None
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for drawn in self.plan.hosts:
                host = self.hosts[drawn.name] = Host(drawn)
                stack.callback(host.close)
            self._build()
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._nftables = None  # the binding closes libnftables' context, and with it its socket, when it is collected
        self._stack.close()
        self.hosts.clear()

    @property
    def balancer(self) -> Host:
        """The host in the middle."""
        return self.hosts["balancer"]

    @property
    def client(self) -> Host:
        """The first client."""
        return self.clients[0]

    @property
    def clients(self) -> list[Host]:
        """All clients."""
        return [host for name, host in self.hosts.items() if name.startswith("client")]

    @property
    def backends(self) -> list[Host]:
        """All backends: b1, b2, ... in order."""
        return [host for name, host in self.hosts.items() if name.startswith("b") and name[1:].isdecimal()]

    def serve(
        self,
        port: int | Iterable[int] = DEFAULT_PORT,
        *,
        backends: Sequence[Host] | None = None,
        versions: Sequence[int] = (4, 6),
        answer: bool = True,
        zero_checksum: bool = False,
    ) -> Servers:
        """Return UDP servers on these ports of all backends, or of some: they run inside `with`.

        `answer=False` is for one-way traffic. `zero_checksum` leaves the checksum out of replies and accepts requests
        over IPv6 that have none.
        """
        return Servers(
            self.backends if backends is None else backends,
            (port,) if isinstance(port, int) else tuple(port),
            versions=versions,
            answer=answer,
            zero_checksum=zero_checksum,
            fence_from=self.client,
        )

    def serve_tcp(
        self, port: int = DEFAULT_PORT, *, backends: Sequence[Host] | None = None, versions: Sequence[int] = (4, 6)
    ) -> FlowServers:
        """Return TCP servers on this port of all backends, or of some: they run inside `with`."""
        return FlowServers(self.backends if backends is None else backends, port, versions=versions)

    def serve_sctp(
        self, port: int = DEFAULT_PORT, *, backends: Sequence[Host] | None = None, versions: Sequence[int] = (4, 6)
    ) -> SctpServers:
        """Return SCTP servers on this port of all backends, or of some: they run inside `with`."""
        return SctpServers(self.backends if backends is None else backends, port, versions=versions)

    def nft(self, commands: str) -> str:
        """Run nft commands on the balancer in one transaction and return their output.

        Raises KernelError with nft's own words. libnftables resolves interface names in the namespace of the thread
        that runs a command, and sends through the socket that its context opened: both have to be on the balancer.
        """
        return self.balancer.call(self._run_nft, commands)

    def _run_nft(self, commands: str) -> str:
        if self._nftables is None:
            try:
                import nftables  # noqa: PLC0415 - from the distribution, and not needed by those who load rules themselves
            except ImportError as problem:
                raise SystemFault(
                    "the nftables binding for Python is missing: apt install python3-nftables"
                ) from problem
            self._nftables = nftables.Nftables()
        status, output, error = self._nftables.cmd(commands)
        if status:
            raise KernelError(error.strip())
        return str(output)

    def _build(self) -> None:
        """Make the links; they pass packets when this returns."""
        for host in self.hosts.values():
            self._prepare(host)
        centre = self.hosts[self.plan.centre]
        rim = [host for host in self.hosts.values() if host is not centre]
        pairs = [links.Veth(host.name, "eth0", host.fileno()) for host in rim]
        centre.call(links.make_veths, pairs, self.plan.bridge)
        for host in [*rim, centre]:
            host.call(
                links.configure, list(host.plan.interfaces), list(host.plan.routes), checksum_offload=self.offload
            )
        for host in self.hosts.values():
            host.call(links.await_running, [interface.name for interface in host.plan.interfaces])

    def _prepare(self, host: Host) -> None:
        """Set the sysctls: before there are interfaces, since those copy `default` when they are made."""
        for scope in ("all", "default"):
            # Without duplicate address detection an IPv6 address is usable at once.
            host.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
            host.sysctl(f"net.ipv6.conf.{scope}.router_solicitations", 0)
        for scope in ("all", "default", "lo"):
            host.sysctl(f"net.ipv4.conf.{scope}.rp_filter", self.rp_filter)
        if host.plan.forwards:
            host.sysctl("net.ipv4.ip_forward", 1)
            host.sysctl("net.ipv6.conf.all.forwarding", 1)
        if host.plan.silent_vips:
            host.sysctl("net.ipv4.conf.all.arp_ignore", 1)
            host.sysctl("net.ipv4.conf.all.arp_announce", 2)
