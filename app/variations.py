"""A wine or two -> wines near it, or on the way from one to the other: steps in the latent space of an autoencoder.

One latent unit is one standard deviation of the training wines, along every dimension. What comes back is decoded, so
it lies on the grid and free SO2 stays within the total; and it is a pure function of what was asked: networks always
see whole blocks, and the noise of row ``i`` is addressable (``app.noise``), so a row near a wine is the same whatever
``n`` is, and farther out on the same line with more spread.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from app import codec, noise
from app.bundle import DECODER, ENCODER, Bundle
from app.codec import CONDITION, FIELDS
from app.errors import BundleInvalid, Conflict, Fault, InvalidInput
from app.inference import session
from app.sampler import RARE
from app.wine import TYPES, Wines

BLOCK = 32  # rows; networks always see this many
NOISE_UNIT = 16  # noise components come in multiples of it
TRAIN_ONE = 'train one: POST /train with {"method": "autoencoder"}'

Latents = NDArray[np.float32]  # (rows, latents)


class Variations:
    """The latent space of one model. Building it starts two inference sessions; asking it for rows keeps no state."""

    def __init__(self, bundle: Bundle) -> None:
        """``Conflict`` if the model has no encoder and decoder, ``BundleInvalid`` if they do not fit the manifest."""
        manifest = bundle.manifest
        if not {ENCODER, DECODER} <= bundle.parts.keys():
            raise Conflict(f"model {bundle.id} was trained by method {manifest.method!r} and has no latent space to walk in; {TRAIN_ONE}")
        self._encoder, self._decoder = session(bundle.parts[ENCODER]), session(bundle.parts[DECODER])
        for part, graph, first in ((ENCODER, self._encoder, {"fields": len(FIELDS)}), (DECODER, self._decoder, {"latent": manifest.latents})):
            expected, found = first | {"condition": CONDITION}, {i.name: i.shape[-1] for i in graph.get_inputs()}
            if found != expected:
                raise BundleInvalid(f"expected {part} to take the columns {expected}, found {found}")
        self._latents = manifest.latents
        self._labels = manifest.labels
        self._codec = codec.from_state(manifest.codec)
        self._decode = codec.Decoder(self._codec)

    def check(self, wines: Wines, *, quality: int | None) -> list[str]:
        """What the asker should know, in words; ``InvalidInput`` for wines of types or scores that the model can't vary.

        Two wines must be of one type: a field is a rank within its type, so a path across would leap where the type changes.
        """
        names = [TYPES[int(red)] for red in wines.red]
        known = [t for t in TYPES if self._labels.get(t)]
        for row, name in enumerate(names):
            if name not in known:
                detail = f"this model was trained without any {name} wine, so it can't vary one"
                raise InvalidInput(detail, [Fault(f"/body/rows/{row}/type", detail, expected=" or ".join(known), found=name)])
        if len(set(names)) > 1:
            detail = "rows: expected two wines of one type, found a red and a white one: no wine lies between them"
            raise InvalidInput(detail, [Fault("/body/rows/1/type", detail, expected=names[0], found=names[1])])
        if quality is not None:
            return self._check_score(names[0], quality, "/body/quality")
        ends = wines.quality.tolist()
        warnings = [warning for row, score in enumerate(ends) for warning in self._check_score(names[row], score, f"/body/rows/{row}/quality")]
        for score in range(min(ends) + 1, max(ends)):  # a path goes through them
            warnings += self._check_score(names[0], score, "/body/rows")
        return warnings

    def _check_score(self, name: str, score: int, pointer: str) -> list[str]:
        held = self._labels[name]
        if not held.get(score):
            expected = f"one that is there ({', '.join(map(str, sorted(held)))})"
            detail = f"the training data hold no {name} wine of quality {score}; ask for another with quality"
            raise InvalidInput(detail, [Fault(pointer, detail, expected=expected, found=str(score))])
        return [f"quality {score} rests on {held[score]} training rows only"] if held[score] < RARE else []

    def encode(self, wines: Wines) -> Latents:
        """Where the wines lie, (rows, latents), each by its own type and quality."""
        fields, condition = self._codec.scores(wines), codec.condition(wines.quality, wines.red)
        latents = np.empty((len(wines), self._latents), dtype=np.float32)
        for row in range(len(wines)):  # one or two, each the first of a block, so that neither depends on the other
            inputs = {"fields": _filled(fields[row : row + 1]), "condition": _filled(condition[row : row + 1])}
            latents[row] = self._encoder.run(None, inputs)[0][0]
        return latents

    def decode(self, latents: Latents, quality: NDArray[np.int64], red: NDArray[np.bool_]) -> Wines:
        """The wine that each point stands for, of these labels, both (rows,)."""
        condition, ticks = codec.condition(quality, red), np.empty((len(latents), len(FIELDS)), dtype=np.int32)
        for first in range(0, len(latents), BLOCK):
            part = slice(first, min(first + BLOCK, len(latents)))
            (u,) = self._decoder.run(None, {"latent": _filled(latents[part]), "condition": _filled(condition[part])})
            ticks[part] = self._decode(u[: part.stop - first], red[part])
        return Wines(ticks, quality, red)

    def missed(self, wines: Wines) -> list[float]:
        """How far each wine is from its own reconstruction: mean absolute difference of its fields, in normal scores (standard deviations, about)."""
        again = self.decode(self.encode(wines), wines.quality, wines.red)
        errors: list[float] = np.abs(self._codec.scores(again) - self._codec.scores(wines)).mean(1).astype(np.float64).tolist()
        return errors

    def vary(self, wines: Wines, *, n: int, spread: float, quality: int | None, seed: int) -> Wines:
        """``n`` wines near one wine, or along the straight way between two, ends included.

        Each lies ``spread`` latent units off in a random direction (times a standard normal number along every
        dimension). On the way the quality goes along, rounded, unless it is given.
        """
        ends = self.encode(wines)
        way = np.linspace(0, 1, n, dtype=np.float32) if len(wines) > 1 else np.zeros(n, dtype=np.float32)
        dims = -(-self._latents // NOISE_UNIT) * NOISE_UNIT
        off = noise.draw(seed, 0, n, dims=dims).latent[:, : self._latents]
        latents = (1 - way[:, None]) * ends[0] + way[:, None] * ends[-1] + np.float32(spread) * off
        first, last = wines.quality[[0, -1]]
        scores = np.floor((1 - way) * first + way * last + 0.5) if quality is None else np.full(n, quality)
        return self.decode(latents.astype(np.float32), scores.astype(np.int64), np.full(n, bool(wines.red[0])))


def _filled(rows: NDArray[np.float32]) -> NDArray[np.float32]:
    """``rows``, (n, columns), followed by zeros up to ``BLOCK`` rows."""
    return np.concatenate([rows, np.zeros((BLOCK - len(rows), rows.shape[1]), dtype=np.float32)])
