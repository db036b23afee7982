"""The slots of a pool's cycle: which target gets a packet, by weight. Pure arithmetic."""

from __future__ import annotations

import heapq
import math
import struct
from functools import lru_cache, reduce
from hashlib import blake2b

# The least number of slots for each backend in a hash table. Ten equal backends get 1,024 slots, and the fullest of the
# ten has on average 15 % more clients than the mean (tests/compiler/test_slots.py measures it).
_HASH_SLOTS_PER_BACKEND = 64


@lru_cache(maxsize=4096)
def round_robin(weights: tuple[int, ...]) -> tuple[int, ...]:
    """Return the shortest cycle in which index i appears in proportion to weights[i], spread as evenly as possible.

    After any number of slots, also across the end of the cycle, no index is a whole slot ahead of its share or behind
    its share. This is the scheduling of periodic tasks: the j-th slot of an index with share w/W may not come before
    j*W/w or after (j+1)*W/w, and the choice of the earliest deadline among the released tasks meets every deadline.
    Indexes of weight 0 do not appear. If all weights are 0, the cycle is empty.
    """
    divisor = reduce(math.gcd, weights, 0)
    if not divisor:
        return ()
    shares = [weight // divisor for weight in weights]
    total = sum(shares)
    # By slot: what is released there, each as a number that is ordered by deadline, then by index.
    released: list[list[int]] = [[] for _ in range(total)]
    for index, share in enumerate(shares):
        for had in range(share):
            deadline = -(-(had + 1) * total // share)
            released[had * total // share].append(deadline * len(shares) + index)
    ready: list[int] = []
    cycle = []
    for released_here in released:
        for turn in released_here:
            heapq.heappush(ready, turn)
        cycle.append(heapq.heappop(ready) % len(shares))
    return tuple(cycle)


@lru_cache(maxsize=4096)
def hash_table(names: tuple[str, ...], weights: tuple[int, ...], size: int) -> tuple[int, ...]:
    """Return, for each of `size` slots, the index of the name that owns it: weighted rendezvous hashing.

    The owner of a slot depends only on the names and weights. So when a name is removed, only its own slots move, and
    when it comes back it gets the same slots again.
    """
    rivals = [index for index, weight in enumerate(weights) if weight]
    scores = [_scores(names[index], weights[index], size) for index in rivals]
    return tuple(rivals[slot_scores.index(max(slot_scores))] for slot_scores in zip(*scores, strict=True))


def hash_size(backends: int) -> int:
    """Return the slots of a hash table for this number of configured backends: a power of two, so it seldom changes."""
    return 1 << max(0, _HASH_SLOTS_PER_BACKEND * backends - 1).bit_length()


@lru_cache(maxsize=4096)
def _scores(name: str, weight: int, size: int) -> tuple[float, ...]:
    """Return a name's score for each slot: -weight / ln(u), u uniform in (0, 1), wins in proportion to weight."""
    bids: list[int] = []
    for block in range(-(-size // 16)):
        bids += struct.unpack("<16I", blake2b(f"{name} {block}".encode()).digest())
    return tuple(-weight / math.log((bid + 1) / (2**32 + 1)) for bid in bids[:size])
