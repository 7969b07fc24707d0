"""What a network is made of, as plain values; and the network and its heads made from them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

from expressor.core.errors import DataError, check_choice, check_range
from expressor.nn.encoder import SetEncoder
from expressor.nn.values import BinnedValues, RectifiedValues, WaveValues
from expressor.systems.bmfm.network import DECODERS, CellNetwork, LabelHeads, ProfileHead, TokenHead
from expressor.systems.bmfm.objectives import Objective
from expressor.systems.bmfm.training import Learner, Masking

VALUES = ("rectified", "waves", "doubling_waves", "bins")
_WAVES = 48  # frequencies of the authors' networks
_SCALES = {"waves": 1.5, "doubling_waves": 0.01}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """Sizes and kinds of the parts of a network.

    Parameters
    ----------
    dim, layers, heads, hidden, style, dropout, checkpointing
        As of :class:`expressor.nn.encoder.SetEncoder`.
    values
        ``"rectified"``: two layers; ``"waves"``: sines and cosines at learnt frequencies; ``"doubling_waves"``: at fixed ones that
        double; ``"bins"``: a table of ``n_bins`` levels.
    n_bins
        >= 3.
    value_hidden
        Units of the hidden layer of ``"rectified"``, >= 1.
    wave_features
        Number of frequencies, >= 1.
    zero_vector
        Whether a value of 0 has a vector of its own.
    cells, ends, depth, product, pooler
        As of :class:`~expressor.systems.bmfm.network.CellNetwork`.
    placed
        Whether cell tokens start from the cell's place (equation I7).
    decoder
        Of the whole cell: ``"linear"``, ``"query"``, ``"vectors"``.
    """

    dim: int = 64
    layers: int = 1
    heads: int = 4
    hidden: int = 128
    style: Literal["bert", "llama"] = "llama"
    dropout: float = 0.0
    checkpointing: bool = False
    values: Literal["rectified", "waves", "doubling_waves", "bins"] = "rectified"
    n_bins: int = 50
    value_hidden: int = 128
    wave_features: int = _WAVES
    zero_vector: bool = True
    cells: int = 1
    ends: int = 0
    depth: bool = False
    product: bool = False
    placed: bool = False
    pooler: bool = False
    decoder: Literal["linear", "query", "vectors"] = "linear"

    def check(self) -> None:
        """Raise :class:`~expressor.core.errors.DataError` where a size is out of its range."""
        for name in ("dim", "layers", "heads", "hidden", "value_hidden", "wave_features"):
            check_range(getattr(self, name), name=name, low=1, integer=True)
        check_range(self.cells, name="cell_tokens", low=1, integer=True)
        check_range(self.n_bins, name="n_bins", low=3, integer=True)
        check_range(self.dropout, name="dropout", low=0, high=1, open_high=True)
        check_choice(self.style, ("bert", "llama"), name="style")
        check_choice(self.values, VALUES, name="value_encoder")
        check_choice(self.decoder, DECODERS, name="decoder")
        if self.dim % self.heads:
            raise DataError("dim is not a multiple of heads", got=f"dim={self.dim}, heads={self.heads}")

    def value_encoder(self) -> nn.Module:
        """Return a new encoder of values."""
        if self.values == "bins":
            return BinnedValues(torch.arange(self.n_bins - 1) + 0.5, self.dim)
        if self.values == "rectified":
            return RectifiedValues(self.dim, self.value_hidden, table=2 if self.zero_vector else 1)
        scale, trainable = _SCALES[self.values], self.values == "waves"
        return WaveValues(self.dim, self.wave_features, scale=scale, trainable=trainable, zero=self.zero_vector)

    def network(self, vectors: Tensor, mean: Tensor | None = None) -> CellNetwork:
        """Return a new network whose gene table starts from ``vectors``, (gene, dim); ``mean``, (gene,), are mean values."""
        mean = torch.zeros(len(vectors)) if mean is None else mean.float()
        encoder = SetEncoder(
            self.dim, layers=self.layers, heads=self.heads, hidden=self.hidden, style=self.style, dropout=self.dropout,
            checkpointing=self.checkpointing,
        )  # fmt: skip
        return CellNetwork(
            vectors, self.value_encoder(), encoder, cells=self.cells, ends=self.ends, depth=self.depth,
            product=self.product, mean=mean if self.placed else None, pooler=self.pooler, dropout=self.dropout,
        )  # fmt: skip


def build_learner(
    architecture: Architecture,
    network: CellNetwork,
    objectives: tuple[Objective, ...],
    masking: Masking,
    *,
    mean: np.ndarray,
    zero: np.ndarray,
    classes: Mapping[str, tuple[str, ...]],
    below: Mapping[str, np.ndarray],
) -> Learner:
    """Return the network with the heads that its objectives need.

    Parameters
    ----------
    architecture, network, objectives, masking
        What it consists of and what it is trained for.
    mean, zero
        (gene,): what the head of the whole cell starts from (equation I1).
    classes, below
        As in :class:`~expressor.systems.bmfm.corpus.Labels`.
    """
    dim, n_genes = architecture.dim, network.gene.num_embeddings
    sources = {one.source for one in objectives}
    profile = token = labels = None
    if sources & {"profile", "counts"}:
        start = torch.from_numpy(np.asarray(mean)), torch.from_numpy(np.asarray(zero))
        profile = ProfileHead(dim, start[0].float(), start[1].float(), decoder=architecture.decoder)
    if sources & {"genes", "values"}:
        levels = architecture.n_bins if architecture.values == "bins" else 0
        token = TokenHead(dim, n_genes if "genes" in sources else 0, levels)
    columns = dict.fromkeys(one.column for one in objectives if one.source == "label")
    if columns:
        labels = LabelHeads(dim, {name: len(classes[name]) for name in columns})
    return Learner(network, objectives, masking, profile=profile, token=token, labels=labels, below=below)
