"""Rules of the old iptables, which nftables can't show. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from .finding import Finding, warning

if TYPE_CHECKING:
    from collections.abc import Iterator

    from .host import Host

_PROGRAMS = {"ip": "iptables-legacy-save", "ip6": "ip6tables-legacy-save"}


def judge(host: Host) -> Iterator[Finding]:
    """One finding a family: what the tables hold can't be read from here."""
    for family, program in _PROGRAMS.items():
        tables = [name.split()[1] for name in host.legacy if name.startswith(f"{family} ")]
        if tables:
            yield warning(
                f"{family}tables (legacy)",
                f"has tables: {', '.join(tables)}; they see the same packets, and a DNAT, NOTRACK or DROP there is "
                "not visible to nft",
                program,
            )
