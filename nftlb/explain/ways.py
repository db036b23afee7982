"""Where a packet goes and where its reply comes from, as each side sees it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.model import Forward, SourceKind
from nftlb.model.kinds import endpoint_text

from .answer import Way

if TYPE_CHECKING:
    from nftlb.compiler.membership import Target
    from nftlb.model import Pool

    from .answer import Question

MASQUERADE = "masquerade"
"""Stands for the address that this host has towards a backend."""


def request(pool: Pool, target: Target, question: Question) -> Way:
    """The client's packet on its way to the target."""
    client, service = str(question.client), str(question.service)
    if pool.forward is Forward.DSR:
        return Way(client, service, client, service)
    return Way(client, service, _seen_source(pool, question), _seen_target(target, question))


def reply(pool: Pool, target: Target, question: Question) -> Way | None:
    """The target's answer on its way to the client; None if that does not pass the balancer."""
    if pool.forward is Forward.DSR:
        return None
    client, service = str(question.client), str(question.service)
    return Way(_seen_target(target, question), _seen_source(pool, question), service, client)


def _seen_target(target: Target, question: Question) -> str:
    return endpoint_text(target.address, target.port or question.service.port)


def _seen_source(pool: Pool, question: Question) -> str:
    """The client as the backend sees it. conntrack keeps its port unless that is taken."""
    if pool.forward is not Forward.NAT or pool.source is SourceKind.KEEP:
        return str(question.client)
    given = pool.source_address(question.service.family)
    return f"{MASQUERADE}:{question.client.port}" if given is None else endpoint_text(given, question.client.port)
