"""What the estimator's parameters may be."""

from typing import Any

from expressor.core.errors import DataError, check_choice, check_range
from expressor.data.tokens import Tokeniser
from expressor.systems.bmfm.architecture import Architecture
from expressor.systems.bmfm.objectives import Objective, named

FINETUNING = ("none", "probe", "full", "lora")
GENE_VECTORS = ("random", "loadings")


def objectives_of(model: Any) -> tuple[Objective, ...]:
    """Return the objectives; none where nothing is pretrained."""
    if isinstance(model.objectives, str):
        return named(model.objectives) if model.objectives else ()
    return tuple(model.objectives)


def architecture_of(model: Any) -> Architecture:
    """Return the architecture that the parameters describe."""
    return Architecture(
        dim=model.dim, layers=model.layers, heads=model.heads, hidden=model.hidden, style=model.style,
        dropout=model.dropout, checkpointing=model.checkpointing, values=model.value_encoder, n_bins=model.n_bins,
        value_hidden=model.value_hidden, cells=model.cell_tokens, depth=model.read_depth == "rda", product=model.product,
        placed=model.placed, decoder=model.decoder,
    )  # fmt: skip


def training_tokeniser(model: Any) -> Tokeniser:
    """Return how cells become tokens while the network learns."""
    return Tokeniser(
        max_length=model.max_length, order=model.order, zeros=model.zeros, interleave=model.interleave,
        expressed_only=model.expressed_only, dropout=model.sequence_dropout, read_depth=model.read_depth,
        bins=model.bins if model.value_encoder == "bins" else None, n_bins=model.n_bins,
    )  # fmt: skip


def check_parameters(model: Any) -> None:
    """Raise :class:`~expressor.core.errors.DataError` where a parameter is out of its range, or two do not go together."""
    check_choice(model.finetune, FINETUNING, name="finetune")
    check_choice(model.gene_vectors, GENE_VECTORS, name="gene_vectors")
    if model.read_depth is not None:
        check_choice(model.read_depth, ("rda",), name="read_depth")
    check_choice(model.bins, ("round", "floor", "ceil", "quantile"), name="bins")
    architecture_of(model).check()
    training_tokeniser(model)
    if model.target_depth is not None:
        check_range(model.target_depth, name="target_depth", low=0, open_low=True)
    objectives = objectives_of(model)
    for one in objectives:
        one.check()
        if one.cell_token >= model.cell_tokens:
            raise DataError(f"the objective {one.name} reads a cell token that is not there",
                            expected=f"cell_token below {model.cell_tokens}", got=one.cell_token)  # fmt: skip
        if one.loss == "hierarchical" and model.ontology is None:
            raise DataError("a hierarchical label needs its ontology", fix="Give ontology=, a file with its edges.")
        if one.loss in ("cross_entropy", "token_value") and one.source == "values" and model.value_encoder != "bins":
            raise DataError(f"the loss {one.loss} of values needs binned values", fix='Set value_encoder="bins".')
    if model.finetune == "none" and model.label is not None and not model.start_from:
        if model.label not in {one.column for one in objectives}:
            raise DataError(f'finetune="none" and no objective tells the label {model.label!r}',
                            fix='Add Objective(source="label", ...), or set finetune="probe".')  # fmt: skip
    check_range(model.warm_up, name="warm_up", low=0, integer=True)
    check_range(model.validation, name="validation", low=0, high=1, open_low=True, open_high=True)
    if model.strength is not None:
        check_range(model.strength, name="strength", low=0, open_low=True)
    check_range(model.lora_rank, name="lora_rank", low=1, integer=True)
    check_range(model.lora_alpha, name="lora_alpha", low=0, open_low=True)
    check_range(model.random_state, name="random_state", low=0, integer=True)
    for name in ("share", "hidden", "switched"):
        check_range(getattr(model.masking, name), name=f"masking.{name}", low=0, high=1)
    if model.masking.hidden + model.masking.switched > 1:
        raise DataError(
            "masking.hidden and masking.switched are shares of the same places", expected="at most 1 together"
        )
    check_range(model.masking.temperature, name="masking.temperature", low=0, open_low=True)
    model.plan.check()
    model.tuning.check()
