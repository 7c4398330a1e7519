"""A trained model -> its report, and its discriminator's calibration; of one that pours, on rows poured exactly as the API will pour them."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtr

from app import codec
from app.bundle import Manifest
from app.sampler import BLOCK, Condition, Sampler
from app.split import Split
from app.wine import Floats, Wines
from worker import critic, evaluate
from worker.critic import Critic, Criticism
from worker.evaluate.classification import classification
from worker.evaluate.reconstruction import reconstruction
from worker.nets import Classifier, Panel
from worker.training import Autoencoder, Trained

# tables that no request is likely to ask for, each for one purpose
RECALIBRATION_SEED, REPORT_SEED, CRITIC_SEED, NEGATIVES_SEED, SPEED_SEED = range(2**62, 2**62 + 5)
SPEED_ROWS = 16 * BLOCK
CHUNK = 8 * BLOCK  # rows through a network at once


def measure(
    manifest: Manifest,
    sampler: Sampler,
    trained: Trained,
    criticism: Criticism | None,
    *,
    rows: Split,
    fitted: codec.Codec,
    progress: Callable[[float], None],
) -> Manifest:
    """The manifest with its report and its discriminator's calibration; ``progress`` hears the share that is done, 0 to 1."""
    generated = pour(sampler, REPORT_SEED, evaluate.REPEATS * len(rows.train))
    real = rows.holdout if len(rows.holdout) else rows.train
    judges: dict[str, evaluate.Judge] = {}
    calibrations = dict(manifest.calibrations)
    if trained.discriminator is not None:
        judges["discriminator"] = evaluate.Judge(partial(_logits, trained.discriminator, fitted))
        logits = [judges["discriminator"].logits(wines) for wines in (real, generated)]
        calibrations["discriminator"] = evaluate.calibrate(*logits, in_sample=len(rows.holdout) == 0)
    if criticism is not None:
        others = critic.unseen_negatives(real, rows.train, partial(pour, sampler, NEGATIVES_SEED), seed=NEGATIVES_SEED)
        judges["critic"] = evaluate.Judge(partial(_logits, criticism.critic, fitted), criticism.calibration, others)
    report = evaluate.report(generated, rows, judges, progress)
    notes = report.notes
    if criticism is None:
        notes = [*notes, f"fewer than {critic.MIN_WINES} different wines to train on: the model has no critic"]
    if trained.pool is not None:
        notes = [*notes, f"rows come from a pool of {len(trained.pool)}: stretches repeat them, and its critic may have seen those that it is measured on"]
    findings = dict(trained.findings)
    if trained.classifier is not None:
        findings["confidence"] = {name: _confidence(trained.classifier, fitted, wines) for name, wines in (("poured", generated), ("real", real))}
    if trained.autoencoder is not None:
        findings |= reconstruction(real, rows.train, partial(_reconstructed, trained.autoencoder, fitted))
    report = report.model_copy(update={"notes": notes, "findings": findings, "rows_per_cpu_s": _rows_per_cpu_s(sampler)})
    return manifest.model_copy(update={"report": report, "calibrations": calibrations})


def measure_classifier(manifest: Manifest, trained: Trained, *, rows: Split, fitted: codec.Codec, progress: Callable[[float], None]) -> Manifest:
    """The manifest of a model that pours nothing, with the report of its classifier where it has one."""
    if trained.classifier is None:
        report = manifest.report.model_copy(update={"notes": [f"method {manifest.method!r} neither generates wines nor rates them: nothing was measured"]})
    else:
        report = classification(partial(_qualities, trained.classifier, fitted), rows, progress)
    return manifest.model_copy(update={"report": report.model_copy(update={"findings": report.findings | trained.findings})})


def pour(sampler: Sampler, seed: int, n: int) -> Wines:
    """The first ``n`` rows of a table of the model, poured exactly as the API will pour them."""
    return sampler.wines(Condition(), seed=seed, offset=0, n=max(n, 1)).take(slice(n))


def _qualities(classifier: Classifier, fitted: codec.Codec, wines: Wines) -> Floats:
    """The probability that the classifier gives to each score from 0 to 10, (rows, 11)."""
    inputs = torch.from_numpy(fitted.scores(wines)), torch.from_numpy(codec.neutral_condition(wines.red))
    return forward(lambda fields, neutral: classifier.cpu()(fields, neutral).softmax(1), *inputs)


def _confidence(classifier: Classifier, fitted: codec.Codec, wines: Wines) -> float:
    """The mean probability that the classifier gives to the quality that each wine goes by."""
    return float(_qualities(classifier, fitted, wines)[np.arange(len(wines)), wines.quality].mean())


def _reconstructed(autoencoder: Autoencoder, fitted: codec.Codec, wines: Wines) -> Wines:
    """What is left of wines that went through the bottleneck."""
    fields, condition = torch.from_numpy(fitted.scores(wines)), torch.from_numpy(codec.condition(wines.quality, wines.red))

    def through(fields: Tensor, condition: Tensor) -> Tensor:
        uniform: Tensor = ndtr(autoencoder.decoder(autoencoder.encoder(fields, condition), condition))
        return uniform

    u = forward(through, fields, condition).astype(np.float32)
    return Wines(codec.Decoder(fitted)(u, wines.red), wines.quality, wines.red)


def _rows_per_cpu_s(sampler: Sampler) -> float:
    pour(sampler, SPEED_SEED, BLOCK)  # the first block also builds tables
    start = time.process_time()
    pour(sampler, SPEED_SEED, SPEED_ROWS)
    return round(SPEED_ROWS / (time.process_time() - start), 1)


def _logits(judge: Panel | Critic, fitted: codec.Codec, wines: Wines) -> Floats:
    inputs = torch.from_numpy(fitted.scores(wines)), torch.from_numpy(codec.condition(wines.quality, wines.red))
    return forward(judge.cpu(), *inputs)


@torch.no_grad()
def forward(net: Callable[[Tensor, Tensor], Tensor], first: Tensor, second: Tensor) -> Floats:
    """The outputs of a network over all rows, ``CHUNK`` at a time, as float64."""
    parts = [net(a, b) for a, b in zip(torch.split(first, CHUNK), torch.split(second, CHUNK), strict=True)]
    return torch.cat(parts).double().numpy()
