"""Whether packets for the listeners get here. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.kernel.rtnetlink import LOCAL

from .finding import Finding, ok, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config

    from .host import Host

_IPVSADM = {"udp": "-u", "tcp": "-t", "sctp": "--sctp-service"}


def judge(config: Config, host: Host) -> Iterator[Finding]:
    """Look at every address that is listened at, and at who else does."""
    unusable = {address: one.name for one in host.interfaces for address in one.unusable}
    for address in dict.fromkeys(listener.address for pool in config.pools for listener in pool.listen):
        subject = f"address {address}"
        route = host.routes.get(address)
        if address in unusable:
            device = unusable[address]
            yield warning(
                subject,
                f"on {device}, but duplicate address detection failed or has not finished: somebody else may have it",
                f"ip address show dev {device}",
            )
        elif route is not None and route.kind == LOCAL:
            yield ok(subject, "is this host's own")
        else:
            yield warning(
                subject,
                "is not this host's own: packets for it get here only if routers send them here. "
                "On a VRRP backup that is as it should be",
                f"ip address add {address}/{address.max_prefixlen} dev lo",
            )
    yield from _judge_ipvs(config, host)


def _judge_ipvs(config: Config, host: Host) -> Iterator[Finding]:
    for pool in config.pools:
        for listener in pool.listen:
            for protocol, address, port in sorted(host.ipvs, key=str):
                same = (protocol, address) == (listener.protocol, listener.address)
                if same and listener.first_port <= port <= listener.last_port:
                    where = f"[{address}]:{port}" if address.version == 6 else f"{address}:{port}"  # noqa: PLR2004
                    yield warning(
                        f"pool {pool.name}",
                        f"IPVS has a virtual service at {where}/{protocol} too; it gets nothing while nftlb is loaded",
                        f"ipvsadm -D {_IPVSADM[protocol]} {where}",
                    )
