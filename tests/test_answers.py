"""What answers that are under way need when a configuration takes over: what is kept, what is not, and how long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from pools import backend, backends, config, pool

from nftlb.apply import Applier
from nftlb.compiler import Compiled, left_behind
from nftlb.compiler.allocation import LAST_ZONE
from nftlb.compiler.answers import Reply
from nftlb.kernel.fake import FakeNft
from nftlb.model import Balance, Forward, SourceKind, Zones
from nftlb.ruleset import Chain, Element, Ruleset, TableFamily
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from nftlb.model import Backend, Config

SERVICE, SIX = "192.0.2.53:53/udp", "[2001:db8::53]:53/udp"
TWO = backends("10.0.0.11:5353", "10.0.0.12:5353")
ONE = TWO[:1]
TWO_SIX = backends("[fd00::11]:5353", "[fd00::12]:5353")


def stateless(
    listen: str = SERVICE, behind: tuple[Backend, ...] = TWO, balance: Balance = Balance.ROUND_ROBIN
) -> Config:
    return config(pool("dns", listen, behind, forward=Forward.STATELESS, balance=balance))


def left(before: Config, after: Config) -> list[str]:
    """What the one leaves behind for the other to keep, in short."""
    needs = left_behind(Compiled(before).ruleset(), Compiled(after).ruleset())
    return [f"{need.key} > {need.chain.name}" if isinstance(need, Reply) else f"{need.family}" for need in needs]


B2 = "10.0.0.12 . udp . 5353 > reply/dns/192.0.2.53/udp/53"
BOTH = [B2.replace("12", "11"), B2]
NAT = config(pool("dns", SERVICE, TWO))
FLOWS = config(pool("dns", "192.0.2.53:53/tcp", TWO))
DSR = config(pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11"), forward=Forward.DSR))


@pytest.mark.parametrize(
    ("before", "after", "kept"),
    [
        pytest.param(stateless(), stateless(), [], id="nothing-changes"),
        pytest.param(stateless(), stateless(behind=ONE), [B2], id="a-backend-goes"),
        pytest.param(
            stateless(), stateless(behind=(TWO[0], backend("b2", "10.0.0.12:53"))), [B2], id="its-port-changes"
        ),
        pytest.param(stateless(), NAT, BOTH, id="to-nat"),
        pytest.param(stateless(), config(), BOTH, id="the-pool-goes"),
        pytest.param(stateless(), DSR, BOTH, id="to-dsr"),
        pytest.param(stateless(), stateless("192.0.2.54:53/udp"), [], id="another-service-has-the-same-backends"),
        pytest.param(stateless(), stateless(SIX, TWO_SIX), BOTH, id="to-another-family"),
        pytest.param(NAT, stateless(), ["ip"], id="from-nat"),
        pytest.param(NAT, DSR, ["ip"], id="nat-to-dsr"),
        pytest.param(NAT, config(), ["ip"], id="nat-goes"),
        pytest.param(NAT, config(pool("other", "192.0.2.54:53/udp", ONE)), [], id="other-nat-stays"),
        pytest.param(NAT, FLOWS, [], id="flows-stay"),
        pytest.param(DSR, NAT, [], id="dsr-needs-nothing"),
        pytest.param(
            stateless("192.0.2.53:53/tcp", balance=Balance.HASH), config(), [], id="connections-end-with-their-backend"
        ),
        pytest.param(
            stateless("192.0.2.53:100-200/udp", backends("10.0.0.11")),
            stateless("192.0.2.53:150-160/udp", backends("10.0.0.11")),
            [],
            id="ranges-that-overlap",
        ),
        pytest.param(
            stateless("192.0.2.53:100-200/udp", backends("10.0.0.11")),
            stateless("192.0.2.53:201-210/udp", backends("10.0.0.11")),
            ["10.0.0.11 . udp . 100-200 > reply/dns/192.0.2.53/udp/100-200"],
            id="ranges-side-by-side",
        ),
        pytest.param(
            stateless("192.0.2.53:100/udp", backends("10.0.0.11")),
            stateless("192.0.2.53:99-100/udp", backends("10.0.0.11")),
            [],
            id="a-port-within-a-range",
        ),
    ],
)
def test_what_is_left_behind(before: Config, after: Config, kept: list[str]) -> None:
    """Each datagram's answer, as far as that does nothing else to the answers of those that are there now."""
    assert kept == left(before, after)


def present(kernel: FakeNft) -> Ruleset:
    return Ruleset("nftlb", {family: one.table for family, one in kernel.list("nftlb").items()})


class Fake:
    """An Applier over a kernel in memory, and its clock."""

    def __init__(self, linger: float = 10) -> None:
        self.kernel = FakeNft()
        self.now = 0.0
        self.applier = self.another(linger)

    def another(self, linger: float = 10) -> Applier:
        """The one of the next process."""
        return Applier(
            self.kernel, cut=lambda _: 0, wait=lambda: None, interfaces=list, linger=linger, clock=lambda: self.now
        )

    def answered(self) -> list[str]:
        """The addresses whose answers get a service's address."""
        tables = self.kernel.list("nftlb")
        sets = tables[TableFamily.IP].table.sets if TableFamily.IP in tables else {}
        names = {"replies", "reply-ranges"} & sets.keys()
        return sorted(element.key.split(" ")[0] for name in names for element in sets[name].elements)

    @property
    def translates(self) -> bool:
        """Whether some rule has the kernel translate what conntrack knows."""
        listing = self.kernel.list("nftlb").get(TableFamily.IP)
        return listing is not None and any("type nat " in chain.hook for chain in listing.table.chains.values())


def is_as_configured(kernel: FakeNft, wanted: Config) -> bool:
    return Applier(kernel, interfaces=list).diff(wanted) == ""


def test_they_stay_for_their_time() -> None:
    """Elements, chains and rules of a backend that went; then nothing is left of them."""
    world = Fake()
    assert world.applier.load(stateless()).lingers is None
    assert 10 == world.applier.load(stateless(behind=ONE)).lingers
    world.now = 9.5
    assert 0.5 == world.applier.tidy().lingers
    assert ["10.0.0.11", "10.0.0.12"] == world.answered()

    world.now = 10
    assert world.applier.tidy()
    assert ["10.0.0.11"] == world.answered()
    assert is_as_configured(world.kernel, stateless(behind=ONE))
    assert not world.applier.tidy()


def test_without_time_to_linger_nothing_stays() -> None:
    world = Fake(linger=0)
    world.applier.load(stateless())
    assert world.applier.load(stateless(behind=ONE)).lingers is None
    assert is_as_configured(world.kernel, stateless(behind=ONE))


def test_all_of_them_may_go_at_once() -> None:
    world = Fake()
    world.applier.load(stateless())
    world.applier.load(NAT)
    assert world.applier.tidy(at_once=True).lingers is None
    assert is_as_configured(world.kernel, NAT)


def test_a_table_of_nothing_else() -> None:
    """When the last pool of a family goes, its table stays for the answers' sake, and goes after them."""
    world = Fake()
    six = pool("six", SIX, TWO_SIX)
    world.applier.load(config(pool("dns", SERVICE, TWO, forward=Forward.STATELESS), six))
    world.applier.load(config(six))
    assert ["10.0.0.11", "10.0.0.12"] == world.answered()
    world.now = 10
    world.applier.tidy()
    assert [TableFamily.IP6] == list(world.kernel.list("nftlb"))


@pytest.mark.parametrize("source", [SourceKind.MASQUERADE, SourceKind.KEEP])
def test_translation_goes_on(source: SourceKind) -> None:
    """For answers of `nat`: no rule of the next configuration asks for it."""
    world = Fake()
    world.applier.load(config(pool("dns", SERVICE, TWO, source=source)))
    world.applier.load(stateless())
    assert world.translates
    world.now = 10
    world.applier.tidy()
    assert not world.translates
    assert is_as_configured(world.kernel, stateless())


def test_each_has_its_own_time() -> None:
    """Loads that come meanwhile don't put off its end; one that comes after it does not bring it back."""
    world = Fake()
    world.applier.load(stateless(behind=backends("10.0.0.11:53", "10.0.0.12:53", "10.0.0.13:53")))
    world.applier.load(stateless(behind=backends("10.0.0.11:53", "10.0.0.12:53")))
    world.now = 6
    world.applier.load(stateless(behind=backends("10.0.0.11:53")))
    assert ["10.0.0.11", "10.0.0.12", "10.0.0.13"] == world.answered()
    world.now = 10
    assert 6 == world.applier.load(stateless(behind=backends("10.0.0.11:53"))).lingers
    assert ["10.0.0.11", "10.0.0.12"] == world.answered()
    world.now = 16
    world.applier.tidy()
    assert ["10.0.0.11"] == world.answered()


def test_who_comes_back_stays() -> None:
    world = Fake()
    world.applier.load(stateless())
    world.applier.load(stateless(behind=ONE))
    world.now = 5
    assert world.applier.load(stateless()).lingers is None
    world.now = 20
    world.applier.tidy()
    assert ["10.0.0.11", "10.0.0.12"] == world.answered()


def test_the_next_process_takes_over() -> None:
    """It does not know how long they have been there, and gives them all their time once more."""
    world = Fake()
    world.applier.load(stateless())
    world.applier.load(stateless(behind=ONE))
    world.now = 5
    second = world.another()
    assert 10 == second.load(stateless(behind=ONE)).lingers
    world.now = 15
    second.tidy()
    assert is_as_configured(world.kernel, stateless(behind=ONE))


def test_what_somebody_else_added_does_not_stay() -> None:
    """Only what was loaded lingers: an element of a stranger goes at the next load."""
    world = Fake()
    world.applier.load(stateless(behind=ONE))
    Fake.another(world).load(stateless())
    assert world.applier.load(stateless(behind=ONE)).lingers is None
    assert is_as_configured(world.kernel, stateless(behind=ONE))


def test_what_a_stranger_left_in_the_kernel_does_not_stay() -> None:
    """At the first load, too: elements that we would not have made, or that lead where more is needed."""
    world = Fake()
    ours = Compiled(stateless(behind=ONE)).ruleset()
    table = ours.tables[TableFamily.IP]
    replies = table.sets["replies"]
    chains = {"jumper": Chain("jumper", ("jump other",)), "other": Chain("other", ("accept",))}
    elements = (
        Element("10.0.0.13 . udp . domain", "goto other"),
        Element("10.0.0.14 . udp . 5353", "goto jumper"),
        Element("10.0.0.15 . udp . 5353", "accept"),
    )
    strange = replace(
        table,
        sets={**table.sets, "replies": replace(replies, elements=replies.elements + elements)},
        chains={**table.chains, **chains},
    )
    Swapper(world.kernel, "nftlb", lambda: None).swap(Ruleset("nftlb", {TableFamily.IP: strange}))
    assert len(world.answered()) > 3

    assert world.applier.load(stateless(behind=ONE)).lingers is None
    assert is_as_configured(world.kernel, stateless(behind=ONE))


def test_a_refused_load_changes_no_time() -> None:
    world = Fake()
    world.applier.load(stateless())
    world.applier.load(stateless(behind=ONE))
    world.kernel.fail_next("no")
    with pytest.raises(Exception, match="no"):
        world.applier.load(config(pool("other", "192.0.2.54:53/udp", ONE)))
    world.now = 10
    world.applier.tidy()
    assert ["10.0.0.11"] == world.answered()


def test_nothing_lingers_behind_remove() -> None:
    world = Fake()
    world.applier.load(stateless())
    world.applier.load(stateless(behind=ONE))
    world.applier.remove()
    assert not world.kernel.list("nftlb")
    assert world.applier.load(NAT).lingers is None


def test_zones_rest() -> None:
    """Another backend gets the zone of one that has just left only when there is no other, and the oldest first."""

    def zones(*numbers: int) -> list[int]:
        """Load a pool with these backends; return their zones, counted from the last one there is."""
        behind = tuple(backend(f"b{number}", f"10.0.0.{number}:53") for number in numbers)
        world.applier.load(replace(config(pool("dns", SERVICE, behind)), zones=Zones(first=LAST_ZONE - 3)))
        elements = world.kernel.list("nftlb")[TableFamily.IP].table.sets["targets"].elements
        return [int(element.key.split(" ")[-1]) - LAST_ZONE for element in elements]

    world = Fake()
    assert [-3, -2] == zones(11, 12)
    assert [-2] == zones(12)
    assert [-2, -1] == zones(12, 13)
    assert [-1] == zones(13)
    assert [-1, 0] == zones(13, 14)
    world.now = 5
    assert [0] == zones(14)
    assert [0, -3] == zones(14, 15)  # the first to leave
    world.now = 10
    assert [0, -3, -2] == zones(14, 15, 16)  # rested, unlike -1
    assert [-3] == zones(15)
    world.now = 15
    assert [-3, -1] == zones(15, 17)
