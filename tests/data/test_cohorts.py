"""Folds of patients: whole, stratified, stored; a user's genes as a model's."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expressor.core.errors import DataError, FormatError, GeneError
from expressor.data import PatientFolds, check_apart, draw_folds, match_to
from expressor.datasets import example, simulate_bulk
from expressor.genes import GeneVocab


@given(folds=st.integers(2, 6), repeats=st.integers(1, 3), samples=st.integers(1, 3), seed=st.integers(0, 50))
@settings(max_examples=15, deadline=None)
def test_every_patient_judges_once_a_repeat_and_is_never_split(folds, repeats, samples, seed):
    adata = simulate_bulk(n_patients=17, samples_per_patient=samples)
    drawn = draw_folds(adata, folds=folds, repeats=repeats, by=["event"], seed=seed)
    splits = drawn.splits(adata)
    assert len(splits) == folds * repeats
    patient = adata.obs["patient"].astype(str).to_numpy()
    for r in range(repeats):
        own = [one for one in splits if one.name.startswith(f"r{r}f")]
        assert sorted(np.concatenate([one.test for one in own]).tolist()) == list(range(adata.n_obs))
    for one in splits:
        assert not set(patient[one.train]) & set(patient[one.test])
        check_apart(adata[one.train], adata[one.test])


def test_strata_are_spread_evenly():
    adata = simulate_bulk(n_patients=60)
    for split in draw_folds(adata, folds=5, by=["event", "cancer_type"]).splits(adata):
        part = adata.obs.iloc[split.test]
        assert len(part) == 12
        for column in ("event", "cancer_type"):
            for value, total in adata.obs[column].value_counts().items():
                assert abs((part[column] == value).sum() - total / 5) <= 2
    events = [
        adata.obs["event"].iloc[split.test].sum() for split in draw_folds(adata, folds=5, by=["event"]).splits(adata)
    ]
    assert max(events) - min(events) <= 1


def test_order_of_samples_does_not_matter_and_seed_does():
    adata = example("bulk")
    turned = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    first = draw_folds(adata, by=["event"])
    assert first == draw_folds(turned, by=["event"])
    assert first.hash != draw_folds(adata, by=["event"], seed=1).hash
    assert first.test[0] != first.test[1]


def test_folds_are_kept(tmp_path):
    adata = example("bulk")
    drawn = draw_folds(adata, by=["event"], name="example")
    drawn.write(tmp_path / "folds.json")
    again = PatientFolds.read(tmp_path / "folds.json")
    assert again == drawn
    part = adata[:30].copy()
    assert [len(one.test) for one in again.splits(part)] == [
        int(np.isin(part.obs["patient"].astype(str), fold).sum()) for repeat in drawn.test for fold in repeat
    ]


def test_changed_folds_are_refused(tmp_path):
    path = tmp_path / "folds.json"
    draw_folds(example("bulk")).write(path)
    record = json.loads(path.read_text())
    first, second = record["test"][0][:2]
    first[0], second[0] = second[0], first[0]
    path.write_text(json.dumps(record))
    with pytest.raises(FormatError, match="were changed after they were written"):
        PatientFolds.read(path)
    second[0] = first[0]
    path.write_text(json.dumps(record))
    with pytest.raises(FormatError, match="a patient stands in two folds of repeat 0"):
        PatientFolds.read(path)
    path.write_text("{}")
    with pytest.raises(FormatError, match="holds no folds"):
        PatientFolds.read(path)


def test_folds_of_other_patients_are_refused():
    drawn = draw_folds(example("bulk"), name="first")
    with pytest.raises(
        DataError, match="folds of 'first' were made for other patients: 60 are in none, such as 'S1P001'"
    ):
        drawn.splits(example("bulk", seed=1))


def test_wrong_data_are_refused():
    adata = example("bulk")
    with pytest.raises(DataError, match="no column 'stage' to stratify by. There are: patient"):
        draw_folds(adata, by=["stage"])
    with pytest.raises(DataError, match="fewer patients than folds; expected at least 5, got 4"):
        draw_folds(example("bulk", n=4))
    del adata.obs["patient"]
    with pytest.raises(DataError, match="it is not known which samples are of one patient. Add it"):
        draw_folds(adata)


def test_a_patient_on_both_sides_is_refused():
    adata = simulate_bulk(n_patients=6, samples_per_patient=2)
    with pytest.raises(DataError, match="leak: 1 patients are in the training and in the test data, such as 'S0P002'"):
        check_apart(adata[:3], adata[3:])
    check_apart(adata[:4], adata[4:])


def test_genes_are_named_as_the_model_names_them():
    adata = example("bulk")[:, :4].copy()
    adata.var_names = ["7157", "2064", "ENSG00000091831.25", "strange"]
    before = adata.var_names.tolist()
    part, found = match_to(adata, GeneVocab(["ESR1", "MKI67", "TP53", "ERBB2"]))
    assert part.var_names.tolist() == ["ESR1", "TP53", "ERBB2"]
    assert part.var["found_as"].tolist() == ["ENSG00000091831.25", "7157", "2064"]
    np.testing.assert_array_equal(part.X, adata.X[:, [2, 0, 1]])
    assert found.missing == ("MKI67",)
    assert adata.var_names.tolist() == before
    with pytest.raises(GeneError, match="none of the model's genes is in the data"):
        match_to(adata, ["CD274"])
