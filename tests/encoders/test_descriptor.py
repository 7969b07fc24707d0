"""The colour descriptor against closed forms and naive loops."""

import numpy as np
import pytest

from expressor.core.errors import DataError
from expressor.encoders import COLOUR_FEATURES, encoder, encoders
from expressor.encoders.descriptor import _STAINS, ColourDescriptor, _halve, unmix

RNG = np.random.default_rng(5)


def flat(*colour, side=32):
    return np.full((1, side, side, 3), colour, dtype=np.uint8)


def named(pixels):
    found = ColourDescriptor()(pixels)
    return [dict(zip(COLOUR_FEATURES, row.astype(float))) for row in found]


def textured(n=3, side=48, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (n, side, side, 3), dtype=np.uint8)


def test_names_and_card_agree():
    card = encoders()["colour"]
    assert card.dim == len(COLOUR_FEATURES) == len(set(COLOUR_FEATURES)) == 46
    found = encoder("colour")(textured())
    assert found.shape == (3, 46)
    assert found.dtype == np.float32
    assert np.isfinite(found).all()


def test_one_colour_has_its_values_and_no_texture():
    values = named(flat(150, 90, 160))[0]
    density = -np.log10((np.array([150, 90, 160]) + 1) / 256)
    assert [values[f"red_{one}"] for one in ("mean", "p10", "p90")] == pytest.approx([150 / 255] * 3)
    assert [values[f"density_{one}"] for one in ("mean", "p50")] == pytest.approx([density.mean()] * 2, rel=1e-5)
    amounts = np.linalg.solve(_STAINS.T, density)
    for name, amount in zip(("haematoxylin", "eosin", "residual"), amounts):
        assert values[f"{name}_mean"] == pytest.approx(amount, abs=1e-5)
    still = [
        name
        for name in COLOUR_FEATURES
        if name.endswith(("std", "fine", "coarse", "centre")) or name == "nuclear_edges"
    ]
    assert len(still) == 3 + 3 + 1 + 10 + 4 + 1
    assert np.abs([values[name] for name in still]).max() < 1e-5
    assert values["glass_fraction"] == 0
    assert named(flat(255, 255, 255))[0]["glass_fraction"] == 1


def test_stain_amounts_are_recovered_from_a_mixture():
    amounts = RNG.uniform(0.05, 0.6, (500, 3)) * [1, 1, 0]
    pixels = 256 * 10 ** -(amounts @ _STAINS) - 1
    assert (pixels > 0).all()
    assert np.abs(unmix(pixels)[1] - amounts).max() < 1e-5
    assert np.abs(unmix(np.rint(pixels).astype(np.uint8))[1] - amounts).max() < 0.02


def test_stain_vectors_are_those_of_the_reference_library():
    skimage = pytest.importorskip("skimage.color")
    assert (
        np.abs(_STAINS - skimage.rgb_from_hed / np.linalg.norm(skimage.rgb_from_hed, axis=1, keepdims=True))[
            :2, :
        ].max()
        < 0.02
    )


def test_nuclear_fraction_and_edges_of_a_painted_disc():
    side = 128
    y, x = np.indices((side, side)) + 0.5
    disc = (x - 64) ** 2 + (y - 64) ** 2 <= 20**2
    picture = np.where(disc[..., None], [70, 50, 130], [235, 190, 220]).astype(np.uint8)[None]
    values = named(picture)[0]
    assert values["nuclear_fraction"] == pytest.approx(np.pi * 20**2 / side**2, rel=0.05)
    assert values["nuclear_fraction_centre"] > 0.1  # it sits in the middle
    # A convex shape is entered and left once in each row and column that it crosses: 40 of 64 halved rows, twice.
    assert values["nuclear_edges"] == pytest.approx(2 * 20 / 64 / 63, rel=0.1)


@pytest.mark.parametrize(("amount", "is_nucleus"), [(0.33, False), (0.37, True)])
def test_what_counts_as_nucleus(amount, is_nucleus):
    pixels = np.rint(256 * 10 ** -(np.array([amount, 0.1, 0.0]) @ _STAINS) - 1)
    assert named(flat(*pixels))[0]["nuclear_fraction"] == is_nucleus


@pytest.mark.parametrize(("density", "is_glass"), [(0.08, True), (0.12, False)])
def test_what_counts_as_glass(density, is_glass):
    assert named(flat(*[round(256 * 10**-density - 1)] * 3))[0]["glass_fraction"] == is_glass


def naive_texture(values):
    rows, columns = values.shape
    gradient, laplacian, bright, edges = [], [], 0, 0
    for r in range(1, rows - 1):
        for c in range(1, columns - 1):
            middle = values[r, c]
            around = up, down, left, right = values[r - 1, c], values[r + 1, c], values[r, c - 1], values[r, c + 1]
            gradient.append(((down - up) / 2) ** 2 + ((right - left) / 2) ** 2)
            laplacian.append((sum(around) - 4 * middle) ** 2)
            bright += all(middle > other for other in around)
            edges += ((middle > up) != (middle > down)) != ((middle > left) != (middle > right))
    centred = values - values.mean()
    pairs = [centred[r, c] * centred[r + 2, c] for r in range(rows - 2) for c in range(columns)]
    others = [centred[r, c] * centred[r, c + 2] for r in range(rows) for c in range(columns - 2)]
    correlation = (np.mean(pairs) + np.mean(others)) / 2 / centred.var()
    inner = (rows - 2) * (columns - 2)
    return [np.sqrt(np.mean(gradient)), np.sqrt(np.mean(laplacian)), correlation, bright / inner, edges / inner]


def test_texture_is_that_of_a_naive_loop():
    pixels = textured(2, side=40)
    found = named(pixels)
    for row, values in enumerate(found):
        stain = unmix(_halve(pixels[row : row + 1].astype(np.float32)))[1][0, ..., 0].astype(float)
        coarse = _halve(stain[None, ..., None])[0, ..., 0]
        for scale, picture in (("fine", stain), ("coarse", coarse)):
            for name, expected in zip(
                ("gradient", "laplacian", "correlation", "bright_codes", "edge_codes"), naive_texture(picture)
            ):
                assert values[f"{name}_{scale}"] == pytest.approx(expected, abs=2e-5), name


def test_statistics_are_those_of_numpy():
    pixels = textured(1, side=64)
    small = _halve(pixels.astype(np.float32))[0] / 255
    values = named(pixels)[0]
    for channel, name in enumerate(("red", "green", "blue")):
        one = small[..., channel]
        assert values[f"{name}_mean"] == pytest.approx(one.mean(), rel=1e-5)
        assert values[f"{name}_std"] == pytest.approx(one.std(), rel=1e-4)
        for percent in (10, 90):
            assert values[f"{name}_p{percent}"] == pytest.approx(
                np.percentile(one, percent, method="nearest"), abs=1e-6
            )


@pytest.mark.parametrize("turn", [lambda x: np.rot90(x, axes=(1, 2)), lambda x: x[:, ::-1], lambda x: x[:, :, ::-1]])
def test_tissue_has_no_up_or_left(turn):
    """A turned or mirrored patch is the same tissue."""
    pixels = textured(2, side=64)
    np.testing.assert_allclose(ColourDescriptor()(turn(pixels)), ColourDescriptor()(pixels), atol=2e-5)


def test_a_patch_does_not_depend_on_its_neighbours():
    pixels = textured(37)
    order = RNG.permutation(37)
    found = ColourDescriptor()(pixels)
    np.testing.assert_array_equal(ColourDescriptor()(pixels[order]), found[order])
    np.testing.assert_array_equal(ColourDescriptor()(pixels[:1]), found[:1])


def test_tokens_and_tiny_patches_are_refused():
    with pytest.raises(DataError, match="has no spatial tokens"):
        ColourDescriptor().tokens(textured())
    with pytest.raises(DataError, match="too small to describe; expected 16 px or more, got 12"):
        ColourDescriptor()(textured(1, side=12))
