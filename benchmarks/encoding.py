"""Cutting patches, encoding them, and reading features from the cache, each against the plain way of doing it.

    python benchmarks/encoding.py

All figures of a line come from the same run, on the shipped sections (four pictures, 732 patches of 154 um), so that the ratios
mean something on any machine. Times are the best of three.
"""

import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from expressor.data.images import open_image
from expressor.data.patches import Patches, PatchSpec
from expressor.encoders import FeatureCache, encode, encoder
from expressor.encoders.efficientnet import _read_weights

REPEATS = 3
SPEC = PatchSpec(size_um=154.0, px=224)


def load_sections():
    """Return (picture, um per px, centres) of each shipped section."""
    import expressor

    adata = expressor.datasets.her2st().adata
    found = []
    for section, entry in adata.uns["spatial"].items():
        rows = (adata.obs["section"] == section).to_numpy()
        found.append(
            (Path(entry["metadata"]["image"]), entry["scalefactors"]["microns_per_pixel"], adata.obsm["spatial"][rows])
        )
    return found


def cut(sections):
    """Ours: decoded once, boxes out of the decoder's memory."""
    total = 0
    for path, um_per_px, centres in sections:
        with open_image(path, um_per_px=um_per_px) as image:
            total += sum(len(batch) for batch in Patches(image, centres, SPEC).batches(32))
    return total


def cut_plainly(sections):
    """Plain: Pillow's crop and resize, one patch after the other."""
    total = 0
    for path, um_per_px, centres in sections:
        picture, half = Image.open(path), SPEC.size_um / um_per_px / 2
        for x, y in centres:
            box = [round(edge) for edge in (x - half, y - half, x + half, y + half)]
            patch = picture.crop(box).resize((SPEC.px, SPEC.px), Image.Resampling.BICUBIC)
            total += len(np.asarray(patch)[None])
    return total


def load_published():
    """Return the network as its authors' package builds it: batch normalisations and all."""
    from efficientnet_lite_pytorch import EfficientNet

    network = EfficientNet.from_name("efficientnet-lite0")
    network.load_state_dict(_read_weights())
    return network.eval()


def encode_plainly(network, pixels, size):
    """Plain: the published network on batches of ``size``."""
    out = []
    with torch.no_grad():
        for start in range(0, len(pixels), size):
            x = (torch.from_numpy(pixels[start : start + size]).permute(0, 3, 1, 2).float() - 127) / 128
            out.append(network.extract_features(x).mean(dim=(2, 3)).numpy())
    return np.concatenate(out)


def seconds(function, *given):
    """Best of a few runs."""
    best = np.inf
    for _ in range(REPEATS):
        start = time.perf_counter()
        function(*given)
        best = min(best, time.perf_counter() - start)
    return best


def peak_bytes_per_pixel(statement, path):
    """Memory that a fresh process (on Linux) takes to read a picture, above what its imports take."""
    code = f"""
import re
import numpy as np
from PIL import Image
from expressor.data.images import open_image
Image.MAX_IMAGE_PIXELS = None

def peak():  # of this process alone; getrusage would count the parent's
    return int(re.search(r"VmHWM:\\s+(\\d+)", open("/proc/self/status").read()).group(1)) * 1024

base = peak()
path = {str(path)!r}
{statement}
print(peak() - base)
"""
    with Image.open(path) as picture:
        size = picture.width * picture.height
    return int(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout) / size


def line(what, ours, plain, unit):
    """Print one row: better is above 1."""
    better = plain / ours if unit in ("s", "B/px") else ours / plain
    print(f"{what:<58} {ours:>10.4g} {plain:>10.4g}  {unit:<9} {better:>6.1f}x")


def main():
    sections = load_sections()
    n = sum(len(centres) for _, _, centres in sections)
    print(f"{n} patches of {SPEC.size_um:g} um = {SPEC.px} px, {torch.get_num_threads()} threads\n")
    print(f"{'':<58} {'ours':>10} {'plain':>10}  {'unit':<9} {'ratio':>7}")
    line(
        "cutting, against Pillow's crop and resize",
        n / seconds(cut, sections),
        n / seconds(cut_plainly, sections),
        "patches/s",
    )

    path, um_per_px, centres = sections[0]
    with open_image(path, um_per_px=um_per_px) as image:
        patches = Patches(image, centres, SPEC)
        some = patches.take(np.arange(96))
        pixels = np.concatenate(list(some.batches(32)))
        lite, published = encoder("efficientnet_lite0", device="cpu"), load_published()
        assert np.abs(lite(pixels[:8]) - encode_plainly(published, pixels[:8], 8)).max() < 1e-3
        ours = len(pixels) / seconds(lite, pixels)
        for size in (1, 32):
            plain = len(pixels) / seconds(encode_plainly, published, pixels, size)
            line(f"EfficientNet-Lite0, against the unfolded one by {size}", ours, plain, "patches/s")
        colour = encoder("colour")
        line("colour descriptor, against EfficientNet-Lite0", len(pixels) / seconds(colour, pixels), ours, "patches/s")
        with tempfile.TemporaryDirectory() as folder:
            store = FeatureCache(folder)
            computed = encode(patches, lite, cache=store)
            read = seconds(lambda: encode(patches, lite, cache=store))
            assert np.array_equal(encode(patches, lite, cache=store), computed)
        line("features of a section from the cache, against computing", read, seconds(encode, patches, lite), "s")

    mine = """
with open_image(path, um_per_px=1.0) as image:
    image.region(99, 99, 500, 500)
    image.thumbnail(1024)
"""
    plain = """
picture = np.asarray(Image.open(path))
picture[99:599, 99:599].copy()
Image.fromarray(picture).resize((1024, 1024))
"""
    measured = [peak_bytes_per_pixel(statement, path) for statement in (mine, plain)]
    line("peak memory of reading a picture, against an array of it", *measured, "B/px")
    print(f"\nwhole run: peak {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
