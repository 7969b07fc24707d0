"""Count matrices as 10x Genomics' software writes them: the HDF5 file and the folder of three text files."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import DataError, FormatError, check_choice
from expressor.core.log import logger
from expressor.data import files
from expressor.data.checks import check_sparse
from expressor.data.readers import tables

GENE_NAMES = ("symbol", "ensembl")


@dataclass(frozen=True)
class TenxCounts:
    """A count matrix with its names.

    Attributes
    ----------
    counts
        CSR (barcode, gene).
    barcodes, genes, ids
        Names of the rows; names of the columns, unique; database identifiers of the columns.
    library
        The name that the software's user gave the sample; empty where the file does not tell.
    """

    counts: sparse.csr_matrix
    barcodes: list[str]
    genes: list[str]
    ids: list[str]
    library: str = ""


def read_tenx(folder: Path, *, gene_names: str = "symbol") -> TenxCounts:
    """Read the filtered counts of an output folder: the HDF5 file where there is one, else the folder of text files.

    Only features of the type "Gene Expression" are kept. A symbol that several genes of the reference share says nothing: those
    genes are named by their identifier, and the log says how many.

    Parameters
    ----------
    folder
        Holds ``filtered_feature_bc_matrix.h5`` or the folder ``filtered_feature_bc_matrix``.
    gene_names
        ``"symbol"`` or ``"ensembl"`` (the identifiers).

    Raises
    ------
    DataError
        Neither is there.
    FormatError
        A file is damaged or of another layout.
    """
    check_choice(gene_names, GENE_NAMES, name="gene_names")
    single, several = folder / "filtered_feature_bc_matrix.h5", folder / "filtered_feature_bc_matrix"
    if single.is_file():
        counts, barcodes, features, library = _read_h5(single)
    elif several.is_dir():
        counts, barcodes, features, library = _read_mtx(several)
    else:
        raise DataError(
            f"there are no filtered counts in {folder}",
            expected=f"{single.name} or the folder {several.name}",
            fix="Give the folder that Space Ranger calls 'outs'.",
        )
    check_sparse(counts, where=f"of {folder}")
    if counts.nnz and counts.data.min() < 0:
        raise FormatError(f"the counts in {folder} are damaged", expected="counts from 0", got=int(counts.data.min()))
    measured = (features["type"] == "Gene Expression").to_numpy()
    if not measured.any():
        raise DataError(
            f"{folder} holds no gene expression", got="features of type " + ", ".join(sorted(set(features["type"]))[:3])
        )
    if not measured.all():
        logger.info("%s: %d features that are no genes are left out", folder, int((~measured).sum()))
        counts, features = counts[:, np.flatnonzero(measured)], features[measured]
    ids = list(features["id"])
    genes = ids if gene_names == "ensembl" else _unique_symbols(features, where=folder)
    return TenxCounts(counts, barcodes, genes, ids, library)


def _unique_symbols(features: pd.DataFrame, *, where: Path) -> list[str]:
    shared = features["name"].duplicated(keep=False)
    if shared.any():
        logger.warning(
            "%s: %d genes share their symbol with another (such as %s); they are named by their identifiers",
            where, int(shared.sum()), features["name"][shared].iloc[0],
        )  # fmt: skip
    return list(features["id"].where(shared, features["name"]))


def _read_h5(path: Path) -> tuple[sparse.csr_matrix, list[str], pd.DataFrame, str]:
    import h5py

    files.check_hdf5(path)
    with files.reading(path, "10x HDF5"), h5py.File(path, "r") as file:
        if "matrix" not in file:
            raise FormatError(
                f"{path} has no group 'matrix'", expected="the layout of Cell Ranger 3 or later", got=sorted(file)[:5]
            )
        shape = _array(file, "matrix/shape", path, kinds="iu")
        if shape.shape != (2,) or (shape < 0).any() or (shape > 2**40).any():
            raise FormatError(f"{path} has a bad shape", expected="two sizes", got=str(shape)[:60])
        data, indices, indptr = (
            _array(file, f"matrix/{name}", path, kinds="iu") for name in ("data", "indices", "indptr")
        )
        barcodes = _texts(file, "matrix/barcodes", path)
        features = pd.DataFrame({key: _column(file, key, path) for key in ("id", "name", "feature_type")})
        features.columns = ["id", "name", "type"]
        library = file.attrs.get("library_ids", [b""])
        library = np.asarray(library).ravel()[:1].tolist()
        name = library[0].decode("utf-8") if library and isinstance(library[0], bytes) else ""
        n_genes, n_barcodes = (int(n) for n in shape)
        if (
            (n_genes, n_barcodes) != (len(features), len(barcodes))
            or len(indptr) != n_barcodes + 1
            or len(data) != len(indices)
        ):
            raise FormatError(
                f"the parts of {path} do not fit together",
                expected=f"{n_genes} features and {n_barcodes} barcodes",
                got=f"{len(features)} and {len(barcodes)}, {len(indptr)} pointers, {len(data)} values, {len(indices)} indices",
            )
        # Stored gene by barcode in columns, which is barcode by gene in rows.
        counts = sparse.csr_matrix((data, indices, indptr), shape=(n_barcodes, n_genes))
    return counts, barcodes, features, name


def _array(file: Any, name: str, path: Path, *, kinds: str) -> np.ndarray:
    import h5py

    node = file.get(name)
    if not isinstance(node, h5py.Dataset) or node.dtype.kind not in kinds or len(node.shape or ()) != 1:
        found = "nothing" if node is None else f"{getattr(node, 'dtype', 'a group')} {getattr(node, 'shape', '')}"
        raise FormatError(
            f"{path} has no usable {name!r}",
            expected="one axis of " + ("integers" if "i" in kinds else "text"),
            got=found,
        )
    return node[:]


def _texts(file: Any, name: str, path: Path) -> list[str]:
    return [one.decode("utf-8") if isinstance(one, bytes) else str(one) for one in _array(file, name, path, kinds="SO")]


def _column(file: Any, key: str, path: Path) -> list[str]:
    return _texts(file, f"matrix/features/{key}", path)


def _first(folder: Path, *names: str) -> Path:
    for name in names:
        for path in (folder / f"{name}.gz", folder / name):
            if path.is_file():
                return path
    raise DataError(f"{folder} is incomplete", expected=" or ".join(f"{one}.gz" for one in names))


def _read_mtx(folder: Path) -> tuple[sparse.csr_matrix, list[str], pd.DataFrame, str]:
    path = _first(folder, "features.tsv", "genes.tsv")
    features = tables.read_columns(path, sep="\t", names=["id", "name", "type"])
    # The two columns of Cell Ranger 2 hold genes alone.
    features["type"] = features["type"].fillna("").replace("", "Gene Expression")
    if features[["id", "name"]].isna().any(axis=None) or (features[["id", "name"]] == "").any(axis=None):
        raise FormatError(f"{path} has genes without identifier or name")
    barcodes = tables.read_columns(_first(folder, "barcodes.tsv"), sep="\t", names=["barcode"])["barcode"].tolist()
    counts = _parse_mtx(_first(folder, "matrix.mtx"), n_genes=len(features), n_barcodes=len(barcodes))
    return counts, barcodes, features, ""


def _parse_mtx(path: Path, *, n_genes: int, n_barcodes: int) -> sparse.csr_matrix:
    text = tables.read_text(path, limit=2 * tables.MAX_TEXT_BYTES)
    if not text.startswith(b"%%MatrixMarket matrix coordinate integer general"):
        raise FormatError(f"{path} is no 10x matrix", expected="'%%MatrixMarket matrix coordinate integer general'",
                          got=repr(text[:60].decode("utf-8", "replace")))  # fmt: skip
    start = 0
    while text[start : start + 1] == b"%":
        start = text.find(b"\n", start) + 1
        if start == 0:
            raise FormatError(f"{path} is truncated", got="comments alone")
    end = text.find(b"\n", start)
    sizes = text[start : end if end >= 0 else None].split()
    if len(sizes) != 3 or not all(one.isdigit() and len(one) < 16 for one in sizes):
        raise FormatError(
            f"{path} has a bad line of sizes", expected="genes, barcodes, entries", got=repr(sizes[:4])[:80]
        )
    rows, columns, entries = map(int, sizes)
    if (rows, columns) != (n_genes, n_barcodes):
        raise FormatError(
            f"{path} does not fit its names",
            expected=f"{n_genes} genes and {n_barcodes} barcodes",
            got=f"{rows} and {columns}",
        )
    with files.reading(path, "a 10x matrix"):
        body = io.BytesIO(text[end + 1 :] if end >= 0 else b"")
        table = pd.read_csv(body, sep=" ", header=None, names=["gene", "barcode", "count"], na_filter=False, index_col=False) \
            if entries else pd.DataFrame(np.zeros((0, 3), dtype=np.int64), columns=["gene", "barcode", "count"])  # fmt: skip
    if len(table) != entries or any(kind.kind not in "iu" for kind in table.dtypes):
        raise FormatError(
            f"{path} is truncated or damaged",
            expected=f"{entries} lines of three whole numbers",
            got=f"{len(table)} lines",
        )
    gene, barcode = table["gene"].to_numpy(), table["barcode"].to_numpy()
    if entries and (gene.min() < 1 or gene.max() > rows or barcode.min() < 1 or barcode.max() > columns):
        raise FormatError(f"{path} points outside the matrix", expected=f"1 to {rows} and 1 to {columns}",
                          got=f"{gene.min()} to {gene.max()} and {barcode.min()} to {barcode.max()}")  # fmt: skip
    return sparse.csr_matrix((table["count"].to_numpy(), (barcode - 1, gene - 1)), shape=(columns, rows))
