"""A lab for `mirror` and `templates`: b1 and b2 are the backends of the pool, and b3 is the collector."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING, Any, Self

from pool_lab import PoolLab

from nftlb.lab.servers import Servers
from nftlb.model import Collector

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pool_lab import Mode

    from nftlb.lab import Host
    from nftlb.lab.servers import Received
    from nftlb.model import Pool

COLLECTOR_PORT = 9995


class CopiesLab(PoolLab):
    """A context manager: the pool has the backends b1 and b2, and `archive` on b3 gets copies, in both families."""

    def __init__(
        self, mode: Mode, *, collector_answers: bool = True, zero_checksum: bool = False, **options: Any
    ) -> None:
        super().__init__(mode, zero_checksum=zero_checksum, **options)
        self.archive: Servers
        self._collector_answers, self._collector_zero = collector_answers, zero_checksum
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        super().__enter__()
        self.archive = self._stack.enter_context(self.collect(COLLECTOR_PORT, [self.collector], (4, 6)))
        return self

    def __exit__(self, *exception: object) -> None:
        self._stack.close()
        super().__exit__(*exception)

    def collect(self, port: int, hosts: Sequence[Host], versions: Sequence[int]) -> Servers:
        """Return collectors. Their fence comes from the balancer, because replies to other hosts are dropped."""
        return Servers(
            hosts,
            (port,),
            versions=versions,
            answer=self._collector_answers,
            zero_checksum=self._collector_zero,
            fence_from=self.lab.balancer,
        )

    @property
    def collector(self) -> Host:
        """The host of the collector."""
        return self.lab.backends[2]

    def pool(self, port: int = 0) -> Pool:
        """The pool of b1 and b2, without copies."""
        pool = super().pool(port)
        return replace(pool, backends=tuple(one for one in pool.backends if not one.name.startswith("b3")))

    def mirrored(self, **options: Any) -> Pool:
        """The pool, with copies to `archive`. `options` are those of the collector."""
        return replace(self.pool(), mirror=self.collectors(**options))

    def collectors(self, name: str = "archive", **options: Any) -> tuple[Collector, Collector]:
        """A collector on b3, for each family."""
        given: dict[str, Any] = {"port": COLLECTOR_PORT, **options}
        addresses = {"": self.collector.ipv4, "-6": self.collector.ipv6}
        return tuple(  # type: ignore[return-value]  # two families
            Collector(name=name + suffix, address=ip_address(address), **given) for suffix, address in addresses.items()
        )

    def copies(self) -> list[Received]:
        """Wait until the copies of all earlier datagrams have arrived, and return them."""
        if self._serve:
            self.servers.settle()
        return self.archive.settle()
