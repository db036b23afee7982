"""Finds what on this host would keep nftlb, or a configuration, from working, and says how to fix it."""

from __future__ import annotations

from itertools import chain
from typing import TYPE_CHECKING

from nftlb.compiler import Compiled, Routes
from nftlb.compiler.cautions import cautions
from nftlb.compiler.reply_form import unknown_host
from nftlb.errors import KernelError
from nftlb.kernel.policy_routing import find_hops
from nftlb.kernel.reply_paths import find_obstacles
from nftlb.requirements import tunnel_kinds
from nftlb.ruleset import file_text

from .addresses import (
    addresses_to_look_up,
    check_backends,
    check_collectors,
    check_dsr_addresses,
    check_icmp_error_limit,
    check_ipvs,
    check_listener_addresses,
    check_own_ports,
    check_source_addresses,
)
from .features import WHOLE_RULESET, check_nft, feature_texts
from .finding import Finding, Severity, warning
from .fixes import Fixes, fixes_of
from .forwarding import (
    check_conntrack,
    check_forwarding,
    check_hidden_settings,
    check_interfaces,
    check_marks,
    check_replies,
    check_zones,
)
from .host import HostFacts, read_host
from .other_tables import check_legacy_tables, check_other_tables
from .tunnels import check_tunnels

if TYPE_CHECKING:
    from collections.abc import Iterator

    from nftlb.compiler.reply_form import Obstacles
    from nftlb.model import Config

__all__ = ["Finding", "Fixes", "Severity", "examine", "fixes_of"]

_OWN_TABLE = "nftlb"


def examine(config: Config | None) -> list[Finding]:
    """Examine this host, in the network namespace of this thread. Without a configuration, check only what all need.

    Changes nothing, except that the kernel may load modules. Raises KernelError if the routing tables can't be read,
    or if the configuration needs more zones or marks than exist.
    """
    texts = feature_texts(config)
    if config is None:
        host = read_host(texts, _OWN_TABLE, ())
        return [*check_nft(host.nft), *check_forwarding(None, host), *check_legacy_tables(host)]
    destinations = list(addresses_to_look_up(config))
    compiled = Compiled(config, routes=Routes(find_hops(destinations)), obstacles=_obstacles(config))
    whole = {**texts, WHOLE_RULESET: file_text(compiled.ruleset())}
    host = read_host(whole, config.table, destinations, tunnel_kinds(config))
    return [*check_nft(host.nft), *check_all(config, compiled, host)]


def _obstacles(config: Config) -> Obstacles:
    """What keeps replies from being rewritten in prerouting. A host that can't be asked is a finding, not an error."""
    try:
        return find_obstacles(config)
    except KernelError as problem:
        return unknown_host(config, str(problem))


def check_all(config: Config, compiled: Compiled, host: HostFacts) -> Iterator[Finding]:
    """Run all checks of a configuration on the facts about a host, except those of nftables itself. Pure."""
    own_zones, own_marks = set(compiled.allocation.zones.values()), set(compiled.allocation.marks.values())
    return chain(
        check_forwarding(config, host),
        check_hidden_settings(config, host),
        check_listener_addresses(config, host),
        check_ipvs(config, host),
        check_source_addresses(config, host),
        check_backends(config, host),
        check_collectors(config, host),
        check_interfaces(config, host),
        check_tunnels(config, host),
        check_conntrack(config, host),
        check_zones(own_zones, host),
        check_marks(own_marks, host),
        check_icmp_error_limit(config),
        check_replies(compiled.obstacles),
        (warning(f"pool {caution.pool}", caution.message, caution.fix) for caution in cautions(config)),
        check_own_ports(config, host),
        check_dsr_addresses(config, host),
        check_other_tables(host.nft, config),
        check_legacy_tables(host),
    )
