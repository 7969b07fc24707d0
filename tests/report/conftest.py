"""Run folders that look like real ones: three simulated sections, forty genes, with or without each thing that may be absent."""

import json
from collections.abc import Callable
from pathlib import Path

import anndata
import numpy as np
import pandas as pd
import pytest

HOSTILE = (
    "<script>window.hacked=1</script>",
    '"><img src=x onerror=window.hacked=1>',
    "</script><script>window.hacked=1</script>",
    "{{ 7*7 }}",
    'O\'Brien "quoted"',
    "$\\alpha_{",
    "__proto__",
    "constructor",
    "=1+1,two",
    "\u2028ligne\u2029",
)
PITCH, SCALE = 280.0, 0.1


def simulate(rng: np.random.Generator, names: list[str], sections: list[str], *, side: int) -> anndata.AnnData:
    """Spots on a disc, genes that follow a few smooth patterns, predictions that see part of them."""
    parts = []
    grid = np.stack(np.meshgrid(np.arange(side), np.arange(side)), axis=-1).reshape(-1, 2).astype(float)
    middle = (side - 1) / 2
    for section in sections:
        places = grid[np.hypot(*(grid - middle).T) <= side / 2]
        angles = rng.uniform(0, 2 * np.pi, (5, 1))
        waves = np.sin(places @ np.hstack([np.cos(angles), np.sin(angles)]).T * rng.uniform(0.3, 0.7, 5))
        weights = rng.normal(0, 0.7, (5, len(names)))
        signal = 1.5 + waves @ weights
        measured = np.maximum(signal + rng.normal(0, 0.6, signal.shape), 0)
        seen = np.linspace(0.9, 0.0, len(names))
        predicted = signal.mean(0) + (signal - signal.mean(0)) * seen + rng.normal(0, 0.15, signal.shape)
        part = anndata.AnnData(
            predicted.astype(np.float32),
            obs=pd.DataFrame(
                {"section": section, "patient": "P1"}, index=[f"{section}_{i}" for i in range(len(places))]
            ),
            var=pd.DataFrame(index=pd.Index(names, name="gene")),
        )
        part.layers["measured"] = measured.astype(np.float32)
        half = rng.uniform(0.9, 1.3, len(names)) + 0.1 * np.abs(waves[:, :1])
        part.layers["lower"] = (predicted - half).astype(np.float32)
        part.layers["upper"] = (predicted + half).astype(np.float32)
        part.obsm["spatial"] = 600.0 + places * PITCH
        parts.append(part)
    tissue = anndata.concat(parts)
    tissue.var.index.name = "gene"
    return tissue


def add_gene_table(tissue: anndata.AnnData) -> None:
    a, b = np.asarray(tissue.X, float), np.asarray(tissue.layers["measured"], float)
    a, b = a - a.mean(0), b - b.mean(0)
    pcc = (a * b).sum(0) / np.sqrt((a**2).sum(0) * (b**2).sum(0) + 1e-12)
    tissue.var["pcc"], tissue.var["pcc_low"], tissue.var["pcc_high"] = pcc, pcc - 0.1, pcc + 0.1
    tissue.var["p_value"] = np.where(pcc > 0.3, 0.001, 0.4)
    tissue.var["q_value"] = np.where(pcc > 0.3, 0.004, 0.5)
    tissue.var["trusted"] = pcc > 0.3


def evaluation_table(sections: list[str]) -> pd.DataFrame:
    rows = []
    for scale, model, ridge, library in (("log1p_cp10k", 0.36, 0.35, 0.16), ("log1p_counts", 0.6, 0.63, 0.74)):
        values = {
            "AGL (DkGSB)": model,
            "primary genes only": model - 0.01,
            "encoder + ridge": ridge,
            "log library size": library,
        }
        for method, value in {**values, "gene mean": np.nan}.items():
            common = {"method": method, "scale": scale, "metric": "pcc", "unit": "correlation", "source": "measured"}
            undefined = 40 if method == "gene mean" else 0
            for i, section in enumerate(sections):
                rows.append({**common, "section": section, "value": value + 0.02 * i, "n_undefined": undefined})
            rows.append(
                {
                    **common,
                    "section": "all",
                    "value": value,
                    "low": value - 0.05,
                    "high": value + 0.05,
                    "n_undefined": undefined,
                }
            )
            rows.append(
                {
                    **common,
                    "section": "all",
                    "metric": "rmse",
                    "value": 1 - value,
                    "low": 0.9 - value,
                    "high": 1.1 - value,
                }
            )
        rows.append(
            {"method": "AGL (DkGSB)", "reference": "encoder + ridge", "scale": scale, "section": "all", "metric": "pcc",
             "value": model - ridge, "low": model - ridge - 0.02, "high": model - ridge + 0.02}
        )  # fmt: skip
    rows.append(
        {"method": "DkGSB, the paper, BOWEL A", "section": "all", "metric": "pcc", "value": 0.551, "source": "claimed"}
    )
    return pd.DataFrame(rows)


def picture(side: int, rng: np.random.Generator) -> np.ndarray:
    size = int((1200 + side * PITCH) * SCALE)
    noise = rng.integers(0, 40, (size, size, 1))
    return np.clip(np.array([214, 160, 205]) - noise * np.array([1.6, 1.2, 0.8]), 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def hostile() -> tuple[str, ...]:
    """Names that would break a careless page, file or figure."""
    return HOSTILE


@pytest.fixture(scope="session")
def make_run(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Return a function that writes a run folder and returns its path."""

    def make(
        *,
        names: list[str] | None = None,
        sections: tuple[str, ...] = ("C2", "C3", "C4"),
        side: int = 10,
        measured: bool = True,
        intervals: bool = True,
        pictures: bool = True,
        gene_table: bool = True,
        grid: bool = False,
        beside: bool = True,
        missing: bool = False,
    ) -> Path:
        rng = np.random.default_rng(5)
        folder = tmp_path_factory.mktemp("run")
        names = names or [f"GENE{i}" for i in range(40)]
        tissue = simulate(rng, names, list(sections), side=side)
        if gene_table:
            add_gene_table(tissue)
        if missing:
            tissue.X[::7, :] = np.nan
            tissue.layers["measured"][:, 1] = np.nan
            tissue.layers["measured"][:, 2] = 0.0
            tissue.layers["lower"][:, 3] = np.nan
            tissue.var.loc[names[4], ["pcc", "pcc_low", "q_value"]] = np.nan
        for layer, wanted in (("measured", measured), ("lower", intervals), ("upper", intervals)):
            if not wanted:
                del tissue.layers[layer]
        tissue.uns["unit"] = "log1p of counts per 10,000"
        tissue.uns["coverage"] = 0.9
        entry = {
            "scalefactors": {"spot_diameter_fullres": 145.0, "tissue_hires_scalef": SCALE, "microns_per_pixel": 0.69},
            "metadata": {
                "image": "",
                "image_width": 4000,
                "image_height": 4000,
                "technology": "Spatial Transcriptomics",
            },
        }
        tissue.uns["spatial"] = {
            section: {**entry, **({"images": {"hires": picture(side, rng)}} if pictures else {})}
            for section in sections
        }
        tissue.write_h5ad(folder / "predictions.h5ad")
        if grid:
            dense = simulate(rng, names, list(sections), side=2 * side)
            del dense.layers["measured"]
            dense.obsm["spatial"] = 600.0 + (dense.obsm["spatial"] - 600.0) / 2
            dense.write_h5ad(folder / "grid.h5ad")
        if beside:
            write_beside(folder, list(sections))
        return folder

    return make


def write_beside(folder: Path, sections: list[str]) -> None:
    evaluation_table(sections).to_csv(folder / "evaluation.csv", index=False)
    steps = np.arange(12)
    pd.DataFrame(
        {
            "stage": "search",
            "epoch": steps,
            "loss": 1 / (1 + steps),
            "val_pcc": 0.3 + 0.01 * steps,
            "k": 8000 - 400 * steps,
        }
    ).to_csv(folder / "history.csv", index=False)
    (folder / "methods.txt").write_text(
        "Expression was predicted with AGL.\nA second line.\n\nEquations: 1 (paper), 6 (paper).\n\n"
        "References\n1. Auxiliary Gene Learning. arXiv:2511.18336.\n"
        "2. Andersson et al. Nat Commun (2021). doi:10.1038/s41467-021-26271-2.\n",
        encoding="utf-8",
    )
    (folder / "environment.json").write_text(json.dumps({"versions": {"expressor": "0.1.0"}, "cores": 2}))
    (folder / "model").mkdir()
    (folder / "model" / "config.json").write_text(
        json.dumps(
            {"system": "agl", "class": "AGL", "parameters": {"encoder": "efficientnet_lite0", "plan": {"epochs": 3}}}
        )
    )
