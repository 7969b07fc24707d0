"""``expressor report DIR``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import tyro

from expressor.cli.terminal import console, parse


def report(
    folder: Annotated[Path, tyro.conf.Positional], /, out: Annotated[Path | None, tyro.conf.arg(aliases=["-o"])] = None
) -> None:
    """Write the single-file HTML report and the static figures of a run folder.

    Parameters
    ----------
    folder
        A folder that ``expressor demo`` or ``expressor.report.write_run`` made.
    out
        The HTML file; ``report.html`` in the folder by default.
    """
    from expressor.report import write_report

    console.print(f"wrote {write_report(folder, out)}", markup=False)


def main(words: Sequence[str]) -> None:
    """Run the verb."""
    parse(report, words, prog="expressor report")
