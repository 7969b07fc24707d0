"""Preparation of the Allen Human Brain Atlas: from raw probes to one table of samples and genes, with what was dropped and why."""

import os
from collections.abc import Iterable
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd

from expressor.core.errors import DataError, check_choice
from expressor.data import keys
from expressor.data.brainspace import SPACE, tissue_at
from expressor.data.normalisation import NORMALISATIONS, normalise
from expressor.data.probes import SELECTIONS, above_background, reannotate, select
from expressor.data.readers.ahba import Microarrays, read_microarrays, read_rnaseq

MIRRORS = ("none", "bidirectional", "leftright", "rightleft")
PARTS = {
    4008: "cortex", 4249: "subcortex/brainstem", 4275: "subcortex/brainstem", 4391: "subcortex/brainstem", 4696: "cerebellum",
    9001: "subcortex/brainstem", 9131: "subcortex/brainstem", 9512: "subcortex/brainstem", 9218: "white matter", 9352: "other",
}  # fmt: skip
"""Structures of the atlas's ontology that are parts of the brain."""
_WHOLE = (
    9131,
    9218,
    9352,
    9512,
)  # parts that are divisions themselves: pons, white matter, sulci and spaces, myelencephalon


def read_ahba(
    folder: str | os.PathLike[str],
    *,
    donors: Iterable[str] | None = None,
    reannotation: pd.DataFrame | None = None,
    coordinates: pd.DataFrame | None = None,
    intensity: float = 0.5,
    probe_selection: str = "diff_stability",
    rnaseq: str | os.PathLike[str] | None = None,
    mirror: str = "none",
    midline: bool = False,
    sample_norm: str = "srs",
    gene_norm: str = "srs",
    within_parts: bool = False,
    tissue: bool = False,
) -> ad.AnnData:
    """Read downloads of the Allen Human Brain Atlas and prepare them; the defaults are abagen's.

    Parameters
    ----------
    folder
        See :func:`expressor.data.readers.ahba.read_microarrays`.
    donors
        Some of the donors; all when not given.
    reannotation
        Which gene each probe measures: columns ``probe_name``, ``gene_symbol``, ``entrez_id``, such as
        ``expressor.datasets.ahba_reannotation()``. By default the atlas's own annotation.
    coordinates
        Better places of the samples in mm of MNI152: index ``well_id``, columns ``x``, ``y``, ``z``, such as
        ``expressor.datasets.ahba_coordinates()``. By default the atlas's own.
    intensity
        A probe must be above the background in this share of all samples, 0 to 1.
    probe_selection
        One of :data:`expressor.data.probes.SELECTIONS`; ``"diff_stability"`` needs two donors, ``"rnaseq"`` the RNA sequencing of
        one or more of them.
    rnaseq
        The folder of the RNA sequencing (see :func:`expressor.data.readers.ahba.read_rnaseq`); ``folder`` when not given.
    mirror
        ``"bidirectional"``, ``"leftright"`` or ``"rightleft"``: samples are copied to the other side, where the ontology has their
        structure there too.
    midline
        Keep samples whose structure has no side. As in abagen they are dropped unless x is exactly 0.
    sample_norm, gene_norm
        Two of :data:`expressor.data.normalisation.NORMALISATIONS`: over the genes of each sample, then over the samples of each
        donor.
    within_parts
        Normalise genes within each part of the brain (cortex, cerebellum, ...) instead of over all samples of a donor.
    tissue
        Add ``obsm["tissue"]``, from the template; needs the extra ``brain``.

    Returns
    -------
    AnnData
        ``X`` float32 (sample, gene). ``obs``: ``donor``, ``structure``, ``structure_id``, ``acronym``, ``hemisphere``, ``part``,
        ``division`` (the lobe, or what else the ontology has directly below a part), ``slab``,
        ``well_id``, ``mirrored``. ``obsm["mni"]``. ``var``: ``probe``, ``probes``, ``entrez_id``, ``score``.
        ``uns["dropped"]``: a row for every gene and sample that was dropped, with the step and the reason; ``uns["methods"]``: a
        paragraph on what was done.

    Raises
    ------
    DataError
        A file or a donor is missing, an unknown choice, places for some samples are missing, or nothing is left.
    FormatError
        A file is damaged.
    """
    check_choice(probe_selection, SELECTIONS, name="probe_selection")
    check_choice(mirror, MIRRORS, name="mirror")
    for name, value in (("sample_norm", sample_norm), ("gene_norm", gene_norm)):
        check_choice(value, NORMALISATIONS, name=name)
    raw = read_microarrays(folder, donors=donors)
    rna = {} if probe_selection != "rnaseq" else read_rnaseq(folder if rnaseq is None else rnaseq, donors=raw.samples)
    dropped: list[tuple[str, str, str, str]] = []
    probes = raw.probes if reannotation is None else reannotate(raw.probes, reannotation)
    probes = probes.dropna(subset=["entrez_id", "gene_symbol"])
    _lost(raw.probes, probes, "annotation", "none of its probes has a known gene under this name", dropped)
    samples = {
        donor: _place(table, raw.ontology, donor, coordinates, mirror, midline, dropped)
        for donor, table in raw.samples.items()
    }
    row = raw.probes.index.get_indexer(probes.index)
    present = [raw.present[donor][row][:, table["column"]] for donor, table in samples.items()]
    kept = probes[above_background(present, intensity)]
    _lost(probes, kept, "intensity", f"no probe is above the background in {intensity:.0%} of the samples", dropped)
    if kept.empty:
        raise DataError("no probe is left", got=f"intensity={intensity}", fix="Lower intensity.")
    row = raw.probes.index.get_indexer(kept.index)
    values, chosen = select(
        [raw.expression[donor][row][:, table["column"]] for donor, table in samples.items()],
        kept["gene_symbol"].to_numpy(dtype=str), method=probe_selection,
        structures=[table["structure_id"].to_numpy() for table in samples.values()], rnaseq=[rna.get(one) for one in samples],
    )  # fmt: skip
    sequenced = kept[kept["gene_symbol"].isin(chosen.index)]
    _lost(kept, sequenced, "rnaseq", "RNA sequencing does not know it, or it is constant there", dropped)
    blocks = [
        _normalise(one.T, sample_norm, gene_norm, table[keys.PART].to_numpy() if within_parts else None)
        for one, table in zip(values, samples.values())
    ]
    X = np.concatenate(blocks)
    fine = np.isfinite(X).all(axis=0)
    if not fine.any():
        raise DataError(
            "no gene is left after normalisation", got=f"sample_norm={sample_norm!r}, gene_norm={gene_norm!r}"
        )
    dropped += [
        ("gene", gene, "normalisation", "the same value in all samples of a donor") for gene in chosen.index[~fine]
    ]
    adata = ad.AnnData(X[:, fine].astype(np.float32), obs=_annotate(samples), var=_genes(chosen[fine], kept))
    adata.obsm[keys.MNI] = np.concatenate(
        [table[["mni_x", "mni_y", "mni_z"]].to_numpy(np.float64) for table in samples.values()]
    )
    if tissue:
        adata.obsm[keys.TISSUE] = tissue_at(adata.obsm[keys.MNI])
    settings: dict[str, Any] = {
        "reannotated": reannotation is not None, "corrected": coordinates is not None, "intensity": intensity,
        "probe_selection": probe_selection, "mirror": mirror, "midline": midline, "sample_norm": sample_norm,
        "gene_norm": gene_norm, "within_parts": within_parts,
    }  # fmt: skip
    adata.uns = {
        keys.SPACE: SPACE, keys.UNIT: gene_norm if gene_norm != "none" else f"log2 intensity, {sample_norm}",
        "preparation": settings,
        "dropped": pd.DataFrame(dropped, columns=["kind", "name", "step", "reason"]),
        "methods": _methods(settings, raw, adata),
    }  # fmt: skip
    return adata


def _place(
    table: pd.DataFrame, ontology: pd.DataFrame, donor: str, coordinates: pd.DataFrame | None, mirror: str, midline: bool,
    dropped: list[tuple[str, str, str, str]],
) -> pd.DataFrame:  # fmt: skip
    """Return a donor's samples with their final places, copies included; ``column`` is the sample's column in the raw tables."""
    table = table.assign(column=np.arange(len(table)), mirrored=False)
    axes = ["mni_x", "mni_y", "mni_z"]
    table[axes] = table[axes].astype(np.float64)
    if coordinates is not None:
        missing = table.loc[~table["well_id"].isin(coordinates.index), "well_id"]
        if len(missing):
            raise DataError(f"{len(missing)} samples of donor {donor} have no coordinates, such as well_id {missing.iloc[0]}",
                            fix="Give a table of all samples, or coordinates=None.")  # fmt: skip
        table[axes] = coordinates.loc[table["well_id"], list("xyz")].to_numpy()
    parts = [table]
    for side, wanted in ((table["mni_x"] < 0, "leftright"), (table["mni_x"] > 0, "rightleft")):
        if mirror in (wanted, "bidirectional"):
            parts.append(_mirror(table[side], ontology, dropped))
    table = pd.concat(parts, ignore_index=True)
    table[keys.HEMISPHERE] = ontology.loc[table["structure_id"], "hemisphere"].fillna("B").to_numpy()
    paths = ontology.loc[table["structure_id"], "structure_id_path"]
    table[keys.PART] = [_part(path) for path in paths]
    table[keys.DIVISION] = [_division(path, ontology["name"]) for path in paths]
    x, side = table["mni_x"], table[keys.HEMISPHERE]
    agrees = ((side == "L") & (x < 0)) | ((side == "R") & (x > 0)) | ((side == "B") & (midline | (x == 0)))
    for _, one in table[~agrees].iterrows():
        reason = "its structure has no side" if one[keys.HEMISPHERE] == "B" else (
            f"its structure is on side {one[keys.HEMISPHERE]}, its place at x {one['mni_x']:.1f} mm"
        )  # fmt: skip
        dropped.append(("sample", _name(one), "side", reason))
    if not agrees.any():
        raise DataError(
            f"no sample of donor {donor} is left", fix="Are the coordinates in mm of MNI152, x to the right?"
        )
    return table[agrees].reset_index(drop=True)


def _mirror(table: pd.DataFrame, ontology: pd.DataFrame, dropped: list[tuple[str, str, str, str]]) -> pd.DataFrame:
    """Return copies on the other side, as structures of that side; those whose structure is not there are left out."""
    other = ontology.reset_index().assign(hemisphere=ontology["hemisphere"].fillna("B").to_numpy())
    other = other.drop_duplicates(["acronym", "hemisphere"]).set_index(["acronym", "hemisphere"])
    side = ontology.loc[table["structure_id"], "hemisphere"].fillna("B").replace({"L": "R", "R": "L"}).to_numpy()
    where = other.index.get_indexer(pd.MultiIndex.from_arrays([table["structure_acronym"].to_numpy(), side]))
    copies = table.assign(mirrored=True, mni_x=-table["mni_x"])
    for _, one in copies[where < 0].iterrows():
        dropped.append(("sample", _name(one), "mirror", "its structure is not on the other side"))
    copies, where = copies[where >= 0].copy(), where[where >= 0]
    copies["structure_id"], copies["structure_name"] = other["id"].to_numpy()[where], other["name"].to_numpy()[where]
    return copies


def _name(sample: pd.Series) -> str:
    return f"{sample['well_id']}{'m' if sample['mirrored'] else ''}"


def _part(path: str) -> str:
    """Return the deepest part of the brain on a path such as ``/4005/4006/4007/4008/4009/``."""
    found = [PARTS[int(one)] for one in str(path).strip("/").split("/") if one.isdigit() and int(one) in PARTS]
    return found[-1] if found else "other"


def _division(path: str, names: pd.Series) -> str:
    """Return the name of what lies directly below the highest part on a path; of the part itself where that is a division."""
    ids = [int(one) for one in str(path).strip("/").split("/") if one.isdigit()]
    first = next((i for i, one in enumerate(ids) if one in PARTS), len(ids))
    wanted = ids[first : first + 1 + (first < len(ids) and ids[first] not in _WHOLE)]
    known = [str(names.loc[one]) for one in wanted if one in names.index]
    return known[-1].removesuffix(", left").removesuffix(", right") if known else "other"


def _lost(
    before: pd.DataFrame, after: pd.DataFrame, step: str, reason: str, dropped: list[tuple[str, str, str, str]]
) -> None:
    gone = sorted(set(before["gene_symbol"].dropna().astype(str)) - set(after["gene_symbol"].astype(str)))
    dropped += [("gene", gene, step, reason) for gene in gone]


def _normalise(values: np.ndarray, sample_norm: str, gene_norm: str, parts: np.ndarray | None) -> np.ndarray:
    """Normalise one donor's (sample, gene): first each sample over its genes, then each gene over the samples."""
    values = normalise(values.T, sample_norm).T
    if parts is None:
        return normalise(values, gene_norm)
    normed = np.empty_like(values)
    for part in np.unique(parts):
        normed[parts == part] = normalise(values[parts == part], gene_norm)
    return normed


def _annotate(samples: dict[str, pd.DataFrame]) -> pd.DataFrame:
    table = pd.concat([one.assign(**{keys.DONOR: donor}) for donor, one in samples.items()], ignore_index=True)
    obs = pd.DataFrame(
        {
            keys.DONOR: pd.Categorical(table[keys.DONOR]), keys.STRUCTURE: pd.Categorical(table["structure_name"]),
            "structure_id": table["structure_id"].astype(np.int64), "acronym": pd.Categorical(table["structure_acronym"]),
            keys.HEMISPHERE: pd.Categorical(table[keys.HEMISPHERE]), keys.PART: pd.Categorical(table[keys.PART]),
            keys.DIVISION: pd.Categorical(table[keys.DIVISION]), keys.SLAB: pd.Categorical(table["slab_type"]),
            "well_id": table["well_id"].astype(np.int64),
            "mirrored": table["mirrored"].astype(bool),
        }
    )  # fmt: skip
    obs.index = [_name(one) for _, one in table[["well_id", "mirrored"]].iterrows()]
    return obs


def _genes(chosen: pd.DataFrame, probes: pd.DataFrame) -> pd.DataFrame:
    names = probes["probe_name"].to_numpy()
    entrez = probes.drop_duplicates("gene_symbol").set_index("gene_symbol")["entrez_id"]
    return pd.DataFrame(
        {
            "probe": ["mean of all" if row < 0 else str(names[row]) for row in chosen["row"]], "probes": chosen["probes"],
            "entrez_id": entrez.loc[chosen.index].astype(np.int64).to_numpy(), "score": chosen["score"],
        },
        index=chosen.index.astype(str),
    )  # fmt: skip


def _methods(settings: dict[str, Any], raw: Microarrays, adata: ad.AnnData) -> str:
    """Return a paragraph on what was done, for a paper."""
    lines = [
        f"Microarray expression of {len(raw.samples)} donors of the Allen Human Brain Atlas (Hawrylycz et al. 2012), "
        f"{sum(map(len, raw.samples.values()))} samples and {len(raw.probes)} probes, was prepared with expressor.",
        "Probes were reannotated by a given table; those without an Entrez id were discarded." if settings["reannotated"]
        else "Probes without an Entrez id were discarded.",
        f"Probes above the background in fewer than {settings['intensity']:.0%} of all samples were discarded.",
        f"Of the probes of a gene, one was chosen by {settings['probe_selection']}." if settings["probe_selection"] != "average"
        else "The probes of a gene were averaged.",
        "MNI coordinates were replaced by a given table." if settings["corrected"] else "MNI coordinates are the atlas's own.",
        "" if settings["mirror"] == "none" else f"Samples were mirrored across the midline ({settings['mirror']}).",
        "Samples whose place contradicts the side of their structure were dropped.",
        f"Each sample was normalised over its genes ({settings['sample_norm']}), then each gene over the samples of a donor"
        f"{' and part of the brain' if settings['within_parts'] else ''} ({settings['gene_norm']}).",
        f"This left {adata.n_obs} samples and {adata.n_vars} genes.",
    ]  # fmt: skip
    return " ".join(one for one in lines if one)
