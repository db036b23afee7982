"""The lab: clients, balancer and backends, each in its own network namespace, as in `nftlb.lab.plan`."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, Self

from nftlb.errors import KernelError
from nftlb.kernel.binding import nftables_binding

from . import links, plan
from .host import Host
from .servers import Servers

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

DEFAULT_PORT = 5353


class Lab:
    """A network of namespaces with real packets, which exists inside `with`. At first the balancer has no rules.

    >>> with Lab(backends=3) as lab, lab.serve(port=5353) as servers, lab.client.connect((VIP4, 53)) as client:
    ...     lab.nft(ruleset)
    ...     answers = client.exchange(12)

    backends, clients: their numbers. Their names are b1, b2, ... and client1, client2, ...
    offload: whether the interfaces leave checksums to their pretended hardware. Segmentation offload and GRO are always
        off. Test rules with and without offload: see `nftlb.lab.links`.
    dsr: use the switched shape, in which backends reply to clients directly, instead of the routed shape.
    mtu: smaller MTUs for both ends of the links of some hosts: {"client1": 1280}.
    """

    def __init__(
        self,
        *,
        backends: int = 3,
        clients: int = 1,
        offload: bool = True,
        dsr: bool = False,
        mtu: Mapping[str, int] | None = None,
    ) -> None:
        if not (1 <= backends <= plan.MOST_BACKENDS and 1 <= clients <= plan.MOST_CLIENTS):
            raise ValueError(
                f"{backends} backends and {clients} clients; allowed: 1 to {plan.MOST_BACKENDS} backends and "
                f"1 to {plan.MOST_CLIENTS} clients"
            )
        self.plan = (plan.switched if dsr else plan.routed)(backends, clients, mtu or {})
        unknown = set(mtu or {}) - {host.name for host in self.plan.hosts}
        if unknown:
            raise ValueError(f"mtu names unknown hosts: {', '.join(sorted(unknown))}")
        self.offload = offload
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
        self._nftables = None  # the binding closes libnftables' context and socket when it is garbage-collected
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
        """All backends in order: b1, b2, ..."""
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
        """Return UDP servers on these ports of all or some backends. They run inside `with`.

        `answer=False`: receive without replying. `zero_checksum`: send replies without a checksum, and accept requests
        over IPv6 without a checksum.
        """
        return Servers(
            self.backends if backends is None else backends,
            (port,) if isinstance(port, int) else tuple(port),
            versions=versions,
            answer=answer,
            zero_checksum=zero_checksum,
            fence_from=self.client,
        )

    def nft(self, commands: str) -> str:
        """Run nft commands on the balancer in one transaction, and return their output.

        Raises KernelError with nft's message. libnftables resolves interface names in the namespace of the calling
        thread, and sends through the socket of its context: both have to be on the balancer.
        """
        return self.balancer.call(self._run_nft, commands)

    def _run_nft(self, commands: str) -> str:
        if self._nftables is None:
            self._nftables = nftables_binding().Nftables()
        status, output, error = self._nftables.cmd(commands)
        if status:
            raise KernelError(error.strip())
        return str(output)

    def _build(self) -> None:
        """Make the links, and wait until they pass packets."""
        for host in self.hosts.values():
            self._prepare(host)
        centre = self.hosts[self.plan.centre]
        rim = [host for host in self.hosts.values() if host is not centre]
        pairs = [links.Veth(host.name, "eth0", host.fileno()) for host in rim]
        centre.call(links.make_veths, pairs, self.plan.bridge)
        for host in [*rim, centre]:
            host.call(
                links.configure_interfaces,
                list(host.plan.interfaces),
                list(host.plan.routes),
                checksum_offload=self.offload,
            )
        for host in self.hosts.values():
            host.call(links.await_running, [interface.name for interface in host.plan.interfaces])

    def _prepare(self, host: Host) -> None:
        """Set the sysctls. This comes before the interfaces are made, because these copy `default`."""
        for scope in ("all", "default"):
            # Without duplicate address detection an IPv6 address is usable at once.
            host.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
            host.sysctl(f"net.ipv6.conf.{scope}.router_solicitations", 0)
        for scope in ("all", "default", "lo"):
            host.sysctl(f"net.ipv4.conf.{scope}.rp_filter", 0)
        if host.plan.forwards:
            host.sysctl("net.ipv4.ip_forward", 1)
            host.sysctl("net.ipv6.conf.all.forwarding", 1)
        if host.plan.silent_vips:
            host.sysctl("net.ipv4.conf.all.arp_ignore", 1)
            host.sysctl("net.ipv4.conf.all.arp_announce", 2)
