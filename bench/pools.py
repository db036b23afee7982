"""Configurations of a given size, for measuring."""

from __future__ import annotations


def text(pools: int, backends: int) -> str:
    """The file of so many pools with so many backends each."""
    lines = ["pools:"]
    for pool in range(pools):
        lines += [f"  pool{pool}:", f"    listen: 192.0.{pool // 250}.{pool % 250 + 1}:53/udp", "    backends:"]
        lines += [f"      b{n}: 10.{pool // 250}.{pool % 250}.{n + 1}:5353" for n in range(backends)]
    return "\n".join(lines) + "\n"
