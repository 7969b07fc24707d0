"""Which genes matter to an output: integrated gradients and attention rollout, against random weights and univariate statistics."""

import copy
import dataclasses
from typing import Any

import numpy as np
import pandas as pd
import torch
from anndata import AnnData
from jaxtyping import Float
from scipy import stats
from torch import Tensor, nn

from expressor.core.errors import DataError, check_choice, check_range
from expressor.core.rng import stream
from expressor.data.outcomes import read_outcomes
from expressor.estimator.errors import NotFittedError
from expressor.nn.attribution import attention_rollout, integrated_gradients
from expressor.systems.gexbert import equations
from expressor.systems.gexbert.fitting import Pretrained
from expressor.systems.gexbert.network import RestorationNetwork
from expressor.systems.gexbert.outputs import Kind
from expressor.systems.gexbert.skip import by_pattern, log_size
from expressor.systems.gexbert.training import informative
from expressor.systems.gexbert.tuning import TunedNetwork
from expressor.train import loop

RISK = "risk"


def attribute(
    fitted: Pretrained, values: Tensor, adata: AnnData, pipeline: Tensor | None, *, of: str | None, steps: int
) -> pd.DataFrame:
    """Return the contribution of each gene to an output of each sample; see :meth:`GexBERT.attribute`."""
    check_range(steps, name="steps", low=1, integer=True)
    kind, column = _output(fitted, of)
    found = _gradients(fitted, kind, column, values, pipeline, steps=steps)
    return pd.DataFrame(found.numpy().astype(np.float32), index=adata.obs_names.copy(), columns=list(fitted.genes))


def _output(fitted: Pretrained, of: str | None) -> tuple[Kind, int | None]:
    """Return which head, and which class of it; None stands for the predicted one."""
    if of == RISK or (of is None and fitted.classes is None):
        if fitted.risks is None:
            raise NotFittedError(
                "this GexBERT has no head to interpret", fix="Fit it with label=, or time= and event=."
            )
        return "risks", 0
    if fitted.classes is None:
        raise NotFittedError("this GexBERT was fitted without labels", fix='Use of="risk", or fit it with label=.')
    if of is None:
        return "classes", None
    check_choice(of, (*fitted.classes.classes, RISK), name="output")
    return "classes", fitted.classes.classes.index(of)


# Integrated gradients ---------------------------------------------------------------------------------------------------


def _gradients(
    fitted: Pretrained, kind: Kind, column: int | None, values: Tensor, pipeline: Tensor | None, *, steps: int
) -> Float[Tensor, "sample gene"]:
    recipe: Any = fitted.class_features if kind == "classes" else fitted.risk_features
    shown = recipe.hide(values)
    found = torch.zeros_like(values)
    for rows, observed, _ in by_pattern(shown):
        if not len(observed):
            raise DataError(f"{len(rows)} samples have no measured value of the panel", expected="at least one",
                            fix="Leave these samples out.")  # fmt: skip
        z = fitted.restorer.skip.bounded(shown[rows][:, observed], observed)
        function = _function(fitted, kind, observed, None if pipeline is None else pipeline[rows])
        place = column
        if place is None:
            place = function(z).argmax(dim=1)  # type: ignore[assignment]

        def output(inside: Tensor, function: Any = function, place: Any = place) -> Tensor:
            return _log_odds(function(inside), place) if kind == "classes" else function(inside)[:, 0]

        found[rows[:, None], observed] = integrated_gradients(output, z, torch.zeros_like(z), steps=steps)
    return found


def _log_odds(logits: Tensor, place: Any) -> Tensor:
    """Return the log odds of one class (a number, or one for each sample) against all others."""
    index = torch.full((len(logits),), place) if isinstance(place, int) else place
    own = logits.gather(1, index[:, None])[:, 0]
    others = logits.scatter(1, index[:, None], -torch.inf)
    return own - torch.logsumexp(others, dim=1)


def _function(fitted: Pretrained, kind: Kind, observed: Tensor, pipeline: Tensor | None) -> Any:
    """Return the head's outputs as a differentiable function of the panel's standardised values."""
    restorer = fitted.restorer
    skip, n_genes = restorer.skip, len(fitted.genes)
    recipe: Any = fitted.class_features if kind == "classes" else fitted.risk_features
    head: Any = fitted.classes if kind == "classes" else fitted.risks
    tuned = fitted.tuned_classes if kind == "classes" else fitted.tuned_risks
    # What the closed form says is linear in the panel's values.
    to_scores = skip.score_map(observed) if restorer.linear else None
    wanted = torch.cat([recipe.panel, recipe.anchors])
    to_wanted = _map(fitted, observed, wanted) if len(wanted) else None
    shown = informative(skip, observed, restorer.options.tokens)
    size = log_size(len(observed), n_genes)

    def look(z: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]:
        inside = z[:, shown].float()
        scores = None
        if to_scores is not None and restorer.options.scores:
            scores = torch.cat([(z @ to_scores).float(), torch.full((len(z), 1), size)], dim=1)
        return observed[shown], inside, torch.zeros_like(inside, dtype=torch.bool), scores, pipeline

    def function(z: Tensor) -> Tensor:
        parts = []
        if recipe.representation:
            if to_scores is not None:
                parts.append(z @ to_scores)
            if restorer.network is not None:
                network = restorer.network
                parts.append(network.represent(network.encode(network.tokens(*look(z)))).double())
        if to_wanted is not None:
            added = _by_network(fitted, look, z, observed, wanted)
            parts.append(z @ to_wanted + added)
        features = torch.cat(parts, dim=1)
        out = head.logits(features) if kind == "classes" else head.log_risk(features)[:, None]
        return out if tuned is None else out + tuned(*look(z)).double()

    return function


def _map(fitted: Pretrained, observed: Tensor, wanted: Tensor) -> Tensor:
    """Return the matrix from the panel's standardised values to those of wanted genes; measured ones are themselves."""
    skip = fitted.restorer.skip
    unit = skip.state.mean[observed] + torch.diag(skip.state.scale[observed])
    if fitted.restorer.linear:
        found = skip.standardise(skip.condition(unit, observed, wanted)[0], wanted)
    else:
        found = torch.zeros(len(observed), len(wanted), dtype=torch.float64)
    same = (observed[:, None] == wanted[None]).double()
    return torch.where(same.any(0), same, found)


def _by_network(fitted: Pretrained, look: Any, z: Tensor, observed: Tensor, wanted: Tensor) -> Tensor | float:
    restorer = fitted.restorer
    share = restorer.mixture.at(len(observed))[0]
    if restorer.network is None or not share:
        return 0.0
    network = restorer.network
    added = network.decode(network.encode(network.tokens(*look(z))), wanted).double()
    return share * added * (~torch.isin(wanted, observed)).double()


# Attention --------------------------------------------------------------------------------------------------------------


def _rollout(
    fitted: Pretrained, network: RestorationNetwork, recipe: Any, values: Tensor, pipeline: Tensor | None
) -> Float[Tensor, "sample gene"]:
    """Return how much of the sample token came from each gene's token, following attention through the encoder's layers."""
    shown = recipe.hide(values)
    found = torch.zeros_like(values)
    with torch.no_grad():
        for rows, observed, _ in by_pattern(shown):
            view = fitted.restorer.view(
                shown[rows][:, observed], observed, None if pipeline is None else pipeline[rows]
            )
            tokens = network.tokens(view.genes, view.z, view.missing, view.scores, view.pipeline)
            if tokens.shape[1] == 1:
                continue
            rolled = attention_rollout(network.attention_weights(tokens))
            found[rows[:, None], view.genes] = rolled[:, 0, 1:].double()
    return found


# Side by side -----------------------------------------------------------------------------------------------------------


def compare(
    model: Any,
    fitted: Pretrained,
    values: Tensor,
    adata: AnnData,
    pipeline: Tensor | None,
    *,
    of: str | None,
    steps: int,
) -> pd.DataFrame:
    """Return several accounts of which genes matter; see :meth:`GexBERT.interpret`."""
    check_range(steps, name="steps", low=1, integer=True)
    if of is None and fitted.classes is not None and model.label in adata.obs:
        known = [one for one in adata.obs[model.label].dropna().astype(str) if one in fitted.classes.classes]
        if known:
            of = str(pd.Series(known).value_counts().sort_index().idxmax())
    kind, column = _output(fitted, of)
    univariate = _univariate(model, fitted, values, adata, kind, of)
    random = with_random_weights(fitted, model.random_state)
    recipe: Any = fitted.class_features if kind == "classes" else fitted.risk_features
    table = pd.DataFrame(index=pd.Index(list(fitted.genes), dtype=object))
    for prefix, one in (("", fitted), ("random_", random)):
        table[f"{prefix}gradients"] = _gradients(one, kind, column, values, pipeline, steps=steps).abs().mean(0).numpy()
        tuned = one.tuned_classes if kind == "classes" else one.tuned_risks
        network = tuned.network if tuned is not None else one.network
        seen = network is not None and len(network.encoder)
        table[f"{prefix}rollout"] = (
            _rollout(one, network, recipe, values, pipeline).mean(0).numpy() if seen else np.nan  # type: ignore[arg-type]
        )
    table["univariate"] = univariate
    accounts = [name for name in table.columns if name != "univariate"]
    table = table[["gradients", "rollout", "random_gradients", "random_rollout", "univariate"]]
    table.attrs["output"] = of if kind == "classes" else RISK
    table.attrs["agreement"] = {name: _agreement(table[name].to_numpy(), univariate) for name in accounts}
    return table


def _agreement(account: np.ndarray, univariate: np.ndarray) -> float:
    known = np.isfinite(account) & np.isfinite(univariate)
    if known.sum() < 3 or np.ptp(account[known]) == 0 or np.ptp(univariate[known]) == 0:
        return float("nan")
    return float(stats.spearmanr(account[known], univariate[known]).statistic)


def _univariate(
    model: Any, fitted: Pretrained, values: Tensor, adata: AnnData, kind: Kind, of: str | None
) -> np.ndarray:
    """Return the absolute statistic of each gene alone: Welch's t of a class against the rest, or the Cox score."""
    filled = fitted.restorer.restore(values)[0]
    if kind == "risks":
        known = adata.obs[model.time].notna() & adata.obs[model.event].notna() if model.time in adata.obs else None
        if known is None or not known.any():
            raise DataError(
                "the data have no outcomes to compare with", fix=f"Give obs[{model.time!r}] and obs[{model.event!r}]."
            )
        outcomes = read_outcomes(AnnData(obs=adata.obs[known].copy()), time=model.time, event=model.event)
        rows = torch.from_numpy(known.to_numpy())
        score = equations.univariate_score(
            filled[rows], torch.from_numpy(outcomes.time), torch.from_numpy(outcomes.event)
        )
        return score.abs().numpy()
    if model.label not in adata.obs:
        raise DataError(f"the data have no labels to compare with (obs[{model.label!r}])", fix="Give labelled samples.")
    labels = adata.obs[model.label].astype(str).to_numpy()
    inside = labels == of
    if inside.sum() < 2 or (~inside).sum() < 2:
        raise DataError(f"too few samples to compare {of!r} with the rest", expected="at least 2 on either side",
                        got=f"{int(inside.sum())} and {int((~inside).sum())}")  # fmt: skip
    table = filled.numpy()
    a, b = table[inside], table[~inside]
    error = np.sqrt(a.var(0, ddof=1) / len(a) + b.var(0, ddof=1) / len(b))
    return np.abs(np.divide(a.mean(0) - b.mean(0), error, out=np.zeros(table.shape[1]), where=error > 1e-12))


def with_random_weights(fitted: Pretrained, seed: int) -> Pretrained:
    """Return the same model with all that was learnt replaced by random numbers of like spread: the control of interpretation."""
    draw = stream(seed, "random weights")
    control = copy.copy(fitted)

    def shuffled(tensor: Tensor) -> Tensor:
        flat = tensor.reshape(-1)
        return flat[torch.from_numpy(draw.permutation(len(flat)))].reshape(tensor.shape).contiguous()

    skip = fitted.restorer.skip
    # Loadings of shuffled genes: the same Gaussian with its genes' names mixed up.
    order = torch.from_numpy(draw.permutation(len(fitted.genes)))
    state = dataclasses.replace(skip.state, factors=skip.state.factors[order], noise=skip.state.noise[order])
    mixed = dataclasses.replace(skip, state=state)
    with loop.seeded(seed, "random weights"):
        network = None if fitted.network is None else _fresh(fitted.network)
        for name in ("tuned_classes", "tuned_risks"):
            tuned = getattr(fitted, name)
            setattr(control, name, None if tuned is None else _fresh(tuned))
    used = network if fitted.restorer.network is not None else None
    control.network = network
    control.restorer = dataclasses.replace(fitted.restorer, skip=mixed, network=used)
    if fitted.classes is not None:
        control.classes = dataclasses.replace(fitted.classes, weight=shuffled(fitted.classes.weight))
    if fitted.risks is not None:
        control.risks = dataclasses.replace(fitted.risks, coefficients=shuffled(fitted.risks.coefficients))
    return control


def _fresh(module: Any) -> Any:
    """Return a copy with every weight drawn anew from torch's present generator."""
    found: RestorationNetwork | TunedNetwork = copy.deepcopy(module)
    for one in found.modules():
        if isinstance(one, nn.Linear | nn.LayerNorm | nn.Embedding):
            one.reset_parameters()
    return found.eval()
