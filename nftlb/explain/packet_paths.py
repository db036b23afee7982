"""The addresses of a request and of its reply, on both sides of the balancer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from nftlb.compiler.source_ports import asks_from_service
from nftlb.model import Forward, SourceKind
from nftlb.model.kinds import endpoint_text

from .explanation import PacketPath

if TYPE_CHECKING:
    from nftlb.compiler.selection import Target
    from nftlb.compiler.source_ports import PortRange
    from nftlb.model import Config, Pool

    from .explanation import Question

MASQUERADE = "masquerade"
"""Written instead of the address from which this host sends to a backend."""


@dataclass(frozen=True, slots=True)
class Sources:
    """The sources of new flows.

    `ports` is the range of source ports of translated flows; None means any port. `own`: the source is a service of
    this host, so this host itself sends the packet.
    """

    ports: PortRange | None
    own: bool

    def port(self, question: Question) -> str:
        """Return the client's port if conntrack can keep it, or else the range that conntrack picks a port from."""
        kept = self.ports is None or question.client.port in self.ports
        return str(question.client.port if kept else self.ports)


def sources_of_flows(config: Config, question: Question, ports: PortRange | None) -> Sources:
    return Sources(ports, asks_from_service(config, question.client, question.protocol))


def request_path(pool: Pool, target: Target, question: Question, found: Sources) -> PacketPath:
    """Return the path of the client's packet to the target."""
    client, service = str(question.client), str(question.service)
    if pool.forward is Forward.DSR:
        return PacketPath(client, service, client, service)
    return PacketPath(client, service, _seen_source(pool, target, question, found), _seen_target(target, question))


def reply_path(pool: Pool, target: Target, question: Question, found: Sources) -> PacketPath | None:
    """Return the path of the target's reply to the client; None if replies do not pass the balancer."""
    if pool.forward is Forward.DSR:
        return None
    client, service = str(question.client), str(question.service)
    return PacketPath(_seen_target(target, question), _seen_source(pool, target, question, found), service, client)


def _seen_target(target: Target, question: Question) -> str:
    return endpoint_text(target.address, target.port or question.service.port)


def _seen_source(pool: Pool, target: Target, question: Question, found: Sources) -> str:
    """Return the client's endpoint as the backend sees it."""
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
