"""From a dataset to a bundle: split, encode, train, recalibrate, export, measure. Pure but for what it reports."""

from __future__ import annotations

import logging
import math
import platform
import time
from collections.abc import Callable
from functools import partial
from typing import Protocol

import numpy as np
import torch
from torch.special import ndtr

from app import __version__, codec, copula, dcr, noise
from app.bundle import (
    CLASSIFIER,
    CLASSIFIER_WEIGHTS,
    CRITIC,
    DCR,
    DECODER,
    DISCRIMINATOR,
    ENCODER,
    FORMAT,
    GENERATOR,
    POOL,
    Bundle,
    Lineage,
    Manifest,
    Report,
    digest,
    pack,
)
from app.formats import to_csv
from app.params import Params, resolve
from app.sampler import BLOCK, Sampler, draw_labels, label_counts
from app.split import Split, split
from app.tables import read_csv
from app.wine import NAMES, TYPES, Wines
from worker import critic, evaluate, export
from worker.assignment import Assignment
from worker.checkpoint import CheckpointUnusable, weights
from worker.critic import Criticism
from worker.measuring import CRITIC_SEED, RECALIBRATION_SEED, forward, measure, measure_classifier, pour
from worker.methods import find
from worker.nets import Source
from worker.training import Level, Metrics, Stopped, Trained, TrainingRefused, TrainingSet

log = logging.getLogger("cuvee.training")

MIN_TYPE_ROWS = 20  # a type with fewer has no marginals worth learning
PROGRESS_INTERVAL_S = 0.5
TRAINING_SHARE = 0.9  # of the progress bar; the rest is export and report
CRITIC_FROM, MEASURING_FROM, MEASURING_UNTIL = 0.91, 0.94, 0.99
RECALIBRATION_DRAWS = 20  # generated rows for each training row
RECALIBRATION_ROWS = 200_000  # in all, at most
STEADIER = "a lower learning rate is steadier, and for a GAN the loss 'r3gan' with its gamma"


class Watcher(Protocol):
    """Who hears of a training under way, and may want it to stop."""

    @property
    def stopping(self) -> bool:
        """Whether the next step shall be the last."""

    def progress(self, share: float, stage: str, metrics: Metrics) -> None:
        """``share`` of the work is done."""

    def log(self, message: str, level: Level) -> None:
        """A line for who watches the job."""

    def checkpoint(self, state: bytes) -> None:
        """From here the job can be resumed."""


class _Run:
    """The run of one assignment: asks for metrics and state only when it is time for them."""

    def __init__(self, assignment: Assignment, watcher: Watcher, device: torch.device) -> None:
        self.device = device
        self.seed = assignment.seed
        self.resume = assignment.checkpoint
        self.classifier = assignment.classifier
        self._watcher = watcher
        self._checkpoint_interval_s = assignment.checkpoint_interval_s
        self._progress_at, self._checkpoint_at = 0.0, time.monotonic()
        self._begun = False

    def tick(self, step: int, steps: int, *, metrics: Callable[[], Metrics], state: Callable[[], bytes] | None) -> None:
        if not self._begun and self.resume is not None:
            self._watcher.log(f"goes on from the last checkpoint: {step - 1} of {steps} steps were done", "info")
        self._begun = True
        if time.monotonic() - self._progress_at >= PROGRESS_INTERVAL_S:
            values = metrics()
            _check_finite(values, step)
            self._watcher.progress(TRAINING_SHARE * step / steps, "training", {"step": step, "steps": steps, **values})
            self._progress_at = time.monotonic()
        stopping = self._watcher.stopping
        due = step == steps or time.monotonic() - self._checkpoint_at >= self._checkpoint_interval_s  # export and report take a minute, and look at nothing
        if state is not None and (stopping or due):
            self._watcher.checkpoint(state())
            self._checkpoint_at = time.monotonic()
        if stopping:
            raise Stopped


def work(assignment: Assignment, watcher: Watcher) -> bytes:
    """The bundle of a trained model; ``TrainingRefused`` if these rows can't be trained on, ``Stopped`` if the watcher wants no more."""
    torch.set_num_threads(assignment.threads)
    device = _device(assignment.device)
    params = resolve(assignment.method, assignment.params)
    rows = split(read_csv(assignment.dataset).wines, holdout=params.holdout, seed=params.split_seed)
    _check(rows)
    fitted = codec.fit(rows.train)

    watcher.progress(0.0, "training", {})
    wall, cpu = time.monotonic(), time.process_time()
    trained = _train(assignment, watcher, params, TrainingSet(rows.train, fitted, device), device=device)
    seconds = time.monotonic() - wall, time.process_time() - cpu
    _check_weights(trained)

    watcher.progress(TRAINING_SHARE, "exporting", {})
    if trained.source is not None and trained.recalibrate:
        fitted = _recalibrated(fitted, trained.source.cpu(), rows.train)
    parts = _parts(trained)
    if assignment.dcr_step and (trained.source is not None or trained.pool is not None):
        parts[DCR] = dcr.index(rows.train, assignment.dcr_step)
    lineage = _lineage(assignment, params, rows, device=device, seconds=seconds)
    manifest = _manifest(assignment.method, trained, rows, fitted=fitted, parts=parts, lineage=lineage)

    def criticising(share: float) -> None:
        watcher.progress(CRITIC_FROM + share * (MEASURING_FROM - CRITIC_FROM), "training the critic", {})

    def measuring(share: float) -> None:
        watcher.progress(MEASURING_FROM + share * (MEASURING_UNTIL - MEASURING_FROM), "measuring", {})

    if trained.source is None and trained.pool is None:
        measuring(0.0)
        return pack(measure_classifier(manifest, trained, rows=rows, fitted=fitted, progress=measuring), parts)
    sampler = Sampler(Bundle("draft", "draft", manifest, parts))
    criticism = critic.train(rows.train, partial(pour, sampler, CRITIC_SEED), fitted, seed=assignment.seed, progress=criticising)
    if criticism is not None:
        manifest, parts = _criticised(manifest, parts, criticism)
    measuring(0.0)
    return pack(measure(manifest, sampler, trained, criticism, rows=rows, fitted=fitted, progress=measuring), parts)


def _check_finite(values: Metrics, step: int) -> None:
    for name, value in values.items():
        if not math.isfinite(value):
            raise TrainingRefused(f"the training diverged: {name} is {value} at step {step}; {STEADIER}")


def _check_weights(trained: Trained) -> None:
    if not all(bool(weight.isfinite().all()) for net in trained.nets() for weight in net.parameters()):
        raise TrainingRefused(f"the training diverged in its last steps: weights are not finite; {STEADIER}")


def _train(assignment: Assignment, watcher: Watcher, params: Params, data: TrainingSet, *, device: torch.device) -> Trained:
    run = _Run(assignment, watcher, device)
    try:
        return find(assignment.method)(data, params, run)
    except CheckpointUnusable as error:
        anew = f"starting anew: {error}"  # most often another version of the code wrote it
        log.warning(anew)
        watcher.log(anew, "warning")
        run.resume = None
        return find(assignment.method)(data, params, run)


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name.startswith("cuda") and not torch.cuda.is_available():
        raise TrainingRefused(f"CUVEE_DEVICE is {name}, but torch {torch.__version__} sees no GPU here; set it to auto or cpu")
    return torch.device(name)


def _check(rows: Split) -> None:
    for red, name in enumerate(TYPES):
        count = int((rows.train.red == bool(red)).sum())
        if 0 < count < MIN_TYPE_ROWS:
            raise TrainingRefused(f"expected no {name} wine or at least {MIN_TYPE_ROWS} to train on, found {count}")


def _recalibrated(fitted: codec.Codec, source: Source, train: Wines) -> codec.Codec:
    """The codec whose cells give the generator's own output the marginals of the training rows."""
    draws = min(RECALIBRATION_DRAWS * len(train), RECALIBRATION_ROWS)
    drawn = noise.draw(RECALIBRATION_SEED, 0, math.ceil(draws / BLOCK) * BLOCK, dims=source.latent)
    red, quality = draw_labels(label_counts(_labels(train)), drawn.uniform)
    inputs = torch.from_numpy(drawn.latent), torch.from_numpy(codec.condition(quality, red))
    return fitted.recalibrated(forward(lambda z, c: ndtr(source(z, c)), *inputs), red)


def _parts(trained: Trained) -> dict[str, bytes]:
    parts: dict[str, bytes] = {}
    if trained.classifier is not None:
        parts |= {CLASSIFIER: export.classifier_graph(trained.classifier), CLASSIFIER_WEIGHTS: weights(trained.classifier)}
    if trained.discriminator is not None:
        parts[DISCRIMINATOR] = export.discriminator_graph(trained.discriminator)
    if trained.source is not None:
        parts[GENERATOR] = export.generator_graph(trained.source)
    if (auto := trained.autoencoder) is not None:
        parts |= {ENCODER: export.encoder_graph(auto.encoder), DECODER: export.decoder_graph(auto.decoder, auto.latents)}
    if trained.pool is not None:
        parts[POOL] = to_csv(trained.pool)
    return parts


def _lineage(assignment: Assignment, params: Params, rows: Split, *, device: torch.device, seconds: tuple[float, float]) -> Lineage:
    return Lineage(
        dataset_id=assignment.dataset_id,
        dataset_sha256=digest(assignment.dataset),
        dataset_synthetic=assignment.dataset_synthetic,
        params=params.model_dump(),
        seed=assignment.seed,
        job_id=assignment.job_id,
        classifier_model=assignment.classifier_model,
        warnings=assignment.warnings,
        code_version=__version__,
        torch_version=torch.__version__,
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else f"cpu ({platform.machine()})",
        train_rows=len(rows.train),
        holdout_rows=len(rows.holdout),
        train_wall_s=round(seconds[0], 3),
        train_cpu_s=round(seconds[1], 3),
    )


def _manifest(method: str, trained: Trained, rows: Split, *, fitted: codec.Codec, parts: dict[str, bytes], lineage: Lineage) -> Manifest:
    """The manifest of a model that nobody has measured yet."""
    return Manifest(
        format=FORMAT,
        method=method,
        columns=list(NAMES),
        noise_layout=noise.LAYOUT,
        latent=0 if trained.source is None else trained.source.latent,
        pool=0 if trained.pool is None else len(trained.pool),
        latents=0 if trained.autoencoder is None else trained.autoencoder.latents,
        labels=_labels(rows.train),
        codec=codec.to_state(fitted),
        copulas=copula.to_state(copula.fit(rows.train)),
        calibrations={},
        ranks=[],
        report=Report(protocol=evaluate.PROTOCOL, in_sample=len(rows.holdout) == 0, rows=0, measures={}, notes=[]),
        lineage=lineage,
        parts={name: digest(part) for name, part in parts.items()},
    )


def _labels(train: Wines) -> dict[str, dict[int, int]]:
    """Training rows of each quality, by type."""
    labels = {}
    for red, name in enumerate(TYPES):
        qualities, counts = np.unique(train.quality[train.red == bool(red)], return_counts=True)
        labels[name] = dict(zip(qualities.tolist(), counts.tolist(), strict=True))
    return labels


def _criticised(manifest: Manifest, parts: dict[str, bytes], criticism: Criticism) -> tuple[Manifest, dict[str, bytes]]:
    """The manifest and the parts with the critic among them."""
    parts = parts | {CRITIC: export.critic_graph(criticism.critic)}
    update = {"calibrations": {"critic": criticism.calibration}, "ranks": criticism.ranks, "parts": {name: digest(part) for name, part in parts.items()}}
    return manifest.model_copy(update=update), parts
