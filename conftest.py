"""What every test of the house and of its systems runs under: one thread, a cache of its own, no network, steady properties."""

import os
import shutil
import socket
import tempfile
from collections.abc import Iterator
from typing import Any

# Before NumPy and torch start: bits depend on the number of threads, and several test processes share the cores.
# numba's too: its first parallel function (of pynndescent, umap) would set the number for torch as well.
os.environ["OMP_NUM_THREADS"] = os.environ["NUMBA_NUM_THREADS"] = "1"

import pytest
from hypothesis import HealthCheck, settings

settings.register_profile("ci", deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
settings.register_profile("explore", deadline=None, max_examples=1000, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "ci"))

_LOOPBACK = ("127.", "::1", "localhost", "0.0.0.0", "::ffff:127.")
_cache = pytest.StashKey[str]()


def pytest_configure(config: pytest.Config) -> None:
    """Give this test process a cache folder of its own."""
    config.stash[_cache] = os.environ["EXPRESSOR_CACHE"] = tempfile.mkdtemp(prefix="expressor-tests-")


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove the cache folder."""
    shutil.rmtree(config.stash[_cache], ignore_errors=True)


@pytest.fixture(autouse=True, scope="session")
def no_network() -> Iterator[None]:
    """A connection to anywhere but this machine is a failure of the test that makes it."""

    def guard(original: Any) -> Any:
        def connect(self: socket.socket, address: Any) -> Any:
            if self.family in (socket.AF_INET, socket.AF_INET6) and not str(address[0]).startswith(_LOOPBACK):
                raise RuntimeError(f"a test may not use the network: {address}")
            return original(self, address)

        return connect

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(socket.socket, "connect", guard(socket.socket.connect))
        patch.setattr(socket.socket, "connect_ex", guard(socket.socket.connect_ex))
        yield
