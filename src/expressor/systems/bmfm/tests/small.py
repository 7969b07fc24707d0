"""Small models and cells for the tests of BMFM."""

from typing import Any

import anndata as ad

import expressor as ex
from expressor.systems.bmfm.estimator import BMFM


def tiny(**changes: Any) -> BMFM:
    return BMFM.preset("tiny", **changes)


def cells(seed: int = 0, n: int = 80) -> ad.AnnData:
    return ex.datasets.example("cells", seed=seed, n=n)
