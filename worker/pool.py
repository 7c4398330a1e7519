"""Rows made in advance, for methods that no network can pour from: how many of which label, and figures by label.

A *label* is a type and a quality; what is known of all labels is an array (2, 11), as in ``app.sampler.label_counts``.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray

from app.codec import Codec, neutral_condition
from app.wine import QUALITY_RANGE, TYPES, Floats, Ints, Wines
from worker.nets import Classifier

LABELS = (len(TYPES), QUALITY_RANGE[1] + 1)
LEAST_SHARE = 1 / 200  # of a pool, for each label: in the training mix alone a quality of five wines would be eight rows of 10,000, poured again and again
CHUNK = 512  # rows through a classifier at once: what they leave fits the cache, so it is twice as fast as 4,096


def quotas(train: Wines, rows: int) -> Ints:
    """How many of about ``rows`` rows each label gets, (2, 11): as in training, but ``LEAST_SHARE`` at least where training holds any."""
    counts = np.zeros(LABELS)
    np.add.at(counts, (train.red.astype(np.int64), train.quality), 1)
    shares = np.where(counts > 0, np.maximum(counts / len(train), LEAST_SHARE), 0)
    return np.asarray(np.ceil(rows * shares), dtype=np.int64)


def labels(counts: Ints) -> tuple[Ints, NDArray[np.bool_]]:
    """Quality and type of so many rows of each label, both (rows,), label by label."""
    red, quality = np.nonzero(counts)
    repeats = counts[red, quality]
    return np.repeat(quality, repeats), np.repeat(red, repeats) == 1


def by_label(values: NDArray[np.int64] | Floats, where: NDArray[np.bool_]) -> dict[str, float]:
    """Values of labels, (2, 11), by their names (``white 5``), for those labels where a value has a meaning."""
    return {f"{TYPES[red]} {quality}": float(values[red, quality]) for red, quality in zip(*np.nonzero(where), strict=True)}


@torch.no_grad()
def probabilities(classifier: Classifier, codec: Codec, wines: Wines) -> NDArray[np.float32]:
    """The probability of each quality from 0 to 10, (rows, 11), as the classifier sees it, on whatever device it is."""
    device = next(classifier.parameters()).device
    fields, neutral = torch.from_numpy(codec.scores(wines)).to(device), torch.from_numpy(neutral_condition(wines.red)).to(device)
    chunks = zip(torch.split(fields, CHUNK), torch.split(neutral, CHUNK), strict=True)
    return torch.cat([classifier(x, condition).softmax(1) for x, condition in chunks]).cpu().numpy()
