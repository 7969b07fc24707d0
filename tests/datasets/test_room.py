"""The room itself: light to enter, and its names do not depend on what was imported before."""

import subprocess
import sys

import pytest

import expressor as ex
from expressor import datasets


def test_entering_the_room_imports_nothing_heavy():
    code = (
        "import sys, expressor.datasets; "
        "print([name for name in ('torch', 'anndata', 'pandas', 'scipy', 'PIL', 'pooch') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_data_sets_need_no_torch():
    code = (
        "import sys; from expressor.datasets import her2st, example; her2st(); example('histology'); "
        "print('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


def test_every_name_is_there_whatever_was_imported():
    import expressor.datasets.breast
    import expressor.datasets.bulb
    import expressor.datasets.simulate  # noqa: F401

    for name in datasets.__all__:
        assert callable(getattr(datasets, name)), name
        assert getattr(ex.datasets, name).__doc__
    assert dir(datasets) == datasets.__all__
    with pytest.raises(AttributeError, match="has no attribute 'her3st'"):
        datasets.her3st  # noqa: B018
