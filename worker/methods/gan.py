"""``gan``: a convolutional generator against the classifier turned discriminator.

The default recipe is R3GAN's (Huang et al., *The GAN is dead; long live the GAN!*, NeurIPS 2024): relativistic
pairing, R1 + R2, no normalisation; with instance noise that fades (Arjovsky and Bottou, ICLR 2017), gradient
penalties only every few steps (StyleGAN2's lazy regularisation, Karras et al., CVPR 2020) and an averaged generator
that is served (Yazici et al., ICLR 2019). There may be several discriminators, each from a classifier and on batches
of its own; the generator follows their mean (Durugkar et al., *Generative multi-adversarial networks*, ICLR 2017), and every second one
attends where the others convolve. And there may be several such games side by side, whose generators are blended, with an autoencoder's wines among theirs.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from functools import partial
from typing import cast

import torch
from torch import Tensor, nn

from app.params import GanParams
from worker import losses
from worker.checkpoint import Trainees
from worker.methods import autoencoder as autoencoder_method
from worker.methods import classifier as classifier_method
from worker.monitor import Monitor
from worker.nets import AttentiveTrunk, Blend, Classifier, Discriminator, Generator, Panel, Source, Trunk
from worker.training import GENERATOR, Batch, Metrics, Run, Trained, TrainingSet, randomness, weights_of

BETAS = (0.0, 0.99)  # R3GAN, table 8: no momentum on the first moment
CONSTANT_UNTIL = 0.4  # share of the steps at the peak rate, before the cosine
FINAL_RATE = 0.03  # of the peak
GAN_TURNS = 1  # runs of rows that each GAN pours before the autoencoder pours one (docs/experiments.md, 33)


class _Game:
    """The players, their optimisers, and the average of the generator; a step of each is one short method."""

    def __init__(self, generator: Generator, discriminators: list[Discriminator], params: GanParams, random: torch.Generator) -> None:
        self.generator, self.discriminators, self.panel = generator, discriminators, Panel(discriminators)
        self.average = copy.deepcopy(generator).requires_grad_(False)
        self.generator_adam = torch.optim.Adam(generator.parameters(), lr=params.lr, betas=BETAS, fused=True)
        self.discriminator_adam = torch.optim.Adam(self.panel.parameters(), lr=params.lr, betas=BETAS, fused=True)
        self.params, self.random = params, random

    def discriminator_step(self, batches: list[Batch], *, noise: float, penalise: bool) -> Tensor:
        """Teaches each discriminator on a batch of its own and as many generated rows of the same labels; their mean loss, detached."""
        teach = self._wasserstein if self.params.loss == "wgan-gp" else self._classify
        self.discriminator_adam.zero_grad()
        losses_ = []
        for discriminator, real in zip(self.discriminators, batches, strict=True):
            with torch.no_grad():
                generated = self._generate(real.condition)
            loss = teach(discriminator, real, generated, noise=noise, penalise=penalise)
            loss.backward()  # type: ignore[no-untyped-call]
            losses_.append(loss.detach())
        self.discriminator_adam.step()
        return torch.stack(losses_).mean()

    def generator_step(self, real: Batch, *, noise: float) -> Tensor:
        """Teaches the generator against discriminators that stand still; its loss, detached."""
        self.panel.requires_grad_(False)
        rows, opposite = self._blur(self._generate(real.condition), noise), self._blur(real.fields, noise)
        loss = torch.stack([self._persuade(discriminator, rows, opposite, real.condition) for discriminator in self.discriminators]).mean()
        self.generator_adam.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self.generator_adam.step()
        self.panel.requires_grad_(True)
        return loss.detach()

    @torch.no_grad()
    def remember(self, decay: float) -> None:
        """Moves the average towards the generator."""
        torch._foreach_lerp_(list(self.average.parameters()), list(self.generator.parameters()), 1 - decay)

    def nets(self) -> dict[str, nn.Module]:
        """All that a checkpoint must hold of the networks."""
        return {"generator": self.generator, "discriminator": self.panel, "average": self.average}

    def adams(self) -> dict[str, torch.optim.Optimizer]:
        """Likewise of the optimisers."""
        return {"generator": self.generator_adam, "discriminator": self.discriminator_adam}

    def set_rate(self, rate: float) -> None:
        """Sets the learning rate of all."""
        for adam in self.adams().values():
            adam.param_groups[0]["lr"] = rate

    def _persuade(self, discriminator: Discriminator, rows: Tensor, opposite: Tensor, condition: Tensor) -> Tensor:
        """The generator's loss before one discriminator; ``opposite``: real rows of the same labels."""
        fake = discriminator(rows, condition)
        match self.params.loss:
            case "r3gan":
                with torch.no_grad():
                    real = discriminator(opposite, condition)
                return losses.relativistic_generator(real, fake)
            case "ns":
                return losses.traditional_generator(fake)
            case "wgan-gp":
                return losses.wasserstein_generator(fake)

    def _classify(self, discriminator: Discriminator, real: Batch, generated: Tensor, *, noise: float, penalise: bool) -> Tensor:
        rows = self._blur(torch.cat([real.fields, generated]), noise).requires_grad_(penalise)  # (2 * batch, 11)
        logits = discriminator(rows, torch.cat([real.condition, real.condition]))
        on_real, on_fake = logits.chunk(2)
        if self.params.loss == "ns":
            return losses.traditional_discriminator(on_real, on_fake)
        loss = losses.relativistic_discriminator(on_real, on_fake)
        if penalise:
            # the mean over both halves is (R1 + R2) / 2
            loss = loss + self.params.penalty_every * self.params.gamma * losses.squared_gradient(logits, rows)
        return loss

    def _wasserstein(self, discriminator: Discriminator, real: Batch, generated: Tensor, *, noise: float, penalise: bool) -> Tensor:
        real_rows, fake_rows = self._blur(real.fields, noise), self._blur(generated, noise)
        loss = losses.wasserstein_discriminator(discriminator(real_rows, real.condition), discriminator(fake_rows, real.condition))
        if penalise:
            place = torch.rand((len(generated), 1), generator=self.random, device=generated.device)
            between = torch.lerp(real_rows, fake_rows, place).requires_grad_()
            logits = discriminator(between, real.condition)
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
    """A blend of GANs, and of an autoencoder beside them; each discriminator started from a classifier, the first from the run's where it has one.

    Bit for bit the same for the same seed on the same CPU, also when interrupted and resumed.
    ``TrainingRefused`` if the run's classifier has another shape than ``params`` ask for.
    """
    random = randomness(run)
    companion = autoencoder_method.Companion(autoencoder_method.shape(params), run) if params.autoencoder else None
    classifiers, before = _prepared(data, params, random, run, companion)
    games = [_Game(*_build(nth, classifiers[nth :: params.blend], params, run), params, random) for nth in range(params.blend)]
    trainees = Trainees(
        {"classifier": classifiers[0], **(companion.nets() if companion else {})}
        | {f"{name}{nth}": net for nth, game in enumerate(games) for name, net in game.nets().items()},
        {f"{name}{nth}": adam for nth, game in enumerate(games) for name, adam in game.adams().items()},
        random,
    )
    start = trainees.load(run.resume) if run.resume else 0
    monitor = Monitor(data, [game.average for game in games])
    for step in range(start, params.steps):
        losses_ = torch.stack([_round(game, step, data, params, random) for game in games]).mean(0)  # (2,)
        run.tick(before + step + 1, before + params.steps, metrics=partial(_metrics, losses_, monitor), state=partial(trainees.save, step + 1))
    panel = Panel(discriminator for game in games for discriminator in game.discriminators)
    source = _mixed([game.average.cpu() for game in games], companion.source(data, random) if companion else None)
    return Trained(classifier=classifiers[0], discriminator=panel, source=source, recalibrate=params.recalibrate)


def _mixed(generators: list[Generator], companion: Source | None) -> Blend:
    """The generators in turn; after every ``GAN_TURNS`` of each the companion."""
    if companion is None:
        return Blend(generators, range(len(generators)))
    order = [whose for nth in range(len(generators)) for whose in (*[nth] * GAN_TURNS, len(generators))]
    return Blend([*generators, companion], order)


def _round(game: _Game, step: int, data: TrainingSet, params: GanParams, random: torch.Generator) -> Tensor:
    """One step of one game: each discriminator learns, then the generator; their losses, (2,)."""
    game.set_rate(params.lr * _rate(step, params))
    noise = params.noise * max(0.0, 1 - step / max(1.0, params.noise_until * params.steps))
    batches = [data.batch(params.batch, random) for _ in range(params.discriminators)]
    d_loss = game.discriminator_step(batches, noise=noise, penalise=step % params.penalty_every == 0)
    g_loss = game.generator_step(data.batch(params.batch, random), noise=noise)
    game.remember(min(params.ema, (1 + step) / (10 + step)))
    return torch.stack([d_loss, g_loss])


def _prepared(
    data: TrainingSet, params: GanParams, random: torch.Generator, run: Run, companion: autoencoder_method.Companion | None
) -> tuple[list[Classifier], int]:
    """A classifier for each discriminator, the first the run's where it has one, and how many steps went before the game's.

    They and the companion are trained here, unless a checkpoint holds them: it takes seconds, so it is done again rather than checkpointed.
    """
    kinds = Trunk, AttentiveTrunk if params.attention else Trunk  # of a game's discriminators, in turn
    classifiers = [
        classifier_method.build(params, run, nth=nth, kind=kinds[nth // params.blend % len(kinds)]) for nth in range(params.blend * params.discriminators)
    ]
    untaught = classifiers
    if run.classifier is not None:
        classifier_method.take_over(classifiers[0], run.classifier)
        untaught = classifiers[1:]
    classifying = params.classifier_steps * len(untaught)
    before = classifying + (params.autoencoder_steps if companion else 0)
    if run.resume is None:
        for nth, classifier in enumerate(untaught):
            classifier_method.pretrain(classifier, data, params, random, run, after=nth * params.classifier_steps, steps=before + params.steps)
        if companion is not None:
            companion.teach(data, random, run, after=classifying, steps=before + params.steps)
    return classifiers, before


def _build(nth: int, classifiers: Sequence[Classifier], params: GanParams, run: Run) -> tuple[Generator, list[Discriminator]]:
    """The untrained generator of the ``nth`` game, and the discriminators that its classifiers become."""
    with weights_of(run, GENERATOR, nth):
        generator = Generator(latent=params.latent, channels=params.channels, blocks=params.blocks, hidden=params.hidden)
        discriminators = [Discriminator(copy.deepcopy(classifier.trunk)).to(run.device) for classifier in classifiers]  # their last layers are new
    return generator.to(run.device), discriminators


def _rate(step: int, params: GanParams) -> float:
    """The learning rate at a step as a share of its peak: linear warm-up, constant, cosine down to ``FINAL_RATE``."""
    warm = min(1.0, (step + 1) / max(1, params.warmup))
    late = max(0.0, step / params.steps - CONSTANT_UNTIL) / (1 - CONSTANT_UNTIL)
    return warm * (FINAL_RATE + (1 - FINAL_RATE) * (1 + math.cos(math.pi * late)) / 2)


def _metrics(losses_: Tensor, monitor: Monitor) -> Metrics:
    discriminator, generator = losses_.tolist()
    return {"discriminator_loss": discriminator, "generator_loss": generator, **monitor.look()}
