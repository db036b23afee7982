"""Writes the .nft beside every rules/*.yaml: `make golden`. `tests/test_golden.py` compares with what this yields."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.compiler import Compiled, Membership
from nftlb.config import load
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = Path(__file__).parents[1] / "rules"

# Where membership matters, the backend that is shown down as well.
DOWN = {
    "dns": ["ns1"],
    "dsr": ["ns2"],
    "game": ["eu1"],
    "netflow": ["flow2"],
    "sorry": ["ns1"],
    "stateless-ingress": ["ns1"],
    "weighted": ["medium"],
}


def expected() -> Iterator[tuple[Path, str]]:
    """Each file that there should be, with its text."""
    for path in sorted(RULES.glob("*.yaml")):
        config = load(str(path))
        compiled = Compiled(config)
        yield path.with_suffix(".nft"), file_text(compiled.ruleset())
        for backend in DOWN.get(path.stem, []):
            down = [(pool.name, backend) for pool in config.pools if pool.backend(backend)]
            text = file_text(compiled.ruleset(Membership.with_down(down)))
            yield path.with_suffix(f".down-{backend}.nft"), text


def main() -> None:
    """Write them, and take away what no file stands for any more."""
    files = dict(expected())
    for path in RULES.glob("*.nft"):
        if path not in files:
            path.unlink()
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
