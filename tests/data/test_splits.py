import numpy as np
import pandas as pd
import pytest
from anndata import AnnData
from hypothesis import given, settings
from hypothesis import strategies as st

from expressor.core.errors import DataError
from expressor.data import (
    Recipe,
    Split,
    check_leak,
    hold_out,
    keys,
    leave_one_group_out,
    random_spots,
    spatial_blocks,
    split_from_labels,
)  # fmt: skip


def tissue(n=90, seed=0, sections=("C2", "C3", "B4")):
    rng = np.random.default_rng(seed)
    section = np.resize(sections, n)
    obs = pd.DataFrame({"section": pd.Categorical(section), "patient": pd.Categorical([one[0] for one in section])})
    obs.index = [f"{one}_{i}" for i, one in enumerate(section)]
    X = rng.poisson(rng.gamma(1, 3, 20), (n, 20)).astype(np.float32)
    adata = AnnData(X, obs=obs, var=pd.DataFrame(index=[f"G{i}" for i in range(20)]))
    adata.obsm["spatial"] = rng.uniform(0, 2000, (n, 2))
    adata.uns["spatial"] = {
        one: {keys.SCALEFACTORS: {keys.UM_PER_PX: 0.5}, keys.METADATA: {}} for one in sections
    }  # fmt: skip
    return adata


def test_leaving_one_group_out_judges_every_observation_once():
    adata = tissue()
    splits = leave_one_group_out(adata, "section")
    assert [one.name for one in splits] == ["section B4", "section C2", "section C3"]
    assert sorted(np.concatenate([one.test for one in splits])) == list(range(90))
    for one in splits:
        check_leak(adata[one.train], adata[one.test], by=["section", "obs_names"])
        assert len(one.train) + len(one.test) == 90
        assert one.train.dtype == np.int64
    with pytest.raises(DataError, match="patient has one group only; expected two or more, got C"):
        leave_one_group_out(adata[adata.obs["patient"] == "C"], "patient")


def test_holding_out_named_groups():
    adata = tissue()
    one = hold_out(adata, "section", ["C2", "B4"])
    assert set(adata.obs["section"].iloc[one.test]) == {"C2", "B4"}
    assert set(adata.obs["section"].iloc[one.train]) == {"C3"}
    assert (hold_out(adata, "patient", "B").test == hold_out(adata, "section", ["B4"]).test).all()
    with pytest.raises(DataError, match="section has no group 'C4'. The groups are: B4, C2, C3."):
        hold_out(adata, "section", ["C4"])
    with pytest.raises(DataError, match="obs has no column 'patients'; nearest: 'patient'"):
        hold_out(adata, "patients", ["C"])
    with pytest.raises(DataError, match="train part of split 'patient B, C' is empty"):
        hold_out(adata, "patient", ["B", "C"])
    adata.obs["patient"] = [None, *adata.obs["patient"][1:]]
    with pytest.raises(DataError, match="1 observations have no patient"):
        hold_out(adata, "patient", ["C"])


@pytest.mark.parametrize("folds", [3, 5])
def test_random_spots_are_dealt_within_each_section(folds):
    adata = tissue()
    splits = random_spots(adata, folds, seed=3)
    assert len(splits) == folds
    assert sorted(np.concatenate([one.test for one in splits])) == list(range(90))
    for i, one in enumerate(splits):
        assert (one.validation == splits[(i + 1) % folds].test).all()
        assert sorted([*one.train, *one.test, *one.validation]) == list(range(90))
        sizes = adata.obs["section"].iloc[one.test].value_counts()
        assert sizes.min() == sizes.max() == 30 // folds


def test_random_spots_depend_on_the_seed_and_not_on_the_order():
    adata = tissue()
    order = np.random.default_rng(1).permutation(90)
    names = lambda data, seed: [set(data.obs_names[one.test]) for one in random_spots(data, 5, seed=seed)]  # noqa: E731
    assert names(adata, 3) == names(adata[order], 3)
    assert names(adata, 3) != names(adata, 4)
    with pytest.raises(DataError, match="section 'B4' is too small for 40 folds; expected at least 40 spots, got 30"):
        random_spots(adata, 40, seed=0)


@settings(max_examples=25, deadline=None)
@given(
    st.integers(0, 10**6),
    st.sampled_from([120.0, 200.0, 300.0]),
    st.sampled_from([(0.6, 0.2, 0.2), (0.8, 0.0, 0.2), (0.4, 0.3, 0.3)]),
)
def test_blocks_go_whole_to_one_part(seed, block_um, fractions):
    adata = tissue(n=300, seed=seed % 7)
    label = spatial_blocks(adata, block_um=block_um, seed=seed, fractions=fractions)
    assert label.dtype == np.int8
    for section in ("B4", "C2", "C3"):
        own = (adata.obs["section"] == section).to_numpy()
        at = adata.obsm["spatial"][own] * 0.5
        block = np.floor((at - at.min(0)) / block_um)
        for one in np.unique(block, axis=0):
            assert len(set(label[own][(block == one).all(1)])) == 1
        for part, share in enumerate(fractions):
            assert ((label[own] == part).any()) == (share > 0)
            # A part misses its share by no more than the largest block.
            largest = np.unique(block, axis=0, return_counts=True)[1].max()
            assert abs((label[own] == part).sum() - share * own.sum()) <= 2 * largest


def test_blocks_do_not_depend_on_the_order_of_the_spots():
    adata = tissue(n=300)
    order = np.random.default_rng(1).permutation(300)
    label = spatial_blocks(adata, block_um=200.0, seed=5)
    assert (spatial_blocks(adata[order], block_um=200.0, seed=5) == label[order]).all()
    assert (spatial_blocks(adata, block_um=200.0, seed=6) != label).any()


def test_the_gap_leaves_training_spots_near_the_others_out():
    adata = tissue(n=600)
    plain = spatial_blocks(adata, block_um=250.0, seed=0)
    gap = spatial_blocks(adata, block_um=250.0, seed=0, gap_um=80.0)
    assert set(plain[gap == -1]) == {0}
    for section in ("B4", "C2", "C3"):
        own = (adata.obs["section"] == section).to_numpy()
        at = adata.obsm["spatial"] * 0.5
        for i in np.flatnonzero(own & (plain == 0)):
            nearest = np.hypot(*(at[own & (plain > 0)] - at[i]).T).min()
            assert (gap[i] == -1) == (nearest < 80.0)
    split = split_from_labels(gap)
    assert not set(split.train) & set(np.flatnonzero(gap == -1))
    assert (split.validation == np.flatnonzero(gap == 1)).all()


def test_impossible_blocks_are_refused():
    with pytest.raises(DataError, match="section 'B4' has 1 blocks for 3 parts.*Use a smaller block_um"):
        spatial_blocks(tissue(), block_um=5000.0, seed=0)
    for fractions in ((0.5, 0.5), (0.9, 0.2, -0.1), (0.5, 0.1, 0.1), (np.nan, 0.5, 0.5)):
        with pytest.raises(DataError, match="fractions are no shares"):
            spatial_blocks(tissue(), block_um=100.0, seed=0, fractions=fractions)


def test_a_split_shares_no_observation():
    one = Split("x", np.array([3, 1]), np.array([2]))
    assert one.train.tolist() == [1, 3]
    with pytest.raises(AttributeError):
        one.train = np.array([0])
    with pytest.raises(DataError, match="split 'x' uses an observation twice"):
        Split("x", np.array([1, 2]), np.array([2]))
    with pytest.raises(DataError, match="uses an observation twice"):
        Split("x", np.array([1, 1]), np.array([2]))


def test_leaks_are_named():
    adata = tissue()
    train, test = adata[:50], adata[40:]
    with pytest.raises(
        DataError, match="leak: the training data hold 10 observations that are also in the test data, such as '"
    ):
        check_leak(train, test, by="obs_names")
    with pytest.raises(DataError, match="2 groups of 'patient' that are also in the test data, such as 'B'"):
        check_leak(adata[:50], adata[50:], by=["obs_names", "patient"])
    one = hold_out(adata, "patient", ["B"])
    check_leak(adata[one.train], adata[one.test], by=["patient", "section", "obs_names"])


def test_a_recipe_that_saw_the_test_data_is_refused():
    adata = tissue()
    one = hold_out(adata, "section", ["C2"])
    fitted = Recipe(n_genes=5).fit(adata[one.train])
    check_leak(fitted, adata[one.test], by="section")
    with pytest.raises(DataError, match="the recipe was fitted on 1 groups of 'patient'.*such as 'C'"):
        check_leak(fitted, adata[one.test], by="patient")
    careless = Recipe(n_genes=5).fit(adata)
    with pytest.raises(DataError, match="the recipe was fitted on 30 observations that are also in the test data"):
        check_leak(careless, adata[one.test], by="obs_names")
    with pytest.raises(DataError, match="leak: the recipe was fitted on the test data"):
        check_leak(Recipe().fit(adata[one.test]), adata[one.test].copy(), by=())
    with pytest.raises(DataError, match="training data had no 'donor'"):
        check_leak(fitted, adata, by="donor")
