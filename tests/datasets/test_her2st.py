"""The shipped sample and the originals: sizes, counts, coordinates, and the download through a server on this machine."""

import gzip
import hashlib
import importlib.util
import os
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from expressor.core.errors import DataError, FormatError
from expressor.data.fields import expression
from expressor.data.images import open_image
from expressor.data.spatial import check_spatial
from expressor.datasets import breast, her2st, sources
from expressor.genes.ids import detect_namespace

DATA = os.environ.get("EXPRESSOR_DATA")
needs_data = pytest.mark.skipif(not DATA, reason="EXPRESSOR_DATA is not set")
SAMPLE = Path(breast.__file__).parent / "sample"


@pytest.fixture(scope="module")
def sample() -> ad.AnnData:
    return her2st().adata


def light_under(adata: ad.AnnData, section: str, points: np.ndarray) -> np.ndarray:
    """Mean brightness (0 to 255) of the picture in a disc of a spot around each (point, 2) position."""
    entry = adata.uns["spatial"][section]
    radius = entry["scalefactors"]["spot_diameter_fullres"] / 2
    with open_image(entry["metadata"]["image"], um_per_px=entry["scalefactors"]["microns_per_pixel"]) as image:
        return np.array(
            [image.region(x - radius, y - radius, 2 * radius, 2 * radius, out=(12, 12)).mean() for x, y in points]
        )


def at(adata: ad.AnnData, section: str) -> np.ndarray:
    return adata.obsm["spatial"][(adata.obs["section"] == section).to_numpy()]


def test_the_sample_is_small_and_says_where_it_is_from():
    files = sorted(path.name for path in SAMPLE.iterdir())
    assert files == ["C2.jpg", "C3.jpg", "C4.jpg", "C5.jpg", "PROVENANCE.md", "her2st.h5ad"]
    assert sum((SAMPLE / name).stat().st_size for name in files) <= 15_000_000
    text = (SAMPLE / "PROVENANCE.md").read_text(encoding="utf-8")
    assert "CC BY 4.0" in text
    assert "https://creativecommons.org/licenses/by/4.0/" in text
    assert "10.1038/s41467-021-26271-2" in text
    assert "What was changed" in text


def test_the_sample_in_the_layout(sample):
    assert sample.shape == (732, 16_676)
    assert isinstance(sample.X, sparse.csr_matrix)
    assert sample.X.dtype == np.float32
    assert sample.X.has_canonical_format
    assert dict(sample.obs["section"].value_counts()) == {"C2": 187, "C4": 184, "C5": 181, "C3": 180}
    assert set(sample.obs["patient"]) == {"C"}
    assert detect_namespace(sample.var_names) == "symbol"
    assert sample.obs_names.is_unique
    assert sample.obsm["spatial"].dtype == np.float64
    np.testing.assert_allclose(sample.obsm["cell_types"].sum(axis=1), 1, atol=1e-3)
    assert sample.obs["cluster"].isna().sum() == 5
    check_spatial(sample)


def test_total_counts_are_what_the_matrix_sums_to(sample):
    # So that normalising the sample is normalising the original.
    np.testing.assert_array_equal(np.asarray(sample.X.sum(axis=1)).ravel(), sample.obs["total_counts"])


@pytest.mark.parametrize("section", breast.SAMPLE_SECTIONS)
def test_one_um_a_pixel_in_both_directions(sample, section):
    entry = sample.uns["spatial"][section]
    assert entry["scalefactors"]["microns_per_pixel"] == 1.0
    assert entry["scalefactors"]["spot_diameter_fullres"] == 100.0
    table = sample.obs[sample.obs["section"] == section]
    array = np.column_stack([table[["array_x", "array_y"]].to_numpy(), np.ones(len(table))])
    axes = np.linalg.lstsq(array, at(sample, section), rcond=None)[0][:2]
    np.testing.assert_allclose(np.linalg.norm(axes, axis=1), 200.0, rtol=0.02)
    with open_image(entry["metadata"]["image"], um_per_px=1.0) as image:
        assert (image.width, image.height) == (entry["metadata"]["image_width"], entry["metadata"]["image_height"])
    height, width = entry["images"]["hires"].shape[:2]
    assert max(height, width) == 1024
    assert width / image.width == pytest.approx(entry["scalefactors"]["tissue_hires_scalef"])
    assert height / image.height == pytest.approx(entry["scalefactors"]["tissue_hires_scalef"], rel=1e-3)


@pytest.mark.parametrize("section", breast.SAMPLE_SECTIONS)
def test_spots_lie_on_tissue_and_moved_ones_do_not(sample, section):
    points = at(sample, section)
    entry = sample.uns["spatial"][section]["metadata"]
    assert (points.min(axis=0) > 200).all()
    assert (points.max(axis=0) < np.array([entry["image_width"], entry["image_height"]]) - 200).all()
    glass = float(light_under(sample, section, np.array([[60.0, 60.0]]))[0])
    on = light_under(sample, section, points)
    assert np.median(on) < glass - 25
    assert (on < glass - 8).mean() > 0.97
    for moved in (points + [0, 1500], points - [1500, 0], points[:, ::-1]):
        assert (light_under(sample, section, moved) < glass - 8).mean() < 0.9


@needs_data
@pytest.mark.parametrize("section", breast.SAMPLE_SECTIONS)
def test_counts_are_the_originals(sample, section):
    original = ad.read_h5ad(Path(DATA) / "her2st" / f"{section}.h5ad")
    part = sample[(sample.obs["section"] == section).to_numpy()]
    assert list(part.obs_names) == list(original.obs_names)
    listed = list(original.var_names.intersection(sample.var_names))
    assert (part[:, listed].X != sparse.csr_matrix(original[:, listed].X)).nnz == 0
    unlisted = ~part.var_names.isin(listed)
    assert part[:, unlisted].X.nnz == 0
    assert part.X.sum() == original.X.sum()
    np.testing.assert_array_equal(part.obs["total_counts"], np.asarray(original.X.sum(axis=1)).ravel())
    gene = listed[:50]
    np.testing.assert_array_equal(
        expression(part, gene, scale="log1p_cp10k"), expression(original, gene, scale="log1p_cp10k")
    )


@needs_data
@pytest.mark.parametrize("section", breast.SAMPLE_SECTIONS)
def test_pictures_show_what_the_originals_show(sample, section):
    full = her2st(sections=[section], resolution="full").adata
    origin, scale = sample.uns["sample"][section]["origin"], sample.uns["sample"][section]["scale"]
    np.testing.assert_allclose(at(sample, section) / scale + origin, at(full, section), atol=1e-3)
    assert scale == pytest.approx(full.uns["spatial"][section]["scalefactors"]["microns_per_pixel"], rel=1e-6)
    here, there = (light_under(one, section, at(one, section)[::9]) for one in (sample, full))
    np.testing.assert_allclose(here, there, atol=4.0)
    off = light_under(sample, section, at(sample, section)[::9] + 12)
    assert np.abs(off - there).max() > 2 * np.abs(here - there).max()


@needs_data
@pytest.mark.slow
def test_the_script_makes_the_shipped_bytes(tmp_path):
    path = Path(__file__).parents[2] / "scripts" / "make_sample.py"
    spec = importlib.util.spec_from_file_location("make_sample", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    module.make(Path(DATA) / "her2st", tmp_path)
    for made in tmp_path.iterdir():
        shipped = SAMPLE / made.name
        if made.suffix == ".jpg":  # another version of libjpeg may round otherwise
            with open_image(made, um_per_px=1.0) as one, open_image(shipped, um_per_px=1.0) as other:
                difference = one.thumbnail(500).astype(int) - other.thumbnail(500)
            assert np.abs(difference).mean() < 0.5
        elif made.suffix == ".h5ad":
            one, other = ad.read_h5ad(made), ad.read_h5ad(shipped)
            assert (one.X != other.X).nnz == 0
            pd.testing.assert_frame_equal(one.obs, other.obs)
            np.testing.assert_array_equal(one.obsm["spatial"], other.obsm["spatial"])


def test_sections_in_the_order_asked_for():
    adata = her2st(sections=["C4", "C2"]).adata
    assert list(adata.obs["section"].unique()) == ["C4", "C2"]
    assert set(adata.uns["spatial"]) == set(adata.uns["sample"]) == {"C2", "C4"}
    assert her2st(sections="C3").adata.n_obs == 180


def test_each_call_gives_an_object_of_its_own(sample):
    other = her2st().adata
    other.X.data[:] = 0
    other.uns["spatial"].clear()
    assert her2st().adata.X.sum() == sample.X.sum()
    assert set(her2st().adata.uns["spatial"]) == {"C2", "C3", "C4", "C5"}


def test_one_section_held_out(sample):
    train, test = her2st().split(by="section", held_out=["C5"])
    assert set(train.obs_names).isdisjoint(test.obs_names)
    assert set(train.uns["spatial"]) == {"C2", "C3", "C4"}
    assert test.n_obs == 181
    assert train.n_obs + test.n_obs == sample.n_obs


def test_what_a_user_may_get_wrong(monkeypatch, tmp_path):
    with pytest.raises(DataError, match="unknown section 'C1'; expected one of 'A1', 'B4', 'C2'"):
        her2st(sections=["C1"])
    with pytest.raises(DataError, match="named twice or not at all"):
        her2st(sections=["C2", "C2"])
    with pytest.raises(DataError, match="named twice or not at all"):
        her2st(sections=[])
    with pytest.raises(DataError, match=r'shipped sample does not have B4; .*Use resolution="full"'):
        her2st(sections=["C2", "B4"], resolution="sample")
    with pytest.raises(DataError, match=r"unknown resolution 'fulll'; .*nearest: 'full'"):
        her2st(resolution="fulll")
    with pytest.raises(DataError, match=r"has no patient 'A'; expected some of 'C'"):
        her2st().split(by="patient", held_out=["A"])
    monkeypatch.setenv("EXPRESSOR_DATA", str(tmp_path / "nowhere"))
    assert her2st(sections=["C2"]).adata.n_obs == 187
    with pytest.raises(DataError, match="EXPRESSOR_DATA names no folder"):
        her2st(sections=["B4"])
    monkeypatch.setenv("EXPRESSOR_DATA", str(tmp_path))
    (tmp_path / "her2st").mkdir()
    for name in ("B4.h5ad", "B4.jpg"):
        (tmp_path / "her2st" / name).write_bytes(b"damaged")
    with pytest.raises(FormatError, match="B4.h5ad cannot be read as h5ad"):
        her2st(sections=["B4"])


@needs_data
def test_the_originals_of_three_patients():
    dataset = her2st(sections=["A1", "B4", "C2"])
    adata = dataset.adata
    assert dict(adata.obs["patient"].value_counts()) == {"A": 345, "B": 283, "C": 187}
    check_spatial(adata)
    assert adata.obs["pathologist"].notna().sum() == 345
    np.testing.assert_array_equal(np.asarray(adata.X.sum(axis=1)).ravel(), adata.obs["total_counts"])
    for section, um_per_px in {"A1": 3.2, "B4": 0.69, "C2": 0.69}.items():
        assert adata.uns["spatial"][section]["scalefactors"]["microns_per_pixel"] == pytest.approx(um_per_px, rel=1e-3)
    train, test = dataset.split(by="patient", held_out=["A", "B"])
    assert set(test.uns["spatial"]) == {"A1", "B4"}
    assert set(train.obs["patient"]) == {"C"}


@needs_data
def test_the_small_picture_of_a1_is_registered():
    adata = her2st(sections=["A1"]).adata
    on = light_under(adata, "A1", at(adata, "A1"))
    assert (on > 60).all()  # the glass is blacked out
    assert (on < 240).all()
    for moved in (at(adata, "A1") + [0, 400], at(adata, "A1") * 0.9, at(adata, "A1")[:, ::-1]):
        assert (light_under(adata, "A1", moved) > 60).mean() < 0.97


class Store:
    """A stand-in for the published tables of section C6, and the pictures' server."""

    def __init__(self, folder: Path) -> None:
        rng = np.random.default_rng(0)
        places = [(x, y) for x in range(5, 11) for y in range(8, 14)]
        um_per_px = breast.UM_PER_PX["C6"]
        self.positions = {f"{x}x{y}": (x * 200 / um_per_px, y * 200 / um_per_px) for x, y in places}
        self.genes = [f"GENE{i}" for i in range(20)]
        self.counts = pd.DataFrame(
            rng.poisson(3, size=(len(places), 20)), index=list(self.positions), columns=self.genes
        )
        spots = pd.DataFrame(
            [(x, y, x, y, *self.positions[f"{x}x{y}"], 1) for x, y in places],
            columns=["x", "y", "new_x", "new_y", "pixel_x", "pixel_y", "selected"],
        )
        clusters = pd.DataFrame(
            [("C", "C6", i % 3, x, y, 0, 0, 0, 0) for i, (x, y) in enumerate(places[:-1])],
            columns=["patient_id", "ids", "label", "x", "y", "pixel_x", "pixel_y", "warped_x", "warped_y"],
        )
        from PIL import Image

        pixels = rng.integers(0, 255, size=(4300, 3400, 3), dtype=np.uint8) // 8 * 8
        Image.fromarray(pixels).save(folder / "image.jpg", quality=30)
        self.files = {
            "counts": gzip.compress(self.counts.to_csv(sep="\t").encode()),
            "spots": spots.to_csv(sep="\t", index=False).encode(),
            "clusters": gzip.compress(clusters.to_csv(sep="\t").encode()),
            "image": (folder / "image.jpg").read_bytes(),
        }
        self.ends = {"counts": "c.tsv.gz", "spots": "s.tsv", "clusters": "k.tsv.gz", "image": "i.jpg"}


def test_a_section_that_is_downloaded(tmp_path, monkeypatch):
    import http.server
    import threading

    store = Store(tmp_path)
    asked = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            role = next(role for role, end in store.ends.items() if self.path == f"/tissue/{end}")
            asked.append(role)
            self.send_response(200)
            self.send_header("Content-Length", str(len(store.files[role])))
            self.end_headers()
            self.wfile.write(store.files[role])

        def log_message(self, *words: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    rows = tuple(
        {"dataset": "her2st", "section": "C6", "role": role, "path": end, "size": str(len(store.files[role])),
         "sha256": hashlib.sha256(store.files[role]).hexdigest()}
        for role, end in store.ends.items()
    )  # fmt: skip
    monkeypatch.setattr(sources, "_table", lambda: rows)
    origin = sources.Origin(f"http://127.0.0.1:{server.server_address[1]}/tissue", "CC BY 4.0")
    monkeypatch.setitem(sources.ORIGINS, "her2st", origin)
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("EXPRESSOR_DATA", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    try:
        dataset = her2st(sections=["C6"])
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
    again = her2st(sections=["C6"])  # no server any more
    assert sorted(asked) == sorted(store.ends)
    assert dataset.source == origin.url
    for adata in (dataset.adata, again.adata):
        check_spatial(adata)
        assert list(adata.var_names) == store.genes
        np.testing.assert_array_equal(adata.X.toarray(), store.counts.to_numpy())
        assert list(adata.obs_names) == [f"C6_{one}" for one in store.positions]
        np.testing.assert_allclose(adata.obsm["spatial"], list(store.positions.values()))
        assert list(adata.obs["cluster"].astype(object)[:4]) == ["0", "1", "2", "0"]
        assert adata.obs["cluster"].isna().to_list() == [False] * 35 + [True]
        assert adata.uns["spatial"]["C6"]["metadata"]["image"] == str(tmp_path / "cache/datasets/her2st/C6/i.jpg")


def test_offline_without_the_originals(tmp_path, monkeypatch):
    from expressor.datasets import fetch as fetching

    monkeypatch.setattr(fetching, "PAUSE_S", 0.0)
    monkeypatch.setitem(sources.ORIGINS, "her2st", sources.Origin("http://127.0.0.1:9", "CC BY 4.0"))
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path))
    monkeypatch.delenv("EXPRESSOR_DATA", raising=False)
    monkeypatch.delenv("http_proxy", raising=False)
    with pytest.raises(DataError, match=r"B4\.tsv\.gz could not be downloaded \(no connection"):
        her2st(sections=["B4"])
