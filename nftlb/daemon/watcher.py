"""Monitors of the kernel: other programs changed our tables, a link changed, a backend refused balanced traffic.

Each monitor may be missing (no permission, no module). That is shown as a fault and tried again; the others work.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from nftlb.compiler.watched import group_of
from nftlb.errors import NftlbError
from nftlb.health.passive_targets import PassiveTargets
from nftlb.kernel.monitors import LinkMonitor, RulesetMonitor
from nftlb.kernel.neighbours import NeighbourMonitor
from nftlb.kernel.nflog import RefusalMonitor
from nftlb.kernel.surroundings import SurroundingsMonitor
from nftlb.model import Forward

from .reply_watch import ReplyWatch

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nftlb.kernel.nflog import PortUnreachable
    from nftlb.model import Config

    from .checker import Checker
    from .controller import Controller
    from .events import ActiveFaults
    from .reconciler import Reconciler
    from .surveyor import Surveyor

_log = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds between two tries to open missing monitors. The tables, links and routes are then checked too."""


Message_co = TypeVar("Message_co", covariant=True)


class _Monitor(Protocol[Message_co]):
    def fileno(self) -> int: ...
    def read(self) -> Message_co: ...
    def close(self) -> None: ...


class Watcher:
    """Reads the monitors inside `with`, on the running loop."""

    def __init__(
        self,
        config: Config,
        reconciler: Reconciler,
        controller: Controller,
        surveyor: Surveyor,
        checker: Checker,
        faults: ActiveFaults,
        links: LinkMonitor | None = None,
    ) -> None:
        """`links`: a monitor of links that was opened before the first load."""
        self._table = config.table
        self._reconciler = reconciler
        self._controller = controller
        self._surveyor = surveyor
        self._checker = checker
        self._faults = faults
        self._passive_targets = PassiveTargets(config)
        self._links_matter = _links_matter(config)
        self._early_links = links
        self._replies = ReplyWatch(config, reconciler.compare_obstacles)
        self._monitors: dict[str, _Monitor[object]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._warned = False

    def __enter__(self) -> Self:
        self._replies.__enter__()
        self._open_all()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for what in tuple(self._monitors):
            self._close(what)
        self._replies.__exit__()

    def follow(self, config: Config) -> None:
        """Use another configuration."""
        self._passive_targets = PassiveTargets(config)
        self._links_matter = _links_matter(config)
        self._replies.follow(config)
        self._update_refusals()

    def _open_all(self) -> None:
        self._open("watch", lambda: RulesetMonitor(self._table), self._tables_changed)
        self._open("links", self._links, self._links_changed)
        if self._open("routes", SurroundingsMonitor, self._surroundings_changed):
            self._surveyor.suspect()  # for changes before this
        self._open("neighbours", NeighbourMonitor, self._surveyor.record_neighbours)
        self._update_refusals()
        self._timer = asyncio.get_running_loop().call_later(AGAIN, self._try_again)

    def _links(self) -> LinkMonitor:
        early, self._early_links = self._early_links, None
        return early or LinkMonitor()

    def _try_again(self) -> None:
        self._reconciler.suspect_tables()
        if self._links_matter and "links" not in self._monitors:
            self._reconciler.suspect_host()  # in the place of the missing monitor
        if "routes" not in self._monitors:
            self._surveyor.suspect()
        self._open_all()

    def _update_refusals(self) -> None:
        if self._passive_targets:
            self._open("passive", lambda: RefusalMonitor(group_of(self._table)), self._refused)
        else:
            self._close("passive")
            self._faults.clear("passive")

    def _open(self, what: str, make: Callable[[], _Monitor[Message_co]], handle: Callable[[Message_co], None]) -> bool:
        """Open a monitor, unless it is open. Return whether it was opened now."""
        if what in self._monitors:
            return False
        try:
            monitor = make()
        except (NftlbError, OSError) as error:
            self._set_fault(what, str(error))
            return False
        self._monitors[what] = monitor
        self._faults.clear(what)
        asyncio.get_running_loop().add_reader(monitor.fileno(), self._read, what, monitor, handle)
        return True

    def _close(self, what: str) -> None:
        monitor = self._monitors.pop(what, None)
        if monitor is not None:
            asyncio.get_running_loop().remove_reader(monitor.fileno())
            monitor.close()

    def _read(self, what: str, monitor: _Monitor[Message_co], handle: Callable[[Message_co], None]) -> None:
        """Handle what a monitor read. A monitor that fails is closed, and opened again later."""
        try:
            handle(monitor.read())
        except (NftlbError, OSError) as error:
            self._set_fault(what, str(error))
            self._close(what)
            self._reconciler.suspect_tables()

    def _set_fault(self, what: str, why: str) -> None:
        """Set a fault. If passive detection fails that the file does not ask for, only log that, once."""
        if what != "passive" or self._passive_targets.explicit:
            self._faults.set(what, why)
            return
        self._faults.clear(what)
        if not self._warned:
            self._warned = True
            _log.warning(
                "passive detection is not available, so that only checks find a server that is gone, and later: %s", why
            )

    def _tables_changed(self, changed: bool) -> None:
        if changed:
            self._reconciler.suspect_tables()

    def _links_changed(self, changed: bool) -> None:
        if changed and self._links_matter:
            self._reconciler.suspect_host()

    def _surroundings_changed(self, _: None) -> None:
        self._surveyor.suspect()
        self._replies.suspect()

    def _refused(self, refusals: Iterable[PortUnreachable]) -> None:
        for refusal in refusals:
            if refusal.hint:
                for pool, backend in self._passive_targets.check_targets(refusal.address, refusal.port):
                    if self._controller.record_hint(pool, backend):
                        self._checker.hurry(pool, backend)
            else:
                for pool, backend in self._passive_targets.down_targets(refusal.address, refusal.port):
                    self._controller.record_refusal(pool, backend)


def _links_matter(config: Config) -> bool:
    """Whether a pool needs routing rules of ours or hooks on interfaces."""
    return any(pool.forward is Forward.DSR or pool.ingress for pool in config.pools)
