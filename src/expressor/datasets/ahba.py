"""A folder of the layout in which the Allen Human Brain Atlas is downloaded, with expression whose truth is known."""

import os
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from expressor.core.errors import DataError, check_range
from expressor.core.optional import need
from expressor.core.rng import stream

_PATHS = (
    ("Ctx", 4008, "CX", (-60, -40, 30)), ("Hip", 4249, "CX", (-26, -22, -15)), ("Str", 4275, "CX", (-18, 10, 4)),
    ("Tha", 4391, "BS", (-10, -18, 8)), ("Cbl", 4696, "CB", (-24, -62, -34)), ("Pons", 9131, "BS", (-7, -26, -32)),
    ("WM", 9218, "CX", (-20, -10, 28)),
)  # fmt: skip
_PROBES = 3  # at most, a gene


def simulate_ahba_folder(
    path: str | os.PathLike[str],
    *,
    n_donors: int = 3,
    n_samples: int = 60,
    n_genes: int = 20,
    noise: float = 0.3,
    parquet: bool = False,
    rnaseq: bool = False,
    seed: int = 0,
) -> pd.DataFrame:
    """Simulate downloads of the Allen Human Brain Atlas: tables, columns, file names and numbers as there.

    A gene's true map is a smooth wave over the brain, the same in all donors and on both sides. A gene has one to three probes,
    each with noise of its own; the first is the cleanest. Some probes are below the background, some have no Entrez id, and in each
    donor one sample lies on the wrong side.

    Parameters
    ----------
    path
        A new folder, or an empty one.
    n_donors
        Number of donors, 1 to 6.
    n_samples
        Samples a donor, at least 28: of seven parts of the brain, four structures each.
    n_genes
        Number of genes, at least 10.
    noise
        Standard deviation of the cleanest probe's noise in log2 units, at least 0; the map's is about 1.
    parquet
        Write the two large tables as parquet; needs the extra ``brain``.
    rnaseq
        Also write the RNA sequencing of the first two donors, one sample a structure; the first gene is not in it.
    seed
        Seed of all draws.

    Returns
    -------
    pandas.DataFrame
        The true log2 expression: a row a sample, index ``well_id``; a column a gene that can be kept.

    Raises
    ------
    DataError
        The folder holds something, or a number is out of range.
    """
    check_range(n_donors, name="n_donors", low=1, high=6, integer=True)
    check_range(n_samples, name="n_samples", low=28, integer=True)
    check_range(n_genes, name="n_genes", low=10, integer=True)
    check_range(noise, name="noise", low=0)
    path = Path(path)
    if path.exists() and (not path.is_dir() or any(path.iterdir())):
        raise DataError(f"{path} is not empty", fix="Give a new folder; nothing was changed.")
    if parquet:
        need("pyarrow", extra="brain", purpose="write parquet")
    ontology, structures = _ontology()
    probes = _probes(n_genes, stream(seed, "ahba probes"))
    maps = stream(seed, "ahba maps")
    wave, phase = maps.normal(0, 1 / 40, size=(n_genes, 3)), maps.uniform(0, 2 * np.pi, n_genes)
    gene = probes["gene_symbol"].str[4:].astype(int).to_numpy() - 1
    truths = []
    for i in range(n_donors):
        donor = ("9861", "10021", "12876", "14380", "15496", "15697")[i]
        rng = stream(seed, "ahba donor", i)
        annotation = _annotation(structures, n_samples, first_well=1000 * (i + 1), rng=rng)
        place = annotation[["mni_x", "mni_y", "mni_z"]].to_numpy() * 1.0
        place[:, 0] = np.abs(place[:, 0])
        truth = 6 + np.sqrt(2) * np.sin(place @ wave.T + phase)
        truths.append(
            pd.DataFrame(truth, index=annotation["well_id"], columns=[f"GENE{g + 1}" for g in range(n_genes)])
        )
        spread = noise * (1 + 3 * probes["nth"].to_numpy())
        values = truth.T[gene] + probes["offset"].to_numpy()[:, None] + 0.2 * rng.normal()
        values = values + spread[:, None] * rng.normal(size=values.shape)
        present = (rng.random(values.shape) < probes["present"].to_numpy()[:, None]).astype(np.int64)
        folder = path / f"normalized_microarray_donor{donor}"
        folder.mkdir(parents=True)
        annotation.to_csv(folder / "SampleAnnot.csv", index=False)
        ontology.to_csv(folder / "Ontology.csv", index=False)
        probes.drop(columns=["nth", "offset", "present"]).to_csv(folder / "Probes.csv", index=False)
        for name, table in (("MicroarrayExpression", values.round(6)), ("PACall", present)):
            frame = pd.DataFrame(table)
            frame.insert(0, "probe_id", probes["probe_id"].to_numpy())
            if parquet:
                frame.columns = [str(k) for k in range(frame.shape[1])]
                frame.to_parquet(folder / f"{name}.parquet", index=False)
            else:
                frame.to_csv(folder / f"{name}.csv", index=False, header=False)
        if rnaseq and i < 2:
            _sequence(path / f"rnaseq_donor{donor}", annotation, truth, stream(seed, "ahba rna", i))
    kept = probes.loc[(probes["present"] > 0.5) & probes["entrez_id"].notna(), "gene_symbol"].unique()
    return pd.concat(truths)[sorted(kept)]


def _sequence(folder: Path, annotation: pd.DataFrame, truth: np.ndarray, rng: np.random.Generator) -> None:
    """Write one donor's RNA sequencing: transcripts per million of the first sample of each structure."""
    first = np.flatnonzero(~annotation["structure_id"].duplicated())
    folder.mkdir()
    tpm = 2 ** (truth[first, 1:].T + rng.normal(0, 0.1, size=(truth.shape[1] - 1, len(first))))
    pd.DataFrame(tpm.round(4), index=[f"GENE{g + 2}" for g in range(len(tpm))]).to_csv(
        folder / "RNAseqTPM.csv", header=False
    )
    samples = pd.DataFrame({"RNAseq_sample_name": [f"S{one}" for one in first]})
    samples["ontology_structure_id"] = annotation["structure_id"].to_numpy()[first]
    samples.to_csv(folder / "SampleAnnot.csv", index=False)


def _ontology() -> tuple[pd.DataFrame, pd.DataFrame]:
    rows: list[tuple[Any, ...]] = []
    structures = []
    number = 20000
    for part, root, slab, middle in _PATHS:
        for k in range(4):
            for side, word in (("L", "left"), ("R", "right")):
                number += 1
                acronym, name = f"{part}{k + 1}", f"{part.lower()} {k + 1}, {word}"
                rows.append(
                    (
                        number,
                        acronym,
                        name,
                        root,
                        side,
                        number - 20000,
                        f"/4005/{root}/{_lobe(root, k)}/{number}/",
                        "FFFFFF",
                    )
                )
                structures.append(
                    (
                        number,
                        acronym,
                        name,
                        side,
                        slab,
                        middle[0] * (1 if side == "L" else -1),
                        middle[1] + 6 * k,
                        middle[2],
                    )
                )
    number += 1
    rows.append(
        (number, "RaM", "raphe nuclei of medulla", 9512, np.nan, number - 20000, f"/4005/9512/{number}/", "FFFFFF")
    )
    for part, root, _, _ in _PATHS:
        rows.append((root, part, part.lower(), 4005, np.nan, 0, f"/4005/{root}/", "FFFFFF"))
        for k in (0, 2):
            lobe, name = _lobe(root, k), f"{part.lower()} division {1 + k // 2}"
            rows.append((lobe, f"{part}D{1 + k // 2}", name, root, np.nan, 0, f"/4005/{root}/{lobe}/", "FFFFFF"))
    columns = [
        "id",
        "acronym",
        "name",
        "parent_structure_id",
        "hemisphere",
        "graph_order",
        "structure_id_path",
        "color_hex_triplet",
    ]
    places = pd.DataFrame(structures, columns=["id", "acronym", "name", "side", "slab", "x", "y", "z"])
    return pd.DataFrame(rows, columns=columns), places


def _lobe(root: int, k: int) -> int:
    """Number of the division of a part that its structures ``k`` and ``k + 1`` belong to."""
    return 30000 + 2 * root + k // 2


def _probes(n_genes: int, rng: np.random.Generator) -> pd.DataFrame:
    rows: list[tuple[Any, ...]] = []
    for g in range(n_genes):
        for nth in range(1 + g % _PROBES):
            number = 1_058_000 + len(rows)
            # The last gene is below the background, the one before has no Entrez id.
            entrez = np.nan if g == n_genes - 2 else 100 + g
            rows.append(
                (number, f"A_23_P{number}", 700 + g, f"GENE{g + 1}", f"simulated gene {g + 1}", entrez, 1,
                 nth, rng.normal(0, 0.5), 0.2 if g == n_genes - 1 else 0.95)
            )  # fmt: skip
    columns = [
        "probe_id",
        "probe_name",
        "gene_id",
        "gene_symbol",
        "gene_name",
        "entrez_id",
        "chromosome",
        "nth",
        "offset",
        "present",
    ]
    table = pd.DataFrame(rows, columns=columns)
    table["entrez_id"] = table["entrez_id"].astype("Int64")
    return table


def _annotation(structures: pd.DataFrame, n: int, *, first_well: int, rng: np.random.Generator) -> pd.DataFrame:
    left = structures[structures["side"] == "L"]
    which = np.concatenate([np.arange(len(left)), rng.integers(len(left), size=n - len(left))])[:n]
    rows = left.iloc[which].reset_index(drop=True)
    place = rows[["x", "y", "z"]].to_numpy(dtype=float) + rng.normal(0, 2, size=(n, 3))
    place[:, 0] = np.minimum(place[:, 0], -1.0)
    place[0, 0] = 3.0  # on the wrong side
    voxel = np.rint(place + 100).astype(int)
    return pd.DataFrame(
        {
            "structure_id": rows["id"], "slab_num": 1 + np.arange(n) // 10,
            "well_id": first_well + np.arange(n),
            "slab_type": rows["slab"], "structure_acronym": rows["acronym"], "structure_name": rows["name"],
            "polygon_id": 50000 + np.arange(n),
            "mri_voxel_x": voxel[:, 0], "mri_voxel_y": voxel[:, 1], "mri_voxel_z": voxel[:, 2],
            "mni_x": place[:, 0].round(1), "mni_y": place[:, 1].round(1), "mni_z": place[:, 2].round(1),
        }
    )  # fmt: skip
