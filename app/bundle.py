"""The artifact that worker and app agree on: ONNX graphs, codec, calibration, report and lineage in one file.

A bundle is an uncompressed zip of ``manifest.json`` and the parts it names, each with its SHA-256. Its bytes are a
function of its content (fixed order and dates), and its first 16 hex digits of SHA-256 are the model's id: the same
model has the same id wherever it is registered. Nothing in it is ever executed but by ONNX Runtime.
"""

from __future__ import annotations

import hashlib
import io
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, FiniteFloat, ValidationError

from app import noise
from app.errors import BundleInvalid
from app.wine import NAMES, Floats

FORMAT = 3
READABLE = (2, 3)  # 2 knew neither pools nor autoencoders
MANIFEST = "manifest.json"
GENERATOR = "generator.onnx"  # latent (rows, latent), condition (rows, 8) -> u (rows, 11) in [0, 1]
DISCRIMINATOR = "discriminator.onnx"  # fields (rows, 11), condition (rows, 8) -> logit (rows,)
CRITIC = "critic.onnx"  # fields (rows, 11), condition (rows, 8) -> logit (rows,)
CLASSIFIER = "classifier.onnx"  # fields (rows, 11), condition (rows, 8) -> logits (rows, 11)
ENCODER = "encoder.onnx"  # fields (rows, 11), condition (rows, 8) -> latent (rows, k)
DECODER = "decoder.onnx"  # latent (rows, k), condition (rows, 8) -> u (rows, 11) in [0, 1]
POOL = "pool.csv"  # rows made in advance, where no network can pour them
DCR = "dcr.index"  # the training rows, coarsely, for min_dcr; see app.dcr. Readers that know nothing of it pass it over
CLASSIFIER_WEIGHTS = "classifier.safetensors"  # for a later training to start from
MAX_BYTES = 256 * 2**20
_EPOCH = (1980, 1, 1, 0, 0, 0)


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Lineage(_Frozen):
    """Where a model comes from: enough to train it again."""

    dataset_id: str
    dataset_sha256: str
    dataset_synthetic: bool
    params: dict[str, Any]
    seed: int
    job_id: str | None
    classifier_model: str | None = Field(description="the registered classifier it started from; null where it trained its own")
    warnings: list[str]
    code_version: str
    torch_version: str
    device: str
    train_rows: int
    holdout_rows: int
    train_wall_s: float = Field(description="seconds, since the last resume")
    train_cpu_s: float = Field(description="CPU-seconds, since the last resume")


class Calibration(_Frozen):
    """A judge's p_real = 1 / (1 + exp(-(slope * logit + intercept))): the share of real wines among equally many of each kind.

    The other kind is the model's own rows for the discriminator, the negatives of ``worker.critic`` for the critic.
    """

    slope: FiniteFloat
    intercept: FiniteFloat
    rows: int
    in_sample: bool

    def p_real(self, logits: Floats) -> Floats:
        """Logits as calibrated probabilities, (rows,) both."""
        return np.asarray(1 / (1 + np.exp(-(self.slope * logits + self.intercept))))


class Measure(_Frozen):
    """A metric between its floor (columns shuffled) and ceiling (real rows); ``spread`` is one standard deviation over repeats.

    Null where the rows are too few to repeat the measurement, or where a floor or a ceiling has no meaning.
    """

    value: float
    spread: float | None = None
    floor: float | None = None
    ceiling: float | None = None


class Rate(_Frozen):
    """The share of rows for which something holds, among generated and among real wines."""

    generated: float
    real: float


class Confusion(_Frozen):
    """How trees trained on unseen real wines rate wines of each quality: shares, (asked, rated), every row summing to 1."""

    qualities: list[int] = Field(description="the scores of rows and of columns")
    generated: list[list[float]]
    real: list[list[float]] = Field(description="the same trees on real wines that they have not seen")
    real_rows: list[int] = Field(description="real wines behind each row of the table")
    gap: float = Field(description="half the sum of absolute differences of a row (total variation), mean over generated wines")


class Bin(_Frozen):
    """Rows with about the same p_real: what was predicted, and which share was real, both kinds weighing the same."""

    predicted: float
    observed: float
    rows: int


class Discernment(_Frozen):
    """How well a judge tells unseen real wines from others, and how far its calibrated ``p_real`` can be taken at its word.

    The discriminator's is calibrated against this model's own rows, the critic's against its mixture of negatives.
    """

    auc: float = Field(description="of its logits, against this model's own rows; 0.5 is not at all")
    auc_shuffled: float = Field(description="against training rows with each column shuffled by itself")
    brier: float = Field(description="mean squared error of p_real on the rows it is about; 0.25 is a judge that always says 0.5")
    reliability: list[Bin]


class Report(_Frozen):
    """What was measured of a model on the holdout; on the training rows themselves where ``in_sample``.

    ``worker.evaluate`` defines every measure. ``rows`` counts real wines, each once.
    """

    protocol: int
    in_sample: bool
    rows: int
    measures: dict[str, Measure]
    by_type: dict[str, dict[str, Measure]] = {}
    by_quality: dict[int, dict[str, Measure]] = {}
    confusion: dict[str, Confusion] = Field({}, description="all, red, white")
    plausibility: dict[str, Rate] = {}
    judges: dict[str, Discernment] = Field({}, description="discriminator, critic")
    findings: dict[str, dict[str, float]] = Field({}, description="figures of the method's own: what was measured -> of what -> value")
    rows_per_cpu_s: float | None = Field(None, description="how fast the machine that trained it poured rows, CSV and HTTP left out")
    notes: list[str]


class Manifest(_Frozen):
    """Everything about a model but its graphs."""

    format: int
    method: str
    columns: list[str]
    noise_layout: int
    latent: int = Field(ge=0, description="latent dimensions of the generator; 0 where there is none")
    pool: int = Field(0, ge=0, description="rows made in advance, which are poured again and again; 0 where a generator pours new ones")
    latents: int = Field(0, ge=0, description="dimensions of the space between encoder and decoder; 0 where there are none")
    labels: dict[str, dict[int, int]] = Field(description="training rows of each quality, by type")
    codec: dict[str, Any]
    copulas: dict[str, Any] = Field({}, description="what each type's measurements are expected to be given the others; see app.copula")
    calibrations: dict[str, Calibration] = Field(description="discriminator, critic: of those that the model has")
    ranks: list[float] = Field(description="quantiles, evenly spaced from 0 to 1, of the critic's logits on real wines that it was not trained on; or none")
    report: Report
    lineage: Lineage
    parts: dict[str, str] = Field(description="SHA-256 of each part")


class _Format(BaseModel):
    format: int


@dataclass(frozen=True)
class Bundle:
    """A verified bundle; ``id`` and ``sha256`` are those of its bytes."""

    id: str
    sha256: str
    manifest: Manifest
    parts: Mapping[str, bytes]

    @property
    def pours(self) -> bool:
        """Whether rows can be had from it."""
        return GENERATOR in self.parts or POOL in self.parts


def digest(part: bytes) -> str:
    """SHA-256 in hex."""
    return hashlib.sha256(part).hexdigest()


def model_id(bundle: bytes) -> str:
    """The id of the model that these bundle bytes are."""
    return digest(bundle)[:16]


def pack(manifest: Manifest, parts: Mapping[str, bytes]) -> bytes:
    """The bytes of a bundle; the manifest's ``parts`` must be the digests of ``parts``."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        archive.writestr(zipfile.ZipInfo(MANIFEST, _EPOCH), manifest.model_dump_json())
        for name in sorted(parts):
            archive.writestr(zipfile.ZipInfo(name, _EPOCH), parts[name])
    return buffer.getvalue()


def unpack(data: bytes) -> Bundle:
    """The bundle in these bytes; ``BundleInvalid`` says what is damaged, missing or too new."""
    sha256 = digest(data)
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if sum(entry.file_size for entry in archive.infolist()) > MAX_BYTES:
                raise BundleInvalid(f"the bundle unpacks to more than {MAX_BYTES} bytes")
            if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                raise BundleInvalid("the bundle's container is damaged: expected parts that are stored, found compressed ones")
            files = {name: _read(archive, name) for name in archive.namelist()}
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, ValueError) as error:
        raise BundleInvalid(f"the bundle's container is damaged: {error}") from error
    manifest = _manifest(files.pop(MANIFEST, None))
    if files.keys() != manifest.parts.keys():
        raise BundleInvalid(f"expected the parts {sorted(manifest.parts)}, found {sorted(files)}")
    for name, expected in manifest.parts.items():
        if (found := digest(files[name])) != expected:
            raise BundleInvalid(f"{name} is damaged: expected SHA-256 {expected}, found {found}")
    return Bundle(sha256[:16], sha256, manifest, files)


def _read(archive: zipfile.ZipFile, name: str) -> bytes:
    try:
        return archive.read(name)
    except zipfile.BadZipFile as error:
        raise BundleInvalid(f"{name} is damaged, or the container around it: {error}") from error


def _manifest(raw: bytes | None) -> Manifest:
    if raw is None:
        raise BundleInvalid(f"the bundle has no {MANIFEST}")
    _check_format(raw)
    try:
        manifest = Manifest.model_validate_json(raw)
    except ValidationError as error:
        raise BundleInvalid(f"{MANIFEST} is damaged or of an unknown version: {error.error_count()} faults, first {error.errors()[0]}") from error
    if manifest.columns != list(NAMES):
        raise BundleInvalid(f"expected a model of the columns {list(NAMES)}, found one of {manifest.columns}")
    if manifest.noise_layout != noise.LAYOUT:
        raise BundleInvalid(f"expected noise layout {noise.LAYOUT}, found {manifest.noise_layout}: the model would pour other rows than it did; train it again")
    return manifest


def _check_format(raw: bytes) -> None:
    """``BundleInvalid`` for a format that this version can't read: before all else, for its manifest may have other fields."""
    try:
        found = _Format.model_validate_json(raw).format
    except ValidationError as error:
        raise BundleInvalid(f"{MANIFEST} is damaged: expected JSON with a format, found {error.errors()[0]['msg']}") from error
    if found not in READABLE:
        how = "a newer version of Cuvée made it: upgrade this one" if found > FORMAT else "it is too old: train it again"
        raise BundleInvalid(f"expected bundle format {' or '.join(map(str, READABLE))}, found format {found}; {how}")
