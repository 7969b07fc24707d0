"""Networks as encoders: normalisation, micro-batches, and where they compute."""

import hashlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import torch
from torch import nn

from expressor.core.errors import DataError, check_choice
from expressor.encoders.registry import EncoderCard

Read = Callable[[torch.Tensor], torch.Tensor]


class NetworkEncoder:
    """A torch network as an :class:`~expressor.encoders.Encoder`.

    Parameters
    ----------
    card
        Its record; mean and std are applied here.
    network
        The module that ``pooled`` and ``tokens`` call; put in evaluation mode and moved to the device.
    pooled
        From normalised pixels (patch, 3, row, column) to (patch, dim).
    tokens
        The same to (patch, token, dim), or None where there are no spatial tokens.
    device
        Where it computes.
    micro_batch
        Patches a call.
    weights
        What tells these weights from any others; by default the SHA-256 of all parameters and buffers.
    """

    def __init__(
        self,
        card: EncoderCard,
        network: nn.Module,
        *,
        pooled: Read,
        tokens: Read | None,
        device: torch.device,
        micro_batch: int = 8,
        weights: str | None = None,
    ) -> None:
        self.card = card
        self.network = network.eval().to(device)
        self._pooled, self._tokens, self._device, self._size = pooled, tokens, device, micro_batch
        shown = digest_weights(network) if weights is None else weights
        self.identity = (card.name, card.revision, shown, f"{card.mean}{card.std}", "float32", device.type)
        mean = torch.tensor(card.mean, device=device).view(3, 1, 1)
        std = torch.tensor(card.std, device=device).view(3, 1, 1)
        self._scale, self._shift = 1.0 / (255.0 * std), -mean / std

    def __call__(self, pixels: np.ndarray) -> np.ndarray:
        """See :class:`~expressor.encoders.Encoder`."""
        return self._run(self._pooled, pixels)

    def tokens(self, pixels: np.ndarray) -> np.ndarray:
        """See :class:`~expressor.encoders.Encoder`."""
        if self._tokens is None:
            raise DataError(
                f"the encoder {self.card.name!r} has no spatial tokens",
                fix='Use one that has, such as "efficientnet_lite0".',
            )
        return self._run(self._tokens, pixels)

    def _run(self, read: Read, pixels: np.ndarray) -> np.ndarray:
        return run_in_micro_batches(
            lambda x: read(x.float() * self._scale + self._shift), pixels, size=self._size, device=self._device
        )


def digest_weights(network: nn.Module) -> str:
    """Return the SHA-256 (hex) of the names and values of all parameters and buffers."""
    digest = hashlib.sha256()
    for name, value in network.state_dict().items():
        digest.update(f"{name}{value.dtype}{tuple(value.shape)}".encode())
        digest.update(value.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return digest.hexdigest()


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
