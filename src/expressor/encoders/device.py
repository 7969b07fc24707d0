"""Where an encoder computes."""

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
