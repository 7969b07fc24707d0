"""Named random streams: one integer seed, one independent child per purpose, no global state.

A stream is a pure function of ``(seed, purpose, *position)``, where the position is for example ``(epoch, step, rank)``. So a
batch, a mask or a dropout pattern does not depend on what was drawn before it, and a resumed run draws what an
uninterrupted one would have drawn.
"""

import hashlib

import numpy as np


def _sequence(seed: int, purpose: str, position: tuple[int, ...]) -> np.random.SeedSequence:
    digest = hashlib.sha256(purpose.encode()).digest()
    words = [int.from_bytes(digest[i : i + 4], "little") for i in range(0, 16, 4)]
    return np.random.SeedSequence([int(seed), *words, *(int(p) for p in position)])


def stream(seed: int, purpose: str, *position: int) -> np.random.Generator:
    """Return the NumPy generator of this seed, purpose (``"init"``, ``"batches"``, ...) and position.

    Parameters
    ----------
    seed
        Non-negative integer.
    purpose
        A name; different names give independent streams.
    position
        Non-negative integers, for example epoch, step, rank.
    """
    return np.random.default_rng(_sequence(seed, purpose, position))


def child_seed(seed: int, purpose: str, *position: int) -> int:
    """Return a 63-bit integer seed for libraries with generators of their own (torch, scikit-learn)."""
    high, low = _sequence(seed, purpose, position).generate_state(2, dtype=np.uint32)
    return (int(high) << 31) ^ int(low)
