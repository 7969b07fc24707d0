"""Genes, rankings and parts: chosen from training spots, whatever the order of the columns."""

from typing import Any

import anndata as ad
import numpy as np
import pytest
from scipy import sparse

from expressor.core.errors import DataError, GeneError
from expressor.data.spatial import section_of
from expressor.datasets.examples import example
from expressor.datasets.simulate import simulate_auxiliaries
from expressor.systems.agl import selection
from expressor.systems.agl.inputs import FeatureScaler, Targets, augment


@pytest.fixture(scope="module")
def tissue() -> ad.AnnData:
    return selection.sort_genes(example("histology"))


def choose(tissue: ad.AnnData, **changes: Any) -> selection.Genes:
    settings: dict[str, Any] = {
        "target_genes": 5, "target_ranking": "dispersion", "ranking": "hvg", "min_spots": 3, "scale": "log1p_cp10k",
    }  # fmt: skip
    return selection.choose_genes(tissue, **settings | changes)


@pytest.mark.parametrize("ranking", selection.RANKINGS)
def test_every_ranking_is_a_permutation_that_ignores_column_order(tissue: ad.AnnData, ranking: str) -> None:
    genes = choose(tissue, ranking=ranking)
    order = np.random.default_rng(0).permutation(tissue.n_vars)
    assert choose(selection.sort_genes(tissue[:, order].copy()), ranking=ranking) == genes
    assert not set(genes.primary) & set(genes.auxiliary)
    assert set(genes.primary) | set(genes.auxiliary) <= set(tissue.var_names)


def test_rankings_are_of_what_they_say(tissue: ad.AnnData) -> None:
    counts = tissue.X.toarray()
    by_mean = choose(tissue, ranking="detection", target_ranking="mean", scale="log1p_counts")
    expected = tissue.var_names[np.argsort(-np.log1p(counts).mean(0), kind="stable")[:5]]
    assert by_mean.primary == tuple(expected)
    rate = dict(zip(tissue.var_names, (counts > 0).mean(0)))
    assert [rate[name] for name in by_mean.auxiliary] == sorted((rate[n] for n in by_mean.auxiliary), reverse=True)
    variance = choose(tissue, target_ranking="variance", scale="log1p_counts")
    expected = tissue.var_names[np.argsort(-np.log1p(counts).var(0), kind="stable")[:5]]
    assert set(variance.primary) == set(expected)


def test_a_list_and_a_function_rank(tissue: ad.AnnData) -> None:
    wanted = tuple(tissue.var_names[[7, 3, 30]])
    genes = choose(tissue, ranking=wanted, target_genes=tuple(tissue.var_names[[1, 3]]))
    assert genes.primary == tuple(tissue.var_names[[1, 3]])
    assert genes.auxiliary == (wanted[0], wanted[2]), "listed genes alone, in that order, without target genes"
    by_length = choose(tissue, ranking=lambda adata, primary: -np.arange(adata.n_vars))
    assert list(by_length.auxiliary) == sorted(by_length.auxiliary)
    with pytest.raises(DataError, match=r"gives no score for each gene; expected shape \(40,\), got shape \(3,\)"):
        choose(tissue, ranking=lambda adata, primary: [1, 2, 3])


def test_wrong_genes_are_refused(tissue: ad.AnnData) -> None:
    name = tissue.var_names[0]
    with pytest.raises(GeneError, match=f"1 of 1 target genes are not in the data, such as '{name[:-1]}'; nearest:"):
        choose(tissue, target_genes=(name[:-1],))
    with pytest.raises(GeneError, match="the target genes name .* twice"):
        choose(tissue, target_genes=(name, name))
    with pytest.raises(DataError, match="not enough genes to predict; expected 400 genes that vary, got 40"):
        choose(tissue, target_genes=400)


def test_rare_genes_are_no_auxiliaries(tissue: ad.AnnData) -> None:
    counts = tissue.copy()
    counts.X = counts.X.toarray()
    counts.X[:, 4] = 0
    counts.X[:2, 4] = 1
    name = counts.var_names[4]
    assert name not in choose(counts, min_spots=3).auxiliary
    assert name in choose(counts, min_spots=2).auxiliary


@pytest.mark.parametrize("how", ["blocks", "random"])
def test_parts_share_no_spot_and_stand_in_every_section(tissue: ad.AnnData, how: Any) -> None:
    parts = selection.divide(tissue, how, gap_um=0.0, seed=0)
    rows = np.concatenate([parts.fit, parts.select, parts.stop])
    assert len(np.unique(rows)) == len(rows) == tissue.n_obs
    for part in (parts.fit, parts.select, parts.stop):
        assert set(section_of(tissue).iloc[part]) == {"S1", "S2"}
    assert 0.4 * tissue.n_obs <= len(parts.fit) <= 0.75 * tissue.n_obs
    other = selection.divide(tissue, how, gap_um=0.0, seed=1)
    assert not np.array_equal(other.fit, parts.fit)


def test_a_gap_keeps_patches_apart(tissue: ad.AnnData) -> None:
    um = selection.microns(tissue)
    pitch = np.sort(np.linalg.norm(um[:1] - um[section_of(tissue) == "S1"], axis=1))[1]
    parts = selection.divide(tissue, "blocks", gap_um=1.2 * pitch, seed=0)
    labels = section_of(tissue).to_numpy()
    for i in parts.fit:
        others = np.concatenate([parts.select, parts.stop])
        others = others[labels[others] == labels[i]]
        assert np.linalg.norm(um[others] - um[i], axis=1).min() >= 1.2 * pitch


def test_whole_sections_are_parts() -> None:
    tissue = simulate_auxiliaries(n_spots=100, sections=5)
    parts = selection.divide(tissue, "auto", gap_um=0.0, seed=0)
    assert parts.how == "sections"
    labels = section_of(tissue).to_numpy()
    found = [set(labels[part]) for part in (parts.fit, parts.select, parts.stop)]
    assert [len(one) for one in found] == [3, 1, 1]
    assert not found[0] & found[1] | found[1] & found[2] | found[0] & found[2]
    with pytest.raises(DataError, match="too few sections to fit, select and stop.*at least 3, got 2.*blocks"):
        selection.divide(simulate_auxiliaries(n_spots=100, sections=2), "sections", gap_um=0.0, seed=0)


def test_held_out_groups(tissue: ad.AnnData) -> None:
    groups = selection.held_out_groups(tissue, "section", gap_um=0.0, seed=0)
    assert [name for name, _, _ in groups] == ["S1", "S2"]
    for name, rows, held in groups:
        assert set(section_of(tissue).iloc[held]) == {name}
        assert len(rows) + len(held) == tissue.n_obs
    one = tissue[section_of(tissue) == "S1"].copy()
    folds = selection.held_out_groups(one, "section", gap_um=0.0, seed=0)
    assert len(folds) == 4
    assert sorted(np.concatenate([held for _, _, held in folds])) == list(range(one.n_obs))
    with pytest.raises(DataError, match="obs has no complete column 'sectoin'; nearest: 'section'"):
        selection.held_out_groups(tissue, "sectoin", gap_um=0.0, seed=0)


def test_scaled_features_are_principal_components() -> None:
    rng = np.random.default_rng(0)
    for shape in ((50, 8), (20, 30)):
        x = rng.normal(size=shape) @ rng.normal(size=(shape[1], shape[1])) + 3.0
        x[:, 2] = 7.0  # a constant feature
        scaler = FeatureScaler.fit(x, 6)
        found = scaler(x).astype(np.float64)
        z = np.delete((x - x.mean(0)) / np.where(x.std(0) > 1e-9, x.std(0), 1), 2, axis=1)
        _, s, vt = np.linalg.svd(z, full_matrices=False)
        expected = z @ vt[:6].T / (s[0] / np.sqrt(len(z)))
        np.testing.assert_allclose(np.abs(found), np.abs(expected), atol=1e-5)
        assert found[:, 0].std() == pytest.approx(1.0, abs=1e-5)
        again = FeatureScaler.fit(x[::-1].copy(), 6)
        np.testing.assert_allclose(again.components, scaler.components, atol=1e-8)
    with pytest.raises(DataError, match="all image features are constant"):
        FeatureScaler.fit(np.ones((5, 3)), 2)


def test_an_encoder_counts_no_more_for_giving_more_numbers() -> None:
    """One block's features given eight times over: distances between spots stay as they were."""
    rng = np.random.default_rng(0)
    one, two = rng.normal(size=(30, 4)), rng.normal(size=(30, 3)) * 5
    two[:, 1] = 1.0  # constant: it has no part in its block
    plain = FeatureScaler.fit(np.hstack([one, two]), 7, (4, 3))(np.hstack([one, two]))
    wide = np.hstack([one, np.tile(two, 8)])
    many = FeatureScaler.fit(wide, 7, (4, 24))(wide)
    np.testing.assert_allclose(many @ many.T, plain @ plain.T, atol=1e-4)
    alone = FeatureScaler.fit(wide, 7)(wide)
    assert np.abs(alone @ alone.T - plain @ plain.T).max() > 0.1


def test_targets_give_the_same_sparse_or_dense(monkeypatch: pytest.MonkeyPatch) -> None:
    values = sparse.random(9, 12, density=0.3, format="csr", dtype=np.float32, random_state=0)
    rows = np.array([7, 2, 2])
    dense = Targets(values, 4)
    monkeypatch.setattr("expressor.systems.agl.inputs._DENSE_BYTES", 0)
    lean = Targets(values, 4)
    assert lean._dense is None
    for n in (12, 5, 4, 12):
        np.testing.assert_array_equal(dense.dense(rows, n), values.toarray()[rows, :n])
        np.testing.assert_array_equal(lean.dense(rows, n), dense.dense(rows, n))
    np.testing.assert_array_equal(lean.primary(rows), values.toarray()[rows, :4])


def test_augmentation_flips_and_turns() -> None:
    import torch

    patch = torch.arange(2 * 4 * 4 * 3, dtype=torch.uint8).view(2, 4, 4, 3)
    symmetries = [f(g(patch)) for f in (lambda x: x, lambda x: x.transpose(1, 2)) for g in (
        lambda x: x, lambda x: x.flip(1), lambda x: x.flip(2), lambda x: x.flip(1, 2))]  # fmt: skip
    seen = set()
    for seed in range(40):
        found = augment(patch, np.random.default_rng(seed))
        for i in range(2):
            place = [k for k, one in enumerate(symmetries) if torch.equal(one[i], found[i])]
            assert len(place) == 1
            seen.add(place[0])
    assert len(seen) == 8
