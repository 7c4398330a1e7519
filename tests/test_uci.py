"""The original data is the original, or the user is told why not and what to do."""

from __future__ import annotations

import hashlib
import io
import socket
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from app import uci
from app.errors import DatasetDamaged, DatasetUnavailable
from app.settings import Settings
from tests.conftest import DATA_DIR

RED, WHITE = "winequality-red.csv", "winequality-white.csv"
HEADER = (
    '"fixed acidity";"volatile acidity";"citric acid";"residual sugar";"chlorides";"free sulfur dioxide";"total sulfur dioxide";"density";"pH";"sulphates";'
    '"alcohol";"quality"'
)
SMALL = {
    RED: f"{HEADER}\n7.4;0.7;0;1.9;0.076;11;34;0.9978;3.51;0.56;9.53333333333333;5\n".encode(),
    WHITE: f"{HEADER}\n7;0.27;0.36;20.7;0.045;45;170;1.001;3;0.45;8.8;6\n6.3;0.3;0.34;1.6;0.049;14;132;0.994;3.3;0.49;9.5;6\n".encode(),
}

Answer = Callable[[BaseHTTPRequestHandler], None]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three wines take the place of the 6,497: their hashes are the ones asked for."""
    for name, data in SMALL.items():
        monkeypatch.setitem(uci.SHA256, name, hashlib.sha256(data).hexdigest())


@pytest.fixture(scope="module")
def originals() -> dict[str, bytes]:
    """The two real files, where this machine has them."""
    if all((DATA_DIR / name).is_file() for name in (RED, WHITE)):
        return {name: (DATA_DIR / name).read_bytes() for name in (RED, WHITE)}
    pytest.skip("the original UCI files are not on this machine (CUVEE_DATA_DIR, ../shared/data)")


def put(folder: Path, files: dict[str, bytes]) -> Path:
    """A folder that holds these files."""
    folder.mkdir()
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return folder


def zipped(files: dict[str, bytes]) -> bytes:
    """An archive of these files, as UCI's."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def body(data: bytes, *, status: int = 200) -> Answer:
    """The answer that is these bytes."""

    def answer(request: BaseHTTPRequestHandler) -> None:
        request.send_response(status)
        request.send_header("Content-Length", str(len(data)))
        request.end_headers()
        request.wfile.write(data)

    return answer


@contextmanager
def served(answer: Answer) -> Iterator[str]:
    """The address of a real HTTP server that answers so."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            answer(self)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is the base class's
            """Says nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/wine+quality.zip"
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def unreachable() -> Iterator[str]:
    """An address where nobody listens: the port is taken, but not listened on."""
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield f"http://127.0.0.1:{taken.getsockname()[1]}/wine+quality.zip"


@pytest.mark.usefixtures("small")
def test_a_file_with_a_wrong_hash_is_refused_with_what_was_expected_and_found_and_what_to_do(tmp_path: Path) -> None:
    data = put(tmp_path / "data", SMALL | {RED: b"not wine"})
    expected, found = hashlib.sha256(SMALL[RED]).hexdigest(), hashlib.sha256(b"not wine").hexdigest()
    with pytest.raises(DatasetDamaged) as refused:
        uci.fetch(Settings(data_dir=data, cache_dir=tmp_path / "cache"))
    assert refused.value.detail == (
        f"{data / RED} is not the original {RED}: expected SHA-256 {expected}, found {found}. "
        "Replace it with the file from UCI (data set 186, byte for byte), or remove it so that it is looked for elsewhere"
    )


@pytest.mark.usefixtures("small")
def test_a_damaged_file_at_home_is_not_passed_over_for_a_good_one_in_the_cache(tmp_path: Path) -> None:
    data, cache = put(tmp_path / "data", SMALL | {WHITE: b""}), put(tmp_path / "cache", SMALL)
    with pytest.raises(DatasetDamaged, match=str(data / WHITE)):
        uci.fetch(Settings(data_dir=data, cache_dir=cache))


@pytest.mark.usefixtures("small")
def test_home_comes_before_the_cache(tmp_path: Path) -> None:
    data, cache = put(tmp_path / "data", SMALL), put(tmp_path / "cache", SMALL | {RED: b"damaged"})
    assert len(uci.fetch(Settings(data_dir=data, cache_dir=cache)).wines) == 3


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize("at_home", [{}, {RED: SMALL[RED]}], ids=["nothing", "half"])
def test_the_cache_comes_before_the_download(tmp_path: Path, at_home: dict[str, bytes]) -> None:
    data, cache = put(tmp_path / "data", at_home), put(tmp_path / "cache", SMALL)
    with unreachable() as url:
        assert len(uci.fetch(Settings(data_dir=data, cache_dir=cache), url=url).wines) == 3


@pytest.mark.usefixtures("small")
def test_a_good_archive_is_read_and_kept_whole(tmp_path: Path) -> None:
    cache = tmp_path / "new" / "cache"
    with served(body(zipped(SMALL))) as url:
        uci.fetch(Settings(cache_dir=cache), url=url)
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == SMALL


@pytest.mark.usefixtures("small")
def test_the_red_wines_come_first_and_averages_are_moved_to_the_grid(tmp_path: Path) -> None:
    table = uci.fetch(Settings(data_dir=put(tmp_path / "data", SMALL), cache_dir=tmp_path))
    assert table.wines.red.tolist() == [True, False, False]
    assert table.wines.ticks[:, 10].tolist() == [953, 880, 950]
    assert table.snapped == 1


def _damaged_in_the_middle() -> bytes:
    data = bytearray(zipped(SMALL))
    data[50:60] = b"\xff" * 10  # inside the first compressed file
    return bytes(data)


@pytest.mark.usefixtures("small")
@pytest.mark.parametrize(
    "answer",
    [
        zipped(SMALL | {WHITE: b"other wine"}),
        zipped({RED: SMALL[RED]}),
        zipped(SMALL)[:-40],
        _damaged_in_the_middle(),
        b"<html>come back later</html>",
        b"",
        zipped(SMALL | {"more": bytes(5 * 2**20)}),
    ],
    ids=["other content", "one file only", "cut short", "damaged in the middle", "a page", "nothing", "unpacks to too much"],
)
def test_an_answer_that_is_not_the_archive_is_refused_and_nothing_is_kept(tmp_path: Path, answer: bytes) -> None:
    with served(body(answer)) as url, pytest.raises(DatasetDamaged, match=r"127\.0\.0\.1"):
        uci.fetch(Settings(cache_dir=tmp_path / "cache"), url=url)
    assert not (tmp_path / "cache").exists()


def test_an_answer_that_does_not_end_is_cut_off(tmp_path: Path) -> None:
    pieces: list[int] = []

    def endless(request: BaseHTTPRequestHandler) -> None:
        request.send_response(200)
        request.end_headers()
        try:
            while True:
                pieces.append(request.wfile.write(bytes(2**16)))
        except (BrokenPipeError, ConnectionResetError):
            return  # the client has gone, as it should

    with served(endless) as url, pytest.raises(DatasetDamaged, match="answered with more than 4194304 bytes"):
        uci.fetch(Settings(cache_dir=tmp_path / "cache"), url=url)
    assert sum(pieces) < 64 * 2**20  # the limit of 4 MiB, and what may lie in buffers between the two


def test_where_nothing_can_be_had_all_that_was_tried_is_named(tmp_path: Path) -> None:
    data, cache = tmp_path / "data", tmp_path / "cache"
    data.mkdir()
    with unreachable() as url, pytest.raises(DatasetUnavailable) as refused:
        uci.fetch(Settings(data_dir=data, cache_dir=cache), url=url)
    for said in (f"{data} does not hold", f"{cache} does not hold", f"{url} could not be fetched (ConnectError", "CUVEE_DATA_DIR", "'starter'"):
        assert said in refused.value.detail


def test_a_server_that_refuses_is_named_with_its_answer(tmp_path: Path) -> None:
    with served(body(b"", status=503)) as url, pytest.raises(DatasetUnavailable, match="503"):
        uci.fetch(Settings(cache_dir=tmp_path), url=url)


def test_a_server_that_does_not_answer_in_time_is_named(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        with pytest.raises(DatasetUnavailable, match="ReadTimeout"):
            uci.fetch(Settings(cache_dir=tmp_path, download_timeout_s=0.1), url=url)


def test_where_downloading_is_switched_off_nobody_is_asked(tmp_path: Path) -> None:
    with pytest.raises(DatasetUnavailable, match=r"downloading is switched off \(CUVEE_DOWNLOAD\)"):
        uci.fetch(Settings(cache_dir=tmp_path, download=False), url="http://127.0.0.1:1/")


def test_the_original_files_hold_6497_wines_with_the_known_scores(tmp_path: Path, originals: dict[str, bytes]) -> None:
    wines = uci.fetch(Settings(data_dir=put(tmp_path / "data", originals), cache_dir=tmp_path / "cache", download=False)).wines
    assert len(wines) == 6497
    assert np.bincount(wines.quality[wines.red]).tolist() == [0, 0, 0, 10, 53, 681, 638, 199, 18]
    assert np.bincount(wines.quality[~wines.red]).tolist() == [0, 0, 0, 20, 163, 1457, 2198, 880, 175, 5]


def test_the_original_archive_is_downloaded_verified_and_kept(tmp_path: Path, originals: dict[str, bytes]) -> None:
    cache = tmp_path / "cache"
    with served(body(zipped(originals))) as url:
        assert len(uci.fetch(Settings(cache_dir=cache), url=url).wines) == 6497
    assert {path.name: path.read_bytes() for path in cache.iterdir()} == originals
