"""Real files of several fields are taken in, and what is wrong with one of them is said."""

import os
from pathlib import Path

import pytest

from expressor.core.errors import GeneError
from expressor.data import fingerprint, library_size, read
from expressor.genes import detect_namespace

DATA = Path(os.environ.get("EXPRESSOR_DATA", "/nowhere"))
FILES = sorted(str(one.relative_to(DATA)) for one in DATA.glob("**/*.h5ad")) if DATA.is_dir() else []
UNNAMED = {"bulk/golub.h5ad": "have no names, only the positions 0 to 7128"}
COUNTS = ("her2st", "mob", "singlecell", "crossspecies")

pytestmark = pytest.mark.skipif(not FILES, reason="EXPRESSOR_DATA does not name the folder of real data")


@pytest.mark.parametrize("name", FILES)
def test_a_real_file_is_read(name):
    if name in UNNAMED:
        with pytest.raises(GeneError, match=UNNAMED[name]):
            read(DATA / name)
        return
    adata = read(DATA / name)
    assert adata.n_obs > 0
    assert detect_namespace(adata.var_names) in ("symbol", "ensembl", "entrez")
    if name.split("/")[0] in COUNTS:
        assert library_size(adata).min() >= 0
        assert fingerprint(adata) == fingerprint(adata.copy())
