"""Ranges of the estimator's parameters."""

from typing import Any

from expressor.core.errors import DataError, check_choice, check_range

SUPPLIED = "varm:"
"""How a parameter names gene vectors that the training data bring."""


def check_parameters(model: Any) -> None:
    """Raise :class:`~expressor.core.errors.DataError` where a parameter of a GexBERT is out of its range."""
    for name, low in (("memory", 0), ("bins", 2), ("dim", 1), ("layers", 0), ("decoder_layers", 0), ("heads", 1),
                      ("hidden", 1), ("tokens", 1), ("targets", 1), ("steps", 1), ("components", 1), ("folds", 2),
                      ("anchors", 1), ("random_state", 0)):  # fmt: skip
        check_range(getattr(model, name), name=name, low=low, integer=True)
    for name in ("dropout", "hidden_share"):
        check_range(getattr(model, name), name=name, low=0, high=1, open_high=True)
    check_range(model.validation, name="validation", low=0, high=1, open_low=True, open_high=True)
    check_range(model.visible_weight, name="visible_weight", low=0)
    check_choice(model.value_encoder, ("continuous", "bins"), name="value_encoder")
    check_choice(model.value_scale, ("standardised", "rank"), name="value_scale")
    check_choice(model.tuning, ("frozen", "fine-tuned"), name="tuning")
    check_choice(model.survival_input, ("token", "panel", "anchors"), name="survival_input")
    check_choice(model.floor, ("auto", "none"), name="floor")
    if not model.gene_vectors.startswith(SUPPLIED):
        check_choice(model.gene_vectors, ("pca", "random", "varm:<key>"), name="gene_vectors")
    if len(model.panel_sizes) != 2 or not 1 <= model.panel_sizes[0] <= model.panel_sizes[1]:
        raise DataError("panel_sizes is no range", expected="a smallest size >= 1 and a largest", got=model.panel_sizes)
    if model.dim % model.heads:
        raise DataError("dim is not a multiple of heads", got=f"{model.dim} and {model.heads}",
                        fix="Choose another number of heads.")  # fmt: skip
    if model.panel is not None and not len(model.panel):
        raise DataError("panel names no gene", expected="at least one, or None for whatever is measured")
    if (model.time is None) != (model.event is None):
        given, missing = ("time", "event") if model.event is None else ("event", "time")
        raise DataError(f"{given}= was given without {missing}=", fix="Name both columns, or neither.")
    if not model.linear_skip and not model.network:
        raise DataError("without linear_skip and without network there is nothing that restores",
                        fix="Switch one of them on.")  # fmt: skip
    if not model.network and model.tuning == "fine-tuned":
        raise DataError("there is no network to fine-tune", fix='Use network=True, or tuning="frozen".')
    model.plan.check()
