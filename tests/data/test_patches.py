"""Patches against a plain loop over Pillow; their geometry in micrometres; what tells them apart; HEST patch files."""

import contextlib
import logging
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from expressor.core.errors import DataError, ExpressorError, FormatError
from expressor.data.images import open_image
from expressor.data.patches import HestPatches, Patches, PatchSpec

RNG = np.random.default_rng(3)
PICTURE = np.asarray(
    Image.fromarray(RNG.integers(0, 256, (40, 50, 3), dtype=np.uint8)).resize((500, 400), Image.Resampling.BICUBIC)
)
CENTRES = np.array([[250.0, 200.0], [120.5, 90.25], [3.0, 5.0], [500.0, 400.0], [250.0, 200.0]])


def image(um_per_px=0.5, picture=PICTURE):
    return open_image(picture, um_per_px=um_per_px)


def cut_all(patches, size=2):
    return np.concatenate(list(patches.batches(size)))


def loop(picture, um_per_px, centres, spec):
    """One patch after the other, from a copy of the picture with a wide white margin."""
    margin = 400
    white = Image.new("RGB", (picture.shape[1] + 2 * margin, picture.shape[0] + 2 * margin), (255, 255, 255))
    white.paste(Image.fromarray(picture), (margin, margin))
    half = spec.size_um / um_per_px / 2
    out = []
    for x, y in centres + margin:
        box = (x - half, y - half, x + half, y + half)
        out.append(np.asarray(white.resize((spec.px, spec.px), Image.Resampling.BICUBIC, box=box)))
    return np.stack(out)


def test_patches_of_the_images_scale_are_cut_as_they_are():
    spec = PatchSpec(size_um=32.0, px=64)
    patches = Patches(image(0.5), CENTRES, spec)
    assert not patches.is_resampled
    white = np.pad(PICTURE, ((64, 64), (64, 64), (0, 0)), constant_values=255)
    for (x, y), patch in zip(CENTRES, cut_all(patches)):
        left, top = round(x - 32) + 64, round(y - 32) + 64
        np.testing.assert_array_equal(patch, white[top : top + 64, left : left + 64])


@pytest.mark.parametrize("size_um", [20.0, 50.0, 170.0])
def test_resampled_patches_are_those_of_a_plain_loop(size_um):
    spec = PatchSpec(size_um=size_um, px=48)
    patches = Patches(image(0.5), CENTRES, spec)
    assert patches.is_resampled
    found = cut_all(patches)
    assert np.abs(found.astype(int) - loop(PICTURE, 0.5, CENTRES, spec)).max() <= 1


@pytest.mark.parametrize("um_per_px", [0.4, 0.69, 1.0, 2.3, 3.2])
def test_size_in_micrometres_does_not_depend_on_the_scale_of_the_image(um_per_px):
    """A disc of 60 um has the same area in every patch, however coarse the image is."""
    side = round(400 / um_per_px)
    y, x = (np.indices((side, side)) + 0.5) * um_per_px
    disc = (x - 200) ** 2 + (y - 190) ** 2 <= 30**2
    picture = np.where(disc[..., None], [120, 60, 140], [240, 240, 240]).astype(np.uint8)
    spec = PatchSpec(size_um=154.0, px=224)
    patch = cut_all(Patches(open_image(picture, um_per_px=um_per_px), np.array([[200.0, 190.0]]) / um_per_px, spec))[0]
    inside = patch[..., 1] < 150
    assert inside.sum() * spec.um_per_px**2 == pytest.approx(np.pi * 30**2, rel=0.06)
    rows, columns = np.nonzero(inside)
    assert rows.mean() == pytest.approx(111.5, abs=2.5)
    assert columns.mean() == pytest.approx(111.5, abs=2.5)


@given(size=st.integers(1, 9), rows=st.lists(st.integers(0, 4), max_size=8))
def test_batches_and_rows_do_not_change_a_patch(size, rows):
    patches = Patches(image(), CENTRES, PatchSpec(size_um=20.0, px=16))
    whole = cut_all(patches, 5)
    batches = list(patches.batches(size))
    assert all(len(batch) == size for batch in batches[:-1])
    np.testing.assert_array_equal(np.concatenate(batches), whole)
    chosen = patches.take(np.array(rows, dtype=int))
    assert len(chosen) == len(rows)
    if rows:
        np.testing.assert_array_equal(cut_all(chosen, size), whole[rows])


def test_a_mask_chooses_rows():
    patches = Patches(image(), CENTRES, PatchSpec(size_um=20.0, px=16))
    np.testing.assert_array_equal(patches.take(np.array([0, 1, 0, 1, 0], bool)).centres_px, CENTRES[[1, 3]])


def test_the_users_centres_are_copied():
    mine = CENTRES.copy()
    patches = Patches(image(), mine)
    before = patches.fingerprint
    mine += 5
    assert patches.fingerprint == before


@pytest.fixture
def opened():
    """Open images that are closed after the test."""
    with contextlib.ExitStack() as stack:
        yield lambda *given, **named: stack.enter_context(open_image(*given, **named))


def test_what_tells_patches_apart(tmp_path, opened):
    Image.fromarray(PICTURE).save(tmp_path / "a.png")
    Image.fromarray(PICTURE).save(tmp_path / "b.png")
    changed = PICTURE.copy()
    changed[0, 0] ^= 1
    Image.fromarray(changed).save(tmp_path / "c.png")

    def made(name="a.png", um_per_px=0.5, centres=CENTRES, **spec):
        return Patches(opened(tmp_path / name, um_per_px=um_per_px), centres, PatchSpec(**spec))

    same = made()
    assert made("b.png").fingerprint == same.fingerprint  # the name of the file is not its content
    others = [made("c.png"), made(um_per_px=0.51), made(size_um=155.0), made(px=225)]
    assert len({one.origin for one in [same, *others]}) == 5
    moved = CENTRES.copy()
    moved[1, 0] += 1e-9
    assert made(centres=moved).origin == same.origin
    assert made(centres=moved).fingerprint != same.fingerprint
    assert made(centres=CENTRES[::-1]).fingerprint != same.fingerprint
    assert same.keys.shape == (5, 16)
    assert same.keys.dtype == np.uint8
    np.testing.assert_array_equal(same.keys[0], same.keys[4])  # the same centre twice
    assert len({key.tobytes() for key in same.keys}) == 4


def test_centres_are_checked():
    with pytest.raises(DataError, match=r"not points; expected shape \(patch, 2\), got shape \(2, 3\)"):
        Patches(image(), np.zeros((2, 3)))
    with pytest.raises(DataError, match=r"centre of patch 1 is not finite; got \[nan, 2.0\]"):
        Patches(image(), np.array([[1.0, 2.0], [np.nan, 2.0]]))
    with pytest.raises(
        DataError, match=r"1 of 2 patch centres lie outside .*row 1; .*got \(50.0, 450.0\).*not swapped"
    ):
        Patches(image(), np.array([[450.0, 50.0], [50.0, 450.0]]))
    for spec in [{"size_um": 0}, {"size_um": np.inf}, {"px": 7}, {"px": 10.5}]:
        with pytest.raises(DataError, match=next(iter(spec))):
            PatchSpec(**spec)
    with pytest.raises(DataError, match="size is out of range"):
        next(Patches(image(), CENTRES).batches(0))


def test_enlarging_more_than_twice_is_said(caplog):
    with caplog.at_level(logging.INFO, logger="expressor"):
        Patches(image(1.0), CENTRES, PatchSpec(size_um=154.0, px=224))
        assert not caplog.records
        Patches(image(3.2), CENTRES, PatchSpec(size_um=154.0, px=224))
    assert "48 px of the image, enlarged 4.7-fold to 224 px" in caplog.text


def write_hest(path, n=7, px=32, **replaced):
    rng = np.random.default_rng(n)
    content = {
        "img": rng.integers(0, 256, (n, px, px, 3), dtype=np.uint8),
        "coords": rng.integers(0, 9000, (n, 2)),
        "barcode": np.array([[f"{i:03d}x{i}".encode()] for i in range(n)]),
    } | replaced
    with h5py.File(path, "w") as file:
        for key, value in content.items():
            if value is not None:
                file[key] = value
    return content


def test_hest_patches_are_read_by_row_and_by_name(tmp_path):
    content = write_hest(tmp_path / "x.h5")
    patches = HestPatches(tmp_path / "x.h5", size_um=16.0)
    assert (len(patches), patches.px, patches.um_per_px) == (7, 32, 0.5)
    np.testing.assert_array_equal(cut_all(patches, 3), content["img"])
    np.testing.assert_array_equal(patches.coords, content["coords"])
    chosen = patches.named(["005x5", "000x0", "005x5"])
    np.testing.assert_array_equal(cut_all(chosen, 2), content["img"][[5, 0, 5]])
    np.testing.assert_array_equal(cut_all(chosen.take(np.array([1]))), content["img"][[0]])
    assert patches.fingerprint != chosen.fingerprint
    assert patches.origin == chosen.origin
    with pytest.raises(DataError, match="no patch for 1 of 2 spots, for example '003x4'; nearest: .*'003x3'"):
        patches.named(["001x1", "003x4"])


def test_a_changed_patch_file_is_another_origin(tmp_path):
    write_hest(tmp_path / "x.h5")
    before = HestPatches(tmp_path / "x.h5").origin
    write_hest(tmp_path / "x.h5", coords=np.zeros((7, 2)))
    assert HestPatches(tmp_path / "x.h5").origin != before


@pytest.mark.parametrize(
    ("replaced", "message"),
    [
        ({"img": None}, "holds no patches; expected datasets 'img'"),
        ({"img": np.zeros((7, 32, 32, 3), np.float32)}, r"expected uint8 \(patch, px, px, 3\), got float32"),
        ({"img": np.zeros((7, 32, 30, 3), np.uint8)}, r"got uint8 \(7, 32, 30, 3\)"),
        ({"barcode": np.array([b"one"])}, "differ in length; expected 7 barcodes and coordinates, got 1"),
    ],
)
def test_other_layouts_are_refused(tmp_path, replaced, message):
    write_hest(tmp_path / "x.h5", **replaced)
    with pytest.raises(FormatError, match=message):
        HestPatches(tmp_path / "x.h5")


def test_repeated_names_and_absent_files_are_refused(tmp_path):
    write_hest(tmp_path / "x.h5", barcode=np.array([b"same"] * 7))
    with pytest.raises(DataError, match="spot names occur twice.*6 repeated names"):
        HestPatches(tmp_path / "x.h5").named(["same"])
    with pytest.raises(DataError, match="there is no patch file"):
        HestPatches(tmp_path / "y.h5")


def survive(path, content):
    path.write_bytes(content)
    try:
        patches = HestPatches(path)
        cut_all(patches.take(np.arange(min(3, len(patches)))))
    except ExpressorError:
        return False
    return True


@pytest.mark.parametrize("times", [60, pytest.param(2000, marks=pytest.mark.slow)])
def test_damaged_patch_files_raise_our_errors_only(tmp_path, times):
    write_hest(tmp_path / "x.h5")
    whole, rng = (tmp_path / "x.h5").read_bytes(), np.random.default_rng(times)
    survived = 0
    for _ in range(times):
        data = bytearray(whole)
        if rng.random() < 0.2:
            data = data[: rng.integers(len(data))]
        else:  # where the structure stands, not in the pixels
            for place in rng.integers(0, 4000, rng.integers(1, 8)):
                data[place % len(data)] = rng.integers(256)
        survived += survive(tmp_path / "y.h5", bytes(data))
    assert survived < times


def test_real_tissue():
    """Spots of a real section lie on tissue: their patches are darker and more coloured than the glass in the corner."""
    root = os.environ.get("EXPRESSOR_DATA")
    if root is None:
        pytest.skip("EXPRESSOR_DATA is not set")
    with h5py.File(Path(root) / "her2st" / "C2.h5ad") as file:
        centres, um_per_px = file["obsm/spatial"][:40], float(file["uns/um_per_px"][()])
    with open_image(Path(root) / "her2st" / "C2.jpg", um_per_px=um_per_px) as slide:
        patches = Patches(slide, centres)
        found = cut_all(patches, 16)
        corner = slide.region(0, 0, 224, 224)
        assert slide.tissue_mask(512).mean() == pytest.approx(0.17, abs=0.03)
    assert found.shape == (40, 224, 224, 3)
    assert not patches.is_resampled
    assert found.mean() < 190 < corner.mean()
