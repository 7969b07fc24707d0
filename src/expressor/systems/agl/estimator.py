"""The estimator: parameters, the course of a fit, and what a fitted model gives."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Literal, TypeAlias, final

import anndata
import numpy as np
import pandas as pd

from expressor.core.errors import DataError, check_choice, check_range
from expressor.data import fields, keys
from expressor.data.spatial import coordinates, grid, section_of, sections
from expressor.estimator.base import Estimator, State
from expressor.estimator.images import PRECOMPUTED
from expressor.estimator.roles import Predicts
from expressor.genes.vocab import GeneVocab
from expressor.metrics import evaluate
from expressor.systems.agl import fitting, inputs, selection
from expressor.systems.agl.calibration import SHOWN_COVERAGE, half_width_at
from expressor.systems.agl.training import Member, average
from expressor.train.plan import TrainPlan

Auxiliaries: TypeAlias = Literal["dkgsb", "all", "none", "uncertainty", "auxilearn", "amal", "halving"]


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class AGL(Estimator, Predicts):
    """Expression of target genes from tissue images, trained together with auxiliary genes (AGL / DkGSB).

    Parameters
    ----------
    target_genes
        How many genes to predict, >= 1, or their names.
    target_ranking
        By what they are chosen in the training spots where only their number is given: ``"dispersion"`` (variance over mean of
        counts), ``"hvg"`` (the paper's: the same standardised in bins of the mean), ``"variance"`` or ``"mean"``.
    target_scale
        Unit of the prediction: log1p of counts per 10,000, or log1p of counts (the paper's, which is driven by library size).
    auxiliaries
        What decides about the other genes: ``"dkgsb"`` (a learnt cut of their ranking), ``"all"``, ``"none"``,
        ``"uncertainty"`` (Kendall 2018), ``"auxilearn"`` (Navon 2021), ``"amal"`` (2023), or ``"halving"`` (the cut is searched
        by successive halving instead of learnt).
    ranking
        Prior ranking of the auxiliary genes on training spots: ``"hvg"`` (the paper's), ``"dispersion"``, ``"coexpression"``
        (with the target genes), ``"moran"``, ``"detection"``, ``"mean"``; a list of names, best first; or a function of
        (AnnData, target names) that gives a score for every gene.
    min_spots
        Auxiliary genes are detected in at least so many training spots, >= 1.
    encoder
        Image encoder (see :func:`expressor.encoders.encoders`), or ``"precomputed:<key>"`` for features in ``obsm[key]``; several
        give features side by side, all encoders weighing alike.
    patch_um
        Side of the image patch, um; by default what the encoder was made for.
    patch_ratios
        Sizes of the patches relative to that, > 0; the features of several stand side by side. Not used for precomputed features.
    square_root
        Take the signed square root of the features: means of rectified activations have long tails.
    trunk
        ``"features"``: a trained trunk on fixed features of the encoder. ``"encoder"``: the encoder itself is trained along
        (the paper's; needs a GPU at any real size).
    components
        Principal components of the features that the trunk sees, >= 1.
    hidden
        Units of a hidden layer of the trunk; 0 for a linear trunk.
    factors
        Width of the shared trunk, >= 1; ``trunk="encoder"`` takes 0 for "the encoder's own features".
    dropout
        Share of the components left out in a training step, in [0, 1).
    temperature
        Of the soft cut, > 0, in units of the ranking scaled to [0, 1].
    inner_steps
        Inner steps H of the bi-level update, >= 1.
    outer_lr
        Step size of the threshold (or of the learnt weights), > 0.
    bilevel_batch
        Spots of a batch of the bi-level update, >= 3.
    warm_start
        Start the inner steps from the training optimiser's moments; the authors start afresh.
    compare_ends
        Only for ``"dkgsb"``: set the learnt cut beside no auxiliary gene and all of them, each trained alike, and go on with what
        is best on the spots that select.
    split
        How training spots are divided into those that fit, select (the cut) and stop (the training): ``"sections"``,
        ``"blocks"`` of tissue, ``"random"`` spots as in the paper, or ``"auto"`` (sections where there are five).
    refit
        Train on all spots again with what was chosen, and calibrate on predictions of held-out groups. ``False``: keep the first
        network, calibrated on the spots that selected and stopped; one training instead of many.
    groups
        Column of ``obs`` that is held out as a whole to calibrate: ``"section"``, ``"patient"``, ...
    members
        Networks of other random starts whose predictions are averaged, >= 1.
    permutations
        Of the block permutation test behind ``trusted``, >= 1.
    false_discovery
        Largest q-value at which a gene is trusted, in (0, 1).
    random_state
        Seed, >= 0.
    plan
        Training settings.

    Attributes
    ----------
    target_genes_
        Names of the predicted genes.
    auxiliary_weights_
        Weight of each auxiliary gene, best rank first.
    k_
        Number of auxiliary genes kept.
    epochs_
        Number of epochs chosen.
    gene_table_
        One row a target gene: ``pcc`` with ``pcc_low`` and ``pcc_high`` (95 %), ``p_value``, ``q_value``, ``trusted``, all on
        held-out spots; ``slope``, ``intercept`` to the unit; ``half_width`` of the 90 % interval.
    coverage_
        Nominal and measured coverage of the intervals, measured group by group.
    split_
        How the training spots were divided.
    history_
        One row an epoch: stage, epoch, loss, primary_loss, val_pcc (stop part), select_pcc, k (of this epoch), settled_k (of
        the running mean of the threshold, which is what counts in the end), threshold, seconds.
    """

    target_genes: int | tuple[str, ...] = 50
    target_ranking: Literal["dispersion", "hvg", "variance", "mean"] = "dispersion"
    target_scale: Literal["log1p_cp10k", "log1p_counts"] = "log1p_cp10k"
    auxiliaries: Auxiliaries = "dkgsb"
    ranking: str | tuple[str, ...] | Callable[..., Any] = "hvg"
    min_spots: int = 3
    encoder: str | tuple[str, ...] = ("efficientnet_lite0", "colour")
    patch_um: float | None = None
    patch_ratios: tuple[float, ...] = (0.75, 1.0, 1.5)
    square_root: bool = True
    trunk: Literal["features", "encoder"] = "features"
    components: int = 64
    hidden: int = 0
    factors: int = 6
    dropout: float = 0.0
    temperature: float = 0.01
    inner_steps: int = 2
    outer_lr: float = 0.02
    bilevel_batch: int = 128
    warm_start: bool = True
    compare_ends: bool = True
    split: Literal["auto", "sections", "blocks", "random"] = "auto"
    refit: bool = True
    groups: str = "section"
    members: int = 3
    permutations: int = 999
    false_discovery: float = 0.05
    random_state: int = 0
    plan: TrainPlan = dataclasses.field(
        default_factory=lambda: TrainPlan(lr=1e-2, weight_decay=1.0, batch_size=128, epochs=40, patience=8)
    )

    # Fitting ---------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        if isinstance(self.target_genes, int) or not len(self.target_genes):
            check_range(self.target_genes, name="target_genes", low=1, integer=True)
        for name, low in (("min_spots", 1), ("components", 1), ("hidden", 0), ("inner_steps", 1), ("bilevel_batch", 3),
                          ("members", 1), ("permutations", 1), ("random_state", 0)):  # fmt: skip
            check_range(getattr(self, name), name=name, low=low, integer=True)
        check_range(self.factors, name="factors", low=0 if self.trunk == "encoder" else 1, integer=True)
        check_range(self.dropout, name="dropout", low=0, high=1, open_high=True)
        check_range(self.false_discovery, name="false_discovery", low=0, high=1, open_low=True, open_high=True)
        for name in ("temperature", "outer_lr"):
            check_range(getattr(self, name), name=name, low=0, open_low=True)
        for one in (*self.patch_ratios, *(() if self.patch_um is None else (self.patch_um,))):
            check_range(one, name="patch_um and patch_ratios", low=0, open_low=True)
        for name in ("encoder", "patch_ratios"):
            if not len(getattr(self, name)):
                raise DataError(f"{name} is empty", expected="at least one", fix="Leave it out for the default.")
        check_choice(self.target_ranking, selection.TARGET_RANKINGS, name="target_ranking")
        check_choice(self.target_scale, fields.SCALES, name="target_scale")
        check_choice(self.auxiliaries, fitting.AUXILIARIES, name="auxiliaries")
        check_choice(self.trunk, ("features", "encoder"), name="trunk")
        check_choice(self.split, selection.SPLITS, name="split")
        if isinstance(self.ranking, str):
            check_choice(self.ranking, selection.RANKINGS, name="ranking")
        self.plan.check()

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        fitted = fitting.Fitting(self, adata, val, resume).run()
        self.genes_in_ = GeneVocab(adata.var_names)
        self.target_genes_ = pd.Index(fitted.genes.primary, dtype=object)
        self.auxiliary_weights_ = pd.Series(
            fitted.weights.astype(np.float32), index=pd.Index(fitted.genes.auxiliary, dtype=object), dtype=np.float32
        )
        self.k_, self.epochs_, self.split_ = fitted.k, fitted.epochs, fitted.split
        self.history_ = fitted.history
        self.gene_table_, self.coverage_ = fitted.calibration.table, fitted.calibration.coverage
        self._half_widths = fitted.calibration.half_widths
        self._members = fitted.members
        self._n_spots, self._n_sections, self._n_groups = adata.n_obs, len(sections(adata)), fitted.n_groups

    # Using -----------------------------------------------------------------------------------------------------------

    def predict(self, data: Any) -> pd.DataFrame:
        """Predict the target genes of every spot.

        Parameters
        ----------
        data
            Tissue with images (or the features of the fit) and positions; measured expression is not looked at.

        Returns
        -------
        float32 (spot, gene); ``.attrs["unit"]`` is the ``target_scale``.

        Raises
        ------
        DataError
            Images or features are missing, or contradict the coordinates.
        """
        self._check_fitted()
        return self._frame(self._values(fields.read(data)), data)

    def predict_interval(self, data: Any, coverage: float = SHOWN_COVERAGE) -> tuple[pd.DataFrame, pd.DataFrame]:
        """Return lower and upper bounds of the measured value, float32 (spot, gene) each.

        The half-width is one number a gene: the quantile of held-out errors in which every held-out group counts alike.
        ``coverage_`` says how much such intervals really covered on groups that took no part in them.

        Parameters
        ----------
        data
            As for :meth:`predict`.
        coverage
            In (0, 1); the next kept level above is used (hundredths up to .99, then .995).
        """
        self._check_fitted()
        check_range(coverage, name="coverage", low=0, high=1, open_low=True, open_high=True)
        adata = fields.read(data)
        return self._around(adata, self._values(adata), coverage)

    def predict_grid(
        self, data: Any, section: str, spacing_um: float, *, coverage: float = SHOWN_COVERAGE
    ) -> anndata.AnnData:
        """Predict on a regular grid over the tissue of a section, where nothing was measured.

        Parameters
        ----------
        data
            Tissue with the section's spots and image.
        section
            Its name.
        spacing_um
            Distance of grid points, um, > 0. Patches keep their size; they overlap on a dense grid.
        coverage
            Of the bounds, in (0, 1).

        Returns
        -------
        AnnData (point, gene): ``X`` the prediction, ``layers["lower"]`` and ``layers["upper"]``, ``obsm["spatial"]``,
        ``uns["unit"]``.

        Raises
        ------
        DataError
            The features are precomputed, so that there is no image to look at.
        """
        self._check_fitted()
        precomputed = [one for one in inputs.encoder_names(self.encoder) if one.startswith(PRECOMPUTED)]
        if precomputed:
            raise DataError("a grid needs images, and the features were precomputed", got=repr(precomputed[0]),
                            fix="Fit with encoders that see the images.")  # fmt: skip
        points = grid(fields.read(data), section, spacing_um)
        values = self._values(points)
        lower, upper = self._around(points, values, coverage)
        return anndata.AnnData(
            values,
            obs=points.obs,
            var=self.gene_table_.copy(),
            obsm=dict(points.obsm),
            layers={"lower": lower.to_numpy(), "upper": upper.to_numpy()},
            uns={**points.uns, "unit": self.target_scale},
        )

    def _values(self, adata: Any) -> np.ndarray:
        """Return predictions in the unit of the fit, float32 (spot, gene)."""
        if self.trunk == "features":
            raw = average(self._members, self._features(adata))
        else:
            raw = np.empty((adata.n_obs, len(self.target_genes_)))
            for rows, patches in inputs.iterate_patches(adata, fitting.card_of(self), self.patch_um):
                raw[rows] = average(self._members, patches)
        line = self.gene_table_
        return (raw * line["slope"].to_numpy() + line["intercept"].to_numpy()).astype(np.float32)

    def _features(self, adata: Any) -> np.ndarray:
        features = np.hstack(fitting.features_of(self, adata))
        scaler = self._members[0].scaler
        if scaler is not None and features.shape[1:] != scaler.mean.shape:
            raise DataError(f"the features of {self.encoder!r} are not those of the fit", expected=f"{len(scaler.mean)} features",
                            got=f"shape {features.shape}")  # fmt: skip
        return features

    def _around(self, adata: Any, values: np.ndarray, coverage: float) -> tuple[pd.DataFrame, pd.DataFrame]:
        width = half_width_at(self._half_widths, coverage)
        # Expression on these scales is never negative, so neither bound need be.
        lower, upper = np.maximum(values - width, 0.0), np.maximum(values + width, 0.0)
        return self._frame(lower, adata), self._frame(upper, adata)

    def _frame(self, values: np.ndarray, data: Any) -> pd.DataFrame:
        rows = data.obs_names if isinstance(data, anndata.AnnData) else fields.read(data).obs_names
        table = pd.DataFrame(values.astype(np.float32), index=rows.copy(), columns=self.target_genes_.copy())
        table.attrs["unit"] = self.target_scale
        return table

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        measured = fields.expression(adata, self.target_genes_, scale=self.target_scale)
        values = self._values(adata)
        lower, upper = self._around(adata, values, SHOWN_COVERAGE)
        has_patients = keys.PATIENT in adata.obs and not adata.obs[keys.PATIENT].isna().any()
        patients = adata.obs[keys.PATIENT].astype(str) if has_patients else None
        rows = evaluate(
            measured, values, sections=section_of(adata), patients=patients, coords=coordinates(adata),
            lower=lower.to_numpy(), upper=upper.to_numpy(), coverage=SHOWN_COVERAGE,
            n_permutations=self.permutations, seed=self.random_state,
        )  # fmt: skip
        return pd.DataFrame([dataclasses.asdict(row) for row in rows])

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        read = fields.read(adata)
        values = self._values(read)
        lower, upper = self._around(read, values, SHOWN_COVERAGE)
        return {"obsm": {key: self._frame(values, read), f"{key}_lower": lower, f"{key}_upper": upper}}

    def _state(self) -> State:
        values = {"k_": self.k_, "epochs_": self.epochs_, "split_": self.split_, "n_spots": self._n_spots,
                  "n_sections": self._n_sections, "n_groups": self._n_groups, "n_members": len(self._members)}  # fmt: skip
        arrays: dict[str, Any] = {
            "target_genes_": self.target_genes_, "auxiliary_weights_": self.auxiliary_weights_,
            "gene_table_": self.gene_table_, "coverage_": self.coverage_, "half_widths": self._half_widths,
        }  # fmt: skip
        tensors: dict[str, Any] = {}
        for i, member in enumerate(self._members):
            tensors |= {f"{i}.{name}": one for name, one in member.network.state_dict().items()}
            if member.scaler is not None:
                arrays |= {
                    f"{i}.{one.name}": getattr(member.scaler, one.name) for one in dataclasses.fields(member.scaler)
                }
        return State(values, arrays, tensors)

    def _restore(self, state: State) -> None:
        for name in ("k_", "epochs_", "split_"):
            setattr(self, name, state.values[name])
        for name in ("n_spots", "n_sections", "n_groups"):
            setattr(self, f"_{name}", state.values[name])
        for name in ("target_genes_", "auxiliary_weights_", "gene_table_", "coverage_"):
            setattr(self, name, state.arrays[name])
        self._half_widths = state.arrays["half_widths"]
        self._members = [self._restored(i, state) for i in range(state.values["n_members"])]

    def _restored(self, i: int, state: State) -> Member:
        return fitting.rebuild_member(
            self,
            {name.removeprefix(f"{i}."): one for name, one in state.tensors.items() if name.startswith(f"{i}.")},
            {name.removeprefix(f"{i}."): one for name, one in state.arrays.items() if name.startswith(f"{i}.")},
            len(self.target_genes_),
        )

    def _methods(self) -> str:
        return fitting.methods_text(self)
