import subprocess
import sys

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import EllipseCollection
from PIL import Image

from expressor.core.errors import DataError, GeneError
from expressor.report import colours, figures, read_run
from expressor.report.figures import reliability, sheet, tissue
from expressor.report.pictures import as_jpeg_uri, drawn_diameter, picture


@pytest.fixture(scope="module")
def run(make_run):
    return read_run(make_run())


def spots_of(ax: Axes) -> np.ndarray:
    (spots,) = (one for one in ax.collections if isinstance(one, EllipseCollection))
    return spots.get_array()


@pytest.mark.parametrize("kind", ["measured", "predicted", "width", "error"])
def test_a_map_shows_the_values_of_its_section(run, kind):
    ax = figures.gene_map(run, "GENE3", "C3", kind=kind)
    rows = run.spots_of("C3")
    values = {name: run.values(name, genes=["GENE3"])[rows, 0] for name in ("measured", "predicted", "lower", "upper")}
    truth = {
        **values,
        "width": values["upper"] - values["lower"],
        "error": values["predicted"] - values["measured"],
    }[kind]
    assert np.allclose(spots_of(ax), truth)


def test_measured_and_predicted_share_a_scale_unless_asked(run):
    limits = [
        next(c for c in figures.gene_map(run, "GENE3", "C2", kind=kind).collections).get_clim()
        for kind in ("measured", "predicted")
    ]
    assert limits[0] == limits[1]
    own = figures.gene_map(run, "GENE3", "C2", kind="predicted", own_scale=True).collections[0].get_clim()
    assert own != limits[0]


def test_error_scale_is_symmetric(run):
    low, high = figures.gene_map(run, "GENE3", "C2", kind="error").collections[0].get_clim()
    assert low == -high


def test_colour_ranges_of_constant_and_unknown_values():
    assert colours.width_range(np.full(5, 1.8)) == (0.0, pytest.approx(2.25))
    assert colours.width_range(np.zeros(3)) == colours.width_range(None) == (0.0, 1.0)
    assert colours.is_constant(np.array([1.0, 1.001, np.nan]))
    assert not colours.is_constant(np.array([1.0, 1.1]))
    assert colours.value_range(np.array([np.nan])) == (0.0, 1.0)
    assert colours.error_range(None) == (-1.0, 1.0)
    assert colours.error_range(np.zeros(3)) == (-1.0, 1.0)


def test_unknown_names_are_refused_with_the_nearest(run):
    with pytest.raises(GeneError, match="'GENE3'"):
        figures.gene_map(run, "GENE03", "C2")
    with pytest.raises(DataError, match="nearest: 'C2'|one of 'C2'"):
        figures.gene_map(run, "GENE3", "c2")
    with pytest.raises(DataError, match="unknown kind"):
        figures.gene_map(run, "GENE3", "C2", kind="size")


def test_overview_leaves_out_what_is_not_there(make_run):
    assert len(figures.overview(read_run(make_run()))) == 4
    assert len(figures.overview(read_run(make_run(measured=False)))) == 3
    bare = read_run(make_run(measured=False, intervals=False, gene_table=False, pictures=False, beside=False))
    assert len(figures.overview(bare)) == 2


def test_coverage_counts_by_hand(make_run):
    run = read_run(make_run(missing=True))
    measured, lower, upper = (run.values(name) for name in ("measured", "lower", "upper"))
    found = reliability.coverage_by_gene(run)
    assert list(found) == ["C2", "C3", "C4"]
    for section, shares in found.items():
        for gene in (0, 1, 3, 7):
            hits, count = 0, 0
            for spot in run.spots_of(section):
                one = measured[spot, gene], lower[spot, gene], upper[spot, gene]
                if np.isfinite(one).all():
                    count += 1
                    hits += one[1] <= one[0] <= one[2]
            assert np.isnan(shares[gene]) if count == 0 else shares[gene] == pytest.approx(hits / count)


def test_calibration_of_a_scaled_truth_has_the_slope_of_the_scale(make_run):
    run = read_run(make_run())
    run.predictions.X = 2.0 * run.predictions.layers["measured"]
    curve = reliability.calibration_curves(run)[""]
    assert np.allclose(curve[1], curve[0] / 2, atol=1e-5)
    assert np.all(np.diff(curve[0]) >= 0)


def test_figures_without_data_say_so(run):
    for ax in (
        figures.k_path(pd.DataFrame()),
        figures.method_comparison(pd.DataFrame()),
        figures.paired_differences(pd.DataFrame()),
    ):
        assert any(text.get_text() for text in ax.texts)


def test_k_path_ends_at_the_last_k(run):
    ax = figures.k_path(run.history)
    assert ax.lines[0].get_ydata()[-1] == 3600
    assert "3,600" in [text.get_text() for text in ax.texts]


def test_k_path_leaves_out_what_came_after_the_search():
    history = pd.DataFrame({"k": [9, 7, 5, 6, 6], "threshold": [0.5, 0.4, 0.3, np.nan, np.nan]})
    ax = figures.k_path(history, kept=6)
    assert ax.lines[0].get_ydata().tolist() == [9, 7, 5]
    assert "6 kept" in [text.get_text() for text in ax.texts]


def test_gene_bars_separate_the_trusted(run):
    ax = figures.gene_bars(run, top=12)
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == list(run.gene_table.index[:12])


def test_forest_has_every_method_once(run):
    ax = figures.method_comparison(run.evaluation)
    assert [label.get_text() for label in ax.get_yticklabels()][0] == "AGL (DkGSB)"
    assert len(ax.get_yticklabels()) == 5
    assert len(figures.paired_differences(run.evaluation).get_yticklabels()) == 2


@pytest.mark.parametrize("kind", ["png", "svg", "pdf"])
def test_written_whole_and_twice_the_same(run, tmp_path, kind):
    paths = [figures.write(figures.k_path(run.history), tmp_path / str(i) / f"k.{kind}") for i in range(2)]
    assert paths[0].read_bytes() == paths[1].read_bytes()
    assert [one.name for one in (tmp_path / "0").iterdir()] == [f"k.{kind}"]


def test_unknown_format_and_a_folder_that_is_a_file(run, tmp_path):
    with pytest.raises(DataError, match="unknown picture format '.gif'"):
        figures.write(figures.k_path(run.history), tmp_path / "k.gif")
    (tmp_path / "file").write_text("")
    with pytest.raises(DataError, match="cannot be written"):
        figures.write(figures.k_path(run.history), tmp_path / "file" / "k.png")


def test_a_failed_write_leaves_the_earlier_file(run, tmp_path, monkeypatch):
    path = tmp_path / "k.png"
    path.write_bytes(b"earlier")
    monkeypatch.setattr(sheet.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "No space left on device")))
    with pytest.raises(DataError, match="what stood there is unharmed"):
        figures.write(figures.k_path(run.history), path)
    assert path.read_bytes() == b"earlier"
    assert [one.name for one in tmp_path.iterdir()] == ["k.png"]


def test_inline_svg_takes_the_inks_of_the_page_and_keeps_its_ids_apart(run):
    text = sheet.inline_svg(figures.k_path(run.history), name="k", label='a "label" <b>')
    assert text.startswith("<svg")
    assert "var(--accent)" in text
    for colour in colours.INKS.values():
        assert colour not in text
    assert 'aria-label="a &quot;label&quot; &lt;b&gt;"' in text
    assert all(one.startswith("k-") for one in __import__("re").findall(r'\bid="([^"]+)"', text))


@pytest.mark.parametrize("name", ["$\\alpha_{", "a_b^c", "<script>", "\u57fa\u56e0"])
def test_any_name_can_be_drawn(make_run, tmp_path, name):
    names = [name, *(f"GENE{i}" for i in range(6))]
    run = read_run(make_run(names=names, side=5))
    for ax in (figures.gene_bars(run), figures.overview(run, gene=name), figures.predicted_against_measured(run, name)):
        figures.write(ax, tmp_path / "figure.png", dpi=40)
        assert "<script>" not in figures.write(ax, tmp_path / "figure.svg").read_text(encoding="utf-8")


def test_drawing_changes_no_global_state(run, tmp_path):
    before = dict(matplotlib.rcParams)
    backend = matplotlib.get_backend()
    figures.write(figures.overview(run), tmp_path / "overview.svg")
    assert dict(matplotlib.rcParams) == before
    assert matplotlib.get_backend() == backend


def test_pyplot_is_never_imported(make_run, tmp_path):
    code = (
        "import sys; from expressor.report import write_report; "
        f"write_report({str(make_run(side=4))!r}, {str(tmp_path / 'r.html')!r}); "
        "sys.exit('matplotlib.pyplot' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_picture_is_cropped_to_the_spots(run):
    shown = picture(run.predictions, "C2")
    places = run.predictions.obsm["spatial"][run.spots_of("C2")]
    left, top, right, bottom = shown.box
    assert left < places[:, 0].min() < places[:, 0].max() < right
    assert top < places[:, 1].min() < places[:, 1].max() < bottom
    height, width = shown.pixels.shape[:2]
    assert (right - left) / (bottom - top) == pytest.approx(width / height)


def test_spots_off_the_picture_are_shown_without_it(make_run):
    run = read_run(make_run(sections=("C2",)))
    run.predictions.obsm["spatial"] = run.predictions.obsm["spatial"] + 1e6
    assert picture(run.predictions, "C2").pixels is None


def test_spots_never_touch_and_never_shrink():
    places = np.stack(np.meshgrid(np.arange(5.0), np.arange(5.0)), -1).reshape(-1, 2)
    assert drawn_diameter(0.5, places) == pytest.approx(0.85)
    assert drawn_diameter(0.6, places) < 1
    assert drawn_diameter(1.2, places) == 1.2


def test_jpeg_is_a_small_data_uri(tmp_path):
    import base64
    import io

    uri = as_jpeg_uri(np.zeros((3000, 2000, 3), np.uint8), longest=500)
    image = Image.open(io.BytesIO(base64.b64decode(uri.split(",", 1)[1])))
    assert max(image.size) == 500
    noise = np.random.default_rng(0).integers(0, 255, (900, 700, 3), dtype=np.uint8)
    assert len(as_jpeg_uri(noise, budget=150_000)) <= 150_000 < len(as_jpeg_uri(noise))


@pytest.mark.parametrize(("most", "nice"), [(0.9, 0.5), (1.0, 1.0), (4.99, 2.0), (730, 500), (1000, 1000)])
def test_scale_bars_have_nice_lengths(most, nice):
    assert tissue.nice_length(most) == pytest.approx(nice)
