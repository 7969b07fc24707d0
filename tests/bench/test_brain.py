"""The task of brain maps: folds, what a method may see, controls, and what the published figures are worth."""

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

from expressor.bench import find_task, run, table
from expressor.bench.controls.mapping import VECTORS, GeneControl, PlaceControl
from expressor.bench.maps import grouped, judge_genes, judge_regions, region_folds, standardised
from expressor.bench.task import Fold
from expressor.core.errors import DataError
from expressor.datasets import simulate_brain

FROZEN = {
    "blocks": "4cc1ac3a1cf4",
    "donors": "f094f44180f4",
    "random": "4e2897f265e3",
    "embryo": "2cd91067ba04",
    "genes": "c56e07bb9737",
    "regions": "70799d05ff92",
    "simulated": "f6b7cef081c3",
}


@pytest.fixture(scope="module")
def task():
    found = find_task("brain")
    few = lambda self, protocol: tuple(  # noqa: E731
        one for one in type(found).controls(self, protocol) if one.name in ("mean", "idw", "gp")
    )
    return type("Few", (type(found),), {"controls": few, "__module__": type(found).__module__})()


def test_protocols_do_not_change_silently(task):
    assert {name: one.hash for name, one in task.protocols.items()} == FROZEN


def test_the_papers_network_is_whole_where_it_is_named_and_nowhere_else(task):
    """All of the preset but what a processor cannot do: batches of pairs in place of all, one network in place of one a donor."""
    protocol = find_task("brain").protocol("blocks")
    assert "siren-whole" not in {one.name for one in find_task("brain").methods(protocol)}
    named = find_task("brain").methods(protocol, ["siren-whole"])
    model = next(one for one in named if one.name == "siren-whole").build({})
    paper = type(model).preset("paper").get_params()
    # Nothing is held out to stop on, so that patience has no effect.
    assert {name for name, value in model.get_params().items() if value != paper[name]} == {
        "donor", "steps", "plan", "plan__batch_size", "plan__epochs", "plan__patience",
    }  # fmt: skip
    assert (model.donor, model.folds) == ("pooled", 0)
    assert (model.plan.batch_size, model.steps * model.plan.epochs) == (2048, 200)
    assert find_task("brain").slow(task.protocol("genes")) == ()
    with pytest.raises(DataError, match="no method 'siren-hole'.*siren-whole"):
        find_task("brain").methods(protocol, ["siren-hole"])


@pytest.mark.parametrize("kind", ["blocks", "donors", "random"])
def test_what_is_held_out_is_apart_and_each_sample_is_judged(task, kind):
    data = grouped(standardised(simulate_brain(n_samples=120)), by_donor=kind == "donors")
    protocol = task.protocol(kind)
    folds = task.folds(protocol, data)
    judged = np.concatenate([fold.test.obs_names for fold in folds])
    if kind == "random":
        assert [fold.test.n_obs for fold in folds] == [12, 12]
    else:
        assert sorted(judged) == sorted(data.obs_names)
    for fold in folds:
        assert not set(fold.train.obs_names) & set(fold.test.obs_names)
        if kind == "blocks":
            one, other = (
                {tuple(np.floor([abs(x) / 20, y / 20, z / 20])) for x, y, z in part.obsm["mni"]}
                for part in (fold.train, fold.test)
            )
            assert not one & other


def test_a_method_sees_places_and_no_expression(task):
    protocol = task.protocol("simulated")
    data = task.load(protocol)
    fold = task.folds(protocol, data)[0]
    seen = task.blind(fold.test)
    assert np.isnan(seen.X).all()
    assert set(seen.obs) == {"donor", "slab"}
    assert not seen.layers
    for one in data.obs["donor"].unique():
        rows = (data.obs["donor"] == one).to_numpy()
        np.testing.assert_allclose(data.X[rows].mean(axis=0), 0, atol=1e-5)
        np.testing.assert_allclose(data.X[rows].std(axis=0), 1, atol=1e-5)


def test_results_answer_both_questions_and_compare_on_the_same_groups(task):
    results = run(task, protocol="simulated", methods=[])
    plain = results[results["reference"] == ""]
    r2 = plain[plain["metric"] == "map_r2"].set_index(["method", "section"])["value"]
    assert r2["gp", "place"] > r2["idw", "place"] > r2["mean", "place"]
    assert set(results["section"]) >= {"place", "place and slab"}
    covered = plain[(plain["metric"] == "map_coverage") & (plain["method"] == "gp")]
    assert covered["value"].between(0.75, 1).all()
    paired = results[(results["reference"] == "idw") & (results["method"] == "gp") & (results["section"] == "place")]
    assert paired["value"].item() == pytest.approx(r2["gp", "place"] - r2["idw", "place"])
    assert (plain.loc[plain["metric"] == "map_r2", "n_clusters"] == 3).all()
    assert "on the same groups" in table(results)


def test_the_nearest_of_shuffled_samples_know_nothing():
    data = standardised(simulate_brain(n_samples=300, n_donors=1))
    train, test = data[:200].copy(), data[200:].copy()
    for kind, least in (("mean", -0.1), ("shuffled", -0.5)):
        found = PlaceControl(kind=kind).fit(train).at(test.obsm["mni"])
        r2 = 1 - ((test.X - found) ** 2).sum() / (test.X**2).sum()
        assert least < r2 < 0.05


def regions(n_genes=30):
    rng = np.random.default_rng(0)
    vectors, maps = rng.normal(size=(n_genes, 3)), rng.normal(size=(3, 40))
    X = 1 / (1 + np.exp(-(vectors @ maps).T))
    adata = AnnData(X.astype(np.float32), obs=pd.DataFrame({"voxels": 100}, index=[f"region{i}" for i in range(40)]))
    adata.obsm["mni"], adata.varm[VECTORS], adata.uns["volume"] = rng.uniform(-50, 50, size=(40, 3)), vectors, 20_000
    return adata


def test_background_makes_an_unrelated_gene_agree():
    data = regions()
    fold = Fold("one", data[:, :20].copy(), data[:, 20:].copy(), tuple(data.var_names[20:]))
    scores = {}
    for kind in ("mean", "unrelated", "nearest", "ridge"):
        control = GeneControl(kind=kind, neighbours=3).fit(fold.train)
        z = control.at(fold.test.obsm["mni"], vectors=fold.test.varm[VECTORS])
        scores[kind] = judge_genes(fold, z).mean(numeric_only=True)
    assert scores["unrelated"]["volume_r"] > 0.65
    assert abs(scores["unrelated"]["map_r"]) < 0.35
    assert scores["ridge"]["map_r"] > 0.95
    assert scores["ridge"]["map_r2"] > scores["nearest"]["map_r2"] > scores["unrelated"]["map_r2"]
    with pytest.raises(DataError, match="knows the places of its training data alone"):
        control.at(fold.test.obsm["mni"] + 1, vectors=fold.test.varm[VECTORS])


def test_volumes_are_judged_as_if_every_voxel_were_there():
    data = regions()
    fold = Fold("one", data[:, :29].copy(), data[:, 29:].copy(), ("29",))
    z = np.random.default_rng(1).normal(size=(40, 1))
    found = judge_genes(fold, z).iloc[0]
    mine = z[:, 0] * np.asarray(fold.train.X, dtype=float).std(axis=0).mean() + float(
        np.asarray(fold.train.X, dtype=float).mean()
    )
    real, made = np.zeros(20_000), np.zeros(20_000)
    real[:4000], made[:4000] = np.repeat(np.asarray(fold.test.X, dtype=float)[:, 0], 100), np.repeat(mine, 100)
    assert found["volume_r"] == pytest.approx(np.corrcoef(real, made)[0, 1])
    assert found["volume_mse"] == pytest.approx(((real - made) ** 2).mean())


SPLIT = {"kind": "regions", "folds": 4, "seed": 0}


def both_sides():
    data = regions()
    data.obs["label"] = [f"label{i // 2}" for i in range(40)]
    return data


def test_each_gene_is_hidden_once_in_each_region_and_its_vector_knows_no_hidden_value():
    data, hidden = both_sides(), []
    for fold in region_folds(SPLIT, data):
        known = fold.train.obs["known"].to_numpy()
        hidden += [(one, gene) for one in fold.test.obs_names for gene in fold.test.var_names]
        assert not set(fold.train.var_names) & set(fold.test.var_names)
        assert not set(fold.train.obs["label"][known]) & set(fold.test.obs["label"])
        raw = np.asarray(data[fold.train.obs_names[known], fold.test.var_names].X, dtype=float)
        np.testing.assert_allclose(fold.test.varm[VECTORS].T, (raw - raw.mean(axis=0)) / raw.std(axis=0), atol=1e-5)
    assert len(hidden) == len(set(hidden)) == 40 * 30


def test_other_genes_of_a_region_say_more_than_its_neighbours():
    scores = {}
    for kind in ("average", "neighbours", "others", "ridge"):
        parts = []
        for fold in region_folds(SPLIT, both_sides()):
            found = (
                GeneControl(kind=kind, neighbours=3)
                .fit(fold.train)
                .at(fold.test.obsm["mni"], vectors=fold.test.varm[VECTORS])
            )
            truth = pd.DataFrame(fold.test.X, columns=fold.test.var_names).melt(var_name="gene", value_name="truth")
            parts.append(truth.assign(predicted=pd.DataFrame(found).melt()["value"]))
        scores[kind] = judge_regions(pd.concat(parts)).mean(numeric_only=True)
    assert scores["others"]["map_r2"] > 0.8  # three factors make all maps
    assert scores["ridge"]["map_r2"] > 0.8
    assert scores["neighbours"]["map_r2"] < 0.1  # and no factor is smooth in space
    assert abs(scores["average"]["map_r2"]) < 0.2


def test_neighbours_are_the_nearest_known_regions():
    fold = region_folds(SPLIT, both_sides())[0]
    found = (
        GeneControl(kind="neighbours", neighbours=2)
        .fit(fold.train)
        .at(fold.test.obsm["mni"], vectors=fold.test.varm[VECTORS])
    )
    known = fold.train[fold.train.obs["known"].to_numpy()]
    for i, place in enumerate(fold.test.obsm["mni"]):
        near = np.argsort(((known.obsm["mni"] - place) ** 2).sum(axis=1))[:2]
        np.testing.assert_allclose(found[i], fold.test.varm[VECTORS][:, near].mean(axis=1))
    with pytest.raises(DataError, match="needs regions in which every gene is known"):
        GeneControl(kind="others").fit(regions())
