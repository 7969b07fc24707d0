"""Text tables: separators, missing values, orientation, annotations; and what is refused."""

import gzip

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expressor.core.errors import DataError, ExpressorError, FormatError
from expressor.data import read, read_outcomes, read_table

GENES = ["TP53", "ERBB2", "ESR1", "MKI67", "CD274"]


@pytest.fixture
def frame():
    values = np.random.default_rng(0).uniform(0, 12, size=(4, 5)).round(3)
    values[1, 2] = values[3, 0] = np.nan
    return pd.DataFrame(values, index=["s1", "s2", "s3", "s4"], columns=GENES)


def check(adata, frame):
    assert adata.obs_names.tolist() == frame.index.tolist()
    assert adata.var_names.tolist() == frame.columns.tolist()
    assert adata.X.dtype == np.float32
    np.testing.assert_array_equal(adata.X, frame.to_numpy(dtype=np.float32))


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".txt", ".csv.gz", ".tsv.gz"])
@pytest.mark.parametrize("turned", [False, True])
def test_separators_and_orientation(tmp_path, frame, suffix, turned):
    path = tmp_path / f"table{suffix}"
    (frame.T if turned else frame).to_csv(path, sep="," if "csv" in suffix else "\t", na_rep="NA")
    check(read(path), frame)
    check(read(str(path)), frame)


def test_what_was_decided_is_said(tmp_path, frame, caplog):
    frame.T.to_csv(tmp_path / "t.tsv", sep="\t")
    with caplog.at_level("INFO", logger="expressor"):
        read_table(tmp_path / "t.tsv")
    assert "tab-separated, genes in rows" in caplog.text


@pytest.mark.parametrize("word", ["", "NA", "NaN", "null", "#N/A", "-", "."])
def test_words_for_missing_values(tmp_path, frame, word):
    frame.to_csv(tmp_path / "t.csv", na_rep=word)
    check(read_table(tmp_path / "t.csv"), frame)


@pytest.mark.parametrize(
    "names", [["7157", "2064", "2099"], ["ENSG00000141510.18", "ENSG00000141736.14", "ENSG00000091831.25"]]
)
def test_identifiers_of_any_kind(tmp_path, names):
    frame = pd.DataFrame(np.arange(6.0).reshape(2, 3) + 0.5, index=["a", "b"], columns=names)
    for turned in (False, True):
        (frame.T if turned else frame).to_csv(tmp_path / "t.csv")
        check(read_table(tmp_path / "t.csv"), frame)


def test_semicolons_and_decimal_commas(tmp_path, frame):
    frame.to_csv(tmp_path / "t.csv", sep=";", decimal=",")
    check(read_table(tmp_path / "t.csv"), frame)
    frame.to_csv(tmp_path / "t.csv", sep=";")
    check(read_table(tmp_path / "t.csv"), frame)


def test_annotations_go_to_obs(tmp_path, frame):
    table = frame.copy()
    table.insert(0, "time", [10.0, 20, 30, 40])
    table["event"] = [1, 0, 1, 0]
    table["hospital"] = ["north", "south", "north", None]
    table.to_csv(tmp_path / "t.csv")
    adata = read(tmp_path / "t.csv")
    check(adata, frame)
    assert adata.obs["hospital"].tolist()[:3] == ["north", "south", "north"]
    assert adata.obs["hospital"].isna().tolist() == [False, False, False, True]
    assert read_outcomes(adata).event.tolist() == [True, False, True, False]
    adata.write_h5ad(tmp_path / "t.h5ad")


def test_descriptions_of_genes_go_to_var(tmp_path, frame):
    table = frame.T
    table.insert(0, "Description", ["tumor protein", "receptor", "receptor", "marker", "ligand"])
    table.to_csv(tmp_path / "t.tsv", sep="\t")
    adata = read(tmp_path / "t.tsv")
    check(adata, frame)
    assert adata.var["Description"].tolist()[1] == "receptor"


def test_columns_that_nobody_measured_stay(tmp_path, frame):
    frame["ESR1"] = np.nan
    frame.to_csv(tmp_path / "t.csv")
    check(read_table(tmp_path / "t.csv"), frame)


def test_byte_order_mark_and_ends_of_lines(tmp_path, frame):
    text = frame.to_csv(na_rep="NA").replace("\n", "\r\n")
    (tmp_path / "t.csv").write_bytes(b"\xef\xbb\xbf" + text.encode())
    check(read_table(tmp_path / "t.csv"), frame)
    (tmp_path / "t.csv").write_bytes(text.encode("utf-16"))
    with pytest.raises(FormatError, match="is no text"):
        read_table(tmp_path / "t.csv")


def test_unknown_names_must_be_told(tmp_path, frame):
    frame.columns = [f"probe{i}" for i in range(5)]
    frame.to_csv(tmp_path / "t.csv")
    with pytest.raises(
        DataError, match="genes of .* in rows or in columns; .*rows such as 's1', columns such as 'probe0'"
    ):
        read(tmp_path / "t.csv")
    check(read_table(tmp_path / "t.csv", genes_in="columns"), frame)
    with pytest.raises(DataError, match="unknown genes_in 'cols'"):
        read_table(tmp_path / "t.csv", genes_in="cols")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no table; expected a line of names"),
        ("TP53,ERBB2\n", "is no table"),
        ("name\na\n", "has one column; expected columns separated by"),
        (",TP53,ERBB2,ESR1\na,1,2,3\na,1,2,3\n", "1 samples of .* stand more than once, such as 'a'"),
        (",TP53,ERBB2,TP53\na,1,2,3\n", "1 column names of .* stand more than once, such as 'TP53'"),
        (
            ",TP53,ERBB2,ESR1\na,1,2,3\nb,1,oops,3\nc,1,2,4\n",
            "column 'ERBB2' .* has 1 values that are no numbers, such as 'oops' in row 'b'",
        ),
        (",TP53,ERBB2,ESR1\na,1,2,3\nb,1,2,3,4\n", "cannot be read as a comma-separated table"),
        (",TP53,ERBB2,ESR1\n,1,2,3\n", "1 rows of .* have no name"),
    ],
)
def test_bad_tables_are_refused(tmp_path, text, message):
    (tmp_path / "t.csv").write_text(text)
    with pytest.raises((DataError, FormatError), match=message):
        read_table(tmp_path / "t.csv")


def test_files_that_are_no_text(tmp_path):
    (tmp_path / "t.csv").write_bytes(b"a\0b" * 100)
    with pytest.raises(FormatError, match="is no text"):
        read_table(tmp_path / "t.csv")
    (tmp_path / "t.csv.gz").write_bytes(gzip.compress(b"a,b\n1,2\n" * 100)[:-9])
    with pytest.raises(FormatError):
        read_table(tmp_path / "t.csv.gz")
    with pytest.raises(DataError, match="there is no data file at"):
        read(tmp_path / "none.csv")
    (tmp_path / "t.xlsx").write_bytes(b"PK")
    with pytest.raises(DataError, match="suffix of .* is not known; expected .* a .csv or .tsv table, got '.xlsx'"):
        read(tmp_path / "t.xlsx")


@given(st.binary(max_size=200))
@settings(max_examples=150, deadline=None)
def test_any_bytes_are_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("fuzz") / "t.csv"
    path.write_bytes(content)
    try:
        read(path)
    except ExpressorError:
        pass
