"""The equations of auxiliary gene learning, one function each, in the paper's symbols.

``l`` is the loss of a gene, ``lambda`` (``lam``) its weight, ``rank`` its place among the auxiliary genes (best 0), ``k`` the
threshold on ranks, ``tau`` the temperature. Functions of losses work on torch tensors and can be differentiated twice.

Numbers 5 and 6 are the paper's. The statements numbered 1 to 4 are the paper's, in its order; their numbers there were not
checked. C stands for the authors' code, I for this package, R for the rivals.
"""

from collections.abc import Callable
from itertools import product

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.equations import equation
from expressor.core.errors import DataError
from expressor.nn.topk import relaxed_top_k

EPS = 1e-8
_PROBLEM = "Shiku et al. 2026, section 'Problem setup'; numbered by its order there"
_MOST_MASKS = 2**16


@equation(
    "agl", "1",
    meaning="the ideal problem: the mask with which training leaves the least loss of the primary genes on held-out spots",
    latex=r"\lambda^* = \arg\min_{\lambda \in \{0,1\}^A} L^{pri}_{val}(\theta^*(\lambda))",
    fidelity="paper", source=_PROBLEM,
)  # fmt: skip
def ideal_mask(held_out_loss: Callable[[np.ndarray], float], n_auxiliary: int) -> np.ndarray:
    """Return the best of all 2^A masks, (gene,) of 0 and 1, by trying each; among equals the one of fewest genes.

    ``held_out_loss(mask)`` trains with the mask and returns the loss of the primary genes. Only for a handful of auxiliary
    genes: it is what the ranked problem (4) stands in for, and what small tests compare it with.
    """
    if 2**n_auxiliary > _MOST_MASKS:
        raise DataError("too many masks to try", expected="at most 16 auxiliary genes", got=n_auxiliary)
    masks = sorted((np.array(one, dtype=np.int64) for one in product((0, 1), repeat=n_auxiliary)), key=np.sum)
    return min(masks, key=held_out_loss)


@equation(
    "agl", "2",
    meaning="the loss that the weights are trained on: primary genes and the auxiliary genes under the mask",
    latex=r"\theta^*(\lambda) = \arg\min_\theta \sum_p l^{pri}_p(\theta) + \sum_j \lambda_j l^{aux}_j(\theta)",
    fidelity="paper", source=_PROBLEM,
)  # fmt: skip
def masked_objective(
    l_primary: Float[Tensor, " primary"], l_auxiliary: Float[Tensor, " gene"], lam: Int[Tensor, " gene"]
) -> Float[Tensor, ""]:
    """Return the sum of the primary losses and of those auxiliary losses whose mask is 1."""
    return l_primary.sum() + l_auxiliary[lam == 1].sum()


@equation(
    "agl", "3",
    meaning="the prior: a gene's dispersion, standardised among genes of similar mean, is its score",
    latex=r"s_g = (\delta_g - \mathrm{mean}_{b(g)} \delta) / \mathrm{sd}_{b(g)} \delta, \quad \delta_g = \sigma_g^2 / \mu_g",
    fidelity="paper", source="Shiku et al. 2026, section 'Prior knowledge-based auxiliary gene ranking'; 20 bins of the mean",
)  # fmt: skip
def standardised_dispersion(delta: Float[np.ndarray, " gene"], bins: Int[np.ndarray, " gene"]) -> np.ndarray:
    """Return the score s of each gene from its dispersion and the number of its bin; NaN for a gene alone in its bin.

    :func:`expressor.genes.panels.hvg_scores` is what ranks genes in practice: it works on sparse matrices, takes log
    dispersions and gives lonely genes the score 1, as scanpy does.
    """
    score = np.full(len(delta), np.nan)
    for one in np.unique(bins):
        inside = bins == one
        if inside.sum() > 1:
            score[inside] = (delta[inside] - delta[inside].mean()) / delta[inside].std(ddof=1)
    return score


@equation(
    "agl", "4",
    meaning="the ranked problem: one threshold k instead of A choices; the genes ranked above it are kept",
    latex=r"\lambda_j(k) = \mathbb{1}[\mathrm{rank}_j < k], \quad k^* = \arg\min_k L^{pri}_{val}(\theta^*(\lambda(k)))",
    fidelity="paper", source="Shiku et al. 2026, section on DkGSB; numbered by its order there",
)  # fmt: skip
def ranked_mask(rank: Int[Tensor, " gene"], k: int) -> Int[Tensor, " gene"]:
    """Return the mask of the ``k`` best-ranked auxiliary genes."""
    return (rank < k).to(torch.int64)


@equation(
    "agl", "5",
    meaning="the training loss of the relaxed problem: auxiliary losses weighted by their soft mask",
    latex=r"L(\theta, k) = \sum_p l^{pri}_p(\theta) + \sum_j \lambda_j(k, \tau)\, l^{aux}_j(\theta)",
    fidelity="paper", source="Shiku et al. 2026, equation 5",
)  # fmt: skip
def relaxed_objective(
    l_primary: Float[Tensor, " primary"], l_auxiliary: Float[Tensor, " gene"], lam: Float[Tensor, " gene"]
) -> Float[Tensor, ""]:
    """Return the sum of the primary losses and of the auxiliary losses times their weights."""
    return l_primary.sum() + (lam * l_auxiliary).sum()


@equation(
    "agl", "6",
    meaning="the soft mask: a gene's weight falls from 1 to 0 where its rank passes the threshold",
    latex=r"\lambda_j(k, \tau) = \frac{e^{k/\tau}}{e^{\mathrm{rank}_j/\tau} + e^{k/\tau}}"
    r" = \sigma\left(\frac{k - \mathrm{rank}_j}{\tau}\right)",
    fidelity="paper", source="Shiku et al. 2026, equation 6; cuttoff_estimater.py",
)  # fmt: skip
def relaxed_mask(rank: Float[Tensor, " gene"], k: Float[Tensor, ""], tau: float) -> Float[Tensor, " gene"]:
    """Return the weights of the auxiliary genes; ``rank``, ``k`` and ``tau`` are in one unit."""
    return relaxed_top_k(rank, k, temperature=tau)


@equation(
    "agl", "C1",
    meaning="ranks are scaled to [0, 1], so that the temperature means the same for any number of genes",
    latex=r"\mathrm{rank}_j \leftarrow (\mathrm{rank}_j - \min) / (\max - \min)",
    fidelity="code", source="cuttoff_estimater.py",
)  # fmt: skip
def normalise_rank(rank: Int[Tensor, " gene"]) -> Float[Tensor, " gene"]:
    """Return the ranks scaled to [0, 1], the best 0; a lonely gene gets 0."""
    low, high = rank.min(), rank.max()
    return (rank - low).to(torch.get_default_dtype()) / max(int(high - low), 1)


@equation(
    "agl", "C2",
    meaning="the loss of a step is a weighted mean whose denominator is a constant to the gradient",
    latex=r"L = \sum_g w_g l_g \,/\, \mathrm{sg}\left[\sum_g w_g\right]",
    fidelity="code", source="train.py: the sum of weights is detached",
)  # fmt: skip
def weighted_mean(l: Float[Tensor, " gene"], w: Float[Tensor, " gene"]) -> Float[Tensor, ""]:  # noqa: E741
    """Return the weighted mean of the losses; the threshold acts through the numerator alone."""
    return (w * l).sum() / w.sum().detach()


@equation(
    "agl", "C3",
    meaning="the k that is read out is the rank of the gene nearest to the threshold",
    latex=r"k = \mathrm{rank}_{\arg\min_j |\mathrm{rank}_j - k|}",
    fidelity="code", source="cuttoff_estimater.py",
)  # fmt: skip
def read_k(rank: Float[Tensor, " gene"], k: Float[Tensor, ""]) -> int:
    """Return the place (0, 1, ...) of the gene whose scaled rank is nearest to the threshold.

    It cannot say "none" or "all"; :func:`kept` can.
    """
    order = torch.argsort(rank, stable=True)
    return int(torch.argmin((rank[order] - k.detach()).abs()))


@equation(
    "agl", "I1",
    meaning="the number of auxiliary genes kept: those of weight one half and more",
    latex=r"k = \#\{j : \lambda_j \geq 1/2\}",
    fidelity="inferred", source="ours: the read-out of the code cannot give 0",
)  # fmt: skip
def kept(lam: Float[Tensor, " gene"]) -> int:
    """Return the number of auxiliary genes of weight 1/2 or more."""
    return int((lam.detach() >= 0.5).sum())


@equation(
    "agl", "C4",
    meaning="the loss of a gene is 1 - Pearson's r over the mini-batch; free of scale and offset",
    latex=r"l_g = 1 - \frac{\sum_i (\hat y_{ig} - \bar{\hat y}_g)(y_{ig} - \bar y_g)}"
    r"{\|\hat y_g - \bar{\hat y}_g\| \, \|y_g - \bar y_g\| + \epsilon}",
    fidelity="code", source="losses.py; epsilon 1e-8",
)  # fmt: skip
def pcc_loss(predicted: Float[Tensor, "spot gene"], measured: Float[Tensor, "spot gene"]) -> Float[Tensor, " gene"]:
    """Return 1 - r of each gene; 1 for a gene that is constant (the authors write 2 where their r is not a number)."""
    p, m = predicted - predicted.mean(0), measured - measured.mean(0)
    return 1 - (p * m).sum(0) / (_norm(p) * _norm(m) + EPS)


def _norm(centred: Tensor) -> Tensor:
    # The root of 0 has no derivative; below this floor a gene counts as constant, and epsilon keeps its r at 0.
    return (centred * centred).sum(0).clamp_min(1e-24).sqrt()


@equation(
    "agl", "I2",
    meaning="the same with r taken inside each slide and averaged, so that differences between slides teach nothing",
    latex=r"l_g = 1 - \frac{1}{|S_g|} \sum_{s \in S_g} r_{gs}, \quad S_g = \{s : y_g \text{ varies in } s\}",
    fidelity="inferred", source="ours: the code hands the slides to the loss and does not use them",
)  # fmt: skip
def slide_pcc_loss(
    predicted: Float[Tensor, "spot gene"], measured: Float[Tensor, "spot gene"], member: Float[Tensor, "slide spot"]
) -> Float[Tensor, " gene"]:
    """Return 1 - mean r of each gene over the slides in which it varies; 1 for a gene that varies in none.

    ``member`` is 1 where a spot is of a slide and 0 elsewhere. Slides of fewer than three spots have no say: with two, r is
    1 or -1 whatever was predicted.
    """
    size = member.sum(1, keepdim=True)
    member = member[size[:, 0] > 2]
    if not len(member):
        raise DataError("no slide has enough spots in a mini-batch", expected="at least 3 spots of a slide",
                        fix="Raise plan.batch_size.")  # fmt: skip
    share = member / member.sum(1, keepdim=True)
    p, m = predicted - member.T @ (share @ predicted), measured - member.T @ (share @ measured)
    norm_p = (member @ (p * p)).clamp_min(1e-24).sqrt()
    square_m = member @ (m * m)
    # What is left of a constant after its mean is taken off is rounding error; it must not count as variation.
    varies = (square_m > 1e-10 * (member @ (measured * measured))).to(square_m.dtype)
    r = varies * (member @ (p * m)) / (norm_p * square_m.clamp_min(1e-24).sqrt() + EPS)
    return 1 - r.sum(0) / varies.sum(0).clamp_min(1)


@equation(
    "agl", "I3",
    meaning="the network's output, free of scale, is brought to the unit of expression by a line a gene",
    latex=r"y \approx a_g \hat y + b_g, \quad a_g = \max\left(a_{min},"
    r" \frac{\sum_s \mathrm{cov}_s(\hat y, y)}{\sum_s \mathrm{var}_s(\hat y)}\right),"
    r" \; b_g = \overline{\bar y_s - a_g \bar{\hat y}_s}",
    fidelity="inferred", source="ours: the paper's outputs have no unit",
)  # fmt: skip
def recalibration(
    predicted: Float[np.ndarray, "spot gene"], measured: Float[np.ndarray, "spot gene"], slide: Int[np.ndarray, " spot"]
) -> tuple[Float[np.ndarray, " gene"], Float[np.ndarray, " gene"]]:
    """Return slope and intercept of each gene: least squares inside slides, and the mean of the slides' offsets.

    A slope never falls below a thousandth of the ratio of the spreads: a gene whose held-out prediction points the wrong way
    is then predicted by very nearly its mean, and keeps a correlation that shows the failure instead of hiding it.
    """
    codes = np.unique(slide, return_inverse=True)[1]
    member = (codes == np.arange(codes.max() + 1)[:, None]).astype(np.float64)
    share = member / member.sum(1, keepdims=True)
    predicted, measured = predicted.astype(np.float64), measured.astype(np.float64)
    mean_p, mean_m = share @ predicted, share @ measured
    p, m = predicted - mean_p[codes], measured - mean_m[codes]
    square_p, square_m = (p * p).sum(0), (m * m).sum(0)
    with np.errstate(divide="ignore", invalid="ignore"):
        slope = np.maximum((p * m).sum(0) / square_p, 1e-3 * np.sqrt(square_m / square_p))
    slope = np.where(square_p > 0, slope, 0.0)
    return slope, (mean_m - slope * mean_p).mean(0)


@equation(
    "agl", "I4",
    meaning="half-width of the predictive interval: a quantile of held-out absolute residuals in which every slide counts alike",
    latex=r"q_g = \inf\left\{q : \frac{1}{S} \sum_s \frac{1}{n_s + 1} \#\{i \in s : |e_{ig}| \leq q\} \geq c \right\}",
    fidelity="inferred", source="ours; split conformal prediction with slides as groups (Lei et al. 2018, Dunn et al. 2023)",
)  # fmt: skip
def conformal_half_width(
    residual: Float[np.ndarray, "spot gene"], slide: Int[np.ndarray, " spot"], coverage: float
) -> Float[np.ndarray, " gene"]:
    """Return the half-width of each gene; the largest residual where there are too few spots to reach the coverage."""
    error = np.abs(residual)
    _, codes, size = np.unique(slide, return_inverse=True, return_counts=True)
    weight = (1.0 / (len(size) * (size + 1.0)))[codes]
    order = np.argsort(error, axis=0, kind="stable")
    reached = np.cumsum(weight[order], axis=0) >= coverage - 1e-12
    first = np.where(reached.any(0), reached.argmax(0), len(error) - 1)
    genes = np.arange(error.shape[1])
    return error[order[first, genes], genes]


@equation(
    "agl", "R1",
    meaning="rival: each gene's loss is divided by a learnt variance, whose logarithm is the price",
    latex=r"L = \frac{1}{G}\sum_g \tfrac12 \left(e^{-s_g} l_g + s_g\right)",
    fidelity="inferred", source="after Kendall, Gal and Cipolla 2018 (s is the log variance); applied to 1 - r",
)  # fmt: skip
def uncertainty_objective(
    l: Float[Tensor, " gene"],  # noqa: E741
    s: Float[Tensor, " gene"],
) -> Float[Tensor, ""]:
    """Return the mean of the losses under learnt log variances."""
    return 0.5 * (torch.exp(-s) * l + s).mean()


@equation(
    "agl", "R2",
    meaning="rival: learnt positive weights of the auxiliary losses",
    latex=r"w_j = \ln(1 + e^{\phi_j})",
    fidelity="inferred", source="after Navon et al. 2021 (AuxiLearn), its linear combination of losses",
)  # fmt: skip
def auxilearn_weights(phi: Float[Tensor, " gene"]) -> Float[Tensor, " gene"]:
    """Return the weights of the auxiliary genes from their free parameters."""
    return torch.nn.functional.softplus(phi)


@equation(
    "agl", "R3",
    meaning="rival: learnt mixing weights between 0 and 1 of the auxiliary losses",
    latex=r"w_j = \sigma(\phi_j)",
    fidelity="inferred", source="after Sivasubramanian et al. 2023 (AMAL); one weight a gene, shared by all spots",
)  # fmt: skip
def amal_weights(phi: Float[Tensor, " gene"]) -> Float[Tensor, " gene"]:
    """Return the weights of the auxiliary genes from their free parameters."""
    return torch.sigmoid(phi)
