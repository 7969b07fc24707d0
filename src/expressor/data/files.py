"""Files that may be damaged: every failure of an outside library becomes a FormatError, and no file makes us allocate at will."""

from expressor.data.guard import check_size, find, reading
from expressor.data.hdf5 import check_hdf5
from expressor.data.zarrs import check_zarr

__all__ = ["check_hdf5", "check_size", "check_zarr", "find", "reading"]
