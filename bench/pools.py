"""Configurations of a given size, for measuring."""

from __future__ import annotations


def text(pools: int, backends: int, listeners: int = 1) -> str:
    """The file of so many pools with so many backends and UDP listeners each."""
    lines = ["pools:"]
    for pool in range(pools):
        listen = ", ".join(f"192.0.{pool // 250}.{pool % 250 + 1}:{53 + number}/udp" for number in range(listeners))
        lines += [f"  pool{pool}:", f"    listen: [{listen}]", "    backends:"]
        lines += [f"      b{n}: 10.{pool // 250}.{pool % 250}.{n + 1}:5353" for n in range(backends)]
    return "\n".join(lines) + "\n"
