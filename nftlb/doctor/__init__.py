"""What on this host would keep a configuration from working, and the mend."""

from .examination import examine
from .finding import Finding, Severity

__all__ = ["Finding", "Severity", "examine"]
