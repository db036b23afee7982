"""The configuration file: from YAML text to the model, and every fault of it with its place."""

from __future__ import annotations

import io
import os
import random
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st
from unprivileged import unprivileged

from nftlb.config import load, parse
from nftlb.config.document import MAX_BYTES, MAX_DEPTH, MAX_PROBLEMS, MAX_WIDTH
from nftlb.config.ranges import Ranges
from nftlb.errors import ConfigError
from nftlb.lab import Namespace
from nftlb.model import Balance, Config, Dns, Icmp, Udp

BAD = sorted((Path(__file__).parent / "bad").glob("*.yaml"))
GOOD = sorted((Path(__file__).parent / "good").glob("*.yaml"))
SMALLEST = "pools: {dns: {listen: 192.0.2.53:53/udp, backends: {ns1: 10.0.0.11:53}}}"


def faults(text: str | bytes) -> list[str]:
    """What is wrong with a text, without the name of the file."""
    with pytest.raises(ConfigError) as caught:
        parse(text, "f")
    return [str(problem).removeprefix("f:") for problem in caught.value.problems]


def pool(text: str, *, before: str = "") -> Any:
    """Parse one pool, given by its settings besides a listener and a backend."""
    return parse(f"{before}\npools:\n  dns: {{listen: 192.0.2.53:53/udp, backends: {{a: 10.0.0.1:53}}, {text}}}").pools[
        0
    ]


# --- bad files -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_bad_files_are_told_apart(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each bad file gives exactly the messages that stand beside it."""
    monkeypatch.chdir(file.parent)

    with pytest.raises(ConfigError) as caught:
        load(file.name)

    assert file.with_suffix(".expected").read_text().splitlines() == str(caught.value).splitlines()


def test_bad_files_and_expectations_come_in_pairs() -> None:
    """No expectation is without its file, and there are plenty."""
    expected = sorted((Path(__file__).parent / "bad").glob("*.expected"))

    assert [file.stem for file in BAD] == [file.stem for file in expected]
    assert len(BAD) >= 50


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_messages_are_ours(file: Path) -> None:
    """A message is one harmless line in our words, and says what is allowed."""
    for line in file.with_suffix(".expected").read_text().splitlines():
        assert line.isprintable()
        assert not any(word in line for word in ("Input should", "Value error", "validator", "pydantic", "Written"))
        assert "allowed: " in line or "needed: " in line or "not YAML: " in line


@pytest.mark.parametrize("file", BAD, ids=lambda file: file.stem)
def test_both_yaml_parsers_agree(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without libyaml the same faults are found; only the words for what is no YAML differ."""
    with_libyaml = faults(file.read_bytes())
    monkeypatch.delattr(yaml, "CSafeLoader")
    without = faults(file.read_bytes())

    if "not YAML" not in with_libyaml[-1]:
        assert with_libyaml == without


# --- good files ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("file", GOOD, ids=lambda file: file.stem)
def test_good_files_are_good(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each good file loads, and alike with either YAML parser."""
    config = load(file)
    monkeypatch.delattr(yaml, "CSafeLoader")

    assert config == load(file)


def test_the_order_of_the_file_is_kept() -> None:
    """Pools and backends come in the order of the file."""
    names = [f"p{number}" for number in (3, 1, 2)]
    config = parse(
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
    config = parse(
        "marks: {first: 0xEA62}\n"
        "pools: {dns: {listen: 192.0.2.53:53/udp, health: {dns: , mark: 0xffffffff}, backends: {a: 10.0.0.1:53}}}"
    )

    assert (60002, 4294967295) == (config.marks.first, config.pools[0].health[0].mark)


def test_yaml_surprises_stay_text() -> None:
    """What YAML 1.1 takes for octal, sexagesimal or binary numbers is the text that the user sees."""
    config = parse("pools: {dns: {listen: '[2001:db8::1]:53/udp', backends: {a: 1:2:3:4:5:6:7:8, '010': 2001:db8::2}}}")

    assert ["1:2:3:4:5:6:7:8", "2001:db8::2"] == [str(backend.address) for backend in config.pools[0].backends]
    assert ("/bin/notify", "010", "1.0", "12:30", "5") == pool(
        "hooks: {backend_up: [/bin/notify, 010, 1.0, 12:30, 5]}"
    ).hooks.backend_up


def test_anchors_and_merge_keys_work() -> None:
    """Aliases stand for what they name, and what a mapping says itself wins over what it merges."""
    config = parse(
        """
        pools:
          a: &a {listen: 192.0.2.1:53/udp, balance: hash, quorum: 1, backends: &servers {x: 10.0.0.1, y: 10.0.0.2}}
          b: {<<: *a, listen: 192.0.2.2:53/udp, quorum: 2}
          c: {<<: [{balance: random}, *a], listen: 192.0.2.3:53/udp, backends: *servers}
        """
    )

    assert [Balance.HASH, Balance.HASH, Balance.RANDOM] == [one.balance for one in config.pools]
    assert [1, 2, 1] == [one.quorum for one in config.pools]
    assert 1 == len({one.backends for one in config.pools})


def test_a_byte_order_mark_is_no_fault() -> None:
    """A file that an editor began with a byte order mark is read."""
    assert parse(SMALLEST) == parse(b"\xef\xbb\xbf" + SMALLEST.encode())


# --- defaults --------------------------------------------------------------------------------------------------------


def test_defaults_are_merged_deeply() -> None:
    """A pool takes over what it does not say itself, within mappings too."""
    defaults = "defaults: {quorum: 1, health: {interval: 3s, rise: 5}, hooks: {backend_up: [/a], backend_down: [/b]}}"
    merged = pool("health: {icmp: , rise: 4}, hooks: {backend_up: [/c]}", before=defaults)

    assert (3000, 4) == (merged.health[0].interval, merged.health[0].rise)
    assert (("/c",), ("/b",)) == (merged.hooks.backend_up, merged.hooks.backend_down)


def test_defaults_with_timers_only_make_no_check() -> None:
    """Timers apply to the checks of a pool, and a pool without checks gets none."""
    before = "defaults: {health: {interval: 3s}}"

    assert () == pool("quorum: 1", before=before).health
    assert () == pool("health: []", before=before).health
    assert [3000, 1000] == [
        check.interval for check in pool("health: [{icmp: }, {tcp: , interval: 1s}]", before=before).health
    ]


def test_defaults_with_a_check_give_it_to_pools_without() -> None:
    """A check in the defaults is every pool's that names none, and nobody's that names its own kind."""
    before = "defaults: {health: {dns: {name: example.com, type: AAAA}, interval: 3s}}"

    assert [Dns(name="example.com", type="AAAA")] == [one.check for one in pool("quorum: 1", before=before).health]
    assert [Dns(name="example.com", type="AAAA")] == [
        one.check for one in pool("health: {rise: 1}", before=before).health
    ]
    assert [Dns(name="example.org", type="AAAA")] == [
        one.check for one in pool("health: {dns: {name: example.org}}", before=before).health
    ]
    assert [Icmp(), Udp()] == [one.check for one in pool("health: [{icmp: }, {udp: }]", before=before).health]
    assert () == pool("health: []", before=before).health


def test_defaults_that_a_way_to_forward_has_no_use_for_are_left_out() -> None:
    """A source in the defaults is no fault of a pool that keeps the client's address anyway."""
    config = parse(
        """
        defaults: {source: keep, passive: true, ingress: [eth0], health: {icmp: }}
        pools:
          nat: {listen: 192.0.2.1:53/udp, backends: {a: 10.0.0.1}}
          dsr: {listen: 192.0.2.2:53/udp, forward: dsr, backends: {a: 10.0.0.2}}
        """
    )

    assert [("keep", True, ()), ("masquerade", None, ("eth0",))] == [
        (one.source, one.passive, one.ingress) for one in config.pools
    ]


def test_a_fault_of_the_defaults_is_told_once() -> None:
    """However many pools use a bad default, it is one fault, at its place."""
    pools = "".join(f"  p{i}: {{listen: 192.0.2.{i}:53/udp, backends: {{a: 10.0.0.1}}}}\n" for i in range(1, 100))

    assert ["1:19: defaults.panic: 5 is not a share; allowed: 0% to 100%, in whole per cent"] == faults(
        f"defaults: {{panic: 5}}\npools:\n{pools}"
    )


def test_faults_of_unused_defaults_are_told() -> None:
    """A bad default is a fault even if every pool has its own value."""
    assert ["1:20: defaults.quorum: 0 is not a quorum; allowed: 1 to 65535"] == faults(
        "defaults: {quorum: 0}\npools: {dns: {listen: 192.0.2.53:53/udp, quorum: 1, backends: {a: 10.0.0.1}}}"
    )


# --- places ----------------------------------------------------------------------------------------------------------


def test_all_faults_are_told_at_once() -> None:
    """Faults of the YAML, of single values and across pools come together, in the order of the file."""
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

    assert [
        "1:8: table: 1 is not a name of a table; allowed: a letter, then letters, digits and _ -, at most 32 in all",
        "5:29: pools.a.backends.x: the key is there twice, first in line 5; allowed: once",
        f"7:13: pools.b.listen: {overlap} of pools.a.listen in line 4; allowed: each address, port and protocol once",
        "8:13: pools.b.quorum: many is not a quorum; allowed: 1 to 65535",
        "12:13: pools.c.quorum: 2 is more than the pool has backends; allowed: at most 1",
    ] == faults(text)


def test_a_fault_of_an_alias_is_told_where_its_text_stands() -> None:
    """Within an aliased mapping the place is that of the text to mend, and the path that of its use."""
    text = """\
pools:
  a: {listen: 192.0.2.1:53/udp, backends: &servers {x: 10.0.0.1:none}}
  b: {listen: 192.0.2.2:53/udp, backends: *servers}
"""

    assert [
        "2:56: pools.a.backends.x: none is not a port; allowed: 1 to 65535",
        "2:56: pools.b.backends.x: none is not a port; allowed: 1 to 65535",
    ] == faults(text)


def test_columns_count_characters() -> None:
    """A column counts characters, not bytes."""
    assert ["1:15: \"ü\": unknown key 'ü'; allowed: api, defaults, marks, pools, state_dir, table, zones"] != faults(
        f"{{'ü': 1, 'ö': 2, {SMALLEST}}}"
    )
    assert ["1:2", "1:10"] == [fault[: fault.index(": ")] for fault in faults(f"{{'ü': 1, 'ö': 2, {SMALLEST}}}")]


# --- rules -----------------------------------------------------------------------------------------------------------


def test_stateless_pools_may_share_what_replies_tell_apart() -> None:
    """Servers of stateless pools may be shared as long as port and protocol of a reply tell whose it is."""
    config = parse(
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
    """Two listeners of a stateless pool are fine if their backends keep the ports that tell them apart."""
    text = "pools: {p: {listen: [192.0.2.1:53/udp, 192.0.2.2:54/udp], forward: stateless, backends: {x: 10.0.0.1PORT}}}"

    assert parse(text.replace("PORT", ""))
    assert "pools.p.listen[1]: replies cannot be told" in faults(text.replace("PORT", ":53"))[0]


@given(st.lists(st.tuples(st.integers(1, 30), st.integers(0, 9))))
def test_ranges_find_every_overlap(drawn: list[tuple[int, int]]) -> None:
    """A range overlaps what was added exactly if some number is in both."""
    ranges: Ranges[range] = Ranges()
    added: list[range] = []
    for first, length in drawn:
        one = range(first, first + length + 1)
        overlapping = [other for other in added if set(one) & set(other)]
        found = ranges.overlapping(one[0], one[-1])

        assert (found in overlapping) if overlapping else (found is None)
        if not overlapping:
            ranges.add(one[0], one[-1], one)
            added.append(one)


def test_zones_and_marks_may_be_used_up() -> None:
    """The last zone and the last mark may be used, but none beyond."""
    text = "zones: {first: FIRST}\npools: {p: {listen: 192.0.2.1:53/udp, backends: {a: 10.0.0.1, b: 10.0.0.2}}}"

    assert parse(text.replace("FIRST", "65532"))
    assert ["1:16: zones.first: 4 conntrack zones are needed from 65533 on; allowed: up to 65535"] == faults(
        text.replace("FIRST", "65533")
    )


# --- what is no text -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["", "\n", "# nothing\n", "---\n", "null\n", "~", "{}", "--- {}\n...\n"])
def test_an_empty_file_lacks_pools(text: str) -> None:
    """A file without content has no pools; the fault is where the content should be."""
    (fault,) = faults(text)
    assert re.fullmatch(r"[1-9]:[1-9]: pools: no pools; needed: at least one, each by its name", fault)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"pools: \x00", "1:8: character U+0000 can't be in YAML text; allowed: printable text"),
        (b"pools:\n  \x1b[31m: 1", "2:3: character U+001B can't be in YAML text; allowed: printable text"),
        (b"\xff\xfep\x00", "1:1: byte 0xff is not UTF-8; allowed: YAML text in UTF-8"),
        ("pools:\n  größe: \udcff", "2:10: character U+DCFF can't be in YAML text; allowed: printable text"),
        ("pools:\n  größe: ".encode() + b"\xe4", "2:10: byte 0xe4 is not UTF-8; allowed: YAML text in UTF-8"),
    ],
)
def test_binary_junk_is_refused(text: str | bytes, fault: str) -> None:
    """What is not text is told with its place."""
    assert [fault] == faults(text)


def test_escaped_surrogates_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Half a character can't get in by an escape, whatever the YAML parser."""
    text = 'pools: {"\\ud800": 1}'
    assert "not YAML" in faults(text)[0]

    monkeypatch.delattr(yaml, "CSafeLoader")
    assert ['1:9: "\\ud800" is no text; allowed: Unicode without surrogates'] == faults(text)
    assert "not YAML" in faults('pools: {"\\U7fffffff": 1}')[0]


def test_files_that_are_too_large_are_not_parsed() -> None:
    """A file is measured before it is parsed."""
    before = time.process_time()

    assert ["1:1: larger than 16 MiB; allowed: less"] == faults("[" * (MAX_BYTES + 1))
    assert time.process_time() - before < 1


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[" * 1_000_000, f"nested too deeply; allowed: {MAX_DEPTH} levels"),
        ("- " * 1_000_000, f"nested too deeply; allowed: {MAX_DEPTH} levels"),
        ("{a: " * 1_000_000, f"nested too deeply; allowed: {MAX_DEPTH} levels"),
        ("? " * 1_000_000, "a mapping is not a key; allowed: text"),
        ("a: [" + "1," * 1_000_000 + "]", f"too many values in one place; allowed: {MAX_WIDTH}"),
        ("a: 1\n" * 1_000_000, "too many faults; what follows is not looked at"),
    ],
    ids=["lists", "dashes", "mappings", "keys", "wide", "repeated"],
)
def test_bombs_are_defused(text: str, message: str) -> None:
    """Depth, width and faults are bounded; nothing recurses."""
    before = time.process_time()

    assert message in faults(text)[-1]
    assert time.process_time() - before < 5


def test_faults_are_bounded() -> None:
    """Junk that looks like a file of faults only is given up in time."""
    found = faults("".join(f"k{number}: 1\n" for number in range(60_000)))

    assert MAX_PROBLEMS + 1 == len(found)
    assert " too many faults; not all are shown" == found[0]


# --- where a file comes from -----------------------------------------------------------------------------------------


def unloadable(path: object) -> str:
    with pytest.raises(ConfigError) as caught:
        load(str(path))
    return str(caught.value)


def test_a_file_is_loaded(tmp_path: Path) -> None:
    """A file gives what its text gives."""
    file = tmp_path / "pools.yaml"
    file.write_text(SMALLEST)

    assert parse(SMALLEST) == load(file)


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    """A path that can't be read is a fault of the file as a whole, and never hangs."""
    fifo = tmp_path / "fifo"
    os.mkfifo(fifo)
    allowed = "allowed: a readable file, or - for standard input"
    regular = "not a regular file; allowed: a file, or - for standard input"

    assert f"{tmp_path}/none: No such file or directory; {allowed}" == unloadable(tmp_path / "none")
    assert f"{fifo}/below: Not a directory; {allowed}" == unloadable(fifo / "below")
    assert f"{tmp_path}: {regular}" == unloadable(tmp_path)
    assert f"{fifo}: {regular}" == unloadable(fifo)
    assert f"/dev/zero: {regular}" == unloadable("/dev/zero")
    assert f"/proc/self/mem: Input/output error; {allowed}" == unloadable("/proc/self/mem")
    assert r"a\x00b: a NUL is in the name; allowed: the name of a file" == unloadable("a\0b")
    assert f": No such file or directory; {allowed}" == unloadable("")


def test_an_unreadable_file_is_refused(tmp_path: Path) -> None:
    """A file without permission says so."""
    file = tmp_path / "pools.yaml"
    file.write_text(SMALLEST)
    file.chmod(0)

    with Namespace("reader") as namespace:
        said = unprivileged(namespace, lambda: unloadable(file))

    assert f"{file}: Permission denied; allowed: a readable file, or - for standard input" == said


def test_a_huge_file_is_not_read_whole(tmp_path: Path) -> None:
    """Of a file that is too large, no more is read than shows it."""
    file = tmp_path / "huge.yaml"
    with file.open("wb") as sparse:
        sparse.truncate(50 << 30)

    assert f"{file}:1:1: larger than 16 MiB; allowed: less" == unloadable(file)


def test_standard_input_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """A dash stands for standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(SMALLEST.encode())))
    assert parse(SMALLEST) == load("-")

    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"a: 1\na: 2")))
    assert unloadable("-").startswith("standard input:1:1: pools: no pools; needed: ")


# --- whatever comes --------------------------------------------------------------------------------------------------

TOKENS = """pools dns listen backends health defaults { } [ ] , &a *a <<: ? | > !x " ' # ~ 0 on 2s 50%
192.0.2.53:53/udp 10.0.0.1:53"""
PIECES = st.sampled_from([*TOKENS.split(), ": ", "- ", "\n", "  ", "---\n"])


def only_config_errors(text: str | bytes) -> Config | None:
    try:
        return parse(text, "f")
    except ConfigError as error:
        for problem in error.problems:
            assert str(problem).isprintable(), problem
        return None


@given(st.text() | st.binary() | st.lists(PIECES).map("".join))
@settings(deadline=None)  # the first file of a process takes as long as it takes to load pydantic
@example("a: !!binary x")
@example("%TAG ! tag:x,2000:\n---\n!y z")
@example("? - a\n: b")
@example("<<: {pools: {<<: {a: {}}}}")
@example("a: &a {<<: *a}")
def test_any_text_parses_or_is_a_config_error(text: str | bytes) -> None:
    """No text, however odd, raises anything but a ConfigError."""
    only_config_errors(text)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_text_parses_or_is_a_config_error(data: st.DataObject) -> None:
    """No typing error in a good file raises anything but a ConfigError."""
    text = data.draw(st.sampled_from([file.read_text() for file in GOOD]))
    for _ in range(data.draw(st.integers(1, 4))):
        start = data.draw(st.integers(0, len(text)))
        end = start + data.draw(st.integers(0, 12))
        text = text[:start] + data.draw(PIECES | st.text(max_size=3)) + text[end:]

    only_config_errors(text)


JUNK = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.sampled_from(["10.0.0.1", "::1", "1s", "x:1"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=5,
)


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_mutated_data_parses_or_is_a_config_error(data: st.DataObject) -> None:
    """No wrong value at any place of a good file raises anything but a ConfigError."""
    document = data.draw(st.sampled_from([yaml.safe_load(file.read_text()) for file in GOOD]))
    for _ in range(data.draw(st.integers(1, 3))):
        container, key = data.draw(st.sampled_from(list(_places(document))))
        container[key] = data.draw(JUNK)

    only_config_errors(yaml.safe_dump(document, allow_unicode=data.draw(st.booleans())))


def _places(data: Any) -> list[tuple[Any, Any]]:
    items = data.items() if isinstance(data, dict) else enumerate(data) if isinstance(data, list) else ()
    return [place for key, inner in items for place in [(data, key), *_places(inner)]]


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
    before = time.process_time()

    assert 1000 == len(parse(text).pools)
    assert time.process_time() - before < 2


def test_what_a_good_file_does_not_need_is_not_imported() -> None:
    """Loading a file does not load what only errors, schemas or networks need."""
    code = "import sys; from nftlb.config import parse; parse(sys.argv[1]); print(*sys.modules)"
    process = subprocess.run([sys.executable, "-c", code, SMALLEST], capture_output=True, text=True, check=True)

    assert set() == {"asyncio", "difflib", "socketserver", "ssl", "nftables", "click"} & set(process.stdout.split())


def test_faults_do_not_depend_on_chance() -> None:
    """The same bad file gives the same faults, in the order of the file, in every process."""
    text = (Path(__file__).parent / "bad" / "everything-wrong.yaml").read_text()
    code = (
        "import sys\nfrom nftlb.config import parse\ntry: parse(sys.argv[1])\nexcept Exception as error: print(error)"
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
