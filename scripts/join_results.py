"""Set benchmark results of several protocols side by side, as Markdown on the output.

    python scripts/join_results.py FOLDER... > docs/tables/survival.md

Each folder is what ``expressor bench survival --protocol NAME -o FOLDER`` wrote.
"""

import sys
from pathlib import Path

import pandas as pd

from expressor.bench.tables_cohorts import across_table


def main() -> None:
    """Read the folders' results and print the table."""
    results = [pd.read_csv(Path(folder) / "results.csv") for folder in sys.argv[1:]]
    print(
        across_table(
            results, others=("brier_skill", "calibration_slope", "uno_concordance", "auc_1y", "auc_3y", "auc_5y")
        )
    )
    print(
        "Made by `expressor bench survival --protocol NAME -o NAME` for each, and `scripts/join_results.py`; one seed."
    )


if __name__ == "__main__":
    main()
