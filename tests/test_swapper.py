"""Swaps: nothing is lost on the way from one ruleset to another, whatever the two are."""

from __future__ import annotations

from typing import TypeAlias

from configs import changed, documents, load, memberships
from hypothesis import given, settings
from hypothesis import strategies as st
from outcomes import locals_of, outcomes, outcomes_between, packets
from recorder import Recorder

from nftlb.compiler import Compiled, Membership, read_back
from nftlb.model import Config

Step: TypeAlias = tuple[Config, Membership, float]


@st.composite
def journeys(draw: st.DrawFn) -> list[Step]:
    """Configurations one after the other, now and then an earlier one again; with states, and a time that passes."""
    files = [draw(documents(2))]
    for _ in range(draw(st.integers(1, 3))):
        files.append(draw(st.one_of(changed(files[-1]), changed(files[-1]), st.sampled_from(files))))
    steps = []
    for file in files:
        config = load(file)
        steps.append((config, draw(memberships(config)), draw(st.sampled_from((0.0, 0.0, 0.3, 0.6)))))
    return steps


def travel(steps: list[Step]) -> Recorder:
    kernel = Recorder()
    for config, membership, pause in steps:
        compiled = Compiled(config, read_back(kernel.list("nftlb")))
        kernel.swap(compiled.ruleset(membership))
        kernel.now += pause
    return kernel


@settings(max_examples=40, deadline=None)
@given(steps=journeys())
def test_no_packet_is_lost_on_the_way(steps: list[Step]) -> None:
    """A packet that meets rules of one generation and elements of a later one still gets where one of both sends it.

    That is asked of packets to listeners that are there all along, and of the replies of their backends.
    """
    kernel = travel(steps)
    seen = [config for config, _, _ in steps]
    local = locals_of(seen)
    for packet in packets(seen):
        right = [outcomes(target, packet, local) for target in kernel.targets]
        for early, late in kernel.overlaps():
            between = range(max(early.target - 1, 0), late.target + 1)
            if all(number and packet in packets([seen[number - 1]]) for number in between):
                allowed = set().union(*(right[number] for number in between))

                assert outcomes_between(early.snapshot, late.snapshot, packet, local) <= allowed
