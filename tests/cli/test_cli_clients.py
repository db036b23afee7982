"""`nftlb clients`: the sources of a pool with the most packets."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

from nftlb.cli import main
from nftlb.service import ClientStatus, PoolClients

if TYPE_CHECKING:
    import pytest
    from fake_api import Api

pytest_plugins = ("cli_fixtures",)

ASKED = ("GET", "/api/v1/pools/dns/clients?limit=2")
SEEN = PoolClients(
    pool="dns",
    known=61234,
    clients=(
        ClientStatus(source="198.51.100.7", packets=123_456, bytes=9_000_000, dropped=120_000, banned=12.4),
        ClientStatus(source="2001:db8:7::/64", packets=20, bytes=1200, dropped=0, banned=None),
    ),
)
SHOWN = """\
SOURCE           PACKETS  BYTES  DROPPED  BANNED
198.51.100.7        123k  9.0M     120k     12s
2001:db8:7::/64       20   1200        0
2 of 61234 sources
"""


def test_the_sources_are_a_table(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """A line for each source, the one with the most packets first; a last line says how many sources there are."""
    api.answers[ASKED] = 200, SEEN.model_dump(mode="json")

    assert 0 == main(["clients", "dns", "--limit", "2"])
    out = capsys.readouterr().out
    assert [line.split() for line in SHOWN.splitlines()] == [line.split() for line in out.splitlines()]


def test_json_is_that_of_the_api(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """With --json, the document of the API is printed; by default, 20 sources are asked for."""
    api.answers["GET", "/api/v1/pools/dns/clients?limit=20"] = 200, SEEN.model_dump(mode="json")

    assert 0 == main(["clients", "dns", "--json"])
    assert SEEN == PoolClients.model_validate(json.loads(capsys.readouterr().out))


def test_a_pool_that_counts_no_clients(api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    """Status 1 and the words of the daemon if the pool counts no clients; a similar name for an unknown pool."""
    api.answers[ASKED] = 409, {"error": "pool dns does not count clients; set `clients: true` in its guard"}

    assert 1 == main(["clients", "dns", "--limit", "2"])
    assert ("", "nftlb: pool dns does not count clients; set `clients: true` in its guard\n") == tuple(
        capsys.readouterr()
    )
    assert 1 == main(["clients", "dsn"])
    assert ("", "dsn: no such pool; did you mean dns?\n") == tuple(capsys.readouterr())
