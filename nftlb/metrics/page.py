"""A scrape.

Written by hand and not by prometheus_client: for 10,000 backends that takes more than a second, and this a tenth.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic, TypeVar

from nftlb.model import Admin

from .format import escape, head

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nftlb.service import BackendStatus, Overview, PoolStatus

    from .distribution import Checks

    Number = int | float

T = TypeVar("T")

_MODES = ("healthy", "panic", "fallback")


@dataclass(frozen=True, slots=True)
class _Figure(Generic[T]):
    """One metric of every pool, or of every backend; `more` is a further label, as text."""

    name: str
    type: str
    help: str
    value: Callable[[T], Number]
    more: str = ""

    @property
    def head(self) -> str:
        return head(self.name, self.type, self.help)

    def samples(self, items: Iterable[tuple[str, T]]) -> str:
        """One for each item with its labels."""
        name, more, value = self.name, self.more, self.value
        return "".join([f"{name}{{{labels}{more}}} {value(item)}\n" for labels, item in items])


def _one_of(name: str, help_: str, label: str, states: Iterable[str], of: Callable[[T], str]) -> list[_Figure[T]]:
    """Make a figure for each state: 1 for the one that is, 0 for the others."""
    return [
        _Figure(name, "gauge", help_, lambda item, state=state: int(of(item) == state), f',{label}="{state}"')  # type: ignore[misc]
        for state in states
    ]


_BACKENDS: tuple[_Figure[BackendStatus], ...] = (
    _Figure("nftlb_backend_up", "gauge", "Whether the health checks find the backend healthy.", lambda it: int(it.up)),
    _Figure(
        "nftlb_backend_in_rotation", "gauge", "Whether the backend gets packets now.", lambda it: int(it.in_rotation)
    ),
    *_one_of(
        "nftlb_backend_admin", "What the operator wants of the backend.", "state", Admin, lambda it: it.admin.value
    ),
    _Figure("nftlb_backend_weight", "gauge", "Weight of the backend, as configured or set.", lambda it: it.weight),
    _Figure(
        "nftlb_backend_share", "gauge", "Part of the pool's packets that it gets now, 0 to 1.", lambda it: it.share
    ),
    _Figure("nftlb_backend_packets_total", "counter", "Packets sent to the backend.", lambda it: it.packets),
    _Figure("nftlb_backend_bytes_total", "counter", "Bytes sent to the backend.", lambda it: it.bytes),
    _Figure(
        "nftlb_backend_health_change_timestamp_seconds",
        "gauge",
        "When the backend's health last changed.",
        lambda it: it.since.timestamp(),
    ),
)

_POOLS: tuple[_Figure[PoolStatus], ...] = (
    _Figure(
        "nftlb_pool_ready", "gauge", "Whether the pool has its quorum and lacks nothing.", lambda it: int(it.ready)
    ),
    _Figure(
        "nftlb_pool_lacking", "gauge", "Things that the pool needs and this host lacks.", lambda it: len(it.lacking)
    ),
    _Figure("nftlb_pool_quorum", "gauge", "How many healthy backends the pool needs.", lambda it: it.quorum),
    _Figure("nftlb_pool_healthy_backends", "gauge", "Backends that are healthy and enabled.", lambda it: it.healthy),
    _Figure("nftlb_pool_backends", "gauge", "Backends of the pool.", lambda it: len(it.backends)),
    *_one_of("nftlb_pool_mode", "How the pool's packets are spread now.", "mode", _MODES, lambda it: it.mode),
    _Figure("nftlb_pool_packets_total", "counter", "Packets that came to the pool.", lambda it: it.packets),
    _Figure("nftlb_pool_bytes_total", "counter", "Bytes that came to the pool.", lambda it: it.bytes),
)

_WHOLE: tuple[_Figure[Overview], ...] = (
    _Figure("nftlb_ready", "gauge", "Whether every pool is ready.", lambda it: int(it.ready)),
    _Figure("nftlb_kernel_synced", "gauge", "Whether the kernel has what it should.", lambda it: int(it.kernel.synced)),
    _Figure(
        "nftlb_config_reload_success",
        "gauge",
        "Whether the file was good when it was last read.",
        lambda it: int(it.config.success),
    ),
    _Figure(
        "nftlb_config_last_good_copy",
        "gauge",
        "Whether the last good copy of the file is in use, as the file was bad at the start.",
        lambda it: int(it.config.copy_in_use is not None),
    ),
    _Figure(
        "nftlb_config_reload_timestamp_seconds",
        "gauge",
        "When the configuration in use was loaded.",
        lambda it: it.config.loaded.timestamp(),
    ),
)


class Page:
    """A scrape in the making. Pool after pool is added and written at once, so that nothing has to hold them all.

    `rest` gives what is of no pool, in the same format.
    """

    def __init__(self, checks: Checks, rest: Callable[[], bytes]) -> None:
        self._checks = checks
        self._rest = rest
        # The format wants all samples of a name together: here they are, by the name's head, each pool's in one piece.
        self._pieces: dict[str, list[bytes]] = {}

    def add(self, pool: PoolStatus) -> None:
        labels = f'pool="{escape(pool.name)}"'
        backends = [(f'{labels},backend="{escape(backend.name)}"', backend) for backend in pool.backends]
        for figure in _POOLS:
            self._write(figure.head, figure.samples([(labels, pool)]))
        for other in _BACKENDS:
            self._write(other.head, other.samples(backends))
        for name, samples in self._checks.of(pool.name, labels):
            self._write(name, samples)

    def whole(self, overview: Overview) -> bytes:
        """End it."""
        faults = dict.fromkeys(fault.what for fault in overview.faults)
        lines = [
            head("nftlb_build_info", "gauge", "The version that runs."),
            f'nftlb_build_info{{version="{escape(overview.version)}"}} 1\n',
            *(f"{figure.head}{figure.name} {figure.value(overview)}\n" for figure in _WHOLE),
            head("nftlb_fault", "gauge", "Something that does not work now, while the rest does."),
            *(f'nftlb_fault{{what="{escape(what)}"}} 1\n' for what in faults),
        ]
        pieces = [piece for head, written in self._pieces.items() for piece in (head.encode(), *written)]
        return b"".join(["".join(lines).encode(), *pieces, self._rest()])

    def _write(self, head: str, samples: str) -> None:
        self._pieces.setdefault(head, []).append(samples.encode())
