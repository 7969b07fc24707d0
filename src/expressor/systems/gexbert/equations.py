"""The equations of GexBERT, one function each.

The paper's text could be read no further than its abstract. What stands here was rebuilt from the abstract and from a third party's
account of the method, so that every equation is ``inferred``; those without a word in either source are ours altogether, which the
source line says. S is the panel of observed genes, T the genes to restore, x an expression value, z the same in standard deviations
from the gene's training mean.
"""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from expressor.core.equations import equation
from expressor.core.errors import DataError

_REVIEW = "a third party's account of the method (opening of a review page); not read in the paper"


# Tokens ------------------------------------------------------------------------------------------------------------------


@equation(
    "gexbert", "I1",
    meaning="the level of a value: its bin among edges that are fixed; level 0 stands for a value that is missing",
    latex=r"b(z) = 1 + \#\{l : e_l \leq z\}, \qquad b(\mathrm{missing}) = 0",
    fidelity="inferred", source=f"{_REVIEW}; how edges are placed is ours: quantiles of the standardised training values",
)  # fmt: skip
def level(
    z: Float[Tensor, "sample token"], missing: Bool[Tensor, "sample token"], edges: Float[Tensor, " edge"]
) -> Int[Tensor, "sample token"]:
    """Return the level of each value; :class:`expressor.nn.values.BinnedValues` is what the network uses."""
    return torch.where(missing, 0, 1 + (edges <= z[..., None]).sum(-1))


@equation(
    "gexbert", "I2",
    meaning="a token: the gene's learnt vector plus the learnt vector of its value's level",
    latex=r"t_g = E_g + V_{b(z_g)}",
    fidelity="inferred", source=_REVIEW,
)  # fmt: skip
def token(
    E: Float[Tensor, "token dim"], V: Float[Tensor, "level dim"], levels: Int[Tensor, "sample token"]
) -> Float[Tensor, "sample token dim"]:
    """Return the tokens from the vectors of the panel's genes, the table of levels and the levels."""
    return E + V[levels]


@equation(
    "gexbert", "I3",
    meaning="a token with the value as a number: what the value says is scaled by the value and turned by the gene's vector",
    latex=r"t_g = E_g + f(z_g) + z_g A E_g",
    fidelity="inferred", source="ours: one layer of attention then adds up expression times loading, as a projection does",
)  # fmt: skip
def continuous_token(
    E: Float[Tensor, "token dim"],
    f: Float[Tensor, "sample token dim"],
    A: Float[Tensor, "dim dim"],
    z: Float[Tensor, "sample token"],
) -> Float[Tensor, "sample token dim"]:
    """Return the tokens; ``f`` holds the vectors of the values."""
    return E + f + z[..., None] * (E @ A.T)


@equation(
    "gexbert", "I4",
    meaning="the gene table starts from the principal loadings of the standardised training set, scaled to unit mean square",
    latex=r"E_{gk} = L_{gk} \big/ \sqrt{\frac1G \sum_{g'} L_{g'k}^2}, \qquad L L^\top = \frac1n Z^\top Z",
    fidelity="inferred", source="ours; the paper's table starts from random numbers (third party's account)",
)  # fmt: skip
def loading_start(L: Float[Tensor, "gene factor"]) -> Float[Tensor, "gene factor"]:
    """Return the start of the gene table; a factor without any loading stays 0."""
    size = L.square().mean(0).sqrt()
    return L / torch.where(size > 0, size, torch.ones_like(size))


# Network -----------------------------------------------------------------------------------------------------------------


@equation(
    "gexbert", "I5",
    meaning="scaled dot-product attention of queries over a memory",
    latex=r"\mathrm{Att}(Q, K, V) = \mathrm{softmax}\left(Q K^\top / \sqrt{d}\right) V",
    fidelity="inferred", source="the abstract says transformer; its form is the usual one (Vaswani et al. 2017)",
)  # fmt: skip
def attention(
    Q: Float[Tensor, "query dim"], K: Float[Tensor, "token dim"], V: Float[Tensor, "token dim"]
) -> Float[Tensor, "query dim"]:
    """Return what each query takes from the memory, for one sample and one head."""
    return torch.softmax(Q @ K.T / Q.shape[-1] ** 0.5, dim=-1) @ V


@equation(
    "gexbert", "I6",
    meaning="the closed-form restoration: conditional mean of the shrinkage Gaussian given the panel",
    latex=r"\bar z_T = \Sigma_{TS} \Sigma_{SS}^{-1} z_S, \qquad \Sigma = (1 - s) R + s I",
    fidelity="inferred", source="ours: the skip from which the network starts; the paper has none",
)  # fmt: skip
def gaussian_skip(
    z_S: Float[Tensor, "sample token"],
    Sigma: Float[Tensor, "gene gene"],
    S: Int[Tensor, " token"],
    T: Int[Tensor, " target"],
) -> Float[Tensor, "sample target"]:
    """Return the conditional means; :func:`expressor.nn.gaussian.condition` never makes the covariance where it is large."""
    return z_S @ torch.linalg.solve(Sigma[S[:, None], S], Sigma[S[:, None], T])


@equation(
    "gexbert", "I7",
    meaning="the shrinkage depends on the size of the panel: that which was chosen at the nearest size on a log scale",
    latex=r"s = \frac{k_j}{1 + k_j}, \qquad j = \arg\min_j |\ln m - \ln m_j|",
    fidelity="inferred", source="ours: k_j is chosen on patients outside the fold; large panels of few patients need more",
)  # fmt: skip
def panel_shrinkage(m: int, sizes: Sequence[int], penalties: Sequence[float]) -> float:
    """Return the shrinkage s for a panel of ``m`` genes from the sizes and the ridge penalties chosen at them."""
    penalty = penalties[min(range(len(sizes)), key=lambda j: abs(math.log(max(m, 1) / sizes[j])))]
    return penalty / (1 + penalty)


@equation(
    "gexbert", "I8",
    meaning="the restoration: the closed form plus what the network adds to it, nothing before training",
    latex=r"\hat z_T = \bar z_T + r_\theta(z_S, S, T), \qquad r_{\theta_0} \equiv 0",
    fidelity="inferred", source="ours; the decoder that reconstructs from the encoder's output is in the third party's account",
)  # fmt: skip
def restoration(
    skip: Float[Tensor, "sample target"], residual: Float[Tensor, "sample target"]
) -> Float[Tensor, "sample target"]:
    """Return the restored values in standard deviations."""
    return skip + residual


@equation(
    "gexbert", "I9",
    meaning="the loss of restoration: squared error of hidden targets, and with a small weight of those that were visible",
    latex=r"L = \frac{\sum_{i,g} w_{ig} (\hat z_{ig} - z_{ig})^2}{\sum_{i,g} w_{ig}}, \qquad"
    r" w_{ig} = 1 \text{ where hidden}, \ \lambda \text{ where visible}, \ 0 \text{ where unknown}",
    fidelity="inferred", source="the abstract says restoration of masked expression; loss and weights are ours",
)  # fmt: skip
def restoration_loss(
    restored: Float[Tensor, "sample target"],
    z: Float[Tensor, "sample target"],
    hidden: Bool[Tensor, "sample target"],
    visible_weight: float,
) -> Float[Tensor, ""]:
    """Return the weighted mean square; values that are NaN were never measured and do not count."""
    known = ~z.isnan()
    weight = torch.where(hidden, 1.0, visible_weight) * known
    error = torch.where(known, restored - torch.nan_to_num(z), 0.0)
    return (weight * error.square()).sum() / weight.sum().clamp_min(1e-12)


@equation(
    "gexbert", "I16",
    meaning="what the closed form misses in a training patient that it was not fitted on, from the fit on all",
    latex=r"e_j = \frac{z_{jT} - \hat z_{jT}}{1 - h_{jj}}, \qquad \hat Z_T = H Z_T, \quad"
    r" H = Z_S (Z_S^\top Z_S + k I)^{-1} Z_S^\top",
    fidelity="inferred", source="ours; the leave-one-out residual of ridge regression",
)  # fmt: skip
def left_out_residual(
    Z_S: Float[Tensor, "patient token"], Z_T: Float[Tensor, "patient target"], k: float
) -> Float[Tensor, "patient target"]:
    """Return the residuals of patients by the ridge regression of the targets on the panel that leaves each of them out."""
    n, m = Z_S.shape
    if m > n:
        # The same through patients instead of genes: I - H = k (Z_S Z_S' + k I)^-1.
        rest = k * torch.linalg.inv(Z_S @ Z_S.T + k * torch.eye(n, dtype=Z_S.dtype))
        return rest @ Z_T / rest.diagonal()[:, None].clamp_min(1e-6)
    inner = torch.linalg.cholesky(Z_S.T @ Z_S + k * torch.eye(m, dtype=Z_S.dtype))
    taken = torch.cholesky_solve(Z_S.T, inner)
    leverage = (Z_S * taken.T).sum(1, keepdim=True)
    return (Z_T - Z_S @ (taken @ Z_T)) / (1 - leverage).clamp_min(1e-6)


@equation(
    "gexbert", "I17",
    meaning="likeness of two patients on a panel",
    latex=r"K_{ij} = \exp\left(-\frac{|z_{iS} - z_{jS}|^2}{2 \ell^2 |S|}\right)",
    fidelity="inferred", source="ours; the memory's answer is K_*(K + rho I)^{-1} e, kernel ridge regression of the residuals",
)  # fmt: skip
def patient_kernel(
    one: Float[Tensor, "sample token"], other: Float[Tensor, "patient token"], width: float
) -> Float[Tensor, "sample patient"]:
    """Return the Gaussian kernel; ``width`` is in root mean square differences a gene."""
    square = one.square().sum(1)[:, None] + other.square().sum(1) - 2 * one @ other.T
    return torch.exp(-square.clamp_min(0.0) / (2 * width**2 * one.shape[1]))


# Uncertainty -------------------------------------------------------------------------------------------------------------


@equation(
    "gexbert", "I10",
    meaning="half-width of an interval: the model's standard deviation times a quantile of held-out standardised errors, in which"
    " every patient counts alike",
    latex=r"q = \inf\left\{q : \frac{1}{n + 1} \sum_i \frac{1}{|H_i|} \#\{g \in H_i : |e_{ig}| \leq q \sigma_{ig}\} \geq c\right\}",
    fidelity="inferred", source="ours; split conformal prediction with patients as groups (Lei et al. 2018, Dunn et al. 2023)",
)  # fmt: skip
def patient_quantile(error: Float[Tensor, "sample target"], coverage: Sequence[float]) -> Float[Tensor, " level"]:
    """Return q at each coverage from absolute standardised errors, NaN where a value was not hidden.

    It is the largest error where there are too few patients for the coverage.
    """
    known = ~error.isnan()
    share = (known / known.sum(1, keepdim=True).clamp_min(1) / (int(known.any(1).sum()) + 1))[known]
    value, order = torch.sort(error[known].double(), stable=True)
    reached = share[order].double().cumsum(0)
    place = torch.searchsorted(reached, torch.tensor(list(coverage), dtype=torch.float64) - 1e-9)
    return value[place.clamp_max(len(value) - 1)]


@equation(
    "gexbert", "I11",
    meaning="a joint draw of all hidden genes: an unconditional draw, corrected by what the panel says of it",
    latex=r"z^{(d)}_T = \hat z_T + q \left(u_T - \Sigma_{TS}\Sigma_{SS}^{-1} u_S\right), \qquad u \sim N(0, \Sigma)",
    fidelity="inferred", source="ours, for multiple imputation; Matheron's rule",
)  # fmt: skip
def draw(
    restored: Float[Tensor, "sample target"],
    u_T: Float[Tensor, "sample target"],
    u_T_given_S: Float[Tensor, "sample target"],
    q: float,
) -> Float[Tensor, "sample target"]:
    """Return one draw of each sample from its restoration, an unconditional draw and that draw's own restoration."""
    return restored + q * (u_T - u_T_given_S)


# Other pipelines ---------------------------------------------------------------------------------------------------------


@equation(
    "gexbert", "I12",
    meaning="rank values: a sample's values are replaced, rank by rank, by what the training set has there in the same genes",
    latex=r"\tilde x_g = Q_S\left(\frac{\mathrm{rank}_S(x_g) - 1/2}{|S|}\right)",
    fidelity="inferred", source="ours, for data of other pipelines (quantile normalisation to a reference)",
)  # fmt: skip
def rank_values(x: Float[Tensor, "sample token"], reference: Float[Tensor, " token"]) -> Float[Tensor, "sample token"]:
    """Return the values; ``reference`` holds the quantiles Q, rising. Values that are tied get the mean of their ranks' values."""
    order = torch.argsort(x, dim=1, stable=True)
    ranked = torch.empty_like(x).scatter_(1, order, reference.to(x.dtype).expand(len(x), -1))
    # Tied values, zeros above all, must not be told apart by the order of the columns.
    for i, row in enumerate(x):
        _, same, count = torch.unique(row, return_inverse=True, return_counts=True)
        if len(count) < len(row):
            total = torch.zeros(len(count), dtype=x.dtype).scatter_add_(0, same, ranked[i])
            ranked[i] = (total / count)[same]
    return ranked


# Outcomes ----------------------------------------------------------------------------------------------------------------


@equation(
    "gexbert", "I13",
    meaning="univariate Cox: the score test of each gene alone, by which anchors are chosen among the training patients",
    latex=r"\chi_g = \frac{\sum_{i : \delta_i} (z_{ig} - \bar z_g(t_i))}{\sqrt{\sum_{i : \delta_i} \mathrm{var}_g(t_i)}}",
    fidelity="inferred", source="the abstract says prognostic anchor genes; how they are chosen is ours",
)  # fmt: skip
def univariate_score(
    z: Float[Tensor, "patient gene"], time: Float[Tensor, " patient"], event: Bool[Tensor, " patient"]
) -> Float[Tensor, " gene"]:
    """Return the statistic of each gene, standard normal where a gene tells nothing; mean and variance are over those at risk.

    Events at one time see one risk set. A gene that is constant gets 0.
    """
    if not bool(event.any()):
        raise DataError(
            "no patient has an event", expected="at least one", fix="Choose other patients, or another outcome."
        )
    order = torch.argsort(time, descending=True, stable=True)
    z, time, event = z[order].double(), time[order], event[order]
    # Centred first: the variance of those at risk is a difference of sums that would otherwise cancel.
    z = z - z.mean(0)
    last = torch.searchsorted(-time, -time, right=True) - 1
    n = torch.arange(1, len(z) + 1, dtype=torch.float64)[:, None]
    mean = (z.cumsum(0) / n)[last[event]]
    variance = ((z.square().cumsum(0) / n)[last[event]] - mean.square()).clamp_min(0.0).sum(0)
    score = (z[event] - mean).sum(0)
    return torch.where(variance > 1e-12, score / variance.clamp_min(1e-12).sqrt(), torch.zeros_like(score))


@equation(
    "gexbert", "I14",
    meaning="probabilities of the classes: multinomial logistic regression on what represents a sample",
    latex=r"p_c = \frac{e^{W_c \cdot h + b_c}}{\sum_{c'} e^{W_{c'} \cdot h + b_{c'}}}",
    fidelity="inferred", source="the abstract says cancer type classification; the form of the head is ours",
)  # fmt: skip
def class_probabilities(
    h: Float[Tensor, "sample dim"], W: Float[Tensor, "class dim"], b: Float[Tensor, " class"]
) -> Float[Tensor, "sample class"]:
    """Return the probabilities, which add up to 1."""
    return torch.softmax(h @ W.T + b, dim=-1)


@equation(
    "gexbert", "I15",
    meaning="the risk: a linear Cox model on the panel and the restored anchors, or on what represents a sample",
    latex=r"\eta = \beta_S \cdot z_S + \beta_A \cdot \hat z_A \quad \text{or} \quad \eta = \beta \cdot h",
    fidelity="inferred", source="the abstract says survival prediction from restored anchors; the ridge penalty is ours",
)  # fmt: skip
def log_risk(features: Float[Tensor, "sample dim"], beta: Float[Tensor, " dim"]) -> Float[Tensor, " sample"]:
    """Return the log of the hazard's ratio to that of a patient whose features are 0."""
    return features @ beta
