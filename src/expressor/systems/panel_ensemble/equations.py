"""The equations of the panel ensemble: which genes, which classifiers, how they vote, and which genes speak for a class.

``P`` marks what the abstract of the paper says; its text was not read further. ``I`` is ours.
"""

import numpy as np
from jaxtyping import Float, Int

from expressor.core.equations import equation
from expressor.data.profiles import bounded_scores

_ABSTRACT = "abstract: normalisation and feature selection to 500 genes, ensemble of the three best classifiers"


@equation(
    "panel_ensemble", "I1",
    meaning="normalisation: standard scores by the training samples, cut at five standard deviations",
    latex=r"z_{ig} = \max(-5, \min(5, (x_{ig} - \mu_g) / \sigma_g))",
    fidelity="inferred", source=_ABSTRACT + "; which normalisation is not said there",
)  # fmt: skip
def standardise(
    x: Float[np.ndarray, "sample gene"], mu: Float[np.ndarray, " gene"], sigma: Float[np.ndarray, " gene"]
) -> Float[np.ndarray, "sample gene"]:
    """Return z; mu and sigma are of the training samples."""
    return bounded_scores(x, mu, sigma)


@equation(
    "panel_ensemble", "I2",
    meaning="score of a gene: variance between classes over that within (F statistic of an analysis of variance)",
    latex=r"F_g = \frac{\sum_c n_c (\bar z_{cg} - \bar z_g)^2 / (C - 1)}{\sum_i (z_{ig} - \bar z_{c(i) g})^2 / (n - C)}",
    fidelity="inferred", source=_ABSTRACT + "; which selection is not said there",
)  # fmt: skip
def f_statistic(z: Float[np.ndarray, "sample gene"], c: Int[np.ndarray, " sample"]) -> Float[np.ndarray, " gene"]:
    """Return F of each gene for the classes c (0, 1, ...); 0 where a gene does not vary, infinite where classes explain all."""
    n, n_classes = len(z), int(c.max()) + 1
    size = np.bincount(c)[:, None]
    means = np.stack([z[c == k].mean(0) for k in range(n_classes)])
    between = (size * (means - z.mean(0)) ** 2).sum(0) / (n_classes - 1)
    within = ((z - means[c]) ** 2).sum(0) / (n - n_classes)
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(between > 1e-12, between / within, 0.0)


@equation(
    "panel_ensemble", "I3",
    meaning="one panel for all classes: genes are taken in turn, the best of each class against the others",
    latex=r"t_{cg} = \frac{\bar z_{cg} - \bar z_{\bar c g}}{s_{g} \sqrt{1/n_c + 1/n_{\bar c}}}",
    fidelity="inferred", source="ours: the F statistic alone may spend the panel on the most distinct class",
)  # fmt: skip
def one_against_rest(
    z: Float[np.ndarray, "sample gene"], c: Int[np.ndarray, " sample"]
) -> Float[np.ndarray, "class gene"]:
    """Return the t statistic (variance pooled over the class and the rest) of each class and gene."""
    found = np.zeros((int(c.max()) + 1, z.shape[1]))
    for k in range(len(found)):
        inside, rest = z[c == k], z[c != k]
        n, m = len(inside), len(rest)
        pooled = (inside.var(0) * n + rest.var(0) * m) / (n + m - 2)
        error = np.sqrt(pooled * (1 / n + 1 / m))
        found[k] = np.divide(inside.mean(0) - rest.mean(0), error, out=np.zeros(z.shape[1]), where=error > 1e-12)
    return found


@equation(
    "panel_ensemble", "P1",
    meaning="the members: those of the best accuracy in cross-validation",
    latex=r"\mathcal{M} = \operatorname{top}_3 \, \mathrm{acc}(m)",
    fidelity="paper", source=_ABSTRACT + "; that accuracies are cross-validated inside the training samples is ours",
)  # fmt: skip
def best_members(accuracy: Float[np.ndarray, " candidate"], n: int) -> Int[np.ndarray, " member"]:
    """Return positions of the n best, best first; ties go to the earlier one."""
    return np.argsort(-accuracy, kind="stable")[:n]


@equation(
    "panel_ensemble", "P2",
    meaning="the vote: mean of the members' probabilities",
    latex=r"p(c \mid x) = \tfrac{1}{3} \sum_{m \in \mathcal{M}} p_m(c \mid x)",
    fidelity="paper", source=_ABSTRACT + "; that probabilities are averaged (and labels not counted) is ours",
)  # fmt: skip
def vote(p: Float[np.ndarray, "member sample class"]) -> Float[np.ndarray, "sample class"]:
    """Return the mean of the members' probabilities."""
    return p.mean(axis=0)


@equation(
    "panel_ensemble", "I4",
    meaning="how much a gene speaks for a class: what its probability loses when the gene is set to its mean",
    latex=r"a_{cg} = \frac{1}{n_c} \sum_{i \in c} \big( p(c \mid z_i) - p(c \mid z_i^{g \to 0}) \big)",
    fidelity="inferred", source="ours, in the place of the paper's Shapley values: one gene at a time, no dependence on SHAP",
)  # fmt: skip
def occlusion(whole: Float[np.ndarray, " sample"], without: Float[np.ndarray, " sample"]) -> float:
    """Return the mean loss of probability over the samples of a class."""
    return float((whole - without).mean())
