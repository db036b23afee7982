"""Who gets packet k: the slots of a pool's wheel, by weight. Pure arithmetic."""

from __future__ import annotations

import heapq
import math
import struct
from functools import lru_cache, reduce
from hashlib import blake2b

# A client's hash lands in one of this many slots per backend, at least: ten equal backends get 1,024 slots, and the
# fullest of the ten has on average 15 % more clients than the mean (tests/test_slots.py measures it).
_HASH_SLOTS_PER_BACKEND = 64


@lru_cache(maxsize=4096)
def round_robin(weights: tuple[int, ...]) -> tuple[int, ...]:
    """The shortest wheel of indexes in which index i stands in proportion to weights[i], spread as evenly as can be.

    After any number of slots, also across the seam of the wheel, no index is a whole slot ahead of its share or behind
    it. This is the scheduling of periodic tasks: the j-th slot of an index with share w/W may not come before j*W/w
    nor after (j+1)*W/w, and serving the earliest deadline among those that may come meets every deadline.
    Indexes of weight 0 do not appear; all weights 0 is an empty wheel.
    """
    divisor = reduce(math.gcd, weights, 0)
    if not divisor:
        return ()
    shares = [weight // divisor for weight in weights]
    total = sum(shares)
    # (first slot it may take, deadline, index, how many it had); and those that may be served now, by deadline
    waiting = [(0, -(-total // share), index, 0) for index, share in enumerate(shares) if share]
    heapq.heapify(waiting)
    ready: list[tuple[int, int, int]] = []
    wheel = []
    for slot in range(total):
        while waiting and waiting[0][0] <= slot:
            _, deadline, index, had = heapq.heappop(waiting)
            heapq.heappush(ready, (deadline, index, had))
        _, index, had = heapq.heappop(ready)
        wheel.append(index)
        had += 1
        if had < shares[index]:
            release = had * total // shares[index]
            heapq.heappush(waiting, (release, -(-(had + 1) * total // shares[index]), index, had))
    return tuple(wheel)


@lru_cache(maxsize=4096)
def hash_table(names: tuple[str, ...], weights: tuple[int, ...], size: int) -> tuple[int, ...]:
    """For each of `size` slots, the index of the name that owns it: rendezvous hashing, weighted.

    A slot's owner depends on the names and weights alone. So when a name leaves, only its own slots move, and when
    it comes back it gets those same slots again.
    """
    rivals = [index for index, weight in enumerate(weights) if weight]
    scores = [_scores(names[index], weights[index], size) for index in rivals]
    return tuple(rivals[slot_scores.index(max(slot_scores))] for slot_scores in zip(*scores, strict=True))


def hash_size(backends: int) -> int:
    """Slots of a hash table for that many configured backends: a power of two, so that it seldom changes."""
    return 1 << max(0, _HASH_SLOTS_PER_BACKEND * backends - 1).bit_length()


@lru_cache(maxsize=4096)
def _scores(name: str, weight: int, size: int) -> tuple[float, ...]:
    """What the name bids for each slot: -weight / ln(u), u uniform in (0, 1), wins in proportion to weight."""
    bids: list[int] = []
    for block in range(-(-size // 16)):
        bids += struct.unpack("<16I", blake2b(f"{name} {block}".encode()).digest())
    return tuple(-weight / math.log((bid + 1) / (2**32 + 1)) for bid in bids[:size])
