"""The estimator: parameters, fit, and maps of what was fitted."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, GeneError, check_choice, check_range, nearest_names
from expressor.data import keys
from expressor.data.brainspace import Grid, brain_grid, check_places, read_grid, write_maps
from expressor.data.parcels import Parcellation, check_parcellation
from expressor.data.surfaces import read_vertices
from expressor.estimator.base import Estimator, State
from expressor.estimator.roles import Maps
from expressor.genes.vocab import GeneVocab
from expressor.systems.brain_inr import asking, storage
from expressor.systems.brain_inr.calibration import ONE_SD
from expressor.systems.brain_inr.fitting import FieldFit, history_of
from expressor.systems.brain_inr.genes import SUPPLIED
from expressor.systems.brain_inr.inputs import (
    CONDITIONS,
    Samples,
    check_given,
    read_given,
    read_places,
    read_samples,
    space_of,
)
from expressor.systems.brain_inr.judging import judge_map
from expressor.systems.brain_inr.training import SCHEDULES
from expressor.systems.brain_inr.wording import methods_paragraph
from expressor.train.plan import TrainPlan

FIELDS = ("fourier", "siren", "knn", "idw", "gp", "ensemble")
_GENES = 256  # genes of a volume that are in memory at once


def _default_plan() -> TrainPlan:
    return TrainPlan(lr=3e-3, weight_decay=0.01, batch_size=512, epochs=60, patience=None)


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class BrainINR(Estimator, Maps):
    """Map expression to any place from sparse samples.

    Parameters
    ----------
    field
        ``"fourier"``: networks of Fourier features that give all genes at once. ``"siren"``: the paper's network of sines, asked
        for one gene at a time. ``"knn"``, ``"idw"``: the nearest samples, plainly or by inverse distance (as abagen's dense map).
        ``"gp"``: a Gaussian process with a Matern-3/2 kernel. ``"ensemble"``: the mean of a process and of Fourier networks.
    teacher
        Of ``"fourier"``. ``"ensemble"``: one network answers, which was taught by what ``field="ensemble"`` says around the
        samples: nearly as good, and much quicker to ask. ``"none"``: the mean of the networks of the folds answers. ``"auto"``:
        a teacher for up to 1,000 genes whose vectors are learnt, else none.
    gene
        What a network knows of a gene: ``"table"``, a vector that it learns (``"fourier"`` only); ``"scalar"``, the paper's place
        in the spectral order, encoded; ``"spectral"``, ``gene_dim`` spectral coordinates; ``"varm:NAME"``, vectors that the data
        bring, so that genes that were never measured can be asked for.
    gene_dim
        Spectral coordinates, >= 1.
    conditions
        What a field knows of a place beside its coordinates: some of ``"tissue"`` (probability of grey and white matter; one code
        in the paper's network) and ``"slab"`` (cortex, cerebellum, brainstem); ``"auto"``: those that the data have.
    symmetry
        ``"fold"``: ``abs(x)`` instead of ``x``, so that both sides are one; ``"mirror"``: every sample again on the other side;
        ``"none"``; ``"auto"``: ``"fold"`` in MNI152, else ``"none"``.
    donor
        ``"pooled"``: one field of all donors, each on a scale of its own. ``"separate"``: a field a donor, averaged, as in the
        paper.
        ``"ignore"``: donors are not told apart.
    held_out
        What is held out to stop on and to learn the width of intervals: ``"blocks"`` of 20 mm, ``"donors"`` or ``"samples"``.
    folds
        Parts that are held out in turn, each by a network of its own, >= 2; 0 holds out nothing and gives no intervals.
    frequencies, bandwidth
        Fourier features, >= 1, and the standard deviation of their frequencies in cycles per 75 mm (half the length of another
        space), > 0.
    width, depth
        Of a network, >= 1.
    omega
        Frequency of the sines, > 0.
    dropout
        In [0, 1); of ``"fourier"``.
    neighbours
        Samples of ``"knn"`` and ``"idw"``, >= 1.
    inducing
        Inducing points of ``"gp"`` beyond 4,000 samples, >= 1.
    steps
        Steps an epoch, >= 1.
    schedule
        ``"one_cycle"``, or ``"steps"``: the step size times .9 every 1,000 steps, as in the paper.
    plan
        Training of the networks.
    random_state
        Seed, >= 0.

    Attributes
    ----------
    space_, unit_
        Space of the places, and scale of the expression.
    donors_
        Donors of the fit.
    history_
        One row an epoch of each network, or one a field: ``held_out_mse`` in standard scores.
    """

    field: Literal["fourier", "siren", "knn", "idw", "gp", "ensemble"] = "fourier"
    teacher: Literal["auto", "ensemble", "none"] = "auto"
    gene: str = "table"
    gene_dim: int = 8
    conditions: Literal["auto"] | tuple[str, ...] = "auto"
    symmetry: Literal["auto", "fold", "mirror", "none"] = "auto"
    donor: Literal["pooled", "separate", "ignore"] = "pooled"
    held_out: Literal["blocks", "donors", "samples"] = "blocks"
    folds: int = 5
    frequencies: int = 64
    bandwidth: float = 0.3
    width: int = 128
    depth: int = 2
    omega: float = 30.0
    dropout: float = 0.1
    neighbours: int = 10
    inducing: int = 1000
    steps: int = 10
    schedule: Literal["one_cycle", "steps"] = "one_cycle"
    plan: TrainPlan = dataclasses.field(default_factory=_default_plan)
    random_state: int = 0

    def _check(self) -> None:
        check_choice(self.field, FIELDS, name="field")
        check_choice(self.teacher, ("auto", "ensemble", "none"), name="teacher")
        if self.teacher == "ensemble" and (self.field != "fourier" or self.gene != "table"):
            raise DataError("a teacher is of field='fourier' with gene='table'",
                            got=f"field={self.field!r}, gene={self.gene!r}",
                            fix='Use teacher="auto" or "none".')  # fmt: skip
        check_choice(self.symmetry, ("auto", "fold", "mirror", "none"), name="symmetry")
        check_choice(self.donor, ("pooled", "separate", "ignore"), name="donor")
        check_choice(self.held_out, ("blocks", "donors", "samples"), name="held_out")
        check_choice(self.schedule, SCHEDULES, name="schedule")
        if not self.gene.startswith(SUPPLIED):
            check_choice(self.gene, ("table", "scalar", "spectral"), name="gene")
        if self.field == "siren" and self.gene == "table":
            raise DataError(
                "a network of sines is told the gene by numbers", fix='Use gene="scalar", "spectral" or "varm:NAME".'
            )
        if self.conditions != "auto":
            if isinstance(self.conditions, str):
                raise DataError(
                    "conditions are several names", got=repr(self.conditions), fix=f"Write ({self.conditions!r},)."
                )
            for one in self.conditions:
                check_choice(one, CONDITIONS, name="conditions")
        for name, low in (("gene_dim", 1), ("folds", 0), ("frequencies", 1), ("width", 1), ("depth", 1), ("neighbours", 1),
                          ("inducing", 1), ("steps", 1), ("random_state", 0)):  # fmt: skip
            check_range(getattr(self, name), name=name, low=low, integer=True)
        if self.folds == 1:
            raise DataError("one fold holds nothing out", expected="folds of 0, or at least 2", got=1)
        if self.donor != "pooled" and self.held_out == "donors" and self.folds:
            raise DataError(f"donors cannot be held out with donor={self.donor!r}", fix='Use held_out="blocks".')
        check_range(self.bandwidth, name="bandwidth", low=0, open_low=True)
        check_range(self.omega, name="omega", low=0, open_low=True)
        check_range(self.dropout, name="dropout", low=0, high=1, open_high=True)
        self.plan.check()

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        genes = sorted(map(str, adata.var_names))
        self.space_, self.unit_ = space_of(adata), str(adata.uns.get(keys.UNIT, "as given"))
        samples = read_samples(adata, genes, donors=self.donor != "ignore")
        judge = np.zeros(len(samples.places), dtype=bool)
        if val is not None:
            more = read_samples(val, genes, donors=self.donor != "ignore", space=self.space_)
            samples = Samples.join(samples, more)
            judge = np.arange(len(samples.places)) >= len(judge)
        self.donors_ = tuple(sorted(set(samples.donors)))
        groups: list[tuple[str, np.ndarray]] = [("", np.ones(len(judge), dtype=bool))]
        if self.donor == "separate":
            groups = [(f"{one}/", samples.donors == one) for one in self.donors_]
        fields, records = [], []
        for phase, rows in groups:
            fit = FieldFit(self, adata, samples.take(np.flatnonzero(rows)), self.space_, genes, phase, resume)
            fields.append(fit.run(judge[rows] if val is not None else None))
            records += fit.history
        self._fields, self.history_, self.genes_in_ = tuple(fields), history_of(records), GeneVocab(genes)

    # Using -----------------------------------------------------------------------------------------------------------

    def at(
        self, coords: Any, genes: Sequence[str] | None = None, *, given: pd.DataFrame | None = None,
        donor: str | None = None, vectors: Any = None,
    ) -> np.ndarray:  # fmt: skip
        """Return expression at places.

        Parameters
        ----------
        coords
            (point, 3) in the space of the fit; mm of MNI152 for a brain.
        genes
            Genes of the fit, in the order wanted; all, in the order of ``genes_in_``, by default.
        given
            What is known of each place: columns ``grey``, ``white``, ``slab``. What is absent is derived: tissue from the template
            of MNI152, or from the nearest samples elsewhere; the slab from a boundary between the samples of each.
        donor
            Expression on the scale of one donor of the fit; on the mean of their scales by default.
        vectors
            (gene, dim): vectors of genes that were not in the fit, asked for instead of ``genes``; they are given in standard
            scores, because the scale of a gene that was never measured is not known.

        Returns
        -------
        float32 (point, gene), on the scale of the fit.

        Raises
        ------
        DataError
            Coordinates that are not finite or cannot be of the space, or vectors that do not fit.
        GeneError
            A gene was not in the fit.
        """
        places, given = self._asked(coords, given)
        if vectors is None:
            return asking.values(self._fields, places, given, self._columns(genes), donor)
        if genes is not None:
            raise DataError("genes and vectors were given", fix="Give one of them.")
        return asking.scores(self._fields, places, given, vectors)

    def at_interval(
        self, coords: Any, genes: Sequence[str] | None = None, *, coverage: float = 0.9, given: pd.DataFrame | None = None,
        donor: str | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Return lower and upper bounds of a new measurement at places, float32 (point, gene) each.

        Parameters
        ----------
        coords, genes, given, donor
            As for :meth:`at`.
        coverage
            In (0, 1); the next kept level above is used (hundredths from .5 up to .99, then .995).
        """
        check_range(coverage, name="coverage", low=0, high=1, open_low=True, open_high=True)
        (places, given), columns = self._asked(coords, given), self._columns(genes)
        value = asking.values(self._fields, places, given, columns, donor)
        half = asking.radii(self._fields, places, given, columns, donor, coverage=coverage)
        return (value - half).astype(np.float32), (value + half).astype(np.float32)

    def uncertainty(
        self, coords: Any, genes: Sequence[str] | None = None, *, given: pd.DataFrame | None = None
    ) -> np.ndarray:
        """Return half the width of the interval that holds 68 % of new measurements, float32 (point, gene)."""
        places, given = self._asked(coords, given)
        half = asking.radii(self._fields, places, given, self._columns(genes), None, coverage=ONE_SD)
        return half.astype(np.float32)

    def distance(self, coords: Any) -> np.ndarray:
        """Return the distance from each place to the nearest sample, or its mirror image, float32 (point,)."""
        places, _ = self._asked(coords, None)
        return np.min([one.frame.nearest(places) for one in self._fields], axis=0).astype(np.float32)

    def to_nifti(
        self, path: str | Path, genes: Sequence[str] | None = None, *, grid: Grid | str | Path | None = None, resolution: int = 2,
        what: Literal["value", "uncertainty", "distance"] = "value",
    ) -> Path:  # fmt: skip
        """Write maps into one NIfTI, a volume a gene in the order asked for; a few hundred genes are in memory at a time.

        Parameters
        ----------
        path
            A new file, ``.nii`` or ``.nii.gz``.
        genes
            All genes of the fit by default.
        grid
            Voxels that are wanted: a grid, or the path of a NIfTI whose voxels are not 0; the template's brain by default. Those
            far outside the brain are left NaN.
        resolution
            Side of its voxels in mm.
        what
            Expression, its uncertainty, or the distance to the nearest sample (one volume).
        """
        self._check_fitted()
        check_choice(what, ("value", "uncertainty", "distance"), name="what")
        self._check_brain("NIfTI")
        grid = brain_grid(resolution=resolution) if grid is None else read_grid(grid)
        if any("tissue" in one.frame.conditions for one in self._fields):
            grid = grid.within_brain()
        points = grid.points()
        names = [self.genes_in_.names[i] for i in self._columns(genes)]
        if what == "distance":
            return write_maps(path, grid, [self.distance(points)], n_maps=1)
        ask = self.at if what == "value" else self.uncertainty

        def maps() -> Iterator[np.ndarray]:
            for start in range(0, len(names), _GENES):
                yield from ask(points, names[start : start + _GENES]).T

        return write_maps(path, grid, maps(), n_maps=len(names))

    def parcels(self, atlas: Parcellation, genes: Sequence[str] | None = None) -> Any:
        """Return the mean over the voxels of each parcel, as an AnnData (region, gene) with the parcels' table in ``obs``."""
        import anndata

        self._check_fitted()
        self._check_brain("parcels")
        places, parcel = check_parcellation(atlas).voxels()
        check_places(places, where="voxels of the parcellation")
        columns = self._columns(genes)
        parts = asking.values_in_parts(self._fields, places, None, columns, None)
        mean, count = atlas.means((parcel[rows], some) for rows, some in parts)
        obs = atlas.table.assign(voxels=count)
        obs.index = obs.index.astype(str)
        made = anndata.AnnData(
            mean.astype(np.float32), obs=obs, var=pd.DataFrame(index=[self.genes_in_.names[i] for i in columns])
        )
        made.obsm[keys.MNI] = atlas.centroids().to_numpy()
        made.uns = {keys.SPACE: self.space_, keys.UNIT: self.unit_}
        return made

    def surface(self, mesh: Any, genes: Sequence[str] | None = None) -> np.ndarray:
        """Return expression at a mesh's vertices, float32 (point, gene).

        Parameters
        ----------
        mesh
            Coordinates (vertex, 3) in mm of MNI152, a pair of coordinates and faces, or the path of a GIFTI surface
            (see :func:`expressor.data.surfaces.read_vertices`).
        genes
            As for :meth:`at`.
        """
        return self.at(read_vertices(mesh), genes)

    # The machinery ---------------------------------------------------------------------------------------------------

    def _columns(self, genes: Sequence[str] | None) -> np.ndarray:
        self._check_fitted()
        if genes is None:
            return np.arange(len(self.genes_in_))
        if isinstance(genes, str):
            raise DataError("genes are a list of names", got=repr(genes), fix=f"Write [{genes!r}].")
        known = {name: i for i, name in enumerate(self.genes_in_)}
        for one in genes:
            if one not in known:
                raise GeneError(f"gene {one!r} was not in the fit", nearest=nearest_names(str(one), known))
        return np.array([known[one] for one in genes], dtype=np.int64)

    def _asked(self, coords: Any, given: Any) -> tuple[np.ndarray, pd.DataFrame | None]:
        self._check_fitted()
        places = self._fields[0].frame.check(coords)
        return places, check_given(given, len(places))

    def _check_brain(self, what: str) -> None:
        if self.space_ != "MNI152":
            raise DataError(f"{what} are of a brain in MNI152", got=f"samples in {self.space_!r}", fix="Use at().")

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        samples = read_samples(adata, list(self.genes_in_), donors=True, space=self.space_)
        return judge_map(self, samples, seed=self.random_state)

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        places, given = read_places(adata, self.space_), read_given(adata)
        table = pd.DataFrame(self.at(places, given=given), index=adata.obs_names.copy(), columns=list(self.genes_in_))
        return {"obsm": {key: table}, "obs": {f"{key}_distance": self.distance(places)}}

    def _state(self) -> State:
        values, arrays, tensors = storage.pack(self._fields)
        return State(
            {"space_": self.space_, "unit_": self.unit_, "donors_": list(self.donors_), **values}, arrays, tensors
        )

    def _restore(self, state: State) -> None:
        self.space_, self.unit_ = str(state.values["space_"]), str(state.values["unit_"])
        self.donors_ = tuple(map(str, state.values["donors_"]))
        self._fields = storage.unpack(self, state.values, state.arrays, state.tensors, len(self.genes_in_))

    def _methods(self) -> str:
        return methods_paragraph(self)
