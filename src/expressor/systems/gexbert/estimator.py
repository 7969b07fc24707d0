"""The estimator: parameters, fit, and what a fitted model gives."""

import dataclasses
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pandas as pd
import torch

from expressor.core.errors import DataError, check_range
from expressor.estimator.base import Estimator, State
from expressor.estimator.errors import NotFittedError
from expressor.estimator.labelling import most_likely
from expressor.estimator.restoring import judge_restoration
from expressor.estimator.roles import Encodes, Imputes, Predicts, Survives
from expressor.systems.gexbert import interpretation, saving
from expressor.systems.gexbert.fitting import Pretrained, Pretraining
from expressor.systems.gexbert.outputs import outputs_of
from expressor.systems.gexbert.parameters import check_parameters
from expressor.systems.gexbert.profiles import Reference, pipelines, read_query
from expressor.systems.gexbert.skip import by_pattern
from expressor.systems.gexbert.writing import methods_text
from expressor.train.plan import TrainPlan


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class GexBERT(Estimator, Imputes, Encodes, Predicts, Survives):
    """Restore bulk profiles from any part of them; classify and predict survival from few genes.

    Every fit learns to restore. Heads are trained for what is named: ``label``, or ``time`` and ``event``. Samples without a label
    or an outcome still teach the restoration.

    Parameters
    ----------
    label
        Column of ``obs`` with the cancer type (or any label); gaps are allowed. None: no classifier.
    time, event
        Columns of ``obs`` with the time to event or censoring, and whether it was an event; gaps are allowed. None: no survival.
    strata
        Column of ``obs`` whose groups have baseline hazards of their own while coefficients are learnt.
    patient
        Column of ``obs`` that names patients; none is on both sides of an inner split. Without it each sample is one.
    pipeline
        Column of ``obs`` that names the pipeline; each has a vector of its own. None: no pipeline token.
    panel
        Names of the only genes that the heads may look at, as on a clinical panel; None: whatever is measured.
    linear_skip
        Start from the conditional mean of a shrinkage Gaussian; the network learns what it misses.
    memory
        Most training patients that are kept, so that what the skip missed in patients alike can be added, >= 0. The saved
        model then holds their expression.
    network
        Train the network; without it only skip and memory restore.
    gene_vectors
        Start of the gene table: ``"pca"`` (loadings of the training set), ``"random"``, or ``"varm:<key>"`` of the training data.
    value_encoder
        ``"continuous"``, or ``"bins"`` as in the third party's account of the paper.
    bins
        Number of value bins, >= 2, at quantiles of the standardised training values.
    value_scale
        ``"standardised"``; or ``"rank"``: a sample's values are first replaced rank by rank by those of the training set, for data
        of other pipelines. What is restored is taken back to the sample's own scale.
    dim, layers, decoder_layers, heads, hidden, dropout
        Width of tokens, blocks of encoder (>= 0) and decoder (>= 0), attention heads, units of hidden layers, dropout in [0, 1).
    panel_sizes
        Smallest and largest panel of a training step, drawn evenly on a log scale.
    tokens
        Most genes that the network sees of a sample, >= 1; the skip sees them all.
    targets
        Genes restored in a training step, >= 1.
    hidden_share
        Share of the tokens that show the gene without its value, in [0, 1).
    visible_weight
        Weight in the loss of genes whose value was shown, >= 0.
    steps
        Training steps an epoch, >= 1.
    components
        Principal components whose expected scores represent a sample, >= 1; the sample token starts from them.
    folds
        Parts of the training patients for cross-fitting the skip, >= 2.
    validation
        Share of the training patients that stop the training and decide what of it is used, in (0, 1), unless ``val=`` is given.
    tuning
        ``"frozen"``: heads on fixed representations. ``"fine-tuned"``: the network is trained on, if held-out patients gain.
    survival_input
        What risk is predicted from: ``"token"`` (the representation), ``"panel"``, or ``"anchors"`` (panel and restored anchors).
    anchors
        Number of anchors, >= 1: genes outside the panel of the largest univariate Cox statistic in the training patients.
    floor
        Smallest value of a restoration: ``"auto"`` is 0 where no training value is negative, and none otherwise; ``"none"``.
    random_state
        Seed, >= 0.
    plan
        Training settings.

    Attributes
    ----------
    unit_
        The scale of the fit, on which values are restored.
    classes_
        Labels, in alphabetical order; empty without ``label``.
    anchors_
        Names of the anchors, best first; empty unless they are used.
    gene_table_
        One row a gene: ``mean``, ``scale`` (standard deviation; 0 for a constant gene), ``stretch`` of its intervals.
    parts_
        One row a panel size: penalty of the skip, share of network and memory, and by how much held-out patients gained.
    history_
        One row an epoch of each stage, a panel size of the judgement, and a head.
    """

    label: str | None = None
    time: str | None = None
    event: str | None = None
    strata: str | None = None
    patient: str = "patient"
    pipeline: str | None = None
    panel: tuple[str, ...] | None = None
    linear_skip: bool = True
    memory: int = 2000
    network: bool = True
    gene_vectors: str = "pca"
    value_encoder: Literal["continuous", "bins"] = "continuous"
    bins: int = 32
    value_scale: Literal["standardised", "rank"] = "standardised"
    dim: int = 64
    layers: int = 2
    decoder_layers: int = 1
    heads: int = 4
    hidden: int = 128
    dropout: float = 0.1
    panel_sizes: tuple[int, int] = (16, 512)
    tokens: int = 64
    targets: int = 64
    hidden_share: float = 0.15
    visible_weight: float = 0.1
    steps: int = 50
    components: int = 50
    folds: int = 4
    validation: float = 0.15
    tuning: Literal["frozen", "fine-tuned"] = "frozen"
    survival_input: Literal["token", "panel", "anchors"] = "token"
    anchors: int = 50
    floor: Literal["auto", "none"] = "auto"
    random_state: int = 0
    plan: TrainPlan = dataclasses.field(
        default_factory=lambda: TrainPlan(
            lr=1e-3, weight_decay=1e-2, batch_size=32, epochs=20, patience=5, clip_norm=1.0
        )
    )

    # Fitting ---------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        check_parameters(self)

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        fitting = Pretraining(self, adata, val, resume)
        self._take(fitting.run())
        self._floor = 0.0 if self.floor == "auto" and fitting.lowest >= 0 else -np.inf

    def _take(self, fitted: Pretrained) -> None:
        self._fitted = fitted
        self.genes_in_, self.unit_, self.history_ = fitted.genes, fitted.unit, fitted.history
        self.classes_ = () if fitted.classes is None else fitted.classes.classes
        self.anchors_ = fitted.anchors
        skip, shares = fitted.restorer.skip, fitted.restorer.mixture
        self.gene_table_ = pd.DataFrame(
            {"mean": skip.state.mean.numpy(), "scale": skip.state.scale.numpy(), "stretch": fitted.calibration.stretch},
            index=pd.Index(list(self.genes_in_), dtype=object),
        )
        self.parts_ = pd.DataFrame(
            {"panel": shares.sizes, "shrinkage": [skip.shrinkage_at(one) for one in shares.sizes],
             "network_share": shares.network, "memory_share": shares.memory, "gain": shares.gain}
        )  # fmt: skip

    # Restoring -------------------------------------------------------------------------------------------------------

    def impute(self, data: Any) -> np.ndarray:
        """Restore what was not measured, in one pass.

        Parameters
        ----------
        data
            Samples on the scale of the fit. NaN, and genes of the fit that are absent, are restored; other genes are ignored.

        Returns
        -------
        float32 (sample, gene), genes in the order of ``genes_in_``; measured values as they came.

        Raises
        ------
        DataError
            A sample has no measured gene of the fit, or the scale is another.
        GeneError
            No gene of the fit is there.
        """
        values, brought, adata = self._read(data)
        return self._finish(self._complete(brought, adata)[0], brought, values)

    def impute_interval(self, data: Any, coverage: float = 0.9) -> tuple[np.ndarray, np.ndarray]:
        """Return lower and upper bounds of the values that :meth:`impute` restores; measured ones bound themselves.

        The width is what the skip's Gaussian leaves open, stretched so that intervals held for held-out training patients.

        Parameters
        ----------
        data
            As for :meth:`impute`.
        coverage
            In (0, 1); the next kept level above is used (hundredths from .5 up to .99, then .995).

        Returns
        -------
        float32 (sample, gene) each.
        """
        check_range(coverage, name="coverage", low=0, high=1, open_low=True, open_high=True)
        values, brought, adata = self._read(data)
        full, spread = self._complete(brought, adata, variance=True)
        width = self._fitted.calibration.quantile(coverage) * self._fitted.calibration.stretch * spread
        return self._finish(full - width, brought, values), self._finish(full + width, brought, values)

    def impute_draws(self, data: Any, draws: int = 10) -> np.ndarray:
        """Draw complete profiles, for multiple imputation: restored values with what is not known of them, jointly over genes.

        Parameters
        ----------
        data
            As for :meth:`impute`.
        draws
            Number of draws, >= 1.

        Returns
        -------
        float32 (draw, sample, gene); measured values are the same in all. A sample's draws depend on its own values alone.
        """
        check_range(draws, name="draws", low=1, integer=True)
        values, brought, adata = self._read(data)
        full = self._complete(brought, adata)[0]
        # A normal distribution has 68.3 % within one standard deviation.
        stretch = self._fitted.calibration.quantile(0.68) * self._fitted.calibration.stretch
        found = np.repeat(full[None], draws, axis=0)
        for rows, observed, gaps in by_pattern(torch.from_numpy(brought)):
            names = [int.from_bytes(hashlib.sha256(brought[i].tobytes()).digest()[:4], "big") for i in rows.tolist()]
            for draw in range(draws if len(gaps) else 0):
                place = [(draw, name) for name in names]
                u = self._fitted.restorer.unexplained(observed, gaps, seed=self.random_state, place=place).numpy()
                found[draw][np.ix_(rows.numpy(), gaps.numpy())] += stretch[gaps.numpy()] * u
        return np.stack([self._finish(one, brought, values) for one in found])

    def _read(self, data: Any) -> tuple[np.ndarray, np.ndarray, Any]:
        """Return values (sample, gene) as they came, brought to the training set's scale where ranks are used, and the data."""
        self._check_fitted()
        adata, values = read_query(data, self.genes_in_, self.unit_)
        reference = self._fitted.reference
        return values, values if reference is None else reference.bring(values), adata

    def _complete(self, brought: np.ndarray, adata: Any, *, variance: bool = False) -> tuple[np.ndarray, np.ndarray]:
        full, spread = self._fitted.restorer.restore(torch.from_numpy(brought), self._codes(adata), variance=variance)
        return full.numpy(), spread.numpy()

    def _codes(self, adata: Any) -> torch.Tensor | None:
        return pipelines(adata, self.pipeline, self._fitted.pipelines)

    def _finish(self, full: np.ndarray, brought: np.ndarray, values: np.ndarray) -> np.ndarray:
        """Return float32 profiles on each sample's own scale, measured values as they came."""
        if self._fitted.reference is not None:
            full = Reference.take_back(full, brought, values)
        return np.where(np.isnan(values), np.maximum(full, self._floor), values).astype(np.float32)

    # Representing ----------------------------------------------------------------------------------------------------

    def transform(self, data: Any) -> np.ndarray:
        """Represent samples: expected principal scores given what was measured, then the network's sample vector.

        Parameters
        ----------
        data
            As for :meth:`impute`.

        Returns
        -------
        float32 (sample, dim). The network's part is left out where the network is not used for restoring.
        """
        _, brought, adata = self._read(data)
        return self._fitted.restorer.represent(torch.from_numpy(brought), self._codes(adata)).numpy()

    # Cancer type -----------------------------------------------------------------------------------------------------

    def predict(self, data: Any) -> pd.DataFrame:
        """Predict the label of every sample.

        Parameters
        ----------
        data
            As for :meth:`impute`; any panel will do.

        Returns
        -------
        (sample, 1): the column is named after ``label``.
        """
        return most_likely(self.predict_proba(data), str(self.label))

    def predict_proba(self, data: Any) -> pd.DataFrame:
        """Predict the probability of every label.

        Parameters
        ----------
        data
            As for :meth:`impute`.

        Returns
        -------
        float32 (sample, class).

        Raises
        ------
        NotFittedError
            The model was fitted without ``label``.
        """
        self._check_fitted()
        if self._fitted.classes is None:
            raise NotFittedError("this GexBERT was fitted without labels",
                                 fix="Fit it with label=, the column of obs that holds them.")  # fmt: skip
        _, brought, adata = self._read(data)
        output = outputs_of(self._fitted, "classes", torch.from_numpy(brought), self._codes(adata), adata.obs_names)
        chance = torch.softmax(output, dim=1).numpy().astype(np.float32)
        return pd.DataFrame(chance, index=adata.obs_names.copy(), columns=list(self.classes_))

    # Survival --------------------------------------------------------------------------------------------------------

    def risk(self, data: Any) -> np.ndarray:
        """Predict the log hazard of every sample relative to that of a training patient of mean features.

        Parameters
        ----------
        data
            As for :meth:`impute`.

        Returns
        -------
        float32 (sample,).

        Raises
        ------
        NotFittedError
            The model was fitted without ``time`` and ``event``.
        """
        return self._risk(data)[0].astype(np.float32)

    def survival_function(self, data: Any, times: Any = None) -> pd.DataFrame:
        """Predict the probability of no event up to given times.

        Parameters
        ----------
        data
            As for :meth:`impute`.
        times
            In the unit of the fit, >= 0; the training patients' event times by default.

        Returns
        -------
        float32 (sample, time).
        """
        risk, names = self._risk(data)
        baseline = self._fitted.risks.baseline  # type: ignore[union-attr]
        at = baseline.times.numpy() if times is None else np.atleast_1d(np.asarray(times, dtype=np.float64))
        if at.ndim != 1 or not np.isfinite(at).all() or (at < 0).any():
            raise DataError("times are not usable", expected="finite numbers >= 0", got=repr(times))
        chance = baseline.survival(torch.from_numpy(risk), torch.from_numpy(at)).numpy()
        return pd.DataFrame(chance.astype(np.float32), index=names, columns=pd.Index(at, name="time"))

    def _risk(self, data: Any) -> tuple[np.ndarray, pd.Index]:
        self._check_fitted()
        if self._fitted.risks is None:
            raise NotFittedError("this GexBERT was fitted without outcomes",
                                 fix="Fit it with time= and event=, the columns of obs that hold them.")  # fmt: skip
        _, brought, adata = self._read(data)
        output = outputs_of(self._fitted, "risks", torch.from_numpy(brought), self._codes(adata), adata.obs_names)
        return output[:, 0].numpy(), adata.obs_names.copy()

    # Interpretation --------------------------------------------------------------------------------------------------

    def attribute(self, data: Any, *, of: str | None = None, steps: int = 32) -> pd.DataFrame:
        """Say how much each gene's value contributes to an output, sample by sample, by integrated gradients.

        The path starts at the training mean. Contributions of a sample add up to the output's difference from there.

        Parameters
        ----------
        data
            Samples; values that were not measured contribute nothing.
        of
            A label (its log odds against the others), or ``"risk"``. By default the label if there is one, the predicted one.
        steps
            Points along the path, >= 1.

        Returns
        -------
        float32 (sample, gene).
        """
        _, brought, adata = self._read(data)
        return interpretation.attribute(
            self._fitted, torch.from_numpy(brought), adata, self._codes(adata), of=of, steps=steps
        )

    def interpret(self, data: Any, *, of: str | None = None, steps: int = 16) -> pd.DataFrame:
        """Set several accounts of which genes matter side by side, with the control that an account must beat.

        Parameters
        ----------
        data
            Samples with the label or the outcomes.
        of
            A label, or ``"risk"``; by default the most frequent label, or the risk where there are no labels.
        steps
            Points of the integrated gradients' path, >= 1.

        Returns
        -------
        One row a gene, (gene, account): ``gradients`` (mean absolute integrated gradients), ``rollout`` (attention followed from
        the sample token), ``random_gradients`` and ``random_rollout`` (the same with random weights), ``univariate`` (absolute t
        or Cox statistic of the gene alone). ``.attrs["agreement"]`` holds Spearman's correlation of each with the last.
        """
        _, brought, adata = self._read(data)
        return interpretation.compare(
            self, self._fitted, torch.from_numpy(brought), adata, self._codes(adata), of=of, steps=steps
        )

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        table = self.gene_table_
        return judge_restoration(
            self.impute,
            adata,
            self.genes_in_,
            scale=table["scale"].to_numpy(),
            bounds=self.impute_interval,
            seed=self.random_state,
        )

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        names = adata.obs_names.copy()
        found: dict[str, Any] = {
            f"{key}_restored": pd.DataFrame(self.impute(adata), index=names, columns=list(self.genes_in_)),
            f"{key}_representation": self.transform(adata),
        }
        obs: dict[str, Any] = {}
        if self.classes_:
            found |= {key: self.predict(adata), f"{key}_proba": self.predict_proba(adata)}
        else:
            found[key] = found.pop(f"{key}_restored")
        if self._fitted.risks is not None:
            obs[f"{key}_risk"] = self.risk(adata)
        return {"obsm": found, "obs": obs}

    def _state(self) -> State:
        return saving.state_of(self._fitted, clipped=bool(np.isfinite(self._floor)))

    def _restore(self, state: State) -> None:
        self._floor = 0.0 if state.values["clipped"] else -np.inf
        self._take(saving.rebuild(self, state))

    def _methods(self) -> str:
        return methods_text(self, self._fitted)
