"""What the tests themselves run under: one thread, no network, a cache of their own."""

import os
import socket
import tempfile
from pathlib import Path

import hypothesis
import pytest
import torch


@pytest.mark.parametrize("address", [("192.0.2.1", 80), ("pypi.org", 443), ("2001:db8::1", 80, 0, 0)])
def test_the_network_is_out_of_reach(address: tuple[object, ...]) -> None:
    family = socket.AF_INET6 if len(address) == 4 else socket.AF_INET
    with socket.socket(family) as one:
        with pytest.raises(RuntimeError, match="a test may not use the network"):
            one.connect(address)
        with pytest.raises(RuntimeError, match="a test may not use the network"):
            one.connect_ex(address)


def test_this_machine_is_within_reach() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()[:2]) as one:
        other, _ = server.accept()
        with other:
            one.sendall(b"x")
            assert other.recv(1) == b"x"


def test_the_cache_is_the_tests_own() -> None:
    cache = Path(os.environ["EXPRESSOR_CACHE"])
    assert cache.is_relative_to(tempfile.gettempdir())
    assert cache.name.startswith("expressor-tests-")


def test_one_thread_computes() -> None:
    assert torch.get_num_threads() == 1


def test_properties_are_tried_with_steady_examples() -> None:
    if os.environ.get("HYPOTHESIS_PROFILE", "ci") == "ci":
        assert hypothesis.settings().derandomize
        assert hypothesis.settings().deadline is None
