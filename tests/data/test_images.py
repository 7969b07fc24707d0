"""Images read by region: against NumPy slices and Pillow, in every format; damaged, hostile and mislabelled files."""

import io
import resource
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from expressor.core.errors import DataError, ExpressorError, FormatError, MissingExtra
from expressor.data import images, pixels, slides
from expressor.data.images import file_digest, measure_image, open_image

tifffile = pytest.importorskip("tifffile")


def make_picture(width=310, height=270, seed=0):
    """Smooth colours with fine texture: nothing repeats, so a shifted read is a wrong read."""
    rng = np.random.default_rng(seed)
    coarse = Image.fromarray(rng.integers(30, 250, (9, 11, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.BICUBIC
    )
    return np.clip(np.asarray(coarse).astype(int) + rng.integers(-12, 13, (height, width, 3)), 0, 255).astype(np.uint8)


PICTURE = make_picture()
WRITERS = {
    "png": lambda path, x: Image.fromarray(x).save(path, format="PNG"),
    "tiled.tif": lambda path, x: tifffile.imwrite(path, x, photometric="rgb", tile=(64, 80)),
    "strips.tif": lambda path, x: tifffile.imwrite(path, x, photometric="rgb", rowsperstrip=32, compression="zlib"),
    "plain.tif": lambda path, x: tifffile.imwrite(path, x, photometric="rgb"),
    "bigendian.tif": lambda path, x: tifffile.imwrite(path, x, photometric="rgb", byteorder=">", bigtiff=True),
    "predictor.tif": lambda path, x: tifffile.imwrite(
        path, x, photometric="rgb", tile=(64, 64), compression="zlib", predictor=True
    ),
    "planar.tif": lambda path, x: tifffile.imwrite(
        path, np.moveaxis(x, 2, 0), photometric="rgb", planarconfig="separate", tile=(64, 64)
    ),
    "deep.tif": lambda path, x: tifffile.imwrite(path, x.astype(np.uint16) * 257, photometric="rgb", tile=(64, 64)),
    "lzw.tif": lambda path, x: Image.fromarray(x).save(path, format="TIFF", compression="tiff_lzw"),
    "ome.tif": lambda path, x: tifffile.imwrite(
        path,
        x,
        photometric="rgb",
        tile=(64, 64),
        ome=True,
        metadata={"axes": "YXS", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"},
    ),
}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    made = tmp_path_factory.mktemp("pictures")
    for name, write in WRITERS.items():
        write(made / name, PICTURE)
    Image.fromarray(PICTURE).save(made / "jpg", format="JPEG", quality=95)
    return made


def padded(picture, x0, y0, width, height):
    """The naive reading: one pixel after the other."""
    out = np.full((height, width, 3), 255, dtype=np.uint8)
    for row in range(height):
        for column in range(width):
            y, x = y0 + row, x0 + column
            if 0 <= y < picture.shape[0] and 0 <= x < picture.shape[1]:
                out[row, column] = picture[y, x]
    return out


@pytest.mark.parametrize("name", [*WRITERS])
def test_region_is_a_slice_in_every_format(folder, name):
    with open_image(folder / name, um_per_px=0.5) as image:
        assert (image.width, image.height) == (310, 270)
        for x0, y0, width, height in [
            (0, 0, 310, 270),
            (61, 62, 70, 70),
            (-20, -10, 60, 40),
            (290, 240, 50, 60),
            (400, 0, 5, 5),
        ]:
            np.testing.assert_array_equal(image.region(x0, y0, width, height), padded(PICTURE, x0, y0, width, height))


@pytest.mark.parametrize("name", ["jpg", *WRITERS])
def test_an_image_is_measured_whatever_its_scale(folder, name):
    assert measure_image(folder / name) == (310, 270)


def test_jpeg_is_read_as_pillow_decodes_it(folder):
    decoded = np.asarray(Image.open(folder / "jpg"))
    with open_image(folder / "jpg", um_per_px=0.5) as image:
        np.testing.assert_array_equal(image.region(13, 7, 100, 90), decoded[7:97, 13:113])


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "LA", "CMYK", "1", "I;16"])
def test_other_modes_become_rgb(tmp_path, mode):
    path = tmp_path / ("x.jpg" if mode == "CMYK" else "x.png")
    source = (
        Image.fromarray(PICTURE[..., 0].astype(np.uint16) * 257)
        if mode == "I;16"
        else Image.fromarray(PICTURE).convert(mode)
    )
    source.save(path)
    with open_image(path, um_per_px=1.0) as image:
        found = image.region(10, 20, 40, 30)
    expected = (
        PICTURE[20:50, 10:50, :1].repeat(3, axis=2)
        if mode == "I;16"
        else np.asarray(source.convert("RGB"))[20:50, 10:50]
    )
    assert found.shape == (30, 40, 3)
    assert np.abs(found.astype(int) - expected).mean() < (6 if mode == "CMYK" else 0.01)


def test_transparent_pixels_are_white(tmp_path):
    alpha = np.dstack([PICTURE, np.zeros(PICTURE.shape[:2], np.uint8)])
    alpha[:, :50, 3] = 255
    Image.fromarray(alpha).save(tmp_path / "x.png")
    with open_image(tmp_path / "x.png", um_per_px=1.0) as image:
        found = image.region(40, 0, 20, 20)
    np.testing.assert_array_equal(found[:, :10], PICTURE[:20, 40:50])
    assert (found[:, 10:] == 255).all()


@given(x0=st.integers(-40, 60), y0=st.integers(-40, 60), width=st.integers(1, 70), height=st.integers(1, 70))
def test_region_of_an_array_is_a_padded_slice(x0, y0, width, height):
    picture = PICTURE[:50, :45]
    found = open_image(picture, um_per_px=1.0).region(x0, y0, width, height)
    np.testing.assert_array_equal(found, padded(picture, x0, y0, width, height))


@pytest.mark.parametrize("name", ["jpg", "tiled.tif"])
@pytest.mark.parametrize(("side", "out"), [(60.0, 128), (150.5, 64), (97.3, 96)])
def test_resampling_is_pillows(folder, name, side, out):
    with open_image(folder / name, um_per_px=1.0) as image:
        whole = Image.fromarray(image.region(0, 0, image.width, image.height))
        box = (70.25, 60.5, 70.25 + side, 60.5 + side)
        expected = np.asarray(whole.resize((out, out), Image.Resampling.BICUBIC, box=box))
        found = image.region(*box[:2], side, side, out=(out, out))
    assert np.abs(found.astype(int) - expected).max() <= 1


def test_shrinking_is_antialiased():
    board = np.indices((256, 256)).sum(axis=0) % 2 * 255
    image = open_image(np.repeat(board[..., None], 3, axis=2).astype(np.uint8), um_per_px=1.0)
    inner = image.region(40, 40, 160, 160, out=(32, 32))
    assert np.abs(inner.astype(int) - 127.5).max() <= 3  # picking single pixels would give 0 and 255


def test_large_regions_are_resampled_in_seamless_strips(monkeypatch):
    image = open_image(PICTURE, um_per_px=1.0)
    whole = image.region(5.5, 3.25, 290.0, 260.0, out=(101, 87))
    monkeypatch.setattr(images, "_STRIP_PIXELS", 2000)
    strips = image.region(5.5, 3.25, 290.0, 260.0, out=(101, 87))
    assert np.abs(whole.astype(int) - strips).max() <= 1


def write_pyramid(path, picture, levels=3):
    with tifffile.TiffWriter(path) as writer:
        options = {"photometric": "rgb", "tile": (64, 64)}
        writer.write(picture, subifds=levels - 1, **options)
        for level in range(1, levels):
            small = Image.fromarray(picture).resize(
                (picture.shape[1] >> level, picture.shape[0] >> level), Image.Resampling.BOX
            )
            writer.write(np.asarray(small), subfiletype=1, **options)


def test_pyramids_are_read_at_the_coarsest_level_that_is_fine_enough(tmp_path):
    picture = make_picture(512, 384)
    write_pyramid(tmp_path / "x.tif", picture)
    with open_image(tmp_path / "x.tif", um_per_px=1.0) as image:
        assert image._source.sizes == ((512, 384), (256, 192), (128, 96))
        assert [image._level_for(shrink) for shrink in (0.5, 1.0, 1.9, 2.0, 3.9, 4.0, 50.0)] == [0, 0, 0, 1, 1, 2, 2]
        small = image.region(100, 60, 200, 200, out=(50, 50))
        expected = Image.fromarray(picture).resize((50, 50), Image.Resampling.BOX, box=(100, 60, 300, 260))
        assert np.abs(small.astype(int) - np.asarray(expected)).mean() < 4


def test_kept_tiles_are_bounded(folder, monkeypatch):
    tile = 64 * 80 * 3
    monkeypatch.setattr(slides, "_KEPT_BYTES", 3 * tile)
    with open_image(folder / "tiled.tif", um_per_px=1.0) as image:
        for _ in range(2):
            np.testing.assert_array_equal(image.region(0, 0, 310, 270), PICTURE)
        kept = image._source._kept
        assert sum(one.nbytes for one in kept.values()) == image._source._kept_bytes <= 3 * tile
        assert len(kept) >= 3


def test_slides_are_read_through_openslide(tmp_path):
    pytest.importorskip("openslide")
    picture = make_picture(512, 384)
    write_pyramid(tmp_path / "x.svs", picture)
    with open_image(tmp_path / "x.svs", um_per_px=0.5) as image:
        assert isinstance(image._source, slides.SlideSource)
        np.testing.assert_array_equal(image.region(70, 60, 50, 40), picture[60:100, 70:120])
        np.testing.assert_array_equal(image.region(-10, 0, 30, 40)[:, :10], 255)


def test_thumbnail_shrinks_and_never_enlarges(folder):
    with open_image(folder / "jpg", um_per_px=1.0) as image:
        small = image.thumbnail(100)
        assert small.shape == (87, 100, 3)
        assert image._source._decoded is False  # a preview of a JPEG is decoded at a fraction
        assert np.abs(small.astype(int) - image.region(0, 0, 310, 270, out=(100, 87))).mean() < 4
        assert image.thumbnail(5000).shape == (270, 310, 3)


def draw_tissue(side=600):
    y, x = np.indices((side, side))
    inside = (x - 280) ** 2 + (y - 320) ** 2 < 180**2
    rng = np.random.default_rng(1)
    glass = 240 + rng.integers(-4, 5, (side, side, 1)).repeat(3, axis=2)
    stained = np.array([150, 90, 160]) + rng.integers(-30, 31, (side, side, 3))
    return np.where(inside[..., None], stained, glass).clip(0, 255).astype(np.uint8), inside


@pytest.mark.parametrize("surroundings", ["glass", "black"])
def test_tissue_mask_finds_the_stained_disc(surroundings):
    picture, inside = draw_tissue()
    if surroundings == "black":
        picture[:, 500:] = 0
    mask = open_image(picture, um_per_px=1.0).tissue_mask(300)
    truth = inside[1::2, 1::2]
    assert mask.shape == (300, 300)
    assert (mask & truth).sum() / (mask | truth).sum() > 0.95


def test_blank_glass_holds_no_tissue():
    glass = 240 + np.random.default_rng(0).integers(-3, 4, (200, 200, 3))
    assert not open_image(glass.astype(np.uint8), um_per_px=1.0).tissue_mask().any()


def test_the_scale_is_known_or_the_image_is_refused(folder):
    with pytest.raises(DataError, match=r"scale of .*png is unknown.*Give um_per_px"):
        open_image(folder / "png")
    with pytest.raises(DataError, match=r"um_per_px is out of range; expected a number in \[0.01, 1000.0\], got 0"):
        open_image(folder / "png", um_per_px=0)
    with open_image(folder / "ome.tif") as image:
        assert image.um_per_px == 0.5
    with pytest.raises(
        DataError, match=r"contradicts the file; expected 0.5 um/px, as the file says, got um_per_px=0.25"
    ):
        open_image(folder / "ome.tif", um_per_px=0.25)
    with open_image(folder / "ome.tif", um_per_px=0.51) as image:
        assert image.um_per_px == 0.51


def test_slide_scale_is_read_and_checked():
    assert slides._slide_scale({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.2502"}) == pytest.approx(0.2501)
    assert slides._slide_scale({"openslide.mpp-x": "0.25", "openslide.mpp-y": "0.5"}) is None
    assert slides._slide_scale({}) is None


def test_fingerprint_is_the_content(folder, tmp_path):
    copy = tmp_path / "other-name"
    copy.write_bytes((folder / "png").read_bytes())
    with open_image(folder / "png", um_per_px=1.0) as one, open_image(copy, um_per_px=2.0) as two:
        assert one.fingerprint == two.fingerprint
        changed = bytearray(copy.read_bytes())
        changed[-20] ^= 1
        copy.write_bytes(bytes(changed))
        with pytest.raises(DataError, match="was changed while it was open"):
            two.fingerprint  # noqa: B018
    with open_image(copy, um_per_px=1.0) as three:
        assert three.fingerprint != one.fingerprint
    flipped = PICTURE.copy()
    flipped[0, 0, 0] ^= 1
    assert open_image(PICTURE, um_per_px=1.0).fingerprint != open_image(flipped, um_per_px=1.0).fingerprint


def test_digest_of_a_format_with_a_folder_covers_the_folder(tmp_path):
    (tmp_path / "slide.mrxs").write_bytes(b"index")
    (tmp_path / "slide").mkdir()
    (tmp_path / "slide" / "Data0000.dat").write_bytes(b"pixels")
    before = file_digest(tmp_path / "slide.mrxs")
    (tmp_path / "slide" / "Data0000.dat").write_bytes(b"other pixels")
    assert file_digest(tmp_path / "slide.mrxs") != before


def test_what_is_no_image_is_refused(tmp_path):
    for name, content, message in [
        ("a.jpg", b"", "not an image of a kind that is read.*got an empty file"),
        ("b.jpg", b"GIF89a" + bytes(50), "got a file that begins with b'GIF89a"),
        ("c.svs", b"nonsense" * 20, "cannot be read as an image.*OpenSlideUnsupportedFormatError"),
    ]:
        (tmp_path / name).write_bytes(content)
        with pytest.raises(FormatError, match=message):
            open_image(tmp_path / name, um_per_px=1.0)
    with pytest.raises(DataError, match="absent.png cannot be read.*No such file"):
        open_image(tmp_path / "absent.png", um_per_px=1.0)
    with pytest.raises(DataError, match=r"not an image; expected uint8 of shape .*got float64 of shape \(3, 3\)"):
        open_image(np.zeros((3, 3)), um_per_px=1.0)


def test_fluorescence_and_palettes(tmp_path):
    tifffile.imwrite(tmp_path / "many.tif", np.zeros((5, 64, 64), np.uint8), photometric="minisblack")
    with pytest.raises(FormatError, match="not a colour or grey picture"):
        open_image(tmp_path / "many.tif", um_per_px=1.0)
    tifffile.imwrite(tmp_path / "float.tif", np.zeros((64, 64), np.float32))
    with pytest.raises(FormatError, match="expected 1, 3 or 4 channels of 8 or 16 bits, got 1 of float32"):
        open_image(tmp_path / "float.tif", um_per_px=1.0)
    Image.fromarray(PICTURE).convert("P").save(tmp_path / "palette.tif")
    with open_image(tmp_path / "palette.tif", um_per_px=1.0) as image:
        assert isinstance(image._source, pixels.WholeSource)
        assert image.region(0, 0, 20, 20).shape == (20, 20, 3)


def test_missing_readers_name_their_extra(folder, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "tifffile", None)
    with pytest.raises(MissingExtra, match=r"'tifffile' is needed to read TIFF images.*expressor\[histology\]"):
        open_image(folder / "tiled.tif", um_per_px=1.0)
    monkeypatch.setitem(sys.modules, "openslide", None)
    (tmp_path / "x.ndpi").write_bytes(b"II*\x00" + bytes(20))
    with pytest.raises(MissingExtra, match=r"'openslide' is needed to read whole-slide images.*expressor\[slides\]"):
        open_image(tmp_path / "x.ndpi", um_per_px=1.0)


def test_a_large_tiff_without_codec_is_refused_before_it_is_decoded(folder, tmp_path, monkeypatch):
    with pytest.raises(
        FormatError, match=r"declares an image of 310 x 270 pixels; expected at most 1000 pixels.*tiled TIFF"
    ):
        open_image(folder / "lzw.tif", um_per_px=1.0, max_pixels=1000)
    Image.fromarray(PICTURE).save(tmp_path / "x.tif", compression="jpeg")

    def lacking(self, key):
        raise KeyError(key)

    monkeypatch.setattr(type(tifffile.TIFF.DECOMPRESSORS), "__getitem__", lacking)
    with pytest.raises(MissingExtra, match="83700 pixels in JPEG compression, which needs 'imagecodecs'"):
        open_image(tmp_path / "x.tif", um_per_px=1.0, max_pixels=1000)


def declare_png(width, height):
    body = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    head = struct.pack(">I", 13) + b"IHDR" + body + struct.pack(">I", zlib.crc32(b"IHDR" + body))
    data = zlib.compress(bytes(1000))
    return (
        b"\x89PNG\r\n\x1a\n"
        + head
        + struct.pack(">I", len(data))
        + b"IDAT"
        + data
        + struct.pack(">I", zlib.crc32(b"IDAT" + data))
    )


def declare_jpeg(width, height):
    stream = io.BytesIO()
    Image.fromarray(PICTURE[:64, :64]).save(stream, format="JPEG")
    data = bytearray(stream.getvalue())
    at = data.index(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", height, width)
    return bytes(data)


@pytest.mark.parametrize(
    ("name", "content"), [("x.png", declare_png(2**31 - 1, 2**31 - 1)), ("x.jpg", declare_jpeg(65000, 65000))]
)
def test_a_bomb_is_refused_by_its_header(tmp_path, name, content):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(FormatError, match=r"declares an image of \d+ x \d+ pixels; expected at most 500000000 pixels"):
        open_image(tmp_path / name, um_per_px=1.0)


def test_a_tiff_bomb_is_refused(tmp_path):
    tifffile.imwrite(tmp_path / "x.tif", PICTURE, photometric="rgb", rowsperstrip=270, compression="zlib")
    data = bytearray((tmp_path / "x.tif").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.tif") as file:
        tags = file.pages[0].tags
        places = [tags[name].valueoffset for name in ("ImageWidth", "ImageLength", "RowsPerStrip")]
    for place in places:
        data[place : place + 4] = struct.pack("<I", 2**20)[:4]
    (tmp_path / "x.tif").write_bytes(bytes(data))
    with pytest.raises(ExpressorError), open_image(tmp_path / "x.tif", um_per_px=1.0) as image:
        image.region(0, 0, 50, 50)


def test_a_slide_with_gigantic_tiles_is_refused(tmp_path):
    """openslide would end the whole process."""
    pytest.importorskip("openslide")
    write_pyramid(tmp_path / "x.svs", make_picture(256, 192), levels=2)
    data = bytearray((tmp_path / "x.svs").read_bytes())
    with tifffile.TiffFile(tmp_path / "x.svs") as file:
        place = file.pages[0].tags["TileWidth"].valueoffset
    data[place : place + 2] = b"\xff\xff"
    (tmp_path / "x.svs").write_bytes(bytes(data))
    with pytest.raises(FormatError, match=r"declares 256 x 192 pixels in tiles of 4194240 pixels"):
        open_image(tmp_path / "x.svs", um_per_px=1.0)


def test_the_users_own_limit_of_pillow_is_left_alone(folder, monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20_000)
    with open_image(folder / "jpg", um_per_px=1.0) as image:
        assert image.region(0, 0, 100, 100).shape == (100, 100, 3)
    assert Image.MAX_IMAGE_PIXELS == 20_000


def damage(data, rng):
    """One of the ways in which files go wrong."""
    data = bytearray(data)
    way = rng.integers(5)
    if way == 0:
        return bytes(data[: rng.integers(0, len(data))])
    if way == 1:
        for place in rng.integers(0, len(data), rng.integers(1, 20)):
            data[place] ^= 1 << rng.integers(8)
    elif way == 2:  # the header, where sizes and offsets stand
        for place in rng.integers(0, min(400, len(data)), rng.integers(1, 6)):
            data[place] = rng.integers(256)
    elif way == 3:
        place = rng.integers(0, max(1, len(data) - 64))
        data[place : place + 64] = rng.bytes(64)
    else:  # the end, where TIFF keeps its directory
        for place in rng.integers(max(0, len(data) - 600), len(data), rng.integers(1, 6)):
            data[place] = rng.integers(256)
    return bytes(data)


def survive(path, content):
    path.write_bytes(content)
    try:
        with open_image(path, um_per_px=0.5, max_pixels=4_000_000) as image:
            image.region(10, 10, 64, 64)
            size = image.width * image.height
            if size < 10**8:  # a slide may declare more, and reading all of it takes its time
                image.region(0, 0, image.width, image.height, out=(50, 50))
                image.thumbnail(40)
            return size
    except ExpressorError:
        return 0


FUZZED = ["jpg", "png", "tiled.tif", "predictor.tif", "plain.tif", "lzw.tif", "ome.tif", "slide.svs"]


def fuzz(folder, tmp_path, name, times, seed):
    if name == "slide.svs":
        pytest.importorskip("openslide")
        write_pyramid(tmp_path / "whole.svs", make_picture(256, 192), levels=2)
        content = (tmp_path / "whole.svs").read_bytes()
    else:
        content = (folder / name).read_bytes()
    rng = np.random.default_rng(seed)
    path = tmp_path / f"damaged-{name}"
    return [survive(path, damage(content, rng)) for _ in range(times)]


@pytest.mark.parametrize("name", FUZZED)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_damaged_files_raise_our_errors_only(folder, tmp_path, name):
    sizes = fuzz(folder, tmp_path, name, 40, seed=1)
    assert 0 in sizes  # some are refused


@pytest.mark.slow
@pytest.mark.parametrize("name", FUZZED)
@pytest.mark.filterwarnings("ignore::UserWarning", "ignore::RuntimeWarning", "ignore::DeprecationWarning")
def test_damaged_files_by_the_thousand(folder, tmp_path, name):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    sizes = fuzz(folder, tmp_path, name, 1500, seed=2)
    assert 0 in sizes
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 500_000  # kB


@pytest.mark.slow
def test_a_large_image_is_in_memory_once(tmp_path):
    """Decoding 80 million pixels, cutting from them and shrinking them stays below one and a half copies."""
    if not sys.platform.startswith("linux"):
        pytest.skip("the peak of one process alone is read from /proc")
    code = f"""
import re
from expressor.data.images import open_image

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024

base = peak()
with open_image({str(tmp_path / "x.jpg")!r}, um_per_px=1.0) as image:
    image.region(100, 100, 500, 500)
    image.region(0, 0, image.width, image.height, out=(900, 900))
    image.thumbnail(1024)
    print((peak() - base) / (image.width * image.height))
"""
    Image.new("RGB", (9000, 9000), (200, 120, 180)).save(tmp_path / "x.jpg")
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert 3.9 < float(done.stdout) < 6.0  # bytes a pixel; the decoder holds 4
