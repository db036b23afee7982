"""Draws bar charts: reads JSON from the standard input, writes SVG files. Needs matplotlib (requirements/bench.txt)."""

from __future__ import annotations

import json
import sys
from statistics import median
from typing import Any

import matplotlib as mpl
from matplotlib.figure import Figure

# The same data gives the same bytes.
mpl.rcParams["svg.hashsalt"] = "nftlb"
mpl.rcParams["svg.fonttype"] = "none"
OURS = ("nat", "stateless", "dsr")


def main() -> None:
    for plot in json.load(sys.stdin):
        draw(plot)


def draw(plot: dict[str, Any]) -> None:
    """Draw the medians as bars, and the lowest and highest values as lines."""
    bars = plot["bars"]
    names = [bar["name"] for bar in bars]
    middle = [median(bar["values"]) for bar in bars]
    lower = [at - min(bar["values"]) for at, bar in zip(middle, bars, strict=True)]
    upper = [max(bar["values"]) - at for at, bar in zip(middle, bars, strict=True)]
    figure = Figure(figsize=(8, 0.6 + 0.32 * len(bars)), layout="constrained")
    axes = figure.add_subplot()
    colours = ["tab:blue" if name.startswith(OURS) else "tab:gray" for name in names]
    axes.barh(names, middle, xerr=[lower, upper], color=colours, ecolor="black", capsize=2)
    axes.axvline(1, color="black", linewidth=0.8, linestyle=":")
    axes.invert_yaxis()
    axes.set_xlabel("cost beyond plain routing; a request through ipvs --ops = 1")
    axes.set_title(plot["title"])
    figure.savefig(plot["file"], metadata={"Date": None})


if __name__ == "__main__":
    main()
