"""Rows -> how real they look and which quality they deserve, by the discriminator and the classifier of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app import codec
from app.bundle import CLASSIFIER, DISCRIMINATOR, Bundle
from app.errors import Conflict, Fault, InvalidInput
from app.inference import session
from app.wine import TYPES, Wines

BLOCK = 32  # rows; networks always see this many, so a row's score does not depend on its neighbours


@dataclass(frozen=True)
class Scores:
    """``p_real`` (rows,) in [0, 1]; ``predicted_quality`` (rows,) on the tasters' scale."""

    p_real: NDArray[np.float64]
    predicted_quality: NDArray[np.int64]


class Scorer:
    """Scores wines with one model. Building it starts two inference sessions."""

    def __init__(self, bundle: Bundle) -> None:
        """``Conflict`` if the model has no discriminator."""
        calibration = bundle.manifest.calibration
        if calibration is None or DISCRIMINATOR not in bundle.parts:
            raise Conflict(
                f"model {bundle.id} was trained by method {bundle.manifest.method!r} and has no discriminator to score with; GET /models lists others"
            )
        self._calibration = calibration
        self._types = [t for t in TYPES if bundle.manifest.labels.get(t)]
        self._codec = codec.from_state(bundle.manifest.codec)
        self._discriminator = session(bundle.parts[DISCRIMINATOR])
        self._classifier = session(bundle.parts[CLASSIFIER])

    def score(self, wines: Wines) -> Scores:
        """Scores of all rows; ``InvalidInput`` for a type that the model never saw."""
        self._check_types(wines)
        logits, quality = np.empty(len(wines)), np.empty(len(wines), dtype=np.int64)
        for first in range(0, len(wines), BLOCK):
            part = wines.take(slice(first, first + BLOCK))
            at = slice(first, first + len(part))
            logits[at], quality[at] = self._block(part)
        return Scores(1 / (1 + np.exp(-(self._calibration.slope * logits + self._calibration.intercept))), quality)

    def _block(self, wines: Wines) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
        """Logit and most likely quality of at most ``BLOCK`` rows, each (rows,)."""
        fields = _filled(self._codec.scores(wines))
        condition = _filled(codec.condition(wines.quality, wines.red))
        neutral = _filled(codec.neutral_condition(wines.red))
        (logit,) = self._discriminator.run(None, {"fields": fields, "condition": condition})
        (qualities,) = self._classifier.run(None, {"fields": fields, "condition": neutral})
        return logit[: len(wines)], qualities[: len(wines)].argmax(1)

    def _check_types(self, wines: Wines) -> None:
        for red in np.unique(wines.red):
            if (name := TYPES[int(red)]) not in self._types:
                row = int(np.flatnonzero(wines.red == red)[0])
                detail = f"this model was trained without any {name} wine, so it can't score one"
                raise InvalidInput(detail, [Fault(f"/body/rows/{row}/type", detail, expected=" or ".join(self._types), found=name)])


def _filled(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``rows``, (n, columns), followed by zeros up to ``BLOCK`` rows."""
    return np.concatenate([rows, np.zeros((BLOCK - len(rows), rows.shape[1]), dtype=np.float32)])
