"""`encap` of `dsr` with `balance: hash`, `guard` and `mirror`, while backends are drained and priorities are lost.

ONE client socket sends all datagrams. See `tunnel_stand_in` for what is real.
"""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address
from typing import TYPE_CHECKING

import pytest
from encap_lab import EncapLab, beyond, swapping
from group_steps import HOSTS, STEPS, WEIGHTS, host_of, in_groups
from group_trial import collecting, try_groups, with_extras
from keyed_clients import explained
from pool_lab import PORT, close_slow_path, vip

from nftlb.explain.jhash import slot_of
from nftlb.model import Balance, Encap, Endpoint, payload_key

if TYPE_CHECKING:
    from collections.abc import Iterator

NUMBER = payload_key(8, 8)
"""The number of a datagram of the lab."""
COUNT = 1000


@pytest.fixture(params=[Encap.IPIP, Encap.GRE], ids=str, scope="module")
def encap_lab(request: pytest.FixtureRequest) -> Iterator[EncapLab]:
    with EncapLab(request.param, weights=WEIGHTS) as encap_lab:
        yield encap_lab


@pytest.mark.parametrize("version", [4, 6])
@pytest.mark.parametrize("balance", [Balance.ROUND_ROBIN, Balance.HASH])
@pytest.mark.parametrize("extras", [("guard",), ("guard", "mirror")], ids="+".join)
def test_options_while_backends_change(
    encap_lab: EncapLab, extras: tuple[str, ...], balance: Balance, version: int
) -> None:
    """Through tunnels, datagrams take exact turns or follow their keys, and are limited and copied exactly.

    Without `mirror`, all datagrams take the fast path.
    """
    pool = with_extras(encap_lab, frozenset(extras), balance)
    before = len(encap_lab.openers.opened)
    if pool.ingress:
        close_slow_path(encap_lab)
    try:
        try_groups(encap_lab, pool, version)
    finally:
        if pool.ingress:
            encap_lab.lab.nft("delete table inet trap")
    # A datagram of 3008 bytes comes in three fragments.
    pieces = [3 if datagram.size > 1500 else 1 for datagram in encap_lab.servers.received]
    assert len(encap_lab.openers.opened) - before == sum(pieces)


@pytest.mark.parametrize("version", [4, 6])
def test_explain_names_the_tunnel_of_each_backend(encap_lab: EncapLab, version: int) -> None:
    """The interface that `explain` shows for a backend is the tunnel to the address of this backend."""
    pool = in_groups(encap_lab.pool())
    encap_lab.load(pool)
    client = Endpoint(ip_address(encap_lab.lab.client.address(version)), 40000)
    ends = {
        host_of(candidate.name): encap_lab.tunnels.made[candidate.tunnel or ""].remote
        for candidate in explained(pool, client, b"").candidates
    }
    six = version == 6
    assert {name: ip_address(beyond(number)[six]) for number, name in enumerate(HOSTS, 1)} == ends


@pytest.mark.parametrize("version", [4, 6])
def test_swaps_of_keys_and_copies(encap_lab: EncapLab, version: int) -> None:
    """While backends change, each datagram of a socket reaches a backend of its key, and is copied once."""
    pool = replace(with_extras(encap_lab, frozenset(("mirror",)), Balance.HASH), key=NUMBER)
    encap_lab.load(pool)
    client = Endpoint(ip_address(encap_lab.lab.client.address(version)), 40000)
    memberships = [step.membership for step in STEPS]
    tables = [explained(pool, client, bytes(16), membership).slots for membership in memberships]
    with (
        collecting(encap_lab, version) as archive,
        swapping(encap_lab, memberships) as swaps,
        encap_lab.lab.client.connect((vip(version), PORT), connected=False) as sender,
    ):
        answers = sender.exchange(COUNT, pipelined=True)
        while len(swaps) <= len(memberships):
            answers += sender.exchange(COUNT, pipelined=True)
        copies = archive.settle()
    assert {(1, (vip(version), PORT))} == {(answer.copies, answer.source) for answer in answers}
    for answer in answers:
        slot = slot_of(answer.sequence.to_bytes(8, "big"), len(tables[0]), pool.seed)
        assert answer.backend in {host_of(table[slot]) for table in tables}
    assert [answer.sequence for answer in answers] == sorted(copy.sequence or 0 for copy in copies)
