"""The controls equal closed forms and scikit-learn."""

import numpy as np
import pytest
from sklearn.base import clone
from sklearn.linear_model import LinearRegression, Ridge

from expressor.bench.controls import EncoderRidge, GeneMean, LibrarySize
from expressor.bench.controls.ridge import _ridge
from expressor.bench.controls.trivial import centre
from expressor.core.errors import DataError
from expressor.data.fields import expression
from expressor.metrics import pearson, summarise

SCALES = ("log1p_cp10k", "log1p_counts")
FEATURES = "precomputed:X_simulated"


@pytest.fixture(params=SCALES)
def scale(request):
    return request.param


@pytest.fixture
def fold(folds):
    return folds[0]


def test_gene_mean_is_the_mean_in_the_unit_of_the_target(fold, small, scale):
    predicted = GeneMean(target_genes=fold.targets, target_scale=scale).fit(fold.train).predict(small.blind(fold.test))
    assert predicted.attrs["unit"] == scale
    assert list(predicted.columns) == list(fold.targets)
    assert predicted.index.equals(fold.test.obs_names)
    expected = expression(fold.train, fold.targets, scale=scale).mean(axis=0)
    np.testing.assert_allclose(predicted.to_numpy(), np.tile(expected, (len(predicted), 1)), rtol=1e-5)


def test_library_size_is_a_line_per_gene_inside_sections(fold, small, scale):
    predicted = LibrarySize(target_genes=fold.targets, target_scale=scale).fit(fold.train).predict(fold.test)
    x = np.log(np.asarray(fold.train.X.sum(axis=1)).ravel())
    y = expression(fold.train, fold.targets, scale=scale).astype(float)
    sections = fold.train.obs["section"].astype(str).to_numpy()
    line = LinearRegression(fit_intercept=False).fit(centre(x[:, None], sections), centre(y, sections))
    at = np.log(np.asarray(fold.test.X.sum(axis=1)).ravel())
    expected = y.mean(axis=0) + (at[:, None] - x.mean()) * line.coef_.ravel()
    np.testing.assert_allclose(predicted.to_numpy(), expected, rtol=1e-4, atol=1e-4)
    with pytest.raises(DataError, match="the library size needs the counts of the spots it predicts"):
        LibrarySize(target_genes=fold.targets).fit(fold.train).predict(small.blind(fold.test))


@pytest.mark.parametrize("shape", [(40, 7), (25, 60)])
def test_the_ridge_path_equals_scikit_learn_on_centred_data(shape):
    rng = np.random.default_rng(0)
    x, sections = rng.normal(size=shape), np.repeat(["a", "b", "c", "d", "e"], shape[0] // 5)
    y = rng.normal(size=(shape[0], 3))
    basis, weights = _ridge(x, y, sections, (0.1, 3.0, 100.0))
    for alpha, one in zip((0.1, 3.0, 100.0), weights):
        reference = Ridge(alpha=alpha, fit_intercept=False).fit(centre(x, sections), centre(y, sections))
        np.testing.assert_allclose(basis @ one, reference.coef_.T, atol=1e-8)


def test_ridge_equals_a_naive_nested_search(fold, small, scale):
    alphas = (1e-3, 1e-1, 1e1)
    model = EncoderRidge(target_genes=fold.targets, target_scale=scale, encoder=FEATURES, alphas=alphas).fit(fold.train)
    x0, y = (
        fold.train.obsm["X_simulated"].astype(float),
        expression(fold.train, fold.targets, scale=scale).astype(float),
    )
    sections = fold.train.obs["section"].astype(str).to_numpy()

    def fitted(x, rows, alpha):
        mean, spread = x[rows].mean(0), x[rows].std(0) * np.sqrt(x.shape[1])
        z = (x - mean) / spread
        ridge = Ridge(alpha=alpha, fit_intercept=False)
        return z, ridge.fit(centre(z[rows], sections[rows]), centre(y[rows], sections[rows])).coef_.T

    best = (-2.0, None, None)
    for name, x in (("none", x0), ("root", np.sign(x0) * np.abs(x0) ** 0.5)):
        for alpha in alphas:
            scores = []
            for held in np.unique(sections):
                rows = sections != held
                z, weights = fitted(x, rows, alpha)
                r = [np.corrcoef(z[~rows] @ w, t)[0, 1] for w, t in zip(weights.T, y[~rows].T)]
                scores.append(np.mean(r))
            if np.mean(scores) > best[0]:
                best = (np.mean(scores), name, alpha)
    assert (model.transforms_, model.alpha_) == ((best[1],), best[2])
    assert model.inner_score_ == pytest.approx(best[0])
    predicted = model.predict(small.blind(fold.test))
    x = np.concatenate([x0, fold.test.obsm["X_simulated"]]).astype(float)
    x = x if best[1] == "none" else np.sign(x) * np.abs(x) ** 0.5
    rows = np.arange(len(x)) < len(x0)
    mean, spread = x[rows].mean(0), x[rows].std(0) * np.sqrt(x.shape[1])
    z = (x - mean) / spread
    ridge = Ridge(alpha=best[2], fit_intercept=False).fit(centre(z[rows], sections), centre(y, sections))
    np.testing.assert_allclose(predicted.to_numpy(), y.mean(0) + z[~rows] @ ridge.coef_.T, rtol=1e-4, atol=1e-4)


def test_ridge_learns_and_shuffled_images_teach_nothing(fold, small):
    measured = expression(fold.test, fold.targets, scale="log1p_cp10k")
    labels = fold.test.obs["section"].astype(str).to_numpy()

    def score(**options):
        model = EncoderRidge(target_genes=fold.targets, encoder=FEATURES, **options).fit(fold.train)
        return summarise(pearson(measured, model.predict(small.blind(fold.test)), labels)).value

    assert score() > 0.3
    shuffled = [score(shuffled=True, random_state=seed) for seed in range(6)]
    assert abs(np.mean(shuffled)) < 0.25
    assert len(set(shuffled)) == 6


def test_a_constant_feature_gets_no_weight(fold):
    train, test = fold.train.copy(), fold.test.copy()
    train.obsm["X_simulated"][:, 3] = 0.25
    test.obsm["X_simulated"][:, 3] = 1e6
    model = EncoderRidge(target_genes=fold.targets, encoder=FEATURES).fit(train)
    assert np.abs(model.weights_[3]).max() < 1e-12
    assert np.isfinite(model.predict(test).to_numpy()).all()
    assert np.abs(model.predict(test)).to_numpy().max() < 100


def test_one_training_section_is_tuned_on_random_parts(fold):
    one = fold.train[fold.train.obs["section"] == fold.train.obs["section"].iloc[0]].copy()
    model = EncoderRidge(target_genes=fold.targets, encoder=FEATURES, random_state=1).fit(one)
    again = EncoderRidge(target_genes=fold.targets, encoder=FEATURES, random_state=1).fit(one)
    assert model.inner_score_ == again.inner_score_ > 0.2


def test_several_encoders_weigh_alike_whatever_their_size(fold):
    wide = fold.train.copy()
    rng = np.random.default_rng(0)
    wide.obsm["X_noise"] = rng.normal(size=(wide.n_obs, 400)).astype(np.float32)
    model = EncoderRidge(target_genes=fold.targets, encoder=(FEATURES, "precomputed:X_noise")).fit(wide)
    assert len(model.transforms_) == 2
    first, second = (
        (1 / model.spread_[part]) ** 2 * wide.obsm[key].var(axis=0)
        for part, key in ((slice(0, 16), "X_simulated"), (slice(16, None), "X_noise"))
    )
    if model.transforms_ == ("none", "none"):
        assert first.sum() == pytest.approx(second.sum(), rel=1e-3)
        assert first.sum() == pytest.approx(1.0, rel=1e-3)


def test_controls_are_estimators_in_the_manner_of_scikit_learn(fold):
    for control in (
        GeneMean(target_genes=fold.targets),
        LibrarySize(target_genes=fold.targets, target_scale="log1p_counts"),
        EncoderRidge(target_genes=fold.targets, encoder=FEATURES, alphas=(1.0,)),
    ):
        before = fold.train.X.copy()
        assert clone(control).get_params() == control.get_params()
        assert control.fit(fold.train) is control
        assert (before != fold.train.X).nnz == 0
        first, second = control.predict(fold.test), control.predict(fold.test)
        assert first.equals(second)
        assert first.to_numpy().dtype == np.float32


def test_wrong_penalties_are_refused(fold):
    with pytest.raises(DataError, match=r"alphas is out of range; expected a number in \(0.0, inf\], got 0.0"):
        EncoderRidge(target_genes=fold.targets, encoder=FEATURES, alphas=(0.0,)).fit(fold.train)
