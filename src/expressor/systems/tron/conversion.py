"""From a table of orthologs to the conversion layer: which genes are joined, the weights at the start, matching."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError
from expressor.estimator.expression_models import ExpressionModel
from expressor.genes.ortholog_files import human_mouse, read_orthologs
from expressor.genes.orthologs import Bridge, Orthologs
from expressor.genes.vocab import GeneVocab
from expressor.nn.masked_linear import MaskedLinear
from expressor.systems.tron import equations

_ROWS = 1024  # observations converted at once


@dataclass(frozen=True, eq=False)
class Wiring:
    """The edges between genes of the target that are used and genes of the source.

    Attributes
    ----------
    source, target
        Genes of the source, and those genes of the target that have an edge, in alphabetical order.
    rows, columns
        Source gene and target gene of each edge, int64 (edge,), by source gene.
    confidence
        float32 (edge,), in (0, 1].
    """

    source: GeneVocab
    target: GeneVocab
    rows: np.ndarray
    columns: np.ndarray
    confidence: np.ndarray

    @classmethod
    def of(cls, bridge: Bridge) -> "Wiring":
        """Keep the edges of a bridge from source to target, and the genes of the target that they need."""
        table = sparse.coo_matrix(bridge.matrix)
        used, columns = np.unique(table.col, return_inverse=True)
        names = np.array(bridge.second.names, dtype=object)[used]
        order = np.lexsort((columns, table.row))
        return cls(bridge.first, GeneVocab(names, namespace="none"), table.row[order].astype(np.int64),
                   columns[order].astype(np.int64), table.data[order].astype(np.float32))  # fmt: skip

    @property
    def joined(self) -> np.ndarray:
        """Whether each source gene has an edge, bool (source gene,)."""
        return np.bincount(self.rows, minlength=len(self.source)) > 0

    def frame(self) -> pd.DataFrame:
        """Return one row an edge: ``source``, ``target``, ``confidence``."""
        return pd.DataFrame(
            {"source": np.array(self.source.names, dtype=object)[self.rows],
             "target": np.array(self.target.names, dtype=object)[self.columns], "confidence": self.confidence}
        )  # fmt: skip

    def layer(
        self, model: ExpressionModel, x: np.ndarray, *, weighted: bool, match: str, lost: str, **options: Any
    ) -> MaskedLinear:
        """Return the layer at its start.

        Parameters
        ----------
        model
            The source, for the means of its genes.
        x
            Expression of the target that matching goes by, (obs, target gene).
        weighted
            Whether confidence weighs the edges.
        match
            ``"none"``, ``"mean"`` or ``"moments"``.
        lost
            See :class:`expressor.nn.masked_linear.MaskedLinear`.
        options
            Further options of the layer.
        """
        if model.mean is None and (match != "none" or lost == "mean"):
            what = f"match={match!r}" if match != "none" else "lost='mean'"
            raise DataError(
                f"{what} needs the mean of each gene where the source was fitted, which the {model.name} does not tell",
                fix="Give them: expression_model(model, mean=..., spread=...); or match='none' and lost='learned'.",
            )
        confidence = torch.from_numpy(self.confidence) if weighted else None
        offset = np.zeros(len(self.source)) if model.mean is None else np.where(self.joined, 0.0, model.mean)
        layer = MaskedLinear(
            torch.from_numpy(self.rows), torch.from_numpy(self.columns), (len(self.source), len(self.target)),
            confidence=confidence, offset=torch.from_numpy(offset.astype(np.float32)), lost=lost, **options,
        )  # fmt: skip
        if match != "none":
            converted = convert(layer.eval(), x)
            factor, offset = equations.match(
                np.asarray(model.mean), np.asarray(model.spread), converted.mean(axis=0, dtype=np.float64),
                converted.std(axis=0, dtype=np.float64), self.joined, moments=match == "moments",
            )  # fmt: skip
            layer.rescale(torch.from_numpy(factor.astype(np.float32)), torch.from_numpy(offset.astype(np.float32)))
        return layer


def convert(layer: MaskedLinear, x: np.ndarray) -> np.ndarray:
    """Return converted expression, float32 (obs, source gene)."""
    with torch.no_grad():
        parts = [layer(torch.from_numpy(x[i : i + _ROWS])).numpy() for i in range(0, len(x), _ROWS)]
    return np.concatenate(parts) if parts else np.empty((0, layer.shape[0]), dtype=np.float32)


def answer(layer: MaskedLinear, model: ExpressionModel, x: np.ndarray) -> np.ndarray:
    """Return what the model makes of converted expression, float64 (obs, output), some observations at a time."""
    parts = [model.predict(convert(layer, x[i : i + _ROWS])) for i in range(0, len(x), _ROWS)]
    return np.concatenate(parts) if parts else np.empty((0, len(model.outputs)))


def steepness(model: ExpressionModel, converted: np.ndarray) -> np.ndarray | None:
    """Return the gradient of each observation's largest output by the converted genes, (obs, source gene); None if none is."""
    if model.network is None:
        return None
    x = torch.from_numpy(converted).requires_grad_()
    model.network(x).max(dim=1).values.sum().backward()
    return x.grad.numpy()  # type: ignore[union-attr]


def edge_table(wiring: Wiring, layer: MaskedLinear, model: ExpressionModel, x: np.ndarray) -> pd.DataFrame:
    """Return one row an edge: the genes, confidence, weight at the start and now, importance on the observations ``x``."""
    weight = layer.edge_weights().detach().numpy()
    start = (layer.start * layer.confidence).numpy()
    matrix = sparse.csr_matrix((weight.astype(np.float64), (wiring.rows, wiring.columns)), shape=layer.shape)
    gradient = steepness(model, convert(layer, x))
    if gradient is None:
        gradient = np.ones((len(x), layer.shape[0]), dtype=np.float32)
    table = wiring.frame()
    # A weight of exactly 0 must stay an entry, so that the order of edges is kept.
    matrix.data = np.where(matrix.data == 0, 1e-30, matrix.data)
    found = equations.importance(matrix, x.astype(np.float64), gradient.astype(np.float64))
    return table.assign(start=start, weight=weight, change=weight - start, importance=found)


def labelled(wiring: Wiring, layer: MaskedLinear) -> AnnData:
    """Return the conversion as a labelled sparse matrix: ``X`` (source gene, target gene), ``obs["constant"]``, three layers."""

    def matrix(values: np.ndarray) -> sparse.csr_matrix:
        return sparse.csr_matrix((values.astype(np.float32), (wiring.rows, wiring.columns)), shape=layer.shape)

    obs = pd.DataFrame({"constant": layer.bias.detach().numpy(), "joined": wiring.joined}, index=list(wiring.source))
    start = (layer.start * layer.confidence).numpy()
    return AnnData(
        matrix(layer.edge_weights().detach().numpy()), obs=obs, var=pd.DataFrame(index=list(wiring.target)),
        layers={"start": matrix(start), "confidence": matrix(wiring.confidence)},
    )  # fmt: skip


def read_table(orthologs: Any, species: tuple[str, str]) -> Orthologs:
    """Return the table of orthologs with the source species first.

    Parameters
    ----------
    orthologs
        A table, the path of one, ``"human_mouse"`` (the shipped one), a name that
        :func:`expressor.datasets.human_mouse_orthologs` knows, or ``"simulated"``.
    species
        Names of source and target.

    Raises
    ------
    DataError
        There is no such table, or it is of other species.
    """
    if isinstance(orthologs, Orthologs):
        return orthologs.from_to(*species)
    if orthologs == "human_mouse":
        return human_mouse().from_to(*species)
    if orthologs == "simulated":
        from expressor.datasets.species import simulate_species

        return simulate_species().orthologs.from_to(*species)
    from expressor.datasets.crossspecies import ORTHOLOGS, human_mouse_orthologs

    if isinstance(orthologs, str) and orthologs in ORTHOLOGS:
        return human_mouse_orthologs(orthologs).from_to(*species)
    if isinstance(orthologs, str | Path) and Path(orthologs).is_file():
        return read_orthologs(orthologs, species=species)
    raise DataError(
        f"there is no table of orthologs {orthologs!r}"[:200],
        expected="an Orthologs, the path of a table, or one of "
        + ", ".join(map(repr, ["human_mouse", *ORTHOLOGS, "simulated"])),
        fix="A loaded model is fitted anew with its table given again." if isinstance(orthologs, dict) else "",
    )


def describe_table(orthologs: Any) -> Any:
    """Return what stands for a table of orthologs among the parameters: its path or name, or its species and size."""
    if isinstance(orthologs, Orthologs):
        return {"species": list(orthologs.species), "n_pairs": len(orthologs)}
    return str(orthologs) if isinstance(orthologs, Path) else orthologs
