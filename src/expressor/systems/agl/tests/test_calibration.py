"""Held-out predictions with known errors: lines, widths, coverage and verdicts must come out as they were put in."""

import numpy as np
import pandas as pd
import pytest

from expressor.systems.agl.calibration import LEVELS, Calibration, HeldOut, calibrate, half_width_at

NAMES = pd.Index(["good", "weak", "none", "wrong"], dtype=object)


def held_out(seed: int = 0, groups: int = 4, side: int = 12) -> HeldOut:
    """Smooth predictions; the first gene follows them closely, the second loosely, the third not, the fourth inversely."""
    rng = np.random.default_rng(seed)
    x, y = np.divmod(np.arange(side * side), side)
    um = np.tile(np.stack([x, y], 1) * 100.0, (groups, 1))
    group = np.repeat(np.arange(groups), side * side)
    waves = [np.sin(x / 2.5 + rng.uniform(0, 6)) + np.cos(y / 2.0 + rng.uniform(0, 6)) for _ in range(groups)]
    smooth = np.concatenate(waves)
    noise = rng.normal(size=(len(smooth), 4))
    measured = np.column_stack([smooth, smooth, 0 * smooth, -smooth]) * 2.0 + 5.0 + noise * [0.3, 3.0, 1.0, 1.0]
    predicted = np.repeat(smooth[:, None], 4, axis=1)
    return HeldOut(predicted, measured, group, group, um)


@pytest.fixture(scope="module")
def done() -> Calibration:
    return calibrate(NAMES, held_out(), permutations=199, false_discovery=0.05, seed=0)


def test_the_line_and_the_width_are_those_put_in(done: Calibration) -> None:
    table = done.table
    assert table.loc["good", "slope"] == pytest.approx(2.0, abs=0.05)
    assert table.loc["good", "intercept"] == pytest.approx(5.0, abs=0.05)
    assert table.loc["good", "half_width"] == pytest.approx(1.645 * 0.3, rel=0.1)
    assert table.loc["weak", "half_width"] == pytest.approx(1.645 * 3.0, rel=0.1)
    assert 0 < table.loc["wrong", "slope"] < 0.01
    assert list(table.columns) == [
        "pcc", "pcc_low", "pcc_high", "p_value", "q_value", "trusted", "slope", "intercept", "half_width",
    ]  # fmt: skip


def test_trust_goes_to_what_follows(done: Calibration) -> None:
    assert done.table["trusted"].tolist() == [True, True, False, False]
    assert done.table["trusted"].dtype == bool
    inside = (done.table["pcc_low"] < done.table["pcc"]) & (done.table["pcc"] < done.table["pcc_high"])
    assert inside.all()


def test_unrelated_smooth_maps_are_not_trusted() -> None:
    """Two smooth maps that have nothing to do with each other: a spot-wise test would be fooled by most of these."""
    fooled = 0
    for seed in range(12):
        held = held_out(seed, groups=2)
        unrelated = held_out(seed + 100, groups=2)
        swapped = HeldOut(unrelated.predicted, held.measured, held.group, held.section, held.um)
        fooled += int(calibrate(NAMES, swapped, permutations=99, false_discovery=0.05, seed=0).table["trusted"]["good"])
    assert fooled <= 2


def test_measured_coverage_is_near_the_nominal_one(done: Calibration) -> None:
    assert done.coverage["nominal"].tolist() == [0.5, 0.8, 0.9, 0.95]
    np.testing.assert_allclose(done.coverage["measured"], done.coverage["nominal"], atol=0.03)


def test_intervals_cover_new_groups() -> None:
    """On average over draws, a new group is covered as promised."""
    shares = []
    for seed in range(15):
        done = calibrate(NAMES, held_out(seed), permutations=1, false_discovery=0.05, seed=0)
        new = held_out(seed + 500, groups=1)
        error = np.abs(new.measured - (done.slope * new.predicted + done.intercept))
        shares.append((error <= half_width_at(done.half_widths, 0.9)).mean())
    assert np.mean(shares) == pytest.approx(0.9, abs=0.02)


def test_groups_with_offsets_make_wide_intervals() -> None:
    """What differs from section to section is in the width, because lines come from the other groups."""
    held = held_out(groups=6)
    shifted = HeldOut(
        held.predicted, held.measured + 3.0 * (held.group % 2)[:, None], held.group, held.section, held.um
    )
    done = calibrate(NAMES, shifted, permutations=1, false_discovery=0.05, seed=0)
    assert done.table.loc["good", "half_width"] > 1.2
    assert done.coverage["measured"].iloc[2] == pytest.approx(0.9, abs=0.08)


def test_levels_are_taken_from_above() -> None:
    widths = LEVELS[:, None] * np.array([1.0, 10.0])
    assert half_width_at(widths, 0.9).tolist() == [0.9, 9.0]
    assert half_width_at(widths, 0.901).tolist() == [0.91, 9.1]
    assert half_width_at(widths, 0.999).tolist() == [0.995, 9.95]


def test_one_group_has_no_measured_coverage() -> None:
    done = calibrate(NAMES, held_out(groups=1), permutations=9, false_discovery=0.05, seed=0)
    assert done.coverage["measured"].isna().all()
    assert np.isfinite(done.half_widths).all()
    assert (np.diff(done.half_widths, axis=0) >= 0).all(), "more coverage is never narrower"
