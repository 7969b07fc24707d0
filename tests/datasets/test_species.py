"""The simulated pair of species keeps to its stated truth."""

import numpy as np
import pytest

from expressor.core.errors import DataError
from expressor.data.fields import expression
from expressor.datasets import example, simulate_species
from expressor.genes import GeneVocab


def test_layout() -> None:
    pair = simulate_species(n_cells=40, n_families=50, loss=0.1, seed=3)
    for one in (pair.source, pair.target):
        assert one.n_obs == 40
        assert (one.X.data == np.round(one.X.data)).all()
        assert one.obs["cell_type"].value_counts().tolist() == [10] * 4
    assert (example("species").X != simulate_species().target.X).nnz == 0
    bridge = pair.orthologs.connect(GeneVocab(pair.source.var_names), GeneVocab(pair.target.var_names))
    assert bridge.n_edges == len(pair.edges)
    families = {name[1:4] for side in (pair.source, pair.target) for name in side.var_names}
    joined = {name[1:4] for name in pair.edges["alpha"]}
    assert (len(families), len(joined)) == (50, 40)


def test_a_functional_pair_shares_its_programme_and_another_does_not() -> None:
    pair = simulate_species(n_cells=400, n_families=200, noise=0.1, depth=5000.0)
    found = []
    for side in (pair.source, pair.target):
        values = expression(side, scale="log1p_cp10k")
        kinds = side.obs["cell_type"].to_numpy()
        found.append(
            {
                gene: [values[kinds == one, i].mean() for one in np.unique(kinds)]
                for i, gene in enumerate(side.var_names)
            }
        )
    distance = np.array(
        [np.ptp(np.subtract(found[0][a], found[1][b])) for a, b in zip(pair.edges["alpha"], pair.edges["beta"])]
    )
    functional = pair.edges["functional"].to_numpy()
    assert np.median(distance[functional]) < 0.3 * np.median(distance[~functional])
    assert 0.4 < functional.mean() < 0.9
    assert pair.edges.loc[functional, "alpha"].is_unique
    assert pair.edges.loc[functional, "beta"].is_unique


def test_agreement_is_how_often_the_best_match_is_functional() -> None:
    for agreement, low, high in ((1.0, 1.0, 1.0), (0.0, 0.3, 0.7)):
        edges = simulate_species(n_families=400, agreement=agreement).edges
        several = edges[edges["alpha"].duplicated(keep=False) & edges.groupby("alpha")["functional"].transform("any")]
        share = several.loc[several["confidence"] == 1.0, "functional"].mean()
        assert low <= share <= high


def test_bad_sizes() -> None:
    with pytest.raises(DataError, match="n_families"):
        simulate_species(n_families=3)
    with pytest.raises(DataError, match="loss"):
        simulate_species(loss=0.5)
