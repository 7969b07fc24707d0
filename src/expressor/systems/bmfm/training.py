"""Pretraining: the network with its heads, what of a batch is masked and compared, and the course of it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor, nn

from expressor.core.errors import DataError
from expressor.data.stream import CellBatch, Stream
from expressor.systems.bmfm import equations
from expressor.systems.bmfm.corpus import Labels, Reading
from expressor.systems.bmfm.network import CellNetwork, LabelHeads, ProfileHead, TokenHead
from expressor.systems.bmfm.objectives import Objective, Outputs, Targets, judged_loss, total_loss
from expressor.train import loop
from expressor.train.plan import TrainPlan

_JUDGED = 2048  # held-out cells that judge an epoch, at most


@dataclass(frozen=True, kw_only=True)
class Masking:
    """What masked modelling hides.

    Attributes
    ----------
    share
        Share of a cell's tokens that are selected, in (0, 1).
    hidden, switched
        Shares of the selected that are hidden, and that get the gene or value of another place; the rest stay as they are.
    together
        Whether the same places lose gene and value.
    adaptive
        Weigh genes by their error: after each epoch, those that were restored worst are masked most.
    temperature
        Weights are raised to its inverse, > 0.
    """

    share: float = 0.15
    hidden: float = 0.95
    switched: float = 0.0
    together: bool = False
    adaptive: bool = False
    temperature: float = 1.0


class Learner(nn.Module):
    """Network and heads as one module, whose ``forward`` gives the losses of a batch.

    Parameters
    ----------
    network
        The network.
    objectives
        What it is trained for.
    masking
        What masked modelling hides.
    profile, token, labels
        Heads; None where no objective needs them.
    below
        Column -> bool (node, class) of hierarchical labels.
    """

    def __init__(
        self,
        network: CellNetwork,
        objectives: tuple[Objective, ...],
        masking: Masking,
        *,
        profile: ProfileHead | None,
        token: TokenHead | None,
        labels: LabelHeads | None,
        below: Mapping[str, np.ndarray],
    ) -> None:
        super().__init__()
        self.network, self.profile, self.token, self.labels = network, profile, token, labels
        self.objectives, self.masking = objectives, masking
        self.below = dict(below)
        n_genes = network.gene.num_embeddings
        self.log_theta = nn.Parameter(torch.zeros(n_genes)) if self._needs("counts") else None
        self.gene_weight: Tensor
        self.register_buffer("gene_weight", torch.ones(n_genes))

    def _needs(self, *sources: str) -> bool:
        return any(one.source in sources for one in self.objectives)

    @property
    def masks(self) -> bool:
        """Whether the input is masked."""
        return self._needs("genes", "values")

    @property
    def masks_values(self) -> bool:
        """Whether masked values are restored."""
        return self._needs("values")

    def forward(self, batch: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Return ``"loss"`` and the losses of the objectives."""
        outputs, targets, _ = self.run(batch)
        return total_loss(self.objectives, outputs, targets)

    def run(self, batch: Mapping[str, Tensor]) -> tuple[Outputs, Targets, Tensor]:
        """Return outputs, targets and the encoder's output."""
        genes, values = batch["genes"], batch["values"]
        outputs, targets = Outputs(), Targets(labels={}, leaves={})
        hidden: dict[str, Tensor] = {}
        truth = batch.get("label_values", values)
        shown_genes, shown_values = genes, values
        if self.masks:
            shown_genes, shown_values, hidden = self._mask(batch)
        encoded = self.network(
            shown_genes, shown_values, hidden.get("hidden_genes"), hidden.get("hidden_values"), batch.get("depth"),
            None if self.masks else self.network.cells, batch["measured"],
        )  # fmt: skip
        if self.masks:
            self._read_tokens(encoded[:, self.network.before :], hidden, genes, truth, outputs, targets)
        if self.profile is not None:
            self.decode(encoded, outputs)
            targets.profile, targets.counts, targets.library = (batch.get(k) for k in ("profile", "counts", "library"))
            sets = {one.on for one in self.objectives} | {"all"}
            targets.wanted = {one: equations.target_set(genes, batch["measured"], one) for one in sets}
        for one in self.objectives:
            if one.source == "label" and self.labels is not None:
                outputs.labels[one.column] = self.labels(encoded[:, one.cell_token], one.column, one.reversal)  # type: ignore
                targets.labels[one.column] = batch[f"label:{one.column}"]  # type: ignore[index]
                if one.column in self.below:
                    leaves = torch.from_numpy(self.below[one.column])
                    targets.leaves[one.column] = leaves.to(genes.device)  # type: ignore[index]
        return outputs, targets, encoded

    def decode(self, encoded: Tensor, outputs: Outputs | None = None) -> Outputs:
        """Fill in what the head of the whole cell says of the encoder's output, and return it."""
        outputs = Outputs() if outputs is None else outputs
        head = _present(self.profile, "whole-cell")
        place = next(one.cell_token for one in self.objectives if one.source in ("profile", "counts"))
        outputs.value, outputs.zero = head(encoded[:, place], self.network.gene.weight)
        outputs.theta = None if self.log_theta is None else self.log_theta.exp()
        return outputs

    def expected_of_tokens(self, tokens: Tensor, zero: Tensor) -> Tensor:
        """Return the expected values of masked places, (place,), from their vectors.

        ``zero`` are the logits of a zero, for a network that was shown none and cannot tell.
        """
        head = _present(self.token, "token")
        inside = head.inside(tokens)
        if head.level is not None:
            levels = torch.arange(head.level.out_features, dtype=inside.dtype, device=inside.device)
            return torch.softmax(head.level(inside), dim=1) @ levels
        value, own = head.value(inside).unbind(1)
        knows = any((one.source, one.loss) == ("values", "is_zero") for one in self.objectives)
        return torch.sigmoid(-(own if knows else zero)) * value

    def _mask(self, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """Return what is shown of genes and values, and which places were selected and hidden."""
        genes, values, chance = batch["genes"], batch["values"], batch["chance"]
        keep, masking = genes >= 0, self.masking
        weight = self.gene_weight[genes.clamp(min=0).long()] ** (1 / masking.temperature)
        p = equations.mask_probability(weight, keep, masking.share)
        found, shown = {}, {"genes": genes, "values": values}
        for i, name in enumerate(("genes", "values")):
            u, kind = chance[..., 0 if masking.together else 2 * i :].unbind(-1)[:2]
            selected, hidden, switched = equations.choose_masked(u, kind, p, masking.hidden, masking.switched)
            wanted = self._needs(name)
            found[f"selected_{name}"] = selected & wanted
            found[f"hidden_{name}"] = hidden & wanted
            other = torch.roll(shown[name], 1, dims=1)
            shown[name] = torch.where(switched & wanted & torch.roll(keep, 1, dims=1), other, shown[name])
        return shown["genes"], shown["values"], found

    def _read_tokens(
        self,
        tokens: Tensor,
        hidden: Mapping[str, Tensor],
        genes: Tensor,
        truth: Tensor,
        outputs: Outputs,
        targets: Targets,
    ) -> None:
        """Heads look at the selected places alone."""
        head = _present(self.token, "token")
        at = hidden["selected_values"]
        inside = head.inside(tokens[at])
        outputs.token_value, outputs.token_zero = head.value(inside).unbind(1)
        targets.token_value = truth[at]
        if head.level is not None:
            outputs.token_level = head.level(inside)
        if head.gene is not None:
            at = hidden["selected_genes"]
            outputs.token_gene = head.gene(head.inside(tokens[at]))
            targets.token_gene = genes[at].long()


def _present(head: Any, name: str) -> Any:
    """Return the head, or raise :class:`~expressor.core.errors.DataError` where it was not built."""
    if head is None:
        raise DataError(f"this network has no {name} head", fix="Train it with an objective that has one.")
    return head


class WarmAdamW(torch.optim.AdamW):
    """AdamW whose step size rises in a line over the first ``warm_up`` steps.

    Parameters
    ----------
    parameters, lr, weight_decay, betas
        As of AdamW.
    warm_up
        Steps, >= 0.
    """

    def __init__(
        self, parameters: Any, *, lr: float, weight_decay: float, betas: tuple[float, float], warm_up: int
    ) -> None:
        super().__init__(parameters, lr=lr, weight_decay=weight_decay, betas=betas)
        for group in self.param_groups:
            group.update(top=lr, warm_up=warm_up, taken=0)

    def step(self, closure: Any = None) -> Any:
        """Take one step."""
        for group in self.param_groups:
            group["taken"] += 1
            group["lr"] = group["top"] * min(1.0, group["taken"] / max(1, group["warm_up"]))
        return super().step(closure)


class Batches(Sequence[Mapping[str, Tensor]]):
    """The batches of an epoch as tensors, each a pure function of seed, epoch, step and rank."""

    def __init__(
        self, parts: Sequence[CellBatch], reading: Reading, labels: Labels, *, whole: bool, masked: bool
    ) -> None:
        self.parts, self.reading, self.labels = parts, reading, labels
        self.wanted = {"whole": whole, "masked": masked}

    def __len__(self) -> int:
        return len(self.parts)

    def __iter__(self) -> Iterator[Mapping[str, Tensor]]:
        return (self[i] for i in range(len(self)))

    def __getitem__(self, item: Any) -> Any:
        part = self.parts[item]
        found = self.reading.batch(part.rows, part.matrix, part.seeds, **self.wanted)
        return found | labels_at(self.labels, part.rows)


def labels_at(labels: Labels, rows: np.ndarray) -> dict[str, Tensor]:
    """Return the codes of each column's labels at these rows."""
    return {f"label:{name}": torch.from_numpy(codes[rows]) for name, codes in labels.codes.items()}


class Judge:
    """Held-out cells that judge each epoch: losses, and how much of the variance above the gene means is explained."""

    def __init__(self, judged: Reading, rows: np.ndarray, labels: Labels, batch_size: int, *, masked: bool) -> None:
        self.batches = []
        self.mean = torch.from_numpy(judged.moments.mean).float()
        for start in range(0, min(len(rows), _JUDGED), batch_size):
            part = rows[start : start + batch_size]
            batch = judged.batch(part, judged.corpus.blocks.read(part), None, whole=True, masked=masked)
            self.batches.append(batch | labels_at(labels, part))

    def validate(self, learner: Learner) -> dict[str, float]:
        """Return mean losses, and ``val_r2`` where whole cells are decoded; adaptive weights are brought up to date."""
        device = learner.gene_weight.device
        sums: dict[str, float] = {}
        n_genes = len(self.mean)
        about, around = torch.zeros(n_genes, device=device), torch.zeros(n_genes, device=device)
        error, count = torch.zeros(n_genes, device=device), torch.zeros(n_genes, device=device)
        for held in self.batches:
            batch = {name: one.to(device) for name, one in held.items()}
            outputs, targets, _ = learner.run(batch)
            losses = total_loss(learner.objectives, outputs, targets)
            losses["loss"] = judged_loss(learner.objectives, losses)
            for name, value in losses.items():
                sums[f"val_{name}"] = sums.get(f"val_{name}", 0.0) + float(value) / len(self.batches)
            if outputs.value is not None:
                mine = expected_values(learner, outputs, targets.wanted["all"])
                parts = equations.explained_above_mean(
                    mine, batch["profile"], self.mean.to(device), targets.wanted["all"]
                )
                about, around = about + parts[0], around + parts[1]
                error, count = error + parts[0], count + targets.wanted["all"].sum(0)
            elif outputs.token_value is not None and targets.token_value is not None:
                _, _, hidden = learner._mask(batch)
                at = batch["genes"][hidden["selected_values"]].long()
                error.index_add_(0, at, (outputs.token_value - targets.token_value).square())
                count.index_add_(0, at, torch.ones_like(targets.token_value))
        if learner.masking.adaptive:
            nothing = torch.full_like(error, torch.nan)
            learner.gene_weight.copy_(equations.adaptive_weight(torch.where(count > 0, error / count, nothing)))
        if around.sum() > 0:
            sums["val_r2"] = float(1 - about.sum() / around.sum())
        return sums


def expected_values(learner: Learner, outputs: Outputs, measured: Tensor) -> Tensor:
    """Return the expected value of each gene (cell, gene), on the scale of log1p of counts per ten thousand."""
    if learner.log_theta is None:
        return torch.sigmoid(-outputs.zero) * outputs.value  # type: ignore[operator]
    share = torch.softmax(outputs.value.masked_fill(~measured, -torch.inf), dim=1)  # type: ignore[union-attr]
    if any(one.loss == "zinb" for one in learner.objectives):
        share = share * torch.sigmoid(-outputs.zero)  # type: ignore[operator]
    return torch.log1p(1e4 * share)


@dataclass(frozen=True, eq=False)
class Judged:
    """Cells that judge: how they become tensors, which of them, and their labels."""

    reading: Reading
    rows: np.ndarray
    labels: Labels


def pretrain(
    learner: Learner,
    reading: Reading,
    rows: np.ndarray,
    labels: Labels,
    judged: Judged,
    *,
    plan: TrainPlan,
    warm_up: int,
    betas: tuple[float, float],
    seed: int,
    balance: str | None,
    resume: Path | None,
    identity: str,
) -> pd.DataFrame:
    """Train in place and return one row an epoch; the learner ends with the weights of the lowest loss on held-out cells.

    Parameters
    ----------
    learner
        The network with its heads.
    reading, rows, labels
        The cells that train: how they become tensors, which of them, and their labels.
    judged
        Those that judge.
    plan, seed, resume, identity
        As for :func:`expressor.train.loop.run`.
    warm_up, betas
        Of the optimiser.
    balance
        Column of ``obs`` whose classes are drawn equally often.
    """
    source = Stream(
        reading.corpus.blocks, batch_size=min(plan.batch_size, len(rows)), seed=seed, rows=rows, balance=balance
    )
    wanted = {"whole": learner.profile is not None, "masked": learner.masks}
    judge = Judge(judged.reading, judged.rows, judged.labels, plan.batch_size, masked=learner.masks)
    training = loop.Training(
        leaves_parts_out=True,
        module=learner,
        batches=lambda epoch, rank, world: Batches(source.batches(epoch, rank, world), reading, labels, **wanted),
        loss=lambda module, batch: module(batch),
        optimizer=lambda parameters: WarmAdamW(
            parameters, lr=plan.lr, weight_decay=plan.weight_decay, betas=betas, warm_up=warm_up
        ),
        validate=lambda module: judge.validate(unwrapped(module)),
        monitor="val_loss",
        direction="min",
    )
    outcome = loop.run(training, plan, seed=seed, phase="pretrain", resume=resume, identity=identity)
    learner.cpu().eval()
    return pd.DataFrame(outcome.records).assign(stage="pretrain")


def unwrapped(module: Any) -> Any:
    """Return the module inside what several processes wrap it in."""
    while hasattr(module, "module"):
        module = module.module
    return module
