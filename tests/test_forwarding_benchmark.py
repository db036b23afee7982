"""The benchmark of forwarding: the kernel takes the rules of all cases, and the weights solve the equations."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from nftlb.lab import Namespace, userns

if TYPE_CHECKING:
    from collections.abc import Iterator

FOLDER = Path(__file__).parents[1] / "bench" / "forwarding"


@pytest.fixture
def balancer() -> Iterator[Namespace]:
    """A host with the interfaces of the benchmark's network."""
    userns.ensure()
    with Namespace("benchmark") as namespace:
        for first, second in (("c0", "b1"), ("b2", "b3")):
            namespace.run(["ip", "link", "add", first, "type", "veth", "peer", "name", second])
        yield namespace


@pytest.fixture(autouse=True)
def _benchmark(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Make the modules of the benchmark importable, in this test only."""
    for folder in (FOLDER.parent, FOLDER):
        monkeypatch.syspath_prepend(str(folder))
    yield
    for name in ("cases", "conditions", "measure", "pieces", "report", "tables"):
        sys.modules.pop(name, None)


@pytest.mark.parametrize("changes", [{}, {"pools": 10}, {"backends": 100}, {"packets": "reply"}, {"packets": "nobody"}])
def test_the_kernel_takes_the_rules_of_all_cases(balancer: Namespace, changes: dict[str, Any]) -> None:
    """Each way to forward has rules that nft loads on the balancer of the benchmark."""
    import cases  # noqa: PLC0415

    found = cases.cases(replace(cases.Setting(), **changes), cases.NAMES)
    # Rules can name tunnels that exist. This kernel may have no tunnels, and their type does not matter here.
    for name in sorted({name for case in found for name in re.findall(r"^link add (\S+)", case.ip, re.MULTILINE)}):
        balancer.run(["ip", "link", "add", name, "type", "veth"])
    for case in found:
        balancer.run(["nft", "-f", "-"], input=f"flush ruleset\n{case.nft}\n")
    assert set(cases.NAMES) - {case.name for case in found} <= {name for name in cases.NAMES if name.startswith("dsr")}


def test_the_kernel_takes_the_rules_of_all_pieces(balancer: Namespace) -> None:
    """Each piece has rules that nft loads."""
    import pieces  # noqa: PLC0415

    for case in pieces.cases():
        balancer.run(["nft", "-f", "-"], input=f"flush ruleset\n{case.nft}\n")


def test_weights_are_the_solution() -> None:
    """If each piece adds the sum of known weights, the known weights come back."""
    import pieces  # noqa: PLC0415

    kinds = dict.fromkeys(kind for piece in pieces.PIECES for kind in piece.meets)
    known = {kind: float(number) for number, kind in enumerate(kinds, 1)}
    known["compare"] = known["load"]  # what the equations suppose
    added = {piece.name: sum(known[kind] * count for kind, count in piece.meets.items()) for piece in pieces.PIECES}

    assert known == pytest.approx(pieces.weights(added))


def test_the_cost_is_that_of_undisturbed_slices() -> None:
    """Slices in which the host did other work do not change the cost relative to `ipvs-ops`."""
    import report  # noqa: PLC0415

    quiet = [1000.0] * 40
    disturbed = [1000.0] * 10 + [3000.0] * 30
    data = {
        "cases": [{"name": name, "packets": "request"} for name in ("routing", "ipvs-ops", "nat")],
        "sent": 9,
        "boots": [
            {
                "slices": [disturbed, [rate + 400 for rate in quiet], [rate + 300 for rate in disturbed]],
                "received": [[9, 0, 0], [3, 3, 3], [3, 3, 2]],
            }
        ],
    }
    routing, reference, nat = report.results(data)

    assert [0.0, 1.0, 0.75] == [result.relative[0] for result in (routing, reference, nat)]
    assert [0, 0, 1] == [result.missing for result in (routing, reference, nat)]


def test_pairs_are_slices_of_the_same_round() -> None:
    """The median of pairs is exact if both slices of a round are slow."""
    import report  # noqa: PLC0415

    base = [1000.0, 3000.0, 1000.0, 2000.0, 5000.0]

    assert report.by_pairs([one + 300 for one in base], base) == 300


def test_raw_data_keeps_results_and_slices() -> None:
    """The raw data is JSON with the result of each case by both estimates, and with all slices."""
    import report  # noqa: PLC0415

    slices = [[1000.0, 1100.0], [1400.0, 1600.0], [1200.0, 1300.0]]
    data = {
        "cases": [{"name": name, "packets": "request"} for name in ("routing", "ipvs-ops", "nat")],
        "sent": 3,
        "boots": [{"slices": slices, "received": [[3, 0, 0], [1, 1, 1], [1, 1, 1]]}],
    }
    raw = json.loads(report.raw_text(data))

    assert slices == raw["boots"][0]["slices"]
    assert {"name": "nat", "packets": "request", "added": [200], "relative": [0.5], "paired": [0.444]} == raw[
        "results"
    ][2]


def test_tables_have_files_of_their_own() -> None:
    """No two tables have the same name, title or file."""
    import tables  # noqa: PLC0415

    for of in ("name", "title", "file"):
        assert len({str(getattr(one, of)) for one in tables.TABLES}) == len(tables.TABLES)


def test_a_table_with_other_boots_and_rounds() -> None:
    """NAME=BOOTSxROUNDS changes the size of a table; an error says what is possible."""
    import tables  # noqa: PLC0415

    assert tables.table_of("one-pool") == tables.TABLES[0]
    assert tables.table_of("one-pool=2x30") == replace(tables.TABLES[0], boots=2, rounds=30)
    with pytest.raises(ValueError, match="no-pool: no such table; there are one-pool, 10-pools, "):
        tables.table_of("no-pool")
    for size in ("2", "x3", "2x", "0x3", "2x0", "ax3", "-1x3"):
        with pytest.raises(ValueError, match=f"{size} is not BOOTSxROUNDS, for example one-pool=4x160"):
            tables.table_of(f"one-pool={size}")


def chosen_tables(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> list[tuple[str, int, int]]:
    """Return the name, boots and rounds of each table that the command measures."""
    import measure  # noqa: PLC0415

    monkeypatch.setattr(sys, "argv", ["measure.py", "/kit", *arguments])
    return [(one.name, one.boots, one.rounds) for one in measure.read_options().chosen]


def test_the_command_selects_tables(monkeypatch: pytest.MonkeyPatch) -> None:
    """All tables, some tables with other sizes, and combinations of dimensions."""
    import tables  # noqa: PLC0415

    every = [(one.name, one.boots, one.rounds) for one in tables.TABLES]

    assert every == chosen_tables(monkeypatch, "--all-tables")
    assert [*every[:1], ("10-pools", 1, 2), *every[2:]] == chosen_tables(
        monkeypatch, "--all-tables", "--tables", "10-pools=1x2"
    )
    assert [("10-pools", 1, 2), *every[-1:]] == chosen_tables(
        monkeypatch, "--tables", "options-replies", "10-pools=1x2"
    )
    names = [name for name, _, _ in chosen_tables(monkeypatch, "--pools", "1", "7", "--packets", "reply", "nobody")]
    assert names == [f"{packets}-{pools}x3-1-flows-64-bytes" for pools in (1, 7) for packets in ("reply", "nobody")]


def test_the_command_refuses_to_measure_nothing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Without a selection, or with an unknown table, the command says what is needed."""
    for arguments, message in (
        ((), "nothing to measure; needed: --all-tables"),
        (("--tables", "x"), "x: no such table"),
    ):
        with pytest.raises(SystemExit, match="2"):
            chosen_tables(monkeypatch, *arguments)
        assert message in capsys.readouterr().err
