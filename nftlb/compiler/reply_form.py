"""`forward: stateless`: in which hook the replies of backends get the address and port of the service. Pure.

- *postrouting* works on every host. The hook costs each packet some 40 ns, also a packet that no pool has.
- *prerouting* (`replies: prerouting`) needs no further hook. But the kernel then has to route packets of other hosts
  that have an address of this host as their source. Whether the kernel accepts these packets depends on settings of the
  interface at which the packets arrive. So prerouting is used only if the file asks for it and no obstacle is known.

Both forms look a reply up by its source. `ReplyChain` has the rules of both.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from nftlb.model import Family, Forward, Replies
from nftlb.model.kinds import is_link_local
from nftlb.ruleset import Chain, canonical_rule

from .doors import joined

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from nftlb.model import Config, Pool

EARLY = ("early-replies", "early-reply-ranges")
"""The maps from the sources of replies to the chains that rewrite them in prerouting."""
LATE = ("replies", "reply-ranges")
"""The same for postrouting."""
UNTRACKED = ("reply-sources", "reply-source-ranges")
"""The sources of the replies that are rewritten in postrouting, and that prerouting keeps out of conntrack."""

_LATE_CHAIN, _EARLY_CHAIN = "reply/", "early-reply/"
# What the balancer itself exchanges with a backend stays as it is, and tracked: for instance health checks.
_TO_THIS_HOST = "fib daddr type local accept"
_NOTRACK = "notrack "
_HARMFUL = re.compile(r"[^ !#-~]")


class Obstacle(NamedTuple):
    """What on this host keeps a pool's replies from being rewritten in prerouting. `fix` is a command, or empty."""

    message: str
    fix: str = ""

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message


Obstacles: TypeAlias = "Mapping[tuple[str, Family], Obstacle]"
"""The obstacles by the name of the pool and the family. A pool that is not named has none."""


class ReplyForm(NamedTuple):
    """The hook in which a pool's replies are rewritten. `why` is empty if the file does not set `replies`."""

    hook: Replies
    why: str = ""

    @property
    def early(self) -> bool:
        return self.hook is Replies.PREROUTING

    def __str__(self) -> str:
        return f"{self.hook}: {self.why}" if self.why else f"{self.hook}"


def reply_form(pool: Pool, family: Family, obstacles: Obstacles) -> ReplyForm:
    """Choose the form for the replies of a `stateless` pool in a family."""
    if pool.replies is Replies.POSTROUTING:
        return ReplyForm(Replies.POSTROUTING)
    if any(listener.family is family and is_link_local(listener.address) for listener in pool.listen):
        return ReplyForm(Replies.POSTROUTING, "IPv6 packets from a link-local address are not forwarded")
    obstacle = obstacles.get((pool.name, family))
    if obstacle is not None:
        return ReplyForm(Replies.POSTROUTING, obstacle.message)
    return ReplyForm(Replies.PREROUTING, "as the file says")


def early_families(config: Config, obstacles: Obstacles) -> frozenset[Family]:
    """Return the families in which prerouting rewrites replies of some pool."""
    return frozenset(family for pool, family in wishes(config) if reply_form(pool, family, obstacles).early)


def wishes(config: Config) -> list[tuple[Pool, Family]]:
    """Return the pools whose replies the file wants rewritten in prerouting, with their families."""
    return [
        (pool, family)
        for pool in config.pools
        if pool.forward is Forward.STATELESS and pool.replies is Replies.PREROUTING
        for family in pool.families
    ]


def unknown_host(config: Config, why: str = "the settings of this host are not known yet") -> Obstacles:
    """Return the obstacles of rules that are loaded without knowing the settings of this host."""
    unknown = Obstacle(why)
    return {(pool.name, family): unknown for pool, family in wishes(config)}


def look_up_comment(forms: Iterable[ReplyForm]) -> str:
    """Return the comment of a rule that looks up replies of pools with these forms; with a space before, or empty.

    A reason may name an interface, and Linux permits almost all characters in the names of interfaces. A quotation mark
    would end the comment, and a character that is not ASCII takes several bytes.
    """
    reasons = _HARMFUL.sub("?", "; ".join(dict.fromkeys(form.why for form in forms if form.why)))
    return f' comment "{joined(f"replies: {reasons}")}"' if reasons else ""


def late_chain(name: str, rules: Iterable[str]) -> Chain:
    """Return the chain that rewrites replies in postrouting. `name` is the chain's own part of the name."""
    return Chain(f"{_LATE_CHAIN}{name}", tuple(rules))


def as_early(chain: Chain) -> Chain:
    """Return the chain that does in prerouting what a chain does in postrouting."""
    first, *others = chain.rules
    name = chain.name.removeprefix(_LATE_CHAIN)
    return Chain(f"{_EARLY_CHAIN}{name}", (_TO_THIS_HOST, f"{_NOTRACK}{first}", *others))


def as_late(chain: Chain) -> Chain | None:
    """Return the chain that does in postrouting what a chain does in prerouting; None for a chain of another form."""
    if not chain.name.startswith(_EARLY_CHAIN) or len(chain.rules) < 2:  # noqa: PLR2004 - the rule for this host, and one
        return None
    local, first, *others = chain.rules
    if canonical_rule(local) != canonical_rule(_TO_THIS_HOST) or not first.startswith(_NOTRACK):
        return None
    return late_chain(chain.name.removeprefix(_EARLY_CHAIN), (first.removeprefix(_NOTRACK), *others))
