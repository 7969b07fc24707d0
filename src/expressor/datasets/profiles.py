"""Simulated bulk profiles: few hidden factors drive the genes, known genes mark the tumour type and the hazard."""

import anndata as ad
import numpy as np
import pandas as pd

from expressor.core.errors import DataError, check_range
from expressor.core.rng import stream
from expressor.data import keys

ROLES = ("survival", "type", "background")
"""What a simulated gene is for: its factor moves the hazard, its mean depends on the tumour type, neither."""

UNIT = "log2(TPM+1)"
FACTOR_SD = 1.0  # of the part of a gene's log expression that the factors drive
TYPE_SHIFT = 1.6  # of a type's marker genes, in the same unit


def simulate_bulk(
    *,
    n_patients: int = 60,
    n_genes: int = 40,
    n_types: int = 3,
    n_factors: int = 4,
    samples_per_patient: int = 1,
    noise: float = 0.5,
    log_hazard: float = 1.2,
    median_days: float = 900.0,
    censored: float = 0.4,
    pipeline_shift: float = 0.0,
    missing: float = 0.0,
    seed: int = 0,
    mechanism: int = 0,
) -> ad.AnnData:
    """Simulate tumour profiles of low rank with type and survival of each patient.

    A patient has ``n_factors`` hidden standard normal factors. Every gene is its mean, plus its loadings times the factors,
    plus noise of its own; a fifth of the genes (role ``survival``) loads on the first factor alone, which multiplies the
    hazard by exp(``log_hazard``) per standard deviation; the others load on the remaining factors. Three tenths of the genes
    (role ``type``) are also higher in one tumour type. So the first factor, which no other gene carries, tells all that
    expression can tell of survival; given the type, expression is multivariate normal except where it is cut off at 0.

    Parameters
    ----------
    n_patients
        Number of patients, at least 2 and at least ``n_types``. Types and cohorts are dealt out evenly.
    n_genes
        Number of genes, at least 10.
    n_types
        Number of tumour types, at least 1.
    n_factors
        Number of hidden factors, at least 2 and fewer than ``n_genes``.
    samples_per_patient
        Samples of each patient, which share factors, type and outcome and differ in their noise.
    noise
        Standard deviation of a gene's own noise, at least 0; what the factors drive has 1.
    log_hazard
        Log hazard ratio per standard deviation of the first factor; 0 for outcomes that nothing predicts.
    median_days
        Median survival of a patient whose first factor is 0, in days.
    censored
        Share of the patients that are expected to be censored, 0 to below 1.
    pipeline_shift
        Standard deviation of the shift of each gene in the second pipeline; 0 for none.
    missing
        Share of the values that are NaN, drawn completely at random, 0 to below 1.
    seed
        Seed of the patients: factors, outcomes, noise.
    mechanism
        Seed of the genes: means, loadings, markers, shift of the pipeline. Data of one mechanism and different seeds are new
        patients of one population.

    Returns
    -------
    AnnData
        ``X``: float32 (sample, gene), log2(TPM+1), at least 0. ``obs``: ``patient``, ``cancer_type``, ``cohort`` (two),
        ``pipeline`` (two, one a cohort), ``time`` (whole days, at least 1, so that some are tied) and ``event`` (bool).
        ``var``: ``role`` and ``marks`` (the type that a marker marks). ``obsm["factors"]``: the hidden factors.
        ``uns["unit"]``: the unit. ``uns["truth"]``: ``loadings`` (gene, factor), ``mean`` (gene,), ``shift`` (gene, type),
        ``noise``, ``log_hazard``, and the names of the ``survival_genes`` and ``type_genes``.
    """
    check_range(n_patients, name="n_patients", low=2, integer=True)
    check_range(n_genes, name="n_genes", low=10, integer=True)
    check_range(n_types, name="n_types", low=1, high=n_patients, integer=True)
    check_range(n_factors, name="n_factors", low=2, high=n_genes - 1, integer=True)
    check_range(samples_per_patient, name="samples_per_patient", low=1, integer=True)
    check_range(noise, name="noise", low=0)
    check_range(median_days, name="median_days", low=0, open_low=True)
    check_range(censored, name="censored", low=0, high=1, open_high=True)
    check_range(pipeline_shift, name="pipeline_shift", low=0)
    check_range(missing, name="missing", low=0, high=1, open_high=True)
    if not np.isfinite(log_hazard):
        raise DataError("log_hazard is not finite", expected="a finite number", got=log_hazard)
    genes = _describe_genes(n_genes, n_types, n_factors, mechanism)
    patients = _draw_patients(n_patients, n_types, n_factors, seed)
    patients["time"], patients["event"] = _draw_outcomes(
        log_hazard * patients["factors"][:, 0], median_days=median_days, censored=censored, seed=seed
    )
    who = np.repeat(np.arange(n_patients), samples_per_patient)
    values = genes["mean"] + patients["factors"][who] @ genes["loadings"].T + genes["shift"].T[patients["type"][who]]
    values = values + noise * stream(seed, "bulk noise").normal(size=values.shape)
    offset = pipeline_shift * stream(mechanism, "pipeline shift").normal(size=n_genes)
    values = np.maximum(values + patients["cohort"][who, None] * offset, 0).astype(np.float32)
    values[stream(seed, "missing").random(values.shape) < missing] = np.nan
    adata = ad.AnnData(values, obs=_name_samples(patients, who, samples_per_patient, seed), var=genes["var"])
    adata.obsm["factors"] = patients["factors"][who]
    adata.uns["unit"] = UNIT
    names, role = genes["var"].index.to_numpy(dtype=object), genes["var"]["role"].to_numpy()
    adata.uns["truth"] = {
        "loadings": genes["loadings"],
        "mean": genes["mean"],
        "shift": genes["shift"],
        "noise": float(noise),
        "log_hazard": float(log_hazard),
        "survival_genes": names[role == "survival"],
        "type_genes": names[role == "type"],
    }
    return adata


def _describe_genes(n_genes: int, n_types: int, n_factors: int, mechanism: int) -> dict:
    n_survival, n_marker = n_genes // 5, 3 * n_genes // 10
    role = np.array(
        ["survival"] * n_survival + ["type"] * n_marker + ["background"] * (n_genes - n_survival - n_marker)
    )
    rng = stream(mechanism, "bulk genes")
    # Mixed up, so that neither the order nor the name of a gene tells its role.
    role = role[rng.permutation(n_genes)]
    mean = rng.uniform(4.0, 9.0, size=n_genes)
    loadings = rng.normal(size=(n_genes, n_factors))
    loadings[:, 0] = 0.0
    loadings *= FACTOR_SD / np.linalg.norm(loadings, axis=1, keepdims=True)
    survival = role == "survival"
    loadings[survival] = 0.0
    loadings[survival, 0] = FACTOR_SD * np.where(rng.random(n_survival) < 0.5, -1.0, 1.0)
    shift = np.zeros((n_genes, n_types))
    marks = np.full(n_genes, "", dtype=object)
    for place, gene in enumerate(np.flatnonzero(role == "type")):
        shift[gene, place % n_types] = TYPE_SHIFT
        marks[gene] = f"T{place % n_types + 1}"
    names = [f"GENE{i + 1:0{max(2, len(str(n_genes)))}d}" for i in range(n_genes)]
    var = pd.DataFrame({"role": pd.Categorical(role, categories=ROLES), "marks": pd.Categorical(marks)}, index=names)
    return {"var": var, "mean": mean, "loadings": loadings, "shift": shift}


def _draw_patients(n_patients: int, n_types: int, n_factors: int, seed: int) -> dict[str, np.ndarray]:
    rng = stream(seed, "bulk patients")
    return {
        "factors": rng.normal(size=(n_patients, n_factors)),
        "type": rng.permutation(np.arange(n_patients) % n_types),
        "cohort": rng.permutation(np.arange(n_patients) % 2),
    }


def _draw_outcomes(
    log_risk: np.ndarray, *, median_days: float, censored: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Exponential times to the event, and times of censoring from one exponential that censors the wanted share."""
    rng = stream(seed, "bulk outcomes")
    hazard = np.log(2) / median_days * np.exp(log_risk)
    died = rng.exponential(1 / hazard)
    left = np.full(len(died), np.inf)
    if censored > 0:
        # Against a censoring rate c a patient of hazard h is censored with probability c / (c + h).
        low, high = np.log(hazard.min()) - 20.0, np.log(hazard.max()) + 20.0
        for _ in range(80):
            middle = (low + high) / 2
            too_few = np.mean(1 / (1 + hazard * np.exp(-middle))) < censored
            low, high = (middle, high) if too_few else (low, middle)
        left = rng.exponential(np.exp(-(low + high) / 2), size=len(died))
    return np.ceil(np.minimum(died, left)), died <= left


def _name_samples(patients: dict[str, np.ndarray], who: np.ndarray, samples: int, seed: int) -> pd.DataFrame:
    # The seed is part of the name: patients of another seed are other patients.
    names = np.array(
        [f"S{seed}P{i + 1:0{max(3, len(str(len(who))))}d}" for i in range(len(patients["type"]))], dtype=object
    )
    frame = pd.DataFrame(
        {
            keys.PATIENT: pd.Categorical(names[who]),
            keys.CANCER_TYPE: pd.Categorical([f"T{one + 1}" for one in patients["type"][who]]),
            keys.COHORT: pd.Categorical([f"C{one + 1}" for one in patients["cohort"][who]]),
            keys.PIPELINE: pd.Categorical([f"P{one + 1}" for one in patients["cohort"][who]]),
            keys.TIME: patients["time"][who],
            keys.EVENT: patients["event"][who],
        }
    )
    frame.index = [f"{names[one]}-{i % samples + 1:02d}" for i, one in enumerate(who)]
    return frame
