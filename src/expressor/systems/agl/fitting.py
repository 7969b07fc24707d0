"""The course of a fit: genes, parts, the search for k, held-out predictions, the final networks, calibration."""

import dataclasses
import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, GeneError
from expressor.core.log import logger, progress
from expressor.data import fields
from expressor.data.spatial import section_of
from expressor.encoders.registry import EncoderCard, encoder_card
from expressor.estimator.images import PRECOMPUTED, feature_blocks
from expressor.systems.agl import selection
from expressor.systems.agl.calibration import Calibration, HeldOut, calibrate
from expressor.systems.agl.inputs import FeatureScaler, Targets, backbone_of, cut_patches, encoder_names
from expressor.systems.agl.network import EncoderTrunk, FeatureTrunk, SharedNetwork
from expressor.systems.agl.training import Member, Phase, Settings, Tissue, Trained, average, train
from expressor.systems.agl.weighting import FixedWeights, LearntWeights, Threshold, Uncertainty, Weighting
from expressor.train.bilevel import AdamRule

if TYPE_CHECKING:
    from expressor.systems.agl.estimator import AGL

AUXILIARIES = ("dkgsb", "all", "none", "uncertainty", "auxilearn", "amal", "halving")
_NAMES = {
    "dkgsb": "the cut of their ranking was learnt by bi-level optimisation (DkGSB)",
    "all": "all of them counted alike",
    "none": "none was used",
    "uncertainty": "their losses were weighted by learnt variances (Kendall et al. 2018)",
    "auxilearn": "their losses were weighted by implicit differentiation (AuxiLearn, Navon et al. 2021)",
    "amal": "their losses were weighted by one-step meta-gradients (AMAL, Sivasubramanian et al. 2023)",
    "halving": "the cut of their ranking was found by successive halving",
}


@dataclasses.dataclass(frozen=True)
class Fitted:
    """What a fit found."""

    genes: selection.Genes
    weights: np.ndarray
    k: int
    epochs: int
    split: str
    members: list[Member]
    calibration: Calibration
    history: pd.DataFrame
    n_groups: int


class Fitting:
    """One fit.

    Parameters
    ----------
    model
        The estimator, for its parameters.
    adata, val
        Training data, and data to select and stop on (or ``None``).
    resume
        Folder of checkpoints, or ``None``.
    """

    def __init__(self, model: "AGL", adata: AnnData, val: AnnData | None, resume: Path | None) -> None:
        self.model, self.resume = model, resume
        self.adata = selection.sort_genes(adata)
        self.genes = selection.choose_genes(
            self.adata, target_genes=model.target_genes, target_ranking=model.target_ranking, ranking=model.ranking,
            min_spots=model.min_spots, scale=model.target_scale,
        )  # fmt: skip
        self.parts = self._parts(val)
        self.tissue = self._tissue(val)
        self.settings = Settings(
            plan=model.plan, seed=model.random_state, dropout=model.dropout,
            bilevel_batch=model.bilevel_batch, build=lambda dim, n_genes: build_network(model, dim, n_genes),
        )  # fmt: skip
        self.records: list[pd.DataFrame] = []
        self._last_scaler: tuple[np.ndarray, FeatureScaler] | None = None

    def run(self) -> Fitted:
        """Choose, train, calibrate."""
        chosen = self._search()
        weights = chosen.weighting.chosen().numpy()
        epochs = max(1, chosen.outcome.best_epoch)
        if self.model.refit:
            members, held, n_groups = self._refit(weights, epochs)
        else:
            rows = np.sort(np.concatenate([self.parts.select, self.parts.stop]))
            members, n_groups = [chosen.member], 1
            held = self._held_out(rows, average(members, self.tissue.inputs[rows]), None)
        calibration = calibrate(
            pd.Index(self.genes.primary, dtype=object), held, permutations=self.model.permutations,
            false_discovery=self.model.false_discovery, seed=self.model.random_state,
        )  # fmt: skip
        k = chosen.weighting.k
        history = pd.concat(self.records, ignore_index=True)
        return Fitted(self.genes, weights, k, epochs, self.parts.how, members, calibration, history, n_groups)

    # Data ------------------------------------------------------------------------------------------------------------

    def _gap_um(self) -> float:
        """Return how far apart spots must be for their patches to share no pixels; 0 where features have no patch size."""
        model = self.model
        seen = [one for one in encoder_names(model.encoder) if not one.startswith(PRECOMPUTED)]
        sides = [model.patch_um or encoder_card(one).patch_um for one in seen]
        widest = 1.0 if model.trunk == "encoder" else max(model.patch_ratios)
        return max(sides, default=0.0) * widest

    def _parts(self, val: AnnData | None) -> selection.Parts:
        if val is None:
            gap, seed = self._gap_um(), self.model.random_state
            return selection.divide(self.adata, self.model.split, gap_um=gap, seed=seed)
        select, stop = selection.halves(val, seed=self.model.random_state)
        n = self.adata.n_obs
        return selection.Parts(np.arange(n), select + n, stop + n, "given validation data")

    def _tissue(self, val: AnnData | None) -> Tissue:
        wanted = [*self.genes.primary, *self.genes.auxiliary]
        values = _columns(self.adata, wanted, self.model.target_scale)
        inputs, labels = self._inputs(self.adata), section_of(self.adata).to_numpy().astype(str)
        self.um, self.labels = selection.microns(self.adata), labels
        if val is not None:
            absent = [name for name in self.genes.primary if name not in val.var_names]
            if absent:
                raise GeneError(f"the validation data lack {len(absent)} target genes, such as {absent[0]!r}")
            inputs = np.concatenate([inputs, self._inputs(val)])
            values = sparse.vstack([values, _columns(val, wanted, self.model.target_scale)], format="csr")
            # A section of this name in both sets would still be two pieces of tissue.
            theirs = np.char.add("val/", section_of(val).to_numpy().astype(str))
            self.labels, self.um = np.concatenate([labels, theirs]), np.concatenate([self.um, selection.microns(val)])
        section = np.unique(self.labels, return_inverse=True)[1]
        return Tissue(inputs, Targets(values, len(self.genes.primary)), section)

    def _inputs(self, adata: AnnData) -> np.ndarray:
        model = self.model
        if model.trunk == "encoder":
            return cut_patches(adata, card_of(model), model.patch_um)
        blocks = features_of(model, adata)
        self.blocks = tuple(one.shape[1] for one in blocks)
        return np.hstack(blocks)

    # Training --------------------------------------------------------------------------------------------------------

    def _search(self) -> Trained:
        """Find the weights of the auxiliary genes and the number of epochs on the fit, select and stop parts."""
        weighting: Callable[[SharedNetwork], Weighting] = self._weighting
        if self.model.auxiliaries == "halving" and self.genes.auxiliary:
            weighting = self._cut(self._halve())
        found = self._train("select", self.parts.fit, self.model.plan.epochs, weighting, watched=True)
        self._note("select", found)
        return self._better_of_ends(found) if self.model.auxiliaries == "dkgsb" and self.model.compare_ends else found

    def _better_of_ends(self, learnt: Trained) -> Trained:
        """Return the best of the learnt cut, no auxiliary gene and all of them, by the select part; among equals the fewest genes.

        The threshold moves by what a few genes around it change, and may be caught where a far better end cannot be felt.
        """
        tried = [learnt]
        for k, name in ((0, "no-auxiliaries"), (len(self.genes.auxiliary), "all-auxiliaries")):
            if k != learnt.weighting.k:
                tried.append(self._train(name, self.parts.fit, self.model.plan.epochs, self._cut(k), watched=True))
                self._note(name, tried[-1])
        return max(tried, key=lambda one: (_select_score(one), -one.weighting.k))

    def _refit(self, weights: np.ndarray, epochs: int) -> tuple[list[Member], HeldOut, int]:
        """Predict every group by networks trained on the others, then train the final networks on all spots."""
        groups = selection.held_out_groups(
            self.adata, self.model.groups, gap_um=self._gap_um(), seed=self.model.random_state
        )
        everything = np.arange(self.adata.n_obs)
        predicted = np.empty((self.adata.n_obs, len(self.genes.primary)))
        label = np.empty(self.adata.n_obs, dtype=np.int64)
        jobs = [*groups, ("all", everything, everything)]
        members: list[Member] = []
        for place, (_, rows, held) in enumerate(progress(jobs, what="cross-fitting")):
            stage = f"held-out-{place}" if place < len(groups) else "final"
            members = [self._again(f"{stage}-{one}", rows, weights, epochs) for one in range(self.model.members)]
            if place < len(groups):
                predicted[held], label[held] = average(members, self.tissue.inputs[held]), place
        return members, self._held_out(everything, predicted, label), len(groups)

    def _again(self, stage: str, rows: np.ndarray, weights: np.ndarray, epochs: int) -> Member:
        fixed = torch.from_numpy(weights)
        make: Callable[[SharedNetwork], Weighting] = lambda network: FixedWeights(fixed)  # noqa: E731
        if self.model.auxiliaries == "uncertainty":
            make = self._weighting
        trained = self._train(stage, rows, epochs, make, watched=False)
        self._note(stage, trained)
        return trained.member

    def _train(
        self,
        stage: str,
        rows: np.ndarray,
        epochs: int,
        weighting: Callable[[SharedNetwork], Weighting],
        *,
        watched: bool,
    ) -> Trained:
        n_genes = self.tissue.targets.n_genes
        phase = Phase(f"{stage}-{self._digest()}", rows, epochs, weighting, n_genes, self._scaler(rows))
        if watched:
            phase = dataclasses.replace(phase, select=self.parts.select, stop=self.parts.stop)
        return train(self.tissue, phase, self.settings, resume=self.resume)

    def _scaler(self, rows: np.ndarray) -> FeatureScaler | None:
        """Return the scaler of these rows; the members of an ensemble share it."""
        if self.tissue.has_patches:
            return None
        if self._last_scaler is None or not np.array_equal(self._last_scaler[0], rows):
            self._last_scaler = rows, FeatureScaler.fit(self.tissue.inputs[rows], self.model.components, self.blocks)
        return self._last_scaler[1]

    def _digest(self) -> str:
        """Name the genes of the fit, so that a checkpoint of others is never taken up."""
        return hashlib.sha256("\n".join([*self.genes.primary, "", *self.genes.auxiliary]).encode()).hexdigest()[:12]

    def _weighting(self, network: SharedNetwork) -> Weighting:
        model, n = self.model, len(self.genes.auxiliary)
        if n == 0 or model.auxiliaries == "none":
            return FixedWeights(torch.zeros(n))
        if model.auxiliaries == "dkgsb":
            rule = AdamRule(lr=model.plan.lr, weight_decay=model.plan.weight_decay)
            return Threshold(network, n, tau=model.temperature, steps=model.inner_steps, rule=rule, lr=model.outer_lr,
                             warm=model.warm_start)  # fmt: skip
        if model.auxiliaries == "uncertainty":
            return Uncertainty(network, n)
        if model.auxiliaries in ("auxilearn", "amal"):
            return LearntWeights(network, n, method=model.auxiliaries, lr=model.outer_lr, inner_lr=model.plan.lr)
        return FixedWeights(torch.ones(n))

    def _cut(self, k: int) -> Callable[[SharedNetwork], Weighting]:
        weights = (torch.arange(len(self.genes.auxiliary)) < k).float()
        return lambda network: FixedWeights(weights)

    def _halve(self) -> int:
        """Search k by successive halving: the better half by the select part goes on with twice the epochs."""
        n = len(self.genes.auxiliary)
        alive = sorted({0, *(round(n * 2.0**-power) for power in range(7))})
        epochs = max(1, self.model.plan.epochs // 8)
        while len(alive) > 1:
            scores = {}
            for k in alive:
                trained = self._train(f"halving-{k}", self.parts.fit, epochs, self._cut(k), watched=True)
                self._note(f"halving-{k}", trained)
                scores[k] = _select_score(trained)
            # Among equals the smaller k is kept.
            alive = sorted(sorted(alive, key=lambda k: (-scores[k], k))[: (len(alive) + 1) // 2])
            epochs = min(2 * epochs, self.model.plan.epochs)
            logger.info("successive halving keeps k in %s", alive)
        return alive[0]

    # Bookkeeping -----------------------------------------------------------------------------------------------------

    def _held_out(self, rows: np.ndarray, predicted: np.ndarray, group: np.ndarray | None) -> HeldOut:
        measured = self.tissue.targets.primary(rows).astype(np.float64)
        section = self.tissue.section[rows]
        return HeldOut(predicted, measured, section if group is None else group, section, self.um[rows])

    def _note(self, stage: str, trained: Trained) -> None:
        table = pd.DataFrame(trained.outcome.records)
        if table.empty:
            return
        columns = ("epoch", "loss", "primary_loss", "val_pcc", "select_pcc", "k", "settled_k", "threshold", "seconds")
        table = table.reindex(columns=list(columns)).astype(np.float64)
        table.insert(0, "stage", stage)
        table["epoch"] = table["epoch"].astype(np.int64)
        self.records.append(table)


def _select_score(trained: Trained) -> float:
    """Return the correlation on the select part at the best epoch; -1, which is never best, where there was no epoch."""
    best = [one for one in trained.outcome.records if one["epoch"] == trained.outcome.best_epoch]
    return best[0]["select_pcc"] if best else -1.0


def _columns(adata: AnnData, wanted: list[str], scale: str) -> sparse.csr_matrix:
    """Return expression of the wanted genes, CSR (spot, gene), in that order; genes that are not measured are 0."""
    values = fields.expression_sparse(adata, scale=scale)
    place = adata.var_names.get_indexer(pd.Index(wanted, dtype=object))
    known = np.flatnonzero(place >= 0)
    pick = sparse.csc_matrix(
        (np.ones(len(known), dtype=np.float32), (place[known], known)), shape=(adata.n_vars, len(wanted))
    )
    found = sparse.csr_matrix(values @ pick)
    found.sort_indices()
    return found


def features_of(model: "AGL", adata: AnnData) -> list[np.ndarray]:
    """Return the image features that the model looks at, float32 (spot, dim) an encoder."""
    blocks = feature_blocks(
        adata, encoder=model.encoder, patch_um=model.patch_um, patch_ratios=model.patch_ratios
    )  # fmt: skip
    if model.square_root:
        blocks = [np.sign(one) * np.sqrt(np.abs(one)) for one in blocks]
    return blocks


def trained_along(model: "AGL") -> str:
    """Return the name of the one encoder that is trained along.

    Raises
    ------
    DataError
        There are several, or it cannot be trained.
    """
    names = encoder_names(model.encoder)
    if len(names) > 1:
        raise DataError('trunk="encoder" trains one encoder', got=f"{len(names)}: {', '.join(names)}",
                        fix='Name one of them as encoder, or use trunk="features".')  # fmt: skip
    if names[0].startswith(PRECOMPUTED):
        backbone_of(names[0], pretrained=False)  # says why it cannot be
    return names[0]


def card_of(model: "AGL") -> EncoderCard:
    """Return the card of the encoder that is trained along."""
    return encoder_card(trained_along(model))


def build_network(model: "AGL", dim: int, n_genes: int, *, pretrained: bool = True) -> SharedNetwork:
    """Return a network of the estimator's shape; its start is drawn from torch's generator."""
    if model.trunk == "encoder":
        backbone, card = backbone_of(trained_along(model), pretrained=pretrained)
        trunk = EncoderTrunk(backbone, card.dim, mean=card.mean, std=card.std, width=model.factors)
        return SharedNetwork(trunk, model.factors or card.dim, n_genes)
    return SharedNetwork(FeatureTrunk(dim, model.factors, hidden=model.hidden), model.factors, n_genes)


def rebuild_member(
    model: "AGL", tensors: dict[str, torch.Tensor], arrays: dict[str, np.ndarray], n_primary: int
) -> Member:
    """Return a saved member."""
    scaler = FeatureScaler(**arrays) if arrays else None
    dim = scaler.components.shape[1] if scaler else 0
    with torch.random.fork_rng(devices=[]):
        network = build_network(model, dim, n_primary, pretrained=False)
    network.load_state_dict(tensors)
    return Member(network.eval().requires_grad_(False), scaler)


def _features_text(model: "AGL") -> str:
    names = encoder_names(model.encoder)
    text = " and ".join(names)
    if len(model.patch_ratios) > 1 and not all(one.startswith(PRECOMPUTED) for one in names):
        text += f", at {', '.join(f'{one:g}' for one in model.patch_ratios)} times the usual patch size"
    return text + (", signed square root" if model.square_root else "")


def methods_text(model: "AGL") -> str:
    """Return the methods paragraph for the options of a fitted model."""
    n_targets, n_auxiliary = len(model.target_genes_), len(model.auxiliary_weights_)
    chosen = (
        f"chosen by {model.target_ranking} on the training spots"
        if isinstance(model.target_genes, int)
        else "given by name"
    )
    if callable(model.ranking):
        ranked = "a user's function"
    else:
        ranked = f"{model.ranking} score" if isinstance(model.ranking, str) else "a given list"
    features = (
        f"{model.components} principal components of the image features ({_features_text(model)})"
        if model.trunk == "features"
        else f"image patches by the encoder {trained_along(model)}, which was trained along,"
    )
    ending = (
        f"The final {model.members} network(s) were trained on all {model._n_spots} spots of {model._n_sections} section(s) "
        f"for {model.epochs_} epochs and averaged. Predictions were brought to the unit {model.target_scale} by a line a gene, "
        f"fitted on predictions of {model._n_groups} held-out group(s)"
        if model.refit
        else f"Predictions were brought to the unit {model.target_scale} by a line a gene, fitted on the spots that selected and "
        "stopped the training"
    )
    return (
        f"Expression of {n_targets} target genes, {chosen}, was predicted from {features} by auxiliary gene learning: one trunk "
        f"with {model.factors or 'the encoder’s'} shared factors and a linear head a gene, trained to maximise Pearson's "
        f"correlation of each gene inside each section. Of {n_auxiliary} auxiliary genes, ranked by {ranked}, "
        f"{_NAMES[model.auxiliaries]}; {model.k_} were kept. Spots to fit, select and stop were divided by {model.split_}. "
        f"{ending}. Predictive intervals are split conformal with these predictions, every group counting alike; a gene is "
        f"trusted if its held-out correlation exceeds that of block-permuted predictions (q <= {model.false_discovery:g}, "
        f"Benjamini-Hochberg, {model.permutations} permutations); {int(model.gene_table_['trusted'].sum())} of {n_targets} were."
    )
