"""Runs a task: every method on every fold, variant and seed, here or on a Dask cluster, resuming what is finished."""

import time
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor import __version__
from expressor.bench.store import Cell, Key, read_cell, write_cell
from expressor.bench.task import Fold, Method, Protocol, Task, code_digest, digest, find_task
from expressor.core.errors import DataError, ExpressorError, check_choice, check_range
from expressor.core.log import progress
from expressor.core.optional import need
from expressor.core.serial import to_plain, write_json


def run(
    task: str | Task,
    *,
    protocol: str | None = None,
    methods: Sequence[str] | None = None,
    seeds: Sequence[int] = (0,),
    once: Sequence[str] = (),
    out: str | Path | None = None,
    scheduler: str | None = None,
    show: bool | None = None,
) -> pd.DataFrame:
    """Run a benchmark task and return its tidy results.

    Parameters
    ----------
    task
        Name of a task, or a task.
    protocol
        Name of one of its protocols; the first by default.
    methods
        Methods to run beside the controls, which are in every table; by default all but those that take very long (``Task.slow``).
    seeds
        Seeds of every method that depends on one. Scores are averaged over seeds; seeds are no replicates for an interval.
    once
        Methods that are run with the first seed alone, because they take long.
    out
        Folder for ``results.csv``, ``table.md``, ``protocol.json`` and one file a finished cell. Cells found there that were made
        under the same protocol, by the same code of method and metrics, on the same data, are not computed again.
    scheduler
        Address of a Dask scheduler to spread cells over; its workers need this package and the data.
    show
        Force the progress bar on or off.

    Returns
    -------
    pandas.DataFrame
        One row a number: task, protocol, version and hash; method, kind, scale; section (``"all"`` or a name), metric, unit
        (averaging), direction; value, low, high, level and design of the interval, number of clusters; n and n_undefined;
        ``reference`` for paired differences; ``source`` (``"measured"``); ``n_seeds``; status and message of refusals; what it
        ``needs``.

    Raises
    ------
    DataError
        An unknown task, protocol or method; training and test data that share a group; a folder that cannot be written.
    """
    task = find_task(task) if isinstance(task, str) else task
    chosen = task.protocol(protocol)
    entries = task.methods(chosen, methods)
    if not seeds:
        raise DataError("no seed was given", expected="at least one")
    for seed in seeds:
        check_range(seed, name="seeds", low=0, integer=True)
    for name in once:
        check_choice(name, [one.name for one in entries], name="method to run once")
    of_method = {one.name: seeds if one.seeded and one.name not in once else seeds[:1] for one in entries}
    fingerprint, folds = _prepared(task, chosen)
    jobs = [
        (entry, fold.name, _key(task, chosen, entry, fold.name, variant, seed, fingerprint))
        for variant in chosen.variants
        for entry in entries
        for seed in of_method[entry.name]
        for fold in folds
    ]
    folder = None if out is None else Path(out)
    cells = _finished(folder, [key for _, _, key in jobs])
    todo = [job for job in jobs if job[2] not in cells]
    made = _spread(task, chosen, todo, scheduler) if scheduler else (run_cell(task, chosen, *job) for job in todo)
    for cell in progress(made, what=f"bench {task.name} {chosen.name}", total=len(todo), show=show):
        cells[cell.key] = cell
        if folder is not None:
            write_cell(folder / "cells", cell)
    results = task.summarise(chosen, [cells[key] for _, _, key in jobs], entries)
    results = _labelled(results, task, chosen, {name: len(own) for name, own in of_method.items()})
    if folder is not None:
        _write(folder, chosen, results)
        task.keep(chosen, folder)
    return results


def run_cell(task: Task, protocol: Protocol, method: Method, fold_name: str, key: Key) -> Cell:
    """Fit one method on one fold and judge it."""
    fold = next(one for one in _prepared(task, protocol)[1] if one.name == fold_name)
    return judge(task, protocol, fold, method, key)[1]


def judge(task: Task, protocol: Protocol, fold: Fold, method: Method, key: Key) -> tuple[Any, Cell]:
    """Fit one method on one fold and judge it; return the fitted model with its cell.

    Only errors that the package raises on purpose count as a refusal; the model is None then.
    """
    seen = fold.test if method.needs else task.blind(fold.test)
    start = time.perf_counter()
    try:
        model = method.build(task.context(protocol, fold, key.variant, key.seed))
        _fit(task, model, method, task.narrow(fold, method.part) if method.part else fold)
        fitted_at = time.perf_counter()
        tables = task.predict(model, seen)
        finished_at = time.perf_counter()
        task.check(fold, tables)
        tables = task.score(protocol, fold, key.variant, tables)
    except ExpressorError as error:
        return None, Cell(key, status="refused", message=f"{type(error).__name__}: {error}")
    seconds = {"fit_seconds": fitted_at - start, "predict_seconds": finished_at - fitted_at}
    return model, Cell(key, tables=tables, fitted=_numbers(model) | seconds)


def _fit(task: Task, model: Any, method: Method, fold: Fold) -> None:
    if fold.validation is None:
        model.fit(task.training(model, fold))
    elif method.kind == "control":
        # A control has no use for a fixed validation part: it tunes inside whatever is not test, so it gets both parts.
        model.fit(_joined(fold))
    else:
        model.fit(fold.train, val=fold.validation)


def _joined(fold: Fold) -> Any:
    import anndata

    joined = anndata.concat([fold.train, fold.validation], merge="same", uns_merge="first")
    joined.uns = dict(fold.train.uns)
    return joined


def _numbers(model: Any) -> dict[str, Any]:
    """Return the fitted attributes that are single numbers or words."""
    plain = {name: to_plain(value) for name, value in vars(model).items()
             if name.endswith("_") and not name.startswith("_") and isinstance(value, int | float | str | np.number)}  # fmt: skip
    return {name: value for name, value in plain.items() if len(str(value)) < 64}


@lru_cache(maxsize=2)
def _prepared(task: Task, protocol: Protocol) -> tuple[str, list[Fold]]:
    data = task.load(protocol)
    return task.fingerprint(data), task.folds(protocol, data)


def _key(task: Task, protocol: Protocol, method: Method, fold: str, variant: str, seed: int, fingerprint: str) -> Key:
    judge = [code_digest("expressor.metrics", task.metrics), code_digest(type(task).__module__)]
    decides = [protocol.hash, method.hash, fold, variant, seed, fingerprint, judge]
    return Key(method.name, fold, variant, seed, digest(decides))


def _finished(folder: Path | None, keys: Sequence[Key]) -> dict[Key, Cell]:
    found = {} if folder is None else {key: read_cell(folder / "cells", key) for key in keys}
    # What was refused may have been refused for the lack of an extra that is there now; it costs little to ask again.
    return {key: cell for key, cell in found.items() if cell is not None and cell.status == "measured"}


def _spread(task: Task, protocol: Protocol, jobs: Sequence[tuple[Method, str, Key]], scheduler: str) -> Iterator[Cell]:
    distributed = need("distributed", extra="bench", purpose="spread a benchmark over a Dask scheduler")
    with distributed.Client(scheduler) as client:
        waiting = [client.submit(run_cell, task, protocol, *job, pure=False) for job in jobs]
        for future in distributed.as_completed(waiting):
            yield future.result()


def _labelled(results: pd.DataFrame, task: Task, protocol: Protocol, n_seeds: Mapping[str, int]) -> pd.DataFrame:
    front = {"task": task.name, "protocol": protocol.name, "version": protocol.version, "hash": protocol.hash}
    labelled = pd.concat([pd.DataFrame(front, index=results.index), results], axis=1)
    labelled["source"], labelled["expressor"] = "measured", __version__
    labelled["n_seeds"] = results["method"].map(n_seeds)
    labelled.attrs["protocol"] = protocol
    return labelled


def _write(folder: Path, protocol: Protocol, results: pd.DataFrame) -> None:
    from expressor.bench.tables import table

    try:
        folder.mkdir(parents=True, exist_ok=True)
        results.to_csv(folder / "results.csv", index=False)
        (folder / "table.md").write_text(table(results), encoding="utf-8")
        record: Mapping[str, Any] = to_plain(protocol) | {"hash": protocol.hash}
        write_json(folder / "protocol.json", record)
    except OSError as error:
        raise DataError(f"results cannot be written to {folder} ({error})", fix="Finished cells are kept.") from error
