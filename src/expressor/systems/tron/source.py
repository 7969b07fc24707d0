"""Where the source comes from: a fitted model, a saved one, or the simulated one that examples use."""

from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from expressor.core.errors import DataError
from expressor.estimator.base import load
from expressor.estimator.expression_models import ExpressionModel, expression_model


def read_source(source: Any) -> ExpressionModel:
    """Return the source as a model on expression.

    Parameters
    ----------
    source
        What :func:`expressor.estimator.expression_models.expression_model` takes, the folder of a saved model, or ``"simulated"``.

    Raises
    ------
    DataError
        It is missing, or is no model on expression.
    GeneError
        Its genes are unknown.
    """
    if source is None:
        raise DataError("TRON needs a source, the model that is to serve another species",
                        fix="Give source=: a fitted system, the folder of a saved one, or expression_model(...).")  # fmt: skip
    if isinstance(source, dict):
        raise DataError(f"only the description of the source is here ({source.get('model')}), not the source",
                        fix="Give source= again.")  # fmt: skip
    if isinstance(source, str) and source == "simulated":
        return _simulated()
    if isinstance(source, str | Path):
        if not Path(source).is_dir():
            raise DataError(
                f"there is no saved model {str(source)!r}", expected="the folder of a saved model, or 'simulated'"
            )
        return expression_model(load(source))
    return expression_model(source)


def describe_source(source: Any) -> Any:
    """Return what stands for the source among the parameters: its path or name, or a description without its weights."""
    if source is None or isinstance(source, str | dict):
        return source
    return str(source) if isinstance(source, Path) else read_source(source).describe()


@cache
def _simulated() -> ExpressionModel:
    """Logistic regression on the cells of the first species of :func:`expressor.datasets.simulate_species`."""
    from sklearn.linear_model import LogisticRegression

    from expressor.data.fields import expression
    from expressor.data.keys import CELL_TYPE
    from expressor.datasets.species import simulate_species

    cells = simulate_species(seed=100, n_cells=120).source
    values = expression(cells, scale="log1p_cp10k").astype(np.float64)
    model = LogisticRegression(C=0.05, max_iter=500).fit(values, cells.obs[CELL_TYPE].astype(str).to_numpy())
    return expression_model(model, genes=list(cells.var_names), mean=values.mean(0), spread=values.std(0))
