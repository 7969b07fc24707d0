"""The equations, in the paper's symbols. The paper's method is known from the authors' code; the default field is ours."""

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from expressor.core.equations import equation
from expressor.nn import fields, gp

_CODE = "the authors' repository vsingh-group/gene-expression-inr"


@equation(
    "brain_inr", "C1", meaning="a layer of sines", latex=r"h = \sin(\omega (W x + b))",
    fidelity="code", source=f"{_CODE}, module of the SIREN network",
)  # fmt: skip
def sine_layer(
    x: Float[Tensor, "obs dim"], W: Float[Tensor, "output dim"], b: Float[Tensor, " output"], omega: float
) -> Float[Tensor, "obs output"]:
    """Return sin(omega (W x + b)) of each row."""
    return torch.sin(omega * (x @ W.T + b))


@equation(
    "brain_inr", "C2", meaning="bound of the uniform start of a sine layer's weights",
    latex=r"W \sim U(-\sqrt{6 / n} / \omega, \sqrt{6 / n} / \omega)",
    fidelity="code", source=f"{_CODE}, module of the SIREN network; Sitzmann et al. 2020, section 3.2",
)  # fmt: skip
def start_bound(n: int, omega: float, first: bool = False) -> float:
    """Return the bound for a layer of ``n`` inputs; 1/n for the first one."""
    return fields.siren_bound(n, omega, first=first)


@equation(
    "brain_inr", "C3", meaning="encoding of a gene's place in the order",
    latex=r"\gamma(e) = (e, \sin(2^k e), \cos(2^k e)), k = 0, \ldots, L - 1",
    fidelity="code", source=f"{_CODE}: no factor of pi; L = 11",
)  # fmt: skip
def encode_scalar(e: Float[np.ndarray, " gene"], L: int = 11) -> Float[np.ndarray, "gene dim"]:
    """Return the scalar itself, then sine and cosine of each octave, 1 + 2 L numbers a gene."""
    angle = e[:, None] * 2.0 ** np.arange(L)
    pairs = np.stack([np.sin(angle), np.cos(angle)], axis=2).reshape(len(e), 2 * L)
    return np.concatenate([e[:, None], pairs], axis=1)


@equation(
    "brain_inr", "C4", meaning="spectral order of the genes: eigenvectors of the nearest-neighbour graph's Laplacian, 0 to 1",
    latex=r"L v = \lambda D v",
    fidelity="code", source=f"{_CODE}: spectral embedding of genes by samples, default affinity, min-max",
)  # fmt: skip
def spectral_order(X: Float[np.ndarray, "gene obs"], k: int = 1) -> Float[np.ndarray, "gene dim"]:
    """Return ``k`` coordinates of each gene from 0 to 1; genes that are alike get near ones.

    The graph joins each gene with its tenth of the genes that are nearest (with itself among them), made symmetric by the mean of
    both directions. The sign of each coordinate is such that its extreme of largest size is positive.
    """
    n = len(X)
    square = (X**2).sum(axis=1)
    distance = np.maximum(square[:, None] + square - 2 * X @ X.T, 0.0)
    np.fill_diagonal(distance, -1.0)
    order = np.argsort(distance, axis=1, kind="stable")[:, : max(n // 10, 2)]
    A = np.zeros((n, n))
    A[np.arange(n)[:, None], order] = 1.0
    A = (A + A.T) / 2
    np.fill_diagonal(A, 0.0)
    degree = np.where(A.sum(axis=1) > 0, A.sum(axis=1), 1.0)
    # A weak link between all keeps a graph of several parts in one order.
    A = A + 1e-6 * degree.mean() / n
    root = np.sqrt(A.sum(axis=1))
    _, vectors = np.linalg.eigh(np.eye(n) - A / root[:, None] / root)
    v = vectors[:, 1 : 1 + k] / root[:, None]
    v = v * np.sign(v[np.abs(v).argmax(axis=0), np.arange(v.shape[1])])
    span = np.ptp(v, axis=0)
    return (v - v.min(axis=0)) / np.where(span > 0, span, 1.0)


@equation(
    "brain_inr", "C5", meaning="coordinates to -1 to 1, by one minimum and one maximum over all axes",
    latex=r"x' = 2 \frac{x - \min}{\max - \min} - 1",
    fidelity="code", source=f"{_CODE}, preparation of the data",
)  # fmt: skip
def scale_together(x: Float[np.ndarray, "point axis"], low: float, high: float) -> Float[np.ndarray, "point axis"]:
    """Return coordinates relative to the smallest and the largest of the training samples, whatever the axis."""
    return 2 * (x - low) / (high - low) - 1


@equation(
    "brain_inr", "C6", meaning="one number for the tissue: white +1, grey -1, neither 0",
    latex=r"c = [p_w > 1/2] - [p_g > 1/2]",
    fidelity="code", source=f"{_CODE} and its README; the caption of the paper's figure 1 has the opposite sign",
)  # fmt: skip
def tissue_code(grey: Float[np.ndarray, " point"], white: Float[np.ndarray, " point"]) -> Float[np.ndarray, " point"]:
    """Return the code from the probabilities of grey and of white matter."""
    return (white > 0.5).astype(np.float64) - (grey > 0.5)


@equation(
    "brain_inr", "C7", meaning="loss", latex=r"\frac{1}{n} \sum_i (y_i - f(x_i))^2",
    fidelity="code", source=f"{_CODE}, training script",
)  # fmt: skip
def squared_loss(y: Float[Tensor, "obs output"], f: Float[Tensor, "obs output"]) -> Float[Tensor, ""]:
    """Return the mean squared error."""
    return (y - f).square().mean()


@equation(
    "brain_inr", "I1", meaning="Fourier features of a place", latex=r"\phi(x) = (\sin 2 \pi B x, \cos 2 \pi B x)",
    fidelity="inferred", source="ours, for the default field; Tancik et al. 2020",
)  # fmt: skip
def fourier_features(x: Float[Tensor, "point axis"], B: Float[Tensor, "axis factor"]) -> Float[Tensor, "point dim"]:
    """Return sines, then cosines, of the projections of each place."""
    angle = 2 * np.pi * (x @ B)
    return torch.cat([angle.sin(), angle.cos()], dim=1)


@equation(
    "brain_inr", "I2", meaning="a gene's value: what the trunk makes of the place, times the gene's vector",
    latex=r"f_g(x) = t(x) \cdot v_g + b_g",
    fidelity="inferred", source="ours, for the default field",
)  # fmt: skip
def gene_values(
    t: Float[Tensor, "point dim"], v: Float[Tensor, "gene dim"], b: Float[Tensor, " gene"]
) -> Float[Tensor, "point gene"]:
    """Return the values of all genes at all places."""
    return torch.addmm(b, t, v.T)


@equation(
    "brain_inr", "I3", meaning="Matern-3/2 correlation with a length for each axis",
    latex=r"k(x, z) = (1 + \sqrt{3} r) e^{-\sqrt{3} r}", fidelity="inferred", source="ours, for the rival gp",
)  # fmt: skip
def matern32(
    x: Float[Tensor, "point axis"], z: Float[Tensor, "other axis"], lengths: Float[Tensor, " axis"]
) -> Float[Tensor, "point other"]:
    """Return the correlation of each pair of places."""
    return gp.matern32(x, z, lengths)


@equation(
    "brain_inr", "I4", meaning="mean of the nearest samples, each weighed by the inverse of its distance",
    latex=r"f(x) = \frac{\sum_i y_i / d_i}{\sum_i 1 / d_i}",
    fidelity="inferred", source="abagen's dense map, for the rivals idw and knn",
)  # fmt: skip
def inverse_distance_weights(d: Float[np.ndarray, "point node"], power: float = 1.0) -> Float[np.ndarray, "point node"]:
    """Return weights that sum to one; where a distance is 0 its sample has all of it. Power 0 is the plain mean."""
    if power == 0:
        return np.full(d.shape, 1.0 / d.shape[1])
    w = 1.0 / np.maximum(d, 1e-9) ** power
    return w / w.sum(axis=1, keepdims=True)


@equation(
    "brain_inr", "I5", meaning="one gene's standard score among a donor's samples",
    latex=r"z = \frac{y - \mu_d}{\sigma_d}",
    fidelity="inferred", source="ours, where abagen has a scaled robust sigmoid for each donor",
)  # fmt: skip
def standard_score(
    y: Float[np.ndarray, "point gene"], mean: Float[np.ndarray, " gene"], spread: Float[np.ndarray, " gene"]
) -> Float[np.ndarray, "point gene"]:
    """Return the scores; a gene that does not vary in the donor gets 0."""
    return np.where(spread > 0, (y - mean) / np.where(spread > 0, spread, 1.0), 0.0)


@equation(
    "brain_inr", "I6", meaning="conformal quantile: the share of held-out errors that an interval has to hold",
    latex=r"q = s_{(\lceil (n + 1) c \rceil)}",
    fidelity="inferred", source="ours; Lei et al. 2018",
)  # fmt: skip
def conformal_quantile(s: Float[np.ndarray, "point gene"], c: float) -> Float[np.ndarray, " gene"]:
    """Return, for each gene, the smallest error that at least a share ``c`` of new ones stays below; the largest if none does."""
    n = len(s)
    return np.sort(s, axis=0)[min(n, int(np.ceil((n + 1) * c))) - 1]


@equation(
    "brain_inr", "I7", meaning="the block of space that a place lies in", latex=r"\lfloor x / s \rfloor",
    fidelity="inferred", source="ours, for held-out samples; mirrored places share a block",
)  # fmt: skip
def block_of(x: Float[np.ndarray, "point axis"], s: float, shift: float = 0.0) -> Int[np.ndarray, " point"]:
    """Return the number of the block of side ``s``, 0 to the number of occupied blocks."""
    cells = np.floor((x + shift) / s).astype(np.int64)
    return np.unique(cells, axis=0, return_inverse=True)[1].reshape(-1)
