"""Outputs of the heads: log odds of the classes, log risks; frozen, with what fine-tuning adds."""

import dataclasses
from typing import Any, Literal

import pandas as pd
import torch
from jaxtyping import Float
from torch import Tensor

from expressor.core.errors import DataError
from expressor.systems.gexbert.fitting import Pretrained
from expressor.systems.gexbert.skip import by_pattern

Kind = Literal["classes", "risks"]


def outputs_of(
    fitted: Pretrained, kind: Kind, values: Float[Tensor, "sample gene"], pipeline: Tensor | None, names: pd.Index
) -> Float[Tensor, "sample output"]:
    """Return the outputs of one head, float64: (sample, class), or (sample, 1) for risks.

    Raises
    ------
    DataError
        A sample has no measured value among the genes that the head may look at.
    """
    recipe: Any = fitted.class_features if kind == "classes" else fitted.risk_features
    shown = recipe.hide(values)
    empty = shown.isnan().all(1)
    if bool(empty.any()):
        raise DataError(
            f"{int(empty.sum())} of {len(values)} samples have no measured value of the panel, such as "
            f"{str(names[int(empty.to(torch.int64).argmax())])!r}",
            expected=f"at least one of its {len(fitted.panel)} genes", fix="Leave these samples out.",
        )  # fmt: skip
    restorer = dataclasses.replace(fitted.restorer, memory=None)
    features = recipe.of(restorer, values, pipeline)
    if kind == "classes":
        found, tuned = fitted.classes.logits(features), fitted.tuned_classes  # type: ignore[union-attr]
    else:
        found, tuned = fitted.risks.log_risk(features)[:, None], fitted.tuned_risks  # type: ignore[union-attr]
    if tuned is not None:
        with torch.no_grad():
            for rows, observed, _ in by_pattern(shown):
                view = restorer.view(shown[rows][:, observed], observed, None if pipeline is None else pipeline[rows])
                found[rows] += tuned.on(view).double()
    return found
