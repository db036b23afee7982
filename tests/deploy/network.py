"""The network of a machine that boots: a client, three backends and an administrator, each in a separate namespace.

The addresses are those of the lab's routed shape (`nftlb.lab.plan`). The machine is the balancer, and its interfaces
have the names of the hosts at the other ends.

    client1 198.51.100.2, 2001:db8:1::2 --- .1 [machine] .1 --- b1 10.0.1.2, fd00:1::2
    admin   172.31.0.2                  --- .1 [       ] .1 --- b2 10.0.2.2, b3 10.0.3.2

VIP4 and VIP6 are on the machine's `lo`. Administration (ssh, Ansible) comes from `admin`.
"""

from __future__ import annotations

import contextlib
import os
from typing import TYPE_CHECKING, Self

from nftlb.lab import Namespace, Servers, links, plan
from nftlb.lab.host import Host
from nftlb.lab.links import InterfacePlan, RoutePlan

if TYPE_CHECKING:
    from pathlib import Path

BACKENDS = 3
MACHINE = "172.31.0.1"
"""The machine's address for `admin`."""

_ADMIN = plan.HostPlan(
    "admin",
    "172.31.0.2",
    "fd01::2",
    (InterfacePlan("lo"), InterfacePlan("eth0", ("172.31.0.2/24", "fd01::2/64"))),
    (RoutePlan("0.0.0.0/0", "eth0", MACHINE), RoutePlan("::/0", "eth0", "fd01::1")),
)


class Network:
    """A context manager: the hosts, and the ends of their links in `plugged`, the machine's namespace.

    After a boot, a kernel has no state: `replug` makes a new namespace for the machine, and moves its interfaces there.
    The hosts keep their namespaces; their carrier goes down and up.
    """

    def __init__(self) -> None:
        drawn = plan.routed(BACKENDS, 1, {})
        balancer, *rim = drawn.hosts
        self._rim = [*rim, _ADMIN]
        self.interfaces = (*balancer.interfaces, InterfacePlan("admin", (f"{MACHINE}/24", "fd01::1/64")))
        """The interfaces of the machine, as they will be configured."""
        self.hosts: dict[str, Host] = {}
        self.plugged: Namespace
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> Self:
        with contextlib.ExitStack() as stack:
            for drawn in self._rim:
                host = self.hosts[drawn.name] = Host(drawn)
                stack.callback(host.close)
                for scope in ("all", "default"):
                    host.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
                    host.sysctl(f"net.ipv6.conf.{scope}.router_solicitations", 0)
            self.plugged = Namespace("machine")
            stack.callback(self._unplug)
            self.plugged.call(
                links.make_veths, [links.Veth(host.name, "eth0", host.fileno()) for host in self.hosts.values()]
            )
            for host in self.hosts.values():
                host.call(
                    links.configure_interfaces,
                    list(host.plan.interfaces),
                    list(host.plan.routes),
                    checksum_offload=True,
                )
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def client(self) -> Host:
        return self.hosts["client1"]

    @property
    def admin(self) -> Host:
        return self.hosts["admin"]

    @property
    def backends(self) -> list[Host]:
        """The backends b1, b2 and b3."""
        return [host for name, host in self.hosts.items() if name.startswith("b")]

    def serve(self, port: int = 5353) -> Servers:
        """UDP servers of the lab on this port of the backends. They run inside `with`, and reply with their names."""
        return Servers(
            self.backends, (port,), versions=(4, 6), answer=True, zero_checksum=False, fence_from=self.client
        )

    def replug(self) -> None:
        """Make an empty network namespace for the machine. Its interfaces are down and have no addresses."""
        old, new = self.plugged, Namespace("machine")
        try:
            for host in self.hosts.values():
                old.run(["ip", "link", "set", host.name, "netns", f"/proc/{os.getpid()}/fd/{new.fileno()}"])
        except BaseException:
            new.close()
            raise
        self.plugged = new
        old.close()

    def _unplug(self) -> None:
        self.plugged.close()

    def write_configuration(self, root: Path, *, services: bool) -> None:
        """Write the files by which the machine's systemd-networkd configures the interfaces at each boot.

        `services`: whether to configure `lo` too, with the addresses of services.
        """
        for interface in self.interfaces:
            if interface.name == "lo" and not services:
                continue
            addresses = "".join(
                f"\n[Address]\nAddress={address}\nDuplicateAddressDetection=none\n" for address in interface.addresses
            )
            file = root / f"etc/systemd/network/10-{interface.name}.network"
            file.write_text(f"[Match]\nName={interface.name}\n\n[Network]\nIPv6AcceptRA=no\n{addresses}")
