"""Where a packet goes and where its reply comes from, as each side sees it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.compiler.source_ports import asks_from_service
from nftlb.model import Forward, SourceKind
from nftlb.model.kinds import endpoint_text

from .answer import Way

if TYPE_CHECKING:
    from nftlb.compiler.membership import Target
    from nftlb.compiler.source_ports import PortRange
    from nftlb.model import Config, Pool

    from .answer import Question

MASQUERADE = "masquerade"
"""Stands for the address that this host has towards a backend."""


@dataclass(frozen=True, slots=True)
class Sources:
    """What is known of the sources of new flows.

    `ports`: where they leave from when they are translated; None: from any port. `own`: the packet's source is a
    service of this host, so that this host itself sends it.
    """

    ports: PortRange | None
    own: bool

    def port(self, question: Question) -> str:
        """The client's port, which conntrack keeps where it can; else the ports that it picks one from."""
        kept = self.ports is None or question.client.port in self.ports
        return str(question.client.port if kept else self.ports)


def sources(config: Config, question: Question, ports: PortRange | None) -> Sources:
    return Sources(ports, asks_from_service(config, question.client, question.protocol))


def request(pool: Pool, target: Target, question: Question, found: Sources) -> Way:
    """The client's packet on its way to the target."""
    client, service = str(question.client), str(question.service)
    if pool.forward is Forward.DSR:
        return Way(client, service, client, service)
    return Way(client, service, _seen_source(pool, target, question, found), _seen_target(target, question))


def reply(pool: Pool, target: Target, question: Question, found: Sources) -> Way | None:
    """The target's answer on its way to the client; None if that does not pass the balancer."""
    if pool.forward is Forward.DSR:
        return None
    client, service = str(question.client), str(question.service)
    return Way(_seen_target(target, question), _seen_source(pool, target, question, found), service, client)


def _seen_target(target: Target, question: Question) -> str:
    return endpoint_text(target.address, target.port or question.service.port)


def _seen_source(pool: Pool, target: Target, question: Question, found: Sources) -> str:
    """The client as the backend sees it."""
    client = question.client
    if pool.forward is not Forward.NAT:
        return str(client)
    if pool.source is SourceKind.KEEP:
        if client.address == target.address:
            return f"{MASQUERADE}:{found.port(question)}"
        return endpoint_text(client.address, found.port(question)) if found.own else str(client)
    given = pool.source_address(question.service.family)
    port = found.port(question)
    return f"{MASQUERADE}:{port}" if given is None else endpoint_text(given, port)
