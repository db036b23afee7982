"""What Prometheus is told: figures that are counted as things happen, and those that a status holds."""

from .metrics import CONTENT_TYPE, Metrics

__all__ = ["CONTENT_TYPE", "Metrics"]
