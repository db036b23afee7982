"""Whom to check, and from where."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from nftlb.model import IPAddress


@dataclass(frozen=True, slots=True)
class Subject:
    """One backend as a check sees it.

    `source` is the local address to send from, `device` the interface or VRF to send through, None for the kernel's
    choice; `mark` is the firewall mark to send with. `timeout` is in seconds. `port` is None only for kinds that need
    none.
    """

    pool: str
    backend: str
    address: IPAddress
    port: int | None
    source: IPAddress | None
    timeout: float
    device: str | None = None
    mark: int | None = None

    @property
    def required_port(self) -> int:
        """The port, for kinds that can't do without; raises ValueError, for the configuration sees to it."""
        if self.port is None:
            raise ValueError(f"{self.pool}/{self.backend} has no port to check")
        return self.port

    @property
    def host(self) -> str:
        """The address as a URL has it: IPv6 in brackets."""
        return f"[{self.address}]" if self.address.version == 6 else str(self.address)  # noqa: PLR2004
