"""The methods paragraph of a fitted model."""

from typing import Any

from expressor.systems.gexbert.fitting import Fitted


def methods_text(model: Any, fitted: Fitted) -> str:
    """Return what was done, in the past tense, with what was kept and what was switched off."""
    counts, shares = fitted.counts, fitted.restorer.mixture
    n_train = counts["samples"] - counts["held_out"]
    text = [
        f"Expression ({fitted.unit}) of {len(fitted.genes)} genes in {counts['samples']} samples of {counts['patients']} patients was "
        "standardised" + (", after each sample's values had been replaced rank by rank by those of the training set" if fitted.reference else "")
        + ".",
    ]  # fmt: skip
    if model.linear_skip:
        text.append(
            "Genes that were not measured were restored by their conditional mean under a multivariate normal distribution with a "
            "shrunk correlation, whose shrinkage followed the number of measured genes and was chosen on patients left out."
        )
    if model.network:
        start = {"pca": "the principal loadings of the training set", "random": "random numbers"}.get(
            model.gene_vectors, "supplied vectors"
        )
        values = "numbers" if model.value_encoder == "continuous" else f"one of {model.bins} bins"
        text.append(
            f"A transformer (GexBERT: {model.layers} encoder and {model.decoder_layers} decoder blocks of width {model.dim}, "
            f"gene vectors started from {start}, values as {values}) was trained on random panels of "
            f"{fitted.restorer.options.smallest} to {fitted.restorer.options.largest} genes of {n_train} samples to restore "
            + ("what this left over; its output was 0 at the start." if model.linear_skip else "the others.")
        )
        used = [str(size) for size, share in zip(shares.sizes, shares.network) if share]
        if not model.linear_skip:
            pass
        elif used:
            text.append(f"Patients held out of the training gained by it at panels of about {_join(used)} genes, where it was used.")
        else:
            text.append("Patients held out of the training did not gain by it at any panel size, and it was switched off.")
    if model.linear_skip and model.memory:
        used = [str(size) for size, share in zip(shares.sizes, shares.memory) if share]
        text.append(
            "What the Gaussian missed in training patients with a similar panel (kernel ridge regression of leave-one-out residuals) was "
            + (f"added at panels of about {_join(used)} genes, where held-out patients gained by it." if used
               else "tried, did not help held-out patients, and was left out.")
        )  # fmt: skip
    text.append(f"Intervals were calibrated on {counts['held_out']} samples of held-out patients.")
    text += _heads(model, fitted)
    return " ".join(text)


def _heads(model: Any, fitted: Fitted) -> list[str]:
    text, counts = [], fitted.counts
    sees = f" of a panel of {len(fitted.panel)} genes" if fitted.panel else ""
    if fitted.classes is not None:
        text.append(
            f"The label ({model.label}, {len(fitted.classes.classes)} classes) was predicted by multinomial logistic regression on the "
            f"representation{sees}, from {counts['labelled']} labelled samples." + _tuned(model, fitted.tuned_classes)
        )
    if fitted.risks is not None:
        what = {
            "token": f"the representation{sees}",
            "panel": f"the values{sees}",
            "anchors": f"the values{sees} and {len(fitted.anchors)} restored anchor genes, chosen by their univariate Cox "
            "statistic in the training patients",
        }[model.survival_input]
        text.append(
            f"Risk was predicted by a ridge Cox model on {what}, from {counts['outcomes']} patients with {counts['events']} events; "
            "the penalty was chosen by the cross-validated partial likelihood and the baseline hazard estimated from risks out of fold."
            + _tuned(model, fitted.tuned_risks)
        )
    return text


def _tuned(model: Any, tuned: Any) -> str:
    if model.tuning == "frozen":
        return ""
    if tuned is None:
        return " Fine-tuning the network did not help held-out patients and was discarded."
    return " The network was fine-tuned for it."


def _join(words: list[str]) -> str:
    return words[0] if len(words) == 1 else ", ".join(words[:-1]) + " and " + words[-1]
