"""Splits by whole groups, on random tables."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from expressor.core.errors import DataError
from expressor.datasets import Dataset
from expressor.datasets.dataset import take


def make(sections: list[str], patients: list[str | None]) -> Dataset:
    n = len(sections)
    obs = pd.DataFrame(
        {"section": pd.Categorical(sections), "patient": pd.Categorical(patients)}, index=[f"spot{i}" for i in range(n)]
    )
    adata = ad.AnnData(np.arange(3.0 * n, dtype=np.float32).reshape(n, 3), obs=obs)
    adata.uns["spatial"] = {one: {"scalefactors": {"microns_per_pixel": 1.0}} for one in set(sections)}
    adata.uns["other"] = {"kept": 1}
    return Dataset(adata, name="made", licence="CC0", citation="none", source="here")


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_split_is_a_partition_without_a_shared_group(data):
    sections = data.draw(st.lists(st.sampled_from("abcde"), min_size=2, max_size=20).filter(lambda s: len(set(s)) > 1))
    known = sorted(set(sections))
    held = data.draw(st.lists(st.sampled_from(known), min_size=1, max_size=len(known) - 1, unique=True))
    dataset = make(sections, [one.upper() for one in sections])
    before = dataset.adata.copy()
    train, test = dataset.split(by="section", held_out=held)
    assert set(test.obs["section"]) == set(held)
    assert set(train.obs["section"]) == set(known) - set(held)
    for part in (train, test):
        assert list(part.obs["section"].cat.categories) == sorted(set(part.obs["section"]))
        assert set(part.uns["spatial"]) == set(part.obs["section"])
        assert part.uns["other"] == {"kept": 1}
        assert not part.is_view
        np.testing.assert_array_equal(part.X, before[part.obs_names].X)
    assert sorted([*train.obs_names, *test.obs_names]) == sorted(before.obs_names)
    train.X[:] = -1
    train.uns["spatial"].clear()
    np.testing.assert_array_equal(dataset.adata.X, before.X)
    assert set(dataset.adata.uns["spatial"]) == set(known)


def test_split_by_patient_takes_all_their_sections():
    train, test = make(["a1", "a2", "b1"], ["A", "A", "B"]).split(by="patient", held_out="A")
    assert list(test.obs_names) == ["spot0", "spot1"]
    assert list(train.obs_names) == ["spot2"]


def test_refusals():
    dataset = make(["liver1", "liver2", "lung1"], ["A", "A", "B"])
    with pytest.raises(
        DataError, match=r"has no section 'liver3'; expected some of 'liver1', 'liver2', 'lung1'; nearest: "
    ):
        dataset.split(by="section", held_out=["liver3"])
    with pytest.raises(DataError, match=r"has no obs column 'patients'; .*nearest: 'patient'"):
        dataset.split(by="patients", held_out=["A"])
    with pytest.raises(DataError, match=r"leaves no training data.*There are 2: A, B"):
        dataset.split(by="patient", held_out=["A", "B"])
    with pytest.raises(DataError, match="leaves no test data"):
        dataset.split(by="patient", held_out=[])
    with pytest.raises(DataError, match="1 of 3 observations have no patient"):
        make(["liver1", "liver2", "lung1"], ["A", None, "B"]).split(by="patient", held_out=["A"])


def test_text_of_a_dataset_names_groups_licence_and_source():
    text = repr(make(["a1", "a2", "b1"], ["A", None, "B"]))
    assert text == "Dataset(made: 3 observations, 3 genes; patient A/B, section a1/a2/b1; CC0; from here)"


def test_take_keeps_the_given_order():
    part = take(make(["a", "b", "a"], ["A", "B", "A"]).adata, np.array([2, 0]))
    assert list(part.obs_names) == ["spot2", "spot0"]
    assert set(part.uns["spatial"]) == {"a"}
