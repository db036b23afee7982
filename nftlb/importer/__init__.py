"""Translates configurations of keepalived, ldirectord and LVS (as ipvsadm prints it) to nftlb's YAML. No I/O.

The modules keepalived*, ldirectord* and ipvsadm* read the text of their software into drafts (draft.py). Then
fit_to_pool_rules.py makes a pool of each draft, and write.py writes the YAML. A setting without a counterpart is never
dropped in silence: it becomes a remark with its line, and a comment at its place in the YAML.
"""

from .draft import Imported, Remark
from .ipvsadm import from_ipvsadm
from .keepalived import from_keepalived
from .ldirectord import from_ldirectord

__all__ = ["Imported", "Remark", "from_ipvsadm", "from_keepalived", "from_ldirectord"]
