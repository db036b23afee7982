"""What the kernel says of itself: somebody changed our tables, a link went, a backend refused balanced traffic.

Every ear may be missing (no permission, no module): then that is shown, tried again, and the rest goes on.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Protocol, Self, TypeVar

from nftlb.compiler.watched import group_of
from nftlb.errors import NftlbError
from nftlb.health.passive import Witness
from nftlb.kernel.links import Links
from nftlb.kernel.monitor import Monitor
from nftlb.kernel.neighbours import Neighbours
from nftlb.kernel.nflog import Refusals
from nftlb.kernel.surroundings import Changes
from nftlb.model import Forward

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from nftlb.daemon.control import Control
    from nftlb.daemon.faults import Faults
    from nftlb.daemon.reconciler import Reconciler
    from nftlb.daemon.surveyor import Surveyor
    from nftlb.kernel.nflog import Refused
    from nftlb.model import Config

_log = logging.getLogger(__name__)

AGAIN = 5.0
"""Seconds between two looks at what can't be listened to; then it is also looked whether the tables are still ours."""


Heard_co = TypeVar("Heard_co", covariant=True)


class _Ear(Protocol[Heard_co]):
    def fileno(self) -> int: ...
    def read(self) -> Heard_co: ...
    def close(self) -> None: ...


class Watcher:
    """Listens inside `with`, on the running loop."""

    def __init__(
        self,
        config: Config,
        reconciler: Reconciler,
        control: Control,
        surveyor: Surveyor,
        faults: Faults,
        links: Links | None = None,
    ) -> None:
        """`links`: an ear that was opened before the first load, and has heard of what happened since."""
        self._table = config.table
        self._reconciler = reconciler
        self._control = control
        self._surveyor = surveyor
        self._faults = faults
        self._witness = Witness(config)
        self._links_matter = _links_matter(config)
        self._early_links = links
        self._ears: dict[str, _Ear[object]] = {}
        self._timer: asyncio.TimerHandle | None = None
        self._noticed = False

    def __enter__(self) -> Self:
        self._listen()
        return self

    def __exit__(self, *_: object) -> None:
        if self._timer is not None:
            self._timer.cancel()
        for what in tuple(self._ears):
            self._close(what)

    def follow(self, config: Config) -> None:
        """Take another configuration."""
        self._witness = Witness(config)
        self._links_matter = _links_matter(config)
        self._want_refusals()

    def _listen(self) -> None:
        self._open("watch", lambda: Monitor(self._table), self._tables_changed)
        self._open("links", self._links, self._links_changed)
        if self._open("routes", Changes, self._surroundings_changed):
            self._surveyor.look()  # for what came before
        self._open("neighbours", Neighbours, self._surveyor.hear)
        self._want_refusals()
        self._timer = asyncio.get_running_loop().call_later(AGAIN, self._look_again)

    def _links(self) -> Links:
        early, self._early_links = self._early_links, None
        return early or Links()

    def _look_again(self) -> None:
        self._reconciler.suspect()
        if self._links_matter and "links" not in self._ears:
            self._reconciler.recheck()  # what it would have told
        if "routes" not in self._ears:
            self._surveyor.look()
        self._listen()

    def _want_refusals(self) -> None:
        if self._witness:
            self._open("passive", lambda: Refusals(group_of(self._table)), self._refused)
        else:
            self._close("passive")
            self._faults.clear("passive")

    def _open(self, what: str, make: Callable[[], _Ear[Heard_co]], heard: Callable[[Heard_co], None]) -> bool:
        """Listen, if that can be done and is not done already; tell whether it began now."""
        if what in self._ears:
            return False
        try:
            ear = make()
        except (NftlbError, OSError) as error:
            self._deaf(what, str(error))
            return False
        self._ears[what] = ear
        self._faults.clear(what)
        asyncio.get_running_loop().add_reader(ear.fileno(), self._hear, what, ear, heard)
        return True

    def _close(self, what: str) -> None:
        ear = self._ears.pop(what, None)
        if ear is not None:
            asyncio.get_running_loop().remove_reader(ear.fileno())
            ear.close()

    def _hear(self, what: str, ear: _Ear[Heard_co], heard: Callable[[Heard_co], None]) -> None:
        """An ear that fails is closed, and opened again later."""
        try:
            heard(ear.read())
        except (NftlbError, OSError) as error:
            self._deaf(what, str(error))
            self._close(what)
            self._reconciler.suspect()

    def _deaf(self, what: str, why: str) -> None:
        """Show it; what nobody asked for is no fault where it can't be had, and told once."""
        if what != "passive" or self._witness.wanted:
            self._faults.set(what, why)
            return
        self._faults.clear(what)
        if not self._noticed:
            self._noticed = True
            _log.warning("a server that is gone is found by its checks alone, and later, since %s", why)

    def _tables_changed(self, changed: bool) -> None:
        if changed:
            self._reconciler.suspect()

    def _links_changed(self, changed: bool) -> None:
        if changed and self._links_matter:
            self._reconciler.recheck()

    def _surroundings_changed(self, _: None) -> None:
        self._surveyor.look()

    def _refused(self, refusals: Iterable[Refused]) -> None:
        for one in refusals:
            if one.hint:
                for pool, backend in self._witness.doubted(one.address, one.port):
                    self._control.doubted(pool, backend)
            else:
                for pool, backend in self._witness.against(one.address, one.port):
                    self._control.refused(pool, backend)


def _links_matter(config: Config) -> bool:
    """Whether some pool needs routing rules of ours, or hooks on interfaces."""
    return any(pool.forward is Forward.DSR or pool.ingress for pool in config.pools)
