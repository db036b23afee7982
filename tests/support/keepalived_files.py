"""Builds small configurations of keepalived, and reads the results of their import."""

from __future__ import annotations

from typing import TYPE_CHECKING

from nftlb.config import parse_config
from nftlb.importer import Imported, from_keepalived

if TYPE_CHECKING:
    from nftlb.importer.keepalived_statements import ReadContext
    from nftlb.model import Pool


def pool_of(text: str) -> Pool:
    """Import a configuration with one pool, and return the pool."""
    (pool,) = parse_config(from_keepalived(text, "k").text).pools
    return pool


def remark_lines(text: str, reading: ReadContext | None = None) -> list[str]:
    return [f"{remark.line}: {remark.message}" for remark in from_keepalived(text, "k", reading=reading).remarks]


def service(*inner: str, head: str = "192.0.2.1 80", protocol: str = "TCP") -> str:
    lines = [f"virtual_server {head} {{", f"protocol {protocol}", "lvs_sched rr", *inner, "}"]
    return "\n".join(lines) + "\n"


def real(address: str, *inner: str) -> str:
    return "\n".join([f"real_server {address} {{", *inner, "}"])


def misc(path: str, *more: str) -> str:
    return "\n".join(["MISC_CHECK {", f"misc_path {path}", *more, "}"])


def addresses(found: Imported) -> dict[str, list[str]]:
    """The backends of each listener."""
    return {
        str(pool.listen[0].address): [str(backend.address) for backend in pool.backends]
        for pool in parse_config(found.text).pools
    }
