"""In which hook replies are rewritten, why, and with which rules."""

from __future__ import annotations

import pytest
from packet_tracer import Packet, Tracer
from pool_builders import backends, config, pool

from nftlb.compiler import Compiled
from nftlb.compiler.doors import COMMENT_BYTES
from nftlb.compiler.reply_form import (
    Obstacle,
    ReplyForm,
    as_early,
    as_late,
    late_chain,
    look_up_comment,
    reply_form,
    unknown_host,
)
from nftlb.model import Config, Family, Forward, Per, Replies
from nftlb.ruleset import Chain, TableFamily

EARLY, LATE = Replies.PREROUTING, Replies.POSTROUTING
CLOSED = {("dns", Family.IP): Obstacle("accept_local of b1 is 0", "sysctl -w net/ipv4/conf/b1/accept_local=1")}


def service(replies: Replies, listen: str = "192.0.2.53:53/udp", name: str = "dns") -> Config:
    behind = backends("[fd00::11]:5353") if listen.startswith("[") else backends("10.0.0.11:5353", "10.0.0.12:5353")
    return config(pool(name, listen, behind, forward=Forward.STATELESS, replies=replies))


@pytest.mark.parametrize(
    ("configured", "family", "obstacles", "expected"),
    [
        (service(LATE), Family.IP, {}, ReplyForm(LATE)),
        (service(LATE), Family.IP, CLOSED, ReplyForm(LATE)),
        (service(EARLY), Family.IP, {}, ReplyForm(EARLY, "as the file says")),
        (service(EARLY), Family.IP, CLOSED, ReplyForm(LATE, "accept_local of b1 is 0")),
        (service(EARLY), Family.IP6, CLOSED, ReplyForm(EARLY, "as the file says")),
        (service(EARLY, name="other"), Family.IP, CLOSED, ReplyForm(EARLY, "as the file says")),
        (
            service(EARLY, "[fe80::53]:53/udp"),
            Family.IP6,
            {},
            ReplyForm(LATE, "IPv6 packets from a link-local address are not forwarded"),
        ),
    ],
)
def test_form(
    configured: Config, family: Family, obstacles: dict[tuple[str, Family], Obstacle], expected: ReplyForm
) -> None:
    """Prerouting is used if the file asks for that hook and no obstacle of the pool and the family is known."""
    assert expected == reply_form(configured.pools[0], family, obstacles)


def chains(compiled: Compiled, family: TableFamily = TableFamily.IP) -> dict[str, Chain]:
    return dict(compiled.ruleset().tables[family].chains)


def test_no_chain_in_postrouting() -> None:
    """Rules that rewrite all replies in prerouting have no chain in postrouting, and say why."""
    found = chains(Compiled(service(EARLY)))
    assert "postrouting-raw" not in found
    assert (
        "th sport 5353 ip saddr . ip protocol . th sport vmap @early-replies "
        'comment "replies: as the file says"' == found["prerouting-raw"].rules[-1]
    )
    assert (
        "fib daddr type local accept",
        "notrack ip saddr set 192.0.2.53 ip protocol udp udp checksum != 0 udp sport set 53 accept",
        "ip protocol udp udp sport set 53 udp checksum set 0 accept",
    ) == found["early-reply/dns/192.0.2.53/udp/53"].rules


def test_an_obstacle_gives_the_rules_of_postrouting() -> None:
    """With an obstacle, and on an unknown host, the rules are those of `replies: postrouting`, with the reason."""
    plain = chains(Compiled(service(LATE)))
    for obstacles, reason in (
        (CLOSED, "accept_local of b1 is 0"),
        (unknown_host(service(EARLY)), "the settings of this host are not known yet"),
    ):
        found = chains(Compiled(service(EARLY), obstacles=obstacles))
        (rule,) = found["postrouting-raw"].rules
        assert f'{plain["postrouting-raw"].rules[0]} comment "replies: {reason}"' == rule
        assert {**plain, "postrouting-raw": found["postrouting-raw"]} == found


def test_pools_with_both_forms() -> None:
    """Each pool has its own form; a `nat` pool beside them adds no rule for replies."""
    both = config(
        pool("early", "192.0.2.53:53/udp", backends("10.0.0.11:5353"), forward=Forward.STATELESS, replies=EARLY),
        pool("late", "192.0.2.54:53/udp", backends("10.0.0.12:5353"), forward=Forward.STATELESS),
    )
    sets = Compiled(both).ruleset().tables[TableFamily.IP].sets
    keys = {
        name: [element.key for element in sets[name].elements] for name in ("early-replies", "replies", "reply-sources")
    }
    assert {
        "early-replies": ["10.0.0.11 . udp . 5353"],
        "replies": ["10.0.0.12 . udp . 5353"],
        "reply-sources": ["10.0.0.12 . udp . 5353"],
    } == keys


@pytest.mark.parametrize("forward", Forward)
@pytest.mark.parametrize("per", Per)
@pytest.mark.parametrize("number", [1, 5])
def test_requests_from_a_backends_port_to_another_pool(forward: Forward, per: Per, number: int) -> None:
    """A request is not taken for a reply, also if its service is found by the address and is not on this host."""
    port = "" if forward is Forward.DSR else ":53"
    others = (
        pool(f"p{one}", f"192.0.2.{one}:53/udp", backends(f"10.0.1.{one}{port}"), forward=forward, per=per)
        for one in range(number)
    )
    sip = pool("sip", "192.0.2.9:5060/udp", backends("10.0.0.11:5060"), forward=Forward.STATELESS, replies=EARLY)
    compiled = Compiled(config(sip, *others))
    host = Tracer(compiled.ruleset(), ("10.0.0.1",), routed_marks=frozenset(compiled.allocation.marks.values()))

    host.send(Packet("10.0.0.11", 5060, "192.0.2.0", 53))
    seen = host.send(Packet("10.0.0.11", 5060, "192.0.2.0", 53)).packet

    assert ("10.0.0.1" if forward is Forward.NAT else "10.0.0.11") == seen.source
    assert ("192.0.2.0" if forward is Forward.DSR else "10.0.1.0") == seen.destination


def test_chains_of_both_forms() -> None:
    """A chain of one form is turned into the other form and back; chains of other programs are not."""
    chain = late_chain("dns/192.0.2.53/udp/53", ("ip saddr set 192.0.2.53 accept",))
    assert chain == as_late(as_early(chain))
    for foreign in (chain, Chain("early-reply/x", ()), Chain("early-reply/x", ("accept", "accept"))):
        assert as_late(foreign) is None


def test_comment_fits() -> None:
    """A comment with many reasons is not longer than nft permits."""
    forms = [ReplyForm(LATE, f"accept_local of interface{number} is 0") for number in range(9)]
    comment = look_up_comment(forms)
    assert comment.startswith(' comment "replies: accept_local of interface0 is 0; ')
    assert COMMENT_BYTES >= len(comment.removeprefix(' comment "').removesuffix('"'))
    assert "" == look_up_comment([ReplyForm(LATE)])


def test_comment_of_strange_interfaces() -> None:
    """A name of an interface can't end the comment, nor make its bytes more than its characters."""
    form = ReplyForm(LATE, 'accept_local of a"\u00e9\udce9\x1b\\ is 0')
    assert ' comment "replies: accept_local of a????\\ is 0"' == look_up_comment([form])
