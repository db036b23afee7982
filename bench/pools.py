"""Configurations of a given size, for measuring."""

from __future__ import annotations


def text(pools: int, backends: int, listeners: int = 1) -> str:
    """A configuration with `pools` pools, each with `backends` backends and `listeners` UDP listeners."""
    lines = ["pools:"]
    for pool in range(pools):
        listen = ", ".join(f"192.0.{pool // 250}.{pool % 250 + 1}:{53 + number}/udp" for number in range(listeners))
        lines += [f"  pool{pool}:", f"    listen: [{listen}]", "    backends:"]
        lines += [f"      b{n}: 10.{pool // 250}.{pool % 250}.{n + 1}:5353" for n in range(backends)]
    return "\n".join(lines) + "\n"


def odd_text(pools: int, backends: int) -> str:
    """A configuration like that of `text`, with weights from 1 to 100 that have no common divisor."""
    lines = ["pools:"]
    for pool in range(pools):
        lines += [f"  pool{pool}:", f"    listen: 192.0.{pool // 250}.{pool % 250 + 1}:53/udp", "    backends:"]
        lines += [
            f"      b{n}: {{address: 10.{pool // 250}.{pool % 250}.{n + 1}, port: 5353, weight: {1 + n * 37 % 100}}}"
            for n in range(backends)
        ]
    return "\n".join(lines) + "\n"
