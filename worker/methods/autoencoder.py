"""``autoencoder``: wines through a bottleneck and back, and new ones from a density fitted to the space between.

The encoder is the classifier's trunk with a linear head, the decoder a perceptron. It is given noisy fields and must
return the clean ones (Vincent et al., *Extracting and composing robust features with denoising autoencoders*,
ICML 2008). ``variational`` instead makes the encoder name a distribution and pulls it towards the standard normal
(Kingma and Welling, *Auto-encoding variational Bayes*, ICLR 2014; ``beta`` as in Higgins et al., ICLR 2017).

A decoder that was taught by squared error returns the mean of what a latent may stand for, so wines poured from it
alone vary too little: the noise that is added to their fields has the second moments of what reconstructions miss.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from sklearn.mixture import GaussianMixture
from torch import Tensor, nn

from app.codec import FIELDS
from app.params import AutoencoderParams, GanParams, NetParams
from app.wine import TYPES, Floats, Ints
from worker.checkpoint import Trainees
from worker.nets import Decoded, Decoder, Encoder, Mixture, Source, Trunk
from worker.training import AUTOENCODER, Autoencoder, Batch, Findings, Metrics, Run, Trained, TrainingRefused, TrainingSet, randomness, weights_of

SCORES = 7  # that a condition's thermometer bits tell apart: to 3, 4, ... 8, from 9 on
DRAWS = 4  # of each training row, its values' places within their ties anew, that the density is fitted to
LEAST_DRAWS, MAX_DRAWS = 2000, 16_000  # of each type
COMPONENT_ROWS = 25  # training rows of a type for each component of its density, on average at least
LEAST_SHARE = 1e-6  # of the mean, that what is missed varies by in any direction
POOLED_ROWS = 20.0  # by which the covariance of all components counts beside a component's own (docs/experiments.md, 39)
MIN_VARIANCE = 1e-3  # of a component in any direction, where latents have 1: repeated wines would make one of nothing
RIDGE = 0.01  # of a component's slope, in variances of the quality: its wines may all be of one
NEIGHBOURS = 20.0  # rows by which a score's neighbours count beside its own
DECAY = 0.1  # how much less with each score further away
COLLAPSED = 1e-6  # a latent that varies less is a constant
DIVERGED = 3.0  # mean squared error in normal scores, far beyond a constant's
STEADIER = "a lower lr is steadier, and a GAN does without its autoencoder (autoencoder: false)"


def shape(params: GanParams) -> AutoencoderParams:
    """An autoencoder of the shape of a GAN's networks, for one that is trained beside it."""
    shared = {name: getattr(params, name) for name in NetParams.model_fields}
    return AutoencoderParams.model_validate(shared | {"steps": params.autoencoder_steps})


class Companion:
    """An autoencoder that something else trains beside itself: taught first, its networks kept in the other's checkpoints, finished at the end."""

    def __init__(self, params: AutoencoderParams, run: Run) -> None:
        self._params = params
        self.encoder, self.decoder = _build(params, run)

    def nets(self) -> dict[str, nn.Module]:
        """All that a checkpoint must hold."""
        return {"encoder": self.encoder, "decoder": self.decoder}

    def teach(self, data: TrainingSet, random: torch.Generator, run: Run, *, after: int, steps: int) -> None:
        """All of its training, ``after`` so many of the run's ``steps``; done again rather than resumed."""
        adam = _adam(self.encoder, self.decoder, self._params)
        for step in range(self._params.steps):
            _set_rate(adam, step, self._params)
            losses = _step((self.encoder, self.decoder), adam, data.batch(self._params.batch, random), self._params, random)
            run.tick(after + step + 1, steps, metrics=partial(_metrics, losses), state=None)

    def source(self, data: TrainingSet, random: torch.Generator) -> Source:
        """What pours its wines, on the CPU."""
        return _finished(self.encoder, self.decoder, data, self._params, random).source


def train(data: TrainingSet, params: AutoencoderParams, run: Run) -> Trained:
    """An autoencoder trained on ``data`` and the source of new wines made of its decoder.

    Bit for bit the same for the same seed on the same CPU, also when interrupted and resumed. ``TrainingRefused`` if it diverged.
    """
    random = randomness(run)
    encoder, decoder = _build(params, run)
    adam = _adam(encoder, decoder, params)
    trainees = Trainees({"encoder": encoder, "decoder": decoder}, {"adam": adam}, random)
    start = trainees.load(run.resume) if run.resume else 0
    for step in range(start, params.steps):
        _set_rate(adam, step, params)
        losses = _step((encoder, decoder), adam, data.batch(params.batch, random), params, random)
        run.tick(step + 1, params.steps, metrics=partial(_metrics, losses), state=partial(trainees.save, step + 1))
    done = _finished(encoder, decoder, data, params, random)
    autoencoder = Autoencoder(done.encoder, decoder, params.bottleneck)
    return Trained(source=done.source, autoencoder=autoencoder, recalibrate=params.recalibrate, findings=done.findings)


def _build(params: AutoencoderParams, run: Run) -> tuple[Encoder, Decoder]:
    with weights_of(run, AUTOENCODER):
        trunk = Trunk(channels=params.channels, blocks=params.blocks, hidden=params.hidden)
        encoder = Encoder(trunk, params.bottleneck * (2 if params.variational else 1))  # means, then logarithms of variances
        decoder = Decoder(latent=params.bottleneck, hidden=params.hidden)
    return encoder.to(run.device), decoder.to(run.device)


def _adam(encoder: Encoder, decoder: Decoder, params: AutoencoderParams) -> torch.optim.Optimizer:
    return torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=params.lr, fused=True)


def _set_rate(adam: torch.optim.Optimizer, step: int, params: AutoencoderParams) -> None:
    adam.param_groups[0]["lr"] = params.lr * (1 + math.cos(math.pi * step / params.steps)) / 2


def _step(nets: tuple[Encoder, Decoder], adam: torch.optim.Optimizer, batch: Batch, params: AutoencoderParams, random: torch.Generator) -> Tensor:
    """One step; the squared error of each field, and the divergence where variational, (11 or 12,), detached."""
    encoder, decoder = nets
    noisy = batch.fields + params.noise * _normal(batch.fields.shape, random)
    latent, divergence = encoder(noisy, batch.condition), None
    if params.variational:
        mean, log_variance = latent.chunk(2, dim=1)
        latent = mean + (log_variance / 2).exp() * _normal(mean.shape, random)
        divergence = (mean**2 + log_variance.exp() - 1 - log_variance).sum(1).mean() / 2  # Kingma and Welling, appendix B
    errors = (decoder(latent, batch.condition) - batch.fields).square().mean(0)  # (11,)
    loss = errors.sum() / 2 + (0.0 if divergence is None else params.beta * divergence)
    adam.zero_grad()
    loss.backward()
    adam.step()
    return errors.detach() if divergence is None else torch.cat([errors, divergence[None]]).detach()


def _normal(shape: torch.Size, random: torch.Generator) -> Tensor:
    return torch.randn(shape, generator=random, device=random.device)


def _metrics(losses: Tensor) -> Metrics:
    """What a watcher sees; waits for the device."""
    values = losses.tolist()
    divergence = {"divergence": values[len(FIELDS)]} if len(values) > len(FIELDS) else {}
    return {"squared_error": math.fsum(values[: len(FIELDS)]) / len(FIELDS), **divergence}


@dataclass(frozen=True)
class _Finished:
    """A trained autoencoder: the encoder of its wines' places, the source of new ones, and what it found."""

    encoder: Encoder
    source: Source
    findings: Findings


@torch.no_grad()
def _finished(encoder: Encoder, decoder: Decoder, data: TrainingSet, params: AutoencoderParams, random: torch.Generator) -> _Finished:
    """What is left behind, on the CPU; the decoder is standardised where it is."""
    rows = [int((data.wines.red == bool(t)).sum()) for t in range(len(TYPES))]
    wines = _drawn(data, rows, random)
    encoder, decoder = encoder.eval().cpu(), decoder.eval().cpu()
    if params.variational:
        encoder = _means_only(encoder, params.bottleneck)
    latents = encoder(wines.fields, wines.condition)
    if not bool(latents.isfinite().all()):
        raise TrainingRefused(f"the training diverged: wines are encoded into numbers that are not finite; {STEADIER}")
    weight = _weights(wines, rows)
    mean = weight @ latents
    std = (weight @ (latents - mean).square()).sqrt().clamp_min(COLLAPSED)
    _standardise(encoder, decoder, mean, std)
    latents = (latents - mean) / std
    density = _prior(mean, std) if params.variational else _density(latents, wines, params, rows=rows)
    missed = wines.fields - decoder(latents, wines.condition)
    errors = weight @ missed.square()  # (11,)
    if (error := float(errors.mean())) > DIVERGED:
        raise TrainingRefused(f"the training diverged: wines come back {error:.3g} off (mean square, in normal scores; a constant has about 1); {STEADIER}")
    findings = {"squared error of training wines": dict(zip(FIELDS, errors.tolist(), strict=True))}
    source = Decoded(density, decoder, params.output_noise * _factors(missed, wines))
    return _Finished(encoder, source, findings)


def _drawn(data: TrainingSet, rows: list[int], random: torch.Generator) -> Batch:
    """Some of each type's ``rows``, on the CPU: each type by itself, so that a rare one has enough for a density of its own."""
    drawn = [data.of_type(bool(t), min(max(DRAWS * n, LEAST_DRAWS), MAX_DRAWS), random) for t, n in enumerate(rows) if n]
    return Batch(**{name: torch.cat([getattr(batch, name) for batch in drawn]).cpu() for name in Batch.__dataclass_fields__})


def _weights(wines: Batch, rows: list[int]) -> Tensor:
    """How much each of the drawn ``wines`` counts, (rows,), summing to 1, so that the types count as often as among the training ``rows``."""
    red = (wines.condition[:, -1] > 0).long()
    each = torch.tensor([n / max(1, int((red == t).sum())) for t, n in enumerate(rows)])
    return each[red] / sum(rows)


def _means_only(encoder: Encoder, latents: int) -> Encoder:
    """The encoder without the variances: where a wine lies is the mean of its distribution."""
    means = Encoder(encoder.trunk, latents)
    means.head.weight.copy_(encoder.head.weight[:latents])
    means.head.bias.copy_(encoder.head.bias[:latents])
    return means


def _standardise(encoder: Encoder, decoder: Decoder, mean: Tensor, std: Tensor) -> None:
    """Moves and scales the space between the two, in the layers on either side of it, so that ``mean`` becomes 0 and ``std`` 1; both (k,)."""
    encoder.head.bias.sub_(mean).div_(std)
    encoder.head.weight.div_(std[:, None])
    decoder.first.bias.add_(decoder.first.weight[:, : decoder.latent] @ mean)
    decoder.first.weight[:, : decoder.latent].mul_(std)


def _prior(mean: Tensor, std: Tensor) -> Mixture:
    """The standard normal distribution of the space before it was standardised."""
    kinds = len(TYPES)
    means, factors = (-mean / std).expand(kinds, 1, -1).clone(), torch.diag(1 / std).expand(kinds, 1, -1, -1).clone()
    return Mixture(torch.ones(kinds, SCORES, 1), means, torch.zeros_like(means), factors)


def _density(latents: Tensor, wines: Batch, params: AutoencoderParams, *, rows: list[int]) -> Mixture:
    """A Gaussian mixture of each type's latents; how much each component weighs, and where it lies, depends on the quality.

    ``latents`` (rows, k) of ``wines``. Of a type without wines it is the standard normal: it is never asked for.
    """
    k = latents.shape[1]
    weights = np.full((len(TYPES), SCORES, params.components), 1 / params.components)
    means, slopes = np.zeros((2, len(TYPES), params.components, k))
    factors = np.broadcast_to(np.eye(k), (len(TYPES), params.components, k, k)).copy()
    z, red = latents.double().numpy(), (wines.condition[:, -1] > 0).numpy()
    score, quality = wines.condition[:, :-2].sum(1).round().long().numpy(), wines.condition[:, -2].double().numpy()
    for t in range(len(TYPES)):
        own = red == bool(t)
        if not rows[t] or own.sum() < 2:
            continue
        fitted = GaussianMixture(max(1, min(params.components, rows[t] // COMPONENT_ROWS)), reg_covar=MIN_VARIANCE, max_iter=300, random_state=0).fit(z[own])
        n = fitted.n_components
        shares = fitted.predict_proba(z[own])
        weights[t] = 0.0
        scale = rows[t] / own.sum()  # training rows behind one that was drawn
        weights[t, :, :n] = _by_score(shares, score[own], scale=scale)
        means[t, :n], slopes[t, :n], factors[t, :n] = _along_quality(shares, z[own], quality[own], scale=scale)
        for array in (means, slopes, factors):
            array[t, n:] = array[t, n - 1]  # of no weight, but rounding may pick one
    return Mixture(*(torch.from_numpy(array).float() for array in (weights, means, slopes, factors)))


def _along_quality(shares: Floats, z: Floats, quality: Floats, *, scale: float) -> tuple[Floats, Floats, Floats]:
    """Each component as a line in the quality and what spreads around it: means at 0 and slopes, (components, k), factors (components, k, k).

    Least squares, each wine counting by its share in the component, with a little ridge. Without slopes a component would
    hold its wines' qualities in the mean only: R2 of quality taught .27 instead of .31. A covariance of a few dozen
    wines is mostly their accidents, so that of all components counts beside it. ``scale``: wines behind a row.
    """
    means, slopes, spreads = [], [], []
    held = shares.sum(0)  # (components,)
    for share in (shares / np.maximum(held, 1e-12)).T:  # repeated wines may leave a component without any
        mean, at = share @ z, share @ quality
        slope = (share * (quality - at)) @ (z - mean) / (share @ (quality - at) ** 2 + RIDGE)
        around = z - mean - np.outer(quality - at, slope)  # (rows, k)
        means.append(mean - at * slope)
        slopes.append(slope)
        spreads.append((around.T * share) @ around)
    pooled = np.average(spreads, axis=0, weights=held * scale)
    wines = (held * scale)[:, None, None]
    mixed = (wines * np.stack(spreads) + POOLED_ROWS * pooled) / (wines + POOLED_ROWS)
    return np.stack(means), np.stack(slopes), np.linalg.cholesky(mixed + MIN_VARIANCE * np.eye(z.shape[1]))


def _by_score(shares: Floats, score: Ints, *, scale: float) -> Floats:
    """How much each component weighs at each score, (SCORES, components), from each wine's shares in the components, (rows, components).

    The mean shares of the wines of the score, and those of other scores as if ``NEIGHBOURS`` more wines of it had been
    seen that are like them, each score further away counting ``DECAY`` times as much. ``scale``: wines behind a row.
    """
    summed = np.stack([shares[score == s].sum(0) for s in range(SCORES)]) * scale  # (SCORES, components)
    distance = np.abs(np.subtract.outer(np.arange(SCORES), np.arange(SCORES)))
    near = np.where(distance > 0, DECAY ** (distance - 1.0), 0.0) @ summed
    alike = near / np.maximum(near.sum(1, keepdims=True), 1e-12)
    mixed = summed + NEIGHBOURS * alike
    return np.asarray(mixed / mixed.sum(1, keepdims=True))


def _factors(missed: Tensor, wines: Batch) -> Tensor:
    """For each type the Cholesky factor of the second moments of what reconstructions miss, (2, 11, 11)."""
    factors = torch.zeros(len(TYPES), len(FIELDS), len(FIELDS))
    for t in range(len(TYPES)):
        own = missed[(wines.condition[:, -1] > 0) == bool(t)]
        if len(own):
            moments = (own.T @ own / len(own)).double()
            factors[t] = torch.linalg.cholesky(moments + LEAST_SHARE * moments.trace() / len(FIELDS) * torch.eye(len(FIELDS))).float()
    return factors
