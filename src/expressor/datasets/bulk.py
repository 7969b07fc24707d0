"""Bulk tumour profiles with labels and outcomes: TCGA cohorts, cohorts of survival, leukaemia.

The files are prepared from public packages and are not downloaded: they are looked for in the folder ``bulk`` of
``EXPRESSOR_DATA``, then in the folder ``bulk`` of the cache. The guide "Bulk data" says what each was made from.
"""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from expressor.core.errors import DataError, FormatError, check_choice, nearest_names
from expressor.core.optional import need
from expressor.data import keys
from expressor.datasets.assemble import prepared_folder, read_prepared
from expressor.datasets.dataset import Dataset, take

ENDPOINTS = ("OS", "DSS", "DFI", "PFI")
"""Overall and disease-specific survival, disease-free and progression-free interval, as Liu et al. (2018) curated them."""

TCGA13 = (
    "BLCA", "BRCA", "COADREAD", "GBMLGG", "HNSC", "KIRC", "KIRP", "LIHC", "LUAD", "LUSC", "PAAD", "SKCM", "STAD",
)  # fmt: skip
BREAST = ("GSE1992", "GSE3143")
COHORTS = ("DBCD", "DLBCL", *BREAST, "COADREAD-full", *TCGA13)
"""What :func:`survival_cohort` knows."""

_DAYS = {"year": 365.25, "month": 365.25 / 12}
_OPEN = "TCGA level-3 data, open access"
_CDR = (
    "Liu J, Lichtenberg T, Hoadley KA, et al. An integrated TCGA pan-cancer clinical data resource to drive high-quality "
    "survival outcome analytics. Cell 173, 400-416 (2018). doi:10.1016/j.cell.2018.02.052"
)
_TCGA = (
    "The Cancer Genome Atlas Research Network, Weinstein JN, Collisson EA, et al. The Cancer Genome Atlas Pan-Cancer analysis "
    "project. Nature Genetics 45, 1113-1120 (2013). doi:10.1038/ng.2764"
)
_SURVSET_LICENCE = "GPL-3 (of the package SurvSet 0.2.11, from which the copy is)"
_SURVSET = {
    # file, unit of time, unit of expression, citation
    "DBCD": (
        "survset_DBCD", "year", "log ratio",
        "van Houwelingen HC, Bruinsma T, Hart AAM, et al. Cross-validated Cox regression on microarray gene expression data. "
        "Statistics in Medicine 25, 3201-3216 (2006). doi:10.1002/sim.2353",
    ),
    "DLBCL": (
        "survset_DLBCL", "year", "log ratio",
        "Rosenwald A, Wright G, Chan WC, et al. The use of molecular profiling to predict survival after chemotherapy for "
        "diffuse large-B-cell lymphoma. New England Journal of Medicine 346, 1937-1947 (2002). doi:10.1056/NEJMoa012914",
    ),
    "GSE1992": (
        "survset_gse1992", "month", "log ratio",
        "Hu Z, Fan C, Oh DS, et al. The molecular portraits of breast tumors are conserved across microarray platforms. "
        "BMC Genomics 7, 96 (2006). doi:10.1186/1471-2164-7-96",
    ),
    "GSE3143": (
        "survset_gse3143", "month", "log2(intensity+1)",
        "Bild AH, Yao G, Chang JT, et al. Oncogenic pathway signatures in human cancers as a guide to targeted therapies. "
        "Nature 439, 353-357 (2006). doi:10.1038/nature04296",
    ),
}  # fmt: skip
_GOLUB = (
    "Golub TR, Slonim DK, Tamayo P, et al. Molecular classification of cancer: class discovery and class prediction by gene "
    "expression monitoring. Science 286, 531-537 (1999). doi:10.1126/science.286.5439.531"
)


def tcga_coadread(*, endpoint: str = "OS") -> Dataset:
    """Load TCGA colorectal carcinoma: 592 tumours, 17,507 genes, log2(RSEM+1), survival.

    Parameters
    ----------
    endpoint
        One of :data:`ENDPOINTS`, for ``obs["time"]`` and ``obs["event"]``.

    Returns
    -------
    Dataset
        Genes are named by Entrez id, with ``var["symbol"]``. Overall survival is known for 566 patients, of whom 115 died.
    """
    adata, source = _read("tcga_coadread", (592, 17507))
    return _tcga(
        adata, name="tcga_coadread", unit="log2(RSEM+1)", endpoint=endpoint, source=source,
        licence=f"MIT (of the package TumorDecon 1.1.1, from which the copy is); {_OPEN}",
    )  # fmt: skip


def tcga_counts7(*, endpoint: str = "OS") -> Dataset:
    """Load seven TCGA cancer types as raw counts of one pipeline: 384 tumours, 35,266 genes, survival.

    The types are UVM (80), ACC (79), KICH (65), UCS (56), DLBC (48), CHOL (36) and PAAD (20).

    Parameters
    ----------
    endpoint
        One of :data:`ENDPOINTS`, for ``obs["time"]`` and ``obs["event"]``.

    Returns
    -------
    Dataset
        ``X``: raw HTSeq counts, CSR; genes are named by Ensembl id, with ``var["symbol"]``. Genes with fewer than five counts
        in nearly all samples are left out.
    """
    adata, source = _read("tcga_counts7", (384, 35266))
    return _tcga(
        adata, name="tcga_counts7", unit="counts", endpoint=endpoint, source=source,
        licence=f"MIT (of the repository umccr/RNAsum.data, from which the copy is); {_OPEN}",
    )  # fmt: skip


def tcga_toil4(*, endpoint: str = "OS") -> Dataset:
    """Load four TCGA cancer types in log2(TPM+1) of one pipeline: 1,160 tumours, 1,577 genes, survival.

    The types are BLCA (360), STAD (336), COADREAD (317) and UCEC (147).

    Parameters
    ----------
    endpoint
        One of :data:`ENDPOINTS`, for ``obs["time"]`` and ``obs["event"]``.

    Returns
    -------
    Dataset
        The source is in log2(TPM+0.001); it is turned into log2(TPM+1) here, which is less noisy where little was measured.
    """
    adata, source = _read("tcga_toil4", (1160, 1577))
    tpm = np.maximum(np.exp2(adata.X.astype(np.float64)) - 0.001, 0.0)
    adata.X = np.log2(tpm + 1.0).astype(np.float32)
    adata.obs[keys.PIPELINE] = "UCSC Toil RSEM"
    return _tcga(
        adata, name="tcga_toil4", unit="log2(TPM+1)", endpoint=endpoint, source=source,
        licence=f"GPL-3, non-commercial academic use (of the repository mahmoodlab/SurvPath, from which the copy is); {_OPEN}",
    )  # fmt: skip


def tcga13(*, endpoint: str = "OS", genes: str = "in_all") -> Dataset:
    """Load 13 TCGA cohorts as z-scores within each cohort: 5,240 tumours, 1,526 genes, survival.

    The z-scores were made by the source over all patients of a cohort, so that a little of every patient is in every other's
    values; that cannot be undone. What tells the cohorts apart is mostly gone: do not use them to learn cancer types.

    Parameters
    ----------
    endpoint
        One of :data:`ENDPOINTS`, for ``obs["time"]`` and ``obs["event"]``.
    genes
        ``"in_all"``: the 1,526 genes measured in all cohorts. ``"all"``: 1,608, NaN in the cohorts that lack a gene.

    Returns
    -------
    Dataset
        ``obs["cohort"]`` is the cohort; ``obs["site"]`` the hospital's code.
    """
    check_choice(genes, ("in_all", "all"), name="genes")
    adata, source = _read("tcga13_zscore", (5240, 1608))
    if genes == "in_all":
        adata = adata[:, adata.var["in_all"].to_numpy(dtype=bool)].copy()
    adata.obs = adata.obs.drop(columns=["event"]).rename(columns={"cancer": keys.COHORT})
    adata.obs["cancer"] = adata.obs[keys.COHORT]
    return _tcga(
        adata, name="tcga13", unit="z-score", endpoint=endpoint, source=source,
        licence=f"GPL-3, non-commercial academic use (of the repository mahmoodlab/PORPOISE, from which the copy is); {_OPEN}",
    )  # fmt: skip


def survival_cohort(name: str, *, endpoint: str = "OS") -> Dataset:
    """Load one cohort of patients with a known outcome.

    Parameters
    ----------
    name
        One of :data:`COHORTS`: ``"DBCD"`` (Dutch breast cancer), ``"DLBCL"`` (lymphoma), ``"GSE1992"``, ``"GSE3143"`` (breast
        cancer), ``"COADREAD-full"`` (:func:`tcga_coadread`), or a cohort of :func:`tcga13` with the genes measured in it.
    endpoint
        For cohorts of TCGA, one of :data:`ENDPOINTS`. The others have one outcome: death, or for DBCD and DLBCL what the
        source calls the event.

    Returns
    -------
    Dataset
        Only patients whose outcome is known. ``obs["time"]`` is in days; where the source has months or years,
        converted by 365.25 days a year.
    """
    check_choice(name, COHORTS, name="cohort")
    if name in _SURVSET:
        if endpoint != "OS":
            raise DataError(f"cohort {name} has no endpoint {endpoint!r}", fix="Leave endpoint= out.")
        return _survset(name)
    whole = tcga_coadread(endpoint=endpoint) if name == "COADREAD-full" else tcga13(endpoint=endpoint, genes="all")
    adata = whole.adata
    keep = np.isfinite(adata.obs[keys.TIME]) & (adata.obs[keys.TIME] > 0) & adata.obs[keys.EVENT].notna()
    if name != "COADREAD-full":
        keep &= adata.obs[keys.COHORT] == name
    part = take(adata, keep.to_numpy(dtype=bool))
    measured = ~np.isnan(part.X).any(axis=0)
    part = part[:, measured].copy() if not measured.all() else part
    part.obs[keys.EVENT] = part.obs[keys.EVENT].astype(bool)
    part.obs[keys.COHORT] = pd.Categorical([name] * part.n_obs)
    return Dataset(part, name, whole.licence, whole.citation, whole.source)


def breast_cohorts() -> Dataset:
    """Load two breast-cancer cohorts, GSE1992 and GSE3143, joined on their 8,282 common genes, with survival.

    They were made on different arrays, so each gene is turned into z-scores within its cohort, without looking at outcomes.
    ``obs["cohort"]`` tells them apart: train on one and judge on the other.
    """
    parts = [_survset(name) for name in BREAST]
    common = sorted(set(parts[0].adata.var_names) & set(parts[1].adata.var_names))
    scaled = []
    for part in parts:
        adata = part.adata[:, common].copy()
        values = adata.X.astype(np.float64)
        spread = values.std(axis=0)
        adata.X = ((values - values.mean(axis=0)) / np.where(spread > 0, spread, 1.0)).astype(np.float32)
        adata.obs = adata.obs[[keys.PATIENT, keys.COHORT, keys.TIME, keys.EVENT]].astype({keys.COHORT: str})
        scaled.append(adata)
    joined = ad.concat(scaled)
    joined.obs[keys.COHORT] = pd.Categorical(joined.obs[keys.COHORT])
    joined.uns[keys.UNIT] = "z-score"
    return Dataset(
        joined, "breast_cohorts", _SURVSET_LICENCE, "; ".join(part.citation for part in parts), parts[0].source
    )


def golub() -> Dataset:
    """Load the acute leukaemias of Golub et al.: 72 patients, 7,129 probe sets, ALL (47) or AML (25).

    Intensities with the background subtracted, as the chip's software gave them, some negative. The copy does not name the
    probe sets; they are numbered in its order.
    """
    adata, source = _read("golub", (72, 7129))
    adata.var_names = [f"probe_{i + 1:04d}" for i in range(adata.n_vars)]
    adata.obs_names = [f"golub_{i + 1:02d}" for i in range(adata.n_obs)]
    adata.obs = pd.DataFrame(
        {
            keys.PATIENT: pd.Categorical(adata.obs_names),
            keys.CANCER_TYPE: pd.Categorical(adata.obs["label"].astype(str)),
        },
        index=adata.obs_names,
    )
    adata.uns = {keys.UNIT: "intensity"}
    return Dataset(
        adata, "golub", "MIT (of the repository ramhiser/datamicroarray, from which the copy is)", _GOLUB, source
    )


def tcga_cdr() -> pd.DataFrame:
    """Load the curated outcomes of 11,160 TCGA patients of 33 cancer types (Liu et al., Cell 2018); needs pyarrow.

    Returns
    -------
    pandas.DataFrame
        A row a patient, index ``patient``: ``cdr_type``, age, sex, stage, grade, histology, race, and for each of
        :data:`ENDPOINTS` in small letters ``<endpoint>_time_days`` and ``<endpoint>_event``; ``redacted``.
    """
    need("pyarrow", extra="spatial", purpose="read the curated outcomes of TCGA, a parquet file")
    path = _folder("tcga_cdr.parquet", "tcga_cdr") / "tcga_cdr.parquet"
    try:
        table = pd.read_parquet(path)
    except (OSError, ValueError) as error:
        raise FormatError(f"{path} cannot be read as parquet ({error})", fix="Copy it again.") from error
    return table


def join_outcomes(
    adata: ad.AnnData, table: pd.DataFrame, *, endpoint: str = "OS", by: str = keys.PATIENT
) -> ad.AnnData:
    """Return a copy of ``adata`` with ``obs["time"]`` and ``obs["event"]`` of each patient out of a table of outcomes.

    Parameters
    ----------
    adata
        Samples, with the patient in ``obs[by]``; of a TCGA barcode the first twelve characters are the patient.
    table
        A row a patient, as :func:`tcga_cdr` gives it.
    endpoint
        One of :data:`ENDPOINTS`.
    by
        Column of ``obs`` with the patient.

    Raises
    ------
    DataError
        No such column, an endpoint that the table lacks, a patient that the table has twice, or none that it has.
    """
    if by not in adata.obs:
        raise DataError(f"obs has no column {by!r} to join outcomes by", nearest=nearest_names(by, adata.obs.columns))
    if not table.index.is_unique:
        raise DataError("the table of outcomes has patients twice", got=repr(table.index[table.index.duplicated()][0]))
    patient = adata.obs[by].astype(str)
    patient = patient.where(~patient.str.fullmatch(r"TCGA-\w\w-\w{4}.*"), patient.str[:12])
    if not patient.isin(table.index).any():
        raise DataError(
            f"no patient of obs[{by!r}] is in the table of outcomes",
            expected=f"names such as {table.index[0]!r}", got=repr(patient.iloc[0]),
        )  # fmt: skip
    copy = adata.copy()
    rows = table.reindex(patient)
    rows.index = copy.obs_names
    for column in rows.columns:
        if column.endswith(("_event", "_time_days")):
            copy.obs[column] = rows[column]
    _set_outcome(copy, endpoint)
    return copy


def _survset(name: str) -> Dataset:
    file, time_unit, unit, citation = _SURVSET[name]
    shapes = {"DBCD": (295, 4919), "DLBCL": (240, 7399), "GSE1992": (124, 15528), "GSE3143": (158, 8659)}
    adata, source = _read(f"survival/{file}", shapes[name])
    obs = adata.obs.copy()
    obs.index = [f"{name}:{one}" for one in obs.index]
    rest = {column: obs[column] for column in obs.columns if column not in (keys.TIME, keys.EVENT)}
    adata.obs = pd.DataFrame(
        {
            keys.PATIENT: pd.Categorical(obs.index),
            keys.COHORT: pd.Categorical([name] * len(obs)),
            keys.TIME: obs[keys.TIME].to_numpy(dtype=np.float64) * _DAYS[time_unit],
            keys.EVENT: obs[keys.EVENT].to_numpy() == 1,
            **rest,
        },
        index=obs.index,
    )
    adata.var_names = adata.var_names.str.removeprefix("HS_")
    adata.uns = {keys.UNIT: unit}
    return Dataset(adata, name, _SURVSET_LICENCE, citation, source)


def _tcga(adata: ad.AnnData, *, name: str, unit: str, endpoint: str, source: str, licence: str) -> Dataset:
    adata.obs[keys.CANCER_TYPE] = pd.Categorical(adata.obs["cancer"].astype(str))
    adata.obs = adata.obs.drop(columns=["cancer"])
    adata.obs[keys.PATIENT] = pd.Categorical(adata.obs[keys.PATIENT].astype(str))
    if "site" not in adata.obs:
        # The second part of a TCGA barcode is the hospital that the tissue is from.
        adata.obs["site"] = pd.Categorical(adata.obs[keys.PATIENT].astype(str).str.split("-").str[1])
    if keys.COHORT not in adata.obs:
        adata.obs[keys.COHORT] = adata.obs[keys.CANCER_TYPE]
    _set_outcome(adata, endpoint)
    adata.uns = {keys.UNIT: unit}
    return Dataset(adata, name, licence, f"{_TCGA}; {_CDR}", source)


def _set_outcome(adata: ad.AnnData, endpoint: str) -> None:
    check_choice(endpoint, ENDPOINTS, name="endpoint")
    time, event = f"{endpoint.lower()}_time_days", f"{endpoint.lower()}_event"
    for column in (time, event):
        if column not in adata.obs:
            raise DataError(
                f"the outcomes lack the column {column!r}", nearest=nearest_names(column, adata.obs.columns)
            )
    known = adata.obs[event].notna()
    adata.obs[keys.TIME] = adata.obs[time].astype(np.float64)
    happened = pd.array((adata.obs[event] == 1).to_numpy(), dtype="boolean")
    happened[~known.to_numpy()] = pd.NA
    adata.obs[keys.EVENT] = happened if not known.all() else np.asarray(happened, dtype=bool)


def _read(name: str, shape: tuple[int, int]) -> tuple[ad.AnnData, str]:
    path = _folder(f"{name}.h5ad", name) / f"{name}.h5ad"
    return read_prepared(path, shape, rows="samples"), str(path.parent)


def _folder(file: str, name: str) -> Path:
    """The folder ``bulk`` with ``file``: of ``EXPRESSOR_DATA``, else of the cache."""
    return prepared_folder(
        "bulk", file, name=name.split("/")[-1],
        fix="It is prepared from public packages and cannot be downloaded from one address; the guide 'Bulk data' says from "
        "which. Without it, expressor.datasets.example('bulk') gives simulated profiles of the same layout.",
    )  # fmt: skip
