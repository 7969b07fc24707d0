"""``expressor bench TASK``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from expressor.cli.terminal import console, parse


def bench(
    task: Annotated[str, tyro.conf.Positional],
    /,
    protocol: str | None = None,
    methods: tuple[str, ...] = (),
    seeds: tuple[int, ...] = (0,),
    once: tuple[str, ...] = (),
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    scheduler: str | None = None,
) -> None:
    """Run a benchmark task and print its table; finished parts found in the output folder are not run again.

    Parameters
    ----------
    task
        Name of the task, for example ``histology``.
    protocol
        Name of the protocol; the task's first by default.
    methods
        Methods to run beside the controls; by default all but those that take very long.
    seeds
        Seeds of every method.
    once
        Methods to run with the first seed alone.
    out
        Folder for results.csv and table.md.
    scheduler
        Address of a Dask scheduler to spread the grid over.
    """
    from expressor import bench as room

    results = room.run(
        task,
        protocol=protocol,
        methods=methods or None,
        seeds=seeds,
        once=once,
        out=out,
        scheduler=scheduler,
        show=None,
    )
    console.print(room.table(results), markup=False, soft_wrap=True)


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(bench, words, prog="expressor bench")
