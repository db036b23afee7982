"""Names of the nftables tables of well-known programs. No I/O."""

from __future__ import annotations

_IPTABLES = "iptables, ip6tables, arptables and ebtables"
TABLES = {
    **dict.fromkeys(("filter", "nat", "mangle", "raw", "security", "broute"), _IPTABLES),
    **dict.fromkeys(("firewalld", "firewalld_policy_drop"), "firewalld"),
    **dict.fromkeys(("crowdsec", "crowdsec6"), "crowdsec"),
    **dict.fromkeys(("keepalived", "keepalived_ipvs"), "keepalived"),
    "docker-bridges": "Docker",
    "f2b-table": "fail2ban",
    "fw4": "OpenWrt's firewall",
    "kube-proxy": "Kubernetes",
    "libvirt_network": "libvirt",
    "miniupnpd": "miniupnpd",
    "netavark": "Podman",
    "nixos-fw": "NixOS's firewall",
    "sshguard": "sshguard",
}
"""Names of nftables tables, and the programs that make those; of any family, as people go by the name."""
PREFIXES = {"nm-shared-": "NetworkManager", "wg-quick-": "wg-quick"}


def program_of(table: str) -> str:
    """Who makes a table of that name; empty if nobody that we know."""
    named = (who for prefix, who in PREFIXES.items() if table.startswith(prefix))
    return TABLES.get(table) or next(named, "")
