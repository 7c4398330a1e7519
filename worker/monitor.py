"""How good rows are while a network still learns: a cheap look now and then, which leaves no trace in the training.

It draws from a source of randomness of its own, so that a training that was watched ends in the same weights as one that was not.
"""

from __future__ import annotations

import time
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor
from torch.special import ndtr

from app import codec
from app.wine import Wines
from worker.evaluate.likeness import spearman_gap
from worker.nets import Generator
from worker.training import Metrics, TrainingSet

ROWS = 2000  # to look at; that many of 5,198 training rows, drawn at random, have a gap of .016 to all: so much is chance
CPU_SHARE = 0.01  # of what the training has taken, that looks may take
SEED = 0  # of the labels and the noise, the same at each look: what changes between two is the networks


class Monitor:
    """Looks at what generators pour: equally many rows of each, of qualities and types as among the training rows."""

    def __init__(self, data: TrainingSet, generators: Sequence[Generator]) -> None:
        self._wines, self._decoder, self._generators = data.wines, codec.Decoder(data.codec), generators
        pick = np.random.default_rng(SEED).integers(len(data.wines), size=ROWS // len(generators) * len(generators))
        self._labels = data.wines.take(pick)
        random = torch.Generator().manual_seed(SEED)
        self._noise = torch.randn((len(pick), generators[0].latent), generator=random)
        self._condition = torch.from_numpy(codec.condition(self._labels.quality, self._labels.red))
        self._began, self._spent = time.process_time(), 0.0
        self._seen: Metrics = {}

    def look(self) -> Metrics:
        """``spearman_gap`` of the rows to those trained on, as in the report, but of the generators as they are now.

        It is the one found last while another look would cost more than its share of the CPU time; nothing where a
        generator gives numbers that are not finite, which its losses tell too.
        """
        now = time.process_time()
        if self._spent <= CPU_SHARE * (now - self._began):
            self._seen = self._looked()
            self._spent += time.process_time() - now
        return self._seen

    def _looked(self) -> Metrics:
        fields = self._poured()
        if not bool(fields.isfinite().all()):
            return {}
        ticks = self._decoder(ndtr(fields).numpy(), self._labels.red)
        return {"spearman_gap": spearman_gap(self._wines, Wines(ticks, self._labels.quality, self._labels.red))}

    @torch.no_grad()
    def _poured(self) -> Tensor:
        """Fields of all rows, (rows, 11), on the CPU."""
        n = len(self._generators)
        shares = zip(self._generators, self._noise.chunk(n), self._condition.chunk(n), strict=True)
        return torch.cat([generator(z.to(generator.read.device), c.to(generator.read.device)).cpu() for generator, z, c in shares])
