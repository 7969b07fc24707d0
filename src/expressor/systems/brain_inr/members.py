"""What answers for a place: nearest samples, a Gaussian process, or a network. All speak in standard scores."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from scipy.spatial import cKDTree
from torch import Tensor

from expressor.core.errors import DataError
from expressor.nn.fields import FourierField, Siren
from expressor.nn.gp import GaussianProcess
from expressor.systems.brain_inr.equations import gene_values, inverse_distance_weights
from expressor.systems.brain_inr.inputs import Query

_APART_MM = 1e4  # between samples whose conditions differ, so that none of them is another's neighbour
_CHUNK = 2048  # places answered at once


@runtime_checkable
class Member(Protocol):
    """What every field can do."""

    def predict(self, query: Query, genes: np.ndarray | None = None, vectors: np.ndarray | None = None) -> np.ndarray:
        """Return float32 (point, gene): all genes, those at positions ``genes``, or new ones with ``vectors``."""
        ...

    def spread(self, query: Query) -> np.ndarray | None:
        """Return the member's own standard deviation of a new measurement, (point,), or None if it has none."""
        ...

    def tensors(self) -> dict[str, Tensor]:
        """Return what is to be kept."""
        ...


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The mean of the nearest samples of the same conditions, weighed by distance to the power of minus ``power``."""

    points: np.ndarray
    values: np.ndarray
    neighbours: int
    power: float

    @classmethod
    def of(cls, query: Query, values: np.ndarray, *, mirrored: bool, neighbours: int, power: float) -> "Neighbours":
        """Keep the samples, and their mirror images where the space is symmetric."""
        points = _points(query)
        if mirrored:
            points = np.concatenate([points, points * np.r_[-1.0, np.ones(points.shape[1] - 1)]])
            values = np.concatenate([values, values])
        return cls(points, values.astype(np.float32), neighbours, power)

    def predict(self, query: Query, genes: np.ndarray | None = None, vectors: np.ndarray | None = None) -> np.ndarray:
        """Return the weighed mean."""
        _refuse(vectors, "nearest samples")
        values = self.values if genes is None else self.values[:, genes]
        tree, k = cKDTree(self.points), min(self.neighbours, len(self.points))
        found = np.empty((len(query), values.shape[1]), dtype=np.float32)
        points = _points(query)
        for start in range(0, len(query), _CHUNK):
            rows = slice(start, start + _CHUNK)
            d, near = tree.query(points[rows], k=k, workers=torch.get_num_threads())
            d, near = d.reshape(-1, k), near.reshape(-1, k)
            w = inverse_distance_weights(d, self.power).astype(np.float32)
            found[rows] = np.matmul(w[:, None, :], values[near])[:, 0]
        return found

    def spread(self, query: Query) -> np.ndarray | None:
        """Return None."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Return points and values."""
        return {"points": torch.from_numpy(self.points), "values": torch.from_numpy(self.values),
                "settings": torch.tensor([self.neighbours, self.power], dtype=torch.float64)}  # fmt: skip

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Neighbours":
        """Rebuild from what :meth:`tensors` returned."""
        k, power = tensors["settings"].tolist()
        return cls(tensors["points"].numpy(), tensors["values"].numpy(), int(k), float(power))


def _points(query: Query) -> np.ndarray:
    """Places, followed by conditions so far apart that samples of other ones are no neighbours."""
    if not query.conditions.shape[1]:
        return query.places
    nearest = np.rint(query.conditions.astype(np.float64))
    return np.concatenate([query.places, _APART_MM * nearest], axis=1)


@dataclass(frozen=True, eq=False)
class Process:
    """A Gaussian process of folded places in mm and of conditions."""

    process: GaussianProcess

    @staticmethod
    def points(query: Query) -> Tensor:
        """Return what the kernel sees."""
        return torch.from_numpy(np.concatenate([query.folded, query.conditions.astype(np.float64)], axis=1))

    def predict(self, query: Query, genes: np.ndarray | None = None, vectors: np.ndarray | None = None) -> np.ndarray:
        """Return the posterior mean."""
        _refuse(vectors, "a Gaussian process")
        columns = None if genes is None else torch.from_numpy(genes)
        return self.process.predict(self.points(query), columns).numpy().astype(np.float32)

    def spread(self, query: Query) -> np.ndarray | None:
        """Return the standard deviation of function and noise."""
        return self.process.variance(self.points(query)).sqrt().numpy()

    def tensors(self) -> dict[str, Tensor]:
        """Return the process's tensors."""
        return self.process.tensors()

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> "Process":
        """Rebuild from what :meth:`tensors` returned."""
        return cls(GaussianProcess.from_tensors(tensors))


@dataclass(frozen=True, eq=False)
class FourierMember:
    """A network that gives all genes at once."""

    module: FourierField

    @torch.no_grad()
    def predict(self, query: Query, genes: np.ndarray | None = None, vectors: np.ndarray | None = None) -> np.ndarray:
        """Return the trunk's answer for each place, times the genes' vectors."""
        module = self.module.eval()
        v, b = module.gene_vectors(None if vectors is None else torch.from_numpy(vectors))
        if genes is not None and vectors is None:
            rows = torch.from_numpy(genes)
            v, b = v[rows], b[rows]
        parts = [
            gene_values(module.trunk(*_tensors(query.take(slice(start, start + _CHUNK)))), v, b)
            for start in range(0, len(query), _CHUNK)
        ]
        return torch.cat(parts).numpy()

    def spread(self, query: Query) -> np.ndarray | None:
        """Return None."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Return the network's weights."""
        return self.module.state_dict()


@dataclass(frozen=True, eq=False)
class SirenMember:
    """A network that is asked for one gene at a time, whose numbers are among its inputs."""

    module: Siren
    inputs: Tensor

    @torch.no_grad()
    def predict(self, query: Query, genes: np.ndarray | None = None, vectors: np.ndarray | None = None) -> np.ndarray:
        """Return the network's answer for each pair of place and gene."""
        inputs = self.inputs if vectors is None else torch.from_numpy(vectors)
        inputs = inputs if genes is None or vectors is not None else inputs[torch.from_numpy(genes)]
        module = self.module.eval()
        found = np.empty((len(query), len(inputs)), dtype=np.float32)
        for start in range(0, len(query), _CHUNK):
            rows = slice(start, start + _CHUNK)
            x = torch.cat(_tensors(query.take(rows)), dim=1)
            for i, one in enumerate(inputs):
                found[rows, i] = module(torch.cat([x, one.expand(len(x), -1)], dim=1))[:, 0].numpy()
        return found

    def spread(self, query: Query) -> np.ndarray | None:
        """Return None."""
        return None

    def tensors(self) -> dict[str, Tensor]:
        """Return the network's weights."""
        return self.module.state_dict()


def _tensors(query: Query) -> tuple[Tensor, Tensor]:
    return torch.from_numpy(query.scaled), torch.from_numpy(query.conditions)


def _refuse(vectors: Any, what: str) -> None:
    if vectors is not None:
        raise DataError(
            f"{what} cannot be asked for genes that were never measured",
            fix='Use field="fourier" with gene="varm:NAME".',
        )
