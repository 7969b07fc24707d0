"""Data in, whatever they come in, as one AnnData; expression out of it on a stated scale; and a fingerprint of its content."""

import hashlib
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import anndata
import numpy as np
import pandas as pd
from anndata import AnnData
from scipy import sparse

from expressor.core.errors import DataError, FormatError, GeneError, check_choice, nearest_names
from expressor.core.log import logger
from expressor.data import files
from expressor.data.checks import check_counts, check_numeric, check_sparse, check_unique
from expressor.data.keys import GENE_IDS
from expressor.data.tabular import is_table, read_table
from expressor.genes.ids import check_gene_names

SCALES = ("log1p_cp10k", "log1p_counts")
"""log1p of counts per 10,000 of the observation's counts over all genes; log1p of the raw counts."""

_ROWS = 4096  # observations handled at once where a whole copy would be wasteful


def read(data: Any, *, genes: Iterable[str] | None = None) -> AnnData:
    """Take data in any supported form and return them as a checked AnnData in memory.

    Parameters
    ----------
    data
        An AnnData (also a view, also backed), the path of an ``.h5ad`` file, a zarr folder or a text table (CSV, TSV; see
        :func:`expressor.data.read_table`), a DataFrame (rows are observations, columns genes), or a matrix (NumPy or SciPy
        sparse) with ``genes``. No genes at all are allowed: tissue to predict on.
    genes
        Names of a matrix's columns. Refused where the data name their genes themselves.

    Returns
    -------
    AnnData
        A new object. Its matrices may be those of ``data`` itself and must not be changed in place; its tables, and all its
        dictionaries, are its own.

    Raises
    ------
    DataError
        Nothing is there, the type is not supported, there are no observations, names repeat, or ``X`` is not numeric.
    FormatError
        A file is damaged or of another format.
    GeneError
        Gene names are empty, repeated, missing, or from several namespaces.
    """
    if isinstance(data, str | os.PathLike):
        adata, where = _read_path(Path(data)), os.fspath(data)
    elif isinstance(data, AnnData):
        # Checked before it is copied, because AnnData itself only warns of repeated names.
        adata, where = _detach(_check(data, where="the AnnData")), "the AnnData"
    elif isinstance(data, pd.DataFrame):
        adata, where = _from_frame(data), "the DataFrame"
    elif isinstance(data, np.ndarray) or sparse.issparse(data):
        return _check(_from_matrix(data, genes), where="the matrix")
    else:
        raise DataError(
            f"cannot take data from a {type(data).__name__}",
            expected="an AnnData, the path of an .h5ad file or zarr folder, a DataFrame, or an array with genes=",
        )
    if genes is not None:
        raise DataError(f"genes= was given, but {where} names its genes itself", fix="Leave genes= out.")
    return _check(adata, where=where)


def _check(adata: AnnData, *, where: str) -> AnnData:
    if adata.n_obs == 0:
        raise DataError(f"{where} holds no observations", expected="at least one row")
    check_unique(adata.obs_names, where=where)
    ids = adata.var[GENE_IDS].astype(str) if GENE_IDS in adata.var else None
    check_gene_names(adata.var_names, where=where, ids=ids)
    if adata.X is not None:
        check_numeric(adata.X, where=f"X of {where}")
    return adata


def _read_path(path: Path) -> AnnData:
    files.find(path, what="data file")
    if path.is_dir():
        if (path / "spatial").is_dir() or (path / "binned_outputs").is_dir():
            raise DataError(
                f"{path} is a Space Ranger folder",
                fix="Read it with expressor.data.read_visium or read_visium_hd, and give the AnnData.",
            )
        files.check_zarr(path)
        with files.reading(path, "AnnData in zarr"):
            adata = anndata.read_zarr(path)
    elif path.suffix in (".h5ad", ".h5"):
        files.check_hdf5(path)
        with files.reading(path, "AnnData in HDF5 (h5ad)"):
            adata = anndata.read_h5ad(path)
    elif is_table(path):
        return read_table(path)
    else:
        raise DataError(
            f"the suffix of {path} is not known", expected="an .h5ad file, a zarr folder, or a .csv or .tsv table",
            got=repr(path.suffix), fix="Read other tables with pandas and give the DataFrame.",
        )  # fmt: skip
    if not isinstance(adata, AnnData):
        raise FormatError(f"{path} holds no AnnData", got=type(adata).__name__)
    for name, X in [("X", adata.X), *((f"layers[{key!r}]", one) for key, one in adata.layers.items()),
                    *((f"obsm[{key!r}]", one) for key, one in adata.obsm.items())]:  # fmt: skip
        check_sparse(X, where=f"{name} of {path}")
    return adata


def _detach(adata: AnnData) -> AnnData:
    """Return an AnnData with tables and dictionaries of its own; matrices are shared unless it was a view or on disk."""
    if adata.isbacked:
        with files.reading(adata.filename or "backed AnnData", "AnnData on disk"):
            return adata.to_memory()
    if adata.is_view:
        return adata.copy()
    X = adata.X
    if X is not None and not isinstance(X, np.ndarray) and not sparse.issparse(X):
        raise DataError(
            f"X is a {type(X).__name__}", expected="a NumPy or SciPy sparse matrix", fix="Compute it first."
        )
    return AnnData(
        X=X,
        obs=adata.obs.copy(),
        var=adata.var.copy(),
        uns=_copy_dicts(adata.uns),
        obsm=dict(adata.obsm),
        varm=dict(adata.varm),
        layers=dict(adata.layers),
        obsp=dict(adata.obsp),
        varp=dict(adata.varp),
    )


def _copy_dicts(node: Any) -> Any:
    return {key: _copy_dicts(one) for key, one in node.items()} if isinstance(node, Mapping) else node


def _from_frame(frame: pd.DataFrame) -> AnnData:
    if isinstance(frame.columns, pd.MultiIndex) or isinstance(frame.index, pd.MultiIndex):
        raise DataError("the DataFrame has several levels of names", expected="one name a row and a column",
                        fix="Flatten them first.")  # fmt: skip
    odd = [str(name) for name, kind in zip(frame.columns, frame.dtypes) if not pd.api.types.is_numeric_dtype(kind)]
    if odd:
        raise DataError(
            f"{len(odd)} columns of the DataFrame are no numbers, such as {odd[0]!r}",
            expected="one numeric column a gene",
            fix="Keep annotations out of the table, for example in AnnData.obs.",
        )
    values = frame.to_numpy(dtype=np.float64, na_value=np.nan)
    return _build(values, frame.index, [str(name) if isinstance(name, int) else name for name in frame.columns])


def _from_matrix(X: Any, genes: Iterable[str] | None) -> AnnData:
    check_numeric(X, where="the matrix")
    if genes is None:
        raise DataError("a matrix does not name its genes", fix="Give the names of its columns with genes=.")
    names = list(genes)
    if len(names) != X.shape[1]:
        raise DataError("genes= does not fit the matrix", expected=f"{X.shape[1]} names", got=len(names))
    X = X if isinstance(X, np.ndarray) or X.format in ("csr", "csc") else X.tocsr()
    return _build(X, pd.RangeIndex(X.shape[0]), names)


def _build(X: Any, rows: pd.Index, genes: list[Any]) -> AnnData:
    check_gene_names(genes, where="the columns")
    rows = rows.astype(str)
    check_unique(rows, where="the rows")
    return AnnData(X=X, obs=pd.DataFrame(index=rows), var=pd.DataFrame(index=pd.Index(genes, dtype=object)))


def counts_of(adata: AnnData, *, layer: str | None = None) -> Any:
    """Return the checked raw counts (observation, gene): CSR, CSC or dense, as they are kept.

    Raises
    ------
    DataError
        There is no such layer, no ``X``, or it does not hold counts.
    """
    if layer is not None and layer not in adata.layers:
        raise DataError(f"there is no layer {layer!r}", nearest=nearest_names(layer, adata.layers),
                        fix="The layers are: " + (", ".join(map(repr, adata.layers)) or "none") + ".")  # fmt: skip
    X = adata.X if layer is None else adata.layers[layer]
    where = "X" if layer is None else f"layers[{layer!r}]"
    if X is None:
        raise DataError(
            "the data hold no expression: X is empty", fix="Give measured counts, or name their layer with layer=."
        )
    if not isinstance(X, np.ndarray) and not sparse.issparse(X):
        X = X.to_memory() if hasattr(X, "to_memory") else np.asarray(X[:])
    check_counts(X, where=where)
    return X


def library_size(adata: AnnData, *, layer: str | None = None) -> np.ndarray:
    """Return float64 (observation,), the sum of counts over all genes of ``adata``."""
    return _row_sums(counts_of(adata, layer=layer))


def _row_sums(counts: Any) -> np.ndarray:
    return np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel()


def expression(
    adata: AnnData, genes: Iterable[str] | None = None, *, scale: str, layer: str | None = None
) -> np.ndarray:
    """Return the expression of some genes, dense, on a stated scale.

    Parameters
    ----------
    adata
        Holds raw counts of all measured genes: the library size is summed over all of them, not over ``genes`` alone.
    genes
        Names of the wanted genes, in the wanted order; all genes when not given. Only these are made dense.
    scale
        One of :data:`SCALES`. An observation without any counts gets 0 on either; their number is logged as a warning.
    layer
        Layer with the counts; ``X`` when not given.

    Returns
    -------
    numpy.ndarray
        float32 (observation, gene), C order.

    Raises
    ------
    DataError
        Unknown scale or layer, or no raw counts there.
    GeneError
        A gene is not in ``adata``.
    """
    check_choice(scale, SCALES, name="scale")
    counts = counts_of(adata, layer=layer)
    wanted = counts
    if genes is not None:
        wanted = counts[:, _positions(adata, list(genes))]
    dense = np.array(wanted.toarray() if sparse.issparse(wanted) else wanted, dtype=np.float64, order="C")
    if scale == "log1p_cp10k":
        dense *= _size_factors(counts)[:, None]
    return np.log1p(dense, out=dense).astype(np.float32)


def expression_sparse(adata: AnnData, *, scale: str, layer: str | None = None) -> sparse.csr_matrix:
    """Return the expression of all genes as float32 CSR (observation, gene): the values of :func:`expression`, never dense.

    ``scale`` and ``layer`` are those of :func:`expression`.
    """
    check_choice(scale, SCALES, name="scale")
    counts = counts_of(adata, layer=layer)
    values = sparse.csr_matrix(counts, dtype=np.float64, copy=True)
    values.sum_duplicates()
    if scale == "log1p_cp10k":
        values.data *= np.repeat(_size_factors(counts), np.diff(values.indptr))
    return sparse.csr_matrix(
        (np.log1p(values.data).astype(np.float32), values.indices, values.indptr), shape=values.shape
    )


def _size_factors(counts: Any) -> np.ndarray:
    size = _row_sums(counts)
    empty = int((size == 0).sum())
    if empty:
        logger.warning("%d of %d observations have no counts; their expression is given as 0", empty, len(size))
    return 1e4 / np.where(size == 0, 1.0, size)


def _positions(adata: AnnData, genes: list[str]) -> np.ndarray:
    index = adata.var_names.get_indexer(pd.Index(genes, dtype=object))
    absent = [name for name, place in zip(genes, index) if place < 0]
    if absent:
        raise GeneError(
            f"{len(absent)} of {len(genes)} genes are not in the data, such as {absent[0]!r}",
            nearest=nearest_names(str(absent[0]), adata.var_names),
            fix="Check spelling and namespace.",
        )
    return index


def fingerprint(adata: AnnData) -> str:
    """Return a SHA-256 (hex) of the content: ``X``, gene names and observation names.

    The same content gives the same hash whether it is CSR, CSC or dense, of whatever number type, in memory or backed. A file on
    disk is read some thousand rows at a time.
    """
    return fingerprint_rows(adata.obs_names, adata.var_names, _row_blocks(adata.X))


def fingerprint_rows(observations: Iterable[object], genes: Iterable[object], rows: Iterable[sparse.csr_matrix]) -> str:
    """Return the :func:`fingerprint` of a matrix that is read some rows at a time.

    Parameters
    ----------
    observations, genes
        Names of rows and columns.
    rows
        Rows in their order, CSR without stored zeros or repeated columns.
    """
    both = list(map(str, observations)), list(map(str, genes))
    whole = hashlib.sha256(repr((len(both[0]), len(both[1]))).encode())
    for names in both:
        whole.update(hashlib.sha256("\n".join(names).encode()).digest())
    parts = [hashlib.sha256() for _ in range(3)]
    for block in rows:
        for part, array in zip(parts, (np.diff(block.indptr), block.indices, block.data)):
            part.update(array.astype("<f8" if array is block.data else "<i8").tobytes())
    for part in parts:
        whole.update(part.digest())
    return whole.hexdigest()


def _row_blocks(X: Any) -> Iterator[sparse.csr_matrix]:
    """Canonical float64 CSR blocks of rows of a matrix in memory or on disk."""
    if X is None:
        return
    if getattr(X, "format", "csr") != "csr":
        X = (X.to_memory() if hasattr(X, "to_memory") else X).tocsr()
    for start in range(0, X.shape[0], _ROWS):
        block = sparse.csr_matrix(X[start : start + _ROWS], dtype=np.float64, copy=True)
        block.sum_duplicates()
        block.eliminate_zeros()
        yield block
