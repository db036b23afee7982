"""`make golden`: writes the .nft files for each rules/*.yaml, which tests/compiler/test_golden.py compares."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path
from typing import TYPE_CHECKING

from nftlb.compiler import Compiled
from nftlb.config import load, resolve
from nftlb.model import FoundServer, HostLookup, Membership
from nftlb.ruleset import file_text

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = Path(__file__).parents[1] / "rules"

HOST = {"eth0": (ip_address("192.0.2.53"), ip_address("192.0.2.54"), ip_address("2001:db8::53"))}
"""The addresses of the host for which the files are compiled."""

# For these files there is a second .nft with this backend or collector down.
DOWN = {
    "dns": ["ns1"],
    "dsr": ["ns2"],
    "game": ["eu1"],
    "mirror": ["archive"],
    "netflow": ["flow2"],
    "priority": ["here1"],
    "quic": ["www3"],
    "sorry": ["ns1"],
    "stateless-ingress": ["ns1"],
    "weighted": ["medium"],
}


# The answers of DNS for rules/names.yaml.
ANSWERS = {
    HostLookup("ns.example.com"): tuple(
        FoundServer(ip_address(address)) for address in ("10.0.0.11", "10.0.0.12", "2001:db8:2::11")
    ),
    HostLookup("_sip._udp.example.com", srv=True): (
        FoundServer(ip_address("10.0.0.21"), 5060, 20, 0),
        FoundServer(ip_address("10.0.0.22"), 5060, 10, 0),
        FoundServer(ip_address("10.0.9.21"), 5060, 0, 1),
    ),
}


def expected() -> Iterator[tuple[Path, str]]:
    """Yield the path of each .nft file, with its text."""
    for path in sorted(RULES.glob("*.yaml")):
        config = resolve(load(str(path)), ANSWERS, HOST).config
        compiled = Compiled(config)
        yield path.with_suffix(".nft"), file_text(compiled.ruleset())
        for backend in DOWN.get(path.stem, []):
            down = [
                (pool.name, backend)
                for pool in config.pools
                if backend in {one.name for one in pool.backends} | {one.name for one in pool.mirror}
            ]
            text = file_text(compiled.ruleset(Membership.with_down(down)))
            yield path.with_suffix(f".down-{backend}.nft"), text


def main() -> None:
    """Write all .nft files, and delete those without a rules/*.yaml."""
    files = dict(expected())
    for path in RULES.glob("*.nft"):
        if path not in files:
            path.unlink()
    for path, text in files.items():
        path.write_text(text)


if __name__ == "__main__":
    main()
