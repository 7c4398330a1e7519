"""The two original UCI files: looked for at home, then in the cache, then asked of UCI's archive, and always verified.

P. Cortez et al., *Modeling wine preferences by data mining from physicochemical properties*, Decision Support Systems
47(4), 2009; UCI Machine Learning Repository, data set 186, doi:10.24432/C56S3T, CC BY 4.0.
"""

from __future__ import annotations

import hashlib
import io
import logging
import os
import tempfile
import time
import zipfile
import zlib
from pathlib import Path

import httpx

from app.cells import Table
from app.errors import DatasetDamaged, DatasetUnavailable
from app.settings import Settings
from app.tables import read_csv
from app.wine import TYPES, concatenate

URL = "https://archive.ics.uci.edu/static/public/186/wine+quality.zip"
SHA256 = {
    "winequality-white.csv": "76c3f809815c17c07212622f776311faeb31e87610d52c26d87d6e361b169836",
    "winequality-red.csv": "4a402cf041b025d4566d954c3b9ba8635a3a8a01e039005d97d6a710278cf05e",
}
MAX_ARCHIVE_BYTES = 4 * 2**20  # the archive has about 100 KB, its files 350 KB

Files = dict[str, bytes]

log = logging.getLogger("cuvee.data")


def fetch(settings: Settings, *, url: str = URL) -> Table:
    """The 6,497 wines, red ones first.

    ``DatasetUnavailable`` if they can't be had from here, ``DatasetDamaged`` if what was found is not the original.
    """
    tried = []
    for folder in (settings.data_dir, settings.cache_dir):
        if folder is None:
            continue
        if (files := _from_folder(folder)) is not None:
            return _join(files)
        tried.append(f"{folder} does not hold {' and '.join(SHA256)}")
    if not settings.download:
        tried.append("downloading is switched off (CUVEE_DOWNLOAD)")
        raise _unavailable(tried)
    files = _download(url, settings.download_timeout_s, tried)
    try:
        _keep(files, settings.cache_dir)
    except OSError as error:  # the rows are here and verified; the next process downloads them again
        log.warning("the download could not be kept in %s: %s", settings.cache_dir, error)
    return _join(files)


def _from_folder(folder: Path) -> Files | None:
    """The verified files of a folder; None if one is missing, ``DatasetDamaged`` if one is not the original."""
    paths = {name: folder / name for name in SHA256}
    if not all(path.is_file() for path in paths.values()):
        return None
    try:
        return {name: _verified(name, path.read_bytes(), where=str(path)) for name, path in paths.items()}
    except OSError as error:
        raise DatasetDamaged(f"{folder} has the original files but they can't be read: {error}; mend that, or remove them") from error


def _verified(name: str, data: bytes, *, where: str) -> bytes:
    found = hashlib.sha256(data).hexdigest()
    if found != SHA256[name]:
        raise DatasetDamaged(
            f"{where} is not the original {name}: expected SHA-256 {SHA256[name]}, found {found}. "
            "Replace it with the file from UCI (data set 186, byte for byte), or remove it so that it is looked for elsewhere"
        )
    return data


def _download(url: str, timeout_s: float, tried: list[str]) -> Files:
    try:
        archive = _get(url, timeout_s)
        with zipfile.ZipFile(io.BytesIO(archive)) as opened:
            if sum(entry.file_size for entry in opened.infolist()) > MAX_ARCHIVE_BYTES:
                raise DatasetDamaged(f"{url} unpacks to more than {MAX_ARCHIVE_BYTES} bytes: expected two small CSV files")
            return {name: _verified(name, opened.read(name), where=f"{url}#{name}") for name in SHA256}
    except (httpx.HTTPError, TimeoutError) as error:
        raise _unavailable([*tried, f"{url} could not be fetched ({type(error).__name__}: {error})"]) from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, KeyError) as error:
        raise DatasetDamaged(f"{url} did not answer with the archive that holds {' and '.join(SHA256)}: {error}") from error


def _get(url: str, timeout_s: float) -> bytes:
    data, deadline = bytearray(), time.monotonic() + timeout_s  # httpx's own time-out is for each read alone
    with httpx.stream("GET", url, timeout=timeout_s, follow_redirects=True) as response:
        response.raise_for_status()
        for chunk in response.iter_bytes():
            data += chunk
            if time.monotonic() > deadline:
                raise TimeoutError(f"not complete after {timeout_s:g} s")
            if len(data) > MAX_ARCHIVE_BYTES:
                raise DatasetDamaged(f"{url} answered with more than {MAX_ARCHIVE_BYTES} bytes: expected an archive of about 100 KB")
    return bytes(data)


def _keep(files: Files, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, data in files.items():
        with tempfile.NamedTemporaryFile(dir=folder, delete=False) as partial:
            partial.write(data)
        os.replace(partial.name, folder / name)  # whole or not at all, also with two processes at it


def _join(files: Files) -> Table:
    tables = [_colour(files[f"winequality-{colour}.csv"], colour) for colour in reversed(TYPES)]
    return Table(concatenate([t.wines for t in tables]), sum(t.snapped for t in tables))


def _colour(data: bytes, colour: str) -> Table:
    """The original files have no type column: it is added before they are read as any other table is."""
    header, *lines = data.decode("ascii").splitlines()
    table = "\n".join([f"{header};type", *(f"{line};{colour}" for line in lines)])
    return read_csv(table.encode())


def _unavailable(tried: list[str]) -> DatasetUnavailable:
    return DatasetUnavailable(
        "the original UCI data can't be had from here: " + "; ".join(tried) + ". Put the two files into a folder and name it in CUVEE_DATA_DIR, "
        "or train on the synthetic dataset 'starter'"
    )
