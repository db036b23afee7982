"""A table of our name that another program made is never changed; our own tables are recognised."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from daemon_process import NFTLB

from nftlb.compiler import Compiled
from nftlb.compiler.routes import TUNNEL_PREFIX
from nftlb.config import parse_config
from nftlb.config.rules import PREFIXES, TABLES
from nftlb.errors import ConfigError, KernelError
from nftlb.kernel import LibNftables
from nftlb.lab import Namespace, userns
from nftlb.model import Config
from nftlb.ruleset import MARK, Chain, Ruleset, Set, Table, TableFamily, is_ours
from nftlb.swap import Swapper

if TYPE_CHECKING:
    from collections.abc import Iterator

RULES = Path(__file__).parents[2] / "rules"
FILE = """
pools:
  dns:
    listen: [{listen}]
    backends: {{ns1: {backend}}}
"""
FOUR = FILE.format(listen="192.0.2.53:53/udp", backend="10.0.0.11:53")
SIX = FILE.format(listen="'[2001:db8::53]:53/udp'", backend="'[fd00::11]:53'")
THEIRS = {
    # The other program of our name, for one, has tables of our default name with such chains.
    "prerouting": "chain prerouting { type nat hook prerouting priority 0; ip daddr 192.0.2.1 accept; }",
    "services": "map services { type ipv4_addr . inet_service : verdict; }\n chain filter { counter; }",
    "a set": "set backends { type ipv4_addr; elements = { 10.0.0.1 }; }",
    "a quota": "quota most { 1 mbytes\n }",
}


def command(host: Namespace, *words: str, text: str = "") -> tuple[int, str, str]:
    """Run a command of nftlb; return its status, output and errors."""
    argv = [str(NFTLB), *words]
    done = host.call(lambda: subprocess.run(argv, input=text, check=False, capture_output=True, text=True, timeout=60))
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def host() -> Iterator[Namespace]:
    userns.ensure()
    with Namespace("owner") as namespace:
        namespace.run(["ip", "link", "add", "eth0", "type", "veth", "peer", "name", "eth1"])
        yield namespace


IP = TableFamily.IP


def nft(host: Namespace, text: str) -> str:
    return host.run(["nft", "-f", "-"], input=text)


def listed(host: Namespace, family: str = "ip") -> str:
    return nft(host, f"list table {family} nftlb")


@pytest.mark.parametrize("theirs", THEIRS)
def test_a_foreign_table_is_refused_and_not_changed(theirs: str, host: Namespace) -> None:
    """Every command that writes, and `diff`, refuses another program's table before any change."""
    nft(host, f"table ip nftlb {{ {THEIRS[theirs]}\n }}")
    before = nft(host, "list ruleset")
    for word in ("apply", "diff"):
        status, out, error = command(host, word, "-", text=FOUR)
        assert (3, "") == (status, out)
        assert "table ip nftlb (" in error
        assert "was not made by nftlb, and stays as it is; needed: a name that no other program uses" in error
        assert before == nft(host, "list ruleset")
    status, out, error = command(host, "remove")
    assert (0, "table nftlb: nothing to remove\n") == (status, out)
    assert "warning: table ip nftlb (" in error
    assert before == nft(host, "list ruleset")


@pytest.mark.parametrize("family", ["ip6", "netdev"])
def test_a_table_of_a_family_that_is_not_needed_is_left(family: str, host: Namespace) -> None:
    """Our tables are loaded, changed and removed beside another program's table of a family that we do not need."""
    nft(host, f"table {family} nftlb {{\n chain theirs {{\n counter\n }}\n }}\n")
    before = listed(host, family)
    assert (0, "") == command(host, "apply", "-", text=FOUR)[::2]
    assert (0, "", "") == command(host, "diff", "-", text=FOUR)
    assert 0 == command(host, "remove")[0]
    assert before == listed(host, family)
    assert "table ip nftlb" not in nft(host, "list tables")


def test_an_empty_table_is_filled_but_not_deleted(host: Namespace) -> None:
    """An empty table is filled if it is needed. Otherwise it stays, because another program may be about to fill it."""
    nft(host, "add table ip nftlb; add table ip6 nftlb")
    assert 0 == command(host, "apply", "-", text=FOUR)[0]
    assert "chain backend/dns/ns1" in listed(host)
    assert 0 == command(host, "remove")[0]
    assert ["table ip6 nftlb"] == nft(host, "list tables").splitlines()


@pytest.mark.parametrize("path", sorted(RULES.glob("*.nft")), ids=lambda path: path.name)
def test_tables_of_earlier_versions_are_recognised(path: Path, host: Namespace) -> None:
    """Each table of rules/ without its mark is ours, is marked by the next `apply`, and can be removed."""
    text = path.read_text().replace(f"\tchain {MARK.name} {{\n\t}}\n\n", "")
    assert MARK.name not in text
    for name in sorted(set(re.findall(f'"({TUNNEL_PREFIX}[0-9a-f]+)"', text))):
        host.run(["ip", "link", "add", name, "type", "bridge"])
    host.run(["nft", "-f", "-"], input=text)

    def inside() -> Ruleset:
        with LibNftables() as kernel:
            swapper = Swapper(kernel, "nftlb", lambda: None)
            present = swapper.present()
            assert {} == swapper.foreign_tables
            return present

    present = host.call(inside)
    assert len(nft(host, "list tables").splitlines()) == len(present.tables) > 0


def test_an_upgrade_marks_the_tables(host: Namespace) -> None:
    """One transaction adds the mark and changes nothing else, also after another program has deleted the mark."""
    assert 0 == command(host, "apply", "-", text=FOUR)[0]
    whole = listed(host)
    nft(host, f"delete chain ip nftlb {MARK.name}")
    assert (1, f"@@ table ip nftlb: chain {MARK.name} @@") == _first(command(host, "diff", "-", text=FOUR))
    assert "1 transaction\n" in command(host, "apply", "-", text=FOUR)[1]
    assert sorted(whole.splitlines()) == sorted(listed(host).splitlines())
    nft(host, f"delete chain ip nftlb {MARK.name}")
    assert 0 == command(host, "remove")[0]
    assert "" == nft(host, "list tables")


def _first(result: tuple[int, str, str]) -> tuple[int, str]:
    return result[0], result[1].splitlines()[2]


def test_the_output_of_compile_is_recognised(host: Namespace) -> None:
    """The output of `nftlb compile`, loaded by `nft -f`, is recognised as our table without a difference."""
    _, text, _ = command(host, "compile", "-", text=SIX)
    host.run(["nft", "-f", "-"], input=text)
    assert (0, "", "") == command(host, "diff", "-", text=SIX)


def test_a_table_that_another_program_just_made_is_not_filled(host: Namespace) -> None:
    """If another program makes the table just before our transaction, the kernel refuses the whole transaction."""
    target = Compiled(parse_config(FOUR, "f")).ruleset()

    def inside() -> None:
        with LibNftables() as kernel:
            swapper = Swapper(kernel, "nftlb", lambda: None, vouches=lambda _since, _now: True)
            swapper.present()
            nft(host, f"table ip nftlb {{ {THEIRS['prerouting']}\n }}")
            before = listed(host)
            for said in ("File exists", r"table ip nftlb \(chain prerouting\) was not made by nftlb"):
                with pytest.raises(KernelError, match=said):
                    swapper.swap(target)
                assert before == listed(host)

    host.call(inside)


@pytest.mark.parametrize(
    ("table", "ours"),
    [
        (Table(IP, "t"), True),
        (Table(IP, "t", {}, {MARK.name: MARK}), True),
        (Table(IP, "t", {}, {"pool/dns": Chain("pool/dns")}), False),
        (Table(IP, "t", {"services": Set("services", "")}, {"pool": Chain("pool")}), False),
        (Table(IP, "t", {"service-ips": Set("service-ips", "")}, {"service-ABC-default/web": Chain("")}), False),
        (Table(IP, "t", {"services": Set("services", "")}, {"pool/dns": Chain("pool/dns")}), True),
    ],
)
def test_which_tables_are_recognised(table: Table, ours: bool) -> None:
    """A table is ours by the mark, or by our chains and sets together. Tables of Kubernetes are not ours."""
    assert ours == is_ours(table)


@pytest.mark.parametrize("name", [*TABLES, *(f"{prefix}wg0" for prefix in PREFIXES)])
def test_names_of_well_known_programs_are_refused(name: str) -> None:
    """`check` names the program that uses the name of the table."""
    with pytest.raises(
        ConfigError, match=rf"table: {name} is a table of \w.*; allowed: a name that no other program uses"
    ):
        parse_config(f"table: {name}\n{FOUR}", "f")


def test_similar_names_are_accepted() -> None:
    """Our own names and names that are only similar are accepted."""
    for name in (Config().table, "filters", "my-filter", "wg-quick", "nat64"):
        assert name == parse_config(f"table: {name}\n{FOUR}", "f").table
