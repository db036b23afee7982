"""The files that `guard` names in `allow` and `deny`."""

from __future__ import annotations

from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from processor_time import takes_less

from nftlb.config import parse_config
from nftlb.config.document import MAX_BYTES
from nftlb.errors import ConfigError
from nftlb.model import Family, Guard, SourceEntry

if TYPE_CHECKING:
    from pathlib import Path


def text_with(*lists: Path | str, key: str = "deny") -> str:
    """A pool whose guard has these lists."""
    names = ", ".join(f'"{name}"' for name in lists)
    return f"""
pools:
  dns:
    listen: 192.0.2.53:53/udp
    guard: {{{key}: [{names}]}}
    backends: {{ns1: 10.0.0.11:5353}}
"""


def guard_of(text: str, *, lenient: bool = False) -> Guard:
    guard = parse_config(text, "pools.yaml", lenient=lenient).pools[0].guard
    assert guard is not None
    return guard


def span(first: str, last: str) -> tuple[int, int]:
    return int(ip_address(first)), int(ip_address(last))


def test_a_list_has_addresses_prefixes_and_comments(tmp_path: Path) -> None:
    """A file has an address or a prefix of any family in each line, comments and empty lines. Entries may be inline."""
    path = tmp_path / "deny.txt"
    path.write_text("# from the abuse desk\n\n192.0.2.0/24   # a whole network\r\n 203.0.113.7\n2001:db8:1::/48\n")

    inline, from_file = guard_of(text_with("198.51.100.4", path)).deny

    assert SourceEntry(ip=(span("198.51.100.4", "198.51.100.4"),)) == inline
    assert (span("192.0.2.0", "192.0.2.255"), span("203.0.113.7", "203.0.113.7")) == from_file.of(Family.IP)
    assert (span("2001:db8:1::", "2001:db8:1:ffff:ffff:ffff:ffff:ffff"),) == from_file.of(Family.IP6)


def test_a_published_list(tmp_path: Path) -> None:
    """A semicolon begins a comment, as in the lists of Spamhaus, and a byte order mark has no effect."""
    path = tmp_path / "drop.txt"
    path.write_bytes(b"\xef\xbb\xbf192.0.2.0/24 ; SBL1\r\n; Expires: Mon # or later\r\n2001:db8::/32;SBL2\r\n")

    (entry,) = guard_of(text_with(path)).deny

    assert (span("192.0.2.0", "192.0.2.255"),) == entry.of(Family.IP)
    assert (span("2001:db8::", "2001:db8:ffff:ffff:ffff:ffff:ffff:ffff"),) == entry.of(Family.IP6)


def test_bad_lines_have_their_place_in_the_list(tmp_path: Path) -> None:
    """Each bad line is reported with the list, the line and the column; a missing list with its place in the file."""
    path = tmp_path / "deny.txt"
    path.write_bytes(b"192.0.2.0/24\n  192.0.2.1/24\n10.0.0.0/8 10.0.0.1\n\xff\n::1/129\n")

    with pytest.raises(ConfigError) as caught:
        parse_config(text_with(path, tmp_path / "none"), "pools.yaml")

    places = {(problem.file, problem.line, problem.column) for problem in caught.value.problems}
    listed = {(str(path), 2, 3), (str(path), 3, 1), (str(path), 4, 1), (str(path), 5, 1)}
    assert listed | {("pools.yaml", 5, text_with(path, "").splitlines()[4].index('""') + 1)} == places
    assert "allowed: 192.0.2.0/24" in str(caught.value)


def test_a_list_of_another_kind_does_not_fill_the_terminal(tmp_path: Path) -> None:
    """Of a file with a fault in each line, some faults are reported, and that there are more."""
    path = tmp_path / "deny.txt"
    path.write_text("not an address\n" * 5000)

    with pytest.raises(ConfigError) as caught:
        parse_config(text_with(path), "pools.yaml")

    assert 101 == len(caught.value.problems)
    assert "too many faults" in caught.value.problems[-1].message


def test_a_list_that_is_too_large_is_a_fault(tmp_path: Path) -> None:
    """A list is not cut silently. A lenient reader takes the whole lines, and not the part of a line at the end."""
    path = tmp_path / "deny.txt"
    comment = b"# a comment\n" * (MAX_BYTES // 12)
    path.write_bytes(b"192.0.2.7\n" + comment[: MAX_BYTES - 19] + b"\n10.0.0.0/16\n")

    with pytest.raises(ConfigError) as caught:
        parse_config(text_with(path), "pools.yaml")
    (found,) = guard_of(text_with(path), lenient=True).deny

    assert [(str(path), 1, 1, "larger than 16 MiB; allowed: a smaller file")] == [
        (problem.file, problem.line, problem.column, problem.message) for problem in caught.value.problems
    ]
    assert (span("192.0.2.7", "192.0.2.7"),) == found.ip


def test_a_lenient_reader_leaves_bad_lines_out(tmp_path: Path) -> None:
    """The last good copy of a file is usable although its lists are bad or missing."""
    path = tmp_path / "deny.txt"
    path.write_text("nonsense\n192.0.2.7\n")

    found, missing = guard_of(text_with(path, tmp_path / "none"), lenient=True).deny

    assert (span("192.0.2.7", "192.0.2.7"),) == found.ip
    assert SourceEntry(str(tmp_path / "none")) == missing


def test_two_pools_may_name_one_list(tmp_path: Path) -> None:
    """A fault of a list that several pools name is reported once."""
    path = tmp_path / "deny.txt"
    path.write_text("nonsense\n")
    other = text_with(path).replace("pools:\n  dns", "  ntp").replace("192.0.2.53:53", "192.0.2.53:123")

    with pytest.raises(ConfigError) as caught:
        parse_config(text_with(path) + other, "pools.yaml")

    assert 1 == len(caught.value.problems)


def test_a_hundred_thousand_prefixes_are_read_fast(tmp_path: Path) -> None:
    """A list of 100,000 prefixes takes less than 5 s of processor time; some 0.4 s were measured."""
    path = tmp_path / "deny.txt"
    path.write_text("".join(f"10.{n >> 8 & 255}.{n & 255}.{n >> 16 << 7}/25\n" for n in range(100_000)))

    text = text_with(path)

    assert 100_000 == len(guard_of(text).deny[0].ip)
    assert takes_less(5, lambda: guard_of(text))
