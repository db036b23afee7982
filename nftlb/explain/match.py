"""Which listener takes a packet; and if none does, which ones come close."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.compiler.aliases import aliases

from .answer import Near

if TYPE_CHECKING:
    from nftlb.model import Config, Listener, Pool

    from .answer import Question

_MOST_NEAR = 5


def taker(config: Config, question: Question) -> tuple[Pool, Listener] | None:
    """The pool that takes the packet, by which of its listeners. Listeners don't overlap."""
    for pool in config.pools:
        for listener in pool.listen:
            if not _differences(listener, question):
                return pool, listener
    return None


def refusal(config: Config, question: Question) -> str:
    """Why no pool takes it."""
    service, port = question.service, f"port {question.service.port}/{question.protocol}"
    for pool in config.pools:
        for backend in pool.backends:
            if backend.address == service.address and backend.port in (None, service.port):
                return f"{service} is backend {pool.name}/{backend.name} itself: what is sent there is not balanced"
    for listener, found in aliases(config).items():
        if (listener.address, listener.protocol) == (service.address, question.protocol):
            for own, alias in found.items():
                if alias == service.port:
                    return (
                        f"{service} stands for port {own} of this host itself: answers to what this host sends from "
                        f"there come in for {port}, and go to its own socket"
                    )
    if any(listener.address == service.address for pool in config.pools for listener in pool.listen):
        return f"{service.address} has listeners, but none of them for {port}"
    return f"no pool listens on {service.address}"


def near(config: Config, question: Question) -> tuple[Near, ...]:
    """The listeners that differ least: rather in the protocol or port than in the address, and rather in one thing."""
    found = []
    for pool in config.pools:
        for listener in pool.listen:
            differences = _differences(listener, question)
            if len(differences) == 1 or "address" not in differences:
                distance = abs(listener.first_port - question.service.port)
                rank = ("address" in differences, len(differences), distance)
                found.append((rank, Near(listener, pool.name, " and ".join(differences))))
    found.sort(key=lambda one: one[0])
    return tuple(one for _, one in found[:_MOST_NEAR])


def _differences(listener: Listener, question: Question) -> list[str]:
    differences = []
    if listener.address != question.service.address:
        differences.append("address")
    if not listener.first_port <= question.service.port <= listener.last_port:
        differences.append("port")
    if listener.protocol is not question.protocol:
        differences.append("protocol")
    return differences
