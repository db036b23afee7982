"""In-flight replies at a change of the configuration: which rules are kept for them, and for how long."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest
from fake_kernel import FakeNft
from pool_builders import backend, backends, config, pool

from nftlb.compiler import Compiled, left_behind
from nftlb.compiler.allocation import LAST_ZONE
from nftlb.compiler.in_flight import ReplyRewrite
from nftlb.model import Balance, Forward, Replies, SourceKind, Zones
from nftlb.ruleset import Chain, Element, Ruleset, TableFamily
from nftlb.swap import Swapper
from nftlb.swap.applier import Applier

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
    """Return, in short, what in-flight replies need of the first configuration and the second lacks."""
    needs = left_behind(Compiled(before).ruleset(), Compiled(after).ruleset())
    return [f"{need.key} > {need.chain.name}" if isinstance(need, ReplyRewrite) else f"{need.family}" for need in needs]


B2 = "10.0.0.12 . udp . 5353 > reply/dns/192.0.2.53/udp/53"
BOTH = [B2.replace("12", "11"), B2]
EARLY = config(pool("dns", SERVICE, TWO, forward=Forward.STATELESS, replies=Replies.PREROUTING))
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
        pytest.param(EARLY, EARLY, [], id="early-nothing-changes"),
        pytest.param(EARLY, stateless(), [], id="early-to-late"),
        pytest.param(stateless(), EARLY, [], id="late-to-early"),
        pytest.param(EARLY, stateless(behind=ONE), [B2], id="early-a-backend-goes"),
        pytest.param(EARLY, config(), BOTH, id="early-the-pool-goes"),
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
def test_which_rules_replies_need(before: Config, after: Config, kept: list[str]) -> None:
    """Rules for in-flight UDP replies are kept unless they would affect replies of present backends."""
    assert kept == left(before, after)


def present(kernel: FakeNft) -> Ruleset:
    return Ruleset("nftlb", {family: listing.table for family, listing in kernel.list("nftlb").items()})


class Fake:
    """An Applier over a kernel in memory, and its clock."""

    def __init__(self, linger: float = 10) -> None:
        self.kernel = FakeNft()
        self.now = 0.0
        self.applier = self.another(linger)

    def another(self, linger: float = 10) -> Applier:
        """Return the applier of the next process."""
        return Applier(
            self.kernel,
            delete_connections=lambda _: 0,
            wait=lambda: None,
            interfaces=dict,
            linger=linger,
            clock=lambda: self.now,
        )

    def answered(self) -> list[str]:
        """The addresses whose replies get a service's address."""
        tables = self.kernel.list("nftlb")
        sets = tables[TableFamily.IP].table.sets if TableFamily.IP in tables else {}
        names = {"replies", "reply-ranges"} & sets.keys()
        return sorted(element.key.split(" ")[0] for name in names for element in sets[name].elements)

    @property
    def translates(self) -> bool:
        """Whether some rule makes the kernel translate packets that conntrack knows."""
        listing = self.kernel.list("nftlb").get(TableFamily.IP)
        return listing is not None and any(
            chain.hook is not None and chain.hook.type == "nat" for chain in listing.table.chains.values()
        )


def is_as_configured(kernel: FakeNft, wanted: Config) -> bool:
    return Applier(kernel, interfaces=dict).diff(wanted) == ""


def test_rules_for_replies_stay_for_the_linger_time() -> None:
    """Elements, chains and rules of a removed backend stay for the time of `linger`, and are then deleted."""
    fake = Fake()
    assert fake.applier.load(stateless()).lingers is None
    assert 10 == fake.applier.load(stateless(behind=ONE)).lingers
    fake.now = 9.5
    assert 0.5 == fake.applier.tidy().lingers
    assert ["10.0.0.11", "10.0.0.12"] == fake.answered()

    fake.now = 10
    assert fake.applier.tidy()
    assert ["10.0.0.11"] == fake.answered()
    assert is_as_configured(fake.kernel, stateless(behind=ONE))
    assert not fake.applier.tidy()


def test_without_linger_no_rules_for_replies_are_kept() -> None:
    fake = Fake(linger=0)
    fake.applier.load(stateless())
    assert fake.applier.load(stateless(behind=ONE)).lingers is None
    assert is_as_configured(fake.kernel, stateless(behind=ONE))


def test_rules_for_replies_can_be_deleted_at_once() -> None:
    fake = Fake()
    fake.applier.load(stateless())
    fake.applier.load(NAT)
    assert fake.applier.tidy(at_once=True).lingers is None
    assert is_as_configured(fake.kernel, NAT)


def test_a_table_with_only_rules_for_replies() -> None:
    """When the last pool of a family is removed, its table stays as long as in-flight replies need it."""
    fake = Fake()
    six = pool("six", SIX, TWO_SIX)
    fake.applier.load(config(pool("dns", SERVICE, TWO, forward=Forward.STATELESS), six))
    fake.applier.load(config(six))
    assert ["10.0.0.11", "10.0.0.12"] == fake.answered()
    fake.now = 10
    fake.applier.tidy()
    assert [TableFamily.IP6] == list(fake.kernel.list("nftlb"))


@pytest.mark.parametrize("source", [SourceKind.MASQUERADE, SourceKind.KEEP])
def test_translation_of_replies_continues(source: SourceKind) -> None:
    """Replies of `nat` are translated although no rule of the next configuration needs conntrack."""
    fake = Fake()
    fake.applier.load(config(pool("dns", SERVICE, TWO, source=source)))
    fake.applier.load(stateless())
    assert fake.translates
    fake.now = 10
    fake.applier.tidy()
    assert not fake.translates
    assert is_as_configured(fake.kernel, stateless())


def test_each_rule_for_replies_keeps_its_deadline() -> None:
    """Further loads do not extend the time of a rule, and do not bring it back after its time."""
    fake = Fake()
    fake.applier.load(stateless(behind=backends("10.0.0.11:53", "10.0.0.12:53", "10.0.0.13:53")))
    fake.applier.load(stateless(behind=backends("10.0.0.11:53", "10.0.0.12:53")))
    fake.now = 6
    fake.applier.load(stateless(behind=backends("10.0.0.11:53")))
    assert ["10.0.0.11", "10.0.0.12", "10.0.0.13"] == fake.answered()
    fake.now = 10
    assert 6 == fake.applier.load(stateless(behind=backends("10.0.0.11:53"))).lingers
    assert ["10.0.0.11", "10.0.0.12"] == fake.answered()
    fake.now = 16
    fake.applier.tidy()
    assert ["10.0.0.11"] == fake.answered()


def test_a_backend_that_returns_keeps_its_rules() -> None:
    fake = Fake()
    fake.applier.load(stateless())
    fake.applier.load(stateless(behind=ONE))
    fake.now = 5
    assert fake.applier.load(stateless()).lingers is None
    fake.now = 20
    fake.applier.tidy()
    assert ["10.0.0.11", "10.0.0.12"] == fake.answered()


def test_a_new_process_keeps_rules_for_replies() -> None:
    """A new process does not know when the rules were kept first, so it keeps them for the whole time again."""
    fake = Fake()
    fake.applier.load(stateless())
    fake.applier.load(stateless(behind=ONE))
    fake.now = 5
    second = fake.another()
    assert 10 == second.load(stateless(behind=ONE)).lingers
    fake.now = 15
    second.tidy()
    assert is_as_configured(fake.kernel, stateless(behind=ONE))


def test_elements_added_by_another_program_are_deleted() -> None:
    """Only rules that nftlb loaded are kept: another program's element is deleted at the next load."""
    fake = Fake()
    fake.applier.load(stateless(behind=ONE))
    Fake.another(fake).load(stateless())
    assert fake.applier.load(stateless(behind=ONE)).lingers is None
    assert is_as_configured(fake.kernel, stateless(behind=ONE))


def test_foreign_elements_are_deleted_at_the_first_load() -> None:
    """The same holds at the first load, for elements that nftlb does not make or that need other objects."""
    fake = Fake()
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
        sets={**table.sets, "replies": replace(replies, elements=(*replies.elements, *elements))},
        chains={**table.chains, **chains},
    )
    Swapper(fake.kernel, "nftlb", lambda: None).swap(Ruleset("nftlb", {TableFamily.IP: strange}))
    assert len(fake.answered()) > 3

    assert fake.applier.load(stateless(behind=ONE)).lingers is None
    assert is_as_configured(fake.kernel, stateless(behind=ONE))


def test_a_refused_load_changes_no_time() -> None:
    fake = Fake()
    fake.applier.load(stateless())
    fake.applier.load(stateless(behind=ONE))
    fake.kernel.fail_next("no")
    with pytest.raises(Exception, match="no"):
        fake.applier.load(config(pool("other", "192.0.2.54:53/udp", ONE)))
    fake.now = 10
    fake.applier.tidy()
    assert ["10.0.0.11"] == fake.answered()


def test_remove_keeps_no_rules_for_replies() -> None:
    fake = Fake()
    fake.applier.load(stateless())
    fake.applier.load(stateless(behind=ONE))
    fake.applier.remove()
    assert not fake.kernel.list("nftlb")
    assert fake.applier.load(NAT).lingers is None


def test_zones_of_removed_backends_are_used_last() -> None:
    """A zone of a removed backend is used again only when no other zone is free, and the oldest first."""

    def zones(*numbers: int) -> list[int]:
        """Load a pool with these backends. Return their zones, counted back from the last possible zone."""
        behind = tuple(backend(f"b{number}", f"10.0.0.{number}:53") for number in numbers)
        fake.applier.load(replace(config(pool("dns", SERVICE, behind)), zones=Zones(first=LAST_ZONE - 3)))
        elements = fake.kernel.list("nftlb")[TableFamily.IP].table.sets["targets"].elements
        return [int(element.key.split(" ")[-1]) - LAST_ZONE for element in elements]

    fake = Fake()
    assert [-3, -2] == zones(11, 12)
    assert [-2] == zones(12)
    assert [-2, -1] == zones(12, 13)
    assert [-1] == zones(13)
    assert [-1, 0] == zones(13, 14)
    fake.now = 5
    assert [0] == zones(14)
    assert [0, -3] == zones(14, 15)  # the first to leave
    fake.now = 10
    assert [0, -3, -2] == zones(14, 15, 16)  # rested, unlike -1
    assert [-3] == zones(15)
    fake.now = 15
    assert [-3, -1] == zones(15, 17)


def test_replies_are_added_to_a_copy() -> None:
    """The compiled configuration itself stays as it is, and another copy has other replies only."""
    compiled = Compiled(NAT)
    alone = compiled.ruleset()
    needs = left_behind(Compiled(stateless()).ruleset(), alone)

    with_replies = compiled.with_replies(needs)

    assert needs
    assert needs == left_behind(with_replies.ruleset(), alone)
    assert alone == compiled.ruleset() == with_replies.with_replies(()).ruleset()
