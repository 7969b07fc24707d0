"""What a network is trained for: pairs of a source and a loss.

To add an objective, add its loss to :data:`TERMS`: what is compared, and how.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from expressor.core.errors import DataError, check_choice, check_range
from expressor.systems.bmfm import equations
from expressor.train.means import mean_where

Source = Literal["genes", "values", "profile", "counts", "label"]
Loss = Literal[
    "cross_entropy", "mse", "mae", "is_zero", "expected", "nb", "zinb", "focal", "hierarchical", "token_value"
]


@dataclass(frozen=True, kw_only=True)
class Objective:
    """One pair of a source and a loss.

    Parameters
    ----------
    source
        ``"genes"``, ``"values"``: what was masked of the tokens. ``"profile"``: the whole cell's values, from the cell token alone.
        ``"counts"``: the whole cell's counts, likewise. ``"label"``: a column of ``obs``.
    loss
        For genes ``"cross_entropy"``; for values ``"mse"``, ``"mae"`` (of what is not zero), ``"is_zero"``, and where values are
        binned ``"cross_entropy"``, ``"token_value"``; for the profile ``"mse"``, ``"mae"``, ``"is_zero"``, and ``"expected"``
        (squares of the expected value, zeros included); for counts ``"nb"``, ``"zinb"`` (summed over genes, the mean of cells);
        for labels ``"cross_entropy"``, ``"focal"``, ``"hierarchical"``.
    on
        Genes of the whole cell that count: ``"input"``, ``"non_input"``, ``"all"``.
    weight
        >= 0.
    column
        Of ``obs``, for a label.
    gamma
        Of the focal loss, >= 0.
    reversal
        Strength of gradient reversal, >= 0: the label is unlearnt where it is above 0.
    cell_token
        Cell token that a label, or the profile, is read from, >= 0.
    """

    source: Source
    loss: Loss
    on: Literal["input", "non_input", "all"] = "all"
    weight: float = 1.0
    column: str = ""
    gamma: float = 2.0
    reversal: float = 0.0
    cell_token: int = 0

    @property
    def name(self) -> str:
        """Name in the history."""
        where = self.column or self.on
        return f"{self.source}_{self.loss}" if self.source in ("genes", "values") else f"{where}_{self.loss}"

    def check(self) -> None:
        """Raise :class:`~expressor.core.errors.DataError` where source and loss are no pair, or a number is out of range."""
        check_choice(self.source, ("genes", "values", "profile", "counts", "label"), name="source of an objective")
        check_choice(
            self.loss, [loss for source, loss in TERMS if source == self.source], name=f"loss of {self.source}"
        )
        check_choice(self.on, ("input", "non_input", "all"), name="target set")
        check_range(self.weight, name="weight of an objective", low=0)
        check_range(self.gamma, name="gamma", low=0)
        check_range(self.reversal, name="reversal", low=0)
        check_range(self.cell_token, name="cell_token", low=0, integer=True)
        if (self.source == "label") != bool(self.column):
            raise DataError("an objective of a label names its column, and no other does", got=repr(self))


@dataclass
class Outputs:
    """What a network says of a batch; parts that no objective needs are absent.

    Attributes
    ----------
    token_value, token_zero
        (place,) of the places whose value was masked; ``token_level`` (place, class) where values are binned.
    token_gene
        (place, gene) of the places whose gene was masked.
    value, zero
        (cell, gene) of the whole cell.
    theta
        (gene,): inverse dispersions of counts.
    labels
        Column -> logits (cell, class).
    """

    token_value: Tensor | None = None
    token_zero: Tensor | None = None
    token_level: Tensor | None = None
    token_gene: Tensor | None = None
    value: Tensor | None = None
    zero: Tensor | None = None
    theta: Tensor | None = None
    labels: Mapping[str, Tensor] = field(default_factory=dict)


@dataclass
class Targets:
    """What is right; parts as in :class:`Outputs`.

    Attributes
    ----------
    token_value, token_gene
        (place,) true values and genes of masked places.
    profile
        (cell, gene) values of the whole cell; ``library`` (cell,) its counts, of which ``counts`` (cell, gene) is the matrix.
    wanted
        Target set -> bool (cell, gene).
    labels
        Column -> int64 (cell,) classes, or nodes of an ontology; -1 where not known.
    leaves
        Column -> bool (node, class), for hierarchical labels.
    """

    token_value: Tensor | None = None
    token_gene: Tensor | None = None
    profile: Tensor | None = None
    counts: Tensor | None = None
    library: Tensor | None = None
    wanted: Mapping[str, Tensor] = field(default_factory=dict)
    labels: Mapping[str, Tensor] = field(default_factory=dict)
    leaves: Mapping[str, Tensor] = field(default_factory=dict)


Term = Callable[[Outputs, Targets, Objective], Tensor]


def _part(part: Tensor | None, what: str) -> Tensor:
    if part is None:
        raise DataError(f"an objective asks for {what}, and the batch or the network gives none")
    return part


def _of_values(loss: Callable[[Tensor, Tensor, Tensor], Tensor], part: str) -> Term:
    """Return a loss of masked values; ``part`` of the outputs is compared."""

    def term(outputs: Outputs, targets: Targets, one: Objective) -> Tensor:
        said = _part(getattr(outputs, part), "values of masked places")[:, None]
        true = _part(targets.token_value, "true values of masked places")[:, None]
        return loss(said, true, torch.ones_like(true, dtype=torch.bool))

    return term


def _of_levels(loss: Callable[[Tensor, Tensor], Tensor]) -> Term:
    """Return a loss of masked values in bins."""

    def term(outputs: Outputs, targets: Targets, one: Objective) -> Tensor:
        true = _part(targets.token_value, "true values of masked places")
        return loss(_part(outputs.token_level, "bins of masked values"), true.long())

    return term


def _of_profile(loss: Callable[[Tensor, Tensor, Tensor], Tensor], part: str) -> Term:
    """Return a loss of the whole cell; ``part`` of the outputs is compared."""

    def term(outputs: Outputs, targets: Targets, one: Objective) -> Tensor:
        said = _part(getattr(outputs, part), "the whole cell")
        return loss(said, _part(targets.profile, "the whole cell's values"), targets.wanted[one.on])

    return term


def _genes(outputs: Outputs, targets: Targets, one: Objective) -> Tensor:
    said = _part(outputs.token_gene, "genes of masked places")
    return equations.class_loss(said, _part(targets.token_gene, "true genes of masked places"))


def _expected(outputs: Outputs, targets: Targets, one: Objective) -> Tensor:
    seen = torch.sigmoid(-_part(outputs.zero, "logits of zeros"))
    errors = (
        seen * _part(outputs.value, "the whole cell") - _part(targets.profile, "the whole cell's values")
    ).square()
    return mean_where(errors, targets.wanted[one.on])


def _counts(outputs: Outputs, targets: Targets) -> tuple[Tensor, Tensor, Tensor]:
    """Return counts, their means, and inverse dispersions; the measured genes share the library."""
    logits = _part(outputs.value, "the whole cell").masked_fill(~targets.wanted["all"], -torch.inf)
    mu = _part(targets.library, "libraries")[:, None] * torch.softmax(logits, dim=1)
    return _part(targets.counts, "counts"), mu, _part(outputs.theta, "dispersions")


def _mean_of_cells(likely: Tensor, wanted: Tensor) -> Tensor:
    cells = torch.where(wanted, likely, 0.0).sum(1)
    return -mean_where(cells, torch.ones_like(cells, dtype=torch.bool))


def _nb(outputs: Outputs, targets: Targets, one: Objective) -> Tensor:
    return _mean_of_cells(equations.negative_binomial(*_counts(outputs, targets)), targets.wanted[one.on])


def _zinb(outputs: Outputs, targets: Targets, one: Objective) -> Tensor:
    x, mu, theta = _counts(outputs, targets)
    likely = equations.zero_inflated(x, mu, theta, _part(outputs.zero, "logits of zeros"))
    return _mean_of_cells(likely, targets.wanted[one.on])


TERMS: dict[tuple[str, str], Term] = {
    ("genes", "cross_entropy"): _genes,
    ("values", "mse"): _of_values(equations.value_loss, "token_value"),
    ("values", "mae"): _of_values(equations.absolute_loss, "token_value"),
    ("values", "is_zero"): _of_values(equations.zero_loss, "token_zero"),
    ("values", "cross_entropy"): _of_levels(equations.class_loss),
    ("values", "token_value"): _of_levels(equations.token_value_loss),
    ("profile", "mse"): _of_profile(equations.value_loss, "value"),
    ("profile", "mae"): _of_profile(equations.absolute_loss, "value"),
    ("profile", "is_zero"): _of_profile(equations.zero_loss, "zero"),
    ("profile", "expected"): _expected,
    ("counts", "nb"): _nb,
    ("counts", "zinb"): _zinb,
    ("label", "cross_entropy"): lambda o, t, one: equations.class_loss(o.labels[one.column], t.labels[one.column]),
    ("label", "focal"): lambda o, t, one: equations.focal_loss(o.labels[one.column], t.labels[one.column], one.gamma),
    ("label", "hierarchical"): lambda o, t, one: equations.hierarchical_loss(
        o.labels[one.column], t.labels[one.column], t.leaves[one.column]
    ),
}
"""(source, loss) -> the loss of a batch. One entry more is one objective more."""


def total_loss(objectives: tuple[Objective, ...], outputs: Outputs, targets: Targets) -> dict[str, Tensor]:
    """Return the weighted sum as ``"loss"``, and each objective's own loss by its name.

    Raises
    ------
    DataError
        Two objectives have one name, or one asks for what the batch or the network does not give.
    """
    if len({one.name for one in objectives}) < len(objectives):
        raise DataError("two objectives have one name", got=", ".join(one.name for one in objectives),
                        fix="Give each pair of source and loss once, with its whole weight.")  # fmt: skip
    parts = {one.name: TERMS[one.source, one.loss](outputs, targets, one) for one in objectives}
    return {"loss": _weighted(objectives, parts), **{name: value.detach() for name, value in parts.items()}}


def judged_loss(objectives: tuple[Objective, ...], parts: Mapping[str, Tensor]) -> Tensor:
    """Return the loss by which held-out cells judge, from each objective's own: labels that are unlearnt do not count.

    Their loss rises as the network forgets them, and the weights of before would be kept.
    """
    kept = tuple(one for one in objectives if not one.reversal)
    return _weighted(kept or objectives, parts)


def _weighted(objectives: tuple[Objective, ...], parts: Mapping[str, Tensor]) -> Tensor:
    return sum((one.weight * parts[one.name] for one in objectives), torch.zeros(()))


def mlm(*, gene_weight: float = 0.7, zero_weight: float = 1.0, zeros: bool = False) -> tuple[Objective, ...]:
    """Return masked modelling: masked genes, and masked values by one head, or two where zeros are shown."""
    found = [
        Objective(source="genes", loss="cross_entropy", weight=gene_weight), Objective(source="values", loss="mse"),
    ]  # fmt: skip
    if zeros:
        found.append(Objective(source="values", loss="is_zero", weight=zero_weight))
    return tuple(found)


def wced(*sets: Literal["input", "non_input", "all"], zero_weight: float = 1.0) -> tuple[Objective, ...]:
    """Return whole-cell expression decoding on these target sets; all genes by default."""
    return tuple(
        Objective(source="profile", loss=loss, on=one, weight=1.0 if loss == "mse" else zero_weight)
        for one in (sets or ("all",))
        for loss in ("mse", "is_zero")
    )  # type: ignore[misc]


NAMED: dict[str, Callable[[], tuple[Objective, ...]]] = {
    "mlm": mlm,
    "mlm-zeros": lambda: mlm(zeros=True, zero_weight=1.5),
    "wced": wced,
    "wced-v1": lambda: wced("input", "non_input"),
    "wced-expected": lambda: (*wced(), Objective(source="profile", loss="expected")),
    "nb": lambda: (Objective(source="counts", loss="nb"),),
    "zinb": lambda: (Objective(source="counts", loss="zinb"),),
}
"""Names under which objectives can be asked for; joined by ``+``."""


def named(name: str) -> tuple[Objective, ...]:
    """Return the objectives of names joined by ``+``, each once.

    Raises
    ------
    DataError
        A name is not known.
    """
    found: list[Objective] = []
    for part in name.split("+"):
        check_choice(part, NAMED, name="objective")
        found += NAMED[part]()
    return tuple(dict.fromkeys(found))
