"""The network of the measurements on this host's kernel: a client, a balancer, three backends, all in namespaces."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from nftlb.compiler import Compiled
from nftlb.config import parse_config
from nftlb.lab import Namespace
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

VIP, PORT, CLIENT = "10.0.0.1", 53, "10.1.0.2"
BACKENDS = ("10.2.1.2", "10.2.2.2", "10.2.3.2")
BACKEND_PORT = 5300


@dataclass(frozen=True)
class Network:
    """The client is behind the balancer's interface c0, the backends are behind b1, b2 and b3."""

    client: Namespace
    balancer: Namespace
    backends: tuple[Namespace, ...]


@contextmanager
def network(name: str) -> Iterator[Network]:
    """Make a network whose balancer forwards and has the service's address."""
    with ExitStack() as stack:
        new = [stack.enter_context(Namespace(f"{name}-{host}")) for host in ("client", "balancer", "b1", "b2", "b3")]
        client, balancer, *backends = new
        commands = ["link set lo up", f"address add {VIP}/32 dev lo"]
        for link, prefix, host in _links(client, backends):
            commands += [
                f"link add {link} type veth peer name eth0 netns /proc/self/fd/{host.fileno()}",
                f"address add {prefix}.1/24 dev {link}",
                f"link set {link} up",
            ]
        _ip(balancer, commands, pass_fds=[host.fileno() for host in (client, *backends)])
        for _, prefix, host in _links(client, backends):
            _ip(host, [f"address add {prefix}.2/24 dev eth0", "link set eth0 up", f"route add default via {prefix}.1"])
        balancer.sysctl("net.ipv4.ip_forward", 1)
        yield Network(client, balancer, tuple(backends))


def _links(client: Namespace, backends: Sequence[Namespace]) -> Iterator[tuple[str, str, Namespace]]:
    """Yield the balancer's interface to each host, the first three bytes of the addresses there, and the host."""
    yield "c0", "10.1.0", client
    for number, backend in enumerate(backends, 1):
        yield f"b{number}", f"10.2.{number}", backend


def _ip(namespace: Namespace, commands: Sequence[str], **options: Any) -> None:
    namespace.run(["ip", "-batch", "-"], input="\n".join(commands) + "\n", **options)


def rules(options: str) -> str:
    """Return the compiled rules of a pool with these options, such as `forward: nat`, as text for `nft -f`."""
    direct = "dsr" in options
    backends = []
    for number, address in enumerate(BACKENDS, 1):
        port = "" if direct else f", port: {BACKEND_PORT}"
        device = f", device: b{number}" if direct or "ingress" in options else ""
        backends.append(f"b{number}: {{address: {address}{port}{device}}}")
    text = f"pools: {{dns: {{listen: '{VIP}:{PORT}/udp', {options}, backends: {{{', '.join(backends)}}}}}}}"
    return file_text(Compiled(parse_config(text, "pool.yaml")).ruleset())
