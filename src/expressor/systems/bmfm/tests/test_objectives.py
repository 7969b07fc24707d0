"""Objectives: each pair of a source and a loss against a loop, weights, names, refusals."""

import math

import numpy as np
import pytest
import scipy.stats
import torch

from expressor.core.errors import DataError
from expressor.systems.bmfm import equations
from expressor.systems.bmfm.objectives import TERMS, Objective, Outputs, Targets, mlm, named, total_loss, wced

CELLS, GENES, PLACES, LEVELS, CLASSES = 4, 6, 7, 5, 3


@pytest.fixture
def outputs() -> Outputs:
    torch.manual_seed(0)
    shapes = {"token_value": (PLACES,), "token_zero": (PLACES,), "token_level": (PLACES, LEVELS),
              "token_gene": (PLACES, GENES), "value": (CELLS, GENES), "zero": (CELLS, GENES)}  # fmt: skip
    parts = {name: torch.randn(*shape, dtype=torch.float64) for name, shape in shapes.items()}
    theta = torch.rand(GENES, dtype=torch.float64) + 0.2
    return Outputs(**parts, theta=theta, labels={"kind": torch.randn(CELLS, CLASSES, dtype=torch.float64)})


@pytest.fixture
def targets() -> Targets:
    torch.manual_seed(1)
    counts = torch.poisson(torch.full((CELLS, GENES), 1.2, dtype=torch.float64))
    genes = torch.tensor([[0, 2], [1, -1], [3, 4], [5, 0]])
    measured = torch.ones(CELLS, GENES, dtype=torch.bool)
    measured[1, 5] = measured[2, 0] = False
    library = counts.sum(1) + 10
    return Targets(
        token_value=torch.tensor([0, 3, 1, 0, 4, 2, 1], dtype=torch.float64),
        token_gene=torch.tensor([5, 0, 2, 2, 1, 4, 3]),
        profile=equations.log_normalise(counts, library),
        counts=counts,
        library=library,
        wanted={which: equations.target_set(genes, measured, which) for which in ("input", "non_input", "all")},
        labels={"kind": torch.tensor([0, 2, -1, 1])},
        leaves={"kind": torch.tensor([[1, 1, 1], [1, 1, 0], [0, 0, 1]], dtype=torch.bool)},
    )


def one_loss(source: str, loss: str, outputs: Outputs, targets: Targets, **options: object) -> float:
    column = "kind" if source == "label" else ""
    objective = Objective(source=source, loss=loss, column=column, **options)  # type: ignore[arg-type]
    objective.check()
    return total_loss((objective,), outputs, targets)["loss"].item()


@pytest.mark.parametrize("which", ["input", "non_input", "all"])
def test_losses_of_the_whole_cell_count_their_target_set_alone(which: str, outputs: Outputs, targets: Targets) -> None:
    squares, sizes, zeros, expected, nb, zinb = [], [], [], [], 0.0, 0.0
    logits = outputs.value.masked_fill(~targets.wanted["all"], -torch.inf)
    for c in range(CELLS):
        total = sum(math.exp(one) for one in logits[c].tolist())
        for g in range(GENES):
            if not targets.wanted[which][c, g]:
                continue
            value, true = outputs.value[c, g].item(), targets.profile[c, g].item()
            chance = 1 / (1 + math.exp(-outputs.zero[c, g].item()))
            zeros.append(-math.log(chance if true == 0 else 1 - chance))
            expected.append(((1 - chance) * value - true) ** 2)
            if true != 0:
                squares.append((value - true) ** 2)
                sizes.append(abs(value - true))
            mu, r = targets.library[c].item() * math.exp(logits[c, g].item()) / total, outputs.theta[g].item()
            p = scipy.stats.nbinom(r, r / (r + mu)).pmf(targets.counts[c, g].item())
            nb -= math.log(p)
            zinb -= math.log((1 - chance) * p + chance * (targets.counts[c, g].item() == 0))
    wanted = {
        ("profile", "mse"): np.mean(squares), ("profile", "mae"): np.mean(sizes), ("profile", "is_zero"): np.mean(zeros),
        ("profile", "expected"): np.mean(expected), ("counts", "nb"): nb / CELLS, ("counts", "zinb"): zinb / CELLS,
    }  # fmt: skip
    for (source, loss), by_hand in wanted.items():
        assert one_loss(source, loss, outputs, targets, on=which) == pytest.approx(by_hand), (source, loss)


def test_losses_of_masked_places(outputs: Outputs, targets: Targets) -> None:
    genes, bins, distances, squares, sizes, zeros = [], [], [], [], [], []
    for i in range(PLACES):
        true = targets.token_value[i].item()
        genes.append(-torch.softmax(outputs.token_gene[i], 0)[targets.token_gene[i]].log().item())
        p = torch.softmax(outputs.token_level[i], 0).tolist()
        bins.append(-math.log(p[int(true)]))
        distances.append((sum(k * one for k, one in enumerate(p)) - true) ** 2)
        chance = 1 / (1 + math.exp(-outputs.token_zero[i].item()))
        zeros.append(-math.log(chance if true == 0 else 1 - chance))
        if true != 0:
            squares.append((outputs.token_value[i].item() - true) ** 2)
            sizes.append(abs(outputs.token_value[i].item() - true))
    wanted = {
        ("genes", "cross_entropy"): genes, ("values", "cross_entropy"): bins, ("values", "token_value"): distances,
        ("values", "mse"): squares, ("values", "mae"): sizes, ("values", "is_zero"): zeros,
    }  # fmt: skip
    for (source, loss), by_hand in wanted.items():
        assert one_loss(source, loss, outputs, targets) == pytest.approx(np.mean(by_hand)), (source, loss)


def test_losses_of_labels(outputs: Outputs, targets: Targets) -> None:
    p = torch.softmax(outputs.labels["kind"], 1)
    right = [p[0, 0].item(), p[1, 2].item(), p[3, 1].item()]
    assert one_loss("label", "cross_entropy", outputs, targets) == pytest.approx(np.mean([-math.log(q) for q in right]))
    by_hand = [-((1 - q) ** 3) * math.log(q) for q in right]
    assert one_loss("label", "focal", outputs, targets, gamma=3.0) == pytest.approx(np.mean(by_hand))
    below = [1.0, p[1, 2].item(), (p[3, 0] + p[3, 1]).item()]
    by_hand = [-math.log(q) for q in below]
    assert one_loss("label", "hierarchical", outputs, targets) == pytest.approx(np.mean(by_hand))


def test_every_loss_can_be_learnt_from(outputs: Outputs, targets: Targets) -> None:
    for source, loss in TERMS:
        leaves = [one for one in vars(outputs).values() if isinstance(one, torch.Tensor)] + [outputs.labels["kind"]]
        for one in leaves:
            one.requires_grad_().grad = None
        column = "kind" if source == "label" else ""
        total_loss((Objective(source=source, loss=loss, column=column),), outputs, targets)["loss"].backward()  # type: ignore[arg-type]
        found = [one.grad for one in leaves if one.grad is not None]
        assert found, (source, loss)
        assert all(bool(one.isfinite().all()) for one in found), (source, loss)
        assert any(bool((one != 0).any()) for one in found), (source, loss)


def test_the_whole_is_the_weighted_sum(outputs: Outputs, targets: Targets) -> None:
    label = Objective(source="label", loss="focal", column="kind", weight=0.05)
    objectives = (*mlm(zeros=True, zero_weight=1.5), *wced("input", "non_input"), label)
    found = total_loss(objectives, outputs, targets)
    weights = {
        "genes_cross_entropy": 0.7, "values_mse": 1, "values_is_zero": 1.5, "input_mse": 1, "input_is_zero": 1,
        "non_input_mse": 1, "non_input_is_zero": 1, "kind_focal": 0.05,
    }  # fmt: skip
    assert set(found) == {"loss", *weights}
    assert found["loss"].item() == pytest.approx(sum(w * found[name].item() for name, w in weights.items()))
    with pytest.raises(DataError, match="two objectives have one name; got all_mse, all_is_zero, all_mse, all_is_zero"):
        total_loss((*wced(), *wced()), outputs, targets)
    outputs.token_gene = None
    with pytest.raises(
        DataError, match="an objective asks for genes of masked places, and the batch or the network gives"
    ):
        total_loss(mlm(), outputs, targets)


def test_names() -> None:
    assert named("mlm+wced") == (*mlm(), *wced())
    assert [one.name for one in named("wced+wced-expected")] == ["all_mse", "all_is_zero", "all_expected"]
    assert [one.on for one in named("wced-v1")] == ["input", "input", "non_input", "non_input"]
    assert [one.weight for one in named("mlm-zeros")] == [0.7, 1, 1.5]
    assert [one.name for one in named("nb+zinb")] == ["all_nb", "all_zinb"]
    with pytest.raises(DataError, match="unknown objective 'wced-v3'.*'wced-v1'"):
        named("mlm+wced-v3")


def test_what_is_no_objective() -> None:
    for options, message in (
        (
            {"source": "label", "loss": "mse", "column": "kind"},
            "unknown loss of label 'mse'; expected one of 'cross_entropy'",
        ),
        ({"source": "profile", "loss": "mse", "weight": -1.0}, "weight of an objective"),
        ({"source": "label", "loss": "focal"}, "an objective of a label names its column, and no other does"),
        ({"source": "counts", "loss": "nb", "column": "kind"}, "an objective of a label names its column"),
    ):
        with pytest.raises(DataError, match=message):
            Objective(**options).check()  # type: ignore[arg-type]
    for name, value, message in (
        ("on", "some", "unknown target set 'some'; expected one of 'input', 'non_input', 'all'"),
        ("source", "cells", "unknown source of an objective 'cells'"),
    ):
        objective = Objective(source="profile", loss="mse")
        object.__setattr__(objective, name, value)
        with pytest.raises(DataError, match=message):
            objective.check()
