"""Rows -> how real they look and which quality they deserve, by the judges and the classifier of a model."""

from __future__ import annotations

import itertools
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

WIDTHS = 256, 64, 16, 4  # rows that networks are shown at once, as far as a row's score does not depend on its neighbours then
ALONE = 32  # rows, always as many, where it would
FULL = 0.9  # of a block, from which on it is cheaper than the narrower ones that its rows would make
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


class _Graph:
    """A network over any number of rows, each of which gets the bits that it would get alone."""

    def __init__(self, bundle: Bundle, part: str) -> None:
        """``BundleInvalid`` if the network wants other inputs than wines have."""
        self._session = session(bundle.parts[part])
        found = {i.name: i.shape[-1] for i in self._session.get_inputs()}
        if found != INPUTS:
            raise BundleInvalid(f"expected {part} to take the columns {INPUTS}, found {found}")
        self._widths = WIDTHS if self._are_alike(WIDTHS) else (ALONE,)

    def __call__(self, inputs: Inputs) -> NDArray[np.float32]:
        """What the network says of each row, (rows,) or (rows, outputs)."""
        first, rows = 0, len(inputs["fields"])
        padded = {name: np.concatenate([given, np.zeros((self._widths[0], given.shape[1]), dtype=np.float32)]) for name, given in inputs.items()}
        said: list[NDArray[np.float32]] = []
        while first < rows or not said:  # of no rows too: the network alone knows what shape its word has
            width = next((width for width in self._widths if rows - first >= FULL * width), self._widths[-1])
            said.append(self._at(padded, first, width))
            first += width
        return np.concatenate(said)[:rows]

    def _at(self, inputs: Inputs, first: int, width: int) -> NDArray[np.float32]:
        (said,) = self._session.run(None, {name: given[first : first + width] for name, given in inputs.items()})
        return np.asarray(said)

    def _are_alike(self, widths: tuple[int, ...]) -> bool:
        """Whether blocks of these widths, falling, give the same bits here: products of another shape may be summed in another order.

        That order does not depend on the numbers, so one try with any numbers tells.
        """
        random = np.random.Generator(np.random.Philox(0))
        inputs = {name: random.standard_normal((widths[0], columns), dtype=np.float32) for name, columns in INPUTS.items()}
        pairs = itertools.pairwise(widths)
        return all(
            np.array_equal(self._at(inputs, 0, wide), np.concatenate([self._at(inputs, first, narrow) for first in range(0, wide, narrow)]))
            for wide, narrow in pairs
        )


class _Judge:
    """A graph and its calibration."""

    def __init__(self, bundle: Bundle, name: str) -> None:
        """``BundleInvalid`` if there is no calibration for the graph, or as ``_Graph``."""
        calibration = bundle.manifest.calibrations.get(name)
        if calibration is None:
            raise BundleInvalid(f"expected a calibration for {GRAPHS[name]}, found those of {sorted(bundle.manifest.calibrations)}")
        self.logits = _Graph(bundle, GRAPHS[name])
        self._calibration: Calibration = calibration

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
        self._classifier = _Graph(bundle, CLASSIFIER) if CLASSIFIER in bundle.parts else None

    @property
    def columns(self) -> set[str]:
        """The fields of ``Scores`` that this model can tell."""
        told = {*self._judges, *({"p_real"} if self._judges else ())} | ({"percentile"} if "critic" in self._judges else set())
        return told | ({"predicted_quality"} if self._classifier else set())

    def score(self, wines: Wines) -> Scores:
        """Scores of all rows; ``InvalidInput`` for a type that the model never saw."""
        self.check(wines)
        fields = self._codec.scores(wines)
        inputs = {"fields": fields, "condition": codec.condition(wines.quality, wines.red)}
        logits = {name: judge.logits(inputs).astype(np.float64) for name, judge in self._judges.items()}
        quality = None
        if self._classifier is not None:
            quality = _expected(self._classifier({"fields": fields, "condition": codec.neutral_condition(wines.red)}))
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
