"""Whether restored anchor genes help to predict survival from a panel: four arms on the same folds.

python benchmarks/anchors.py KIRC LIHC LUAD HNSC GBMLGG
python benchmarks/anchors.py LIHC --transformer    # the third arm too, which trains a network in each fold: minutes a cohort

Of each cohort five folds of patients; in each a random panel of 64 genes, the same for all arms. Anchors are the genes outside the
panel with the largest univariate Cox statistic among the training patients. What is restored from the panel is a function of the
panel, so the second and third arm can win only by regularisation; the fourth, which is given what was really measured, is the
ceiling. Differences of Harrell's C to the panel alone have 95 % intervals over 1,000 resamples of patients within folds.
"""

import argparse
from typing import Any

import numpy as np

PANEL, ANCHORS, FOLDS = 64, 16, 5
ARMS = ("panel alone", "and anchors by ridge", "and anchors by the transformer", "and anchors as measured")


def risks(train: Any, test: Any, panel: list[str], seed: int, arms: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Return the risk of each test patient, by arm; a method sees the test patients' panel, and in the last arm the anchors."""
    import expressor as ex

    heads: dict[str, Any] = {"time": "time", "event": "event", "panel": tuple(panel), "memory": 0, "random_state": seed}
    seen = test[:, panel].copy()
    alone = ex.GexBERT(survival_input="panel", network=False, **heads).fit(train)
    ridge = ex.GexBERT(survival_input="anchors", anchors=ANCHORS, network=False, **heads).fit(train)
    both = [*panel, *ridge.anchors_]
    ceiling = ex.GexBERT(survival_input="panel", network=False, **heads | {"panel": tuple(both)}).fit(train)
    found = {ARMS[0]: alone.risk(seen), ARMS[1]: ridge.risk(seen), ARMS[3]: ceiling.risk(test[:, both].copy())}
    if ARMS[2] in arms:
        found[ARMS[2]] = ex.GexBERT(survival_input="anchors", anchors=ANCHORS, **heads).fit(train).risk(seen)
    return found


def main() -> None:
    """Print a row a cohort."""
    import expressor as ex
    from expressor.core.rng import stream
    from expressor.data.cohorts import draw_folds
    from expressor.metrics.survival import compare_pairs

    words = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    words.add_argument("cohorts", nargs="+")
    words.add_argument("--transformer", action="store_true", help="train the third arm too")
    chosen = words.parse_args()
    arms = ARMS if chosen.transformer else tuple(one for one in ARMS if one != ARMS[2])
    print("| cohort | patients, events | " + " | ".join((arms[0], *(f"{one}, minus that" for one in arms[1:]))) + " |")
    for name in chosen.cohorts:
        adata = ex.datasets.survival_cohort(name).adata
        adata = adata[ex.data.has_outcome(adata)].copy()
        folds = draw_folds(adata, folds=FOLDS, repeats=1, seed=0, by=["event"])
        found = {arm: np.full(adata.n_obs, np.nan) for arm in arms}
        label = np.empty(adata.n_obs, dtype=object)
        for number, split in enumerate(folds.splits(adata)):
            drawn = stream(0, "anchors panel", number).choice(np.sort(adata.var_names), PANEL, replace=False)
            parts = risks(adata[split.train].copy(), adata[split.test].copy(), sorted(drawn), number, arms)
            for arm, one in parts.items():
                found[arm][split.test] = one
            label[split.test] = split.name
        time, event = adata.obs["time"].to_numpy(dtype=float), adata.obs["event"].to_numpy(dtype=bool)
        strata = label.astype(str)
        pairs = {arm: compare_pairs(time, event, one, strata=strata) for arm, one in found.items()}
        weights = stream(0, "anchors bootstrap").multinomial(
            adata.n_obs, np.full(adata.n_obs, 1 / adata.n_obs), size=1000
        )
        draws = {arm: pairs[arm].draws(weights.astype(float)) for arm in arms}
        cells = [f"{pairs[ARMS[0]].value():.3f}"]
        for arm in arms[1:]:
            low, high = np.nanpercentile(draws[arm] - draws[ARMS[0]], [2.5, 97.5])
            cells.append(f"{pairs[arm].value() - pairs[ARMS[0]].value():+.3f} ({low:+.3f} to {high:+.3f})")
        print(f"| {name} | {adata.n_obs}, {int(event.sum())} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
