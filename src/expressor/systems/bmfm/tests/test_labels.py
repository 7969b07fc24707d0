"""Labels: of pretraining, by a probe, by fine-tuning; gaps and unknown ones."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import expressor as ex
from expressor.core.errors import DataError
from expressor.estimator.errors import NotFittedError
from expressor.systems.bmfm.estimator import BMFM
from expressor.systems.bmfm.objectives import Objective, wced
from expressor.systems.bmfm.tests.small import cells, tiny
from expressor.systems.bmfm.tuning import fit_probe
from expressor.train.plan import TrainPlan


def test_types_are_told(learnt: BMFM) -> None:
    table = learnt.evaluate(cells(7)).set_index("metric")["value"]
    assert table["accuracy"] > 0.8


def test_vectors_do_not_know_the_labels(fitted: BMFM) -> None:
    shuffled = cells()
    shuffled.obs["cell_type"] = shuffled.obs["cell_type"].to_numpy()[::-1]
    other = tiny().fit(shuffled)
    assert np.array_equal(fitted.transform(cells(1)), other.transform(cells(1)))
    assert not np.array_equal(fitted.predict_proba(cells(1)), other.predict_proba(cells(1)))


@pytest.mark.slow
def test_labels_of_pretraining_tell_without_a_probe(tmp_path: Path) -> None:
    (tmp_path / "edges.tsv").write_text("child\tparent\nT1\tA\nT2\tA\nT3\tB\nT4\tB\nA\tcell\nB\tcell\n")
    data = cells(n=200)
    words = data.obs["cell_type"].astype(str).to_numpy(dtype=object)
    words[:20] = [{"T1": "A", "T2": "A", "T3": "B", "T4": "B"}[one] for one in words[:20]]
    words[20:30] = None
    data.obs["cell_type"] = words
    objectives = (
        *wced(), Objective(source="label", loss="hierarchical", column="cell_type", cell_token=1),
        Objective(source="label", loss="focal", column="batch", weight=0.05, reversal=1.0),
    )  # fmt: skip
    plan = TrainPlan(lr=5e-3, batch_size=32, epochs=25, clip_norm=0.5)
    model = tiny(
        objectives=objectives, cell_tokens=2, finetune="none", ontology=str(tmp_path / "edges.tsv"), plan=plan
    ).fit(data)
    assert model.classes_ == ("T1", "T2", "T3", "T4")
    history = model.history_
    assert {"val_cell_type_hierarchical", "val_batch_focal"} <= set(history)
    # What is unlearnt must not choose the weights: those that still tell it would be kept.
    judged = history["val_all_mse"] + history["val_all_is_zero"] + history["val_cell_type_hierarchical"]
    assert history["val_loss"].to_numpy() == pytest.approx(judged.to_numpy(), rel=1e-5)
    assert model.evaluate(cells(1))["value"][0] > 0.5
    again = ex.load(model.save(tmp_path / "model"))
    assert again.predict_proba(cells(1)).equals(model.predict_proba(cells(1)))


def test_the_probe_is_logistic_regression_on_vectors_of_one_scale() -> None:
    from sklearn.linear_model import LogisticRegression

    draw = np.random.default_rng(0)
    codes = np.arange(120) % 3
    x = (draw.normal(size=(120, 5)) * [1, 5, 0.1, 2, 1] + 3 + codes[:, None] * [1, 0, 0.1, 0, 0]).astype(np.float32)
    for n in (3, 2):
        y = codes % n
        head = fit_probe(x, y, n, strength=0.5)
        z = (x - x.mean(0)) / np.sqrt(x.var(0).mean())
        expected = LogisticRegression(C=0.5, max_iter=2000).fit(z, y).predict_proba(z)
        found = torch.softmax(torch.from_numpy(x) @ head.weight.T + head.bias, 1).numpy()
        assert np.allclose(found, expected, atol=1e-3)
    # Nothing to learn: a strong penalty is chosen; classes apart: a weak one.
    noise, apart = (
        [float(fit_probe(x, y, int(y.max()) + 1, strength=one).weight.norm()) for one in (None, 0.03, 3.0)]
        for y in (np.random.default_rng(1).permutation(codes), (x[:, 1] > x[:, 1].mean()).astype(int))
    )
    assert noise[0] <= noise[1]
    assert apart[0] >= apart[2]


@pytest.mark.parametrize("how", ["full", "lora"])
def test_fine_tuning_starts_from_the_probe_and_must_gain(how: Any, learnt: BMFM, tmp_path: Path) -> None:
    data, own = cells(n=160), {"start_from": str(learnt.save(tmp_path / "learnt")), "objectives": "", "max_length": 64}
    plan = TrainPlan(lr=1e-3, batch_size=32, epochs=4)
    model = tiny(finetune=how, lora_rank=2, tuning=plan, **own).fit(data)
    assert model.history_["stage"].tolist() == ["probe", *["tune"] * 4]
    assert model.history_["val_loss"].iloc[1:].min() < model.history_["val_loss"].iloc[0]
    assert np.array_equal(model.transform(cells(1)), learnt.transform(cells(1)))
    kept, now = learnt._fitted.network.state_dict(), model._fitted.tuned.state_dict()  # type: ignore[union-attr]
    changed = {name for name in kept if not torch.equal(kept[name], now[name])}
    assert changed
    assert how == "full" or all(name.startswith("encoder.") and name.endswith("weight") for name in changed)
    again = ex.load(model.save(tmp_path / "model"))
    assert again.predict_proba(cells(1)).equals(model.predict_proba(cells(1)))
    useless = tiny(finetune=how, tuning=TrainPlan(lr=10.0, batch_size=32, epochs=1), **own).fit(data)
    assert useless._fitted.tuned is None
    assert "was discarded" in useless.describe()


@pytest.mark.slow
def test_fine_tuning_goes_on_where_it_was_stopped(tmp_path: Path) -> None:
    def model(steps: int) -> BMFM:
        one = tiny(finetune="full", tuning=TrainPlan(lr=1e-3, batch_size=16, epochs=4))
        one.tuning.set_params(max_steps=steps, checkpoint_steps=1)
        return one

    whole = model(9).fit(cells())
    folder = tmp_path / "resume"
    first = model(9)
    first.fit(cells(), resume=folder)
    (folder / "tune.safetensors").unlink()
    assert first.fit(cells(), resume=folder).predict_proba(cells(1)).equals(whole.predict_proba(cells(1)))


def test_gaps_in_labels_and_unknown_ones() -> None:
    data = cells()
    words = data.obs["cell_type"].astype(str).to_numpy(dtype=object)
    words[:30] = None
    data.obs["cell_type"] = words
    model = tiny().fit(data)
    assert model._fitted.counts["labelled"] == 50
    new = cells(1)
    new.obs["cell_type"] = new.obs["cell_type"].astype(str).replace("T1", "unheard")
    table = model.evaluate(new).set_index("metric")
    assert table.loc["log_loss", "n_undefined"] == (new.obs["cell_type"] == "unheard").sum()
    data.obs["cell_type"] = "one"
    with pytest.raises(DataError, match="tells no classes apart"):
        tiny().fit(data)


def test_a_model_without_labels_says_so() -> None:
    model = tiny(label=None).fit(cells())
    with pytest.raises(NotFittedError, match="without labels"):
        model.predict(cells())
    data = cells(1)
    data.X = data.X.toarray()
    data.X[0, 0] = np.nan
    model.annotate(data)
    assert data.obsm["bmfm"].shape == (80, 16)
    assert np.isfinite(data.layers["bmfm_restored"]).all()
    assert np.array_equal(data.layers["bmfm_restored"][1:], data.X[1:])
