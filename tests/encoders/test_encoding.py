"""encode(): order, sizes, progress, refusals; and the registry's records."""

import logging
from dataclasses import fields, replace

import numpy as np
import pytest
from PIL import Image

from expressor.core.errors import DataError
from expressor.encoders import EncoderCard, encode, encoder, encoder_card, encoders
from expressor.encoders.descriptor import CARD


class ArrayPatches:
    """The least that is asked of a patch source."""

    def __init__(self, pixels, um_per_px=0.6875):
        self.pixels, self.um_per_px, self.px = pixels, um_per_px, pixels.shape[1]
        self.origin = "array"
        self.keys = np.arange(len(pixels) * 16, dtype=np.uint8).reshape(len(pixels), 16)

    def __len__(self):
        return len(self.pixels)

    def take(self, rows):
        return ArrayPatches(self.pixels[rows], self.um_per_px)

    def batches(self, size):
        for start in range(0, len(self), size):
            yield self.pixels[start : start + size]


class Mean:
    def __init__(self, px=24, value=None):
        self.card = replace(CARD, name="mean", input_px=px, dim=3)
        self.identity = ("mean",)
        self.sizes, self.value = [], value

    def __call__(self, pixels):
        self.sizes.append(pixels.shape)
        found = pixels.mean(axis=(1, 2), dtype=np.float32)
        return found if self.value is None else np.full_like(found, self.value)


PIXELS = np.random.default_rng(0).integers(0, 256, (10, 24, 24, 3), dtype=np.uint8)


@pytest.mark.parametrize("batch_size", [1, 3, 10, 64])
def test_order_and_batches(batch_size):
    model = Mean()
    found = encode(ArrayPatches(PIXELS), model, batch_size=batch_size)
    np.testing.assert_array_equal(found, PIXELS.mean(axis=(1, 2), dtype=np.float32))
    assert max(shape[0] for shape in model.sizes) <= batch_size


def test_patches_of_another_side_are_resampled_to_the_encoders_input():
    model = Mean(px=16)
    encode(ArrayPatches(PIXELS), model)
    assert model.sizes == [(10, 16, 16, 3)]
    seen = []
    model.__class__ = type(
        "Seeing", (Mean,), {"__call__": lambda self, pixels: seen.append(pixels) or pixels.mean(axis=(1, 2))}
    )
    encode(ArrayPatches(PIXELS[:1]), model)
    expected = np.asarray(Image.fromarray(PIXELS[0]).resize((16, 16), Image.Resampling.BICUBIC))
    np.testing.assert_array_equal(seen[0][0], expected)


def test_values_that_are_not_finite_are_refused():
    with pytest.raises(DataError, match="encoder 'mean' returned values that are not finite"):
        encode(ArrayPatches(PIXELS), Mean(value=np.nan))


def test_another_magnification_is_said(caplog):
    with caplog.at_level(logging.WARNING, logger="expressor"):
        encode(ArrayPatches(PIXELS, um_per_px=0.8), Mean())
        assert not caplog.records
        encode(ArrayPatches(PIXELS, um_per_px=2.0), Mean())
    assert "mean was made for 0.688 um/px and is given patches at 2 um/px" in caplog.text


def test_bad_batch_sizes_are_refused():
    with pytest.raises(DataError, match="batch_size is out of range"):
        encode(ArrayPatches(PIXELS), Mean(), batch_size=0)


def test_the_bar_is_off_unless_asked_for(capsys):
    encode(ArrayPatches(PIXELS), Mean(), batch_size=2)
    assert capsys.readouterr() == ("", "")
    encode(ArrayPatches(PIXELS), Mean(), batch_size=2, show=True)
    assert "encoding (mean)" in capsys.readouterr().err


def test_records_are_complete():
    known = encoders()
    assert list(known)[:2] == ["colour", "efficientnet_lite0"]
    expected = {"uni", "uni2_h", "virchow2", "h_optimus_0", "conch", "phikon", "phikon_v2", "midnight"}
    assert expected < set(known)
    for name, card in known.items():
        assert isinstance(card, EncoderCard)
        assert card.name == name
        for one in fields(card):
            assert getattr(card, one.name) not in ("", None)
        assert card.loader.startswith("expressor.encoders.")
        assert card.patch_um == card.input_px * card.um_per_px
        assert len(card.mean) == len(card.std) == 3
        if "NC" in card.licence or "non-commercial" in card.licence:
            assert not card.commercial
    dims = {
        "uni": 1024,
        "uni2_h": 1536,
        "virchow2": 2560,
        "h_optimus_0": 1536,
        "conch": 512,
        "phikon": 768,
        "midnight": 3072,
    }
    assert {name: known[name].dim for name in dims} == dims
    assert {name for name, card in known.items() if card.gated} == {"uni", "uni2_h", "virchow2", "conch"}
    assert known["efficientnet_lite0"].patch_um == 154.0


def test_names_that_do_not_exist():
    with pytest.raises(
        DataError, match="no image encoder is called 'efficientnet_lite'; nearest: 'efficientnet_lite0'"
    ):
        encoder("efficientnet_lite")
    with pytest.raises(DataError, match="names features that are already there, not an encoder"):
        encoder("precomputed:X_uni")
    assert encoder_card("timm:resnet50").options["model"] == "resnet50"
    assert encoder_card("hf:facebook/dinov2-base").options["model"] == "facebook/dinov2-base"
