"""Skip-gram with negative sampling on walks: positions of what is often seen near each other, as word2vec has them of words."""

import math
from typing import Any

import numpy as np
from numba import njit

from expressor.core.log import progress
from expressor.core.rng import child_seed, stream
from expressor.data.draws import below, uniform

_FIRST_RATE, _LAST_RATE = 0.025, 1e-4
_FREQUENT = 1e-3  # share of all visits from which a cell's visits are thinned
_TABLE = 64  # places a cell, on average, among which negatives are drawn, as many for each as its frequency asks
_WALKS = 2000  # whose pairs are made at once, so that memory stays bounded


def skip_gram(
    walks: np.ndarray,
    n: int,
    *,
    dim: int,
    W: int,
    epochs: int = 5,
    negatives: int = 5,
    seed: int = 0,
) -> np.ndarray:
    """Learn positions by skip-gram with negative sampling (Mikolov et al. 2013), with the settings that word2vec is known by.

    One pair after another; the rate falls from 0.025 to 0.0001; negatives are drawn by frequency to the power 3/4.

    Parameters
    ----------
    walks
        (walk, step) of cells.
    n
        Number of cells.
    dim
        Number of dimensions.
    W
        Largest window.
    epochs
        Passes over the walks.
    negatives
        Drawn for each pair.
    seed
        Of initial positions, windows, order and negatives.

    Returns
    -------
    float32 (cell, dim), as learnt, not scaled.
    """
    inner = ((stream(seed, "skip-gram").random((n, dim)) - 0.5) / dim).astype(np.float32)
    outer = np.zeros((n, dim), dtype=np.float32)
    seen = np.bincount(walks.ravel(), minlength=n)
    powers = np.cumsum(seen**0.75)
    size = max(_TABLE * n, 1 << 16)
    table = np.searchsorted(powers / powers[-1], (np.arange(size) + 0.5) / size).astype(np.int32)
    # Word2vec's threshold; of fewer than a thousand cells every one would be frequent.
    keep = kept_shares(seen / seen.sum(), max(_FREQUENT, 1 / n))
    state = np.array([child_seed(seed, "pairs and negatives") % 2**64], dtype=np.uint64)
    parts = [(epoch, at) for epoch in range(epochs) for at in range(0, len(walks), _WALKS)]
    for k, (epoch, at) in enumerate(progress(parts, what="skip-gram")):
        order = stream(seed, "order of walks", epoch).permutation(len(walks))[at : at + _WALKS]
        centres, contexts = pairs(walks[order], W, keep, state)
        rates = [_FIRST_RATE - (_FIRST_RATE - _LAST_RATE) * done / len(parts) for done in (k, k + 1)]
        _descend(inner, outer, centres, contexts, table, negatives, rates[0], rates[1], state)
    return inner


def pairs(walks: np.ndarray, W: int, keep: np.ndarray, state: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return centres and contexts, (pair,) each: of the visits that are kept, those at most a window apart.

    Parameters
    ----------
    walks
        (walk, step) of cells.
    W
        Largest window; one from 1 to W is drawn anew for each centre.
    keep
        (cell,), the share of its visits that is kept; the others are taken out before windows are laid.
    state
        Of the draws, which it advances.
    """
    found: tuple[np.ndarray, np.ndarray] = _pairs(walks, W, keep, state)
    return found


def kept_shares(frequency: np.ndarray, threshold: float) -> np.ndarray:
    """Return the share of a cell's visits that skip-gram keeps, (cell,): all up to about the threshold, ever fewer beyond.

    Word2vec's rule for frequent words, (sqrt(f / t) + 1) t / f, at most 1.
    """
    times = np.maximum(frequency / threshold, 1e-12)
    return np.minimum((np.sqrt(times) + 1) / times, 1.0)


@njit(cache=True, nogil=True)
def _pairs(walks: np.ndarray, W: int, keep: np.ndarray, state: np.ndarray) -> Any:
    """Do what :func:`pairs` says."""
    n, steps = walks.shape
    centres = np.empty(n * steps * 2 * W, dtype=np.int32)
    contexts = np.empty(n * steps * 2 * W, dtype=np.int32)
    left = np.empty(steps, dtype=np.int32)
    found = 0
    for walk in range(n):
        length = 0
        for t in range(steps):
            cell = walks[walk, t]
            if keep[cell] >= 1.0 or uniform(state) < keep[cell]:
                left[length] = cell
                length += 1
        for t in range(length):
            reach = 1 + below(state, W)
            for other in range(max(0, t - reach), min(length, t + reach + 1)):
                if other != t:
                    centres[found], contexts[found] = left[t], left[other]
                    found += 1
    return centres[:found], contexts[:found]


@njit(cache=True, nogil=True, fastmath=True)
def _descend(
    inner: np.ndarray, outer: np.ndarray, centres: np.ndarray, contexts: np.ndarray, table: np.ndarray, negatives: int,
    first_rate: float, last_rate: float, state: np.ndarray,
) -> None:  # fmt: skip
    """Take one step on each pair, in place; a negative that is the context itself says nothing."""
    dim = inner.shape[1]
    change = np.empty(dim, dtype=np.float32)
    for k in range(len(centres)):
        rate = first_rate - (first_rate - last_rate) * k / len(centres)
        centre, context = centres[k], contexts[k]
        for d in range(dim):
            change[d] = 0.0
        for draw in range(negatives + 1):
            other = context if draw == 0 else table[below(state, len(table))]
            if draw > 0 and other == context:
                continue
            score = np.float32(0.0)
            for d in range(dim):
                score += inner[centre, d] * outer[other, d]
            wanted = 1.0 if draw == 0 else 0.0
            step = np.float32(rate * (wanted - 1.0 / (1.0 + math.exp(min(max(-float(score), -30.0), 30.0)))))
            for d in range(dim):
                change[d] += step * outer[other, d]
                outer[other, d] += step * inner[centre, d]
        for d in range(dim):
            inner[centre, d] += change[d]
