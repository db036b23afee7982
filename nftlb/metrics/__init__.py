"""What Prometheus is told: figures that are counted as things happen, and those that a status holds."""

from .metrics import Metrics

__all__ = ["Metrics"]
