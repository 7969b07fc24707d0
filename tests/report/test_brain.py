"""Pictures of the brain show the values where they are; the report of a map says what it is worth."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from anndata import AnnData

import expressor as ex
from expressor.core.errors import DataError, GeneError
from expressor.data.brainspace import Grid
from expressor.data.parcels import Parcellation
from expressor.report import figures, write_map_report

pytest.importorskip("nilearn")


@pytest.fixture(scope="module")
def grid() -> Grid:
    return ex.data.brain_grid(resolution=8)


def samples(seed: int):
    """Samples of a brain: one gene rises to the right, the other to the front."""
    rng = np.random.default_rng(seed)
    places = ex.data.brain_grid(resolution=10).points()
    places = places[rng.choice(len(places), 150, replace=False)] + rng.uniform(-2, 2, (150, 3))
    values = places[:, :2] / 40 + rng.normal(0, 0.1, (150, 2))
    adata = AnnData(values.astype(np.float32), var=pd.DataFrame(index=["RIGHT", "FRONT"]))
    adata.obsm["mni"] = places
    adata.obs["donor"] = pd.Categorical(np.where(np.arange(150) < 75, "a", "b"))
    adata.uns = {"space": "MNI152", "unit": "z-score"}
    return adata


@pytest.fixture(scope="module")
def model():
    return ex.BrainINR(field="idw", folds=2, symmetry="none", conditions=()).fit(samples(0))


def drawn(ax, x: float, y: float) -> float:
    """The value of the uppermost image of the map's colours at a place of the axes, by the image's own extent."""
    image = [one for one in ax.get_images() if one.get_cmap().name != "Greys"][-1]
    left, right, bottom, top = image.get_extent()
    held = image.get_array()
    rows, columns = held.shape
    return held[int((y - bottom) / (top - bottom) * rows), int((x - left) / (right - left) * columns)]


@pytest.mark.parametrize("flip", [False, True])
def test_values_stand_where_they_are(grid, flip):
    if flip:  # x runs to the left, as in FSL's grids
        affine = grid.affine @ np.diag([-1.0, 1, 1, 1])
        affine[0, 3] = grid.affine[0, 3] + grid.affine[0, 0] * (grid.mask.shape[0] - 1)
        grid = Grid(grid.mask[::-1], affine)
    x, y, z = grid.points().T
    plain = figures.brain_slices(x, grid, cuts=[0.0])[0]
    assert drawn(plain, 40, -20) == pytest.approx(40, abs=4.1)
    assert drawn(plain, -40, -20) == pytest.approx(-40, abs=4.1)
    triple = figures.brain_triple({"y": y, "z": z}, grid, place=(24, -16, 8))
    assert triple.shape == (2, 3)
    assert drawn(triple[0, 0], -40, 8) == pytest.approx(-40, abs=4.1)  # from the left: y to the right
    assert drawn(triple[1, 1], 24, 32) == pytest.approx(32, abs=4.1)  # from the front: z upwards


def test_glass_brain_shows_what_is_furthest_from_the_median(grid):
    points = grid.points()
    values = np.zeros(len(points))
    hot, cold = (np.linalg.norm(points - one, axis=1).argmin() for one in ([30, 0, 20], [-30, 0, 20]))
    values[hot], values[cold] = 5.0, -3.0
    left, front, above = figures.glass_brain(values, grid)
    assert drawn(front, points[hot, 0], points[hot, 2]) == 5.0
    assert drawn(front, points[cold, 0], points[cold, 2]) == -3.0
    assert drawn(above, points[hot, 0], points[hot, 1]) == 5.0
    assert drawn(left, points[hot, 1], points[hot, 2]) == 5.0  # both lie on this line of sight


def test_markers_lie_at_the_samples():
    adata = samples(1)
    values = adata.X[:, 0]
    axes = figures.sample_markers(adata.obsm["mni"], values)
    found = axes[1].collections[-1]
    order = np.argsort(np.abs(values - np.median(values)))
    np.testing.assert_allclose(found.get_offsets(), adata.obsm["mni"][order][:, [0, 2]])
    np.testing.assert_allclose(found.get_array(), values[order])
    with pytest.raises(DataError, match="places and values do not fit"):
        figures.sample_markers(adata.obsm["mni"][:, :2], values)


def test_what_is_refused(grid, model, tmp_path):
    turned = Grid(grid.mask, grid.affine[[1, 0, 2, 3]])
    with pytest.raises(DataError, match="axes are turned"):
        figures.glass_brain(np.zeros(len(grid)), turned)
    with pytest.raises(DataError, match="unknown kind of map"):
        figures.brain_slices(np.zeros(len(grid)), grid, kind="values")
    with pytest.raises(GeneError, match="'RIGTH' is not in the model.*nearest: 'RIGHT'"):
        write_map_report(model, samples(1), tmp_path / "map.html", genes=["RIGTH"])
    with pytest.raises(DataError, match="makes no maps"):
        write_map_report(object(), samples(1), tmp_path / "map.html")


def test_report(model, tmp_path):
    labels = np.zeros((20, 25, 20), dtype=np.int32)
    labels[:10], labels[10:] = 1, 2
    affine = np.array([[8.0, 0, 0, -80], [0, 8, 0, -110], [0, 0, 8, -70], [0, 0, 0, 1]])
    table = pd.DataFrame(
        {"label": ["l", "r"], "hemisphere": ["L", "R"], "part": "cortex"}, index=pd.Index([1, 2], name="id")
    )
    new = samples(2)
    path = write_map_report(
        model, new, tmp_path / "map.html", genes=["FRONT"], atlas=Parcellation(labels, affine, table), resolution=10
    )
    page = path.read_text(encoding="utf-8")
    assert "2 genes over the brain, BrainINR" in page
    assert page.count("<svg") == 6
    r2 = model.evaluate(new).set_index("metric").loc["map_r2", "value"]
    assert f"explains {100 * r2:.0f} % of the variance of a gene over new samples" in page
    assert "samples per parcel" in page
    assert "flatters" not in page
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert sorted(one.name for one in (tmp_path / "figures").glob("*.png")) == [
        "distance.png", "glass_0.png", "parcels_0.png", "samples_0.png", "slices_0.png", "uncertainty_0.png",
    ]  # fmt: skip
    again = write_map_report(model, samples(0), tmp_path / "again.html", genes=["RIGHT"], resolution=10, files=False)
    assert "Every number below flatters it" in again.read_text(encoding="utf-8")


@pytest.mark.slow
def test_on_the_terminal(model, tmp_path):
    model.save(tmp_path / "model")
    samples(2).write_h5ad(tmp_path / "new.h5ad")
    command = [sys.executable, "-m", "expressor", "report", "model", "--data", "new.h5ad", "-o", "out"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "2 genes over the brain" in (tmp_path / "out/report.html").read_text(encoding="utf-8")
