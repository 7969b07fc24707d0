"""Single cells as raw counts, with their types, batches and donors.

The files are prepared from public packages and are not downloaded: they are looked for in the folders ``singlecell`` and
``clustering`` of ``EXPRESSOR_DATA``, then of the cache. The guide "Single cells" says what each was made from. Many are subsets of
cells and genes that authors shipped inside packages: good for comparing methods, too small for knowing a tissue.
"""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
from scipy import sparse

from expressor.core.errors import FormatError
from expressor.data import keys
from expressor.datasets.assemble import prepared_folder, read_prepared
from expressor.datasets.dataset import Dataset

_10X = "10x Genomics data, CC BY 4.0"
_ZHENG = (
    "Zheng GXY, Terry JM, Belgrader P, et al. Massively parallel digital transcriptional profiling of single cells. "
    "Nature Communications 8, 14049 (2017). doi:10.1038/ncomms14049"
)
_KANG = (
    "Kang HM, Subramaniam M, Targ S, et al. Multiplexed droplet single-cell RNA-sequencing using natural genetic variation. "
    "Nature Biotechnology 36, 89-94 (2018). doi:10.1038/nbt.4042"
)
_TIAN = (
    "Tian L, Dong X, Freytag S, et al. Benchmarking single cell RNA-sequencing analysis pipelines using mixture control "
    "experiments. Nature Methods 16, 479-487 (2019). doi:10.1038/s41592-019-0425-8"
)


def pbmc3k() -> Dataset:
    """Load blood cells of one donor (10x PBMC 3k): 2,638 cells, 13,714 genes, 9 types.

    The types are the clusters of the Seurat tutorial as it names them: labels made from the same counts.
    """
    return _load(
        "pbmc3k_labelled", "pbmc3k", (2638, 13714), citation=_ZHENG,
        licence=f"MIT (of the repository rnabioco/clustifyrdata, from which the copy is); {_10X}",
    )  # fmt: skip


def pbmc_3tech() -> Dataset:
    """Load blood cells by three 10x chemistries: 1,200 cells, 1,767 genes, 9 types (7 broad).

    ``obs["batch"]`` is the chemistry: 3' version 1 (290 cells), 3' version 2 (480), 5' (430). ``obs["cell_type_broad"]`` joins
    subtypes. ``obs["total_counts_all_genes"]`` was counted before genes were left out.
    """
    return _load(
        "pbmc_3tech_symphony", "pbmc_3tech", (1200, 1767),
        citation="Kang JB, Nathan A, Weinand K, et al. Efficient and precise single-cell reference atlas mapping with Symphony. "
        "Nature Communications 12, 5890 (2021). doi:10.1038/s41467-021-25957-x",
        licence=f"GPL-3 (of the repository immunogenomics/symphony, from which the copy is); {_10X}",
    )  # fmt: skip


def pbmc68k() -> Dataset:
    """Load blood cells (10x PBMC 68k), a sample: 700 cells, 765 genes, 10 types.

    Each type is that of the sorted population whose bulk profile a cell resembles most. Counts were recovered from scaled values by
    rounding (off by 0.11 at most).
    """
    found = _load(
        "pbmc68k_700_sorted", "pbmc68k", (700, 765), citation=_ZHENG,
        licence=f"BSD-3-Clause (of the package scanpy 1.11.5, from which the copy is); {_10X}",
    )  # fmt: skip
    found.adata.obs = found.adata.obs.rename(columns={"bulk_labels": keys.CELL_TYPE})
    return found


def kang() -> Dataset:
    """Load blood cells with and without interferon beta: 1,556 cells, 1,267 genes, 5 types, 2 donors.

    ``obs["condition"]`` is ``ctrl`` or ``stim``, ``obs["sample"]`` and ``obs["batch"]`` the donor in a condition (4).
    """
    found = _load(
        "kang_ifnb_muscat", "kang", (1556, 1267), citation=_KANG,
        licence="GPL-3 (of the repository HelenaLC/muscat, from which the copy is); GEO GSE96583",
    )  # fmt: skip
    obs = found.adata.obs
    obs[keys.BATCH] = obs["sample"]
    return found


def pancreas_3tech() -> Dataset:
    """Load pancreas by inDrop, Smart-seq2 and Fluidigm C1: 528 cells, 1,403 genes, beta and ductal cells.

    ``obs["batch"]`` is technology and study, told from the names of the cells. Expected counts of the third batch were rounded.
    """
    return _load(
        "pancreas_3tech_cepo", "pancreas_3tech", (528, 1403),
        citation="Baron M, Veres A, Wolock SL, et al. A single-cell transcriptomic map of the human and mouse pancreas. Cell "
        "Systems 3, 346-360 (2016). doi:10.1016/j.cels.2016.08.011; Segerstolpe A, Palasantza A, Eliasson P, et al. "
        "Single-cell transcriptome profiling of human pancreatic islets in health and type 2 diabetes. Cell Metabolism 24, "
        "593-607 (2016). doi:10.1016/j.cmet.2016.08.020; Lawlor N, George J, Bolisetty M, et al. Single-cell transcriptomes "
        "identify human islet cell signatures. Genome Research 27, 208-222 (2017). doi:10.1101/gr.212720.116",
        licence="MIT (of the repository PYangLab/Cepo, from which the copy is); GEO GSE84133, GSE86469, ArrayExpress E-MTAB-5061",
    )  # fmt: skip


def amygdala() -> Dataset:
    """Load nuclei of the human amygdala, post mortem: 500 nuclei, 1,000 genes, 8 types (6 broad), 2 donors.

    ``obs["batch"]`` is the donor too: each was measured by itself.
    """
    found = _load(
        "snrna_human_amygdala_libd", "amygdala", (500, 1000),
        citation="Tran MN, Maynard KR, Spangler A, et al. Single-nucleus transcriptome analysis reveals cell-type-specific "
        "molecular signatures across reward circuitry in the human brain. Neuron 109, 3088-3103 (2021). "
        "doi:10.1016/j.neuron.2021.09.001",
        licence="Artistic-2.0 (of the repository LieberInstitute/DeconvoBuddies, from which the copy is)",
    )  # fmt: skip
    found.adata.obs[keys.BATCH] = found.adata.obs[keys.DONOR]
    return found


def doublets() -> Dataset:
    """Load four cell lines with hashed doublets: 2,000 barcodes, 2,000 genes drawn at random, 216 doublets.

    ``obs["doublet_label"]`` is ``Singlet``, ``Doublet`` or ``Negative``. ``obs["cell_type"]`` is the line of a singlet, and missing
    for the others. Only 170 genes a cell were seen: hard.
    """
    found = _load(
        "doublets_cellhashing_4lines", "doublets", (2000, 2000),
        citation="Stoeckius M, Zheng S, Houck-Loomis B, et al. Cell Hashing with barcoded antibodies enables multiplexing and "
        "doublet detection for single cell genomics. Genome Biology 19, 224 (2018). doi:10.1186/s13059-018-1603-1",
        licence="MIT (of the repository kostkalab/scds, from which the copy is); GEO GSE108313",
    )  # fmt: skip
    obs = found.adata.obs
    obs[keys.CELL_TYPE] = pd.Categorical(obs["cell_line"].astype(object).where(obs["doublet_label"] == "Singlet"))
    return found


def mixology() -> Dataset:
    """Load mixed lung-cancer cell lines by CEL-seq2 and Drop-seq: 462 cells, 11,985 common genes, 5 lines.

    A plate of CEL-seq2 (5 lines, 252 cells) and a run of Drop-seq (3 of the lines, 210 cells). ``obs["cell_type"]`` is the line by
    genotype; doublets by genotype are left out. Genes are named by Ensembl id.
    """
    names = {"CELseq2": "scmix_sc_celseq2_5cl_p3", "Dropseq": "scmix_sc_dropseq"}
    folder = _folder(
        "clustering",
        "mixology",
        *(f"{name}.{part}.csv.gz" for name in names.values() for part in ("count", "metadata")),
    )
    parts = []
    for batch, name in names.items():
        counts = _table(folder / f"{name}.count.csv.gz").T
        about = _table(folder / f"{name}.metadata.csv.gz").loc[counts.index]
        part = ad.AnnData(
            sparse.csr_matrix(counts.to_numpy(dtype=np.float32)),
            obs=pd.DataFrame({keys.CELL_TYPE: about["cell_line_demuxlet"].astype(str), keys.BATCH: batch}).set_axis(
                [f"{batch}:{one}" for one in counts.index]
            ),
            var=pd.DataFrame(index=counts.columns.astype(str)),
        )
        parts.append(part[(about["demuxlet_cls"] == "SNG").to_numpy()])
    joined = ad.concat(parts, join="inner")
    joined.var = pd.DataFrame(index=joined.var_names)
    return _finish(
        joined, "mixology", str(folder), citation=_TIAN,
        licence="MIT (of the repository LuyiTian/sc_mixology, from which the copy is); GEO GSE118767",
    )  # fmt: skip


def innate_lymphoid() -> Dataset:
    """Load innate lymphoid cells of human tonsil (Smart-seq2): 647 cells, 326 genes, 4 types, 3 donors.

    The genes are those that the source keeps. Of its values 0.4 % are not whole, from reads that match several genes: rounded here.
    """
    folder = _folder("clustering", "innate_lymphoid", "Bjorklund_data.csv.gz")
    counts = _table(folder / "Bjorklund_data.csv.gz").T
    parts = counts.index.str.extract(r"^(GSM\d+)_(T\d+)_P\d+_\w+_(ILC[123]|NK)_").set_axis(counts.index)
    if parts.isna().any(axis=None):
        raise FormatError(
            f"{folder / 'Bjorklund_data.csv.gz'} names a cell as no other",
            expected="GSM<number>_<donor>_<plate>_<well>_<type>_expression.txt",
            got=repr(parts.index[parts.isna().any(axis=1)][0]),
        )
    adata = ad.AnnData(
        sparse.csr_matrix(np.rint(counts.to_numpy(dtype=np.float64)).astype(np.float32)),
        obs=pd.DataFrame({keys.CELL_TYPE: parts[2], keys.DONOR: parts[1], keys.BATCH: parts[1]}).set_axis(parts[0]),
        var=pd.DataFrame(index=counts.columns.astype(str)),
    )
    adata.obs_names.name = None
    return _finish(
        adata, "innate_lymphoid", str(folder),
        citation="Bjorklund AK, Forkel M, Picelli S, et al. The heterogeneity of human CD127+ innate lymphoid cells revealed by "
        "single-cell RNA sequencing. Nature Immunology 17, 451-460 (2016). doi:10.1038/ni.3368",
        licence="MIT (of the repository DayuHuu/scEGG, from which the copy is); GEO GSE70580",
    )  # fmt: skip


def _load(file: str, name: str, shape: tuple[int, int], *, citation: str, licence: str) -> Dataset:
    folder = _folder("singlecell", name, f"{file}.h5ad")
    adata = read_prepared(folder / f"{file}.h5ad", shape, rows="cells")
    adata.obs_names.name = None
    return _finish(adata, name, str(folder), citation=citation, licence=licence)


def _folder(room: str, name: str, *files: str) -> Path:
    for file in files:
        folder = prepared_folder(
            room, file, name=name,
            fix="It is prepared from public packages and cannot be downloaded from one address; the guide 'Single cells' says from "
            "which. Without it, expressor.datasets.example('cells') gives simulated cells of the same layout.",
        )  # fmt: skip
    return folder


def _finish(adata: ad.AnnData, name: str, source: str, *, citation: str, licence: str) -> Dataset:
    for key in (keys.CELL_TYPE, keys.BATCH, keys.DONOR, keys.CONDITION, "sample"):
        if key in adata.obs:
            adata.obs[key] = pd.Categorical(adata.obs[key].astype(object))
    adata.obs["n_counts"] = np.asarray(adata.X.sum(axis=1, dtype=np.float64)).ravel()
    adata.uns = {keys.UNIT: "counts"}
    return Dataset(adata, name, licence, citation, source)


def _table(path: Path) -> pd.DataFrame:
    try:
        return pd.read_csv(path, index_col=0)
    except (OSError, ValueError, EOFError) as error:
        raise FormatError(f"{path} cannot be read as gzipped CSV ({error})", fix="Copy it again.") from error
