"""``gan``: a convolutional generator against the classifier turned discriminator.

The default recipe is R3GAN's (Huang et al., *The GAN is dead; long live the GAN!*, NeurIPS 2024): relativistic
pairing, R1 + R2, no normalisation; with instance noise that fades (Arjovsky and Bottou, ICLR 2017), gradient
penalties only every few steps (StyleGAN2's lazy regularisation, Karras et al., CVPR 2020) and an averaged generator
that is served (Yazici et al., ICLR 2019).
"""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import cast

import torch
from torch import Tensor

from app.params import GanParams
from worker import losses
from worker.checkpoint import Trainees, load_weights
from worker.methods import classifier as classifier_method
from worker.nets import Classifier, Discriminator, Generator
from worker.training import Batch, Metrics, Run, Trained, TrainingRefused, TrainingSet

BETAS = (0.0, 0.99)  # R3GAN, table 8: no momentum on the first moment
CONSTANT_UNTIL = 0.4  # share of the steps at the peak rate, before the cosine
FINAL_RATE = 0.03  # of the peak


class _Game:
    """The two players, their optimisers, and the average of the generator; a step of each is one short method."""

    def __init__(self, generator: Generator, discriminator: Discriminator, params: GanParams, random: torch.Generator) -> None:
        self.generator, self.discriminator = generator, discriminator
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self.generator_adam = torch.optim.Adam(generator.parameters(), lr=params.lr, betas=BETAS, fused=True)
        self.discriminator_adam = torch.optim.Adam(discriminator.parameters(), lr=params.lr, betas=BETAS, fused=True)
        self.params, self.random = params, random

    def discriminator_step(self, real: Batch, *, noise: float, penalise: bool) -> Tensor:
        """Teaches the discriminator on ``real`` rows and as many generated with the same labels; its loss, detached."""
        with torch.no_grad():
            generated = self._generate(real.condition)
        if self.params.loss == "wgan-gp":
            loss = self._wasserstein(real, generated, noise=noise, penalise=penalise)
        else:
            loss = self._classify(real, generated, noise=noise, penalise=penalise)
        self.discriminator_adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.discriminator_adam.step()
        return loss.detach()

    def generator_step(self, real: Batch, *, noise: float) -> Tensor:
        """Teaches the generator against a discriminator that stands still; its loss, detached."""
        self.discriminator.requires_grad_(False)
        fake = self.discriminator(self._blur(self._generate(real.condition), noise), real.condition)
        match self.params.loss:
            case "r3gan":
                with torch.no_grad():
                    opposite = self.discriminator(self._blur(real.fields, noise), real.condition)
                loss = losses.relativistic_generator(opposite, fake)
            case "ns":
                loss = losses.traditional_generator(fake)
            case "wgan-gp":
                loss = losses.wasserstein_generator(fake)
        self.generator_adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.generator_adam.step()
        self.discriminator.requires_grad_(True)
        return loss.detach()

    @torch.no_grad()
    def remember(self, decay: float) -> None:
        """Moves the average towards the generator."""
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of both."""
        for adam in (self.generator_adam, self.discriminator_adam):
            adam.param_groups[0]["lr"] = rate

    def _classify(self, real: Batch, generated: Tensor, *, noise: float, penalise: bool) -> Tensor:
        rows = self._blur(torch.cat([real.fields, generated]), noise).requires_grad_(penalise)  # (2 * batch, 11)
        logits = self.discriminator(rows, torch.cat([real.condition, real.condition]))
        on_real, on_fake = logits.chunk(2)
        if self.params.loss == "ns":
            return losses.traditional_discriminator(on_real, on_fake)
        loss = losses.relativistic_discriminator(on_real, on_fake)
        if penalise:
            # the mean over both halves is (R1 + R2) / 2
            loss = loss + self.params.penalty_every * self.params.gamma * losses.squared_gradient(logits, rows)
        return loss

    def _wasserstein(self, real: Batch, generated: Tensor, *, noise: float, penalise: bool) -> Tensor:
        real_rows, fake_rows = self._blur(real.fields, noise), self._blur(generated, noise)
        loss = losses.wasserstein_discriminator(self.discriminator(real_rows, real.condition), self.discriminator(fake_rows, real.condition))
        if penalise:
            place = torch.rand((len(generated), 1), generator=self.random, device=generated.device)
            between = torch.lerp(real_rows, fake_rows, place).requires_grad_()
            logits = self.discriminator(between, real.condition)
            loss = loss + self.params.penalty_every * self.params.penalty * losses.one_lipschitz(logits, between)
        return loss

    def _generate(self, condition: Tensor) -> Tensor:
        latent = torch.randn((len(condition), self.params.latent), generator=self.random, device=condition.device)
        return cast(Tensor, self.generator(latent, condition))

    def _blur(self, rows: Tensor, noise: float) -> Tensor:
        if noise == 0:
            return rows
        return rows + noise * torch.randn(rows.shape, generator=self.random, device=rows.device)


def train(data: TrainingSet, params: GanParams, run: Run) -> Trained:
    """A GAN trained on ``data``, its discriminator started from the run's classifier, or from one trained first.

    Bit for bit the same for the same seed on the same CPU, also when interrupted and resumed.
    ``TrainingRefused`` if the run's classifier has another shape than ``params`` ask for.
    """
    random = torch.Generator(run.device).manual_seed(run.seed)
    classifier = classifier_method.build(params, run)
    before = 0
    if run.classifier is not None:
        _take_over(classifier, run.classifier)
    else:
        before = params.classifier_steps
        if run.resume is None:
            _pretrain(classifier, data, params, random, run)
    game = _Game(*_build(classifier, params, run), params, random)
    trainees = Trainees(
        {"generator": game.generator, "discriminator": game.discriminator, "average": game.average, "classifier": classifier},
        {"generator": game.generator_adam, "discriminator": game.discriminator_adam},
        random,
    )
    start = trainees.load(run.resume) if run.resume else 0
    for step in range(start, params.steps):
        game.set_rate(params.lr * _rate(step, params))
        noise = params.noise * max(0.0, 1 - step / max(1.0, params.noise_until * params.steps))
        real = data.batch(params.batch, random)
        d_loss = game.discriminator_step(real, noise=noise, penalise=step % params.penalty_every == 0)
        g_loss = game.generator_step(data.batch(params.batch, random), noise=noise)
        game.remember(min(params.ema, (1 + step) / (10 + step)))
        run.tick(before + step + 1, before + params.steps, metrics=partial(_metrics, d_loss, g_loss), state=partial(trainees.save, step + 1))
    return Trained(classifier, game.discriminator, game.average)


def _take_over(classifier: Classifier, weights: bytes) -> None:
    try:
        load_weights(classifier, weights)
    except RuntimeError as error:
        raise TrainingRefused(f"the classifier to start from has another shape than channels, blocks and hidden ask for: {error}") from error


def _pretrain(classifier: Classifier, data: TrainingSet, params: GanParams, random: torch.Generator, run: Run) -> None:
    """Trains the classifier that becomes the discriminator; seconds, so it is done again rather than checkpointed."""
    adam = classifier_method.optimizer(classifier, params)
    for step in range(1, params.classifier_steps + 1):
        batch = classifier_method.blurred(data.batch(params.batch, random), params, random)
        loss = classifier_method.learn(classifier, adam, batch)
        run.tick(step, params.classifier_steps + params.steps, metrics=partial(classifier_method.metrics, loss), state=None)


def _build(classifier: Classifier, params: GanParams, run: Run) -> tuple[Generator, Discriminator]:
    """An untrained generator, and the discriminator that the classifier becomes."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(run.seed + 1)
        generator = Generator(latent=params.latent, channels=params.channels, blocks=params.blocks, hidden=params.hidden)
        discriminator = Discriminator(copy.deepcopy(classifier.trunk))
    return generator.to(run.device), discriminator.to(run.device)


def _rate(step: int, params: GanParams) -> float:
    """The learning rate at a step as a share of its peak: linear warm-up, constant, cosine down to ``FINAL_RATE``."""
    warm = min(1.0, (step + 1) / max(1, params.warmup))
    late = max(0.0, step / params.steps - CONSTANT_UNTIL) / (1 - CONSTANT_UNTIL)
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * late)) / 2)


def _metrics(d_loss: Tensor, g_loss: Tensor) -> Metrics:
    return {"discriminator_loss": d_loss.item(), "generator_loss": g_loss.item()}
