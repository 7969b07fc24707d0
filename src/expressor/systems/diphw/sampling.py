"""The paper's way: walks are drawn, and skip-gram with negative sampling learns positions from cells that are near in them."""

import numpy as np

from expressor.core.rng import stream
from expressor.estimator.skip_gram import skip_gram
from expressor.systems.diphw.equations import unit_length
from expressor.systems.diphw.hypergraph import Walk


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


def sampled_positions(
    walk: Walk, *, per_cell: int, T: int, W: int, dim: int, epochs: int, seed: int, unit_rows: bool = True
) -> tuple[np.ndarray, np.ndarray]:
    """Return positions from drawn walks, float32 (cell, dim), at unit length or as learnt, and how often each cell was visited."""
    walks = draw_walks(walk, per_cell=per_cell, T=T, seed=seed)
    learnt = skip_gram(walks, walk.n, dim=dim, W=W, epochs=epochs, seed=seed)
    return unit_length(learnt) if unit_rows else learnt, np.bincount(walks.ravel(), minlength=walk.n) / walks.size
