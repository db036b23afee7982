"""The probes that carry out health checks: one module for each kind. A failed backend never raises an exception."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from .probe import Failed, Probe, Subject, Success, run_probe

if TYPE_CHECKING:
    from nftlb.model import AnyCheck

__all__ = ["Failed", "Probe", "Subject", "Success", "probe_for", "run_probe"]

# The modules are imported when first needed: their libraries take longer to import than the rest of nftlb.
_MAKERS = {
    "dns": "dns_probe",
    "udp": "UdpProbe",
    "icmp": "IcmpProbe",
    "tcp": "TcpProbe",
    "http": "HttpProbe",
    "radius": "RadiusProbe",
    "sip": "sip_probe",
    "ntp": "NtpProbe",
    "snmp": "SnmpProbe",
    "exec": "ExecProbe",
    "agent": "AgentProbe",
}


def probe_for(check: AnyCheck) -> Probe:
    """Make the probe of a check. One probe serves all backends, also at the same time."""
    probe: Probe = getattr(import_module(f".{check.kind}", __name__), _MAKERS[check.kind])(check)
    return probe
