"""Says in plain sentences what the numbers of a run allow one to say, and no more."""

import math
from collections.abc import Hashable
from typing import Any

import pandas as pd

from expressor.report import evaluation as reading
from expressor.report.run import Run

MINUS = "\N{MINUS SIGN}"


def number(value: float, digits: int = 2) -> str:
    """Return a number with a true minus sign; an en dash where it is not finite."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    text = f"{value:.{digits}f}"
    return text.replace("-", "") if float(text) == 0 else text.replace("-", MINUS)


def probability(value: float) -> str:
    """Return a p or q value to two significant digits, ``< 0.001`` below that."""
    if not math.isfinite(value):
        return "\N{EN DASH}"
    return "< 0.001" if value < 0.001 else f"{value:.2g}" if value < 0.1 else f"{value:.2f}"


def count(quantity: int, noun: str, plural: str | None = None) -> str:
    """Return ``"1 gene"``, ``"1,250 genes"``."""
    return f"{quantity:,} {noun if quantity == 1 else plural or noun + 's'}"


def paragraphs(run: Run) -> list[str]:
    """Return what a reader should know first: accuracy beside others, warnings, trust in single genes.

    Parameters
    ----------
    run
        The run.
    """
    parts = [
        _on_accuracy(run.evaluation),
        [*_on_controls(run.evaluation), *_on_library_size(run.evaluation)],
        _on_trust(run),
    ]
    return [" ".join(said) for said in [*parts, _on_measured(run)] if said]


def _on_trust(run: Run) -> list[str]:
    verdicts = [one for one in run.gene_table["trusted"] if one is not None]
    if not verdicts:
        return ["No verdict on single genes is known for this run: treat every map as unproven."]
    good = sum(verdicts)
    if good == 0:
        return [f"None of {count(len(verdicts), 'gene')} passed the test for trust: treat every map as unproven."]
    if good == len(verdicts):
        said = [f"All {count(good, 'gene')} passed the test for trust."]
    else:
        said = [
            f"{good:,} of {count(len(verdicts), 'gene')} passed the test for trust; "
            "read the maps of the others as unproven."
        ]
    return [*said, *_on_verdicts_here(run)]


def _on_verdicts_here(run: Run) -> list[str]:
    """Hold the verdicts, which are of other tissue, against what was measured in this run."""
    table = run.gene_table
    here = run.correlation_here.reindex([gene for gene, one in table["trusted"].items() if one is True]).dropna()
    if here.empty:
        return []
    above = int((here > 0).sum())
    who = "All" if above == len(here) else f"{above:,} of"
    return [
        f"{who} {count(len(here), 'trusted gene')} correlate above zero with what was measured in the tissue shown here "
        f"(mean {number(float(here.mean()))})."
    ]


def _on_accuracy(evaluation: pd.DataFrame) -> list[str]:
    judged = _judge(evaluation)
    if judged is None:
        return []
    table, metric, scale, model, known = judged
    reached = f"{reading.metric_words(metric)} of {_with_interval(known[model])}"
    found = reading.differences(table, metric)
    paired = found[
        (found["method"] == model) & (found["scale"] == scale) & found["low"].notna() & found["high"].notna()
    ]
    said = [f"{model} reaches a mean {reached} on {reading.scale_words(scale)}."]
    return said + [_against(metric, row) for row in paired.to_dict("records")]


def _on_controls(evaluation: pd.DataFrame) -> list[str]:
    """Name the strongest control that sees no more than a user has, unless it was already compared in pairs."""
    judged = _judge(evaluation)
    if judged is None:
        return []
    table, metric, scale, model, known = judged
    kinds, beyond = reading.kinds(table), reading.given_more(table)
    controls = {name: one.value for name, one in known.items() if kinds[name] == "control" and name not in beyond}
    if not controls:
        return []
    best = min(controls, key=lambda name: controls[name] * (1 if reading.is_better_low(metric) else -1))
    found = reading.differences(table, metric)
    paired = found[(found["method"] == model) & (found["reference"] == best) & found["low"].notna()]
    if len(paired):
        return []
    return [
        f"The strongest control, {best}, reaches {_with_interval(known[best])}; "
        "without a paired interval neither is shown to be better."
    ]


def _on_library_size(evaluation: pd.DataFrame) -> list[str]:
    """Warn where the size of the library alone explains as much as the model."""
    judged = _judge(evaluation)
    if judged is None:
        return []
    table, metric, _, model, _ = judged
    scores = reading.scores(table, metric)
    library = next((name for name in scores if "library" in name.lower()), None)
    if library is None or reading.is_better_low(metric):
        return []
    for scale, score in scores[library].items():
        if scale in scores[model] and score.value >= scores[model][scale].value:
            return [
                f"On {reading.scale_words(scale)} the size of a spot's library alone reaches {number(score.value)}, no less "
                f"than {model} ({number(scores[model][scale].value)}): a high correlation there says little about genes."
            ]
    return []


def _judge(
    evaluation: pd.DataFrame,
) -> tuple[pd.DataFrame, str, str, str, dict[str, reading.Score]] | None:
    """Return the tidy table, its metric, its first scale, the model, and the known scores there; None without a model."""
    table = reading.tidy(evaluation)
    metric = reading.headline_metric(table)
    if metric is None:
        return None
    scores, kinds = reading.scores(table, metric), reading.kinds(table)
    scale = reading.scales(table)[0]
    known = {name: one[scale] for name, one in scores.items() if scale in one and math.isfinite(one[scale].value)}
    model = next((name for name in known if kinds[name] == "model"), None)
    return None if model is None else (table, metric, scale, model, known)


def _against(metric: str, row: dict[Hashable, Any]) -> str:
    value, low, high = (float(row[name]) for name in ("value", "low", "high"))
    words = f"paired difference {number(value, 3)}, {number(low, 3)} to {number(high, 3)}"
    above, below = ("worse", "better") if reading.is_better_low(metric) else ("better", "worse")
    several = ", " in str(row["reference_of"])
    other = f"{row['reference']}{', the best of its kind' if several else ''}"
    if low > 0 or high < 0:
        return f"It is {above if low > 0 else below} than {other} ({words})."
    return f"It cannot be told apart from {other} ({words})."


def _on_measured(run: Run) -> list[str]:
    if run.values("measured") is not None:
        return []
    return [
        "Nothing was measured in these sections, so nothing here can be checked against the truth; what is said of single genes "
        "comes from the tissue the model was fitted and checked on."
    ]


def _with_interval(score: reading.Score) -> str:
    if not score.is_bounded:
        return number(score.value)
    return f"{number(score.value)} (95 % interval {number(score.low)} to {number(score.high)})"
