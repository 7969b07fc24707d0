"""How well a map meets samples that were measured."""

from typing import Any

import numpy as np
import pandas as pd

from expressor.core.rng import stream
from expressor.metrics.maps import MapSums
from expressor.metrics.patients import bootstrap_weights, interval_of
from expressor.systems.brain_inr.equations import block_of
from expressor.systems.brain_inr.inputs import Samples

_DRAWS = 500
_BLOCKS = 9  # along the longest axis


def judge_map(model: Any, samples: Samples, *, seed: int) -> pd.DataFrame:
    """Return the tidy table of ``evaluate``: R2 (the headline), r and coverage of 90 % intervals, means over genes.

    The map is given on each sample's donor's scale where the donor was in the fit. Intervals are of blocks of space, a ninth of the
    longest axis wide, resampled whole.
    """
    found = np.empty(samples.values.shape)
    bounds = None
    calibrated = all(one.calibration is not None for one in model._fields)
    if calibrated:
        bounds = np.empty((2, *samples.values.shape))
    for donor in sorted(set(samples.donors)):
        rows = np.flatnonzero(samples.donors == donor)
        known = donor if donor in model.donors_ else None
        some = samples.take(rows)
        found[rows] = model.at(some.places, given=some.given, donor=known)
        if bounds is not None:
            bounds[:, rows] = model.at_interval(some.places, given=some.given, donor=known)
    blocks = block_of(samples.places, max(float(np.ptp(samples.places, axis=0).max()) / _BLOCKS, 1e-9)).astype(str)
    sums = MapSums.of(samples.values, found, blocks)
    drawn = bootstrap_weights(sums.groups, n_draws=_DRAWS, rng=stream(seed, "blocks"))
    weights = np.vstack([np.ones((1, len(sums.groups))), drawn])
    truth = samples.values
    covered = None if bounds is None else ((truth >= bounds[0]) & (truth <= bounds[1])).mean(axis=1)
    rows_ = [
        _row("map_r2", sums.r2(weights), "higher", blocks, truth.size),
        _row("map_r", sums.r(weights), "higher", blocks, truth.size),
    ]
    if covered is not None:
        with np.errstate(invalid="ignore"):
            by_sample = weights[:, np.searchsorted(sums.groups, blocks)]
            rows_.append(
                _row("map_coverage", by_sample @ covered / by_sample.sum(axis=1), "nominal", blocks, truth.size)
            )
    return pd.DataFrame(rows_)


def _row(name: str, draws: np.ndarray, direction: str, blocks: np.ndarray, n: int) -> dict[str, Any]:
    n_blocks = len(np.unique(blocks))
    interval = interval_of(float(draws[0]), draws[1:], n_patients=n_blocks)
    return {"metric": name, "unit": "gene over samples, mean over genes", "direction": direction, "value": interval.value,
            "low": interval.low, "high": interval.high, "n": n, "n_undefined": 0, "n_blocks": n_blocks}  # fmt: skip
