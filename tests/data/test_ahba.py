"""The Allen Human Brain Atlas: reading its folder, each step of the preparation against a naive one, all steps against abagen."""

import shutil
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy.stats import iqr, spearmanr

from expressor.core.errors import DataError, FormatError
from expressor.data import read_ahba
from expressor.data.normalisation import normalise
from expressor.data.probes import above_background, agreement_with_rna, reannotate, select, stability
from expressor.data.readers.ahba import read_microarrays, read_rnaseq
from expressor.datasets import simulate_ahba_folder

GOLDEN = Path(__file__).with_name("abagen_golden.csv")


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """The folder from which ``scripts/abagen_golden.py`` made the golden values."""
    path = tmp_path_factory.mktemp("ahba") / "microarray"
    simulate_ahba_folder(path, n_donors=2, noise=1.0)
    return path.parent


@pytest.mark.parametrize(
    ("case", "options"),
    [
        ("default", {}),
        ("mirrored", {"mirror": "bidirectional"}),
        ("max_variance", {"probe_selection": "max_variance", "gene_norm": "zscore"}),
        ("pc_loading", {"probe_selection": "pc_loading", "sample_norm": "none", "gene_norm": "center"}),
        ("corr_intensity", {"probe_selection": "corr_intensity", "gene_norm": "robust_sigmoid"}),
        ("average", {"probe_selection": "average", "sample_norm": "zscore", "gene_norm": "minmax"}),
        ("max_intensity", {"probe_selection": "max_intensity", "sample_norm": "none", "gene_norm": "none"}),
        ("within_parts", {"within_parts": True, "gene_norm": "sigmoid"}),
    ],
)
def test_agrees_with_abagen(folder, case, options):
    golden = pd.read_csv(GOLDEN).query("case == @case").set_index("well_id").drop(columns="case")
    assert len(golden) > 10
    prepared = read_ahba(folder, **options)
    mine = prepared[[str(one) for one in golden.index]].to_df()[golden.columns]
    np.testing.assert_allclose(mine, golden, atol=2e-5)


def test_stability_against_loops(folder):
    raw = read_microarrays(folder)
    values, structures = list(raw.expression.values()), [one["structure_id"].to_numpy() for one in raw.samples.values()]
    shared = sorted(set(structures[0]) & set(structures[1]))
    for probe in (0, 5, 20):
        means = [
            [np.mean(one[probe][where == structure]) for structure in shared] for one, where in zip(values, structures)
        ]
        assert stability(values, structures)[probe] == pytest.approx(spearmanr(*means).statistic, abs=1e-6)
    with pytest.raises(DataError, match="stability of probes needs two donors; got 1.*max_intensity"):
        stability(values[:1], structures[:1])


@pytest.fixture(scope="module")
def sequenced(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("rna") / "atlas"
    simulate_ahba_folder(path, n_donors=3, noise=0.5, rnaseq=True)
    return path


def test_rna_sequencing_chooses_the_cleanest_probe(sequenced):
    adata = read_ahba(sequenced, probe_selection="rnaseq")
    raw = read_microarrays(sequenced)
    first = raw.probes.drop_duplicates("gene_symbol").set_index("gene_symbol")["probe_name"]
    assert (adata.var["probe"] == first.loc[adata.var_names]).mean() > 0.9
    assert adata.var["score"].mean() > 0.6
    gone = adata.uns["dropped"].query("step == 'rnaseq'")
    assert gone["name"].tolist() == ["GENE1"]
    assert "chosen by rnaseq" in adata.uns["methods"]


def test_agreement_with_rna_against_loops(sequenced):
    raw, rna = read_microarrays(sequenced), read_rnaseq(sequenced, donors=["9861", "10021", "12876"])
    assert set(rna) == {"9861", "10021"}
    genes = raw.probes["gene_symbol"].to_numpy(dtype=str)
    values, structures = list(raw.expression.values()), [one["structure_id"].to_numpy() for one in raw.samples.values()]
    found = agreement_with_rna(values, structures, genes, [rna.get(one) for one in raw.samples])
    assert np.isnan(found[genes == "GENE1"]).all()
    probe = int(np.flatnonzero(genes == "GENE3")[1])
    each = []
    for donor, one, where in zip(raw.samples, values, structures):
        if donor in rna:
            shared = sorted(set(where) & set(rna[donor].columns))
            means = [np.mean(one[probe][where == structure]) for structure in shared]
            each.append(spearmanr(means, rna[donor].loc["GENE3", shared]).statistic)
    assert found[probe] == pytest.approx(np.mean(each), abs=1e-6)


def test_rna_sequencing_that_is_not_there_is_refused(folder, sequenced, tmp_path):
    with pytest.raises(DataError, match="holds no RNA sequencing of these donors.*rnaseq_donor9861"):
        read_ahba(folder, probe_selection="rnaseq")
    copy = shutil.copytree(sequenced, tmp_path / "copy")
    table = copy / "rnaseq_donor9861" / "SampleAnnot.csv"
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(FormatError, match="does not fit SampleAnnot"):
        read_ahba(copy, probe_selection="rnaseq")


def test_selection_finds_the_cleanest_probe():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=40)
    structures = np.arange(40)
    donors = [truth + rng.normal(size=(3, 40)) * [[2.0], [0.1], [2.0]] for _ in range(3)]
    chosen = select(donors, np.array(["A", "A", "A"]), method="diff_stability", structures=[structures] * 3)[1]
    assert chosen.loc["A", "row"] == 1
    assert chosen.loc["A", "probes"] == 3


def test_intensity_against_loops():
    rng = np.random.default_rng(1)
    present = [rng.random((9, n)) < rng.random((9, 1)) for n in (7, 4)]
    shares = [sum(bool(x) for one in present for x in one[probe]) / 11 for probe in range(9)]
    assert above_background(present, 0.5).tolist() == [one >= 0.5 for one in shares]
    assert above_background(present, 0.0).all()


def test_normalisations_against_their_definitions():
    values = np.random.default_rng(2).gamma(2.0, size=(15, 3))
    column = values[:, 1]
    robust = 1 / (1 + np.exp(-(column - np.median(column)) / iqr(column, scale="normal")))
    plain = 1 / (1 + np.exp(-(column - column.mean()) / column.std(ddof=1)))
    expected = {
        "srs": (robust - robust.min()) / np.ptp(robust), "robust_sigmoid": robust, "sigmoid": plain,
        "scaled_sigmoid": (plain - plain.min()) / np.ptp(plain), "zscore": (column - column.mean()) / column.std(ddof=1),
        "minmax": (column - column.min()) / np.ptp(column), "center": column - column.mean(), "none": column,
    }  # fmt: skip
    for method, one in expected.items():
        np.testing.assert_allclose(normalise(values, method)[:, 1], one, atol=1e-12, err_msg=method)
    values[:, 0] = 3.0
    assert np.isnan(normalise(values, "srs")[:, 0]).all()
    with pytest.raises(DataError, match="unknown normalisation 'z-score'.*nearest: 'zscore'"):
        normalise(values, "z-score")


def test_reannotation():
    probes = pd.DataFrame({"probe_name": ["p1", "p2", "p3"], "gene_symbol": ["OLD", "B", "C"]}, index=[11, 12, 13])
    table = pd.DataFrame({"probe_name": ["p3", "p1", "p9"], "gene_symbol": ["C", "NEW", "X"], "entrez_id": [3, 1, 9]})
    found = reannotate(probes, table)
    assert found.index.tolist() == [11, 13]
    assert found["gene_symbol"].tolist() == ["NEW", "C"]
    table.loc[0, "entrez_id"] = np.nan
    assert reannotate(probes, table)["gene_symbol"].tolist() == ["NEW"]
    with pytest.raises(DataError, match="has a probe twice; got 'p1'"):
        reannotate(probes, table.assign(probe_name="p1"))


def test_every_drop_is_told(folder):
    prepared = read_ahba(folder)
    dropped = prepared.uns["dropped"]
    by_step = dropped.groupby("step")["name"].apply(sorted)
    assert by_step["annotation"] == ["GENE19"]
    assert by_step["intensity"] == ["GENE20"]
    assert by_step["side"] == ["1000", "2000"]
    assert dropped.query("name == '1000'")["reason"].item() == "its structure is on side L, its place at x 3.0 mm"
    assert prepared.shape == (120 - 2, 20 - 2)
    assert "chosen by diff_stability" in prepared.uns["methods"]
    assert "left 118 samples and 18 genes" in prepared.uns["methods"]


def test_the_truth_is_recovered(tmp_path):
    truth = simulate_ahba_folder(tmp_path / "clean", n_donors=3, noise=0.02)
    prepared = read_ahba(tmp_path / "clean", sample_norm="none", gene_norm="center")
    expected = truth.loc[prepared.obs["well_id"], prepared.var_names]
    agreement = [np.corrcoef(prepared.X[:, i], expected.iloc[:, i])[0, 1] for i in range(prepared.n_vars)]
    assert min(agreement) > 0.97


def test_mirroring_and_better_places(folder):
    plain, both = read_ahba(folder), read_ahba(folder, mirror="bidirectional")
    assert both.n_obs == 2 * plain.n_obs
    copy, source = both["1005m"], both["1005"]
    np.testing.assert_allclose(copy.obsm["mni"], source.obsm["mni"] * [-1, 1, 1])
    assert copy.obs["hemisphere"].item() == "R"
    assert copy.obs["structure"].item().endswith("right")
    assert read_ahba(folder, mirror="rightleft").n_obs == plain.n_obs  # all were taken from the left side
    places = pd.DataFrame({"x": -20.0, "y": 1.0, "z": 2.0}, index=range(1000, 2060))
    moved = read_ahba(folder, coordinates=places)
    assert moved.n_obs == 120
    assert (moved.obsm["mni"] == [-20, 1, 2]).all()
    with pytest.raises(DataError, match="60 samples of donor 9861 have no coordinates, such as well_id 1000"):
        read_ahba(folder, coordinates=places.loc[2000:])


def test_parquet_gives_the_same(folder, tmp_path):
    pytest.importorskip("pyarrow")
    simulate_ahba_folder(tmp_path / "parquet", n_donors=2, noise=1.0, parquet=True)
    one, other = read_ahba(folder), read_ahba(tmp_path / "parquet")
    np.testing.assert_array_equal(one.X, other.X)


@pytest.fixture
def broken(folder, tmp_path) -> Path:
    shutil.copytree(folder / "microarray", tmp_path / "broken")
    return tmp_path / "broken"


def test_a_missing_table_is_named(broken):
    (broken / "normalized_microarray_donor10021/PACall.csv").unlink()
    with pytest.raises(
        DataError, match=r"the table PACall is missing in .*donor10021; expected PACall.csv or .*Unpack"
    ):
        read_ahba(broken)
    assert read_ahba(broken, donors=["9861"], probe_selection="max_intensity").obs["donor"].unique().tolist() == [
        "9861"
    ]
    with pytest.raises(DataError, match="has no donor '9862'; expected some of 10021, 9861; nearest: '9861'"):
        read_ahba(broken, donors=["9862"])
    with pytest.raises(DataError, match="holds no donor; expected folders called normalized_microarray_donor9861"):
        read_ahba(broken / "normalized_microarray_donor9861")


def test_damaged_tables_are_refused(broken):
    file = broken / "normalized_microarray_donor9861/MicroarrayExpression.csv"
    text = file.read_text().splitlines()
    file.write_text("\n".join(text[:-1]))
    with pytest.raises(
        FormatError, match=f"does not fit the tables beside it; expected {len(text)} probes, got {len(text) - 1}"
    ):
        read_ahba(broken)
    file.write_text("\n".join([*text[:-1], text[-1].rsplit(",", 1)[0] + ",x"]))
    with pytest.raises(FormatError, match="cannot be read as a table of numbers"):
        read_ahba(broken)
    file.write_text("\n".join([text[1], text[0], *text[2:]]))
    with pytest.raises(FormatError, match="lists other probes than Probes"):
        read_ahba(broken)


def test_the_simulator_overwrites_nothing(folder):
    with pytest.raises(DataError, match="is not empty"):
        simulate_ahba_folder(folder)


def test_division(folder):
    """The structure below a part; pons and white matter are divisions themselves."""
    obs = read_ahba(folder).obs
    found = {name: sorted(set(one.astype(str))) for name, one in obs.groupby("structure", observed=True)["division"]}
    assert found["ctx 1, left"] == found["ctx 2, left"] == ["ctx division 1"]
    assert found["ctx 3, left"] == ["ctx division 2"]
    assert found["pons 4, left"] == ["pons"]
    assert found["wm 1, left"] == ["wm"]
