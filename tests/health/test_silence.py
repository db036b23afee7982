"""A backend that gets packets and sends no replies: when it is down, when it stays, and when it returns."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest
from pool_builders import backend, config, pool

from nftlb.health import PoolStates, SilentBackends
from nftlb.health.silence import MOST_READINGS, Answers, Reading
from nftlb.model import Admin, BackendChange, EventKind, PassiveReplies

LIMITS = PassiveReplies(min_packets=20, window=10_000, reply_time=2000, probation=30_000)
STEP = 0.5


class Scene:
    """A pool of backends with growing counters, and a clock that a test moves."""

    def __init__(self, count: int = 3, limits: PassiveReplies | None = LIMITS, standby: int = 0) -> None:
        self.names = [f"b{number}" for number in range(1, count + 1)]
        behind = tuple(
            backend(name, f"10.0.0.{number}:53", priority=2 if number > count - standby else 1)
            for number, name in enumerate(self.names, 1)
        )
        passive = None if limits is None else limits
        self.config = config(pool("dns", "192.0.2.53:53/udp", behind, passive=passive, count_replies=True))
        self.states = PoolStates.begin(self.config, {}, 0.0)
        self.silent = SilentBackends(self.config)
        self.now = 0.0
        self.counts = dict.fromkeys(self.names, (0, 0))
        self.events: list[tuple[str, str]] = []
        self.look()

    def run(self, seconds: float, rates: dict[str, tuple[float, float]], every: float = STEP) -> None:
        """Let time pass. `rates`: packets and replies of each backend in a second. `every`: seconds between looks."""
        begin, first = self.now, dict(self.counts)
        for step in range(1, round(seconds / every) + 1):
            self.now = begin + step * every
            for name, rate in rates.items():
                before = first[name]
                self.counts[name] = (
                    before[0] + int(rate[0] * step * every),
                    before[1] + int(rate[1] * step * every),
                )
            self.look()

    def look(self) -> None:
        """Read the counters once, as the daemon does."""
        self.silent.record({("dns", name): count for name, count in self.counts.items()}, self.now)
        changes = self.states.set_silent(self.silent.judge(self.states.pools, self.now), self.now)
        self.events += [(change.kind, change.backend) for change in changes]

    @property
    def down(self) -> list[str]:
        return [name for name in self.names if not self.states.pools["dns"].backends[name].up]

    def all_at(self, requests: float, replies: float) -> dict[str, tuple[float, float]]:
        return dict.fromkeys(self.names, (requests, replies))


def test_a_silent_backend_is_down_while_others_answer() -> None:
    """After `reply_time` and a few packets, the backend is down, and the reason has the counts."""
    scene = Scene()
    scene.run(20, scene.all_at(100, 100))
    assert [] == scene.down
    scene.run(2.0, {**scene.all_at(100, 100), "b2": (100, 0)})
    assert [] == scene.down
    scene.run(1.5, {**scene.all_at(100, 100), "b2": (100, 0)})
    assert ["b2"] == scene.down
    assert [(EventKind.BACKEND_DOWN, "b2")] == scene.events
    reason = scene.states.pools["dns"].backends["b2"].reason
    assert re.fullmatch(r"passive: \d+ packets and \d replies within \d\.\d s", reason)


@pytest.mark.parametrize(
    ("rates", "why"),
    [
        ({"b1": (100, 0), "b2": (100, 0), "b3": (100, 0)}, "one-way traffic"),
        ({"b1": (100, 100), "b2": (1.9, 0), "b3": (100, 100)}, "less than min_packets in the window"),
        ({"b1": (100, 100), "b2": (100, 11), "b3": (100, 100)}, "more replies than answered_below"),
        ({"b1": (100, 100), "b2": (100, 300), "b3": (100, 100)}, "several replies to each packet"),
        ({"b1": (100, 5), "b2": (100, 0), "b3": (100, 5)}, "no other backend answers enough"),
        ({"b2": (100, 0)}, "one-way traffic to one backend"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_backends_that_stay(rates: dict[str, tuple[float, float]], why: str) -> None:
    """Without evidence that this backend is at fault, it stays."""
    scene = Scene()
    scene.run(60, rates)
    assert ([], []) == (scene.down, scene.events), why


def test_replies_that_take_their_time() -> None:
    """A burst whose replies come within `reply_time` is answered."""
    scene = Scene()
    scene.run(5, scene.all_at(100, 100))
    scene.run(1.5, {**scene.all_at(100, 100), "b2": (1000, 0)})
    scene.run(1.5, {**scene.all_at(100, 100), "b2": (0, 1000)})
    scene.run(20, {**scene.all_at(100, 100), "b2": (0, 0)})
    assert [] == scene.down


def test_probation() -> None:
    """After `probation` the backend is back; a backend that stays silent is down for twice the time."""
    scene = Scene()
    frozen = {**scene.all_at(100, 100), "b2": (100, 0)}
    scene.run(10, scene.all_at(100, 100))
    scene.run(3.5, frozen)
    assert ["b2"] == scene.down
    scene.run(28.5, scene.all_at(100, 100) | {"b2": (0, 0)})
    assert ["b2"] == scene.down
    scene.run(1.0, frozen)
    assert [] == scene.down
    scene.run(3.5, frozen)
    assert ["b2"] == scene.down
    scene.run(58.5, scene.all_at(100, 100) | {"b2": (0, 0)})
    assert ["b2"] == scene.down
    scene.run(2, scene.all_at(100, 100))
    assert [] == scene.down
    scene.run(5, scene.all_at(100, 100))
    scene.run(3.5, frozen)
    assert ["b2"] == scene.down
    scene.run(31, scene.all_at(100, 100) | {"b2": (0, 0)})  # it had answered, so the time is the first again
    assert [] == scene.down


@pytest.mark.parametrize("why", ["unreachable", "maintenance"])
@pytest.mark.parametrize("away", [2.0, 5.0, 8.0])
def test_a_backend_that_was_away_begins_anew(why: str, away: float) -> None:
    """Packets that were lost before a backend left for another reason do not count when the backend returns."""
    scene = Scene(limits=replace(LIMITS, reply_time=6000))
    scene.run(20, scene.all_at(100, 100))
    scene.run(5, {**scene.all_at(100, 100), "b2": (100, 0)})
    for leaves in (True, False):
        if why == "maintenance":
            admin = Admin.MAINTENANCE if leaves else Admin.ENABLED
            scene.states.set_by_operator("dns", ["b2"], BackendChange(admin=admin), scene.now)
        else:
            scene.states.set_unreachable({("dns", "b2"): "no route"} if leaves else {}, scene.now)
        if leaves:
            scene.run(away, {**scene.all_at(100, 100), "b2": (0, 0)})
    scene.run(30, scene.all_at(100, 100), 0.25)
    assert ([], []) == (scene.down, scene.events)
    scene.run(8, {**scene.all_at(100, 100), "b2": (100, 0)})
    assert ["b2"] == scene.down


@pytest.mark.parametrize(("count", "most", "expected"), [(2, 50, 1), (3, 50, 2), (4, 50, 2), (4, 100, 3), (4, 0, 0)])
def test_some_backends_always_stay(count: int, most: int, expected: int) -> None:
    """`most_out` limits how many silent backends are down, and one backend always stays."""
    scene = Scene(count, replace(LIMITS, most_out=most))
    scene.run(10, scene.all_at(100, 100))
    scene.run(20, {**scene.all_at(100, 0), f"b{count}": (100, 100)})
    assert expected == len(scene.down)
    assert f"b{count}" not in scene.down


@pytest.mark.parametrize("rates", [(100, 100, 100), (100, 10, 1.9), (50, 3, 3)], ids=str)
def test_all_stay_when_all_become_silent(rates: tuple[float, float, float]) -> None:
    """If all backends become silent at the same moment, all stay: nothing shows that other backends are better."""
    scene = Scene()
    each = dict(zip(scene.names, rates, strict=True))
    scene.run(20, {name: (rate, rate) for name, rate in each.items()})
    scene.run(60, {name: (rate, 0) for name, rate in each.items()})
    assert ([], []) == (scene.down, scene.events)


def test_the_only_backend_that_is_fed() -> None:
    """With priorities, the silent backend gets all packets; it is down if it has answered before and another is up."""
    scene = Scene(2, standby=1)
    scene.run(10, {"b1": (100, 100)})
    scene.run(4, {"b1": (100, 0)})
    assert ["b1"] == scene.down
    scene.run(10, {"b2": (100, 100)})
    assert ["b1"] == scene.down


@pytest.mark.parametrize("standby", [0, 1, 2])
def test_all_backends_that_are_fed_become_silent(standby: int) -> None:
    """If a whole priority becomes silent, the other priority serves. Without another priority, all stay."""
    scene = Scene(4, standby=standby)
    fed = scene.names[: 4 - standby]
    scene.run(10, dict.fromkeys(fed, (100, 100)))
    scene.run(6, dict.fromkeys(fed, (100, 0)))
    assert (fed if standby else []) == scene.down
    scene.run(60, dict.fromkeys(scene.names[len(fed) :], (100, 0)))  # the clients may be at fault
    assert len(scene.down) < len(scene.names)


def test_what_a_backend_answered_before_a_restart() -> None:
    """The kernel's counts show after a restart that the only fed backend has answered: it is down once more."""
    scene = Scene(2, standby=1)
    scene.run(10, {"b1": (100, 100)})
    scene.silent = SilentBackends(scene.config)
    scene.run(4, {"b1": (100, 0)})
    assert ["b1"] == scene.down


def test_no_other_backend_is_up() -> None:
    """The only backend that is up stays, whatever it answers."""
    scene = Scene(2)
    scene.states.set_by_operator("dns", ["b2"], BackendChange(admin=Admin.DRAIN), 0.0)
    scene.run(10, {"b1": (100, 100)})
    scene.run(20, {"b1": (100, 0)})
    assert [] == scene.down


@pytest.mark.parametrize("leaves", ["drained", "down"])
def test_silent_backends_return_when_no_other_is_left(leaves: str) -> None:
    """Silent backends may answer some clients. If the last other backend leaves, they get packets again at once."""
    scene = Scene()
    frozen = {"b1": (100.0, 100.0), "b2": (100.0, 0.0), "b3": (100.0, 0.0)}
    scene.run(10, scene.all_at(100, 100))
    for _ in range(2):  # the second time, they would be down for a minute
        scene.run(3.5, frozen)
        assert ["b2", "b3"] == scene.down
        scene.run(30, {"b1": (100, 100)})
    scene.run(3.5, frozen)
    assert ["b2", "b3"] == scene.down
    if leaves == "drained":
        scene.states.set_by_operator("dns", ["b1"], BackendChange(admin=Admin.DRAIN), scene.now)
    else:
        scene.states.set_unreachable({("dns", "b1"): "no route"}, scene.now)
    scene.look()
    assert ([] if leaves == "drained" else ["b1"]) == scene.down
    scene.run(60, {"b2": (100, 0), "b3": (100, 0)})
    assert ([] if leaves == "drained" else ["b1"]) == scene.down


@pytest.mark.parametrize("every", [0.25, 1.0, 15.0, 40.0])
def test_readings_that_are_far_apart(every: float) -> None:
    """With many backends, readings are seconds apart; then two readings are enough to find a silent backend."""
    scene = Scene()
    scene.run(200, scene.all_at(100, 100), every)
    assert [] == scene.down
    assert dict.fromkeys(scene.names, 1.0) == {name: share for (_, name), share in scene.silent.shares().items()}
    scene.run(every * 5, {**scene.all_at(100, 100), "b2": (0, 0)}, every)
    assert [] == scene.down
    scene.run(max(4.0, every * 3), {**scene.all_at(100, 100), "b2": (100, 0)}, every)
    assert [(EventKind.BACKEND_DOWN, "b2")] == scene.events[:1]


@pytest.mark.parametrize(("window", "reply_time"), [(600_000, 2000), (1000, 600_000), (600_000, 600_000)])
def test_a_long_window_keeps_few_readings(window: int, reply_time: int) -> None:
    """The number of readings does not grow with the window, and a silent backend is down after the time of a reply."""
    limits = replace(LIMITS, window=window, reply_time=reply_time)
    scene = Scene(limits=limits)
    answers = Answers()
    for step in range(10_000):
        answers.add(Reading(step * 0.25, step, step), (window + reply_time) / 1000)
        assert len(answers.readings) <= MOST_READINGS + 3
    assert (9999, 9999 * 0.25) == (answers.readings[-1].requests, answers.readings[-1].at)
    scene.run(20, scene.all_at(100, 100))
    scene.run(reply_time / 1000 + 30, {**scene.all_at(100, 100), "b2": (100, 0)}, 1.0)
    assert ["b2"] == scene.down


def test_counting_alone_removes_no_backend() -> None:
    """`count_replies` without `passive: replies` only shows the share."""
    scene = Scene(limits=None)
    scene.run(30, {**scene.all_at(100, 100), "b2": (100, 50), "b3": (100, 0)})
    assert [] == scene.down
    assert {"b1": 1.0, "b2": 0.5, "b3": 0.0} == {name: share for (_, name), share in scene.silent.shares().items()}


def test_counters_that_begin_again() -> None:
    """After a reset of the kernel's counters, no backend seems silent."""
    scene = Scene()
    scene.run(20, scene.all_at(100, 100))
    scene.counts = dict.fromkeys(scene.names, (0, 0))
    scene.run(20, scene.all_at(100, 100))
    assert [] == scene.down


def test_a_reload() -> None:
    """A reload keeps a silent backend down; a reload without `passive: replies` brings it back."""
    scene = Scene()
    scene.run(10, scene.all_at(100, 100))
    scene.run(3.5, {**scene.all_at(100, 100), "b2": (100, 0)})
    (former,) = scene.config.pools
    for passive, down in ((LIMITS, ["b2"]), (None, [])):
        changed = config(replace(former, passive=passive, count_replies=False, quorum=2))
        scene.states, _ = scene.states.with_config(changed, scene.now)
        scene.silent.follow(changed)
        scene.run(1, scene.all_at(100, 100))
        assert down == scene.down
