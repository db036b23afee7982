"""Two balancers with the real keepalived between two switches: a client on one, three backends on the other.

    client 198.51.100.9   --- [outside] --- .1 [lb1] 10.0.0.1 --- [inside] --- b1 10.0.0.11
           2001:db8:1::9                ::1          fd00::1                   fd00::b1
                                        --- .2 [lb2] 10.0.0.2 ---              b2, b3

The configuration of keepalived is the template for users, deploy/keepalived/keepalived.conf, with the addresses of the
lab. The service's addresses, .53 and ::53, are in the client's segment, so the client uses ARP and ND. The backends'
default route, .254 and ::254, belongs to the pair too.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from contextlib import ExitStack, contextmanager
from ipaddress import IPv6Address
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from daemon_process import Running
from servers import processes
from servers.guard import Guard
from servers.processes import await_that
from servers.programs import environment, with_its_files
from tcp_connections import TcpServers

from nftlb.lab import Host, Servers, links
from nftlb.lab.plan import HostPlan

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VIP4 = "198.51.100.53"
VIP6 = "2001:db8:1::53"
GATEWAY4 = "10.0.0.254"
GATEWAY6 = "fd00::254"
DEPLOY = Path(__file__).parents[2] / "deploy" / "keepalived"
_ADDRESSES = {VIP4, VIP6, GATEWAY4, GATEWAY6}
_BACKENDS = ("b1", "b2", "b3")
_BRIDGE = "br0"
_PRIORITY = 150
"""The value in the configuration."""


class Keepalived:
    """The keepalived of one balancer, started and ended as by systemd."""

    def __init__(self, host: Host, settings: dict[str, str]) -> None:
        """`settings`: values of the definitions at the beginning of the file."""
        self.host = host
        self._guard = Guard("keepalived")
        self._process: subprocess.Popen[str] | None = None
        self.directory = self._guard.directory
        ready = self.directory / "nftlb-ready"
        # A copy with the path of this Python, because the tests may run with another Python than Debian's.
        text = (DEPLOY / "nftlb-ready").read_text()
        ready.write_text(text.replace("/usr/bin/python3", sys.executable, 1))
        ready.chmod(0o755)
        conf = (DEPLOY / "keepalived.conf").read_text()
        for name, value in settings.items():
            conf, count = re.subn(rf"(?m)^\${name}=\S+", f"${name}={value}", conf)
            assert 1 == count, f"{name} is defined {count} times"
        conf = conf.replace("/usr/lib/nftlb/nftlb-ready", str(ready)).replace("user nftlb", "user root")
        # The path is in /tmp, where all users may write.
        conf = conf.replace("    enable_script_security\n", "")
        (self.directory / "keepalived.conf").write_text(conf)

    def start(self) -> None:
        """Start keepalived. It takes the addresses later."""
        pids = [f"--{name}={self.directory / name}.pid" for name in ("pid", "vrrp_pid", "checkers_pid", "bfd_pid")]
        with (self.directory / "log").open("a") as log:
            self._process = self.host.popen(
                [
                    *with_its_files("keepalived"),
                    *("--vrrp", "--dont-fork", "--log-console", "--log-detail", "--no-syslog"),
                    *("--use-file", str(self.directory / "keepalived.conf"), *pids),
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env=environment(),
                start_new_session=True,
            )
        self._guard.watch(self._process.pid)

    def stop(self) -> None:
        """Stop keepalived regularly: it releases its addresses and announces this."""
        assert self._process is not None
        self._process.send_signal(signal.SIGTERM)
        self._process.wait(processes.PATIENCE)

    def close(self) -> None:
        if self._process is not None:
            processes.kill(self._process.pid)
            self._process.wait(processes.PATIENCE)
        self._guard.close()

    @property
    def log(self) -> str:
        return (self.directory / "log").read_text(errors="replace")


class Balancer:
    """One balancer of the pair: host, nftlb and keepalived."""

    def __init__(self, host: Host, daemon: Running, keepalived: Keepalived) -> None:
        self.host = host
        self.daemon = daemon
        self.keepalived = keepalived

    def __repr__(self) -> str:
        return self.host.name

    @property
    def addresses(self) -> set[str]:
        """The pair's addresses that this balancer holds."""
        # Read from /proc instead of ip(8), because waiting tests read the addresses every few milliseconds.
        held4, held6 = self.host.proc_net("fib_trie"), self.host.proc_net("if_inet6")
        found = {address for address in (VIP4, GATEWAY4) if f"|-- {address}\n" in held4}
        return found | {address for address in (VIP6, GATEWAY6) if f"{int(IPv6Address(address)):032x} " in held6}

    @property
    def priority(self) -> int:
        """The VRRP priority that this balancer advertises, or would advertise."""
        changes = re.findall(r"Changing effective priority from \d+ to (\d+)", self.keepalived.log)
        return int(changes[-1]) if changes else _PRIORITY

    @property
    def unfit(self) -> bool:
        """Whether the check script of keepalived fails."""
        return self.priority < _PRIORITY

    @property
    def promotions(self) -> int:
        """The number of times that this balancer became master."""
        return self.keepalived.log.count("Entering MASTER STATE")

    def await_addresses(self) -> float:
        """Wait until this balancer holds the addresses. Return the time."""
        await_that(lambda: _ADDRESSES == self.addresses, f"{self} with the addresses")
        return time.monotonic()

    @contextmanager
    def stopped(self) -> Iterator[None]:
        """Stop the daemon's process (SIGSTOP); its sockets stay open."""
        self.daemon.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.daemon.process.send_signal(signal.SIGCONT)


class Pair:
    """The whole pair with backends, which runs inside `with`."""

    def __init__(self, directory: Path, pools: dict[str, Any], ports: Sequence[int]) -> None:
        """`ports`: the UDP and TCP ports of the backends."""
        self.hosts: dict[str, Host] = {}
        self.balancers: list[Balancer] = []
        self._directory = directory
        self._pools = pools
        self._ports = ports
        self._servers = ExitStack()
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as stack:
            for plan in _plans():
                host = self.hosts[plan.name] = Host(plan)
                stack.callback(host.close)
            self._connect()
            self._serve()
            stack.callback(self._servers.close)
            self.balancers = [self._balancer(stack, number) for number in (1, 2)]
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    @property
    def client(self) -> Host:
        return self.hosts["client"]

    def masters(self) -> list[Balancer]:
        """The balancers that hold any of the addresses now."""
        return [balancer for balancer in self.balancers if balancer.addresses]

    def roles(self) -> tuple[Balancer, Balancer]:
        """Wait until the pair is healthy. Return the master and the backup."""
        await_that(lambda: not any(balancer.unfit for balancer in self.balancers), "both fit")
        await_that(lambda: [_ADDRESSES] == [balancer.addresses for balancer in self.masters()], "one master")
        (master,) = self.masters()
        return master, next(balancer for balancer in self.balancers if balancer is not master)

    def await_master(self, balancer: Balancer) -> float:
        """Wait until only this balancer holds the addresses. Return the time."""
        await_that(lambda: [balancer] == self.masters(), f"{balancer} the only master")
        return balancer.await_addresses()

    @contextmanager
    def cut(self, switch: str, balancer: Balancer, *, seen: bool) -> Iterator[None]:
        """Unplug a balancer from a switch. If not `seen`, its packets are dropped while the link stays up."""
        ends, begins = (["down"], ["up"]) if seen else (["nomaster"], ["master", _BRIDGE])
        port = ["ip", "link", "set", balancer.host.name]
        self.hosts[switch].run([*port, *ends])
        try:
            yield
        finally:
            self.hosts[switch].run([*port, *begins])

    @contextmanager
    def without_servers(self) -> Iterator[None]:
        """Stop the servers of all backends."""
        self._servers.close()
        try:
            yield
        finally:
            self._serve()

    def _serve(self) -> None:
        backends = [host for name, host in self.hosts.items() if name in _BACKENDS]
        servers = Servers(
            backends, self._ports, versions=(4, 6), answer=True, zero_checksum=False, fence_from=self.client
        )
        self._servers.enter_context(servers)
        for port in self._ports:
            self._servers.enter_context(TcpServers(backends, port, versions=(4,)))

    def _connect(self) -> None:
        for host in self.hosts.values():
            for scope in ("all", "default"):
                host.sysctl(f"net.ipv6.conf.{scope}.accept_dad", 0)
                host.sysctl(f"net.ipv6.conf.{scope}.router_solicitations", 0)
            if host.plan.forwards:
                host.sysctl("net.ipv4.ip_forward", 1)
                host.sysctl("net.ipv6.conf.all.forwarding", 1)
        for name, interface in (("outside", "eth0"), ("inside", "eth1")):
            switch = self.hosts[name]
            ports = [
                candidate
                for candidate in self.hosts.values()
                if any(interface == own.name for own in candidate.plan.interfaces)
            ]
            pairs = [links.Veth(host.name, interface, host.fileno()) for host in ports]
            switch.call(links.make_veths, pairs, _BRIDGE)
        for host in self.hosts.values():
            host.call(
                links.configure_interfaces, list(host.plan.interfaces), list(host.plan.routes), checksum_offload=True
            )
        for host in self.hosts.values():
            host.call(links.await_running, [interface.name for interface in host.plan.interfaces])

    def _balancer(self, stack: ExitStack, number: int) -> Balancer:
        host = self.hosts[f"lb{number}"]
        directory = self._directory / host.name
        directory.mkdir()
        daemon = Running(host, directory, self._pools)
        settings = {
            "OUTSIDE": "eth0",
            "OWN": host.ipv4,
            "PEER": f"198.51.100.{3 - number}",
            "VIP4": f"{VIP4}/32",
            "VIP6": f"{VIP6}/128",
            "INSIDE": "eth1",
            "GATEWAY4": f"{GATEWAY4}/32",
            "GATEWAY6": f"{GATEWAY6}/128",
            "API": f"unix:{daemon.socket}",
        }
        keepalived = Keepalived(host, settings)
        stack.callback(keepalived.close)
        stack.enter_context(daemon)
        keepalived.start()
        # One after the other: the first becomes master, and the second finds a master.
        state = {1: "MASTER", 2: "BACKUP"}[number]
        await_that(lambda: f"Entering {state} STATE" in keepalived.log, f"{host.name} in state {state}")
        return Balancer(host, daemon, keepalived)


def _plans() -> Iterator[HostPlan]:
    lo = links.InterfacePlan("lo")
    yield _switch("outside", "client", "lb1", "lb2")
    yield _switch("inside", "lb1", "lb2", *_BACKENDS)
    yield HostPlan("client", "198.51.100.9", "2001:db8:1::9", (lo, _interface("eth0", "198.51.100.9", "2001:db8:1::9")))
    for n in (1, 2):
        v4, v6 = f"198.51.100.{n}", f"2001:db8:1::{n}"
        eth1 = _interface("eth1", f"10.0.0.{n}", f"fd00::{n}")
        yield HostPlan(f"lb{n}", v4, v6, (lo, _interface("eth0", v4, v6), eth1), forwards=True)
    routes = (links.RoutePlan("0.0.0.0/0", "eth1", GATEWAY4), links.RoutePlan("::/0", "eth1", GATEWAY6))
    for n, name in enumerate(_BACKENDS, start=1):
        v4, v6 = f"10.0.0.{10 + n}", f"fd00::b{n}"
        yield HostPlan(name, v4, v6, (lo, _interface("eth1", v4, v6)), routes)


def _switch(name: str, *ports: str) -> HostPlan:
    bridge = links.InterfacePlan(_BRIDGE)
    return HostPlan(
        name,
        "",
        "",
        (links.InterfacePlan("lo"), bridge, *(links.InterfacePlan(port, bridge=_BRIDGE) for port in ports)),
    )


def _interface(name: str, v4: str, v6: str) -> links.InterfacePlan:
    return links.InterfacePlan(name, (f"{v4}/24", f"{v6}/64"))
