"""`nftlb demo`: a lab in namespaces, one client socket, and a report of what was counted there."""

from .show import run

__all__ = ["run"]
