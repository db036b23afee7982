"""What was added and removed at run time, laid over the file."""

from __future__ import annotations

from typing import Any

from pools import DNS, backends, config, pool

from nftlb.daemon.runtime import overlay, remaining
from nftlb.health import PoolMemory
from nftlb.model import Admin, Config

THREE = config(pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:53", "10.0.0.12:53", "10.0.0.13:53")))
NEW = {"address": "10.0.0.20", "port": 53}


def memory(*removed: str, **added: Any) -> dict[str, PoolMemory]:
    return {"dns": PoolMemory(added=added, removed=removed)}


def result(file: Config, remembered: dict[str, PoolMemory]) -> tuple[dict[str, str], list[str]]:
    """The backends, and what does not fit."""
    found, misfits = overlay(file, remaining(file, remembered))
    return {one.name: str(one.address) for one in found.pools[0].backends}, misfits


def test_added_and_removed() -> None:
    """What was added stands after those of the file; what was removed is not there."""
    assert ({"b1": "10.0.0.11", "b3": "10.0.0.13", "x": "10.0.0.20"}, []) == result(THREE, memory("b2", x=NEW))


def test_all_that_can_be_written_is_kept() -> None:
    """A backend that was added has what it was added with, in whatever form."""
    written = {**NEW, "weight": 7, "admin": "drain"}
    found, _ = overlay(THREE, memory(x=written, y="10.0.0.21:54"))

    x, y = found.pools[0].backends[3:]
    assert (7, Admin.DRAIN) == (x.weight, x.admin)
    assert ("10.0.0.21", 54) == (str(y.address), y.port)


def test_one_of_the_file_that_was_exchanged() -> None:
    """Removed, and another added by its name: that one is there, not the file's."""
    assert ({"b1": "10.0.0.11", "b3": "10.0.0.13", "b2": "10.0.0.20"}, []) == result(THREE, memory("b2", b2=NEW))


def test_the_file_is_the_newer_word() -> None:
    """What the file has by now is as the file has it, and no longer remembered as added."""
    remembered = memory(b2=NEW, x=NEW)

    assert {"b1", "b2", "b3", "x"} == set(result(THREE, remembered)[0])
    assert "10.0.0.12" == result(THREE, remembered)[0]["b2"]
    assert memory(x=NEW) == remaining(THREE, remembered)


def test_what_is_gone_from_the_file_needs_no_removing() -> None:
    """Should it come back to the file one day, that is meant."""
    assert {} == remaining(THREE, memory("gone"))
    assert {} == remaining(config(DNS), {"other": PoolMemory(added={"x": NEW}, removed=("b1",))})


def test_what_does_not_fit_is_told_and_left_out() -> None:
    """One misfit costs nothing else."""
    found, misfits = result(THREE, memory("b3", bad={"address": "nowhere"}, twice="10.0.0.11:53", x=NEW))

    assert {"b1": "10.0.0.11", "b2": "10.0.0.12", "x": "10.0.0.20"} == found
    assert ["dns/bad, added at run time, is left out", "dns/twice, added at run time, is left out"] == [
        one.partition(": ")[0] for one in misfits
    ]


def test_a_pool_keeps_a_backend() -> None:
    """If the file by now has no others than those removed, they are back, and that is told."""
    found, misfits = result(config(DNS), memory("b1", "b2"))

    assert {"b1", "b2"} == set(found)
    assert 1 == len(misfits)
    assert misfits[0].startswith("dns: what was removed at run time (b1, b2) is back: ")


def test_one_added_takes_the_place_of_one_removed() -> None:
    """One that was removed makes room for another at its address."""
    here = {"address": "10.0.0.12", "port": 53}

    assert ({"b1": "10.0.0.11", "b3": "10.0.0.13", "x": "10.0.0.12"}, []) == result(THREE, memory("b2", x=here))
