"""``inversion``: noise, moved by gradient descent on the *input* until the classifier, whose weights stand still, is sure.

Simonyan, Vedaldi and Zisserman, *Deep inside convolutional networks*, ICLR 2014 workshop, section 2: their L2 prior on
the input, but the cross-entropy of the wanted quality where they take its raw score, for the probability is what is
asked for. Without the prior it is also how Szegedy et al., *Intriguing properties of neural networks*, ICLR 2014, came
upon adversarial examples. It works in the space of normal scores, where a wine of the training rows is a standard
normal in each field.
"""

from __future__ import annotations

import time
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from torch.special import ndtr, ndtri

from app.codec import FIELDS, Decoder, neutral_condition
from app.marginals import EDGE_U
from app.params import InversionParams
from app.wine import Floats, Wines
from worker import pool
from worker.checkpoint import Trainees
from worker.methods import classifier as classifier_method
from worker.nets import Classifier
from worker.training import Metrics, Run, Trained, TrainingSet, randomness


class _Inputs(nn.Module):
    """What is learnt here, as buffers, so that a checkpoint holds it.

    Shape: ``fields`` (rows, 11) normal scores; ``at_first`` (rows,) the confidence before any step; ``cpu_s`` scalar.
    """

    fields: Tensor
    at_first: Tensor
    cpu_s: Tensor

    def __init__(self, fields: Tensor, at_first: Tensor) -> None:
        super().__init__()
        self.register_buffer("fields", fields)
        self.register_buffer("at_first", at_first)
        self.register_buffer("cpu_s", torch.zeros((), dtype=torch.float64))


def train(data: TrainingSet, params: InversionParams, run: Run) -> Trained:
    """A pool of inputs that excite the classifier; the same for the same seed on the same CPU, resumed or not.

    ``TrainingRefused`` if the run's classifier has another shape than ``params`` ask for.
    """
    random = randomness(run)
    classifier = classifier_method.first(data, params, random, run, steps_after=params.steps)
    counts = pool.quotas(data.wines, params.pool)
    quality, red = pool.labels(counts)
    wanted, neutral = torch.tensor(quality, device=run.device), torch.tensor(neutral_condition(red), device=run.device)
    noise = params.noise * torch.randn((len(quality), len(FIELDS)), generator=random, device=run.device)
    inputs = _Inputs(noise, _confidence(classifier, noise, neutral, wanted))
    trainees = Trainees({"classifier": classifier, "inputs": inputs}, {}, random)
    start = trainees.load(run.resume) if run.resume else 0
    before = params.classifier_steps if run.classifier is None else 0
    for step in range(start + 1, params.steps + 1):
        began = time.process_time()
        loss = descend(classifier, inputs.fields, neutral, wanted, params)
        inputs.cpu_s += time.process_time() - began
        run.tick(before + step, before + params.steps, metrics=partial(_metrics, loss), state=partial(trainees.save, step))
    wines = Wines(Decoder(data.codec)(ndtr(inputs.fields).cpu().numpy(), red), quality, red)
    after = pool.probabilities(classifier, data.codec, wines)[np.arange(len(wines)), quality]
    findings = {
        "confidence at the start": _by_label(inputs.at_first.cpu().double().numpy(), wines),
        "confidence before rounding": _by_label(_confidence(classifier, inputs.fields, neutral, wanted).cpu().double().numpy(), wines),
        "confidence after rounding": _by_label(after.astype(np.float64), wines),
        "beyond the training range": _beyond(inputs.fields),
        "rows in pool": pool.by_label(counts, counts > 0),
        "cpu seconds per row": {"all": float(inputs.cpu_s) / len(wines)},
    }
    return Trained(classifier=classifier, pool=wines, findings=findings)


def descend(classifier: Classifier, fields: Tensor, neutral: Tensor, wanted: Tensor, params: InversionParams) -> Tensor:
    """One step of all rows, (rows, 11), in place; the mean loss, detached. Sums, not means: a row moves as if it were alone."""
    total = torch.zeros((), device=fields.device)
    for x, condition, quality in zip(*(torch.split(given, pool.CHUNK) for given in (fields, neutral, wanted)), strict=True):
        at = x.clone().requires_grad_()
        loss = cross_entropy(classifier(at, condition), quality, reduction="sum") + params.prior / 2 * at.square().sum()
        (gradient,) = torch.autograd.grad(loss, at)
        x.sub_(params.step_size * gradient)  # a view: this moves the rows of ``fields``
        total += loss.detach()
    return total / len(fields)


@torch.no_grad()
def _confidence(classifier: Classifier, fields: Tensor, neutral: Tensor, wanted: Tensor) -> Tensor:
    """The probability of the wanted quality, (rows,)."""
    chunks = zip(torch.split(fields, pool.CHUNK), torch.split(neutral, pool.CHUNK), strict=True)
    p = torch.cat([classifier(x, condition).softmax(1) for x, condition in chunks])
    return p.gather(1, wanted[:, None]).squeeze(1)


def _metrics(loss: Tensor) -> Metrics:
    return {"input_loss": loss.item()}


def _by_label(values: Floats, wines: Wines) -> dict[str, float]:
    """The mean of values, (rows,), for each label and for all."""
    sums, counts = np.zeros(pool.LABELS), np.zeros(pool.LABELS)
    np.add.at(sums, (wines.red.astype(np.int64), wines.quality), values)
    np.add.at(counts, (wines.red.astype(np.int64), wines.quality), 1)
    return pool.by_label(sums / np.maximum(counts, 1), counts > 0) | {"all": float(values.mean())}


def _beyond(fields: Tensor) -> dict[str, float]:
    """The share of rows whose score is beyond any that training saw, for each field: decoded, they stop at the end of the range."""
    limit = float(ndtri(torch.tensor(1 - EDGE_U, dtype=torch.float64)))
    shares = (fields.abs() > limit).double().mean(0).tolist()
    return dict(zip(FIELDS, shares, strict=True))
