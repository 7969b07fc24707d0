"""Numbers of one small fit, kept: a change of any of them is a change of the method, and must be meant.

Made with preset "tiny" on ``datasets.example("bulk")``, seed 0, one thread, x86-64, torch 2.13.0, NumPy 2.4.6, scikit-learn 1.7.2.
To make them again after a change that is meant, run the fit below and copy what it gives.
"""

import numpy as np
import pytest
import torch

from expressor.datasets.examples import example
from expressor.systems.gexbert.estimator import GexBERT

RESTORED = [
    [6.5347, 8.2287, 7.2324, 3.6068, 8.6177, 8.6891, 6.7482, 4.3176],
    [9.5913, 6.9373, 8.0659, 4.6434, 7.2430, 10.5438, 5.9458, 3.9187],
]
WIDTH = [5.3302, 5.5225, 4.6959]
RISK = [0.4973, -0.2683, 0.0130, 0.6523]
TRAINING = [[0.4369, 0.6017], [0.5613, 0.6012], [0.5813, 0.6042]]


def test_a_small_fit_gives_the_kept_numbers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        model = GexBERT.preset("tiny").fit(example("bulk"))
        new = example("bulk", seed=1)
        few = new[:, new.var_names[::4]].copy()
        lower, upper = model.impute_interval(few)
        np.testing.assert_allclose(model.impute(few)[:2, :8], RESTORED, atol=5e-3)
        np.testing.assert_allclose((upper - lower)[0, 1:4], WIDTH, atol=2e-2)
        np.testing.assert_allclose(model.risk(few)[:4], RISK, atol=5e-3)
        assert model.predict(few)["cancer_type"].tolist()[:2] == ["T3", "T1"]
    finally:
        torch.set_num_threads(before)
    trained = model.history_[model.history_["stage"] == "pretrain"]
    np.testing.assert_allclose(trained[["loss", "val_rmse"]], TRAINING, atol=2e-3)
    assert model.parts_["shrinkage"].tolist() == pytest.approx([0.23077], abs=1e-4)
