"""The estimator: parameters, fit, and what a fitted model gives."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, final

import numpy as np
import pandas as pd

from expressor.core.errors import DataError
from expressor.data import fields
from expressor.data.blocks import is_read_in_parts
from expressor.estimator.base import Estimator, State
from expressor.estimator.labelling import judge_labels, most_likely
from expressor.estimator.roles import Encodes, Imputes, Predicts
from expressor.genes.orthologs import Orthologs
from expressor.systems.bmfm import saving
from expressor.systems.bmfm.corpus import Corpus, Reading, open_corpus
from expressor.systems.bmfm.fitted import Fitted, device_of, embed, expected, logits, to_counts
from expressor.systems.bmfm.fitting import Fitting, warn_of_lost_genes
from expressor.systems.bmfm.judging import judge_expression
from expressor.systems.bmfm.objectives import Objective
from expressor.systems.bmfm.parameters import check_parameters
from expressor.systems.bmfm.species import Translation, translate
from expressor.systems.bmfm.training import Masking
from expressor.systems.bmfm.writing import methods_text
from expressor.train.plan import TrainPlan


@final
@dataclasses.dataclass(kw_only=True, eq=False, repr=False)
class BMFM(Estimator, Predicts, Encodes, Imputes):
    """Pretrain on raw counts of cells; represent cells, tell their type, restore what was not measured.

    Data are an AnnData, the path of an h5ad file or a zarr folder, a folder of such, or a list of any of these as one. What is on
    disk is read in parts, and never held whole.

    Parameters
    ----------
    objectives
        What the network is pretrained for: names joined by ``+`` (``"wced"``, ``"wced-v1"``, ``"wced-expected"``, ``"mlm"``,
        ``"mlm-zeros"``, ``"nb"``, ``"zinb"``), or a tuple of :class:`~expressor.systems.bmfm.objectives.Objective`. ``""`` or
        ``()``: nothing; the weights stay random, or those of ``start_from``.
    label
        Column of ``obs`` to tell; gaps are allowed.
    finetune
        How: ``"probe"`` (logistic regression on the vectors of cells), ``"full"`` or ``"lora"`` (the network is trained on from the
        probe, if held-out cells gain), or ``"none"`` (by the head of an objective of that label).
    start_from
        Folder of a saved BMFM, or of a published checkpoint in Hugging Face's layout (``config.json``, ``model.safetensors``,
        ``tokenizers/genes``). Sizes, genes (unless ``vocabulary`` is given), tokens and pooling are then its own.
    layer
        Layer with the raw counts; ``X`` if None.
    vocabulary
        The model's genes: names, or a file with one a line. None: those of the data, or of ``start_from``.
    ontology
        File with the edges of hierarchical labels (see :func:`expressor.systems.bmfm.ontology.read_edges`).
    balance
        Column of ``obs`` whose classes are drawn equally often in pretraining.
    max_length, order, zeros, interleave, expressed_only, bins, n_bins
        As of :class:`~expressor.data.tokens.Tokeniser`; ``bins`` where values are binned.
    sequence_dropout
        Share of a cell's expressed genes that are not shown in pretraining, in [0, 1).
    read_depth
        ``"rda"``: every second cell is thinned in pretraining, and tokens tell the depths. None: not.
    target_depth
        Depth that the network is told to aim at in use, in counts, > 0; None: the largest of the training cells.
    value_encoder
        ``"rectified"``, ``"waves"``, ``"doubling_waves"`` or ``"bins"``.
    value_hidden
        Units of the hidden layer of ``"rectified"`` (the authors': 128), >= 1.
    dim, layers, heads, hidden, dropout
        Width, blocks, attention heads, units of hidden layers, dropout in [0, 1).
    style
        Blocks as of ``"bert"`` or of ``"llama"``.
    cell_tokens
        Number of tokens that stand for the cell, >= 1; objectives name the one they read.
    product
        Tokens hold the value times a turned gene vector too (equation I3).
    placed
        Cell tokens start from the cell's place among its genes' vectors (equation I7), instead of alike for all cells.
    gene_vectors
        Start of the gene table: ``"loadings"`` (principal loadings of the training cells, equation I4) or ``"random"``.
    decoder
        Of the whole cell: ``"linear"``, ``"query"`` or ``"vectors"``.
    masking
        What masked modelling hides.
    pooling
        Which vector stands for a cell: ``"cell"``, ``"mean"``, the number of a cell token, or several joined by ``+``; None:
        ``"cell"``, or what belongs to ``start_from``.
    checkpointing
        Less memory, more time (see :class:`~expressor.nn.encoder.SetEncoder`).
    strength
        Inverse penalty of the probe, > 0, on vectors of mean square 1; None: chosen in folds of the labelled cells.
    focal
        Gamma of the focal loss in fine-tuning, >= 0; 0 for cross-entropy.
    lora_rank, lora_alpha
        Rank >= 1 and strength > 0 of low-rank additions.
    warm_up
        Steps over which the step size rises, >= 0.
    betas
        Of AdamW, in pretraining.
    validation
        Share of the cells that judge the training, in (0, 1), unless ``val=`` is given.
    random_state
        Seed, >= 0.
    plan, tuning
        Settings of pretraining and of fine-tuning.

    Attributes
    ----------
    classes_
        Classes of ``label``, in alphabetical order; empty without one.
    gene_report_
        How the genes of the training data line up with the model's.
    gene_table_
        One row a gene: ``share`` of a cell's counts, ``mean`` value, mean where it is ``positive``, ``zeros`` (share of cells).
    history_
        One row an epoch of each stage. The least ``val_loss`` chooses the weights; labels that are unlearnt are not in it.
        ``val_r2`` is the share of the variance around gene means that held-out cells' expected values explain.
    """

    streams: ClassVar[bool] = True

    objectives: str | tuple[Objective, ...] = "wced"
    label: str | None = None
    finetune: Literal["none", "probe", "full", "lora"] = "probe"
    start_from: str | None = None
    layer: str | None = None
    vocabulary: str | tuple[str, ...] | None = None
    ontology: str | None = None
    balance: str | None = None
    max_length: int = 1024
    order: Literal["random", "sorted", "none"] = "random"
    zeros: Literal["none", "random", "batch"] = "none"
    interleave: float = 1.0
    expressed_only: float = 0.0
    bins: Literal["round", "floor", "ceil", "quantile"] = "quantile"
    n_bins: int = 50
    sequence_dropout: float = 0.5
    read_depth: Literal["rda"] | None = None
    target_depth: float | None = None
    value_encoder: Literal["rectified", "waves", "doubling_waves", "bins"] = "rectified"
    value_hidden: int = 32
    dim: int = 64
    layers: int = 1
    heads: int = 4
    hidden: int = 128
    dropout: float = 0.0
    style: Literal["bert", "llama"] = "llama"
    cell_tokens: int = 1
    product: bool = True
    placed: bool = True
    gene_vectors: Literal["random", "loadings"] = "loadings"
    decoder: Literal["linear", "query", "vectors"] = "vectors"
    masking: Masking = dataclasses.field(default_factory=Masking)
    pooling: str | None = None
    checkpointing: bool = False
    strength: float | None = None
    focal: float = 0.0
    lora_rank: int = 16
    lora_alpha: float = 32.0
    warm_up: int = 50
    betas: tuple[float, float] = (0.9, 0.99)
    validation: float = 0.1
    random_state: int = 0
    plan: TrainPlan = dataclasses.field(
        default_factory=lambda: TrainPlan(
            lr=5e-4, weight_decay=1e-2, batch_size=32, epochs=40, patience=5, clip_norm=0.5
        )
    )
    tuning: TrainPlan = dataclasses.field(
        default_factory=lambda: TrainPlan(
            lr=1e-4, weight_decay=1e-2, batch_size=64, epochs=10, patience=3, clip_norm=0.5
        )
    )

    # Fitting ---------------------------------------------------------------------------------------------------------

    def _check(self) -> None:
        check_parameters(self)

    def _fit(self, adata: Any, *, val: Any, resume: Path | None) -> None:
        fitted = Fitting(self, adata, val, resume).run()
        self.genes_in_, self.history_ = fitted.genes, fitted.history
        self._take(fitted)

    def _take(self, fitted: Fitted) -> None:
        self._fitted = fitted
        self.classes_, self.gene_report_ = fitted.label_classes, fitted.report
        moments = fitted.moments
        self.gene_table_ = pd.DataFrame(
            {"share": moments.share, "mean": moments.mean, "positive": moments.positive,
             "zeros": 1 / (1 + np.exp(-moments.zero))},
            index=pd.Index(list(fitted.genes), dtype=object),
        )  # fmt: skip

    # Cells -----------------------------------------------------------------------------------------------------------

    def _corpus(self, data: Any) -> Corpus:
        self._check_fitted()
        if not is_read_in_parts(data):
            data = fields.read(data)
        corpus = open_corpus(data, layer=self.layer, genes=self.genes_in_)
        warn_of_lost_genes(corpus)
        return corpus

    def _reading(self, data: Any) -> tuple[Reading, pd.Index]:
        corpus = self._corpus(data)
        return self._fitted.reading(corpus), corpus.blocks.obs.index.copy()

    def transform(self, data: Any) -> np.ndarray:
        """Represent cells by the pretrained network, without their labels.

        Parameters
        ----------
        data
            Raw counts of cells. Genes that the model does not know are ignored; NaN, and genes that are absent, were not measured.

        Returns
        -------
        float32 (cell, dim).

        Raises
        ------
        DataError
            These are no raw counts, or a cell has none of the model's genes.
        GeneError
            No gene of the model is there.
        """
        reading, _ = self._reading(data)
        return embed(self._fitted.network, reading, self._fitted.pooling, device=device_of(self.plan))

    def predict(self, data: Any) -> pd.DataFrame:
        """Predict the label of every cell.

        Parameters
        ----------
        data
            As for :meth:`transform`.

        Returns
        -------
        (cell, 1): the column is named after ``label``.
        """
        return most_likely(self.predict_proba(data), str(self.label))

    def predict_proba(self, data: Any) -> pd.DataFrame:
        """Predict the probability of every class of the label.

        Parameters
        ----------
        data
            As for :meth:`transform`.

        Returns
        -------
        float32 (cell, class).

        Raises
        ------
        NotFittedError
            The model was fitted without a label.
        """
        reading, names = self._reading(data)
        output = logits(self._fitted, reading, str(self.label), device=device_of(self.plan)).astype(np.float64)
        chance = np.exp(output - output.max(axis=1, keepdims=True))
        chance /= chance.sum(axis=1, keepdims=True)
        return pd.DataFrame(chance.astype(np.float32), index=names, columns=list(self.classes_))

    def impute(self, data: Any) -> np.ndarray:
        """Restore the counts of genes that were not measured: those that the data lack, and NaN.

        A count is restored as what its expected logarithm says at the cell's own depth.

        Parameters
        ----------
        data
            As for :meth:`transform`.

        Returns
        -------
        float32 (cell, gene), genes in the order of ``genes_in_``; measured counts as they came. It is dense.

        Raises
        ------
        NotFittedError
            No objective of the fit restores expression.
        """
        reading, _ = self._reading(data)
        values = expected(self._fitted, reading, device=device_of(self.plan))
        for rows, counts in reading.corpus.parts():
            measured = reading.corpus.measured(rows)
            library = reading.moments.library(counts, measured)
            values[rows] = np.where(measured, counts.toarray(), to_counts(values[rows], library))
        return values

    def expected_expression(self, data: Any) -> pd.DataFrame:
        """Return what the cell's vector says of every gene: a denoised profile.

        Parameters
        ----------
        data
            As for :meth:`transform`.

        Returns
        -------
        float32 (cell, gene): log1p of counts per ten thousand, zeros weighed in.
        """
        reading, names = self._reading(data)
        values = expected(self._fitted, reading, device=device_of(self.plan))
        found = pd.DataFrame(values, index=names, columns=list(self.genes_in_))
        found.attrs["unit"] = "log1p(counts per 10,000)"
        return found

    # Genes -----------------------------------------------------------------------------------------------------------

    def match_genes(self, data: Any) -> pd.DataFrame:
        """Say which genes of the model the data hold, before anything is computed.

        Returns
        -------
        One row a gene of the model: a column of truth for each source of the data. ``.attrs["report"]`` says it in words.
        """
        corpus = self._corpus(data)
        names = getattr(corpus.blocks, "source_names", ["data"])
        table = pd.DataFrame(
            corpus.blocks.measured.T, index=pd.Index(list(self.genes_in_), dtype=object), columns=names
        )
        table.attrs["report"] = corpus.blocks.report()
        return table

    def translate(self, data: Any, orthologs: Orthologs, *, species: str, merge: bool = False) -> Translation:
        """Name the genes of another species as the model does, through orthologs.

        Parameters
        ----------
        data
            Raw counts of cells of ``species``.
        orthologs
            Between it and the species of the model, such as :func:`expressor.genes.human_mouse`.
        species
            The data's, as the table names it.
        merge
            Add up the counts of several genes that descend from one of the model's; otherwise these genes are lost.

        Returns
        -------
        The translated cells, and a report of what was matched, merged and lost.
        """
        self._check_fitted()
        return translate(fields.read(data), self.genes_in_, orthologs, species=species, layer=self.layer, merge=merge)

    # What the base class asks for --------------------------------------------------------------------------------------

    def _evaluate(self, adata: Any) -> pd.DataFrame:
        if self.classes_ and self.label in adata.obs:
            known = adata.obs[self.label].notna().to_numpy()
            if not known.any():
                raise DataError(f"no cell has a {self.label}", fix="Give cells whose label is known.")
            seen = adata if known.all() else adata[known].copy()
            chance = self.predict_proba(seen)
            said = most_likely(chance, str(self.label))[str(self.label)]
            return judge_labels(seen.obs[self.label], said, chance, seen, seed=self.random_state)
        return judge_expression(self._fitted, self._reading(adata)[0], adata, plan=self.plan, seed=self.random_state)

    def _annotations(self, adata: Any, key: str) -> Mapping[str, Mapping[str, Any]]:
        vectors = self.transform(adata)
        obsm: dict[str, Any] = {key: vectors}
        obs: dict[str, Any] = {}
        layers: dict[str, Any] = {}
        if self.classes_:
            chance = self.predict_proba(adata)
            said = most_likely(chance, str(self.label))
            obsm = {key: said, f"{key}_proba": chance, f"{key}_vectors": vectors}
            obs = {f"{key}_{self.label}": pd.Categorical(said[str(self.label)]),
                   f"{key}_probability": chance.max(axis=1).to_numpy()}  # fmt: skip
        corpus = self._corpus(adata)
        if corpus.gaps is not None and self._fitted.restores:
            full = pd.DataFrame(self.impute(adata), columns=list(self.genes_in_))
            layers[f"{key}_restored"] = full.reindex(columns=list(adata.var_names)).to_numpy(dtype=np.float32)
        return {"obsm": obsm, "obs": obs, "layers": layers}

    def _state(self) -> State:
        return saving.state_of(self._fitted)

    def _restore(self, state: State) -> None:
        self._take(saving.rebuild(self, state))

    def _methods(self) -> str:
        return methods_text(self, self._fitted)
