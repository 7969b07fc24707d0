"""What users meet: errors that say what to do, panels, ranks, pipelines, supplied vectors, saving."""

import logging
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pytest
import torch

from expressor.core.errors import DataError, GeneError
from expressor.datasets.profiles import simulate_bulk
from expressor.estimator.base import load
from expressor.estimator.errors import NotFittedError
from expressor.systems.gexbert.estimator import GexBERT
from expressor.systems.gexbert.profiles import Reference


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def tiny(**changes: Any) -> GexBERT:
    return GexBERT.preset("tiny", **({"network": False, "label": None, "time": None, "event": None} | changes))


@pytest.fixture(scope="module")
def data() -> ad.AnnData:
    return simulate_bulk(n_patients=60, seed=0)


@pytest.fixture(scope="module")
def fitted(data: ad.AnnData) -> GexBERT:
    return tiny(label="cancer_type", time="time", event="event").fit(data)


# Parameters -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"heads": 3}, "dim is not a multiple of heads; got 16 and 3"),
        ({"panel_sizes": (20, 4)}, "panel_sizes is no range"),
        ({"panel": ()}, "panel names no gene"),
        ({"time": "time"}, r"time= was given without event=\. Name both columns, or neither\."),
        ({"event": "event"}, "event= was given without time="),
        ({"linear_skip": False}, "nothing that restores"),
        ({"tuning": "fine-tuned"}, "there is no network to fine-tune"),
        ({"gene_vectors": "pcs"}, r"unknown gene_vectors 'pcs'; .*nearest: 'pca'"),
        ({"validation": 0.0}, "validation is out of range"),
        ({"folds": 1}, "folds is out of range"),
    ],
)
def test_parameters_are_checked_in_fit(data: ad.AnnData, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        tiny(**changes).fit(data)


# Bad data ---------------------------------------------------------------------------------------------------------------


def changed(data: ad.AnnData, **columns: Any) -> ad.AnnData:
    found = data.copy()
    for name, values in columns.items():
        found.obs[name] = values
    return found


def test_outcomes_that_cannot_be_are_refused(data: ad.AnnData) -> None:
    outcome = {"time": "time", "event": "event"}
    time = data.obs["time"].to_numpy(float).copy()
    time[3] = -5
    with pytest.raises(DataError, match=r"obs\['time'\] has 1 negative times, such as that of"):
        tiny(**outcome).fit(changed(data, time=time))
    with pytest.raises(DataError, match="there is no event among 60 samples"):
        tiny(**outcome).fit(changed(data, event=False))
    with pytest.raises(DataError, match="too few events to learn risks from; expected at least 2, got 1"):
        tiny(**outcome).fit(changed(data, event=np.arange(60) == 4))
    with pytest.raises(DataError, match="no sample has a time and an event"):
        tiny(**outcome).fit(changed(data, time=np.nan))
    with pytest.raises(DataError, match=r"obs has no column 'tme'; nearest: 'time'"):
        tiny(time="tme", event="event").fit(data)
    with pytest.raises(DataError, match="all samples have one label"):
        tiny(label="cancer_type").fit(changed(data, cancer_type="T1"))


def test_a_patient_on_both_sides_is_refused(data: ad.AnnData) -> None:
    val = data[:10].copy()
    val.obs_names = [f"again-{i}" for i in range(10)]
    with pytest.raises(
        DataError, match=r"10 patients are in the training and in the validation data.*Split by patient\."
    ):
        tiny().fit(data, val=val)


def test_held_out_patients_are_whole(data: ad.AnnData) -> None:
    twice = simulate_bulk(n_patients=30, samples_per_patient=2, seed=0)
    fitting = __import__("expressor.systems.gexbert.fitting", fromlist=["Pretraining"]).Pretraining(
        tiny(), twice, None, None
    )
    inside, outside = (set(fitting.patients[one.numpy()]) for one in (fitting.train, fitting.held_out))
    assert inside
    assert outside
    assert not inside & outside


def test_gaps_scales_and_genes(data: ad.AnnData, fitted: GexBERT) -> None:
    empty = data.copy()
    empty.X = empty.X.copy()
    empty.X[2] = np.nan
    name = data.obs_names[2]
    with pytest.raises(
        DataError, match=f"1 of 60 samples have no measured gene of the training data, such as '{name}'"
    ):
        tiny().fit(empty)
    with pytest.raises(DataError, match=f"1 of 60 samples have no measured gene of the fit, such as '{name}'"):
        fitted.impute(empty)
    gap = data.copy()
    gap.X = gap.X.copy()
    gap.X[:, 5] = np.nan
    with pytest.raises(DataError, match="1 of 40 genes have no measured value, such as 'GENE06'"):
        tiny().fit(gap)
    counts = data.copy()
    counts.X = np.round(np.exp2(data.X)).astype(np.float32)
    counts.uns["unit"] = "counts"
    with pytest.raises(DataError, match="GexBERT cannot use counts"):
        tiny().fit(counts)
    with pytest.raises(DataError, match="the data are on another scale than those of the fit"):
        fitted.impute(counts)
    other = data.copy()
    other.var_names = [f"X{i}" for i in range(40)]
    with pytest.raises(GeneError, match="missing"):
        fitted.impute(other)
    with pytest.raises(GeneError, match=r"such as 'GENE99'"):
        tiny(panel=("GENE99",), label="cancer_type").fit(data)
    with pytest.raises(DataError, match="too little to learn from; expected at least 8 samples"):
        tiny().fit(data[:5].copy())


def test_a_constant_gene_is_restored_to_its_value(data: ad.AnnData) -> None:
    constant = data.copy()
    constant.X = constant.X.copy()
    constant.X[:, 7] = 3.25
    model = tiny(network=True).fit(constant)
    place = list(model.genes_in_).index(data.var_names[7])
    few = constant[:, data.var_names[20:]].copy()
    np.testing.assert_allclose(model.impute(few)[:, place], 3.25)
    lower, upper = model.impute_interval(few)
    np.testing.assert_allclose(upper[:, place] - lower[:, place], 0, atol=1e-5)


def test_a_model_without_heads_says_how_to_get_them(data: ad.AnnData) -> None:
    model = tiny().fit(data)
    for call, word in ((model.predict, "label="), (model.predict_proba, "label="), (model.risk, "time= and event="),
                       (model.survival_function, "time= and event="), (model.attribute, "label=")):  # fmt: skip
        with pytest.raises(NotFittedError, match=word):
            call(data)
    target = data.copy()
    model.annotate(target)
    assert target.obsm["gexbert"].shape == (60, 40)


def test_times_must_be_usable(data: ad.AnnData, fitted: GexBERT) -> None:
    with pytest.raises(DataError, match="times are not usable; expected finite numbers >= 0"):
        fitted.survival_function(data, [-1.0])


# Panels -----------------------------------------------------------------------------------------------------------------


def test_heads_look_at_nothing_but_their_panel(data: ad.AnnData) -> None:
    panel = tuple(data.var_names[::4])
    model = tiny(label="cancer_type", time="time", event="event", panel=panel).fit(data)
    other = data.copy()
    other.X = other.X.copy()
    outside = ~data.var_names.isin(panel)
    other.X[:, outside] += 1.0
    np.testing.assert_array_equal(model.predict_proba(data), model.predict_proba(other))
    np.testing.assert_array_equal(model.risk(data), model.risk(other))
    np.testing.assert_array_equal(model.predict_proba(data), model.predict_proba(data[:, list(panel)].copy()))
    assert (model.attribute(data, of="risk").loc[:, outside] == 0).all(axis=None)
    with pytest.raises(DataError, match="60 of 60 samples have no measured value of the panel"):
        model.risk(data[:, outside].copy())


def test_a_sample_does_not_depend_on_its_company(data: ad.AnnData, fitted: GexBERT) -> None:
    gaps = data.copy()
    gaps.X = np.where(np.random.default_rng(0).random(data.shape) < 0.5, np.float32(np.nan), data.X)
    np.testing.assert_allclose(fitted.impute(gaps)[4:5], fitted.impute(gaps[4:5].copy()), rtol=1e-6)


@pytest.mark.parametrize("survival_input", ["token", "panel"])
def test_a_gene_that_hardly_varied_does_not_decide_a_risk(data: ad.AnnData, survival_input: Any) -> None:
    """One patient lies a thousand training standard deviations away in one gene: it counts as five."""
    still = data.copy()
    still.X = still.X.copy()
    still.X[:, 6] = 4.0 + 1e-3 * np.random.default_rng(0).standard_normal(60)
    model = tiny(time="time", event="event", survival_input=survival_input).fit(still)
    far, near = still[:1].copy(), still[:1].copy()
    far.X[0, 6], near.X[0, 6] = 5.0, 4.0
    risks = model.risk(still)
    assert abs(float(model.risk(far)[0] - model.risk(near)[0])) < np.ptp(risks)


# Other pipelines --------------------------------------------------------------------------------------------------------


def test_rank_values_do_not_change_with_a_monotone_distortion(data: ad.AnnData) -> None:
    """A pipeline that stretches every sample's values: ranks undo it, and what is restored comes back on the sample's scale."""
    new = simulate_bulk(n_patients=40, seed=9)
    panel = list(data.var_names[::2])
    warped = new.copy()
    warped.X = (0.02 * new.X**2 + 0.5 * new.X).astype(np.float32)
    model, plain = tiny(value_scale="rank").fit(data), tiny().fit(data)
    names = list(model.genes_in_)
    hidden = [i for i, name in enumerate(names) if name not in panel]
    truth = warped[:, names].X[:, hidden]

    def error(one: GexBERT) -> float:
        return float(np.sqrt(((one.impute(warped[:, panel].copy())[:, hidden] - truth) ** 2).mean()))

    assert error(model) < 0.8 * error(plain)
    np.testing.assert_allclose(model.transform(warped), model.transform(new), atol=1e-4)
    kept = [i for i, name in enumerate(names) if name in panel]
    np.testing.assert_array_equal(model.impute(warped[:, panel].copy())[:, kept], warped[:, [names[i] for i in kept]].X)


def test_the_reference_is_near_a_training_sample_s_own_quantiles() -> None:
    values = np.random.default_rng(0).normal(np.linspace(0, 10, 200), 1.0, size=(100, 200))
    reference = Reference.of(values)
    own = np.sort(values, axis=1).mean(axis=0)
    assert np.abs(reference.quantiles(np.arange(200)) - own).mean() < 0.1
    assert (np.diff(reference.quantiles(np.arange(0, 200, 7))) >= 0).all()


def test_pipelines_have_vectors_and_an_unknown_one_is_taken(data: ad.AnnData) -> None:
    model = tiny(network=True, pipeline="pipeline").fit(data)
    assert model._fitted.network.pipeline.weight.shape[0] == 3  # type: ignore[union-attr]
    unknown = changed(data, pipeline="of another laboratory")
    assert np.isfinite(model.impute(unknown[:, :20].copy())).all()
    del unknown.obs["pipeline"]
    assert np.isfinite(model.impute(unknown[:, :20].copy())).all()
    with pytest.raises(DataError, match="obs has no column 'lab' for the pipeline"):
        tiny(pipeline="lab").fit(data)


def test_gene_vectors_may_be_supplied(data: ad.AnnData) -> None:
    given = data.copy()
    given.varm["mine"] = np.random.default_rng(0).standard_normal((40, 5))
    given.varm["mine"][3] = np.nan
    model = tiny(network=True, gene_vectors="varm:mine").fit(given)
    assert np.isfinite(model.impute(data[:, :20].copy())).all()
    with pytest.raises(
        DataError, match=r"varm has no gene vectors 'yours'; expected mine\. .*gene_vectors=\"varm:NAME\""
    ):
        tiny(network=True, gene_vectors="varm:yours").fit(given)


# The paper's way --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoder", ["bins", "continuous"])
def test_the_transformer_alone_restores(data: ad.AnnData, encoder: str) -> None:
    """Without the skip, as in the paper: after some training it does better than the mean."""
    model = tiny(network=True, linear_skip=False, memory=0, gene_vectors="random", value_encoder=encoder, steps=40)
    model.plan.set_params(epochs=6, lr=5e-3)
    model.fit(data)
    judged = model.history_[model.history_["stage"] == "pretrain"]
    assert judged["val_rmse"].min() < judged["skip_rmse"].iloc[0]
    assert "to restore the others" in model.describe()


# Saving -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "changes",
    [
        {"network": True, "tuning": "fine-tuned", "label": "cancer_type", "time": "time", "event": "event"},
        {"network": True, "value_scale": "rank", "pipeline": "pipeline"},
        {"network": True, "linear_skip": False, "memory": 0, "value_encoder": "bins"},
        {
            "time": "time",
            "event": "event",
            "survival_input": "anchors",
            "anchors": 3,
            "panel": ("GENE01", "GENE05", "GENE09"),
        },
    ],
    ids=["fine-tuned", "rank", "paper", "anchors"],
)
def test_every_kind_of_model_is_saved_whole(data: ad.AnnData, tmp_path: Path, changes: dict[str, Any]) -> None:
    model = tiny(**changes).fit(data)
    again = load(model.save(tmp_path / "model"))
    new = simulate_bulk(n_patients=8, seed=2)
    few = new[:, ["GENE01", "GENE05", "GENE09", "GENE20"]].copy()
    np.testing.assert_array_equal(model.impute(few), again.impute(few))
    np.testing.assert_array_equal(model.impute_draws(few, 2), again.impute_draws(few, 2))
    np.testing.assert_array_equal(model.transform(few), again.transform(few))
    if model.classes_:
        np.testing.assert_array_equal(model.predict_proba(few), again.predict_proba(few))
    if model.time:
        np.testing.assert_array_equal(model.risk(few), again.risk(few))
        np.testing.assert_array_equal(model.survival_function(few), again.survival_function(few))
    assert again.anchors_ == model.anchors_
    assert again.describe() == model.describe()


def test_without_memory_no_training_profile_is_saved(data: ad.AnnData, tmp_path: Path) -> None:
    from expressor.estimator.storage import read_tensors

    folder = tiny().fit(data).save(tmp_path / "model")
    with_memory = tiny(memory=50)
    assert with_memory.memory == 50
    found = tiny(memory=0).fit(data).save(tmp_path / "none")
    assert "memory" not in read_tensors(found / "model.safetensors")
    tensors = read_tensors(folder / "model.safetensors")
    if "memory" in tensors:
        assert tensors["memory"].shape == (60, 40)


def test_it_is_said_when_the_network_is_not_used(data: ad.AnnData, caplog: pytest.LogCaptureFixture) -> None:
    noise = data.copy()
    noise.X = np.random.default_rng(0).standard_normal(data.shape).astype(np.float32)
    noise.uns["unit"] = "log ratio"
    with caplog.at_level(logging.INFO, logger="expressor"):
        model = tiny(network=True).fit(noise)
    if not model.parts_["network_share"].any():
        assert "is not used for restoring" in caplog.text
        assert "it was switched off" in model.describe()
