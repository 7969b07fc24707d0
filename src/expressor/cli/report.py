"""``expressor report DIR``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from expressor.cli.terminal import console, parse
from expressor.core.errors import DataError


def report(
    folder: Annotated[Path, tyro.conf.Positional],
    /,
    out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None,
    data: str | None = None,
) -> None:
    """Write the single-file HTML report and the static figures of a run folder, or of a saved model on a cohort.

    Parameters
    ----------
    folder
        A run folder (of ``expressor demo``, ``expressor impute --report``, ``write_run``); with ``--data``, a saved model.
    out
        The HTML file; ``report.html`` in the folder by default. With ``--data``, the run folder to write.
    data
        Bulk profiles (CSV, TSV, h5ad, zarr, or the name of a data set) that the model is asked about: restored genes,
        Kaplan-Meier curves by predicted risk, calibration. For a map of the brain, samples to draw and to judge it by; for
        clusters, cells to draw.
    """
    from expressor.report import write_report
    from expressor.report.cohort import MARK

    if data is not None:
        from expressor.cli.source import read_source
        from expressor.estimator import load
        from expressor.estimator.roles import Clusters, Maps
        from expressor.report import write_cluster_report, write_cohort_run, write_map_report

        if out is None:
            raise DataError(
                "a report on data needs a place to be written to",
                fix="Give -o: a folder, or with a map or clusters a file .html.",
            )
        model = load(folder)
        if isinstance(model, Maps | Clusters):
            write = write_map_report if isinstance(model, Maps) else write_cluster_report
            written = write(model, read_source(data), out if out.suffix == ".html" else out / "report.html")
        else:
            written = write_cohort_run(model, read_source(data), out) / "report.html"
    elif (folder / MARK).is_file():
        from expressor.report import write_cohort_report

        written = write_cohort_report(folder, out)
    else:
        written = write_report(folder, out)
    console.print(f"wrote {written}", markup=False)


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(report, words, prog="expressor report")
