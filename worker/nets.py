"""The networks. One trunk is the classifier and, with the score as one more input and another head, the discriminator.

Most of it works on a wine as a sequence of 13 tokens (eleven fields, quality, type), so that convolutions have
something to slide over, and attention something to look at; ``app.codec`` says what fields and condition are. No normalisation layers anywhere: a row
never depends on its batch.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import ClassVar, cast

import torch
from torch import Tensor, nn
from torch.nn.functional import conv2d, leaky_relu

from app.codec import CONDITION
from app.params import HEADS
from app.wine import MEASUREMENTS, QUALITY_RANGE

FIELDS = len(MEASUREMENTS)
TOKENS = FIELDS + 2
KERNEL = 5
SLOPE = 0.2  # of LeakyReLU
QUIET = 0.3  # factor on the weights of a residual branch's last layer, so that a block starts near the identity
CLASSES = QUALITY_RANGE[1] - QUALITY_RANGE[0] + 1
RUN = 16  # rows that one generator of a blend pours before the next: an aligned run of rows is even (app.sobol), every k-th row is not
NOISE_UNIT = 16  # noise components come in multiples of it (app.noise)
IMAGES = 16  # the fewest for which torch hands a 1x1 convolution on a single thread to oneDNN


class Dense(nn.Linear):
    """A linear layer, computed as a 1x1 convolution: 1.8x as fast on one AMD core, where MKL's matrix product leaves AVX-512 unused.

    Shape: (rows, in) -> (rows, out).
    """

    def forward(self, x: Tensor) -> Tensor:
        if x.is_cuda or len(x) % IMAGES:
            return super().forward(x)
        image = x.view(IMAGES, -1, 1, self.in_features).permute(0, 3, 1, 2)  # channels last: no copy
        out = conv2d(image, self.weight[:, :, None, None], self.bias)
        return out.permute(0, 2, 3, 1).reshape(len(x), self.out_features)


class Block(nn.Module):
    """A residual block of two convolutions along the tokens, modulated in between where ``film`` is given.

    Shape: (rows, channels, 13) -> the same; film (rows, 2 * channels): scale, then shift.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2)
        self.second = nn.Conv1d(channels, channels, KERNEL, padding=KERNEL // 2)
        with torch.no_grad():
            self.second.weight.mul_(QUIET)

    def forward(self, tokens: Tensor, film: Tensor | None = None) -> Tensor:
        inner = self.first(leaky_relu(tokens, SLOPE))
        if film is not None:
            scale, shift = film[:, :, None].chunk(2, dim=1)  # each (rows, channels, 1)
            inner = inner * (1 + scale) + shift
        return tokens + cast(Tensor, self.second(leaky_relu(inner, SLOPE)))


class Attention(nn.Module):
    """Two residual branches: every token looks at all others (Vaswani et al., *Attention is all you need*, NeurIPS 2017), then a perceptron on each.

    Written out, since torch's own kernels for attention have no second derivative, which gradient penalties need.
    Shape: (rows, channels, 13) -> the same; ``channels`` a multiple of ``HEADS``.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.look = Dense(channels, 3 * channels)  # what each token asks for, what it is found by, what it then tells
        self.tell = Dense(channels, channels)
        self.widen = Dense(channels, 2 * channels)
        self.narrow = Dense(2 * channels, channels)
        with torch.no_grad():
            self.tell.weight.mul_(QUIET)
            self.narrow.weight.mul_(QUIET)

    def forward(self, tokens: Tensor) -> Tensor:
        rows, channels, places = tokens.shape
        x = tokens.transpose(1, 2).reshape(-1, channels)  # (rows * 13, channels): what is done to each token alone is one matrix product
        looked = self.look(leaky_relu(x, SLOPE)).view(rows, places, 3, HEADS, -1)
        asked, found, told = looked.permute(2, 0, 3, 1, 4).unbind(0)  # each (rows, heads, 13, channels / heads)
        shares = _shares(asked @ found.transpose(2, 3) * asked.shape[3] ** -0.5)  # (rows, heads, 13, 13)
        x = x + self.tell((shares @ told).transpose(1, 2).reshape(-1, channels))  # (rows * 13, channels)
        x = x + self.narrow(leaky_relu(self.widen(leaky_relu(x, SLOPE)), SLOPE))
        return cast(Tensor, x.view(rows, places, channels).transpose(1, 2))  # (rows, channels, 13)


def _shares(scores: Tensor) -> Tensor:
    """Softmax over the last dimension; torch's own takes four times as long on one thread where that is 13 wide (docs/experiments.md, 50)."""
    weights = (scores - scores.detach().amax(-1, keepdim=True)).exp()
    return weights / weights.sum(-1, keepdim=True)


class Trunk(nn.Module):
    """Tokens, blocks and two dense layers: what the classifier and the discriminator share.

    Shape: fields (rows, 11) normal scores, condition (rows, 8) -> (rows, hidden).
    """

    kind: ClassVar[type[nn.Module]] = Block

    def __init__(self, *, channels: int, blocks: int, hidden: int) -> None:
        super().__init__()
        self.embed = nn.Parameter(torch.randn(channels, TOKENS))
        self.bias = nn.Parameter(torch.zeros(channels, TOKENS))
        self.condition = nn.Linear(CONDITION, channels)
        self.blocks = nn.ModuleList(self.kind(channels) for _ in range(blocks))
        self.dense = Dense(channels * TOKENS, hidden)
        self.last = Dense(hidden, hidden)

    def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
        values = torch.cat([fields, condition[:, -2:]], dim=1)  # (rows, 13): the condition ends with quality and type
        tokens = values[:, None, :] * self.embed + self.bias  # (rows, channels, 13)
        tokens = tokens + self.condition(condition)[:, :, None]
        for block in self.blocks:
            tokens = block(tokens)
        flat = leaky_relu(tokens, SLOPE).flatten(1)  # (rows, channels * 13)
        return leaky_relu(self.last(leaky_relu(self.dense(flat), SLOPE)), SLOPE)


class AttentiveTrunk(Trunk):
    """A trunk whose tokens look at each other at once, in place of their neighbours."""

    kind = Attention


class Classifier(nn.Module):
    """Tells the quality: the trunk, its score input held at a neutral value, and a logit for each score from 0 to 10.

    Shape: fields (rows, 11), *neutral* condition (rows, 8) -> logits (rows, 11).
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.last.out_features, CLASSES)

    def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.trunk(fields, condition)))


class Discriminator(nn.Module):
    """The classifier, slightly changed: its trunk now sees the score, and one logit says real or not.

    Shape: fields (rows, 11), condition (rows, 8) -> logits (rows,).
    """

    def __init__(self, trunk: Trunk) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.last.out_features, 1)

    def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.trunk(fields, condition))).squeeze(1)


class Panel(nn.Module):
    """Several discriminators that are asked together: what each remembers differs, what is true they agree on.

    Shape: fields (rows, 11), condition (rows, 8) -> logits (rows,), the members' mean.
    """

    def __init__(self, members: Iterable[Discriminator]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)

    def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
        return torch.stack([member(fields, condition) for member in self.members]).mean(0)


class Generator(nn.Module):
    """A 1-D convolutional network from noise to the discriminator's input; quality and type pass through untouched.

    Shape: latent (rows, latent), condition (rows, 8) -> fields (rows, 11) normal scores.
    """

    def __init__(self, *, latent: int, channels: int, blocks: int, hidden: int) -> None:
        super().__init__()
        self.latent, self.channels = latent, channels
        self.spread = nn.Linear(latent + CONDITION, channels * TOKENS)
        self.film = nn.Linear(latent + CONDITION, hidden)
        self.modulate = nn.ModuleList(nn.Linear(hidden, 2 * channels) for _ in range(blocks))
        self.blocks = nn.ModuleList(Block(channels) for _ in range(blocks))
        self.read = nn.Parameter(torch.randn(channels, FIELDS) * channels**-0.5)
        self.read_bias = nn.Parameter(torch.zeros(FIELDS))
        with torch.no_grad():
            for layer in self.modulate:
                cast(nn.Linear, layer).weight.mul_(QUIET)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        source = torch.cat([latent, condition], dim=1)  # (rows, latent + 8)
        tokens = self.spread(source).unflatten(1, (self.channels, TOKENS))  # (rows, channels, 13)
        style = leaky_relu(self.film(source), SLOPE)  # (rows, hidden)
        for block, modulate in zip(self.blocks, self.modulate, strict=True):
            tokens = block(tokens, modulate(style))
        # quality and type need no reading: they are the condition itself
        read = leaky_relu(tokens, SLOPE)[:, :, :FIELDS] * self.read  # (rows, channels, 11)
        return read.sum(1) + self.read_bias  # (rows, 11)


class Source(nn.Module):
    """What rows are poured from: ``latent`` noise components a row, rows in multiples of ``turns``.

    Shape: latent (rows, latent), condition (rows, 8) -> fields (rows, 11) normal scores.
    """

    latent: int
    turns: int


class Blend(Source):
    """Sources that pour in turn, ``RUN`` rows each: what each gets wrong is its own, so a blend is nearer the truth.

    ``order``: whose turn it is, again and again; each of ``generators``, named by its place, as often as its share.
    Shape: latent (rows, latent), condition (rows, 8) -> fields (rows, 11); rows a multiple of ``turns``.
    """

    def __init__(self, generators: Iterable[Generator | Source], order: Sequence[int]) -> None:
        super().__init__()
        self.generators = nn.ModuleList(generators)
        self.order = tuple(order)
        self.latents = [cast(Generator | Source, generator).latent for generator in self.generators]
        self.latent = max(self.latents)
        self.turns = RUN * len(self.order)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        latents, conditions = (given.reshape(-1, len(self.order), RUN, given.shape[1]).unbind(1) for given in (latent, condition))
        poured: dict[int, Tensor] = {}  # each turn's fields, (rows / turns, RUN, 11)
        for k, generator in enumerate(self.generators):
            turns = [turn for turn, whose in enumerate(self.order) if whose == k]
            z, c = (torch.stack([given[turn] for turn in turns]) for given in (latents, conditions))  # (its turns, rows / turns, RUN, ...)
            fields = generator(z.flatten(0, 2)[:, : self.latents[k]], c.flatten(0, 2)).reshape(len(turns), -1, RUN, FIELDS)
            poured |= dict(zip(turns, fields.unbind(0), strict=True))
        return torch.stack([poured[turn] for turn in range(len(self.order))], dim=1).flatten(0, 2)


class Encoder(nn.Module):
    """Where a wine lies in a space of few dimensions: the trunk and a linear head.

    Shape: fields (rows, 11), condition (rows, 8) -> latent (rows, latents).
    """

    def __init__(self, trunk: Trunk, latents: int) -> None:
        super().__init__()
        self.trunk = trunk
        self.head = nn.Linear(trunk.last.out_features, latents)

    def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
        return cast(Tensor, self.head(self.trunk(fields, condition)))


class Decoder(nn.Module):
    """The way back from there: a plain perceptron, a fifth of a generator's cost (docs/experiments.md, 39).

    Shape: latent (rows, latent), condition (rows, 8) -> fields (rows, 11) normal scores.
    """

    def __init__(self, *, latent: int, hidden: int) -> None:
        super().__init__()
        self.latent = latent
        self.first = nn.Linear(latent + CONDITION, hidden)
        self.second = Dense(hidden, hidden)
        self.read = nn.Linear(hidden, FIELDS)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        inner = leaky_relu(self.first(torch.cat([latent, condition], dim=1)), SLOPE)
        return cast(Tensor, self.read(leaky_relu(self.second(inner), SLOPE)))


class Mixture(nn.Module):
    """Standard normal noise -> latents of a Gaussian mixture for each type, its weights and means by the quality.

    ``weights`` (2, 7, components): of white and red, scores to 3, 4, ... 8, from 9 on, each row summing to 1;
    ``means`` (2, components, k) at a standardised quality (``app.codec``) of 0, and ``slopes``, likewise, how much they
    move with it; ``factors`` (2, components, k, k), each times its transpose a covariance.
    Shape: noise (rows, 1 + k), condition (rows, 8) -> latent (rows, k); the first noise picks the component.
    """

    until: Tensor
    means: Tensor
    slopes: Tensor
    factors: Tensor

    def __init__(self, weights: Tensor, means: Tensor, slopes: Tensor, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("until", weights.cumsum(2)[:, :, :-1].contiguous())  # the last component has what is left
        self.register_buffer("means", means)
        self.register_buffer("slopes", slopes)
        self.register_buffer("factors", factors)

    def forward(self, noise: Tensor, condition: Tensor) -> Tensor:
        red = (condition[:, -1] > 0).long()
        score = condition[:, :-2].sum(1).round().long()  # the condition begins with the quality's thermometer bits
        u = (1 + torch.erf(noise[:, :1] * math.sqrt(0.5))) / 2
        component = (u >= self.until[red, score]).long().sum(1)
        spread = self.factors[red, component] @ noise[:, 1:, None]  # (rows, k, 1)
        mean = self.means[red, component] + condition[:, -2:-1] * self.slopes[red, component]  # the quality, standardised
        return mean + spread.squeeze(2)


class Decoded(Source):
    """New wines of an autoencoder: latents from a density, decoded, with noise of the kind that reconstructions miss.

    ``misses`` (2, 11, 11): of white and red, times its transpose the covariance of that noise.
    Shape: latent (rows, latent), condition (rows, 8) -> fields (rows, 11): one component for the density's choice,
    then k Gaussian ones, and the last 11 for the fields.
    """

    misses: Tensor

    def __init__(self, density: Mixture, decoder: Decoder, misses: Tensor) -> None:
        super().__init__()
        self.density, self.decoder = density, decoder
        self.drawn = 1 + decoder.latent  # noise components of the density
        self.latent = math.ceil((self.drawn + FIELDS) / NOISE_UNIT) * NOISE_UNIT
        self.turns = 1
        self.register_buffer("misses", misses)

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        fields = self.decoder(self.density(latent[:, : self.drawn], condition), condition)
        missed = self.misses[(condition[:, -1] > 0).long()] @ latent[:, -FIELDS:, None]  # (rows, 11, 1)
        return cast(Tensor, fields + missed.squeeze(2))
