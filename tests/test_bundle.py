"""A bundle is what two machines agree on: its bytes follow from its content, and damage is always noticed."""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from app.bundle import CLASSIFIER, GENERATOR, MANIFEST, MAX_BYTES, Bundle, digest, model_id, pack, unpack
from app.errors import BundleInvalid

SMALL_PARTS = {"a.onnx": b"one graph" * 3, "b.onnx": b"another"}


@pytest.fixture(scope="module")
def small(tiny: Bundle) -> bytes:
    """A bundle of a kilobyte, most of it container and manifest, so that a byte picked at random matters."""
    manifest = tiny.manifest.model_copy(update={"codec": {}, "parts": {name: digest(part) for name, part in SMALL_PARTS.items()}})
    return pack(manifest, SMALL_PARTS)


def files(bundle: bytes) -> dict[str, bytes]:
    """What a bundle's container holds."""
    with zipfile.ZipFile(io.BytesIO(bundle)) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def container(content: dict[str, bytes]) -> bytes:
    """A container that holds this."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)
    return buffer.getvalue()


def with_manifest(bundle: bytes, change: Callable[[dict[str, Any]], None]) -> bytes:
    """The same bundle with another manifest."""
    content = files(bundle)
    manifest = json.loads(content[MANIFEST])
    change(manifest)
    return container(content | {MANIFEST: json.dumps(manifest).encode()})


def test_the_same_content_gives_the_same_bytes(tiny_bundle: bytes, tiny: Bundle) -> None:
    backwards = dict(reversed(list(tiny.parts.items())))
    assert pack(tiny.manifest, backwards) == tiny_bundle


def test_nothing_in_the_container_tells_when_it_was_made(small: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(small)) as archive:
        assert [(entry.filename, entry.date_time) for entry in archive.infolist()] == [
            ("manifest.json", (1980, 1, 1, 0, 0, 0)),
            ("a.onnx", (1980, 1, 1, 0, 0, 0)),
            ("b.onnx", (1980, 1, 1, 0, 0, 0)),
        ]


def test_unpacked_is_what_was_packed(small: bytes, tiny: Bundle) -> None:
    bundle = unpack(small)
    assert bundle.parts == SMALL_PARTS
    assert bundle.manifest.lineage == tiny.manifest.lineage
    assert bundle.manifest.report == tiny.manifest.report


def test_the_id_is_the_beginning_of_the_hash_of_the_bytes(small: bytes) -> None:
    bundle = unpack(small)
    assert bundle.sha256 == digest(small)
    assert bundle.id == model_id(small) == digest(small)[:16]


@settings(deadline=None, max_examples=400)
@given(data=st.data(), flip=st.integers(1, 255))
def test_a_flipped_byte_is_refused_or_changes_nothing_but_the_id(small: bytes, data: st.DataObject, flip: int) -> None:
    """Dates, attributes and versions in the container carry nothing; all else is under a digest or a checksum."""
    position = data.draw(st.integers(0, len(small) - 1))
    damaged = bytearray(small)
    damaged[position] ^= flip
    try:
        bundle = unpack(bytes(damaged))
    except BundleInvalid:
        return
    good = unpack(small)
    assert bundle.manifest == good.manifest
    assert bundle.parts == good.parts
    assert bundle.id != good.id


@pytest.mark.parametrize("method", [8, 9, 12, 14, 93, 99], ids=["deflate", "deflate64", "bzip2", "lzma", "zstd", "unknown"])
def test_a_damaged_compression_method_is_refused(small: bytes, method: int) -> None:
    damaged = bytearray(small)
    for mark, offset in ((b"PK\x03\x04", 8), (b"PK\x01\x02", 10)):
        damaged[small.index(mark) + offset] = method
    with pytest.raises(BundleInvalid, match="container is damaged"):
        unpack(bytes(damaged))


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_bundle_that_was_cut_short_is_refused(small: bytes, share: float) -> None:
    with pytest.raises(BundleInvalid, match="container is damaged"):
        unpack(small[: int(len(small) * share)])


def test_a_part_that_is_not_the_one_of_the_manifest_is_refused_with_both_hashes(tiny_bundle: bytes) -> None:
    content = files(tiny_bundle)
    expected, found = digest(content[GENERATOR]), digest(b"another")
    with pytest.raises(BundleInvalid, match=f"{GENERATOR} is damaged: expected SHA-256 {expected}, found {found}"):
        unpack(container(content | {GENERATOR: b"another"}))


def test_another_layout_of_the_noise_is_refused_since_its_rows_would_be_others(small: bytes) -> None:
    with pytest.raises(BundleInvalid, match=r"expected noise layout \d+, found 999"):
        unpack(with_manifest(small, lambda manifest: manifest.update(noise_layout=999)))


def test_another_format_is_refused_with_both_numbers(small: bytes) -> None:
    with pytest.raises(BundleInvalid, match=r"expected bundle format 2 or 3, found format 4; a newer version of Cuvée made it"):
        unpack(with_manifest(small, lambda manifest: manifest.update(format=4, unheard_of=1)))


def test_other_columns_are_refused(small: bytes) -> None:
    with pytest.raises(BundleInvalid, match=r"expected a model of the columns .* found one of \['pH'\]"):
        unpack(with_manifest(small, lambda manifest: manifest.update(columns=["pH"])))


NO_NUMBER = {"discriminator": {"slope": float("nan"), "intercept": 0.0, "rows": 1, "in_sample": False}}


@pytest.mark.parametrize(
    "change",
    [lambda manifest: manifest.pop("lineage"), lambda manifest: manifest.update(more=1), lambda manifest: manifest.update(calibrations=NO_NUMBER)],
    ids=["less", "more", "a number that is none"],
)
def test_a_manifest_with_less_or_more_than_it_should_is_refused(small: bytes, change: Callable[[dict[str, Any]], None]) -> None:
    with pytest.raises(BundleInvalid, match=r"manifest\.json is damaged or of an unknown version: 1 faults"):
        unpack(with_manifest(small, change))


def test_a_container_without_a_manifest_is_refused() -> None:
    with pytest.raises(BundleInvalid, match=r"the bundle has no manifest\.json"):
        unpack(container({"a.onnx": b""}))


def test_a_missing_part_is_named(tiny_bundle: bytes) -> None:
    content = files(tiny_bundle)
    del content[CLASSIFIER]
    with pytest.raises(BundleInvalid, match=r"expected the parts \['classifier\.onnx', .*\], found \['classifier\.safetensors'"):
        unpack(container(content))


def test_a_part_that_the_manifest_does_not_name_is_refused(small: bytes) -> None:
    with pytest.raises(BundleInvalid, match=r"found \['a\.onnx', 'b\.onnx', 'evil\.pkl'\]"):
        unpack(container(files(small) | {"evil.pkl": b""}))


def test_a_container_that_unpacks_to_too_much_is_refused_before_it_is_unpacked() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MANIFEST, b"{}")
        archive.infolist()[0].file_size = MAX_BYTES + 1  # what the directory at the end of the container claims
    with pytest.raises(BundleInvalid, match="unpacks to more than 268435456 bytes"):
        unpack(buffer.getvalue())


def test_a_container_that_claims_less_than_it_holds_is_refused() -> None:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr(MANIFEST, bytes(1000))
        archive.infolist()[0].file_size = 10
    with pytest.raises(BundleInvalid, match=r"manifest\.json is damaged"):
        unpack(buffer.getvalue())
