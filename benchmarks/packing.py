"""Blocks of an encoder over cells of different lengths: without padding, and padded under a mask.

    python benchmarks/packing.py

Processor seconds of a forward and backward pass over 8 cells, on one thread, best of three; and the largest difference between the
two outputs. Cells have 128 to 1,024 tokens, or nearly all 1,024.
"""

import time

import torch

from expressor.nn.attention import Attention
from expressor.nn.encoder import SetEncoder

CELLS, LONGEST = 8, 1024
SIZES = (
    ("default width", {"dim": 64, "heads": 4, "hidden": 128}),
    ("published width", {"dim": 512, "heads": 8, "hidden": 1024}),
)


def measure(encoder: SetEncoder, tokens: torch.Tensor, keep: torch.Tensor) -> tuple[float, torch.Tensor]:
    """Return processor seconds, and the output at the places that hold tokens."""
    best = float("inf")
    for _ in range(3):
        encoder.zero_grad()
        start = time.process_time()
        found = encoder(tokens, keep)[keep]
        found.square().mean().backward()
        best = min(best, time.process_time() - start)
    return best, found.detach()


def main() -> None:
    torch.set_num_threads(1)
    packs = Attention.takes_packed
    for title, sizes in SIZES:
        torch.manual_seed(0)
        encoder = SetEncoder(layers=2, **sizes)
        for shortest in (128, 1000):
            lengths = torch.randint(shortest, LONGEST + 1, (CELLS,))
            lengths[0] = LONGEST
            keep = torch.arange(LONGEST)[None] < lengths[:, None]
            tokens = torch.randn(CELLS, LONGEST, sizes["dim"])
            Attention.takes_packed = packs  # type: ignore[method-assign]
            without, mine = measure(encoder, tokens, keep)
            Attention.takes_packed = lambda self, tokens: False  # type: ignore[method-assign]
            padded, theirs = measure(encoder, tokens, keep)
            print(f"{title} ({sizes['dim']}), {shortest} to {LONGEST} tokens, {1 - keep.float().mean():.0%} padding: "
                  f"{without:.2f} s without, {padded:.2f} s padded, {padded / without:.2f}x; "
                  f"difference {(mine - theirs).abs().max():.0e}", flush=True)  # fmt: skip


if __name__ == "__main__":
    main()
