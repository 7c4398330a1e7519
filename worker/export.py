"""Networks -> ONNX graphs that need neither torch nor us.

Convolutions are what serving pays for: ONNX Runtime runs them 3x slower per row than a dense net of four times the
weights. So at export a network becomes what it is, exactly, in other words: a wine is one row of places x channels
numbers, and a convolution a few matrix products, each from a stretch of places to two of them (``_Band``).
"""

from __future__ import annotations

import copy
import logging
import math
import warnings
from collections.abc import Callable
from typing import Any, cast

import onnx
import torch
from torch import Tensor, nn
from torch.nn.functional import leaky_relu

from app.codec import CONDITION
from worker.nets import FIELDS, SLOPE, TOKENS, Block, Classifier, Dense, Generator, Panel, Source, Trunk

EXAMPLE_ROWS = 3  # the exporter traces with some number of rows and leaves it open
OPSET = 20
SPAN = 2  # places that one product of a convolution makes: more would multiply by more zeros, fewer by smaller matrices


class _Band(nn.Module):
    """A Conv1d as matrix products, each of which makes ``SPAN`` places from those in their reach. Shape: (rows, places * in) -> (rows, places * out)."""

    def __init__(self, conv: nn.Conv1d, places: int) -> None:
        super().__init__()
        weight, reach = conv.weight.detach(), conv.kernel_size[0] // 2  # (out, in, 2 * reach + 1)
        self.stretches: list[tuple[int, int]] = []  # of the input, in numbers
        self.products = nn.ModuleList()
        for first in range(0, places, SPAN):
            made = range(first, min(first + SPAN, places))
            seen = range(max(0, first - reach), min(places, made.stop + reach))
            dense = torch.zeros(len(made), conv.out_channels, len(seen), conv.in_channels)
            for o, place in enumerate(made):
                for i, source in enumerate(seen):
                    if abs(source - place) <= reach:
                        dense[o, :, i] = weight[:, :, source - place + reach]
            bias = (conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)).detach()
            self.products.append(_linear(dense.flatten(2).flatten(0, 1), bias.repeat(len(made))))
            self.stretches.append((seen.start * conv.in_channels, seen.stop * conv.in_channels))

    def forward(self, x: Tensor) -> Tensor:
        return torch.cat([product(x[:, a:b]) for product, (a, b) in zip(self.products, self.stretches, strict=True)], dim=1)


class _FlatBlock(nn.Module):
    """A ``worker.nets.Block`` on flat rows. Shape: (rows, places * channels) -> the same; ``film`` as there."""

    def __init__(self, block: Block) -> None:
        super().__init__()
        self.channels = block.first.out_channels
        self.first, self.second = _Band(block.first, TOKENS), _Band(block.second, TOKENS)

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        inner = self.first(leaky_relu(x, SLOPE))
        if film is not None:
            scale, shift = film[:, None].chunk(2, dim=2)  # each (rows, 1, channels)
            inner = (inner.unflatten(1, (TOKENS, self.channels)) * (1 + scale) + shift).flatten(1)
        return x + cast(Tensor, self.second(leaky_relu(inner, SLOPE)))


class _FlatGenerator(nn.Module):
    """A ``worker.nets.Generator`` on flat rows; the same shapes outside."""

    def __init__(self, net: Generator) -> None:
        super().__init__()
        self.film, self.modulate = net.film, net.modulate
        self.spread = _place_major(net.spread, net.channels)
        self.blocks = nn.ModuleList(_FlatBlock(cast(Block, block)) for block in net.blocks)
        read = torch.zeros(FIELDS, TOKENS, net.channels)  # quality and type need no reading
        for j in range(FIELDS):
            read[j, j] = net.read.detach()[:, j]
        self.read = _linear(read.flatten(1), net.read_bias.detach())

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        source = torch.cat([latent, condition], dim=1)
        x, style = self.spread(source), leaky_relu(self.film(source), SLOPE)
        for block, modulate in zip(self.blocks, self.modulate, strict=True):
            x = block(x, modulate(style))
        return cast(Tensor, self.read(leaky_relu(x, SLOPE)))


class _FlatTrunk(nn.Module):
    """A ``worker.nets.Trunk`` on flat rows; the same shapes outside."""

    def __init__(self, net: Trunk) -> None:
        super().__init__()
        channels = net.embed.shape[0]
        embed = torch.zeros(TOKENS, channels, FIELDS + CONDITION)  # of each place and channel: what each input adds to it
        for place in range(TOKENS):
            read = place if place < FIELDS else CONDITION - 2 + place  # behind the fields; the condition ends with quality and type
            embed[place, :, read] = net.embed.detach()[:, place]
        embed[:, :, FIELDS:] += net.condition.weight.detach()
        bias = net.bias.detach().t() + net.condition.bias.detach()
        self.embed = _linear(embed.flatten(0, 1), bias.flatten())
        self.blocks = nn.ModuleList(_FlatBlock(cast(Block, block)) for block in net.blocks)
        dense = net.dense.weight.detach().reshape(-1, channels, TOKENS).transpose(1, 2).flatten(1)
        self.dense, self.last = _linear(dense, net.dense.bias.detach()), _plain(net.last)

    def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
        x = self.embed(torch.cat([fields, condition], dim=1))
        for block in self.blocks:
            x = block(x)
        return leaky_relu(self.last(leaky_relu(self.dense(leaky_relu(x, SLOPE)), SLOPE)), SLOPE)


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


def _plain(dense: nn.Linear) -> nn.Linear:
    """A dense layer as itself: a runtime of its own multiplies matrices as fast as it convolves."""
    return _linear(dense.weight.detach(), dense.bias.detach())


def _place_major(linear: nn.Linear, channels: int) -> nn.Linear:
    """A layer whose outputs are channels x places, with outputs places x channels."""
    weight = linear.weight.detach().reshape(channels, TOKENS, -1).transpose(0, 1).flatten(0, 1)
    return _linear(weight, linear.bias.detach().reshape(channels, TOKENS).t().flatten())


class _ToUniform(nn.Module):
    """What makes fields, followed by the normal distribution function: u in [0, 1] instead of scores."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        return (1 + torch.erf(self.net(latent, condition) * math.sqrt(0.5))) / 2


def generator_graph(source: Source) -> bytes:
    """ONNX: latent (rows, latent), condition (rows, 8) -> u (rows, 11) in [0, 1]; rows a multiple of its ``turns``."""
    return graph(_ToUniform(source), {"latent": source.latent, "condition": CONDITION}, "u", rows_in=source.turns)


def encoder_graph(encoder: nn.Module) -> bytes:
    """ONNX of a ``worker.training.Autoencoder``'s first half: fields (rows, 11), condition (rows, 8) -> latent (rows, k)."""
    return graph(encoder, {"fields": FIELDS, "condition": CONDITION}, "latent")


def decoder_graph(decoder: nn.Module, latents: int) -> bytes:
    """ONNX of its other half: latent (rows, k), condition (rows, 8) -> u (rows, 11) in [0, 1]."""
    return graph(_ToUniform(decoder), {"latent": latents, "condition": CONDITION}, "u")


def discriminator_graph(discriminator: Panel) -> bytes:
    """ONNX: fields (rows, 11), condition (rows, 8) -> logit (rows,)."""
    return graph(discriminator, {"fields": FIELDS, "condition": CONDITION}, "logit")


def critic_graph(critic: nn.Module) -> bytes:
    """ONNX of a ``worker.critic.Critic``: fields (rows, 11), condition (rows, 8) -> logit (rows,)."""
    return graph(critic, {"fields": FIELDS, "condition": CONDITION}, "logit")


def classifier_graph(classifier: Classifier) -> bytes:
    """ONNX: fields (rows, 11), neutral condition (rows, 8) -> logits (rows, 11)."""
    return graph(classifier, {"fields": FIELDS, "condition": CONDITION}, "logits")


def graph(net: nn.Module, inputs: dict[str, int], output: str, *, rows_in: int = 1) -> bytes:
    """ONNX of a network with one output, which takes rows in multiples of ``rows_in``; ``inputs``: the width of each by its name."""
    lowered = _lower(copy.deepcopy(net).cpu().eval())
    example = tuple(torch.zeros(EXAMPLE_ROWS * rows_in, width) for width in inputs.values())
    rows = rows_in * torch.export.Dim("turns") if rows_in > 1 else torch.export.Dim("rows")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the exporter's own deprecations, nothing that its caller could change
        logging.getLogger("torch.onnx").setLevel(logging.ERROR)  # likewise, that torchvision is not here
        program = torch.onnx.export(
            lowered,
            example,
            input_names=list(inputs),
            output_names=[output],
            dynamic_shapes=tuple({0: rows} for _ in inputs),
            opset_version=OPSET,
            dynamo=True,
            verbose=False,
        )
    if program is None:
        raise RuntimeError("torch.onnx.export returned no program")
    return bytes(stripped(program.model_proto).SerializeToString())


def stripped(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model without what the exporter notes for its own debugging: paths and source lines of this machine."""
    graph = model.graph
    for noted in (model, graph, *graph.node, *graph.value_info, *graph.input, *graph.output, *graph.initializer):
        noted.ClearField("metadata_props")
        noted.ClearField("doc_string")
    return model


_FLAT: dict[type[nn.Module], Callable[[Any], nn.Module]] = {Generator: _FlatGenerator, Trunk: _FlatTrunk, Dense: _plain}


def _lower(net: nn.Module) -> nn.Module:
    """The network with every part replaced that is faster in other words, itself perhaps."""
    if (flat := _FLAT.get(type(net))) is not None:
        return flat(net)
    for name, child in net.named_children():
        setattr(net, name, _lower(child))
    return net
