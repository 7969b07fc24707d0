"""The equations of BMFM-RNA, one function each.

The paper's text could be read no further than its abstract. What is ``code`` was read in the authors' program (BiomedSciAI,
biomed-multi-omic, Apache-2.0); what is ``inferred`` is ours. x are counts, L the library of a cell, v values on the scale of the
input, v-hat predicted ones, w = 1 where a place counts, E_g the vector of a gene, h that of a cell. Means over no place are 0.
"""

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional as F

from expressor.core.equations import equation
from expressor.train.means import mean_where

_CODE = "the authors' code:"


# What goes in ------------------------------------------------------------------------------------------------------------


@equation(
    "bmfm", "C1",
    meaning="the value of a gene: the logarithm of its counts per ten thousand",
    latex=r"v_g = \ln\left(1 + 10^4 \frac{x_g}{L + \epsilon}\right)",
    fidelity="code", source=f"{_CODE} sample_transforms, with epsilon = 1 and L over the genes left in the sequence; here L is "
    "that of the whole cell and epsilon 0",
)  # fmt: skip
def log_normalise(
    x: Float[Tensor, "cell gene"], L: Float[Tensor, " cell"], epsilon: float = 0.0
) -> Float[Tensor, "cell gene"]:
    """Return the values."""
    return torch.log1p(1e4 * x / (L + epsilon)[:, None])


@equation(
    "bmfm", "C2",
    meaning="read depth: two tokens tell the logarithms of the depth of the (thinned) input, S, and of the whole cell or of "
    "the depth that is aimed at, T",
    latex=r"x'_g \sim \mathrm{Binomial}(x_g, b), \quad b \sim \mathrm{Beta}(2, 2), \qquad "
    r"t_S = \ln\left(1 + \sum_g x'_g\right), \quad t_T = \ln(1 + T)",
    fidelity="code", source=f"{_CODE} sample_transforms (read-depth aware, after scFoundation); cells below 1,000 counts and every "
    "second other cell stay as they are",
)  # fmt: skip
def read_depth(
    x: Float[Tensor, "cell gene"], T: Float[Tensor, " cell"]
) -> tuple[Float[Tensor, " cell"], Float[Tensor, " cell"]]:
    """Return what the tokens [S] and [T] tell of inputs ``x``; the tokeniser thins."""
    return torch.log1p(x.sum(1)), torch.log1p(T)


@equation(
    "bmfm", "C3",
    meaning="a token: the vector of its gene plus that of its value, normalised",
    latex=r"t_g = \mathrm{LayerNorm}(E_g + f(v_g))",
    fidelity="code", source=f"{_CODE} layers, SCEmbeddingsLayer",
)  # fmt: skip
def token(E: Float[Tensor, "cell token dim"], f: Float[Tensor, "cell token dim"]) -> Float[Tensor, "cell token dim"]:
    """Return the tokens, before the gain and the shift of the norm."""
    return F.layer_norm(E + f, E.shape[-1:], eps=1e-12)


@equation(
    "bmfm", "C4",
    meaning="waves of a value: sines and cosines at frequencies that double, or that are learnt, through a linear layer",
    latex=r"f(v) = W\left[\sin(\omega_j v), \cos(\omega_j v)\right]_j, \qquad \omega_{j+1} = 2\omega_j, \quad \omega_1 = 2\pi s",
    fidelity="code", source=f"{_CODE} layers, ScaleAdaptEncoder (48 frequencies, s = 0.01; learnt ones start normal, spread 3 pi)",
)  # fmt: skip
def waves(
    v: Float[Tensor, "cell token"], omega: Float[Tensor, " level"], W: Float[Tensor, "dim feature"]
) -> Float[Tensor, "cell token dim"]:
    """Return the vectors of the values; :class:`expressor.nn.values.WaveValues` is what the network uses."""
    angle = v[..., None] * omega
    return torch.cat([angle.sin(), angle.cos()], dim=-1) @ W.T


@equation(
    "bmfm", "C5",
    meaning="masking: a place is selected with its probability; most of the selected are hidden, some get a value of another "
    "place, the rest stay as they are",
    latex=r"s_i = [u_i < p_i], \qquad m_i = s_i [u'_i < q], \qquad r_i = s_i [q \leq u'_i < q + r]",
    fidelity="code", source=f"{_CODE} masking (p = .15, with read depth .30; q = .95, r = 0); fields are masked independently",
)  # fmt: skip
def choose_masked(
    u: Float[Tensor, "cell token"],
    u_kind: Float[Tensor, "cell token"],
    p: Float[Tensor, "cell token"],
    q: float,
    r: float,
) -> tuple[Bool[Tensor, "cell token"], Bool[Tensor, "cell token"], Bool[Tensor, "cell token"]]:
    """Return which places are selected, hidden, and switched, from uniform draws ``u`` and ``u_kind``."""
    selected = u < p
    return selected, selected & (u_kind < q), selected & (u_kind >= q) & (u_kind < q + r)


@equation(
    "bmfm", "C6",
    meaning="adaptive masking: a gene's weight is the bin of its error among equal bins between the smallest and the largest error",
    latex=r"w_g = \frac{1 + b(e_g)}{B + 1}, \qquad b(e) = \max\left(0, \left\lceil B \frac{e - \min e}{\max e - \min e} "
    r"\right\rceil - 1\right)",
    fidelity="code", source=f"{_CODE} masking, TokenErrorUpdateCallback (B = 100); genes without an error get the mean (ours)",
)  # fmt: skip
def adaptive_weight(e: Float[Tensor, " gene"], B: int = 100) -> Float[Tensor, " gene"]:
    """Return the weights, in (0, 1); NaN are genes without an error. All are equal where all errors are."""
    known = ~e.isnan()
    weight = torch.ones_like(e)
    if known.any():
        low, high = e[known].min(), e[known].max()
        share = (e - low) / (high - low) if high > low else torch.zeros_like(e)
        # Edges belong to the bin below, as where one cuts a table.
        level = (torch.ceil(B * share) - 1).clamp(min=0)
        weight = (1 + level) / (B + 1)
        weight = torch.where(known, weight, weight[known].mean())
    return weight


@equation(
    "bmfm", "C7",
    meaning="probabilities of masking: weights scaled so that their mean over a cell's tokens is the wanted share",
    latex=r"p_i = \min\left(1, \rho \frac{w_{g_i}}{\frac1n \sum_j w_{g_j}}\right)",
    fidelity="code", source=f"{_CODE} masking, MaskingStrategy.get_mask_probs; raised to 1 / temperature where one is set",
)  # fmt: skip
def mask_probability(
    w: Float[Tensor, "cell token"], keep: Bool[Tensor, "cell token"], rho: float
) -> Float[Tensor, "cell token"]:
    """Return the probability of each place, 0 where there is no token."""
    w = torch.where(keep, w, 0.0)
    mean = w.sum(1, keepdim=True) / keep.sum(1, keepdim=True).clamp(min=1)
    return torch.where(keep, (rho * w / mean.clamp(min=1e-12)).clamp(max=1.0), 0.0)


# Losses ------------------------------------------------------------------------------------------------------------------


@equation(
    "bmfm", "C8",
    meaning="the loss of values: squares, of what is not zero alone",
    latex=r"\ell = \frac{\sum_i w_i [v_i \neq 0] (\hat v_i - v_i)^2}{\sum_i w_i [v_i \neq 0]}",
    fidelity="code", source=f"{_CODE} losses, mse with ignore_zero",
)  # fmt: skip
def value_loss(
    predicted: Float[Tensor, "cell gene"], v: Float[Tensor, "cell gene"], w: Bool[Tensor, "cell gene"]
) -> Float[Tensor, ""]:
    """Return the mean squared error of non-zero values."""
    return mean_where((predicted - v).square(), w & (v != 0))


@equation(
    "bmfm", "C9",
    meaning="the loss of zeros: cross-entropy of a logit that says whether the value is zero",
    latex=r"\ell = -\frac{1}{\sum_i w_i} \sum_i w_i \left([v_i = 0] \ln\sigma(z_i) + [v_i \neq 0] \ln(1 - \sigma(z_i))\right)",
    fidelity="code", source=f"{_CODE} losses, is_zero_bce (weight 1.5 in MLM with labels, 1 in WCED)",
)  # fmt: skip
def zero_loss(
    z: Float[Tensor, "cell gene"], v: Float[Tensor, "cell gene"], w: Bool[Tensor, "cell gene"]
) -> Float[Tensor, ""]:
    """Return the mean binary cross-entropy."""
    return mean_where(F.binary_cross_entropy_with_logits(z, (v == 0).to(z.dtype), reduction="none"), w)


@equation(
    "bmfm", "C10",
    meaning="absolute errors of what is not zero, as an option",
    latex=r"\ell = \frac{\sum_i w_i [v_i \neq 0] \lvert \hat v_i - v_i \rvert}{\sum_i w_i [v_i \neq 0]}",
    fidelity="code", source=f"{_CODE} losses, mae",
)  # fmt: skip
def absolute_loss(
    predicted: Float[Tensor, "cell gene"], v: Float[Tensor, "cell gene"], w: Bool[Tensor, "cell gene"]
) -> Float[Tensor, ""]:
    """Return the mean absolute error of non-zero values."""
    return mean_where((predicted - v).abs(), w & (v != 0))


@equation(
    "bmfm", "C11",
    meaning="cross-entropy of classes, of masked genes and of labels; a class below 0 is not known and does not count",
    latex=r"\ell = -\frac{1}{n} \sum_i \left(a_{i y_i} - \ln\sum_k e^{a_{ik}}\right)",
    fidelity="code", source=f"{_CODE} losses, cross_entropy (weight .7 of genes in MLM)",
)  # fmt: skip
def class_loss(a: Float[Tensor, "cell class"], y: Int[Tensor, " cell"]) -> Float[Tensor, ""]:
    """Return the mean cross-entropy of the logits ``a``; 0 where no class is known."""
    return focal_loss(a, y, gamma=0.0)


@equation(
    "bmfm", "C12",
    meaning="focal loss: cross-entropy that counts less where the right class is likely already",
    latex=r"\ell = -\frac{1}{n} \sum_i (1 - p_{i y_i})^\gamma \ln p_{i y_i}",
    fidelity="code", source=f"{_CODE} losses, focal (gamma 2 for tissue and donor, 3 in fine-tuning)",
)  # fmt: skip
def focal_loss(a: Float[Tensor, "cell class"], y: Int[Tensor, " cell"], gamma: float = 2.0) -> Float[Tensor, ""]:
    """Return the mean focal loss of the logits ``a``; 0 where no class is known."""
    known = y >= 0
    log_p = F.log_softmax(a, dim=1).gather(1, y.clamp(min=0)[:, None])[:, 0]
    unlikely = (-torch.expm1(log_p)).clamp(min=0) ** gamma if gamma else 1.0
    return mean_where(-unlikely * log_p, known)


@equation(
    "bmfm", "C13",
    meaning="hierarchical cross-entropy: the classes are leaves of an ontology, and a label may stand for many of them",
    latex=r"\ell = -\frac{1}{n} \sum_i \left(\ln\sum_{k \in L(y_i)} e^{a_{ik}} - \ln\sum_k e^{a_{ik}}\right)",
    fidelity="code", source=f"{_CODE} losses, hce; leaves that no cell can have are left out",
)  # fmt: skip
def hierarchical_loss(
    a: Float[Tensor, "cell class"], y: Int[Tensor, " cell"], L: Bool[Tensor, "node class"]
) -> Float[Tensor, ""]:
    """Return the mean loss; ``y`` are nodes, below 0 where not known, and ``L`` the leaves below each node."""
    known = y >= 0
    below = a.masked_fill(~L[y.clamp(min=0)], -math.inf)
    return mean_where(torch.logsumexp(a, 1) - torch.logsumexp(below, 1), known)


@equation(
    "bmfm", "C14",
    meaning="the loss of binned values: the mean bin under the predicted probabilities, against the true one, squared",
    latex=r"\ell = \frac{1}{n} \sum_i \left(\sum_k k\, p_{ik} - y_i\right)^2",
    fidelity="code", source=f"{_CODE} losses, token_value",
)  # fmt: skip
def token_value_loss(a: Float[Tensor, "cell class"], y: Int[Tensor, " cell"]) -> Float[Tensor, ""]:
    """Return the mean squared difference; bins below 0 do not count."""
    expected = torch.softmax(a, dim=1) @ torch.arange(a.shape[1], dtype=a.dtype, device=a.device)
    return mean_where((expected - y).square(), y >= 0)


# Whole-cell expression decoding ------------------------------------------------------------------------------------------


@equation(
    "bmfm", "C15",
    meaning="whole-cell decoding: from the cell token alone, a value and a logit of being zero for every gene",
    latex=r"(\hat v, z) = W\, \mathrm{LayerNorm}(\mathrm{GELU}(A h + a)) + b",
    fidelity="code", source=f"{_CODE} layers, SCLMPredictionHead and the decoder wced; the authors run it on every token and keep "
    "one row",
)  # fmt: skip
def decode_cell(
    h: Float[Tensor, "cell dim"],
    A: Float[Tensor, "dim dim"],
    a: Float[Tensor, " dim"],
    W: Float[Tensor, "output dim"],
    b: Float[Tensor, " output"],
) -> Float[Tensor, "cell output"]:
    """Return values and logits side by side."""
    inside = F.layer_norm(F.gelu(h @ A.T + a), h.shape[1:], eps=1e-12)
    return inside @ W.T + b


@equation(
    "bmfm", "C16",
    meaning="decoding by a query: what a gene asks of the cell comes from the gene's own vector",
    latex=r"\hat v_g = h^\top P\, \sigma(Q E_g + q)",
    fidelity="code", source=f"{_CODE} layers, MVCFieldDecoder, inner product (after scGPT)",
)  # fmt: skip
def decode_by_query(
    h: Float[Tensor, "cell dim"],
    E: Float[Tensor, "gene dim"],
    P: Float[Tensor, "dim dim"],
    Q: Float[Tensor, "dim dim"],
    q: Float[Tensor, " dim"],
) -> Float[Tensor, "cell gene"]:
    """Return a number for every gene."""
    return h @ (torch.sigmoid(E @ Q.T + q) @ P.T).T


@equation(
    "bmfm", "C17",
    meaning="the target sets: genes among the input's tokens, the others, or all; of those that were measured",
    latex=r"w^{\mathrm{input}}_{cg} = [g \in T_c], \qquad w^{\mathrm{non}}_{cg} = [g \notin T_c], \qquad w^{\mathrm{all}} = 1",
    fidelity="code", source=f"{_CODE} masking, select_input_labels and its kin (v1: the first two, each weight 1; v2: all)",
)  # fmt: skip
def target_set(
    genes: Int[Tensor, "cell token"], measured: Bool[Tensor, "cell gene"], which: str
) -> Bool[Tensor, "cell gene"]:
    """Return which genes a set holds (``"input"``, ``"non_input"``, ``"all"``); tokens below 0 are padding."""
    if which == "all":
        return measured
    among = torch.zeros(measured.shape[0], measured.shape[1] + 1, dtype=torch.bool, device=measured.device)
    among.scatter_(1, torch.where(genes < 0, measured.shape[1], genes.long()), True)
    return measured & (among[:, :-1] if which == "input" else ~among[:, :-1])


@equation(
    "bmfm", "I1",
    meaning="the gene mean is taken off: heads start at, and learn differences from, each gene's mean where it is not zero, and "
    "the logit of its share of zeros",
    latex=r"\hat v_{cg} = \bar v_g + \delta_{cg}, \qquad z_{cg} = \ln\frac{\pi_g}{1 - \pi_g} + \zeta_{cg}",
    fidelity="inferred", source="ours: a head with a bias for each gene can be right on average and say nothing of the cell",
)  # fmt: skip
def gene_offset(
    positive: Float[Tensor, " gene"], total: Float[Tensor, " gene"], n: Float[Tensor, " gene"]
) -> tuple[Float[Tensor, " gene"], Float[Tensor, " gene"]]:
    """Return means of the non-zero values and logits of being zero.

    ``positive`` counts each gene's non-zero values, ``total`` is their sum, and ``n`` counts the cells in which it was measured.
    Half a cell is added to zeros and to others.
    """
    share = (n - positive + 0.5) / (n + 1)
    return total / positive.clamp(min=1), torch.log(share) - torch.log1p(-share)


@equation(
    "bmfm", "I2",
    meaning="what is reported of a reconstruction: the share of the variance around gene means that the expected values explain",
    latex=r"R^2 = 1 - \frac{\sum_{cg} w_{cg} \left(v_{cg} - (1 - \sigma(z_{cg})) \hat v_{cg}\right)^2}"
    r"{\sum_{cg} w_{cg} (v_{cg} - \mu_g)^2}",
    fidelity="inferred", source="ours; mu is the training mean, zeros included",
)  # fmt: skip
def explained_above_mean(
    expected: Float[Tensor, "cell gene"],
    v: Float[Tensor, "cell gene"],
    mu: Float[Tensor, " gene"],
    w: Bool[Tensor, "cell gene"],
) -> tuple[Float[Tensor, " gene"], Float[Tensor, " gene"]]:
    """Return each gene's sums of squares about the expected values and about the mean; R2 is 1 less the ratio of their totals."""
    about = torch.where(w, (v - expected).square(), 0.0).sum(0)
    return about, torch.where(w, (v - mu).square(), 0.0).sum(0)


@equation(
    "bmfm", "I3",
    meaning="a token with the value as a number: one layer of attention then sums expression times loading, as a projection does",
    latex=r"t_g = \mathrm{LayerNorm}(E_g + f(v_g) + v_g M E_g)",
    fidelity="inferred", source="ours; an option",
)  # fmt: skip
def product_token(
    E: Float[Tensor, "cell token dim"],
    f: Float[Tensor, "cell token dim"],
    v: Float[Tensor, "cell token"],
    M: Float[Tensor, "dim dim"],
) -> Float[Tensor, "cell token dim"]:
    """Return the tokens, before the gain and the shift of the norm."""
    return token(E, f + v[..., None] * (E @ M.T))


@equation(
    "bmfm", "I4",
    meaning="gene vectors start from the principal loadings of the training cells, of unit mean square",
    latex=r"E_{gk} = U_{gk} \big/ \sqrt{\tfrac1G \sum_{g'} U_{g'k}^2}",
    fidelity="inferred", source="ours; an option. The authors' start is random",
)  # fmt: skip
def loading_start(U: Float[Tensor, "gene factor"]) -> Float[Tensor, "gene factor"]:
    """Return the start; a factor without any loading stays 0."""
    size = U.square().mean(0).sqrt()
    return U / torch.where(size > 0, size, torch.ones_like(size))


@equation(
    "bmfm", "I7",
    meaning="cell tokens start from where the cell lies among its genes' vectors: their mean, weighted by the values that are "
    "shown, less that of the mean cell over the genes that were measured",
    latex=r"c = \mathrm{LayerNorm}\left(c_0 + S \left(\frac{\sum_g v_g E_g}{\sum_g v_g} - "
    r"\frac{\sum_g w_g \mu_g E_g}{\sum_g w_g \mu_g}\right)\right)",
    fidelity="inferred", source="ours; an option. The authors' cell tokens start alike for all cells",
)  # fmt: skip
def place(
    shown: Float[Tensor, "cell token dim"],
    v: Float[Tensor, "cell token"],
    E: Float[Tensor, "gene dim"],
    expected: Float[Tensor, "cell gene"],
) -> Float[Tensor, "cell dim"]:
    """Return the differences of places.

    ``shown`` are the vectors of the tokens' genes and ``v`` their values, 0 where nothing is shown; ``expected`` is the mean value
    of a gene, 0 where it was not measured.
    """
    mine = (v[:, None] @ shown)[:, 0] / v.sum(1, keepdim=True).clamp(min=1e-6)
    return mine - expected @ E / expected.sum(1, keepdim=True).clamp(min=1e-6)


@equation(
    "bmfm", "I5",
    meaning="a negative binomial likelihood of the counts, with the library shared out among the genes",
    latex=r"\ell_{cg} = \ln \mathrm{NB}(x_{cg};\ \mu_{cg} = L_c \pi_{cg},\ \theta_g)",
    fidelity="inferred", source="ours, as in scVI; the authors' two heads are no likelihood",
)  # fmt: skip
def negative_binomial(
    x: Float[Tensor, "cell gene"], mu: Float[Tensor, "cell gene"], theta: Float[Tensor, " gene"]
) -> Float[Tensor, "cell gene"]:
    """Return the log likelihood of each count; ``theta`` is the inverse dispersion."""
    mu = mu.clamp(min=1e-8)
    both = torch.log(theta + mu)
    known = theta * (torch.log(theta) - both) + x * (torch.log(mu) - both)
    return known + torch.lgamma(x + theta) - torch.lgamma(theta) - torch.lgamma(x + 1)


@equation(
    "bmfm", "I6",
    meaning="the same with extra zeros",
    latex=r"\ell_{cg} = \ln\left(\sigma(z_{cg}) [x_{cg} = 0] + (1 - \sigma(z_{cg})) \mathrm{NB}(x_{cg}; \mu_{cg}, \theta_g)\right)",
    fidelity="inferred", source="ours, as in scVI",
)  # fmt: skip
def zero_inflated(
    x: Float[Tensor, "cell gene"],
    mu: Float[Tensor, "cell gene"],
    theta: Float[Tensor, " gene"],
    z: Float[Tensor, "cell gene"],
) -> Float[Tensor, "cell gene"]:
    """Return the log likelihood of each count; ``z`` are logits of an extra zero."""
    counted = F.logsigmoid(-z) + negative_binomial(x, mu, theta)
    return torch.where(x == 0, torch.logaddexp(F.logsigmoid(z), counted), counted)
