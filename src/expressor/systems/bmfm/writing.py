"""The methods paragraph of a fitted model."""

from typing import Any

from expressor.systems.bmfm.fitted import Fitted

_VALUES = {
    "rectified": "two layers with leaky rectifiers", "waves": "sines and cosines at learnt frequencies",
    "doubling_waves": "sines and cosines at doubling frequencies", "bins": "a table of bins",
}  # fmt: skip
_TUNED = {"full": "trained on whole", "lora": "trained on by low-rank additions to its encoder"}


def methods_text(model: Any, fitted: Fitted) -> str:
    """Return what was done, in the past tense, with what was tried and left out."""
    made, counts = fitted.architecture, fitted.counts
    text = [
        f"Raw counts of {counts['cells']} cells were brought to the {len(fitted.genes)} genes of the model, and to the logarithm "
        "of 1 plus counts per ten thousand. Each cell was given to a transformer (BMFM-RNA: "
        f"{made.layers} {'block' if made.layers == 1 else 'blocks'} of width {made.dim} in the style of "
        f"{'BERT' if made.style == 'bert' else 'Llama'}, values by {_VALUES[made.values]}) as a set of at most "
        f"{fitted.tokeniser.max_length} genes with their values ({fitted.tokeniser.order} order)."
    ]
    if model.start_from:
        text.append("Its weights started from those of another model.")
    trained = "stage" in fitted.history and (fitted.history["stage"] == "pretrain").any()
    if trained:
        names = ", ".join(one.name.replace("_", " ") for one in fitted.learner.objectives)
        text.append(
            f"It was trained on {counts['train']} cells for: {names}; the weights of the lowest loss on {counts['held_out']} cells "
            "held out were kept."
        )
    else:
        text.append("It was not trained further." if model.start_from else "Its weights stayed random.")
    if fitted.label_classes:
        text.append(_label(model, fitted))
    return " ".join(text)


def _label(model: Any, fitted: Fitted) -> str:
    what = f"{model.label} ({len(fitted.label_classes)} classes)"
    if fitted.head is None:
        return f"{what} was told by the network's own head."
    told = (
        f"{what} was told by multinomial logistic regression on the cells' vectors, from "
        f"{fitted.counts['labelled']} labelled cells"
    )
    if model.finetune == "probe":
        return f"{told}."
    if fitted.tuned is None:
        return f"{told}; training the network on for it did not help held-out cells and was discarded."
    return f"{told}, and network and layer were {_TUNED[model.finetune]}."
