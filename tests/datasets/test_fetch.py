"""The fetcher against a server on this machine: with and without Range, with cut connections, with wrong bytes."""

import hashlib
import multiprocessing
import os
import re
import shutil
import sys
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from expressor.core.errors import DataError
from expressor.datasets import fetch as fetching
from expressor.datasets.fetch import RemoteFile, cache_folder, fetch
from expressor.datasets.lock import Busy, hold
from expressor.datasets.sources import ORIGINS, remote_files

BODY = np.random.default_rng(0).bytes(300_000)


@dataclass
class Server:
    """What the server does, and what it was asked."""

    url: str = ""
    body: bytes = BODY
    honours_range: bool = True
    states_length: bool = True
    cuts: list[int] = field(default_factory=list)  # bytes sent before each connection is cut; then all of it
    status: int = 0  # an error status for every request
    wrong_range: bool = False
    asked: list[str | None] = field(default_factory=list)
    slow: float = 0.0


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_state: Server

    def do_GET(self) -> None:
        state = self.server_state
        wanted = self.headers.get("Range")
        state.asked.append(wanted)
        if state.status:
            self.send_error(state.status)
            return
        start = int(re.fullmatch(r"bytes=(\d+)-", wanted)[1]) if wanted and state.honours_range else 0
        if start >= len(state.body):
            self.send_error(416)
            return
        rest = state.body[start:]
        self.send_response(206 if start else 200)
        if start:
            first = start + 7 if state.wrong_range else start
            self.send_header("Content-Range", f"bytes {first}-{len(state.body) - 1}/{len(state.body)}")
        if state.states_length:
            self.send_header("Content-Length", str(len(rest)))
        else:
            self.close_connection = True
        self.end_headers()
        cut = state.cuts.pop(0) if state.cuts else None
        for at in range(0, len(rest) if cut is None else min(cut, len(rest)), 10_000):
            self.wfile.write(rest[at : at + 10_000] if cut is None else rest[at : min(at + 10_000, cut)])
            if state.slow:
                self.wfile.flush()
                threading.Event().wait(state.slow)
        if cut is not None:
            self.close_connection = True

    def log_message(self, *words: object) -> None:
        pass


@pytest.fixture
def server() -> Iterator[Server]:
    with serving() as state:
        yield state


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *client: object) -> None:
        """A client that hangs up is part of the tests."""


class serving:
    def __enter__(self) -> Server:
        self.state = Server()
        handler = type("Bound", (Handler,), {"server_state": self.state})
        self.http = QuietServer(("127.0.0.1", 0), handler)
        self.thread = threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
        self.thread.start()
        self.state.url = f"http://127.0.0.1:{self.http.server_address[1]}/file.bin"
        return self.state

    def __exit__(self, *error: object) -> None:
        self.http.shutdown()
        self.http.server_close()
        self.thread.join()


@pytest.fixture(autouse=True)
def _no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fetching, "PAUSE_S", 0.0)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)


def remote(url: str, body: bytes = BODY, name: str = "set/file.bin") -> RemoteFile:
    return RemoteFile(name=name, url=url, sha256=hashlib.sha256(body).hexdigest(), size=len(body), licence="CC0")


def files(folder: Path) -> set[str]:
    return {one.relative_to(folder).as_posix() for one in folder.rglob("*") if one.is_file() and one.suffix != ".lock"}


def test_fetched_once_and_then_from_the_cache(server, tmp_path):
    path = fetch(remote(server.url), folder=tmp_path)
    assert path.read_bytes() == BODY
    assert path == tmp_path / "set" / "file.bin"
    assert files(tmp_path) == {"set/file.bin"}
    assert fetch(remote(server.url), folder=tmp_path) == path
    assert server.asked == [None]


def test_cut_connections_are_continued_where_they_ended(server, tmp_path):
    server.cuts = [100_000, 50_001, 0, 1]
    assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-", "bytes=150001-", "bytes=150001-", "bytes=150002-"]


def test_a_later_call_continues_what_an_earlier_one_left(server, tmp_path):
    server.cuts = [100_000, 0, 0, 0, 0]
    with pytest.raises(
        DataError, match=r"could not be downloaded .*got 100000 of 300000 bytes.*what was received is kept"
    ):
        fetch(remote(server.url), folder=tmp_path)
    assert files(tmp_path) == {"set/file.bin.part"}
    server.asked.clear()
    assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert server.asked == ["bytes=100000-"]
    assert files(tmp_path) == {"set/file.bin"}


def test_a_server_without_range_starts_afresh(server, tmp_path):
    server.honours_range = False
    server.cuts = [100_000]
    assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-"]


def test_a_part_of_another_file_is_not_believed(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(b"another file" * 1000)
    assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert server.asked == ["bytes=12000-", None]


@pytest.mark.parametrize("length", [len(BODY), len(BODY) + 5])
def test_a_full_length_part_of_another_file_is_not_believed(server, tmp_path, length):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(bytes(length))
    assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert server.asked == [None]


def test_a_complete_part_needs_no_connection(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(BODY)
    assert fetch(remote("http://127.0.0.1:9/nobody"), folder=tmp_path).read_bytes() == BODY


def test_an_answer_with_another_part_is_refused(server, tmp_path):
    server.cuts = [100_000]
    server.wrong_range = True
    assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert server.asked == [None, "bytes=100000-", None]


def test_a_server_that_gives_and_takes_for_ever_is_left(server, tmp_path, monkeypatch):
    monkeypatch.setattr(fetching, "CONNECTIONS", 10)
    server.cuts = [1000] * 1000
    server.wrong_range = True
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(remote(server.url), folder=tmp_path)
    assert len(server.asked) == 10


@pytest.mark.parametrize("change", [lambda b: b[:-1], lambda b: b[:-1] + b"x", lambda b: b + b"more" * 100_000])
def test_wrong_bytes_are_refused_and_not_kept(server, tmp_path, change):
    earlier = fetch(remote(server.url, name="set/other.bin"), folder=tmp_path)
    server.body = change(BODY)
    server.asked.clear()
    pattern = f"is not the file it should be; expected 300000 bytes with SHA-256 .* got {len(server.body)} bytes"
    with pytest.raises(DataError, match=pattern):
        fetch(remote(server.url), folder=tmp_path)
    assert files(tmp_path) == {"set/other.bin"}
    assert server.asked == [None]
    assert earlier.read_bytes() == BODY


@pytest.mark.parametrize("change", [lambda b: b[:-1] + b"x", lambda b: b + b"more" * 100_000])
def test_wrong_bytes_of_unstated_length_are_refused(server, tmp_path, change):
    server.body, server.states_length = change(BODY), False
    with pytest.raises(DataError, match=r"is not the file it should be.* got 30000[01] bytes with [0-9a-f]{64}"):
        fetch(remote(server.url), folder=tmp_path)
    assert files(tmp_path) == set()


def test_a_login_page_does_not_cost_the_part(server, tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin.part").write_bytes(BODY[:1000])
    server.body, server.honours_range = b"<html>Please log in</html>", False
    with pytest.raises(DataError, match="got 26 bytes.*a login page"):
        fetch(remote(server.url), folder=tmp_path)
    assert (tmp_path / "set" / "file.bin.part").read_bytes() == BODY[:1000]


def test_a_damaged_copy_is_replaced(server, tmp_path, caplog):
    path = fetch(remote(server.url), folder=tmp_path)
    path.write_bytes(BODY[:-1] + b"x")
    with caplog.at_level("WARNING", logger="expressor"):
        assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert "is not what was expected" in caplog.text


def test_a_damaged_copy_stays_when_there_is_no_connection(tmp_path):
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "file.bin").write_bytes(b"mine")
    with pytest.raises(DataError, match="could not be downloaded"):
        fetch(remote("http://127.0.0.1:9/nobody"), folder=tmp_path)
    assert (tmp_path / "set" / "file.bin").read_bytes() == b"mine"


def test_offline_says_what_to_do(tmp_path):
    with pytest.raises(
        DataError, match=r"could not be downloaded \(no connection: .*put the file at .*file\.bin yourself"
    ):
        fetch(remote("http://127.0.0.1:9/nobody"), folder=tmp_path)


@pytest.mark.parametrize(("status", "attempts"), [(404, 1), (403, 1), (500, 4), (503, 4), (429, 4)])
def test_refusals_of_the_server(server, tmp_path, status, attempts):
    server.status = status
    with pytest.raises(DataError, match=f"HTTP status {status}"):
        fetch(remote(server.url), folder=tmp_path)
    assert len(server.asked) == attempts


def test_other_schemes_are_refused(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(BODY)
    with pytest.raises(DataError, match="no web address"):
        fetch(remote(secret.as_uri()), folder=tmp_path / "cache")


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.lists(st.integers(1, 120_000), max_size=6), honours=st.booleans(), before=st.integers(0, len(BODY)))
def test_whatever_is_cut_the_file_is_right_or_absent(tmp_path_factory, cuts, honours, before):
    folder = tmp_path_factory.mktemp("cache")
    (folder / "set").mkdir()
    (folder / "set" / "file.bin.part").write_bytes(BODY[:before])
    with serving() as server:
        server.cuts, server.honours_range = list(cuts), honours
        try:
            path = fetch(remote(server.url), folder=folder)
        except DataError:
            assert "set/file.bin" not in files(folder)
        else:
            assert path.read_bytes() == BODY
            assert files(folder) == {"set/file.bin"}


def test_a_full_disk_says_so_before_a_byte_is_received(server, tmp_path, monkeypatch):
    earlier = fetch(remote(server.url, name="set/other.bin"), folder=tmp_path)
    server.asked.clear()
    usage = shutil.disk_usage(tmp_path)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage._replace(free=100_000))
    with pytest.raises(DataError, match=r"the disk of .* is full; expected 0\.3 MB free, got 0\.1 MB.*EXPRESSOR_CACHE"):
        fetch(remote(server.url), folder=tmp_path)
    assert server.asked == []
    assert earlier.read_bytes() == BODY


@pytest.mark.skipif(
    not Path("/dev/full").exists(), reason="needs /dev/full, a device on which every write finds no space"
)
def test_a_disk_that_fills_up_on_the_way(server, tmp_path):
    earlier = fetch(remote(server.url, name="set/other.bin"), folder=tmp_path)
    (tmp_path / "set" / "file.bin.part").symlink_to("/dev/full")
    with pytest.raises(
        DataError, match=r"cannot be written \(No space left on device\).*downloaded before are unharmed"
    ):
        fetch(remote(server.url), folder=tmp_path)
    assert earlier.read_bytes() == BODY


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a folder that even root cannot write")
def test_a_folder_that_cannot_be_written(server):
    with pytest.raises(DataError, match=r"cannot be written .*EXPRESSOR_CACHE"):
        fetch(remote(server.url), folder=Path("/proc/1"))
    assert server.asked == []


def test_a_file_where_the_folder_should_be(server, tmp_path):
    (tmp_path / "set").write_text("a file")
    with pytest.raises(DataError, match="cannot be written"):
        fetch(remote(server.url), folder=tmp_path)
    assert (tmp_path / "set").read_text() == "a file"


def test_a_complete_file_in_a_cache_without_lock_is_read_only_use(server, tmp_path):
    fetch(remote(server.url), folder=tmp_path)
    (tmp_path / "set" / "file.bin.lock").unlink()
    fetch(remote(server.url), folder=tmp_path)
    assert not (tmp_path / "set" / "file.bin.lock").exists()


def _fetch_in_child(url: str, folder: str, answers) -> None:
    try:
        answers.put(hashlib.sha256(fetch(remote(url), folder=Path(folder)).read_bytes()).hexdigest())
    except Exception as error:  # noqa: BLE001 (told to the parent)
        answers.put(repr(error))


def test_processes_that_share_a_cache_take_turns(server, tmp_path):
    server.slow = 0.01
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()
    children = [context.Process(target=_fetch_in_child, args=(server.url, str(tmp_path), answers)) for _ in range(3)]
    for child in children:
        child.start()
    found = [answers.get(timeout=60) for _ in children]
    for child in children:
        child.join()
    assert found == [remote("").sha256] * 3
    assert len(server.asked) == 1
    assert files(tmp_path) == {"set/file.bin"}


def test_a_process_killed_while_it_downloads_leaves_a_part_to_continue(server, tmp_path):
    server.slow = 0.05
    context = multiprocessing.get_context("spawn")
    answers = context.Queue()  # a child that starts needs it to be alive
    child = context.Process(target=_fetch_in_child, args=(server.url, str(tmp_path), answers))
    child.start()
    part = tmp_path / "set" / "file.bin.part"
    for _ in range(2000):
        if part.exists() and part.stat().st_size > 0:
            break
        threading.Event().wait(0.01)
    child.kill()
    child.join()
    have = part.stat().st_size
    assert 0 < have < len(BODY)
    server.slow = 0.0
    assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert server.asked[-1] == f"bytes={have}-"


def test_a_holder_that_hangs_is_passed_by(server, tmp_path, monkeypatch):
    (tmp_path / "set").mkdir()
    part = tmp_path / "set" / "file.bin.part"
    part.write_bytes(BODY[:10])
    monkeypatch.setattr(fetching, "TIMEOUT_S", 0.1)
    with hold(tmp_path / "set" / "file.bin.lock", watch=part, patience_s=1):
        assert fetch(remote(server.url), folder=tmp_path).read_bytes() == BODY
    assert part.read_bytes() == BODY[:10]
    assert files(tmp_path) == {"set/file.bin", "set/file.bin.part"}


def test_lock_waits_for_progress_and_no_longer(tmp_path):
    with hold(tmp_path / "a.lock", watch=tmp_path / "a.part", patience_s=1):
        with pytest.raises(Busy), hold(tmp_path / "a.lock", watch=tmp_path / "a.part", patience_s=0.15):
            pass
    with hold(tmp_path / "a.lock", watch=tmp_path / "a.part", patience_s=0.15):
        pass


def test_cache_folder(monkeypatch, tmp_path):
    monkeypatch.setenv("EXPRESSOR_CACHE", str(tmp_path))
    assert cache_folder() == tmp_path / "datasets"
    monkeypatch.delenv("EXPRESSOR_CACHE")
    assert cache_folder().is_absolute()
    assert "expressor" in cache_folder().parts


def test_every_source_is_pinned_and_checkable():
    seen = set()
    for dataset, sections in {
        "her2st": ("A1", "B4", "C2", "C3", "C4", "C5", "C6"),
        "mob": ("MOB1", "MOB2", "MOB3"),
    }.items():
        for section in sections:
            found = remote_files(dataset, section)
            assert {"counts", "spots", "image"} <= set(found)
            for file in found.values():
                assert re.fullmatch(r"https://raw\.githubusercontent\.com/[\w-]+/\w+/[0-9a-f]{40}/.+", file.url)
                assert re.fullmatch(r"[0-9a-f]{64}", file.sha256)
                assert 0 < file.size < 5_000_000
                assert file.licence == ORIGINS[dataset].licence
                assert file.name not in seen
                seen.add(file.name)
    with pytest.raises(DataError, match="section 'C1' of her2st cannot be fetched; expected one of A1, B4"):
        remote_files("her2st", "C1")


@pytest.mark.skipif("EXPRESSOR_DATA" not in os.environ, reason="EXPRESSOR_DATA is not set")
@pytest.mark.parametrize("section", ["B4", "C2", "C3", "C4", "C5"])
def test_checksums_are_those_of_the_pictures_at_hand(section):
    path = Path(os.environ["EXPRESSOR_DATA"]) / "her2st" / f"{section}.jpg"
    file = remote_files("her2st", section)["image"]
    assert path.stat().st_size == file.size
    assert hashlib.sha256(path.read_bytes()).hexdigest() == file.sha256
