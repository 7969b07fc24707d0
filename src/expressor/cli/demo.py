"""``expressor demo``: the whole of the main job on the tissue that the package ships."""

import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from expressor.cli.terminal import console, parse, show_table
from expressor.core.errors import DataError, check_choice
from expressor.core.log import progress

# What the demo sets beside AGL: the field's strong simple baseline, the trivial answers, and AGL without auxiliaries.
RIVALS = ("mean", "library", "colour", "ridge", "ridge-context", "pgl")
MODEL = "dkgsb"
GRID_UM = 100.0


def demo(
    out: Annotated[Path, tyro.conf.arg(aliases=["-o"])] = Path("demo"),
    held_out: str = "C5",
    seed: int = 0,
    open_report: bool = False,
    system: Literal["agl", "bmfm"] = "agl",
) -> None:
    """Train on three sections of the shipped breast tumour, predict the fourth, and write table, predictions and report.

    Parameters
    ----------
    out
        Folder for the run; an older demo there is replaced.
    held_out
        The section to predict: C2, C3, C4 or C5.
    seed
        Seed of everything that is drawn.
    open_report
        Open the report in the browser at the end.
    system
        ``agl``: the tissue. ``bmfm``: simulated cells instead; types of a batch that was not trained on.
    """
    if system == "bmfm":
        from expressor.cli import cells_demo

        return cells_demo.run(out, seed=seed)
    from expressor.bench import runner
    from expressor.bench.store import Key
    from expressor.bench.task import find_task
    from expressor.report.writing import MARK, write_run

    started = time.perf_counter()
    if out.exists() and (not out.is_dir() or (any(out.iterdir()) and not (out / MARK).exists())):
        raise DataError(f"{out} exists and is not a run", fix="Choose a new folder with -o; nothing was changed.")
    task = find_task("histology")
    protocol = task.protocol("patient-c-sections")
    data = task.load(protocol)
    console.print(f"{data.n_obs} spots of four sections; {held_out} is held out, and never seen in training")
    folds = {fold.name.removeprefix("section "): fold for fold in task.folds(protocol, data)}
    check_choice(held_out, folds, name="held_out")
    fold = folds[held_out]
    methods = {one.name: one for one in task.methods(protocol)}
    cells = []
    model: Any = None
    # Networks are fitted on the normalised scale; on the other the controls alone show how much is library size.
    jobs = [(protocol.variants[0], methods[name]) for name in (*RIVALS, MODEL)]
    jobs += [
        (one, methods[name]) for one in protocol.variants[1:] for name in RIVALS if methods[name].kind == "control"
    ]
    for variant, method in progress(jobs, what="fitting and judging"):
        if not sys.stderr.isatty():
            console.print(f"{time.perf_counter() - started:4.0f} s  {method.title}, {variant}", markup=False)
        fitted, cell = runner.judge(task, protocol, fold, method, Key(method.name, fold.name, variant, seed, ""))
        cells.append(cell)
        if method.name == MODEL and variant == protocol.variants[0]:
            model = fitted
    if model is None:
        raise DataError("AGL could not be fitted", got=cells[-1].message)
    results = task.summarise(protocol, cells, tuple(methods[name] for name in (*RIVALS, MODEL)))
    results["source"] = "measured"
    with console.status("writing predictions and the report"):
        folder = write_run(model, fold.test, out, evaluation=results, grid_um=GRID_UM)
    _show(results, protocol.variants, held_out)
    console.print(
        f"\nk = {model.k_} auxiliary genes kept; {_trusted(model)} of {len(model.gene_table_)} genes are trusted"
    )
    console.print(f"{time.perf_counter() - started:.0f} s. Written to {folder}/:", markup=False)
    for name, what in (
        ("report.html", "open this: tissue, genes, intervals, calibration, methods"),
        ("predictions.h5ad", "predicted, measured and the interval of every spot and gene"),
        ("grid.h5ad", f"the same every {GRID_UM:.0f} um, twice as dense as the assay"),
        ("evaluation.csv", "every figure above and more, with intervals"),
        ("model", "the fitted model, for `expressor predict`"),
    ):
        console.print(f"  {name:<18}{what}", markup=False)
    if open_report:
        import webbrowser

        webbrowser.open((folder / "report.html").resolve().as_uri())


def _show(results: Any, scales: Sequence[str], held_out: str) -> None:
    """Print the mean correlation of each method with the interval over blocks of spots."""
    overall = results[(results.metric == "pearson") & (results.section == "all") & (results.reference == "")]
    rows = overall[overall.level == "spots"].set_index(["method", "scale"])
    lines = []
    for name in (MODEL, *reversed(RIVALS)):
        line = [rows.loc[(name, scales[0]), "title"]]
        for scale in scales:
            if (name, scale) not in rows.index:
                line.append("not fitted here")
                continue
            one = rows.loc[(name, scale)]
            undefined = (
                " (undefined)" if one.value != one.value else f"{one.value:.3f}  [{one.low:.3f}, {one.high:.3f}]"
            )
            line.append(undefined.strip())
        lines.append(line)
    show_table(
        f"\nMean correlation with what was measured, 50 genes of section {held_out}, with 95 % intervals over blocks of spots",
        ["method", *scales],
        lines,
    )
    console.print("On log1p_counts the size of a spot's library alone explains most: trust the first column.")


def _trusted(model: Any) -> int:
    return int(model.gene_table_["trusted"].sum())


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(demo, words, prog="expressor demo")
