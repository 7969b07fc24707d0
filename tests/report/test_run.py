import anndata
import numpy as np
import pytest

from expressor.core.errors import DataError, FormatError
from expressor.report import read_run


def test_reads_what_is_there(make_run):
    run = read_run(make_run())
    assert run.sections == ("C2", "C3", "C4")
    assert run.unit == "log1p of counts per 10,000"
    assert run.coverage == 0.9
    assert run.grid is None
    assert {"method", "value"} <= set(run.evaluation.columns)
    assert run.config["class"] == "AGL"
    assert run.values("measured").shape == (run.predictions.n_obs, 40)
    assert run.values("measured", genes=["GENE3"])[:, 0].tolist() == run.values("measured")[:, 3].tolist()


def test_predictions_alone_are_a_run(make_run):
    run = read_run(make_run(measured=False, intervals=False, pictures=False, gene_table=False, beside=False))
    assert run.values("measured") is None
    assert run.values("lower") is None
    assert run.evaluation.empty
    assert run.methods == ""
    assert run.gene_table["pcc"].isna().all()
    assert run.gene_table["trusted"].tolist() == [None] * 40


def test_gene_table_puts_trusted_genes_first_then_the_best_correlation(make_run):
    table = read_run(make_run(missing=True)).gene_table
    trusted = [one is True for one in table["trusted"]]
    assert trusted == sorted(trusted, reverse=True)
    for verdict in (True, False):
        correlations = table.loc[[one is verdict for one in table["trusted"]], "pcc"].to_numpy()
        known = correlations[np.isfinite(correlations)]
        assert np.all(np.diff(known) <= 0)
        assert np.isfinite(correlations[: len(known)]).all(), "genes without a correlation come last"


def test_correlations_here_by_hand(make_run):
    run = read_run(make_run(missing=True))
    found = run.correlations
    assert list(found.index) == ["C2", "C3", "C4"]
    predicted, measured = run.values("predicted"), run.values("measured")
    for gene in (0, 5, 30):
        rows = run.spots_of("C3")
        rows = rows[np.isfinite(predicted[rows, gene]) & np.isfinite(measured[rows, gene])]
        truth = np.corrcoef(predicted[rows, gene], measured[rows, gene])[0, 1]
        assert found.loc["C3", f"GENE{gene}"] == pytest.approx(truth)
    assert found["GENE1"].isna().all(), "not measured"
    assert found["GENE2"].isna().all(), "constant"
    assert run.correlation_here["GENE0"] == pytest.approx(found["GENE0"].mean())
    assert read_run(make_run(measured=False)).correlation_here.isna().all()


def test_no_section_column_is_one_section(make_run):
    folder = make_run(sections=("only",))
    tissue = anndata.read_h5ad(folder / "predictions.h5ad")
    del tissue.obs["section"]
    tissue.write_h5ad(folder / "predictions.h5ad")
    assert read_run(folder).sections == ("tissue",)


def test_missing_folder_and_missing_predictions(tmp_path):
    with pytest.raises(DataError, match="there is no folder .*nowhere. Give the folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"holds no predictions.h5ad"):
        read_run(tmp_path)


@pytest.mark.parametrize("keep", [0, 7, 100, 4000])
def test_truncated_predictions_raise_our_error(make_run, keep):
    path = make_run() / "predictions.h5ad"
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(FormatError, match=r"predictions.h5ad"):
        read_run(path.parent)


def test_flipped_bytes_raise_our_errors_or_none(make_run):
    path = make_run(side=4, sections=("C2",), pictures=False) / "predictions.h5ad"
    good = path.read_bytes()
    rng = np.random.default_rng(0)
    refused = 0
    for _ in range(40):
        bad = bytearray(good)
        for place in rng.integers(0, min(len(bad), 6000), 12):
            bad[place] ^= int(rng.integers(1, 256))
        path.write_bytes(bytes(bad))
        try:
            read_run(path.parent)
        except (FormatError, DataError):
            refused += 1
    assert refused > 5


@pytest.mark.parametrize(
    ("name", "content", "error"),
    [
        ("evaluation.csv", b"\xff\xfe\x00\x01", FormatError),
        ("environment.json", b"{", FormatError),
        ("environment.json", b"[1]", FormatError),
        ("methods.txt", b"\xff\xfe", FormatError),
    ],
)
def test_corrupt_files_beside_the_predictions(make_run, name, content, error):
    folder = make_run()
    (folder / name).write_bytes(content)
    with pytest.raises(error, match=name):
        read_run(folder)


def test_coordinates_are_needed_and_finite(make_run):
    folder = make_run()
    tissue = anndata.read_h5ad(folder / "predictions.h5ad")
    tissue.obsm["spatial"][3, 0] = np.nan
    tissue.write_h5ad(folder / "predictions.h5ad")
    with pytest.raises(DataError, match="not finite"):
        read_run(folder)
    del tissue.obsm["spatial"]
    tissue.write_h5ad(folder / "predictions.h5ad")
    with pytest.raises(DataError, match=r'has no obsm\["spatial"\]'):
        read_run(folder)


def test_grid_of_other_genes_is_refused(make_run):
    folder = make_run(grid=True)
    dense = anndata.read_h5ad(folder / "grid.h5ad")[:, :5].copy()
    dense.write_h5ad(folder / "grid.h5ad")
    with pytest.raises(DataError, match="different genes"):
        read_run(folder)
