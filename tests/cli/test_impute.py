"""``expressor impute`` and ``expressor report --data``: files in, files out, measured values as they came."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import expressor as ex
from expressor.cli import main
from expressor.datasets import example, simulate_bulk


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    train = simulate_bulk(n_patients=80)
    names = ["TP53", "ERBB2", "ESR1", "MKI67", "CD274", "KRT5", "GATA3", "EGFR", "MYC", "PTEN"]
    train = train[:, :10].copy()
    train.var_names = names
    return ex.ConditionalGaussian.preset("tiny").fit(train).save(tmp_path_factory.mktemp("saved") / "model")


@pytest.fixture
def table():
    values = np.random.default_rng(0).uniform(4, 9, size=(6, 4)).round(3)
    values[1, 2] = values[4, 0] = np.nan
    columns = ["ENSG00000141736.14", "ENSG00000141510.1", "ENSG00000065361.16", "ENSG00000091831.25"]
    return pd.DataFrame(values, index=[f"s{i}" for i in range(6)], columns=columns)


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".csv.gz"])
def test_tables(tmp_path, model, table, capsys, ending):
    source = tmp_path / f"in{ending}"
    table.T.to_csv(source, sep="," if "csv" in ending else "\t", na_rep="NA")
    out = tmp_path / f"out{ending}"
    assert main(["impute", str(model), str(source), "-o", str(out), "--intervals"]) == 0
    said = capsys.readouterr().out
    assert "3 of 10 genes found (3 by the table of identifiers)" in said
    assert "7 missing" in said
    read = {one: pd.read_csv(tmp_path / f"out{one}{ending}", sep="," if "csv" in ending else "\t", index_col=0)
            for one in ("", "_lower", "_upper")}  # fmt: skip
    got = read[""]
    assert got.shape == (6, 10)
    assert got.notna().all().all()
    wanted = table.set_axis(["ERBB2", "TP53", "ERBB3", "ESR1"], axis=1)
    for gene in ("ERBB2", "TP53", "ESR1"):
        known = wanted[gene].notna()
        np.testing.assert_allclose(got[gene][known], wanted[gene][known].astype(np.float32), rtol=1e-6)
    assert (read["_lower"] <= got + 1e-5).all().all()
    assert (got <= read["_upper"] + 1e-5).all().all()


def test_h5ad_and_report(tmp_path, model, capsys):
    data = simulate_bulk(n_patients=20, seed=1, missing=0.2)[:, :10].copy()
    data.var_names = ex.load(model).genes_in_.names
    data.write_h5ad(tmp_path / "in.h5ad")
    words = [
        "impute",
        str(model),
        str(tmp_path / "in.h5ad"),
        "-o",
        str(tmp_path / "out.h5ad"),
        "--report",
        str(tmp_path / "run"),
    ]
    assert main(words) == 0
    out = ad.read_h5ad(tmp_path / "out.h5ad")
    assert set(out.layers) == {"measured", "lower", "upper"}
    assert out.uns["unit"] == "log2(TPM+1)"
    known = ~np.isnan(data.X)
    np.testing.assert_array_equal(out.X[known], data.X[known])
    assert f"restored {int((~known).sum()):,} of 200 values, in log2(TPM+1)" in capsys.readouterr().out
    assert (tmp_path / "run" / "report.html").is_file()
    assert main(words) == 2
    assert "out.h5ad exists" in capsys.readouterr().err
    assert main(["report", str(tmp_path / "run"), "-o", str(tmp_path / "again.html")]) == 0
    assert (tmp_path / "again.html").read_text() == (tmp_path / "run" / "report.html").read_text()


def test_report_on_data(tmp_path, capsys):
    model = ex.PenalisedCox.preset("tiny").fit(example("bulk")).save(tmp_path / "model")
    example("bulk", seed=1).write_h5ad(tmp_path / "new.h5ad")
    assert main(["report", str(model), "--data", str(tmp_path / "new.h5ad"), "-o", str(tmp_path / "run")]) == 0
    assert "Who is at risk" in (tmp_path / "run" / "report.html").read_text()
    assert main(["report", str(model), "--data", str(tmp_path / "new.h5ad")]) == 2
    assert "needs a place to be written to. Give -o" in capsys.readouterr().err
    assert main(["impute", str(model), str(tmp_path / "new.h5ad"), "-o", str(tmp_path / "o.csv")]) == 2
    assert "PenalisedCox does not restore expression" in capsys.readouterr().err


def test_what_is_refused(tmp_path, model, table, capsys):
    table.to_csv(tmp_path / "in.csv")
    assert main(["impute", str(model), str(tmp_path / "in.csv"), "-o", str(tmp_path / "out.xlsx")]) == 2
    assert "unknown ending of" in capsys.readouterr().err
    (table * 1000).round().to_csv(tmp_path / "counts.csv")
    assert main(["impute", str(model), str(tmp_path / "counts.csv"), "-o", str(tmp_path / "o.csv")]) == 2
    assert "counts" in capsys.readouterr().err
    table.columns = ["a", "b", "c", "d"]
    table.to_csv(tmp_path / "odd.csv")
    words = ["impute", str(model), str(tmp_path / "odd.csv"), "-o", str(tmp_path / "o.csv")]
    assert main(words) == 2
    assert "--genes-in columns" in capsys.readouterr().err
    assert main([*words, "--genes-in", "columns"]) == 2
    assert "none of the model's genes is in the data" in capsys.readouterr().err
    assert not (tmp_path / "o.csv").exists()


def test_ids_of_ones_own(tmp_path, model, table):
    table.columns = ["own1", "own2", "own3", "own4"]
    table.to_csv(tmp_path / "in.csv")
    (tmp_path / "ids.tsv").write_text("symbol\tentrez\tensembl\nTP53\town1\t\nERBB2\town2\t\n")
    words = ["impute", str(model), str(tmp_path / "in.csv"), "-o", str(tmp_path / "o.csv"), "--genes-in", "columns",
             "--ids", str(tmp_path / "ids.tsv")]  # fmt: skip
    assert main(words) == 0
    got = pd.read_csv(tmp_path / "o.csv", index_col=0)
    np.testing.assert_allclose(got["ERBB2"], table["own2"], rtol=1e-6)
