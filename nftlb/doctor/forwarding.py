"""Whether this host passes packets on, and what it says and does meanwhile. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Family, Forward

from .finding import Finding, error, ok, sysctls, warning

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from nftlb.model import Config, Pool

    from .host import Host

_STRICT, _LOOSE = 1, 2


def judge(config: Config | None, host: Host) -> Iterator[Finding]:
    """Look at forwarding, reverse path filters and redirects; without a configuration, at forwarding only."""
    pools = config.pools if config else ()
    families = {listener.family for pool in pools for listener in pool.listen} if config else set(Family)
    say = error if config else warning
    closed = [*_judge_ipv4(host, say)] if Family.IP in families else []
    closed += _judge_ipv6(host, say) if Family.IP6 in families else []
    yield from closed or [ok("forwarding", "is on")]
    untracked = [pool for pool in pools if pool.forward is not Forward.NAT and _has_ipv4(pool)]
    if untracked:
        yield from _judge_reverse_paths(untracked, host)
    steered = [pool for pool in untracked if pool.forward is Forward.DSR]
    if steered:
        yield from _judge_redirects(steered, host)


def _has_ipv4(pool: Pool) -> bool:
    return any(listener.family is Family.IP for listener in pool.listen)


def _judge_ipv4(host: Host, say: Callable[[str, str, str], Finding]) -> Iterator[Finding]:
    if host.sysctls.get("net/ipv4/ip_forward") == 0:
        yield say("forwarding", "this host passes no IPv4 packets on", sysctls({"net/ipv4/ip_forward": 1}))
        return
    closed = [name for name in _up(host) if host.sysctls.get(f"net/ipv4/conf/{name}/forwarding") == 0]
    if closed:
        yield warning(
            "forwarding",
            f"what comes in through {', '.join(closed)} is not passed on",
            sysctls({f"net/ipv4/conf/{name}/forwarding": 1 for name in closed}),
        )


def _judge_ipv6(host: Host, say: Callable[[str, str, str], Finding]) -> Iterator[Finding]:
    if host.sysctls.get("net/ipv6/conf/all/forwarding") == 0:
        message = "this host passes no IPv6 packets on"
        values = {f"net/ipv6/conf/{name}/accept_ra": 2 for name in sorted(host.advertised)}
        if values:
            message += "; a forwarding host forgets routes from router advertisements unless accept_ra is 2"
        yield say("forwarding", message, sysctls({**values, "net/ipv6/conf/all/forwarding": 1}))


def _judge_reverse_paths(pools: Collection[Pool], host: Host) -> Iterator[Finding]:
    everywhere = host.per_interface(4, "rp_filter", "all")
    # The kernel takes the higher of the two.
    strict = [name for name in _up(host) if max(everywhere, host.per_interface(4, "rp_filter", name)) == _STRICT]
    if strict:
        yield warning(
            "rp_filter",
            f"{', '.join(strict)}: packets are dropped whose sender would be answered through another interface; "
            f"clients of {pools_named(pools)} may well come in elsewhere",
            sysctls({f"net/ipv4/conf/{name}/rp_filter": _LOOSE for name in strict}),
        )


def _judge_redirects(pools: Collection[Pool], host: Host) -> Iterator[Finding]:
    """A packet that leaves through the interface that it came in by makes the kernel tell its sender of a shorter way.

    With `dsr` that shorter way is one of the backends. A client that has this host as its router believes it: of
    12,000 datagrams of one socket, 11,798 then went to the same backend, past this host (Linux 6.18).
    """
    goals = {backend.via or backend.address for pool in pools for backend in pool.backends}
    devices = {device.name for goal in goals if (route := host.routes.get(goal)) and (device := host.device(route))}
    everywhere = host.per_interface(4, "send_redirects", "all")
    talking = sorted(name for name in devices if everywhere or host.per_interface(4, "send_redirects", name))
    if talking:
        # The kernel sends them if either allows it.
        names = ["all", *talking]
        yield warning(
            "send_redirects",
            f"{', '.join(talking)}: neighbours will be told to send packets for {pools_named(pools)} to one backend "
            "directly, past this host",
            sysctls({f"net/ipv4/conf/{name}/send_redirects": 0 for name in names}),
        )


def pools_named(pools: Collection[Pool]) -> str:
    """The names of pools, for a sentence."""
    return ", ".join(pool.name for pool in pools)


def _up(host: Host) -> list[str]:
    """The names of the interfaces that packets come through from elsewhere."""
    return [interface.name for interface in host.interfaces if interface.up and interface.name != "lo"]
