"""The files in rules/ are the output of the compiler, and the kernel accepts each of them."""

from __future__ import annotations

import importlib.util
import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from nft_listing import parse_table

from nftlb.compiler import Compiled
from nftlb.compiler.routes import TUNNEL_PREFIX
from nftlb.config import parse_config
from nftlb.kernel import LibNftables
from nftlb.lab import Namespace, userns
from nftlb.ruleset import Ruleset, file_text
from nftlb.swap.difference import difference
from nftlb.swap.plan import leftovers, make

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[2]
RULES = ROOT / "rules"
_spec = importlib.util.spec_from_file_location("golden", ROOT / "tools" / "golden.py")
assert _spec
assert _spec.loader
golden = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(golden)

FILES: dict[Path, str] = dict(golden.expected())
LINKS = ("eth0", "eth1")  # what the gallery's files name
TUNNELS = sorted({name for text in FILES.values() for name in re.findall(f'"({TUNNEL_PREFIX}[0-9a-f]+)"', text)})


@pytest.fixture
def host() -> Iterator[Namespace]:
    """A host with the interfaces that the files name."""
    userns.ensure()
    with Namespace("golden") as namespace:
        namespace.run(["ip", "link", "add", LINKS[0], "type", "veth", "peer", "name", LINKS[1]])
        for name in TUNNELS:
            namespace.run(["ip", "link", "add", name, "type", "bridge"])
        yield namespace


def test_each_file_has_its_counterpart() -> None:
    """Each .nft file has a .yaml file, and the table of the README has each .yaml file."""
    assert sorted(FILES) == sorted(RULES.glob("*.nft"))
    table = (RULES / "README.md").read_text()
    assert [] == [path.name for path in RULES.glob("*.yaml") if f"({path.name})" not in table]


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: path.name)
def test_the_file_is_the_output_of_the_compiler(path: Path) -> None:
    """The file is, byte for byte, the compiler's output (`make golden` writes the files again)."""
    assert FILES[path] == path.read_text()


@pytest.mark.parametrize("path", sorted(FILES), ids=lambda path: path.name)
def test_the_kernel_loads_each_example(host: Namespace, path: Path) -> None:
    """`nft -c -f` accepts the file, `nft -f` loads it twice over, and the kernel then has just what the file says."""
    for options in (["-c"], [], []):
        host.run(["nft", *options, "-f", str(path)])
    assert path.stem.split(".")[0] in {example.stem for example in RULES.glob("*.yaml")}
    present = host.call(in_the_kernel)

    wanted = as_written(FILES[path])
    assert [] == list(difference(present, wanted))
    assert not make(present, wanted)
    assert [] == list(leftovers(present, wanted))


def in_the_kernel() -> Ruleset:
    """Return our tables in the kernel, in the network namespace of this thread."""
    with LibNftables() as kernel:
        return Ruleset("nftlb", {family: listing.table for family, listing in kernel.list("nftlb").items()})


def as_written(text: str) -> Ruleset:
    """The tables in the text of a file."""
    blocks = re.findall(r"^table \S+ \S+ \{$.*?^\}$", text, flags=re.DOTALL | re.MULTILINE)
    tables = [parse_table(block).table for block in blocks]
    return Ruleset("nftlb", {table.family: table for table in tables})


def test_a_source_address_for_one_family_only(host: Namespace) -> None:
    """A pool that listens in two families, but has backends and a source address of one, is loaded like any other."""
    listen = "['192.0.2.53:53/tcp', '[2001:db8::53]:53/tcp']"
    config = parse_config(f"pools: {{a: {{listen: {listen}, source: 10.0.0.1, backends: {{b: '10.0.0.2:53'}}}}}}")
    loaded = host.call(load_into_kernel, file_text(Compiled(config).ruleset()))
    assert 1 == loaded.count("snat to ct direction . ct original zone map @sources")


def load_into_kernel(text: str) -> str:
    """Load nft text in the namespace of the caller; return what is there then."""
    subprocess.run(["nft", "-f", "-"], input=text, text=True, check=True)
    return subprocess.run(["nft", "list", "ruleset"], capture_output=True, text=True, check=True).stdout
