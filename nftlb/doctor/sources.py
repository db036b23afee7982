"""Whether the addresses that packets and checks are to leave with are this host's. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.kernel.surroundings import Lookup, Surroundings
from nftlb.requirements import lacking_sources, sources

from .finding import Finding, error, ok

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.model import Config

    from .host import Host


def judge(config: Config, host: Host) -> Iterator[Finding]:
    """Look at `source` of pools and under health; nothing to say where none is given."""
    known = Surroundings(host.interfaces, {Lookup(address): route for address, route in host.routes.items()})
    services = {listener.address for pool in config.pools for listener in pool.listen}
    lacks = [lack for pool in config.pools for lack in lacking_sources(pool, services, known)]
    for lack in lacks:
        yield error(lack.subject, lack.message, lack.mend)
    given = {address for pool in config.pools for address in sources(pool)}
    if given and not lacks:
        yield ok("sources", f"{', '.join(map(str, sorted(given, key=str)))}: this host's own")
