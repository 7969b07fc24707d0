"""The equations of TRON. Only the abstract was read: it says in words what I1 says in symbols; the rest is ours.

Rows are genes of the source, columns genes of the target.
"""

import numpy as np
from jaxtyping import Bool, Float
from scipy import sparse

from expressor.core.equations import equation


@equation(
    "tron", "I1",
    meaning="species conversion: expression of the target species in the gene space of the source",
    latex=r"c = (W \circ M)\,x + b, \qquad M_{ij} = 1 \text{ if genes } i \text{ and } j \text{ are orthologs, else } 0",
    fidelity="inferred", source="the abstract says it in words: a linear layer whose weights the biadjacency matrix masks",
)  # fmt: skip
def convert(
    x: Float[np.ndarray, "cell column"],
    W: Float[np.ndarray, "row column"],
    M: Float[np.ndarray, "row column"],
    b: Float[np.ndarray, " row"],
) -> Float[np.ndarray, "cell row"]:
    """Return c for every cell. Dense, for checking: the layer itself keeps the edges alone."""
    return np.asarray(x @ (W * M).T + b)


@equation(
    "tron", "I2",
    meaning="weights at the start: a source gene is the mean of its orthologs, weighted by confidence",
    latex=r"W^0_{ij} = \frac{1}{\sum_k M_{ik}}",
    fidelity="inferred", source="ours: one-to-one orthologs start as the identity",
)  # fmt: skip
def start_weights(M: Float[np.ndarray, "row column"]) -> Float[np.ndarray, "row column"]:
    """Return W at the start, 0 where there is no edge; M holds confidences in (0, 1], or 1."""
    total = M.sum(axis=1, keepdims=True)
    return np.where(M > 0, 1.0 / np.where(total > 0, total, 1.0), 0.0)


@equation(
    "tron", "I3",
    meaning="matching: converted genes get the mean, or mean and spread, that they had in the source's training data",
    latex=r"c_i \leftarrow \mu_i + a_i\,(c_i - \bar c_i), \qquad a_i = 1 \text{ or } \sigma_i / s_i",
    fidelity="inferred", source="ours: species and laboratories differ in the level of each gene",
)  # fmt: skip
def match(
    mean: Float[np.ndarray, " row"],
    spread: Float[np.ndarray, " row"],
    converted_mean: Float[np.ndarray, " row"],
    converted_spread: Float[np.ndarray, " row"],
    joined: Bool[np.ndarray, " row"],
    *,
    moments: bool,
    most: float = 4.0,
) -> tuple[Float[np.ndarray, " row"], Float[np.ndarray, " row"]]:
    """Return the factor a, kept within 1 / ``most`` and ``most``, and the offset b that do it; genes without edges get a = 1."""
    floor = 1e-3
    ratio = (spread + floor) / (converted_spread + floor) if moments else np.ones_like(spread)
    a = np.where(joined, np.clip(ratio, 1.0 / most, most), 1.0)
    return a, np.where(joined, mean - a * converted_mean, mean)


@equation(
    "tron", "I4",
    meaning="what is minimised: the source's loss on labelled target cells, a pull to the start, and a lasso on the edges",
    latex=r"L = \ell(y, f(c)) + \lambda \sum_e (w_e - w^0_e)^2 + \gamma \sum_e |w_e|",
    fidelity="inferred", source="ours: a few cells cannot fix thousands of edges",
)  # fmt: skip
def objective(
    loss: float, w: Float[np.ndarray, " edge"], start: Float[np.ndarray, " edge"], pull: float, l1: float
) -> float:
    """Return L."""
    return float(loss + pull * np.square(w - start).sum() + l1 * np.abs(w).sum())


@equation(
    "tron", "I5",
    meaning="importance of an edge: how much its signal moves the predicted output, first order, averaged over cells",
    latex=r"I_e = \frac{1}{n} \sum_n \left| w_e M_e\,(x_{nj} - \bar x_j)\,\frac{\partial y_n}{\partial c_{ni}} \right|",
    fidelity="inferred", source="ours: gradient times input, on edges",
)  # fmt: skip
def importance(
    weight: Float[np.ndarray, "row column"] | sparse.csr_matrix,
    x: Float[np.ndarray, "cell column"],
    gradient: Float[np.ndarray, "cell row"],
) -> Float[np.ndarray, " edge"]:
    """Return I of each stored entry (i, j) of ``weight`` (W times M), float64 (edge,), in the order of CSR."""
    table = sparse.csr_matrix(weight).tocoo()
    centred = np.abs(x - x.mean(axis=0))
    steep = np.abs(gradient)
    found = np.zeros(table.nnz)
    for first in range(0, table.nnz, 4096):
        part = slice(first, first + 4096)
        found[part] = np.einsum("ne,ne->e", centred[:, table.col[part]], steep[:, table.row[part]])
    return found * np.abs(table.data) / len(x)
