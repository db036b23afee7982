"""What one pool adds to the tables of nftlb, and the protocol of the three ways to forward its packets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING
from typing import Protocol as TypingProtocol

from nftlb.ruleset import Chain, NamedObject, Set, make_element

if TYPE_CHECKING:
    from collections.abc import Iterable

    from nftlb.model import Protocol
    from nftlb.ruleset import Element

    from .reply_form import ReplyForm
    from .selection import Selection
    from .services import ServicePort
    from .versions import Version


@dataclass
class PoolRules:
    """Elements by set and key, and chains by name. It is filled while a pool is compiled."""

    elements: dict[str, dict[str, Element]] = field(default_factory=dict)
    chains: dict[str, Chain] = field(default_factory=dict)
    objects: dict[str, NamedObject] = field(default_factory=dict)
    """What rules refer to by name, by `NamedObject.key`. Pools may share an object."""
    sets: dict[str, Set] = field(default_factory=dict)
    """The sets that belong to one pool, by name, with their elements."""
    redirects: list[str] = field(default_factory=list)
    """What ICMP redirects are to drop, without the condition that a packet is a redirect. The redirects would make
    clients send past this host."""
    services: dict[str, dict[str, ServicePort]] = field(default_factory=dict)
    """The services of each kind of hook (`services.py` and `ingress.py` have the names), by their keys."""
    translated: dict[str, dict[Protocol, None]] = field(default_factory=dict)
    """The protocols of the flows that get another source, by the set that holds the zones of these flows."""
    reply_forms: list[ReplyForm] = field(default_factory=list)
    """The forms of the replies of `stateless` pools."""

    def add(self, set_name: str, key: str, data: str = "", comment: str = "") -> None:
        """Add an element if the key has none yet: a server may have two names, and the first name counts."""
        self.elements.setdefault(set_name, {}).setdefault(key, make_element((key, data, comment)))

    def add_service(self, hook: str, service: ServicePort) -> None:
        """Add a service if its key has none yet."""
        self.services.setdefault(hook, {}).setdefault(service.key, service)

    def chain(self, name: str, *rules: str) -> None:
        """Add a chain, or replace the chain of that name."""
        self.chains[name] = Chain(name, rules)


def ending(*, early: bool) -> str:
    """Return the end of a rule that has done all for a request: empty, or `accept` with a space before.

    A request goes on in prerouting if its service was found by the address. Where prerouting also rewrites replies
    (`early`), a request from a backend's port must not be taken for a reply. A verdict costs 5 ns.
    """
    return " accept" if early else ""


def merge_pools(parts: Iterable[PoolRules]) -> PoolRules:
    """Merge the rules of pools. Where two parts have the same key or name, the later part counts."""
    whole = PoolRules()
    for part in parts:
        for name, elements in part.elements.items():
            whole.elements.setdefault(name, {}).update(elements)
        for name, services in part.services.items():
            whole.services.setdefault(name, {}).update(services)
        whole.chains.update(part.chains)
        whole.objects.update(part.objects)
        whole.sets.update(part.sets)
        whole.redirects += part.redirects
        whole.reply_forms += part.reply_forms
        for name, protocols in part.translated.items():
            whole.translated.setdefault(name, {}).update(protocols)
    return whole


class Forwarding(TypingProtocol):
    """How the packets of one pool and one family are forwarded: a class for each way (`nat`, `stateless`, `ingress`).

    What does not depend on the states of backends is apart from what does: a swap replaces only the second.
    """

    def entry(self, protocol: Protocol) -> str:
        """Return the name of the chain that the packets of a listener of this protocol go to."""

    def fixed_rules(self) -> PoolRules:
        """Return the rules that are the same in all states of the backends."""

    def version(self, selection: Selection) -> Version:
        """Return the chains and maps that spread packets over the selected targets."""
