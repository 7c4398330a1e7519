"""``classifier``: the quality of a wine from its eleven measurements and its type; plain cross-entropy.

Trained alone, its learning rate falls to nothing along a cosine (Loshchilov and Hutter, *SGDR*, ICLR 2017): R2 .40 on wines never seen, where
the steady rate that other methods start from leaves .38. Ordinal losses gain less (docs/experiments.md, 30).
"""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from app.params import ClassifierParams, FromClassifierParams
from worker.checkpoint import Trainees, load_weights
from worker.losses import quality_cross_entropy
from worker.nets import Classifier, Trunk
from worker.training import CLASSIFIER, Batch, Metrics, Run, Trained, TrainingRefused, TrainingSet, randomness, weights_of


def train(data: TrainingSet, params: ClassifierParams, run: Run) -> Trained:
    """A classifier trained on ``data``; bit for bit the same for the same seed on the same CPU, resumed or not."""
    random = randomness(run)
    net = build(params, run)
    adam = optimizer(net, params)
    trainees = Trainees({"classifier": net}, {"classifier": adam}, random)
    start = trainees.load(run.resume) if run.resume else 0
    for step in range(start + 1, params.classifier_steps + 1):
        adam.param_groups[0]["lr"] = params.classifier_lr * (1 + math.cos(math.pi * (step - 1) / params.classifier_steps)) / 2
        loss = learn(net, adam, blurred(data.batch(params.batch, random), params, random))
        run.tick(step, params.classifier_steps, metrics=partial(metrics, loss), state=partial(trainees.save, step))
    return Trained(classifier=net)


def first(data: TrainingSet, params: FromClassifierParams, random: torch.Generator, run: Run, *, steps_after: int) -> Classifier:
    """The classifier that a run starts from, its weights frozen: the named one, or one trained now, before ``steps_after`` more steps.

    A resumed run finds its weights in the checkpoint, which must hold it. ``TrainingRefused`` if the named one has another shape than ``params``.
    """
    net = build(params, run)
    if run.classifier is not None:
        take_over(net, run.classifier)
    elif run.resume is None:
        pretrain(net, data, params, random, run, after=0, steps=params.classifier_steps + steps_after)
    return net.eval().requires_grad_(False)


def take_over(net: Classifier, weights: bytes) -> None:
    """Gives the classifier the weights of a registered one; ``TrainingRefused`` if they have another shape."""
    try:
        load_weights(net, weights)
    except RuntimeError as error:
        raise TrainingRefused(f"the classifier to start from has another shape than channels, blocks and hidden ask for: {error}") from error


def pretrain(net: Classifier, data: TrainingSet, params: ClassifierParams, random: torch.Generator, run: Run, *, after: int, steps: int) -> None:
    """Trains a classifier that something else starts from; ``after`` so many of the run's ``steps``."""
    adam = optimizer(net, params)
    for step in range(1, params.classifier_steps + 1):
        loss = learn(net, adam, blurred(data.batch(params.batch, random), params, random))
        run.tick(after + step, steps, metrics=partial(metrics, loss), state=None)


def build(params: ClassifierParams, run: Run, *, nth: int = 0, kind: type[Trunk] = Trunk) -> Classifier:
    """An untrained classifier of the shape that ``params`` ask for, its weights drawn from the run's seed and ``nth``."""
    with weights_of(run, CLASSIFIER, nth):
        trunk = kind(channels=params.channels, blocks=params.blocks, hidden=params.hidden)
        return Classifier(trunk).to(run.device)


def optimizer(net: Classifier, params: ClassifierParams) -> torch.optim.Optimizer:
    """Adam at its usual settings."""
    return torch.optim.Adam(net.parameters(), lr=params.classifier_lr, fused=True)


def blurred(batch: Batch, params: ClassifierParams, random: torch.Generator) -> Batch:
    """The batch with noise on its fields: on wines never seen, R2 .37 after 300 steps where .30 was had without it after 600."""
    noise = torch.randn(batch.fields.shape, generator=random, device=batch.fields.device)
    return replace(batch, fields=batch.fields + params.classifier_noise * noise)


def learn(net: Classifier, adam: torch.optim.Optimizer, batch: Batch) -> Tensor:
    """One step; the loss, detached and still on the device."""
    loss = quality_cross_entropy(net(batch.fields, batch.neutral), batch.quality)
    adam.zero_grad()
    loss.backward()  # type: ignore[no-untyped-call]
    adam.step()
    return loss.detach()


def metrics(loss: Tensor) -> Metrics:
    """What a watcher sees; waits for the device."""
    return {"classifier_loss": loss.item()}
