"""A validated configuration: what the core works on. Frozen, hashable, in the order of the file; no I/O.

The constructors check nothing. `nftlb.config` does, and is the usual source of these objects.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from nftlb.model.kinds import (
    Admin,
    Balance,
    Capability,
    Endpoint,
    Fallback,
    Family,
    Forward,
    Initial,
    IPAddress,
    Listener,
    Milliseconds,
    Passive,
    Per,
    Protocol,
    SourceKind,
    UnixSocket,
    family,
)

if TYPE_CHECKING:
    from nftlb.model.checks import AnyCheck


REJECT = Fallback()
API_LISTEN = Endpoint(IPv4Address("127.0.0.1"), 9146)


@dataclass(frozen=True, slots=True, kw_only=True)
class Backend:
    """A server behind a pool; without a port it gets packets at the port they were sent to."""

    name: str
    address: IPAddress
    port: int | None = None
    weight: int = 1
    admin: Admin = Admin.ENABLED
    device: str | None = None
    via: IPAddress | None = None

    @property
    def family(self) -> Family:
        return family(self.address)


@dataclass(frozen=True, slots=True, kw_only=True)
class Health:
    """One check of every backend of a pool, and when it is done. Without a port the backend's is checked.

    `source`: where it leaves from, an address a family at most. `device`, `mark`: through which interface, and with
    which firewall mark; None for none in particular.
    """

    check: AnyCheck
    interval: Milliseconds = 2000
    fast_interval: Milliseconds = 500
    timeout: Milliseconds = 1000
    rise: int = 2
    fall: int = 3
    initial: Initial = Initial.LAST
    port: int | None = None
    source: tuple[IPAddress, ...] = ()
    device: str | None = None
    mark: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Programs to run at transitions, each with its arguments; empty for none."""

    backend_up: tuple[str, ...] = ()
    backend_down: tuple[str, ...] = ()
    quorum_up: tuple[str, ...] = ()
    quorum_down: tuple[str, ...] = ()
    capabilities: tuple[Capability, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Pool:
    """Listeners, and the backends that their packets are spread over. `panic` is in per cent."""

    name: str
    listen: tuple[Listener, ...]
    backends: tuple[Backend, ...]
    balance: Balance = Balance.ROUND_ROBIN
    per: Per = Per.PACKET
    forward: Forward = Forward.NAT
    source: SourceKind = SourceKind.MASQUERADE
    source_addresses: tuple[IPAddress, ...] = ()
    ingress: tuple[str, ...] = ()
    hairpin: bool = False
    health: tuple[Health, ...] = ()
    passive: bool | None = None
    slow_start: Milliseconds = 0
    quorum: int = 1
    hysteresis: int = 0
    panic: int = 0
    fallback: Fallback = REJECT
    hooks: Hooks = Hooks()

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        # Pools key the compiler's caches; hashing every address anew would cost more than a look-up saves.
        return hash(tuple(getattr(self, item.name) for item in fields(self)))

    @property
    def refusals(self) -> Passive:
        """What follows when a backend's host refuses traffic: as `passive` says, or as is best here.

        A host limits its ICMP errors by destination. Where backends see the balancer's address, traffic keeps refusals
        from the checks; where they see the client's, checks have a limit to themselves.
        """
        if self.passive is not None:
            return Passive.OUT if self.passive else Passive.OFF
        shared = self.forward is Forward.NAT and self.source is not SourceKind.KEEP
        by_udp = any(listener.protocol is Protocol.UDP for listener in self.listen)
        return Passive.CHECK if shared and by_udp and self.health else Passive.OFF

    def source_address(self, of: Family) -> IPAddress | None:
        """The address that backends of a family see, if one is given."""
        return next((one for one in self.source_addresses if family(one) is of), None)

    def backend(self, name: str) -> Backend | None:
        return next((backend for backend in self.backends if backend.name == name), None)


@dataclass(frozen=True, slots=True, kw_only=True)
class Zones:
    """Which conntrack zones are ours: from `first` on."""

    first: int = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Marks:
    """Which firewall marks, and routing tables of the same numbers, are ours: from `first` on."""

    first: int = 60001


@dataclass(frozen=True, slots=True, kw_only=True)
class Api:
    """Where the HTTP API listens; without a file of tokens it only reads."""

    listen: Endpoint | UnixSocket = API_LISTEN
    token_file: str | None = None
    hosts: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole file, with its pools in their order."""

    table: str = "nftlb"
    zones: Zones = Zones()
    marks: Marks = Marks()
    state_dir: str = "/var/lib/nftlb"
    api: Api = Api()
    pools: tuple[Pool, ...] = ()

    def pool(self, name: str) -> Pool | None:
        return self._by_name.get(name)

    @cached_property
    def _by_name(self) -> dict[str, Pool]:
        return {pool.name: pool for pool in self.pools}
