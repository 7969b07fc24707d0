"""The files that can be fetched: where they are, how long, their checksums. The table is ``sources.tsv``.

Only files whose bytes were seen and checksummed are listed. The HER2ST repository names 36 sections; the pictures of the 29
that are missing here (A2 to A6, B1 to B3, B5, B6, C1, D1 to H3) exist at the source alone, so they are not offered.
"""

import csv
from dataclasses import dataclass
from functools import cache
from pathlib import Path, PurePosixPath

from expressor.core.errors import DataError
from expressor.datasets.fetch import RemoteFile


@dataclass(frozen=True)
class Origin:
    """Where a data set's files come from: a web address that names one unchanging version, and their licence."""

    url: str
    licence: str


ORIGINS = {
    "her2st": Origin(
        "https://raw.githubusercontent.com/almaan/her2st/85df7411b987a7dec3feff9718b869a7a82091ec", "CC BY 4.0"
    ),
    "mob": Origin(
        "https://raw.githubusercontent.com/jbergenstrahle/STUtility/9a8f421499e58b13340ee386db07b0eba923c88c", "MIT"
    ),
}


def remote_files(dataset: str, section: str) -> dict[str, RemoteFile]:
    """Return the files of a section by their role (``counts``, ``spots``, ``image``, ...).

    Raises
    ------
    DataError
        The section is not in the table.
    """
    origin = ORIGINS[dataset]
    found = {
        row["role"]: RemoteFile(
            name=f"{dataset}/{section}/{PurePosixPath(row['path']).name}",
            url=f"{origin.url}/{row['path']}",
            sha256=row["sha256"],
            size=int(row["size"]),
            licence=origin.licence,
        )
        for row in _table()
        if (row["dataset"], row["section"]) == (dataset, section)
    }
    if not found:
        known = sorted({row["section"] for row in _table() if row["dataset"] == dataset})
        raise DataError(f"section {section!r} of {dataset} cannot be fetched", expected="one of " + ", ".join(known))
    return found


@cache
def _table() -> tuple[dict[str, str], ...]:
    with (Path(__file__).with_name("sources.tsv")).open(encoding="utf-8", newline="") as stream:
        return tuple(csv.DictReader(stream, delimiter="\t"))
