"""The configuration file, whole: bad and good files, the places of faults, rules across pools, and the cost."""

from __future__ import annotations

import random
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from config_texts import SMALLEST, faults, pool
from hypothesis import given
from hypothesis import strategies as st
from processor_time import takes_less

from nftlb.config import load, parse_config
from nftlb.config.rules import Ranges
from nftlb.errors import ConfigError
from nftlb.model import Balance

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))
GOOD = sorted((Path(__file__).parent / "good").glob("*.yaml"))


# --- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_bad_files_give_their_messages(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bad file gives exactly the messages in the file beside it."""
    monkeypatch.chdir(file.parent)

    with pytest.raises(ConfigError) as caught:
        load(file.name)

    assert file.with_suffix(".expected").read_text().splitlines() == str(caught.value).splitlines()


def test_bad_files_and_expectations_come_in_pairs() -> None:
    """Every .expected file has its .yaml file, and there are at least 50 pairs."""
    expected = sorted((Path(__file__).parent / "bad").glob("*.expected"))

    assert [file.stem for file in BAD] == [file.stem for file in expected]
    assert len(BAD) >= 50


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_messages_say_what_is_allowed(file: Path) -> None:
    """A message is one printable line in words of nftlb, and says what is allowed."""
    for line in file.with_suffix(".expected").read_text().splitlines():
        assert line.isprintable()
        assert not any(word in line for word in ("Input should", "Value error", "validator", "pydantic", "Written"))
        assert "allowed: " in line or "needed: " in line or "not YAML: " in line


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_both_yaml_parsers_agree(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libyaml the faults are the same; only messages about invalid YAML differ."""
    with_libyaml = faults(file.read_bytes())
    monkeypatch.delattr(yaml, "CSafeLoader")
    without = faults(file.read_bytes())

    if "not YAML" not in with_libyaml[-1]:
        assert with_libyaml == without


# --- good files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_good_files_are_good(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each good file loads, with the same result from both YAML parsers."""
    config = load(file)
    monkeypatch.delattr(yaml, "CSafeLoader")

    assert config == load(file)


def test_the_order_of_the_file_is_kept() -> None:
    """Pools and backends come in the order of the file."""
    names = [f"p{number}" for number in (3, 1, 2)]
    config = parse_config(
        yaml.safe_dump(
            {
                "pools": {
                    name: {
                        "listen": f"192.0.2.{at}:53/udp",
                        "backends": {f"b{9 - i}": f"10.0.0.{i + 1}" for i in range(5)},
                    }
                    for at, name in enumerate(names, start=1)
                }
            },
            sort_keys=False,
        )
    )

    assert names == [pool.name for pool in config.pools]
    assert ["b9", "b8", "b7", "b6", "b5"] == [backend.name for backend in config.pools[0].backends]


def test_marks_in_hexadecimal() -> None:
    """A firewall mark may be written as `ip rule` shows it."""
    config = parse_config(
        "marks: {first: 0xEA62}\n"
        "pools: {dns: {listen: 192.0.2.53:53/udp, health: {dns: , mark: 0xffffffff}, backends: {a: 10.0.0.1:53}}}"
    )

    assert (60002, 4294967295) == (config.marks.first, config.pools[0].health[0].mark)


def test_yaml_surprises_stay_text() -> None:
    """Text that YAML 1.1 reads as octal, sexagesimal or binary numbers stays the text that the user sees."""
    config = parse_config(
        "pools: {dns: {listen: '[2001:db8::1]:53/udp', backends: {a: 1:2:3:4:5:6:7:8, '010': 2001:db8::2}}}"
    )

    assert ["1:2:3:4:5:6:7:8", "2001:db8::2"] == [str(backend.address) for backend in config.pools[0].backends]
    assert ("/bin/notify", "010", "1.0", "12:30", "5") == pool(
        "hooks: {backend_up: [/bin/notify, 010, 1.0, 12:30, 5]}"
    ).hooks.backend_up


def test_anchors_and_merge_keys_work() -> None:
    """An alias has the value of its anchor, and a key of a mapping has precedence over a merged key."""
    config = parse_config(
        """
        pools:
          a: &a {listen: 192.0.2.1:53/udp, balance: hash, quorum: 1, backends: &servers {x: 10.0.0.1, y: 10.0.0.2}}
          b: {<<: *a, listen: 192.0.2.2:53/udp, quorum: 2}
          c: {<<: [{balance: random}, *a], listen: 192.0.2.3:53/udp, backends: *servers}
        """
    )

    assert [Balance.HASH, Balance.HASH, Balance.RANDOM] == [pool.balance for pool in config.pools]
    assert [1, 2, 1] == [pool.quorum for pool in config.pools]
    assert 1 == len({pool.backends for pool in config.pools})


def test_a_byte_order_mark_is_allowed() -> None:
    """A file with a byte order mark at its beginning is read."""
    assert parse_config(SMALLEST) == parse_config(b"\xef\xbb\xbf" + SMALLEST.encode())


# --- places ----------------------------------------------------------------------------------------------------------


def test_all_faults_are_reported_at_once() -> None:
    """Faults of the YAML, of single values and between pools are reported together, in the order of the file."""
    text = """\
table: 1
pools:
  a:
    listen: 192.0.2.1:53/udp
    backends: {x: 10.0.0.1, x: 10.0.0.2}
  b:
    listen: 192.0.2.1:53/udp
    quorum: many
    backends: {x: 10.0.0.1}
  c:
    listen: 192.0.2.2:53/udp
    quorum: 2
    backends: {x: 10.0.0.1}
"""
    overlap = "192.0.2.1:53/udp overlaps 192.0.2.1:53/udp"
    name = "a letter, then letters, digits and _ -, at most 32 characters"

    assert [
        f"1:8: table: 1 is not a name of a table; allowed: {name}",
        "5:29: pools.a.backends.x: the key occurs twice, first in line 5; allowed: once",
        f"7:13: pools.b.listen: {overlap} of pools.a.listen in line 4; allowed: each address, port and protocol once",
        "8:13: pools.b.quorum: many is not a quorum; write a whole number; allowed: 1 to 65535",
        "12:13: pools.c.quorum: 2 is more than the number of backends; allowed: at most 1",
    ] == faults(text)


def test_a_fault_of_an_alias_has_the_place_of_its_text() -> None:
    """A fault in an aliased mapping has the place of the text to fix, and the path where the alias is used."""
    text = """\
pools:
  a: {listen: 192.0.2.1:53/udp, backends: &servers {x: 10.0.0.1:none}}
  b: {listen: 192.0.2.2:53/udp, backends: *servers}
"""

    reason = (
        "none is not a port; write the number of the port; names of services are not looked up; allowed: 1 to 65535"
    )
    assert [f"2:56: pools.{pool}.backends.x: {reason}" for pool in "ab"] == faults(text)


def test_columns_count_characters() -> None:
    """A column counts characters, not bytes."""
    assert ["1:15: \"ü\": unknown key 'ü'; allowed: api, defaults, marks, pools, state_dir, table, zones"] != faults(
        f"{{'ü': 1, 'ö': 2, {SMALLEST}}}"
    )
    assert ["1:2", "1:10"] == [fault[: fault.index(": ")] for fault in faults(f"{{'ü': 1, 'ö': 2, {SMALLEST}}}")]


# --- rules -----------------------------------------------------------------------------------------------------------


def test_stateless_pools_may_share_servers_with_distinct_replies() -> None:
    """Stateless pools may share servers if the port and protocol of a reply name one listener."""
    config = parse_config(
        """
        defaults: {forward: stateless, balance: hash}
        pools:
          a: {listen: 192.0.2.1:53/udp, backends: {x: 10.0.0.1:1001}, fallback: 10.0.0.1:1001}
          b: {listen: 192.0.2.2:53/udp, backends: {x: 10.0.0.1:1002}}
          c: {listen: 192.0.2.3:53/tcp, backends: {x: 10.0.0.1:1001}}
          d: {listen: 192.0.2.4:2000-2100/udp, backends: {x: 10.0.0.1}}
          e: {listen: 192.0.2.5:2101/udp, backends: {x: 10.0.0.1}}
          f: {listen: 192.0.2.6:53/udp, forward: nat, backends: {x: 10.0.0.1:1003}}
          g: {listen: 192.0.2.7:53/udp, forward: dsr, backends: {x: 10.0.0.1}}
        """
    )

    assert 7 == len(config.pools)


def test_a_stateless_server_keeps_its_listener_apart_from_each_listener() -> None:
    """Two listeners of a stateless pool are allowed if their replies have different ports."""
    text = "pools: {p: {listen: [192.0.2.1:53/udp, 192.0.2.2:54/udp], forward: stateless, backends: {x: 10.0.0.1PORT}}}"

    assert parse_config(text.replace("PORT", ""))
    assert "pools.p.listen[1]: replies have the same source" in faults(text.replace("PORT", ":53"))[0]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9))))
def test_ranges_find_every_overlap(drawn: list[tuple[int, int]]) -> None:
    """A range overlaps an added range exactly if a number is in both."""
    ranges: Ranges[range] = Ranges()
    added: list[range] = []
    for first, length in drawn:
        ports = range(first, first + length + 1)
        overlapping = [earlier for earlier in added if set(ports) & set(earlier)]
        found = ranges.overlapping(ports[0], ports[-1])

        assert (found in overlapping) if overlapping else (found is None)
        if not overlapping:
            ranges.add(ports[0], ports[-1], ports)
            added.append(ports)


def test_zones_and_marks_may_be_used_up() -> None:
    """The last zone may be used, and a configuration that needs more is refused."""
    text = "zones: {first: FIRST}\npools: {p: {listen: 192.0.2.1:53/udp, backends: {a: 10.0.0.1, b: 10.0.0.2}}}"

    assert parse_config(text.replace("FIRST", "65532"))
    needed = "4 conntrack zones from 65533 on are needed, and the last zone is 65535"
    assert [f"1:16: zones.first: {needed}; allowed: at most 65532"] == faults(text.replace("FIRST", "65533"))


# --- cost ------------------------------------------------------------------------------------------------------------


def test_a_thousand_pools_load_in_time() -> None:
    """A thousand pools of ten backends take well under two seconds and little memory."""
    text = yaml.safe_dump(
        {
            "pools": {
                f"pool-{p}": {
                    "listen": f"198.18.{p // 250}.{p % 250 + 1}:53/udp",
                    "health": {"dns": {"name": "example.com"}},
                    "backends": {f"ns{b}": f"10.{p // 250}.{p % 250}.{b + 1}:5353" for b in range(10)},
                }
                for p in range(1000)
            }
        }
    )

    assert 1000 == len(parse_config(text).pools)
    assert takes_less(2, lambda: parse_config(text))


def test_a_good_file_imports_no_module_for_errors_or_networks() -> None:
    """Loading a file does not import modules that only errors, schemas or networks need."""
    code = "import sys; from nftlb.config import parse_config; parse_config(sys.argv[1]); print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code, SMALLEST], capture_output=True, text=True, check=True)

    assert set() == {"asyncio", "difflib", "socketserver", "ssl", "nftables", "click"} & set(process.stdout.split())


def test_faults_do_not_depend_on_chance() -> None:
    """The same bad file gives the same faults, in the order of the file, in every process."""
    text = (Path(__file__).parent / "bad" / "everything-wrong.yaml").read_text()
    code = (
        "import sys\nfrom nftlb.config import parse_config\n"
        "try: parse_config(sys.argv[1])\nexcept Exception as error: print(error)"
    )
    outputs = {
        subprocess.run(
            [sys.executable, "-c", code, text],
            capture_output=True,
            text=True,
            check=True,
            env={"PYTHONHASHSEED": str(random.randrange(1000))},  # noqa: S311
        ).stdout
        for _ in range(3)
    }

    assert 1 == len(outputs)
