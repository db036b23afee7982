"""Whether Linux gives this host's own sockets ports whose answers the rules take for something else. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.compiler.aliases import aliases, is_wide
from nftlb.compiler.source_ports import is_asked_from, source_ports
from nftlb.model import Forward

from .finding import Finding, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from nftlb.model import Config, Listener

    from .host import Host

_SUBJECT = "own ports"
_MOST_NAMES = 5
_FEW_PORTS = 1024
"""With fewer, a host runs out of ports for its own connections."""


def judge(config: Config, host: Host) -> Iterator[Finding]:
    """Look at the aliases, and at the wide ranges that conntrack does not keep this host's questions out of."""
    without_conntrack = [pool for pool in config.pools if pool.forward is not Forward.NAT]
    if not without_conntrack:
        return
    leave = source_ports(config)
    kept_out: list[Listener] = []
    taken = [range(alias, alias + 1) for found in aliases(config).values() for alias in found.values()]
    for pool in without_conntrack:
        for one in filter(is_wide, pool.listen):
            if is_asked_from(pool, one) and one.protocol in leave.get(one.family, {}):
                kept_out.append(one)
            else:
                taken.append(range(one.first_port, one.last_port + 1))
    free = {port for port in host.local_ports if not host.reserves(port)}
    given = free & {port for ports in taken for port in ports}
    if given:
        left = len(free) - len(given)
        reserve = f"sysctl -w net.ipv4.ip_local_reserved_ports={_ports(given.union(*host.reserved_ports))}"
        yield warning(
            _SUBJECT,
            f"Linux may give {_ports(given)} to this host's own sockets (net.ipv4.ip_local_port_range); answers to "
            "what such a socket asks from a service's address would not reach it",
            reserve if left >= _FEW_PORTS else "listen at fewer ports: this host's own sockets need some too",
        )
    else:
        yield ok(_SUBJECT, "what this host asks from a service's address is answered to it")
    if stateless := [pool.name for pool in without_conntrack if pool.forward is Forward.STATELESS and not pool.hairpin]:
        yield ok(
            "backends as clients",
            f"a backend that asks its own pool loses what falls to itself: {_some(stateless)} (no `hairpin: true`)",
        )
    if kept_out:
        yield ok("conntrack", f"tracks this host's traffic because of {', '.join(map(str, kept_out))}, a wide range")


def _some(names: list[str]) -> str:
    """Names of pools, but not hundreds of them."""
    shown = ", ".join(names[:_MOST_NAMES])
    return shown if len(names) <= _MOST_NAMES else f"{shown} and {len(names) - _MOST_NAMES} more"


def _ports(ports: Iterable[int]) -> str:
    """Ports and ranges of them, as the sysctl has them."""
    runs: list[list[int]] = []
    for port in sorted(ports):
        if runs and port == runs[-1][1] + 1:
            runs[-1][1] = port
        else:
            runs.append([port, port])
    return ",".join(f"{first}" if first == last else f"{first}-{last}" for first, last in runs)
