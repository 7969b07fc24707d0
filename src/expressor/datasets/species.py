"""Two simulated species: cells of the same types, families of orthologous genes, and which members of a family do the same."""

from dataclasses import dataclass

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import check_range
from expressor.core.rng import stream
from expressor.data import keys
from expressor.datasets.cells import draw_counts
from expressor.genes.orthologs import Orthologs

SPECIES = ("alpha", "beta")
"""Names of the two simulated species."""

_FORMS = ((1, 1), (1, 2), (1, 3), (2, 1), (2, 2))
_SHARES = (0.5, 0.2, 0.1, 0.1, 0.1)
_MARKER_FOLD = 5.0


@dataclass(frozen=True, eq=False)
class SpeciesPair:
    """What :func:`simulate_species` makes.

    Attributes
    ----------
    source, target
        Raw counts of the cells of the two species; ``obs["cell_type"]``, ``obs["donor"]``.
    orthologs
        The table of their orthologs, as a sequence comparison would give it: functional or not.
    edges
        Its pairs by name, with ``functional``: the second gene has the programme of the first.
    """

    source: ad.AnnData
    target: ad.AnnData
    orthologs: Orthologs
    edges: pd.DataFrame


def simulate_species(
    *,
    n_cells: int = 60,
    n_families: int = 40,
    n_types: int = 4,
    loss: float = 0.2,
    agreement: float = 0.6,
    noise: float = 0.3,
    depth: float = 800.0,
    dispersion: float = 0.3,
    seed: int = 0,
    mechanism: int = 0,
) -> SpeciesPair:
    """Simulate two species whose genes correspond through a known sparse map.

    Genes come in families of one or two genes of the first species and one to three of the second; within a family all pairs are in
    the table of orthologs. Each gene of the first species has a programme, its mean in each type, and one gene of the second
    inherits it, with noise; what inherits nothing has a programme of its own. So of the pairs of a large family one is functional.

    Parameters
    ----------
    n_cells
        Cells of each species, at least ``n_types``.
    n_families
        At least 10.
    n_types
        Cell types, at least 2.
    loss
        Share of families that each species has lost in turn, so that their genes have no ortholog, in [0, 0.5).
    agreement
        Share of the families with several genes of the second species in which the functional pair is also the most confident one.
    noise
        Standard deviation of what an inherited programme's logarithm drifted by, in each type, >= 0.
    depth, dispersion
        Of the counts (see :func:`expressor.datasets.simulate_cells`).
    seed
        Seed of the cells.
    mechanism
        Seed of families, map and programmes.

    Returns
    -------
    SpeciesPair
        Species are named as :data:`SPECIES`; genes ``F007A1`` (family 7, first species) and ``f007b2``.
    """
    check_range(n_families, name="n_families", low=10, integer=True)
    check_range(n_types, name="n_types", low=2, integer=True)
    check_range(n_cells, name="n_cells", low=n_types, integer=True)
    check_range(loss, name="loss", low=0, high=0.5, open_high=True)
    check_range(agreement, name="agreement", low=0, high=1)
    check_range(noise, name="noise", low=0)
    rng = stream(mechanism, "families")
    form = rng.choice(len(_FORMS), n_families, p=_SHARES)
    lost = rng.permutation(n_families)[: 2 * round(loss * n_families)]
    without = {int(one): place % 2 for place, one in enumerate(lost)}
    programmes: tuple[dict[str, np.ndarray], dict[str, np.ndarray]] = ({}, {})
    rows: list[tuple[str, str, float, bool]] = []
    for i in range(n_families):
        sizes = [0 if without.get(i) == side else _FORMS[form[i]][side] for side in (0, 1)]
        names = [[f"{head}{i + 1:03d}{tail}{k + 1}" for k in range(n)] for head, tail, n in zip("Ff", "Ab", sizes)]
        for one in names[0]:
            programmes[0][one] = _programme(rng, n_types)
        heirs = rng.permutation(sizes[1])
        for k, other in enumerate(names[1]):
            parent = next((one for one, heir in zip(names[0], heirs) if heir == k), None)
            drift = noise * rng.normal(size=n_types)
            programmes[1][other] = _programme(rng, n_types) if parent is None else programmes[0][parent] + drift
        for k, one in enumerate(names[0]):
            own = int(heirs[k]) if k < len(heirs) else -1
            best = own if own >= 0 and rng.random() < agreement else int(rng.integers(max(sizes[1], 1)))
            rows += [(one, other, 1.0 if m == best else 0.5, m == own) for m, other in enumerate(names[1])]
    edges = pd.DataFrame(rows, columns=[*SPECIES, "confidence", "functional"])
    table = Orthologs.from_pairs(
        edges[SPECIES[0]], edges[SPECIES[1]], species=SPECIES, confidence=edges["confidence"], source="simulated"
    )
    cells = [
        _cells(
            programmes[side], SPECIES[side], n_cells, n_types, depth, dispersion, stream(seed, "species cells", side)
        )
        for side in (0, 1)
    ]
    return SpeciesPair(cells[0], cells[1], table, edges)


def _programme(rng: np.random.Generator, n_types: int) -> np.ndarray:
    """Return the logarithm of a gene's mean in each type: half of the genes mark one."""
    values = np.full(n_types, rng.normal())
    if rng.random() < 0.5:
        values[rng.integers(n_types)] += np.log(_MARKER_FOLD)
    return values


def _cells(
    programmes: dict[str, np.ndarray],
    species: str,
    n_cells: int,
    n_types: int,
    depth: float,
    dispersion: float,
    rng: np.random.Generator,
) -> ad.AnnData:
    kind = rng.permutation(np.arange(n_cells) % n_types)
    rate = np.exp(np.stack(list(programmes.values()), axis=1))[kind]
    counts = draw_counts(rate, rng, depth=depth, dispersion=dispersion)
    obs = pd.DataFrame(
        {
            keys.CELL_TYPE: pd.Categorical([f"T{one + 1}" for one in kind]),
            keys.DONOR: pd.Categorical([f"{species}{i % 2 + 1}" for i in range(n_cells)]),
        },
        index=[f"{species}-{i + 1:04d}" for i in range(n_cells)],
    )
    return ad.AnnData(sparse.csr_matrix(counts, dtype=np.float32), obs=obs, var=pd.DataFrame(index=list(programmes)))
