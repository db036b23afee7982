"""Health checks carried out: one file a kind. They never raise for a sick backend."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .probe import Answer, Failed, Probe, run
from .subject import Subject

if TYPE_CHECKING:
    from nftlb.model import AnyCheck

__all__ = ["Answer", "Failed", "Probe", "Subject", "probe_for", "run"]

# Imported when first needed: aiohttp alone takes longer than all the rest of nftlb.
_MAKERS = {
    "dns": "probe_of",
    "udp": "UdpProbe",
    "icmp": "IcmpProbe",
    "tcp": "TcpProbe",
    "http": "HttpProbe",
    "radius": "RadiusProbe",
    "sip": "probe_of",
    "ntp": "NtpProbe",
    "snmp": "SnmpProbe",
    "exec": "ExecProbe",
    "agent": "AgentProbe",
}


def probe_for(check: AnyCheck) -> Probe:
    """Make the probe of a check; it serves all backends, at the same time."""
    probe: Probe = getattr(import_module(f".{check.kind}", __name__), _MAKERS[check.kind])(check)
    return probe
