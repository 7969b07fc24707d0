"""What was done, in words for a paper's methods."""

from typing import Any

from expressor.systems.brain_inr.teaching import has_teacher


def methods_paragraph(model: Any) -> str:
    """Return what a fitted estimator did, in sentences."""
    frame = model._fields[0].frame
    n = sum(len(one.frame.known) for one in model._fields)
    how = {
        "fourier": "networks of random Fourier features of the place, which give all genes at once",
        "siren": f"a network of {model.depth + 1} layers of sines (width {model.width}, frequency {model.omega:g}) for place "
        "and gene",
        "knn": f"the mean of the {model.neighbours} nearest samples",
        "idw": f"the mean of the {model.neighbours} nearest samples, weighed by inverse distance",
        "gp": "a Gaussian process with a Matern-3/2 kernel, whose lengths and noise maximised the marginal likelihood",
        "ensemble": "the mean of a Gaussian process and of networks of Fourier features",
    }[model.field]
    if has_teacher(model, len(model.genes_in_)):
        how = "a network of random Fourier features of the place, taught by the mean of a Gaussian process and of such networks"
    known = f" The field also knew the {' and the '.join(frame.conditions)} of a place." if frame.conditions else ""
    sides = {"fold": " Both sides of the brain were laid upon each other.", "mirror": " Samples were mirrored."}
    held = f" Intervals were calibrated on held-out {model.held_out} ({model.folds} folds)." if model.folds else ""
    donors = {
        "pooled": "put on one scale by standard scores",
        "separate": "given a field each, which were averaged",
    }
    return (
        f"Expression ({model.unit_}) of {len(model.genes_in_)} genes in {n} samples of {len(model.donors_)} donors was "
        f"interpolated in {model.space_} by {how}. Donors were {donors.get(model.donor, 'not told apart')}.{known}"
        f"{sides.get(frame.symmetry, '')}{held}"
    )
