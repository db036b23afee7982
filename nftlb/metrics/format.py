"""The Prometheus text format, version 0.0.4. Pure."""

from __future__ import annotations


def head(name: str, type_: str, help_: str) -> str:
    """Write what stands before the samples of a name."""
    return f"# HELP {name} {help_}\n# TYPE {name} {type_}\n"


def escape(label: str) -> str:
    """Write the value of a label as the format wants it within quotes."""
    return label.replace("\\", r"\\").replace('"', r"\"").replace("\n", r"\n")
