"""The model card of a run: what the model is for, how good it was here, which genes to believe, where not to use it."""

import re
from pathlib import Path

import numpy as np

from expressor.core import registry
from expressor.core.errors import DataError
from expressor.report import evaluation as reading
from expressor.report import summary
from expressor.report.methods import methods_text, references
from expressor.report.run import Run, read_run

LISTED = 40


def write_model_card(run_folder: str | Path, out: str | Path | None = None) -> Path:
    """Write a run's model card as Markdown.

    Parameters
    ----------
    run_folder
        A folder as :mod:`expressor.report.run` describes.
    out
        The file; by default ``model_card.md`` in the run's folder.

    Raises
    ------
    DataError
        The run holds no predictions, or the file cannot be written.
    """
    path = Path(out) if out is not None else Path(run_folder) / "model_card.md"
    text = model_card(read_run(run_folder))
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise DataError(f"{path} cannot be written ({error})", fix="Choose another folder.") from error
    return path


def model_card(run: Run) -> str:
    """Return the model card of a run as Markdown with YAML front matter."""
    parts = [
        _front(run), _opening(run), _accuracy(run), _genes(run), _limits(run), _use(), _methods(run),
    ]  # fmt: skip
    return "\n\n".join(part for part in parts if part) + "\n"


def plain(text: str) -> str:
    """Escape a user's text so that Markdown shows it as it is, on one line."""
    return re.sub(r"([\\`*_{}\[\]<>()#+!|$~&])", r"\\\1", " ".join(text.split()))


def _front(run: Run) -> str:
    system = str(run.config.get("system", ""))
    tags = ["gene-expression", *([system] if re.fullmatch(r"[a-z0-9_]+", system) else [])]
    return "\n".join(["---", "library_name: expressor", f"tags: [{', '.join(tags)}]", "---"])


def _opening(run: Run) -> str:
    name = str(run.config.get("class", "")) or "Model"
    card = registry.systems().get(str(run.config.get("system", "")))
    said = [f"# {plain(name)}", *([plain(card.summary)] if card is not None else [])]
    tissue = f"{summary.count(run.predictions.n_obs, 'spot')} of {summary.count(len(run.sections), 'section')}"
    said.append(f"Predicts {summary.count(run.predictions.n_vars, 'gene')} as {plain(run.unit)}; judged on {tissue}.")
    return "\n\n".join([*said, *(plain(one) for one in summary.paragraphs(run))])


def _accuracy(run: Run) -> str:
    table = reading.tidy(run.evaluation)
    metric = reading.headline_metric(table)
    scores = reading.scores(table, metric) if metric else {}
    if not metric or not scores:
        return ""
    scales = [one for one in reading.scales(table) if any(one in by_scale for by_scale in scores.values())]
    kinds = reading.kinds(table)
    lines = ["| method | kind | " + " | ".join(plain(reading.scale_words(one)) for one in scales) + " |"]
    lines.append("| --- | --- |" + " --- |" * len(scales))
    for method, by_scale in scores.items():
        cells = [_cell(by_scale[one]) if one in by_scale else "\N{EN DASH}" for one in scales]
        lines.append(f"| {plain(method)} | {kinds[method]} | " + " | ".join(cells) + " |")
    words = plain(reading.metric_words(metric)).capitalize()
    return f"## Accuracy\n\n{words}, with 95 % intervals.\n\n" + "\n".join(lines)


def _cell(score: reading.Score) -> str:
    bounds = f" [{summary.number(score.low)}, {summary.number(score.high)}]" if score.is_bounded else ""
    undefined = f" ({score.n_undefined} undefined)" if score.n_undefined else ""
    return summary.number(score.value) + bounds + undefined


def _genes(run: Run) -> str:
    table = run.gene_table
    trusted = table[[one is True for one in table["trusted"]]]
    if trusted.empty:
        return ""
    shown = [
        f"{plain(str(gene))} ({summary.number(row['pcc'])})" if np.isfinite(row["pcc"]) else plain(str(gene))
        for gene, row in trusted.head(LISTED).iterrows()
    ]
    more = f", and {len(trusted) - LISTED} more" if len(trusted) > LISTED else ""
    return f"## Genes to believe\n\nWith their correlation on held-out tissue: {', '.join(shown)}{more}."


def _limits(run: Run) -> str:
    card = registry.systems().get(str(run.config.get("system", "")))
    limits = [plain(one) for one in card.limits] if card is not None else []
    limits.append("Not a diagnostic device: no decision on a patient may rest on these predictions.")
    limits.append(
        "Tissue, stain, scanner or resolution unlike those of the fit: accuracy there is unknown until measured."
    )
    return "## Limits\n\n" + "\n".join(f"- {one}" for one in limits)


def _use() -> str:
    return (
        "## Use\n\n```python\nimport expressor as ex\n\n"
        'model = ex.load("path/to/model")\npredicted = model.predict(tissue)  # DataFrame (spot, gene)\n```'
    )


def _methods(run: Run) -> str:
    paragraphs = [plain(one) for one in methods_text(run)]
    listed = [f"{number}. {plain(one.text)}" for number, one in enumerate(references(run), 1)]
    if not paragraphs and not listed:
        return ""
    return "\n\n".join(["## Methods", *paragraphs, *(["### References", "\n".join(listed)] if listed else [])])
