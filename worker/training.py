"""What a method is given: rows as tensors, and the run that it reports to. Methods do no I/O of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np
import torch
from torch import Tensor, nn
from torch.special import ndtri

from app.codec import Codec, condition, neutral_condition
from app.marginals import EDGE_U
from app.wine import Wines
from worker.nets import Classifier, Panel, Source

Metrics = dict[str, float]
Level = Literal["info", "warning"]


class Run(Protocol):
    """One training run as its method sees it."""

    device: torch.device
    seed: int
    resume: bytes | None  # the checkpoint to go on from
    classifier: bytes | None  # weights of the registered classifier to start from

    def tick(self, step: int, steps: int, *, metrics: Callable[[], Metrics], state: Callable[[], bytes] | None) -> None:
        """To be called after every step; asks for metrics (which may sync) or state only when it is time for them.

        ``state`` is None in a phase that is done again rather than resumed. ``Stopped`` if this step shall be the last.
        """


CLASSIFIER, GENERATOR, AUTOENCODER = range(3)  # roles of networks whose weights are drawn


def seeded(seed: int, *place: int) -> int:
    """A seed of 32 bits for one part of what a seed of any size stands for: torch's generator on the CPU looks at no more, and parts must not start alike."""
    return int(np.random.SeedSequence(seed, spawn_key=place).generate_state(1)[0])


def randomness(run: Run) -> torch.Generator:
    """The one source of randomness of a run's training."""
    return torch.Generator(run.device).manual_seed(seeded(run.seed))


@contextmanager
def weights_of(run: Run, role: int, nth: int = 0) -> Iterator[None]:
    """Networks that are built within draw their weights from the run's seed, for the ``nth`` in this role."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seeded(run.seed, role, nth))
        yield


Findings = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Autoencoder:
    """Two networks and the space between them, scaled so that the encoded training wines spread by about 1 along every latent.

    ``encoder``: fields (rows, 11), condition (rows, 8) -> latent (rows, k). ``decoder``: latent, condition -> fields.
    """

    encoder: nn.Module
    decoder: nn.Module
    latents: int


@dataclass(frozen=True)
class Trained:
    """What a method leaves behind; what it has no use for is None.

    Rows come from ``source``, and are given the training marginals where ``recalibrate``; or from ``pool`` where no network
    pours them. ``findings`` are figures of the method's
    own, for the report: what was measured -> of what -> value.
    """

    classifier: Classifier | None = None
    discriminator: Panel | None = None
    source: Source | None = None
    autoencoder: Autoencoder | None = None
    pool: Wines | None = None
    recalibrate: bool = False
    findings: Findings = field(default_factory=dict)

    def nets(self) -> list[nn.Module]:
        """All networks in it."""
        inner = (self.autoencoder.encoder, self.autoencoder.decoder) if self.autoencoder else ()
        return [net for net in (self.classifier, self.discriminator, self.source, *inner) if net is not None]


class Stopped(Exception):
    """The training was asked to stop, and has saved what can be resumed."""


class TrainingRefused(Exception):
    """The job can't succeed however often it is tried; the message is for the user."""


@dataclass(frozen=True)
class Batch:
    """Shape: ``fields`` (rows, 11) normal scores, ``quality`` (rows,) int64, ``condition`` and ``neutral`` (rows, 8).

    ``neutral`` is the condition without the score, for the classifier.
    """

    fields: Tensor
    quality: Tensor
    condition: Tensor
    neutral: Tensor


class TrainingSet:
    """The training rows on the device, moved there once; each batch draws the place of a value within its tie anew.

    ``wines`` and ``codec`` are the same rows as they came, and the codec that was fitted to them.
    """

    def __init__(self, wines: Wines, codec: Codec, device: torch.device) -> None:
        self.wines, self.codec = wines, codec
        below, width = codec.intervals(wines)
        self._below = torch.tensor(below, device=device)  # (rows, 11)
        self._width = torch.tensor(width, device=device)
        self._quality = torch.tensor(wines.quality, device=device)
        self._condition = torch.tensor(condition(wines.quality, wines.red), device=device)  # (rows, 8)
        self._neutral = torch.tensor(neutral_condition(wines.red), device=device)

    def batch(self, size: int, random: torch.Generator) -> Batch:
        """``size`` rows drawn with replacement, as normal scores of the randomised rank transform."""
        device = self._below.device
        return self._placed(torch.randint(len(self._below), (size,), generator=random, device=device), random)

    def of_type(self, red: bool, size: int, random: torch.Generator) -> Batch:
        """Likewise, but rows of one type only, of which there must be one at least."""
        own = torch.from_numpy(np.flatnonzero(self.wines.red == red)).to(self._below.device)
        return self._placed(own[torch.randint(len(own), (size,), generator=random, device=own.device)], random)

    def _placed(self, pick: Tensor, random: torch.Generator) -> Batch:
        device, size = self._below.device, len(pick)
        place = torch.rand((size, self._below.shape[1]), generator=random, device=device)
        u = (self._below[pick] + place * self._width[pick]).clamp(EDGE_U, 1 - EDGE_U)
        return Batch(ndtri(u), self._quality[pick], self._condition[pick], self._neutral[pick])
