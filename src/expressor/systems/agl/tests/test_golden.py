"""Numbers of one small fit, kept: a change of any of them is a change of the method, and must be meant.

Made with preset "tiny", the learnt cut taken as it is, on ``datasets.example("histology")``, seed 0, one thread, x86-64, torch
2.13.0, NumPy 2.4.6 and SciPy 1.17.1. To make them again after a change that is meant, run the fit below and copy what it prints.
"""

import os
from pathlib import Path

import numpy as np
import pytest
import torch

import expressor as ex
from expressor.data import fields
from expressor.datasets.examples import example
from expressor.metrics.genewise import pearson, summarise
from expressor.systems.agl.estimator import AGL

TARGETS = ["SIM0026", "SIM0029", "SIM0009", "SIM0002", "SIM0037", "SIM0021"]
PREDICTED = [
    [6.0589, 5.6922, 6.0029, 5.4425, 6.6691, 6.0571],
    [5.9564, 5.6918, 5.9277, 5.3438, 6.3187, 5.6293],
    [5.6179, 5.6911, 5.7914, 5.5369, 5.6700, 4.8155],
]
PCC = [0.3777, -0.2252, 0.1979, 0.2370, 0.6545, 0.5733]
HALF_WIDTH = [1.4817, 1.6359, 1.9041, 1.6585, 0.8539, 1.5069]


def test_a_small_fit_gives_the_kept_numbers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = AGL.preset("tiny", compare_ends=False).fit(example("histology"))
        predicted = model.predict(example("histology", seed=1)).iloc[:3].to_numpy()
    finally:
        torch.set_num_threads(before)
    assert list(model.target_genes_) == TARGETS
    assert (model.k_, model.epochs_) == (17, 6)
    select = model.history_[model.history_["stage"] == "select"].iloc[-1]
    assert select["loss"] == pytest.approx(0.7888, abs=2e-3)
    assert select["threshold"] == pytest.approx(0.4670, abs=5e-3)
    np.testing.assert_allclose(model.gene_table_["pcc"], PCC, atol=5e-3)
    np.testing.assert_allclose(model.gene_table_["half_width"], HALF_WIDTH, atol=2e-2)
    np.testing.assert_allclose(predicted, PREDICTED, atol=2e-2)


@pytest.mark.slow
@pytest.mark.skipif("EXPRESSOR_DATA" not in os.environ, reason="EXPRESSOR_DATA names no folder of real data")
def test_real_tissue_reaches_the_bar(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Section C5 of HER2ST from C2 to C4, normalised targets: at least what ridge on the same features gives, less .02."""
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path))
    adata = ex.datasets.her2st().adata
    train, test = adata[adata.obs["section"] != "C5"].copy(), adata[adata.obs["section"] == "C5"].copy()
    model = AGL(permutations=99).fit(train)
    measured = fields.expression(test, model.target_genes_, scale="log1p_cp10k")
    assert summarise(pearson(measured, model.predict(test).to_numpy())).value > 0.33
    lower, upper = model.predict_interval(test)
    assert ((measured >= lower.to_numpy()) & (measured <= upper.to_numpy())).mean() == pytest.approx(0.9, abs=0.05)
    assert model.gene_table_["trusted"].mean() > 0.8
