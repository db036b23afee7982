"""Changes at run time on top of the file."""

from __future__ import annotations

from typing import Any

from pool_builders import DNS, backends, config, pool

from nftlb.daemon.runtime import overlay, remaining
from nftlb.health import PoolMemory
from nftlb.model import Admin, Config

THREE = config(pool("dns", "192.0.2.53:53/udp", backends("10.0.0.11:53", "10.0.0.12:53", "10.0.0.13:53")))
NEW = {"address": "10.0.0.20", "port": 53}


def memory(*removed: str, **added: Any) -> dict[str, PoolMemory]:
    return {"dns": PoolMemory(added=added, removed=removed)}


def result(file: Config, remembered: dict[str, PoolMemory]) -> tuple[dict[str, str], list[str]]:
    """The backends, and the lines about changes that don't fit."""
    found, misfits = overlay(file, remaining(file, remembered))
    return {backend.name: str(backend.address) for backend in found.pools[0].backends}, misfits


def test_added_and_removed() -> None:
    """Added backends follow the backends of the file; removed backends are left out."""
    assert ({"b1": "10.0.0.11", "b3": "10.0.0.13", "x": "10.0.0.20"}, []) == result(THREE, memory("b2", x=NEW))


def test_all_that_can_be_written_is_kept() -> None:
    """An added backend has the values of its request, in every written form."""
    written = {**NEW, "weight": 7, "admin": "drain"}
    found, _ = overlay(THREE, memory(x=written, y="10.0.0.21:54"))

    x, y = found.pools[0].backends[3:]
    assert (7, Admin.DRAIN) == (x.weight, x.admin)
    assert ("10.0.0.21", 54) == (str(y.address), y.port)


def test_a_replaced_backend_replaces_the_files() -> None:
    """A backend that was replaced under its name replaces the file's backend."""
    assert ({"b1": "10.0.0.11", "b3": "10.0.0.13", "b2": "10.0.0.20"}, []) == result(THREE, memory("b2", b2=NEW))


def test_a_backend_that_the_file_has_now_belongs_to_the_file() -> None:
    """An added backend that the file has now belongs to the file."""
    remembered = memory(b2=NEW, x=NEW)

    assert {"b1", "b2", "b3", "x"} == set(result(THREE, remembered)[0])
    assert "10.0.0.12" == result(THREE, remembered)[0]["b2"]
    assert memory(x=NEW) == remaining(THREE, remembered)


def test_a_removal_is_forgotten_with_the_files_backend() -> None:
    """A removal is forgotten when the backend leaves the file."""
    assert {} == remaining(THREE, memory("gone"))
    assert {} == remaining(config(DNS), {"other": PoolMemory(added={"x": NEW}, removed=("b1",))})


def test_a_change_that_does_not_fit_is_reported_and_left_out() -> None:
    """A change that does not fit does not affect the others."""
    found, misfits = result(THREE, memory("b3", bad={"address": "no where"}, twice="10.0.0.11:53", x=NEW))

    assert {"b1": "10.0.0.11", "b2": "10.0.0.12", "x": "10.0.0.20"} == found
    assert ["dns/bad, added at run time, is left out", "dns/twice, added at run time, is left out"] == [
        misfit.partition(": ")[0] for misfit in misfits
    ]


def test_a_pool_keeps_a_backend() -> None:
    """Removed backends are back, with a line, if the file has no others now."""
    found, misfits = result(config(DNS), memory("b1", "b2"))

    assert {"b1", "b2"} == set(found)
    assert 1 == len(misfits)
    assert misfits[0].startswith("dns: backends removed at run time (b1, b2) are back: ")


def test_an_added_backend_may_have_the_address_of_a_removed_backend() -> None:
    """An added backend may have the address of a removed backend."""
    here = {"address": "10.0.0.12", "port": 53}

    assert ({"b1": "10.0.0.11", "b3": "10.0.0.13", "x": "10.0.0.12"}, []) == result(THREE, memory("b2", x=here))
