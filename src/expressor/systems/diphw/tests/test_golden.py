"""Numbers of small fits, kept: a change of any of them is a change of the method, and must be meant.

Made on ``datasets.example("cells")``, seed 0, one thread, x86-64, NumPy 2.4.6, SciPy 1.17.1, scikit-learn 1.7.2. To make them again
after a change that is meant, run the fits below and copy what they give. Positions are compared by products of a cell's row with
others, which do not depend on the signs of the directions.
"""

from typing import Any

import numpy as np
import pytest

from expressor.datasets.examples import example
from expressor.estimator.skip_gram import skip_gram
from expressor.systems.diphw import DIPHW
from expressor.systems.diphw.hypergraph import factor_walk
from expressor.systems.diphw.preparation import prepare
from expressor.systems.diphw.sampling import draw_walks

KEPT: dict[str, tuple[dict[str, Any], list[float], list[int], list[tuple[str, float, float]]]] = {
    "tiny": (
        {"walk": "both", "dim": 8},
        [0.1375, 0.0241, -0.0275, 0.0760, 0.0711, 0.0415],
        [0, 1, 2, 3, 3, 1, 1, 2, 1, 1, 3, 1, 1, 3, 3, 1],
        [("GENE23", 0.1666, 2.8416), ("GENE16", 0.1096, 2.0243), ("GENE47", 0.0789, 2.3417)],
    ),
    "memory": (
        {"walk": "comem_both"},
        [0.0954, 0.0450, -0.1079, 0.0182, 0.0819, 0.1515],
        [2, 0, 2, 3, 3, 0, 0, 1, 0, 0, 3, 0, 0, 3, 3, 0],
        [("GENE01", 0.0615, 1.1764), ("GENE18", 0.0594, 2.0846), ("GENE44", 0.0473, 2.1369)],
    ),
    "landmarks": (
        {"walk": "diphw", "backend": "landmarks", "n_landmarks": 20},
        [0.4300, 0.1510, -0.0761, 0.2455, 0.2294, 0.3056],
        [2, 0, 1, 3, 3, 0, 0, 1, 0, 0, 3, 0, 0, 3, 3, 0],
        [("GENE18", 0.0489, 1.7669), ("GENE12", 0.0469, 1.8900), ("GENE44", 0.0437, 1.8431)],
    ),
}
WALKS = [[0, 47, 53, 76, 45, 28, 62, 55, 74, 43, 4, 20], [1, 1, 73, 2, 70, 61, 15, 60, 64, 19, 74, 52]]
LEARNT = [0.729, 0.531, 0.627, 0.589, 0.648, 0.559]


@pytest.mark.parametrize("name", KEPT)
def test_small_fits_give_the_kept_numbers(name: str) -> None:
    words, products, labels, genes = KEPT[name]
    model = DIPHW(n_clusters=4, unit_rows=True, **words).fit(example("cells"))
    np.testing.assert_allclose(model.embedding_[1:7] @ model.embedding_[0], products, atol=2e-3)
    assert model.labels_[:16].tolist() == labels
    table = model.modules_.head(3)
    assert table["gene"].tolist() == [gene for gene, _, _ in genes]
    np.testing.assert_allclose(table[["share", "lift"]], [one[1:] for one in genes], atol=2e-3)


def test_drawn_walks_and_what_is_learnt_from_them_are_the_kept_ones() -> None:
    gamma, _ = prepare(example("cells"), scale="auto", log="natural", n_genes=None)
    walks = draw_walks(factor_walk(gamma, walk="diphw", exponent=5.0), per_cell=30, T=30, seed=0)
    assert walks[:2, :12].tolist() == WALKS
    x = skip_gram(walks, 80, dim=8, W=5, seed=0)
    np.testing.assert_allclose(x[:6] @ x[0], LEARNT, atol=5e-3)
