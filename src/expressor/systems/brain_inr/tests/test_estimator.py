"""Fields on simulated maps whose truth is known: recovery, intervals, genes that were never measured, files, refusals."""

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from scipy.spatial import cKDTree

import expressor as ex
from expressor.core.errors import DataError, GeneError
from expressor.data.brainspace import Grid
from expressor.data.parcels import Parcellation
from expressor.systems.brain_inr import asking, teaching
from expressor.systems.brain_inr.fitting import hold_out_groups
from expressor.systems.brain_inr.inputs import Frame, check_given, images, read_samples
from expressor.train.plan import TrainPlan

PLAN = TrainPlan(lr=1e-2, epochs=20, batch_size=256, patience=None)
SMALL: dict[str, Any] = {
    "teacher": "none",
    "conditions": (),
    "folds": 3,
    "frequencies": 32,
    "width": 64,
    "plan": PLAN,
    "held_out": "samples",
}


def simulate(seed: int = 0, n: int = 400, **changes: Any) -> Any:
    return ex.datasets.simulate_brain(n_samples=n, n_genes=10, noise=0.3, seed=seed, **changes)


@pytest.fixture(scope="module")
def fourier() -> Any:
    return ex.BrainINR(**SMALL).fit(simulate(n_donors=1))


def r2(truth: np.ndarray, found: np.ndarray) -> float:
    return float(1 - ((truth - found) ** 2).sum() / ((truth - truth.mean(axis=0)) ** 2).sum())


@pytest.mark.parametrize(("field", "least"), [("idw", 0.6), ("gp", 0.85), ("fourier", 0.8), ("ensemble", 0.85)])
def test_a_smooth_map_is_recovered_without_its_noise(field: str, least: float) -> None:
    data = simulate(n_donors=1, length=150.0)
    half = np.arange(400) % 2 == 0
    model = ex.BrainINR(**SMALL | {"field": field}).fit(data[half].copy())
    assert r2(data.layers["truth"][~half], model.at(data.obsm["mni"][~half])) > least


def test_a_taught_network_says_what_its_teachers_say_together() -> None:
    data = simulate(n=150, n_donors=1, length=150.0)
    few = SMALL | {"folds": 2, "plan": dataclasses.replace(PLAN, epochs=10)}
    places = simulate(seed=1).obsm["mni"]
    together = ex.BrainINR(**few | {"field": "ensemble"}).fit(data)
    taught, alone = (ex.BrainINR(**few | {"teacher": one}).fit(data) for one in ("ensemble", "none"))
    wanted = together.at(places)
    assert r2(wanted, taught.at(places)) > 0.95
    assert r2(wanted, taught.at(places)) > r2(wanted, alone.at(places))
    assert [len(one._fields[0].members) for one in (together, taught, alone)] == [3, 1, 2]
    np.testing.assert_allclose(
        taught.uncertainty(places), together.uncertainty(places)
    )  # errors are those of the teachers
    assert taught.history_["stage"].unique().tolist() == ["gp", "network0", "network1", "pupil"]
    assert "taught by the mean of a Gaussian process and of such networks" in taught.describe()


def test_many_genes_have_no_teacher(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(teaching, "MOST_GENES", 9)
    model = ex.BrainINR(
        **SMALL | {"teacher": "auto", "plan": TrainPlan(lr=1e-2, epochs=2, batch_size=256, patience=None)}
    )
    assert len(model.fit(simulate(n=60, n_donors=1))._fields[0].members) == 3
    with pytest.raises(DataError, match=r"a teacher is of field='fourier' with gene='table'.*none"):
        ex.BrainINR(teacher="ensemble", gene="spectral").fit(simulate(n=60))


def test_lessons_lie_around_the_samples_in_their_slabs() -> None:
    samples = read_samples(simulate(n=300), [f"GENE{i + 1:03d}" for i in range(10)], donors=True)
    frame = Frame.of(samples, space="MNI152", symmetry="mirror", conditions=("slab",), paper=False)
    asked = teaching.lessons(samples, frame, np.random.default_rng(0), 2000)
    apart = cKDTree(images(samples.places, "mirror")).query(asked.places)[0]
    assert 2 < np.median(apart) < 8
    assert apart.max() > 20
    right = samples.places[:, 0] > 0
    assert abs((asked.places[::2, 0] > 0).mean() - (1 - right.mean())) < 0.1
    assert asked.conditions.sum(axis=1).tolist() == [1.0] * 2000


def test_both_sides_are_one_only_if_asked_for(fourier: Any) -> None:
    places = simulate().obsm["mni"][:20]
    mirrored = places * [-1.0, 1.0, 1.0]
    np.testing.assert_array_equal(fourier.at(places), fourier.at(mirrored))
    other = ex.BrainINR(**SMALL | {"symmetry": "none", "field": "gp"}).fit(simulate(n_donors=1))
    assert np.abs(other.at(places) - other.at(mirrored)).max() > 0.05


def test_intervals_cover_new_samples_as_often_as_they_say() -> None:
    data = simulate(n=900, n_donors=1)
    new = np.arange(900) % 3 == 0
    for field in ("fourier", "gp", "idw"):
        model = ex.BrainINR(**SMALL | {"field": field}).fit(data[~new].copy())
        low, high = model.at_interval(data.obsm["mni"][new], coverage=0.9)
        covered = (data.X[new] >= low) & (data.X[new] <= high)
        assert 0.86 < covered.mean() < 0.95
        assert (model.uncertainty(data.obsm["mni"][new]) < (high - low) / 2).all()


def test_a_donor_has_a_scale_of_its_own() -> None:
    data = simulate(n=600)
    model = ex.BrainINR(**SMALL | {"field": "gp"}).fit(data)
    rows = (data.obs["donor"] == "donor2").to_numpy()
    places = data.obsm["mni"][rows]
    assert (
        r2(data.layers["truth"][rows], model.at(places, donor="donor2"))
        > r2(data.layers["truth"][rows], model.at(places)) + 0.05
    )
    with pytest.raises(DataError, match="donor 'donor9' was not in the fit"):
        model.at(places, donor="donor9")


def test_a_gene_that_was_never_measured_is_asked_for_by_its_vector() -> None:
    data = ex.datasets.simulate_brain(n_samples=400, n_genes=30, n_donors=1, noise=0.1)
    data.X = (data.X - data.X.mean(axis=0)) / data.X.std(axis=0)
    data.varm["weights"] = data.varm["weights"] / data.layers["truth"].std(axis=0)[:, None]
    seen = data[:, :25].copy()
    model = ex.BrainINR(**SMALL | {"gene": "varm:weights"}).fit(seen)
    found = model.at(data.obsm["mni"], vectors=data.varm["weights"][25:])
    assert found.shape == (400, 5)
    r = [np.corrcoef(found[:, i], data.layers["truth"][:, 25 + i])[0, 1] for i in range(5)]
    assert min(r) > 0.5
    assert np.mean(r) > 0.8
    with pytest.raises(DataError, match=r"do not fit; expected finite numbers \(gene, 6\)"):
        model.at(data.obsm["mni"], vectors=np.ones((2, 3)))


def test_without_vectors_no_such_gene_can_be_asked_for(fourier: Any) -> None:
    with pytest.raises(DataError, match="cannot be asked for genes that were never measured"):
        fourier.at(np.zeros((1, 3)), vectors=np.ones((1, 4)))


def test_the_preset_of_the_paper_is_the_papers_network() -> None:
    from expressor.systems.brain_inr.fitting import FieldFit

    model = ex.BrainINR.preset("paper")
    data = simulate(n=40, n_donors=1)
    data.obsm["tissue"] = np.tile([0.8, 0.1], (40, 1))
    genes = sorted(data.var_names)
    fit = FieldFit(model, data, read_samples(data, genes, donors=True), "MNI152", genes, "", None)
    from expressor.systems.brain_inr.fitting import build

    net = build(model, fit.frame, fit.genes, 10)
    assert net.sines[0].linear.in_features == 27
    assert len(net.sines) == 13
    assert net.last.in_features == 512


def test_the_preset_of_the_paper_trains_a_network_a_donor_and_maps() -> None:
    model = ex.BrainINR.preset("paper")
    data = simulate(n=60, n_donors=2)
    data.obsm["tissue"] = np.tile([0.8, 0.1], (60, 1))
    model.set_params(steps=1, plan=dataclasses.replace(model.plan, epochs=3, batch_size=128)).fit(data)
    assert model.history_["stage"].unique().tolist() == ["donor1/network0", "donor2/network0"]
    assert model.history_["loss"].notna().all()
    assert len(model._fields) == 2
    found = model.at(data.obsm["mni"][:5], given=pd.DataFrame({"grey": [0.8] * 5, "white": [0.1] * 5}))
    assert found.shape == (5, 10)
    assert np.isfinite(found).all()
    assert np.ptp(found, axis=0).min() > 0


def test_a_siren_a_donor_is_averaged_and_saved(tmp_path: Path) -> None:
    plan = TrainPlan(lr=1e-3, epochs=3, batch_size=512, patience=None)
    model = ex.BrainINR(field="siren", gene="scalar", donor="separate", conditions=(), width=16, depth=1, folds=0, steps=2,
                        plan=plan, symmetry="mirror").fit(simulate(n=60))  # fmt: skip
    places = simulate(n=10).obsm["mni"]
    one = [model.at(places, donor=donor) for donor in model.donors_]
    np.testing.assert_allclose(model.at(places), np.mean(one, axis=0), atol=1e-5)
    again = ex.load(model.save(tmp_path / "model"))
    np.testing.assert_array_equal(again.at(places), model.at(places))
    with pytest.raises(DataError, match="the fit held nothing out"):
        model.at_interval(places)


def test_held_out_blocks_lie_apart_on_both_sides() -> None:
    data = simulate(n=200)
    samples = read_samples(data, sorted(data.var_names), donors=True)
    frame = Frame.of(samples, space="MNI152", symmetry="fold", conditions=(), paper=False)
    blocks = hold_out_groups(samples, frame, "blocks")
    cells = np.floor(np.abs(data.obsm["mni"]) * [1, 0, 0] / 20) + np.floor(data.obsm["mni"] / 20) * [0, 1, 1]
    for one in np.unique(blocks):
        assert len(np.unique(cells[blocks == one], axis=0)) == 1
    assert set(hold_out_groups(samples, frame, "donors")) == {"donor1", "donor2", "donor3"}


def test_genes_are_given_in_the_order_asked_for(fourier: Any) -> None:
    places = simulate().obsm["mni"][:7]
    both = fourier.at(places, ["GENE004", "GENE002"])
    np.testing.assert_allclose(both, fourier.at(places)[:, [3, 1]], atol=1e-5)
    with pytest.raises(GeneError, match="gene 'GENE04' was not in the fit; nearest: 'GENE004'"):
        fourier.at(places, ["GENE04"])


def test_a_volume_and_parcels_hold_what_the_field_says(fourier: Any, tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    mask = np.zeros((3, 3, 3), dtype=bool)
    mask[0, 1, 2] = mask[2, 0, 1] = mask[1, 1, 1] = True
    affine = np.diag([10.0, 10, 10, 1])
    grid = Grid(mask, affine)
    path = fourier.to_nifti(tmp_path / "maps.nii.gz", ["GENE003", "GENE001"], grid=grid)
    volume = np.asarray(nibabel.load(path).dataobj)
    np.testing.assert_allclose(volume[mask], fourier.at(grid.points(), ["GENE003", "GENE001"]), atol=1e-5)
    assert np.isnan(volume[~mask]).all()
    far = np.asarray(nibabel.load(fourier.to_nifti(tmp_path / "far.nii", grid=grid, what="distance")).dataobj)
    np.testing.assert_allclose(far[mask], fourier.distance(grid.points()), atol=1e-5)
    nibabel.save(grid.image(np.ones(3), outside=0.0), tmp_path / "mask.nii.gz")
    read = fourier.to_nifti(tmp_path / "again.nii.gz", ["GENE003", "GENE001"], grid=tmp_path / "mask.nii.gz")
    np.testing.assert_array_equal(np.asarray(nibabel.load(read).dataobj), volume)
    numbers = np.where(mask, 7, 0)
    numbers[1, 1, 1] = 2
    table = pd.DataFrame({"label": ["b", "a", "none"], "hemisphere": "B", "structure": "cortex"}, index=[7, 2, 9])
    found = fourier.parcels(Parcellation(numbers, affine, table.rename_axis("id")))
    both = np.argwhere(numbers == 7) * 10.0
    np.testing.assert_allclose(found.X[0], fourier.at(both).mean(axis=0), atol=1e-5)
    assert found.obs["voxels"].tolist() == [2, 1, 0]
    assert np.isnan(found.X[2]).all()
    np.testing.assert_array_equal(fourier.surface((both, np.zeros((0, 3)))), fourier.at(both))


def test_a_slab_is_known_or_derived_from_a_boundary_between_the_samples() -> None:
    data = simulate()
    samples = read_samples(data, sorted(data.var_names), donors=True)
    far = (data.obsm["mni"][:, 0] > 20) | (data.obsm["mni"][:, 0] < -45)
    kept = samples.take(np.flatnonzero(~far))
    frame = Frame.of(kept, space="MNI152", symmetry="fold", conditions=("slab",), paper=False)
    found = frame.query(data.obsm["mni"][far]).conditions
    assert set(found.sum(axis=1)) == {1.0}
    given = frame.query(data.obsm["mni"][far], data.obs[["slab"]][far]).conditions
    assert (found == given).all(axis=1).mean() > 0.9
    model = ex.BrainINR(**SMALL | {"conditions": ("slab",), "field": "idw"}).fit(data)
    own = model.at(data.obsm["mni"], given=data.obs[["slab"]])
    other = model.at(data.obsm["mni"], given=data.obs[["slab"]].replace({"CB": "CX", "CX": "CB"}).astype(str))
    assert np.abs(own - model.at(data.obsm["mni"])).mean() < np.abs(own - other).mean()
    with pytest.raises(DataError, match="slab 'XX' was not in the fit"):
        model.at(data.obsm["mni"][:1], given=pd.DataFrame({"slab": ["XX"]}))
    with pytest.raises(DataError, match="does not fit them; expected 2 rows, got 1"):
        model.at(data.obsm["mni"][:2], given=pd.DataFrame({"slab": ["CX"]}))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"Slab": ["CX"]}, "told nothing of places by 'Slab'.*nearest: 'slab'"),
        ({"slab": [None]}, "1 places have no slab"),
        ({"grey": [0.9]}, "no probabilities of grey and white matter; expected columns grey and white"),
        ({"grey": [90.0], "white": [5.0]}, "no probabilities of grey and white matter"),
        ({"grey": [np.nan], "white": [0.5]}, "no probabilities of grey and white matter"),
    ],
)
def test_what_is_said_of_places_is_checked(fourier: Any, given: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(DataError, match=message):
        fourier.uncertainty([[-40.0, -20, 50]], given=pd.DataFrame(given))
    with pytest.raises(DataError, match="is no table; expected a DataFrame with columns grey, white, slab, got dict"):
        check_given(given, 1)


def test_what_is_asked_for_is_checked(fourier: Any, tmp_path: Path) -> None:
    place = [[-40.0, -20, 50]]
    with pytest.raises(DataError, match="genes are a list of names; got 'GENE001'"):
        fourier.to_nifti(tmp_path / "map.nii", "GENE001")
    with pytest.raises(DataError, match="donor 'donor' was not in the fit; expected 'donor1'; nearest: 'donor1'"):
        fourier.at(place, donor="donor")
    table = pd.DataFrame({"label": ["a"], "hemisphere": "L", "part": "cortex"}, index=[1])
    with pytest.raises(DataError, match="voxels of the parcellation look like voxel numbers of a 1 mm"):
        fourier.parcels(Parcellation(np.pad(np.ones((40, 40, 40), dtype=int), 60), np.eye(4), table))
    assert fourier.uncertainty(np.empty((0, 3))).shape == (0, 10)


@pytest.mark.parametrize("field", ["fourier", "gp"])
def test_many_genes_are_asked_for_at_fewer_places_at_once(field: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = ex.BrainINR(**SMALL | {"field": field, "folds": 2, "plan": dataclasses.replace(PLAN, epochs=1)}).fit(
        simulate(n=60)
    )
    places = simulate(seed=1).obsm["mni"]
    whole = [model.at(places), model.uncertainty(places)]
    asked: list[int] = []
    query = Frame.query
    monkeypatch.setattr(Frame, "query", lambda self, some, *given: asked.append(len(some)) or query(self, some, *given))
    monkeypatch.setattr(asking, "_LEAST", 64)
    monkeypatch.setattr(asking, "_NUMBERS", 1000)
    for one, other in zip(whole, [model.at(places), model.uncertainty(places)]):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    assert set(asked) == {100}
    asked.clear()
    model.at(places, ["GENE001"])
    assert asked == [400]


@pytest.mark.parametrize(
    ("places", "message"),
    [
        (np.array([[300.0, 0, 0]]), "lie outside the brain"),
        (np.array([[90.0, 126, 72], [100.0, 130, 80], [80.0, 120, 70]]), "look like voxel numbers"),
        (np.array([[0.0, np.nan, 0]]), "NaN or infinite"),
        (np.zeros((2, 2)), "hold no places"),
    ],
)
def test_places_that_cannot_be_are_refused(fourier: Any, places: np.ndarray, message: str) -> None:
    with pytest.raises(DataError, match=message):
        fourier.at(places)


def test_what_knows_the_template_refuses_corners_of_the_box_around_it(tmp_path: Path) -> None:
    nibabel = pytest.importorskip("nibabel")
    pytest.importorskip("nilearn")
    model = ex.BrainINR(field="idw", folds=0, conditions=("tissue",)).fit(simulate(n=60))
    with pytest.raises(
        DataError, match=r"1 of 2 coordinates lie outside the brain.*expected places in the template's brain"
    ):
        model.at([[-40.0, -20, 50], [75, 75, 85]])
    mask = np.zeros((4, 4, 4), dtype=bool)
    mask[1, 1, 1] = mask[3, 3, 3] = True
    grid = Grid(mask, np.array([[40.0, 0, 0, -40], [0, 40.0, 0, -40], [0, 0, 40.0, -40], [0, 0, 0, 1]]))
    made = nibabel.load(model.to_nifti(tmp_path / "map.nii", ["GENE001"], grid=grid)).get_fdata()
    assert np.argwhere(np.isfinite(made)).tolist() == [[1, 1, 1]]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"field": "siren"}, "told the gene by numbers"),
        ({"folds": 1}, "one fold holds nothing out"),
        ({"field": "fourrier"}, "nearest: 'fourier'"),
        ({"donor": "separate", "held_out": "donors"}, "donors cannot be held out"),
        ({"conditions": ("slabs",)}, "nearest: 'slab'"),
        ({"conditions": "slab"}, r"conditions are several names; got 'slab'. Write \('slab',\)"),
        ({"gene": "varm:text"}, "varm has no gene vectors 'text'"),
        ({"conditions": ("tissue", "slab"), "field": "idw"}, "the data have no obs"),
    ],
)
def test_parameters_that_do_not_fit_are_refused(changes: dict[str, Any], message: str) -> None:
    data = simulate(n=30)
    del data.obs["slab"]
    model = ex.BrainINR(**SMALL)
    for name, value in changes.items():
        setattr(model, name, value)  # as set_params does, so that the fit is what refuses
    with pytest.raises(DataError, match=message):
        model.fit(data)


def test_samples_that_are_no_brain_are_fitted_too() -> None:
    data = simulate(n_donors=1)
    data.obsm["xyz"] = data.obsm["mni"] * 1000
    del data.obsm["mni"]
    data.uns["space"] = "embryo"
    model = ex.BrainINR(**SMALL | {"field": "gp", "held_out": "blocks"}).fit(data)
    assert model.score(data) > 0.5
    apart = ex.BrainINR(**SMALL | {"field": "gp", "held_out": "blocks", "symmetry": "none"}).fit(data)
    np.testing.assert_array_equal(model.at(data.obsm["xyz"]), apart.at(data.obsm["xyz"]))  # x = 0 is no middle there
    with pytest.raises(DataError, match="NIfTI are of a brain"):
        model.to_nifti("nowhere.nii")
