"""From probes to genes: which gene a probe measures, which probes are above the background, which one stands for its gene.

The steps and their defaults are those of Arnatkeviciute, Fulcher and Fornito, NeuroImage 189, 353 (2019), and of Markello et al.,
eLife 10, e72129 (2021).
"""

from collections.abc import Sequence
from itertools import combinations

import numpy as np
import pandas as pd
from scipy.stats import rankdata

from expressor.core.errors import DataError, check_choice, check_range

SELECTIONS = (
    "diff_stability", "max_intensity", "max_variance", "pc_loading", "corr_variance", "corr_intensity", "rnaseq",
    "average",
)  # fmt: skip
"""``diff_stability``: most alike between donors, by the mean Spearman correlation over structures; ``max_intensity``,
``max_variance``: of all samples; ``pc_loading``: highest score on the first component of the gene's probes;
``corr_variance``, ``corr_intensity``: most correlated with the gene's other probes (of two probes: the one of higher variance or
intensity); ``rnaseq``: most alike its gene's RNA sequencing, by the mean over donors of the Spearman correlation over structures;
genes that were not sequenced are dropped; ``average``: the mean of all probes of the gene."""


def reannotate(probes: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Return the probes that ``table`` knows and gives an Entrez id, with its genes.

    Parameters
    ----------
    probes
        Index ``probe_id``, column ``probe_name``.
    table
        Columns ``probe_name``, ``gene_symbol``, ``entrez_id``.

    Returns
    -------
    pandas.DataFrame
        Rows of ``probes`` in their order, columns ``probe_name``, ``gene_symbol``, ``entrez_id``.

    Raises
    ------
    DataError
        A column is missing, a probe stands twice in the table, or none is known.
    """
    for name in ("probe_name", "gene_symbol", "entrez_id"):
        if name not in table:
            raise DataError(f"the table of reannotated probes has no column {name!r}")
    if table["probe_name"].duplicated().any():
        raise DataError("the table of reannotated probes has a probe twice",
                        got=repr(table["probe_name"][table["probe_name"].duplicated()].iloc[0]))  # fmt: skip
    known = table.dropna(subset=["entrez_id"]).set_index("probe_name")
    kept = probes[["probe_name"]][probes["probe_name"].isin(known.index)].copy()
    if kept.empty:
        raise DataError("no probe is in the table of reannotated probes", expected=f"names such as {table['probe_name'].iloc[0]!r}",
                        got=repr(probes["probe_name"].iloc[0]))  # fmt: skip
    for name in ("gene_symbol", "entrez_id"):
        kept[name] = known.loc[kept["probe_name"], name].to_numpy()
    return kept


def above_background(present: list[np.ndarray], threshold: float) -> np.ndarray:
    """Return which probes are above the background in at least a share ``threshold`` of all samples, bool (probe,).

    ``present``: bool (probe, sample) of each donor.
    """
    check_range(threshold, name="intensity", low=0, high=1)
    seen = np.sum([one.sum(axis=1) for one in present], axis=0)
    return seen / sum(one.shape[1] for one in present) >= threshold


def stability(expression: list[np.ndarray], structures: list[np.ndarray]) -> np.ndarray:
    """Return how alike each probe's map is between donors, float64 (probe,): its differential stability.

    Parameters
    ----------
    expression
        (probe, sample) of each donor, two at least.
    structures
        (sample,) the structure of each sample.

    Returns
    -------
    numpy.ndarray
        Mean over pairs of donors of the Spearman correlation over the structures both have, from -1 to 1.

    Raises
    ------
    DataError
        One donor, or two that share fewer than three structures.
    """
    if len(expression) < 2:
        raise DataError("the stability of probes needs two donors", got=len(expression),
                        fix="Use another probe_selection, such as 'max_intensity', or more donors.")  # fmt: skip
    means = [_mean_by_structure(values, structure) for values, structure in zip(expression, structures)]
    agreement = []
    for (one, first), (other, second) in combinations(means, 2):
        shared, left, right = np.intersect1d(one, other, return_indices=True)
        if len(shared) < 3:
            raise DataError("two donors share too few structures", expected="at least 3", got=len(shared))
        agreement.append(_correlate(rankdata(first[:, left], axis=1), rankdata(second[:, right], axis=1)))
    return np.mean(agreement, axis=0)


def agreement_with_rna(
    expression: list[np.ndarray],
    structures: list[np.ndarray],
    genes: np.ndarray,
    rnaseq: Sequence[pd.DataFrame | None],
) -> np.ndarray:
    """Return how alike each probe's map is to its gene's RNA sequencing, float64 (probe,).

    Parameters
    ----------
    expression, structures
        As for :func:`stability`; one donor will do.
    genes
        (probe,) the gene of each probe.
    rnaseq
        Of each donor a table gene by structure, or None where the donor was not sequenced.

    Returns
    -------
    numpy.ndarray
        Mean over the sequenced donors of the Spearman correlation over the structures that both have, from -1 to 1; NaN for a
        gene that was not sequenced or is constant.

    Raises
    ------
    DataError
        Microarrays and sequencing of a donor share fewer than three structures.
    """
    total, count = np.zeros(len(genes)), np.zeros(len(genes))
    for values, structure, table in zip(expression, structures, rnaseq):
        if table is None:
            continue
        names, means = _mean_by_structure(values, structure)
        shared, left, right = np.intersect1d(names, table.columns.to_numpy(), return_indices=True)
        if len(shared) < 3:
            raise DataError(
                "microarrays and RNA sequencing share too few structures", expected="at least 3", got=len(shared)
            )
        row = table.index.get_indexer(pd.Index(genes))
        rna = table.to_numpy(dtype=np.float64)[:, right]
        known = (row >= 0) & (np.ptp(rna, axis=1)[row] > 0)
        total[known] += _correlate(rankdata(means[known][:, left], axis=1), rankdata(rna[row[known]], axis=1))
        count[known] += 1
    with np.errstate(invalid="ignore"):
        return np.where(count > 0, total / np.maximum(count, 1), np.nan)


def select(
    expression: list[np.ndarray], genes: np.ndarray, *, method: str, structures: list[np.ndarray],
    rnaseq: Sequence[pd.DataFrame | None] = (),
) -> tuple[list[np.ndarray], pd.DataFrame]:  # fmt: skip
    """Return one row a gene.

    Parameters
    ----------
    expression
        (probe, sample) of each donor.
    genes
        (probe,) the gene of each probe.
    method
        One of :data:`SELECTIONS`.
    structures
        (sample,) of each donor, for ``"diff_stability"`` and ``"rnaseq"``.
    rnaseq
        As for :func:`agreement_with_rna`, for ``"rnaseq"``.

    Returns
    -------
    tuple
        (gene, sample) of each donor, genes in alphabetical order; and a table, index gene: ``row`` of the chosen probe (-1 for
        the average), ``probes``, how many the gene had, and ``score`` by which it was chosen (NaN where one probe had no rival and
        the method scores none).
    """
    check_choice(method, SELECTIONS, name="probe_selection")
    score = None
    if method == "diff_stability":
        score = stability(expression, structures)
    elif method == "rnaseq":
        score = agreement_with_rna(expression, structures, genes, rnaseq)
    elif method != "average":
        joined = np.concatenate(expression, axis=1, dtype=np.float64)
        score = joined.mean(axis=1) if method == "max_intensity" else joined.std(axis=1, ddof=1)
    usable = np.arange(len(genes)) if method != "rnaseq" or score is None else np.flatnonzero(np.isfinite(score))
    if not len(usable):
        raise DataError("no gene of the microarrays was sequenced", got=f"genes such as {genes[0]!r}",
                        fix="Check that both name genes by the same symbols.")  # fmt: skip
    names, rows = np.unique(genes[usable], return_inverse=True)
    members = np.split(usable[np.argsort(rows, kind="stable")], np.cumsum(np.bincount(rows))[:-1])
    chosen, scores = [], []
    for mine in members:
        if method == "average":
            of_gene = np.zeros(1)
        elif method in ("pc_loading", "corr_variance", "corr_intensity"):
            of_gene = _rank_among(joined[mine], method)
        else:
            of_gene = score[mine]  # type: ignore[index]
        best = int(np.argmax(of_gene))
        chosen.append(-1 if method == "average" else mine[best])
        scores.append(
            np.nan
            if method == "average" or (len(mine) == 1 and "_" in method and method[:3] in ("cor", "pc_"))
            else of_gene[best]
        )
    table = pd.DataFrame({"row": chosen, "probes": [len(one) for one in members], "score": scores}, index=names)
    if method == "average":
        return [np.stack([one[mine].mean(axis=0) for mine in members]) for one in expression], table
    return [one[chosen] for one in expression], table


def _rank_among(values: np.ndarray, method: str) -> np.ndarray:
    """Score the probes (probe, sample) of one gene; the highest is taken."""
    if len(values) == 1:
        return np.zeros(1)
    if method == "pc_loading":
        centred = values - values.mean(axis=0)
        axis = np.linalg.svd(centred, full_matrices=False)[2][0]
        return centred @ (axis * np.sign(axis[np.abs(axis).argmax()]))
    if len(values) > 2:
        return np.corrcoef(values).mean(axis=1)
    return values.std(axis=1) if method == "corr_variance" else values.mean(axis=1)


def _mean_by_structure(values: np.ndarray, structure: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the structures, sorted, and means over their samples, float64 (probe, structure)."""
    names, which = np.unique(structure, return_inverse=True)
    member = np.zeros((len(structure), len(names)))
    member[np.arange(len(structure)), which] = 1 / np.bincount(which)[which]
    return names, values.astype(np.float64) @ member


def _correlate(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Pearson correlation of each row of ``x`` with that of ``y``; 0 for a constant row."""
    x, y = x - x.mean(axis=1, keepdims=True), y - y.mean(axis=1, keepdims=True)
    size = np.sqrt((x**2).sum(axis=1) * (y**2).sum(axis=1))
    return np.divide((x * y).sum(axis=1), size, out=np.zeros(len(x)), where=size > 0)
