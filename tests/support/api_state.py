"""The whole status of a service, which its API shows in parts."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.service import Status

if TYPE_CHECKING:
    from nftlb.service import Service


async def status_of(service: Service) -> Status:
    pools = tuple([pool async for pool in service.pools()])
    overview = await service.overview()
    return Status.model_construct(pools=pools, **dict(overview))
