"""The paper's way: walks are drawn, and skip-gram with negative sampling learns positions from cells that are near in them."""

import numpy as np
import torch

from expressor.core.log import progress
from expressor.core.rng import child_seed, stream
from expressor.systems.diphw.equations import unit_length
from expressor.systems.diphw.hypergraph import Walk

_FIRST_RATE, _LAST_RATE = 0.025, 1e-4
_TABLE = 1 << 20  # places among which negatives are drawn, as many for each cell as its frequency asks
_PAIRS = 2_000_000  # made at once, so that memory stays bounded


def draw_walks(walk: Walk, *, per_cell: int, T: int, seed: int) -> np.ndarray:
    """Draw walks from every cell, all in step.

    Parameters
    ----------
    walk
        The walk.
    per_cell
        Walks from each cell, at least 1.
    T
        Steps of a walk, at least 1.
    seed
        Of the stream "walks".

    Returns
    -------
    int32 (walk, T + 1), the cells in the order of the visit.
    """
    rng = stream(seed, "walks")
    found = np.empty((walk.n * per_cell, T + 1), dtype=np.int32)
    found[:, 0] = np.tile(np.arange(walk.n), per_cell)
    for t in range(T):
        found[:, t + 1] = walk.step(found[:, t], rng)
    return found


def pairs(walks: np.ndarray, W: int, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return centres and contexts, (pair,) each, with a window from 1 to W drawn anew for each centre."""
    reach = rng.integers(1, W + 1, size=walks.shape)
    centres, contexts = [], []
    for r in range(1, min(W, walks.shape[1] - 1) + 1):
        left, right = walks[:, :-r], walks[:, r:]
        for centre, context, wide in ((left, right, reach[:, :-r]), (right, left, reach[:, r:])):
            seen = wide >= r
            centres.append(centre[seen])
            contexts.append(context[seen])
    return np.concatenate(centres), np.concatenate(contexts)


def skip_gram(
    walks: np.ndarray, n: int, *, dim: int, W: int, epochs: int = 5, negatives: int = 5, seed: int = 0
) -> np.ndarray:
    """Learn positions by skip-gram with negative sampling (Mikolov et al. 2013), with the settings that word2vec is known by.

    Pairs are taken in small batches, about four of each cell, whose steps are summed: nearly one pair after another, as word2vec
    does. The rate falls from 0.025 to 0.0001; negatives are drawn by frequency to the power 3/4.

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
    rng = stream(seed, "skip-gram")
    inner = torch.from_numpy(((rng.random((n, dim)) - 0.5) / dim).astype(np.float32))
    outer = torch.zeros(n, dim)
    seen = np.bincount(walks.ravel(), minlength=n) ** 0.75
    generator = torch.Generator().manual_seed(child_seed(seed, "negatives") % 2**63)
    table = torch.from_numpy(np.searchsorted(np.cumsum(seen / seen.sum()), (np.arange(_TABLE) + 0.5) / _TABLE))
    per_part = max(1, _PAIRS // (walks.shape[1] * (W + 1)))
    parts = [(epoch, at) for epoch in range(epochs) for at in range(0, len(walks), per_part)]
    size = int(np.clip(4 * n, 64, 8192))
    for k, (epoch, at) in enumerate(progress(parts, what="skip-gram")):
        order = stream(seed, "order of walks", epoch).permutation(len(walks))[at : at + per_part]
        centres, contexts = pairs(walks[order], W, rng)
        mixed = rng.permutation(len(centres))
        centre = torch.from_numpy(centres[mixed].astype(np.int64))
        context = torch.from_numpy(contexts[mixed].astype(np.int64))
        others = torch.empty(len(centre), 1 + negatives, dtype=torch.int64)
        others[:, 0] = context
        others[:, 1:] = table[torch.randint(_TABLE, (len(centre), negatives), generator=generator)]
        # A negative that is the context itself says nothing.
        counts = (others != context[:, None]).float()
        for first in range(0, len(centre), size):
            done = (k + first / max(len(centre), 1)) / len(parts)
            rate = _FIRST_RATE - (_FIRST_RATE - _LAST_RATE) * done
            some = slice(first, first + size)
            _descend(inner, outer, centre[some], others[some], counts[some], rate)
    return inner.numpy()


def _descend(
    inner: torch.Tensor,
    outer: torch.Tensor,
    centre: torch.Tensor,
    others: torch.Tensor,
    counts: torch.Tensor,
    rate: float,
) -> None:
    """Take one step on a batch of pairs, in place: the first of ``others`` is the context, the rest are negatives."""
    x, y = inner[centre], outer[others]
    slope = torch.sigmoid(torch.bmm(y, x[:, :, None])[:, :, 0])
    slope *= -rate * counts
    slope[:, 0] = rate * (1 - torch.sigmoid((y[:, 0] * x).sum(1)))
    inner.index_add_(0, centre, torch.bmm(slope[:, None, :], y)[:, 0])
    y = slope[:, :, None] * x[:, None, :]
    outer.index_add_(0, others.reshape(-1), y.reshape(-1, x.shape[1]))


def sampled_positions(
    walk: Walk, *, per_cell: int, T: int, W: int, dim: int, epochs: int, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions from drawn walks, float32 (cell, dim), rows at unit length, and how often each cell was visited."""
    walks = draw_walks(walk, per_cell=per_cell, T=T, seed=seed)
    learnt = skip_gram(walks, walk.n, dim=dim, W=W, epochs=epochs, seed=seed)
    return unit_length(learnt), np.bincount(walks.ravel(), minlength=walk.n) / walks.size
