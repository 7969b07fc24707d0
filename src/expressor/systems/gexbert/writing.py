"""The methods paragraph of a fitted model."""

from typing import Any

from expressor.systems.gexbert.fitting import Pretrained


def methods_text(model: Any, fitted: Pretrained) -> str:
    """Return what was done, in the past tense, with what was kept and what was switched off."""
    counts = fitted.counts
    ranked = ", after each sample's values had been replaced rank by rank by those of the training set"
    text = [
        f"Expression ({fitted.unit}) of {len(fitted.genes)} genes in {counts['samples']} samples of {counts['patients']} "
        f"patients was standardised{ranked if fitted.reference else ''}."
    ]
    if model.linear_skip:
        text.append(
            "Genes that were not measured were restored by their conditional mean under a multivariate normal distribution with "
            "a shrunk correlation, whose shrinkage followed the number of measured genes and was chosen on patients left out."
        )
    if model.network:
        text += _network(model, fitted)
    if model.linear_skip and model.memory:
        used = _sizes(fitted, fitted.restorer.mixture.memory)
        kept = f"added at panels of about {used} genes, where held-out patients gained by it."
        dropped = "tried, did not help held-out patients, and was left out."
        text.append(
            "What the Gaussian missed in training patients with a similar panel (kernel ridge regression of leave-one-out "
            f"residuals) was {kept if used else dropped}"
        )
    text.append(f"Intervals were calibrated on {counts['held_out']} samples of held-out patients.")
    return " ".join(text + _heads(model, fitted))


def _network(model: Any, fitted: Pretrained) -> list[str]:
    known = {"pca": "the principal loadings of the training set", "random": "random numbers"}
    values = "as numbers" if model.value_encoder == "continuous" else f"in {model.bins} bins"
    options, counts = fitted.restorer.options, fitted.counts
    aim = "what this left over; its output was 0 at the start." if model.linear_skip else "the others."
    text = [
        f"A transformer (GexBERT: {model.layers} encoder and {model.decoder_layers} decoder blocks of width {model.dim}, gene "
        f"vectors started from {known.get(model.gene_vectors, 'supplied vectors')}, values {values}) was trained on random "
        f"panels of {options.smallest} to {options.largest} genes of {counts['samples'] - counts['held_out']} samples to "
        f"restore {aim}"
    ]
    if model.linear_skip:
        used = _sizes(fitted, fitted.restorer.mixture.network)
        text.append(
            f"Patients held out of the training gained by it at panels of about {used} genes, where it was used."
            if used
            else "Patients held out of the training did not gain by it at any panel size, and it was switched off."
        )
    return text


def _sizes(fitted: Pretrained, shares: tuple[float, ...]) -> str:
    """Return the panel sizes at which a part has a share, in words; nothing where there are none."""
    words = [str(size) for size, share in zip(fitted.restorer.mixture.sizes, shares) if share]
    return words[0] if len(words) == 1 else " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def _heads(model: Any, fitted: Pretrained) -> list[str]:
    text, counts = [], fitted.counts
    sees = f" of a panel of {len(fitted.panel)} genes" if fitted.panel else ""
    if fitted.classes is not None:
        text.append(
            f"The label ({model.label}, {len(fitted.classes.classes)} classes) was predicted by multinomial logistic regression "
            f"on the representation{sees}, from {counts['labelled']} labelled samples.{_tuned(model, fitted.tuned_classes)}"
        )
    if fitted.risks is not None:
        what = {
            "token": f"the representation{sees}",
            "panel": f"the values{sees}",
            "anchors": f"the values{sees} and {len(fitted.anchors)} restored anchor genes, chosen by their univariate Cox "
            "statistic in the training patients",
        }[model.survival_input]
        text.append(
            f"Risk was predicted by a ridge Cox model on {what}, from {counts['outcomes']} samples with {counts['events']} "
            "events; the penalty was chosen by the cross-validated partial likelihood, and the baseline hazard estimated from "
            f"risks out of fold.{_tuned(model, fitted.tuned_risks)}"
        )
    return text


def _tuned(model: Any, tuned: Any) -> str:
    if model.tuning == "frozen":
        return ""
    if tuned is None:
        return " Fine-tuning the network did not help held-out patients and was discarded."
    return " The network was fine-tuned for it."
