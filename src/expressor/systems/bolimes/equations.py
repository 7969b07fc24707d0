"""The equations of BOLIMES: Boruta's test, LIME's local models, and the choice of k.

``P`` marks what the abstract of the paper says; its text was not read further. ``I`` is ours, or general knowledge of Boruta and
LIME where the abstract only names them.
"""

import numpy as np
from jaxtyping import Bool, Float, Int

from expressor.core.equations import equation

_ABSTRACT = "abstract: Boruta filters, LIME ranks, classification accuracy decides the number of genes"
_KNOWN = "written from general knowledge and checked by the tests named here"


@equation(
    "bolimes", "I1",
    meaning="a hit of a gene: it is more important to the forest than the best of the shuffled copies",
    latex=r"\mathrm{hit}_g = [\, I_g > Q_{\pi} \{ I_{s} : s \in \text{shadows} \} \,]",
    fidelity="inferred", source="Kursa and Rudnicki 2010 (there the largest, pi = 1); " + _KNOWN,
)  # fmt: skip
def hits(
    importance: Float[np.ndarray, " gene"], shadows: Float[np.ndarray, " shadow"], pi: float
) -> Bool[np.ndarray, " gene"]:
    """Return which genes beat the quantile pi of the shadows."""
    return np.asarray(importance > np.quantile(shadows, pi))


@equation(
    "bolimes", "I2",
    meaning="p-values of a gene's hits in a number of rounds, against chance of one half; corrected for all genes",
    latex=r"p^{+}_g = G \, P(B \geq h_g), \quad p^{-}_g = G \, P(B \leq h_g), \qquad B \sim \mathrm{Bin}(n, \tfrac{1}{2})",
    fidelity="inferred", source="Kursa and Rudnicki 2010, Bonferroni over genes; " + _KNOWN,
)  # fmt: skip
def hit_pvalues(
    h: Int[np.ndarray, " gene"], n: int, n_genes: int
) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]]:
    """Return p-values for more hits than chance, and for fewer, both at most 1."""
    from scipy.stats import binom

    more, fewer = binom.sf(h - 1, n, 0.5), binom.cdf(h, n, 0.5)
    return np.minimum(n_genes * more, 1.0), np.minimum(n_genes * fewer, 1.0)


@equation(
    "bolimes", "I3",
    meaning="weight of a perturbed sample by its distance from the sample that is explained",
    latex=r"\omega_i = \exp(-\lVert z_i - z \rVert^2 / w^2)",
    fidelity="inferred", source="Ribeiro, Singh and Guestrin 2016, exponential kernel; " + _KNOWN,
)  # fmt: skip
def kernel(distance: Float[np.ndarray, " draw"], width: float) -> Float[np.ndarray, " draw"]:
    """Return the weight of each draw; ``distance`` and ``width`` in standard deviations."""
    return np.exp(-np.square(distance / width))


@equation(
    "bolimes", "I4",
    meaning="the local model: weighted ridge regression of the forest's probability on the perturbed genes",
    latex=r"\hat c = \arg\min_{c, b} \sum_i \omega_i (f(z_i) - b - c^\top z_i)^2 + \lambda \lVert c \rVert^2",
    fidelity="inferred", source="Ribeiro, Singh and Guestrin 2016, for tables; " + _KNOWN,
)  # fmt: skip
def local_model(
    Z: Float[np.ndarray, "draw gene"], f: Float[np.ndarray, " draw"], omega: Float[np.ndarray, " draw"], lam: float
) -> Float[np.ndarray, " gene"]:
    """Return the coefficients c from perturbed samples Z, the probabilities f that the forest gives them, and weights."""
    total = omega.sum()
    centred, target = Z - omega @ Z / total, f - omega @ f / total
    weighted = centred * omega[:, None]
    return np.linalg.solve(weighted.T @ centred + lam * np.eye(Z.shape[1]), weighted.T @ target)


@equation(
    "bolimes", "P1",
    meaning="rank of the genes: mean absolute local importance over the explained samples",
    latex=r"r_g = \tfrac{1}{m} \sum_{j=1}^{m} \lvert \hat c_{jg} \rvert",
    fidelity="paper", source=_ABSTRACT + "; that the mean is of absolute values is ours",
)  # fmt: skip
def global_importance(c: Float[np.ndarray, "sample gene"]) -> Float[np.ndarray, " gene"]:
    """Return the importance of each gene."""
    return np.abs(c).mean(axis=0)


@equation(
    "bolimes", "P2",
    meaning="how many genes are kept: the number with the best accuracy in cross-validation, the fewest among equals",
    latex=r"k^* = \min \arg\max_k \mathrm{acc}(k)",
    fidelity="paper", source=_ABSTRACT + "; that ties go to fewer genes is ours",
)  # fmt: skip
def best_size(k: Int[np.ndarray, " step"], accuracy: Float[np.ndarray, " step"]) -> int:
    """Return k* from the sizes that were tried, in any order."""
    return int(k[accuracy >= accuracy.max() - 1e-12].min())
