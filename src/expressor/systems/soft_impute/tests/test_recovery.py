"""A planted low rank: gaps of the fit and of new samples are restored well, and what cannot be is refused."""

import anndata as ad
import numpy as np
import pytest

from expressor.core.errors import DataError
from expressor.datasets.examples import example
from expressor.datasets.profiles import simulate_bulk
from expressor.estimator.errors import NotFittedError
from expressor.systems.soft_impute.estimator import SoftImpute


def samples(seed: int, *, missing: float = 0.0) -> ad.AnnData:
    return simulate_bulk(n_patients=200, n_genes=60, n_types=1, noise=0.3, seed=seed, missing=missing)


@pytest.fixture(scope="module")
def fitted() -> SoftImpute:
    return SoftImpute(rank=20).fit(samples(0, missing=0.3))


def error(model: SoftImpute, holed: ad.AnnData, whole: ad.AnnData) -> float:
    gaps = np.isnan(holed.X)
    restored = model.impute(holed)[:, model.genes_in_.index_of(holed.var_names)]
    assert np.array_equal(restored[~gaps], holed.X[~gaps])
    scale = model.gene_table_.loc[list(holed.var_names), "scale"].to_numpy()
    return float(np.sqrt(np.mean((((restored - whole.X) / scale)[gaps]) ** 2)))


@pytest.mark.parametrize("seed", [0, 1])
def test_gaps_are_restored_in_samples_of_the_fit_and_in_new_ones(fitted: SoftImpute, seed: int) -> None:
    """A gene's own noise is .3 of a total of 1.04: nothing can do better than .29."""
    assert error(fitted, samples(seed, missing=0.3), samples(seed)) < 0.36
    assert 4 <= fitted.rank_ <= 20


def test_the_choice_of_the_penalty_is_in_the_history(fitted: SoftImpute) -> None:
    best = fitted.history_.loc[fitted.history_["loss"].idxmin()]
    assert best["penalty"] == fitted.penalty_
    assert best["loss"] < 0.4
    assert fitted.history_["loss"].iloc[0] > 1.3 * best["loss"]
    assert "hidden" in fitted.describe()


def test_more_penalty_leaves_fewer_factors() -> None:
    ranks = [SoftImpute(penalty=penalty, rank=30).fit(samples(0)).rank_ for penalty in (1.0, 10.0, 30.0)]
    assert ranks == sorted(ranks, reverse=True)
    assert ranks[0] > ranks[-1]


@pytest.mark.parametrize("shown", [6, 30])
def test_intervals_cover_what_they_say(fitted: SoftImpute, shown: int) -> None:
    new = samples(3)
    seen = new[:, new.var_names[:shown]].copy()
    order = fitted.genes_in_.index_of(new.var_names[shown:])
    widths = []
    for coverage in (0.5, 0.9):
        lower, upper = (one[:, order] for one in fitted.impute_interval(seen, coverage))
        inside = (new.X[:, shown:] >= lower) & (new.X[:, shown:] <= upper)
        assert inside.mean() == pytest.approx(coverage, abs=0.07)
        widths.append((upper - lower).mean())
        middle = fitted.impute(seen)[:, order]
        assert bool(((lower <= middle) & (middle <= upper)).all())
    assert widths[0] < widths[1]
    lower, upper = fitted.impute_interval(new)
    assert np.array_equal(lower, upper)


def test_intervals_are_narrower_where_more_is_measured(fitted: SoftImpute) -> None:
    new = samples(3)
    width = [
        np.subtract(*fitted.impute_interval(new[:, new.var_names[:n]].copy())[::-1])[:, -10:].mean() for n in (5, 40)
    ]
    assert width[1] < 0.8 * width[0]


def test_without_folds_there_are_no_intervals() -> None:
    data = example("bulk")
    model = SoftImpute.preset("tiny", folds=0).fit(data)
    with pytest.raises(NotFittedError, match="fitted without intervals. Fit it with folds of 2 or more"):
        model.impute_interval(data)
    assert list(model.evaluate(data)["metric"]) == ["gene_r", "restoration_rmse"]
    with pytest.raises(DataError, match="too few samples to calibrate intervals; expected at least 8, got 6"):
        SoftImpute().fit(data[:6].copy())
    with pytest.raises(DataError, match="one fold holds nothing out"):
        SoftImpute(folds=1).fit(data)


def test_evaluate_and_factors(fitted: SoftImpute) -> None:
    new = samples(2)
    table = fitted.evaluate(new).set_index("metric")
    assert list(table.index) == ["gene_r", "restoration_rmse", "restoration_coverage"]
    assert table.loc["gene_r", "value"] > 0.9
    planted, found = new.obsm["factors"], fitted.transform(new)[:, :4]
    left = planted - found @ np.linalg.lstsq(found, planted, rcond=None)[0]
    assert (left.var(0) / planted.var(0)).max() < 0.1


def test_what_it_refuses() -> None:
    data = example("bulk")
    empty = data.copy()
    empty.X[:, 3] = np.nan
    with pytest.raises(DataError, match=r"1 genes have no measured value\. Leave these genes out"):
        SoftImpute().fit(empty)
    empty = data.copy()
    empty.X[3] = np.nan
    with pytest.raises(DataError, match="1 samples have no measured value"):
        SoftImpute().fit(empty)
    model = SoftImpute.preset("tiny").fit(data)
    with pytest.raises(DataError, match="1 of 60 samples have no measured gene of the fit"):
        model.impute(empty)
    with pytest.raises(DataError, match="the penalty leaves no factor; expected a penalty below"):
        SoftImpute(penalty=1e6).fit(data)
    constant = data.copy()
    constant.X = np.tile(data.X[:1], (60, 1))
    with pytest.raises(DataError, match="no gene varies over the samples"):
        SoftImpute().fit(constant)
    with pytest.raises(DataError, match="unknown penalty 'cv'"):
        SoftImpute().set_params(penalty="cv").fit(data)


def test_a_constant_gene_keeps_its_value() -> None:
    data = example("bulk")
    data.X[:, 7] = 3.5
    model = SoftImpute.preset("tiny").fit(data)
    gene = data.var_names[7]
    seen = data[:, [name for name in data.var_names if name != gene]].copy()
    assert (model.impute(seen)[:, model.genes_in_.index_of([gene])] == 3.5).all()


KEPT = [2.5211, 10, 4.0077, 7.8934, 7.3561, 7.2171]


def test_a_small_fit_gives_the_kept_numbers() -> None:
    """Kept: preset "tiny" on the bulk example, seed 0; a change is a change of the method and must be meant."""
    model = SoftImpute.preset("tiny").fit(example("bulk"))
    seen = example("bulk", seed=1)[:, :10].copy()
    assert (model.penalty_, model.rank_) == (pytest.approx(KEPT[0], rel=1e-3), KEPT[1])
    np.testing.assert_allclose(model.impute(seen)[0, 10:14], KEPT[2:], atol=2e-3)
