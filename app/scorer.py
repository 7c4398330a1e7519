"""Rows -> how real they look and which quality they deserve, by the judges and the classifier of a model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from app import codec, copula
from app.bundle import CLASSIFIER, CRITIC, DISCRIMINATOR, Bundle, Calibration
from app.codec import CONDITION, FIELDS
from app.copula import Reason
from app.errors import BundleInvalid, Conflict, Fault, InvalidInput
from app.inference import session
from app.wine import TYPES, Floats, Wines

BLOCK = 32  # rows; networks always see this many, so a row's score does not depend on its neighbours
GRAPHS = {"discriminator": DISCRIMINATOR, "critic": CRITIC}  # the judges, by the name of their calibration
INPUTS = {"fields": len(FIELDS), "condition": CONDITION}  # of every judge: columns of each

Inputs = dict[str, NDArray[np.float32]]


@dataclass(frozen=True)
class Scores:
    """Each (rows,); None for what the model has no network for. Only ``predicted_quality``, on the tasters' scale, is not in [0, 1].

    ``discriminator`` and ``critic`` are calibrated, each against what it was taught to tell from real wines, so they
    answer two questions and differ. ``p_real`` is the critic's word where the model has one, else the
    discriminator's. ``percentile`` is the share of real wines, unseen by the critic, that look less real to it.
    """

    p_real: Floats | None
    discriminator: Floats | None
    critic: Floats | None
    percentile: Floats | None
    predicted_quality: NDArray[np.int64] | None


class _Judge:
    """One graph and its calibration."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        """``BundleInvalid`` if there is no calibration for the graph, or it wants other inputs than judges get."""
        calibration = bundle.manifest.calibrations.get(name)
        if calibration is None:
            raise BundleInvalid(f"expected a calibration for {GRAPHS[name]}, found those of {sorted(bundle.manifest.calibrations)}")
        self._session = session(bundle.parts[GRAPHS[name]])
        found = {i.name: i.shape[-1] for i in self._session.get_inputs()}
        if found != INPUTS:
            raise BundleInvalid(f"expected {GRAPHS[name]} to take the columns {INPUTS}, found {found}")
        self._calibration: Calibration = calibration

    def logits(self, inputs: Inputs) -> NDArray[np.float32]:
        """Of one block, (rows,)."""
        (logit,) = self._session.run(None, inputs)
        return np.asarray(logit)

    def p_real(self, logits: Floats) -> Floats:
        """Logits as calibrated probabilities, (rows,)."""
        return self._calibration.p_real(logits)


class Scorer:
    """Scores wines with one model. Building it starts an inference session for the classifier and one for each judge."""

    def __init__(self, bundle: Bundle) -> None:
        """``Conflict`` if the model has neither judge nor classifier, ``BundleInvalid`` if a judge does not fit."""
        self._judges = {name: _Judge(bundle, name) for name, part in GRAPHS.items() if part in bundle.parts}
        if not self._judges and CLASSIFIER not in bundle.parts:
            method = bundle.manifest.method
            lacking = "has neither critic, discriminator nor classifier to score with"
            raise Conflict(f"model {bundle.id} was trained by method {method!r} and {lacking}; GET /models lists others")
        self._ranks = np.array(bundle.manifest.ranks)
        if "critic" in self._judges and (len(self._ranks) < 2 or (np.diff(self._ranks) < 0).any()):
            raise BundleInvalid(f"expected at least 2 rising ranks beside {CRITIC}, found {len(self._ranks)}")
        self._types = [t for t in TYPES if bundle.manifest.labels.get(t)]
        self._codec = codec.from_state(bundle.manifest.codec)
        self._copulas = copula.from_state(bundle.manifest.copulas)
        self._id = bundle.id
        self._classifier = session(bundle.parts[CLASSIFIER]) if CLASSIFIER in bundle.parts else None

    @property
    def columns(self) -> set[str]:
        """The fields of ``Scores`` that this model can tell."""
        told = {*self._judges, *({"p_real"} if self._judges else ())} | ({"percentile"} if "critic" in self._judges else set())
        return told | ({"predicted_quality"} if self._classifier else set())

    def score(self, wines: Wines) -> Scores:
        """Scores of all rows; ``InvalidInput`` for a type that the model never saw."""
        self.check(wines)
        logits = {name: np.empty(len(wines)) for name in self._judges}
        quality = np.empty(len(wines), dtype=np.int64) if self._classifier else None
        for first in range(0, len(wines), BLOCK):
            part = wines.take(slice(first, first + BLOCK))
            at = slice(first, first + len(part))
            fields = _filled(self._codec.scores(part))
            asked = {"fields": fields, "condition": _filled(codec.condition(part.quality, part.red))}
            for name, judge in self._judges.items():
                logits[name][at] = judge.logits(asked)[: len(part)]
            if self._classifier is not None and quality is not None:
                (qualities,) = self._classifier.run(None, {"fields": fields, "condition": _filled(codec.neutral_condition(part.red))})
                quality[at] = _expected(qualities[: len(part)])
        said = {name: judge.p_real(logits[name]) for name, judge in self._judges.items()}
        discriminator, critic = said.get("discriminator"), said.get("critic")
        percentile = np.interp(logits["critic"], self._ranks, np.linspace(0, 1, len(self._ranks))) if critic is not None else None
        return Scores(discriminator if critic is None else critic, discriminator, critic, percentile, quality)

    def reasons(self, wines: Wines) -> list[list[Reason]]:
        """What looks off about each wine, the strongest first; ``Conflict`` if the model is too old to tell, ``InvalidInput`` as ``score``."""
        self.check_reasons()
        self.check(wines)
        return copula.reasons(self._copulas, wines)

    def check_reasons(self) -> None:
        """``Conflict`` if the model is too old to give ``reasons``."""
        if not self._copulas:
            raise Conflict(f"model {self._id} was made before models could give reasons; train it again, or leave out explain")

    def check(self, wines: Wines, *, first: int = 0) -> None:
        """``InvalidInput`` for a type that the model never saw, by its row; rows are counted from ``first``."""
        for red in np.unique(wines.red):
            if (name := TYPES[int(red)]) not in self._types:
                row = first + int(np.flatnonzero(wines.red == red)[0])
                detail = f"this model was trained without any {name} wine, so it can't score one"
                raise InvalidInput(detail, [Fault(f"/body/rows/{row}/type", detail, expected=" or ".join(self._types), found=name)])


def _expected(logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The expected score, rounded, (rows,), from logits of each, (rows, 11): more often right than the most probable one (docs/experiments.md, 30)."""
    odds = np.exp(logits.astype(np.float64) - logits.max(1, keepdims=True))
    return np.asarray(np.rint((odds * np.arange(logits.shape[1])).sum(1) / odds.sum(1)), dtype=np.int64)


def _filled(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``rows``, (n, columns), followed by zeros up to ``BLOCK`` rows."""
    return np.concatenate([rows, np.zeros((BLOCK - len(rows), rows.shape[1]), dtype=np.float32)])
