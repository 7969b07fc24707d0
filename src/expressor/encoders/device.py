"""Where a network computes: on a GPU, or on all processor threads with one micro-batch each."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch

from expressor.core.errors import DataError, check_choice


def choose_device(device: str) -> torch.device:
    """Return the device called ``"cpu"``, ``"cuda"`` or ``"auto"`` (the GPU where there is one).

    Raises
    ------
    DataError
        ``"cuda"`` was asked for and there is none.
    """
    check_choice(device, ("auto", "cpu", "cuda"), name="device")
    if device == "cuda" and not torch.cuda.is_available():
        raise DataError(
            'device "cuda" was asked for, and this machine has no usable GPU', fix='Use device="auto" or "cpu".'
        )
    return torch.device("cuda" if device != "cpu" and torch.cuda.is_available() else "cpu")


def run_in_micro_batches(
    network: Callable[[torch.Tensor], torch.Tensor], pixels: np.ndarray, *, size: int, device: torch.device
) -> np.ndarray:
    """Run ``network`` without gradients on micro-batches of exactly ``size`` patches.

    Parameters
    ----------
    network
        Maps uint8 (patch, 3, row, column) on ``device`` to (patch, ...).
    pixels
        uint8 (patch, row, column, 3).
    size
        Patches a call. The last call is filled up with blank patches, so that what is computed for a patch depends neither on
        its neighbours nor on its place.
    device
        Where ``network`` lives.

    Returns
    -------
    float32 (patch, ...).

    Notes
    -----
    On a processor each thread computes whole micro-batches, instead of all threads sharing every operation. The bits then do not
    depend on the number of threads, and nothing waits at the end of each operation: on two busy cores this was 6 times faster.
    """

    def compute(start: int) -> np.ndarray:
        some = pixels[start : start + size]
        full = np.zeros((size, *some.shape[1:]), dtype=np.uint8)
        full[: len(some)] = some
        with torch.inference_mode():
            # Channels last is how the pixels lie in memory already: the permutation copies nothing.
            values = network(torch.from_numpy(full).to(device).permute(0, 3, 1, 2))
            return values[: len(some)].float().cpu().numpy()

    starts = range(0, len(pixels), size)
    threads = torch.get_num_threads()
    if device.type != "cpu":
        return np.concatenate([compute(start) for start in starts])
    try:
        # Inside a worker every operation runs on that one thread; the caller's setting is put back afterwards.
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return np.concatenate(list(pool.map(compute, starts)))
    finally:
        torch.set_num_threads(threads)
