"""Gene families of human and mouse pancreas in which another ortholog works than the best match, and how stable that is.

A network of human pancreas stands behind TRON's layer on the edges that three or more of HCOP's databases support (Ensembl's
confidence is the same for most members of a family). The layer is learnt on labelled mouse cells, then anew on resamples of them.
Printed are the families whose most important ortholog is not the most confident one; the picture of them is written where asked.
The data must be there (``EXPRESSOR_DATA``).

    python benchmarks/families.py            # two minutes
    python benchmarks/families.py -o families.png
"""

import argparse

import torch

from expressor.bench.controls.transferring import Transferred
from expressor.bench.tasks.transfer import TASK
from expressor.datasets import human_mouse_orthologs
from expressor.report import figures
from expressor.systems.tron import families


def main() -> None:
    """Print the table, and write the picture."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("-o", "--out", help="picture to write")
    parser.add_argument("--seeds", type=int, default=5)
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    protocol = TASK.protocols["human-mouse"]
    data = TASK.load(protocol)
    given = TASK.context(protocol, TASK.folds(protocol, data)[-1], "log1p_cp10k", 0)
    given.pop("mode")
    given["orthologs"] = human_mouse_orthologs("hcop").confident(3 / 13)
    model = Transferred(**given, retrained=True).fit(data["target"]).model_
    table = families.stability(model, data["target"], seeds=chosen.seeds)
    several = table["source"].duplicated(keep=False)
    print(model.report_)
    print(f"{int(several.sum())} edges of {table.loc[several, 'source'].nunique()} genes with several orthologs; "
          f"agreement of importance over {chosen.seeds} resamples {table.attrs['agreement']:.3f}")  # fmt: skip
    found = model.families(table)
    shown = ["source", "best_match", "functional", "best_confidence", "functional_confidence", "best_weight", "functional_weight",
             "ratio", "same_sign"]  # fmt: skip
    print(found[shown].head(12).round(2).to_string(index=False))
    tied = table[several & (table.groupby("source")["confidence"].transform("nunique") == 1)]
    print(f"{tied['source'].nunique()} genes whose orthologs are all as confident are not in the table")
    if chosen.out:
        figures.write(
            figures.gene_families(table, list(found["source"].head(8)), species=("human", "mouse")), chosen.out
        )


if __name__ == "__main__":
    main()
