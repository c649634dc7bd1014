"""Random numbers addressed by seed, catchment, hour and purpose, so that nothing about randomness is ever stored.

The generator is Philox4x32-10 (Salmon et al. 2011, SC11): a keyed function of a counter, here computed for all
catchments at once. A rerun, a smaller selection of catchments or a restart draws the same numbers.
"""

import zlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
WEYL = np.uint64(0x9E3779B9), np.uint64(0xBB67AE85)
WORD = np.uint64(0xFFFFFFFF)
HALF = np.uint64(32)
ROUNDS = 10


def philox(counter: tuple[Any, Any, Any, Any], key: tuple[Any, Any]) -> tuple[np.ndarray, ...]:
    """Four 32-bit words for a counter of four and a key of two, all uint64 arrays that broadcast."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for _ in range(ROUNDS):
        left, right = MULTIPLIERS[0] * c0, MULTIPLIERS[1] * c2
        c0, c1, c2, c3 = (right >> HALF) ^ c1 ^ k0, right & WORD, (left >> HALF) ^ c3 ^ k1, left & WORD
        k0, k1 = (k0 + WEYL[0]) & WORD, (k1 + WEYL[1]) & WORD
    return c0, c1, c2, c3


def address(name: str) -> int:
    """A catchment id or a purpose as a 32-bit number."""
    return zlib.crc32(name.encode())


@dataclass(frozen=True)
class Noise:
    """The random numbers of one hour of each catchment: a seed, catchment addresses (c,), hours since 1970 (c,)."""

    seed: int
    catchment: np.ndarray
    hour: np.ndarray

    def repeated(self, times: int) -> "Noise":
        """The same for every catchment so many times in a row."""
        return Noise(self.seed, self.catchment.repeat(times), self.hour.repeat(times))

    def normal(self, purpose: str, *shape: int) -> Tensor:
        """Standard normal numbers (c, *shape), float64."""
        return torch.special.ndtri(self.uniform(purpose, *shape))

    def uniform(self, purpose: str, *shape: int) -> Tensor:
        """Numbers (c, *shape) between zero and one, neither of them included, float64."""
        size = int(np.prod(shape))
        block = np.arange((size + 1) // 2, dtype=np.uint64)
        hour = self.hour.astype(np.int64).astype(np.uint64)[:, None] & WORD
        catchment = self.catchment.astype(np.uint64)[:, None]
        high, low = np.uint64(self.seed >> 32), np.uint64(self.seed & 0xFFFFFFFF)
        words = philox((block, hour, high, np.uint64(address(purpose))), (catchment, low))
        pairs = [(a << np.uint64(20)) ^ (b >> np.uint64(12)) for a, b in (words[:2], words[2:])]
        bits = np.stack(pairs, axis=-1).reshape(hour.size, -1)[:, :size]
        # 52 bits leave one for the half: 53 would round the largest number to 1, whose normal is infinite
        return torch.from_numpy((bits.astype(np.float64) + 0.5) * 2.0**-52).reshape(hour.size, *shape)
