"""The simulators: deterministic, in the layout, and with a truth that plain statistics find."""

import warnings
from pathlib import Path

import anndata as ad
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LinearRegression

from expressor.core.errors import DataError
from expressor.data.fields import expression
from expressor.data.spatial import check_spatial, pitch_px
from expressor.datasets import example, simulate_auxiliaries, simulate_tissue
from expressor.datasets.tissue import EOSIN, HAEMATOXYLIN, grid_points
from expressor.genes.ids import check_gene_names, detect_namespace
from expressor.genes.panels import hvg_scores


def same(one: ad.AnnData, other: ad.AnnData) -> bool:
    return (
        (one.X != other.X).nnz == 0
        and one.obs.equals(other.obs)
        and one.var.equals(other.var)
        and set(one.obsm) == set(other.obsm)
        and all(np.array_equal(one.obsm[key], other.obsm[key]) for key in one.obsm)
    )


def pictures(adata: ad.AnnData) -> dict[str, np.ndarray]:
    return {name: np.asarray(Image.open(entry["metadata"]["image"])) for name, entry in adata.uns["spatial"].items()}


def genes_of(adata: ad.AnnData, role: str) -> list[str]:
    return list(adata.var_names[(adata.var["role"] == role).to_numpy()])


def correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Pearson's r of each column of ``a`` (row, column) with the vector or the like-shaped ``b``."""
    b = b[:, None] if b.ndim == 1 else b
    a, b = a - a.mean(axis=0), b - b.mean(axis=0)
    return (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))


# --- auxiliaries ------------------------------------------------------------------------------------------------------


def test_auxiliaries_in_the_layout(tmp_path):
    adata = simulate_auxiliaries(seed=3, sections=3)
    assert adata.shape == (240, 252)
    assert adata.X.dtype == np.float32
    assert adata.obsm["X_simulated"].shape == (240, 48)
    assert adata.obsm["X_simulated"].dtype == np.float32
    assert list(adata.obs["section"].value_counts()) == [80, 80, 80]
    check_spatial(adata)
    check_gene_names(adata.var_names, where="simulated")
    truth = adata.uns["truth"]
    assert truth["cut"] == 60
    assert list(truth["primary"]) == genes_of(adata, "primary")
    assert list(truth["ranking"]) == genes_of(adata, "informative") + genes_of(adata, "useless")
    assert list(adata.var.loc[truth["ranking"], "planted_rank"]) == list(range(240))
    assert set(adata.var.loc[truth["primary"], "planted_rank"]) == {-1}
    adata.write_h5ad(tmp_path / "simulated.h5ad")
    assert same(ad.read_h5ad(tmp_path / "simulated.h5ad"), adata)
    assert list(ad.read_h5ad(tmp_path / "simulated.h5ad").uns["truth"]["ranking"]) == list(truth["ranking"])


def test_auxiliaries_are_a_function_of_the_seed():
    assert same(simulate_auxiliaries(seed=1), simulate_auxiliaries(seed=1))
    assert not same(simulate_auxiliaries(seed=1), simulate_auxiliaries(seed=2))
    np.random.random()  # noqa: NPY002 (the global generator must not matter)
    assert same(simulate_auxiliaries(seed=1), simulate_auxiliaries(seed=1))


def test_factors_are_directions_of_the_features():
    adata = simulate_auxiliaries(seed=0)
    for key in ("shared_factors", "other_factors"):
        fit = LinearRegression().fit(adata.obsm["X_simulated"], adata.obsm[key])
        np.testing.assert_allclose(fit.predict(adata.obsm["X_simulated"]), adata.obsm[key], atol=1e-4)
    cross = np.corrcoef(adata.obsm["shared_factors"].T, adata.obsm["other_factors"].T)[:6, 6:]
    assert np.abs(cross).max() < 0.25  # independent, up to sampling


def test_each_role_follows_its_factors():
    adata = simulate_auxiliaries(seed=0, n_spots=600)
    shared, other = adata.obsm["shared_factors"], adata.obsm["other_factors"]

    def explained(role: str, factors: np.ndarray) -> float:
        values = expression(adata, genes_of(adata, role), scale="log1p_cp10k").astype(float)
        fit = LinearRegression().fit(factors[:300], values[:300])
        return float(np.mean(correlation(values[300:], fit.predict(factors[300:])) ** 2))

    assert explained("informative", shared) > 0.8
    assert explained("useless", other) > 0.7
    assert 0.2 < explained("primary", shared) < 0.5
    assert explained("primary", other) < 0.05
    assert explained("useless", shared) < 0.1


def test_noise_is_the_primaries_alone():
    quiet, loud = (simulate_auxiliaries(seed=0, noise=noise) for noise in (0.0, 1.5))

    def r(adata: ad.AnnData, role: str) -> float:
        values = expression(adata, genes_of(adata, role), scale="log1p_counts").astype(float)
        fitted = LinearRegression().fit(adata.obsm["shared_factors"], values).predict(adata.obsm["shared_factors"])
        return float(correlation(values, fitted).mean())

    assert r(quiet, "primary") > r(loud, "primary") + 0.3
    assert r(quiet, "informative") == pytest.approx(r(loud, "informative"), abs=0.02)


def test_a_ranking_by_dispersion_finds_most_of_the_planted_order():
    adata = simulate_auxiliaries(seed=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        scores = np.asarray(hvg_scores(np.log1p(adata.X.toarray())))
    auxiliary = adata.var["planted_rank"].to_numpy() >= 0
    best = np.argsort(-scores[auxiliary])[:60]
    assert (adata.var["role"].to_numpy()[auxiliary][best] == "informative").mean() > 0.7


def reduced_rank_score(adata: ad.AnnData, k: int, width: int) -> float:
    """Held-out correlation of the primaries from a linear trunk of ``width`` units shared with the k best auxiliaries.

    Ridge from features to standardised genes, cut to its ``width`` leading directions: what a trained trunk does, in closed form.
    """
    names = [*adata.uns["truth"]["primary"], *adata.uns["truth"]["ranking"][:k]]
    x = adata.obsm["X_simulated"].astype(float)
    y = expression(adata, names, scale="log1p_cp10k").astype(float)
    order = np.random.default_rng(0).permutation(len(x))
    train, test = order[: len(x) // 2], order[len(x) // 2 :]
    mean, spread = y[train].mean(axis=0), y[train].std(axis=0)
    z = (y[train] - mean) / spread
    weights = np.linalg.solve(x[train].T @ x[train] + 20 * np.eye(x.shape[1]), x[train].T @ z)
    _, _, directions = np.linalg.svd(x[train] @ weights, full_matrices=False)
    trunk = weights @ directions[:width].T
    heads = np.linalg.lstsq(x[train] @ trunk, z, rcond=None)[0]
    primary = len(adata.uns["truth"]["primary"])
    return float(correlation(y[test][:, :primary], (x[test] @ trunk @ heads)[:, :primary]).mean())


def curve(ks: tuple[int, ...], seeds: int = 6, **how: int) -> np.ndarray:
    return np.mean(
        [[reduced_rank_score(simulate_auxiliaries(seed=s, **how), k, 6) for k in ks] for s in range(seeds)], axis=0
    )


def test_a_shared_trunk_of_few_units_is_best_at_the_planted_cut():
    ks = (0, 20, 40, 60, 84, 120, 240)
    scores = curve(ks)
    assert ks[int(np.argmax(scores))] == 60
    assert scores[3] > scores[0] + 0.03
    assert scores[3] > scores[-1] + 0.15
    assert (np.diff(scores[3:]) < 0).all()


def test_useless_auxiliaries_only_hurt():
    ks = (0, 24, 60, 120, 240)
    scores = curve(ks, n_informative=0, n_useless=240)
    assert int(np.argmax(scores)) == 0
    assert scores[0] > scores[-1] + 0.2


@settings(deadline=None, max_examples=20)
@given(
    n_primary=st.integers(1, 5), informative=st.integers(0, 12), useless=st.integers(0, 30), factors=st.integers(1, 4),
    sections=st.integers(1, 3), seed=st.integers(0, 5),
)  # fmt: skip
def test_auxiliaries_of_any_size(n_primary, informative, useless, factors, sections, seed):
    how = {"n_spots": 15, "n_features": 6, "n_primary": n_primary, "n_informative": informative, "n_useless": useless}
    if 0 < informative < factors:
        with pytest.raises(DataError, match="too few informative auxiliaries to cover the shared factors"):
            simulate_auxiliaries(**how, n_factors=factors, sections=sections, seed=seed)
        return
    adata = simulate_auxiliaries(**how, n_factors=factors, sections=sections, seed=seed)
    assert adata.n_vars == n_primary + informative + useless
    assert adata.obs["section"].nunique() == sections
    assert max(adata.obs["section"].value_counts()) - min(adata.obs["section"].value_counts()) <= 1
    assert np.isfinite(adata.X.data).all()
    assert (adata.X.data == np.round(adata.X.data)).all()
    check_spatial(adata)


def test_auxiliaries_refuse_wrong_sizes():
    with pytest.raises(DataError, match="n_primary is out of range"):
        simulate_auxiliaries(n_primary=0)
    with pytest.raises(DataError, match="n_features is out of range"):
        simulate_auxiliaries(n_features=6, n_factors=6)
    with pytest.raises(DataError, match="n_spots is out of range"):
        simulate_auxiliaries(n_spots=7, sections=2)
    with pytest.raises(DataError, match="noise is out of range"):
        simulate_auxiliaries(noise=-0.1)


# --- tissue -----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def tissue(tmp_path_factory) -> ad.AnnData:
    return simulate_tissue(
        sections=2, spots=144, n_genes=80, um_per_px=4.0, seed=0, folder=tmp_path_factory.mktemp("t")
    )


def densities(adata: ad.AnnData) -> np.ndarray:
    """Optical densities (spot, 2) of haematoxylin and eosin under each spot, unmixed from the picture by least squares."""
    found = np.zeros((adata.n_obs, 2))
    stains = np.stack([HAEMATOXYLIN, EOSIN])
    for name, picture in pictures(adata).items():
        amount = -np.log(np.maximum(picture.astype(float), 1.0) / 243.0) @ np.linalg.pinv(stains)
        rows = np.flatnonzero((adata.obs["section"] == name).to_numpy())
        radius = int(adata.uns["spatial"][name]["scalefactors"]["spot_diameter_fullres"] / 2)
        for i in rows:
            x, y = adata.obsm["spatial"][i].astype(int)
            found[i] = amount[y - radius : y + radius, x - radius : x + radius].mean(axis=(0, 1))
    return found


def test_tissue_in_the_layout(tissue, tmp_path):
    check_spatial(tissue)
    assert tissue.shape == (288, 80)
    assert detect_namespace(tissue.var_names) == "symbol"
    assert pitch_px(tissue.obsm["spatial"][:144]) * 4.0 == pytest.approx(200)
    for name, entry in tissue.uns["spatial"].items():
        path = Path(entry["metadata"]["image"])
        assert path.name == f"simulated-{name}.png"
        with Image.open(path) as picture:
            assert picture.format == "PNG"
            assert picture.size == (entry["metadata"]["image_width"], entry["metadata"]["image_height"])
        assert max(entry["images"]["hires"].shape) <= 1024
    tissue.write_h5ad(tmp_path / "tissue.h5ad")
    assert same(ad.read_h5ad(tmp_path / "tissue.h5ad"), tissue)


def test_large_pictures_come_with_a_small_copy(tmp_path):
    adata = simulate_tissue(sections=1, spots=36, um_per_px=1.0, folder=tmp_path)
    entry = adata.uns["spatial"]["S1"]
    assert entry["metadata"]["image_width"] == 1400
    assert entry["images"]["hires"].shape == (1024, 1024, 3)
    assert entry["scalefactors"]["tissue_hires_scalef"] == pytest.approx(1024 / 1400)


def test_the_picture_shows_nuclei_and_eosin_and_nothing_else(tissue):
    blue, pink = densities(tissue).T
    fields = tissue.obs[["nuclei", "eosin", "hidden"]].to_numpy()
    by_blue, by_pink = correlation(fields, blue), correlation(fields, pink)
    assert by_blue[0] > 0.85
    assert by_pink[1] > 0.85
    assert abs(by_blue[1]) < 0.35
    assert abs(by_pink[0]) < 0.35
    assert np.abs([by_blue[2], by_pink[2]]).max() < 0.35


def test_genes_follow_what_they_are_said_to_follow(tissue):
    values = expression(tissue, list(tissue.var_names), scale="log1p_cp10k").astype(float)
    for role in ("nuclei", "eosin", "hidden"):
        mine = (tissue.var["role"] == role).to_numpy()
        r = correlation(values[:, mine], tissue.obs[role].to_numpy())
        assert (np.sign(r) == np.sign(tissue.var["loading"][mine])).all()
        assert np.median(np.abs(r)) > 0.5
    flat = (tissue.var["role"] == "flat").to_numpy()
    assert (tissue.var["loading"][flat] == 0).all()
    r = correlation(values[:, flat], tissue.obs["nuclei"].to_numpy())
    assert np.median(np.abs(r)) < 0.25


def test_pixels_predict_visible_genes_on_another_section_and_no_hidden_ones(tissue):
    stain = densities(tissue)
    train = (tissue.obs["section"] == "S1").to_numpy()
    score = {}
    for role in ("nuclei", "eosin", "hidden"):
        values = expression(tissue, genes_of(tissue, role), scale="log1p_cp10k").astype(float)
        predicted = LinearRegression().fit(stain[train], values[train]).predict(stain[~train])
        score[role] = float(correlation(values[~train], predicted).mean())
    assert score["nuclei"] > 0.45
    assert score["eosin"] > 0.45
    assert abs(score["hidden"]) < 0.2


def test_precomputed_features_tell_the_visible_fields(tissue):
    features = tissue.obsm["X_simulated"]
    train = (tissue.obs["section"] == "S1").to_numpy()
    fields = tissue.obs[["nuclei", "eosin", "hidden"]].to_numpy()
    predicted = LinearRegression().fit(features[train], fields[train]).predict(features[~train])
    r = correlation(fields[~train], predicted)
    assert r[:2].min() > 0.8
    assert abs(r[2]) < 0.3


def test_tissue_is_a_function_of_its_seeds(tmp_path):
    def make(where: str, **seeds: int) -> ad.AnnData:
        return simulate_tissue(sections=1, spots=9, um_per_px=10.0, folder=tmp_path / where, **seeds)

    first, again = make("a", seed=1), make("b", seed=1)
    assert same(first, again)
    np.testing.assert_array_equal(pictures(first)["S1"], pictures(again)["S1"])
    other = make("c", seed=2)
    assert not np.array_equal(pictures(first)["S1"], pictures(other)["S1"])
    assert first.var.equals(other.var)  # one mechanism: the same genes follow the same fields
    changed = make("d", seed=1, mechanism=1)
    assert not first.var["loading"].equals(changed.var["loading"])
    np.testing.assert_array_equal(pictures(first)["S1"], pictures(changed)["S1"])


def test_tissue_refuses_wrong_sizes_and_folders(tmp_path):
    with pytest.raises(DataError, match="um_per_px is out of range"):
        simulate_tissue(um_per_px=100.0)
    with pytest.raises(DataError, match="spots is out of range"):
        simulate_tissue(spots=1)
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(DataError, match=r"the folder .* for the pictures cannot be made"):
        simulate_tissue(folder=tmp_path / "file" / "sub", spots=4, um_per_px=20.0)


@given(st.integers(1, 200))
def test_grid_points_are_different_and_close(n):
    points = grid_points(n)
    assert len({tuple(one) for one in points}) == n
    assert points.max() <= np.ceil(np.sqrt(n))
    assert points.min() == 1


# --- examples ---------------------------------------------------------------------------------------------------------


def test_example_of_histology():
    adata = example("histology")
    assert adata.shape == (84, 40)
    assert set(adata.obs["section"]) == {"S1", "S2"}
    assert set(adata.obs["patient"]) == {"P1", "P2"}
    assert adata.obsm["X_simulated"].shape == (84, 16)
    check_spatial(adata)
    assert all(Path(entry["metadata"]["image"]).stat().st_size < 2_000_000 for entry in adata.uns["spatial"].values())
    assert (np.asarray((adata.X > 0).sum(axis=0)) > 0).all()
    assert same(adata, example("histology"))


def test_examples_of_other_seeds_are_other_tissue_of_the_same_genes():
    first, second = example("histology"), example("histology", seed=1)
    assert first.var.equals(second.var)
    assert (first.X != second.X).nnz > 0
    paths = [one.uns["spatial"]["S1"]["metadata"]["image"] for one in (first, second)]
    assert paths[0] != paths[1]
    assert all(Path(path).is_file() for path in paths)
    assert example("histology", n=5).n_obs == 10


def test_an_unknown_kind_of_example():
    with pytest.raises(DataError, match=r"unknown kind of example 'histologie'; .*nearest: 'histology'"):
        example("histologie")


def test_pictures_of_examples_go_with_the_process():
    import subprocess
    import sys

    code = "from expressor.datasets import example; print(example('histology', n=4).uns['spatial']['S1']['metadata']['image'])"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stderr == ""
    path = Path(done.stdout.strip())
    assert path.is_absolute()
    assert not path.exists()
    assert not path.parent.exists()
