"""The library says nothing unless someone listens."""

import logging
import subprocess
import sys

import pytest

from expressor.core.log import logger, progress


def test_progress_gives_the_items_and_is_quiet_without_a_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(iter(range(5)), what="counting", total=5)) == [0, 1, 2, 3, 4]
    assert capsys.readouterr() == ("", "")


def test_progress_shows_on_the_error_stream_when_asked(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress([1, 2], what="counting", show=True)) == [1, 2]
    shown = capsys.readouterr()
    assert shown.out == ""
    assert "counting" in shown.err


def test_the_logger_is_the_packages_own_and_configures_nothing() -> None:
    assert logger.name == "expressor"
    assert all(isinstance(one, logging.NullHandler) for one in logger.handlers)
    code = "import logging; n = len(logging.root.handlers); import expressor.core.log; assert len(logging.root.handlers) == n"
    subprocess.run([sys.executable, "-c", code], check=True)
