"""Other load balancers' configurations as ours: text to YAML text, and remarks on all that is not the same. No I/O.

What has no counterpart is named, never dropped in silence: at its place in the YAML, and as a remark with its line.
"""

from .imported import Imported
from .ipvsadm import from_ipvsadm
from .keepalived import from_keepalived
from .ldirectord import from_ldirectord
from .remark import Remark

__all__ = ["Imported", "Remark", "from_ipvsadm", "from_keepalived", "from_ldirectord"]
