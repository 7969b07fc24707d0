"""scvi-tools, where it is installed: started with a seed, kept quiet, and left without traces in the process."""

import contextlib
import importlib
import importlib.util
import logging
import warnings
from collections.abc import Iterator
from typing import Any

import numpy as np

from expressor.core.errors import MissingExtra
from expressor.core.rng import child_seed

TRAINING = {"accelerator": "cpu", "enable_progress_bar": False, "logger": False, "enable_checkpointing": False}
"""How its models are trained here, where nobody looks."""


@contextlib.contextmanager
def scvi_tools(seed: int, *, purpose: str) -> Iterator[Any]:
    """Give the package ``scvi`` for a while; its global seeds and log levels are put back.

    Parameters
    ----------
    seed
        Of its networks and batches.
    purpose
        What it is needed for, for the message.

    Raises
    ------
    MissingExtra
        It is not installed.
    """
    if importlib.util.find_spec("scvi") is None:
        raise MissingExtra(
            f"scvi-tools is needed to {purpose} and is not installed", fix="Install it with: pip install scvi-tools"
        )
    import torch

    quiet = [logging.getLogger(name) for name in ("lightning.pytorch", "lightning.fabric", "scvi")]
    levels, before = [one.level for one in quiet], np.random.get_state()  # noqa: NPY002
    with warnings.catch_warnings(), torch.random.fork_rng(), contextlib.ExitStack() as undo:
        warnings.simplefilter("ignore")
        undo.callback(np.random.set_state, before)
        for one, level in zip(quiet, levels):
            undo.callback(one.setLevel, level)
        scvi = importlib.import_module("scvi")
        for one in quiet:
            one.setLevel(logging.ERROR)
        scvi.settings.seed = child_seed(seed, "scvi") % 2**31
        yield scvi
