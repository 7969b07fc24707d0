"""The equations, each on whole matrices and in the paper's symbols; what the method computes for a toy or for a thousand cells.

Cells are nodes and genes hyperedges: a gene joins the cells that express it, and each of them with a weight of its own, its
expression. The estimator computes the same from sparse factors (:mod:`expressor.systems.diphw.hypergraph`).

The authors' modules that hold the walks were never published. What was read in their scripts and abstract is the hypergraph, its
weights, the networks of cells and of genes, the preprocessing and the schedule of the walks; how these are put together was
inferred by reproducing their published numbers, and carries the fidelity *inferred*.
"""

import numpy as np
from jaxtyping import Float

from expressor.core.equations import equation

_DRIVERS = "names and comments in the authors' driver scripts (wanhe13/CoMem-DIPHW, e1ab87a)"
_CALIBRATED = "calibrated: reproduces published numbers of the authors' simulation; the source does not print it"


@equation(
    "diphw", "H1",
    meaning="weight of a gene: its expression, summed over cells",
    latex=r"\omega(e) = \sum_v \gamma_e(v)",
    fidelity="code", source=_DRIVERS,
)  # fmt: skip
def gene_weight(gamma: Float[np.ndarray, "cell gene"]) -> Float[np.ndarray, " gene"]:
    """Return omega from expression gamma, which is not negative."""
    return gamma.sum(axis=0)


@equation(
    "diphw", "H2",
    meaning="weights of the cells in a gene, or of the genes in a cell, as probabilities under a preference exponent",
    latex=r"p_j = \frac{\gamma_j^\alpha}{\sum_k \gamma_k^\alpha}",
    fidelity="inferred", source="the exponent is named in the abstract (version 4) and in " + _DRIVERS + "; the form is ours",
)  # fmt: skip
def preference(gamma: Float[np.ndarray, "row column"], alpha: float) -> Float[np.ndarray, "row column"]:
    """Return each row's probabilities, computed from logarithms; an empty row stays 0, and so does what is 0, whatever alpha."""
    there = gamma > 0
    logs = np.log(gamma, out=np.zeros_like(gamma), where=there)
    top = logs.max(axis=1, keepdims=True, initial=-1000.0, where=there)
    powers = np.exp(alpha * (logs - top), out=np.zeros_like(gamma), where=there)
    return _rows_to_one(powers)


@equation(
    "diphw", "W1",
    meaning="walk with edge-dependent vertex weights: a gene of the cell by its weight, a cell of the gene by expression",
    latex=r"P(v \to w) = \sum_e \frac{\omega(e) I(v, e)}{d(v)} \cdot \frac{\gamma_e(w)}{\delta(e)}",
    fidelity="paper", source="Chitra and Raphael 2019; the weights as in H1",
)  # fmt: skip
def edvw_walk(gamma: Float[np.ndarray, "cell gene"]) -> Float[np.ndarray, "cell other"]:
    """Return the transition matrix."""
    there = (gamma > 0).astype(gamma.dtype)
    return _rows_to_one(gene_weight(gamma) * there) @ preference(gamma.T, 1.0)


@equation(
    "diphw", "W2",
    meaning="dual-importance preference walk: the gene also by its expression in the cell, the cell by expression to a power",
    latex=r"P(e \mid v) \propto \omega(e)\, \gamma_e(v), \qquad P(w \mid e) \propto \gamma_e(w)^\alpha",
    fidelity="inferred", source=_CALIBRATED,
)  # fmt: skip
def diphw_walk(gamma: Float[np.ndarray, "cell gene"], alpha: float) -> Float[np.ndarray, "cell other"]:
    """Return the transition matrix for the exponent alpha >= 0."""
    return _rows_to_one(gene_weight(gamma) * gamma) @ preference(gamma.T, alpha)


@equation(
    "diphw", "W3",
    meaning="variant: the exponent on both steps",
    latex=r"P(e \mid v) \propto \omega(e)\, \gamma_e(v)^\alpha, \qquad P(w \mid e) \propto \gamma_e(w)^\alpha",
    fidelity="inferred", source="ours; the calibration rejected it as the paper's, and it clusters better",
)  # fmt: skip
def both_walk(gamma: Float[np.ndarray, "cell gene"], alpha: float) -> Float[np.ndarray, "cell other"]:
    """Return the transition matrix for the exponent alpha >= 0."""
    return _rows_to_one(gene_weight(gamma) * preference(gamma, alpha)) @ preference(gamma.T, alpha)


@equation(
    "diphw", "W4",
    meaning="network of cells, or of genes: absolute correlation, without loops",
    latex=r"G(i, j) = |\mathrm{corr}(x_i, x_j)|, \qquad G(i, i) = 0",
    fidelity="code", source=_DRIVERS + ": unthresholded, the diagonal set to 0",
)  # fmt: skip
def coexpression(x: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row other"]:
    """Return the network of the rows of x; a constant row is joined to none."""
    centred = x - x.mean(axis=1, keepdims=True)
    length = np.sqrt((centred**2).sum(axis=1, keepdims=True))
    unit = np.divide(centred, length, out=np.zeros_like(centred), where=length > 1e-12 * np.abs(x).max(initial=1.0))
    network = np.minimum(np.abs(unit @ unit.T), 1.0)
    np.fill_diagonal(network, 0.0)
    return network


@equation(
    "diphw", "W5",
    meaning="walk with co-expression memory: a remembered gene, a gene co-expressed with it, a cell similar to the one left",
    latex=r"P(v \to w) \propto \sum_{e, e'} p(e \mid v)\, "
    r"\frac{G_E(e, e')\, \gamma_{e'}(v)^\alpha}{\sum_f G_E(e, f)\, \gamma_f(v)^\alpha}\, "
    r"\frac{G_V(v, w)\, \gamma_{e'}(w)^\beta}{\sum_u G_V(v, u)\, \gamma_{e'}(u)^\beta}, \qquad p(e \mid v) \propto \gamma_e(v)^\mu",
    fidelity="inferred", source=_CALIBRATED + ", with mu = beta = 1 and no gene weight; CoMem is alpha = 1",
)  # fmt: skip
def comem_walk(
    gamma: Float[np.ndarray, "cell gene"], G_V: Float[np.ndarray, "cell other"], G_E: Float[np.ndarray, "gene gene"],
    alpha: float, beta: float = 1.0, mu: float = 1.0, omega: Float[np.ndarray, " gene"] | None = None,
) -> Float[np.ndarray, "cell other"]:  # fmt: skip
    """Return the transition matrix; omega, if given, also weighs the remembered gene.

    A path that leads nowhere (a gene without co-expressed genes in the cell, or without cells near it) is not taken: the rest
    of the row is scaled up. Products of matrices: no four nested loops.
    """
    A_0 = preference(gamma, mu) if omega is None else _rows_to_one(preference(gamma, mu) * omega)
    A = preference(gamma, alpha)
    B = preference(gamma.T, beta)
    Q = (_divide(A_0, A @ G_E) @ G_E) * A
    return _rows_to_one((_divide(Q, G_V @ B.T) @ B) * G_V)


@equation(
    "diphw", "W6",
    meaning="walk that never stays where it is",
    latex=r"P'(v \to w) = \frac{P(v \to w)}{1 - P(v \to v)}, \qquad P'(v \to v) = 0",
    fidelity="inferred", source="ours, an option; the walks with memory are so by W4",
)  # fmt: skip
def without_staying(P: Float[np.ndarray, "cell other"]) -> Float[np.ndarray, "cell other"]:
    """Return P without its diagonal; a cell that leads to none but itself keeps an empty row."""
    rest = P - np.diag(np.diag(P))
    return _rows_to_one(np.where(rest.sum(axis=1, keepdims=True) > 1e-12, rest, 0.0))


@equation(
    "diphw", "E1",
    meaning="how often each cell is visited by walks from all cells, on average over the steps",
    latex=r"f = \frac{1}{T + 1} \sum_{t=0}^{T} \left(P^\top\right)^t \frac{\mathbf{1}}{N}",
    fidelity="inferred", source="expectation of the paper's schedule (T steps from every cell)",
)  # fmt: skip
def visits(P: Float[np.ndarray, "cell other"], T: int) -> Float[np.ndarray, " cell"]:
    """Return f, which sums to 1."""
    at = np.full(len(P), 1.0 / len(P))
    total = at.copy()
    for _ in range(T):
        at = P.T @ at
        total += at
    return total / (T + 1)


@equation(
    "diphw", "E2",
    meaning="how often a pair of cells is seen within the window, in expectation, in either order",
    latex=r"C = S + S^\top, \qquad S = \mathrm{diag}(f) \sum_{r=1}^{W} c_r P^r, "
    r"\qquad c_r = \frac{W - r + 1}{W}\,(T + 1 - r)",
    fidelity="inferred",
    source="expectation of skip-gram's pairs: its window is drawn anew for each word, a walk has T + 1 - r pairs r apart",
)  # fmt: skip
def cooccurrence(P: Float[np.ndarray, "cell other"], T: int, W: int) -> Float[np.ndarray, "cell other"]:
    """Return C for walks of T steps and a window of W, up to a factor common to all."""
    S = np.zeros_like(P)
    for c in window_weights(T, W)[::-1]:
        S = P @ (S + c * np.eye(len(P), dtype=P.dtype))
    S *= visits(P, T)[:, None]
    return S + S.T


@equation(
    "diphw", "E3",
    meaning="weight of a distance inside the window",
    latex=r"c_r = \frac{W - r + 1}{W}\,(T + 1 - r), \qquad r = 1, \ldots, W",
    fidelity="inferred", source="as E2",
)  # fmt: skip
def window_weights(T: int, W: int) -> Float[np.ndarray, " step"]:
    """Return c; distances that a walk of T steps does not reach weigh nothing."""
    r = np.arange(1, W + 1)
    return (W - r + 1) / W * np.maximum(T + 1 - r, 0)


@equation(
    "diphw", "E4",
    meaning="what skip-gram factorises: how much more often than by chance a pair is seen, where it is seen more often",
    latex=r"M_{ij} = \max\left(0, \log \frac{C_{ij} \sum_{kl} C_{kl}}{\sum_l C_{il} \sum_k C_{kj}}\right)",
    fidelity="inferred", source="Levy and Goldberg 2014 (positive pointwise mutual information)",
)  # fmt: skip
def positive_pmi(C: Float[np.ndarray, "cell other"]) -> Float[np.ndarray, "cell other"]:
    """Return M; a pair that is never seen has 0."""
    row, column = C.sum(axis=1, keepdims=True), C.sum(axis=0, keepdims=True)
    ratio = _divide(C, row) * (C.sum() / np.where(column > 0, column, 1.0))
    return np.log(np.maximum(ratio, 1.0))


@equation(
    "diphw", "E5",
    meaning="position of a cell: its row in the leading directions, at unit length",
    latex=r"M \approx U \Sigma V^\top, \qquad x_i = \frac{y_i}{\lVert y_i \rVert}, \qquad Y = U \Sigma^{1/2}",
    fidelity="inferred", source="ours, in the place of stochastic descent",
)  # fmt: skip
def positions(M: Float[np.ndarray, "cell other"], dim: int) -> Float[np.ndarray, "cell dim"]:
    """Return x from all singular values; the estimator computes the leading ones by a randomised method."""
    U, s, _ = np.linalg.svd(M, full_matrices=False)
    return unit_length(U[:, :dim] * np.sqrt(s[:dim]))


@equation(
    "diphw", "E6",
    meaning="rows at unit length",
    latex=r"x_i = y_i / \lVert y_i \rVert",
    fidelity="inferred", source="ours",
)  # fmt: skip
def unit_length(y: Float[np.ndarray, "row dim"]) -> Float[np.ndarray, "row dim"]:
    """Return y with rows of length 1; a row of zeros stays."""
    length = np.sqrt((y**2).sum(axis=1, keepdims=True))
    return _divide(y, length)


@equation(
    "diphw", "E7",
    meaning="share of the steps inside a cluster that a gene carries",
    latex=r"m_c(e) \propto \sum_{v \in c} f(v)\, P(e \mid v) \sum_{w \in c} P(w \mid e, v)",
    fidelity="inferred", source="ours: the gene of a step is part of the walk, so which genes hold a cluster together can be told",
)  # fmt: skip
def carried(
    f: Float[np.ndarray, " cell"], A: Float[np.ndarray, "cell gene"], B: Float[np.ndarray, "gene cell"],
    inside: Float[np.ndarray, " cell"],
) -> Float[np.ndarray, " gene"]:  # fmt: skip
    """Return m for walks of two factors (W1 to W3), where P(w | e, v) = B[e, w]; ``inside`` is 1 for cells of the cluster."""
    flow = ((f * inside) @ A) * (B @ inside)
    return flow / flow.sum() if flow.sum() > 0 else flow


def _divide(top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    """Divide, with 0 where the denominator is 0: nothing leads there."""
    top, bottom = np.broadcast_arrays(top, bottom)
    return np.divide(top, bottom, out=np.zeros_like(top), where=bottom > 0)


def _rows_to_one(weights: np.ndarray) -> np.ndarray:
    return _divide(weights, weights.sum(axis=1, keepdims=True))
