"""Networks -> ONNX graphs that need neither torch nor us.

Convolutions are what serving pays for, and ONNX Runtime is slow where a wine is an image of its own, 13 places wide. So
at export a network becomes what it is, exactly, in other words: all wines are one image, its height the places, its
width the rows, and the runtime's kernels for wide images apply (docs/decisions/0021-all-rows-are-one-image.md).
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


class _ImageBlock(nn.Module):
    """A ``worker.nets.Block`` on an image of all rows: as high as there are places, as wide as there are rows.

    Shape: (1, channels, 13, rows) -> (1, channels, ``places``, rows), the first of them;
    ``film`` (1, 2 * channels, 1, rows): what comes between is multiplied by the first half, and the second is added.
    """

    def __init__(self, block: Block, *, places: int = TOKENS) -> None:
        super().__init__()
        self.channels, self.places = block.first.out_channels, places
        self.first, self.second = _upright(block.first), _upright(block.second, places=places)

    def forward(self, x: Tensor, film: Tensor | None = None) -> Tensor:
        inner = self.first(leaky_relu(x, SLOPE))
        if film is not None:
            inner = inner * film[:, : self.channels] + film[:, self.channels :]
        return x[:, :, : self.places] + cast(Tensor, self.second(leaky_relu(inner, SLOPE)))


def _upright(conv: nn.Conv1d, *, places: int = TOKENS) -> nn.Module:
    """A convolution along a sequence as one along the height of an image, which makes the first ``places`` of it only."""
    size, reach = conv.kernel_size[0], conv.kernel_size[0] // 2
    column = nn.Conv2d(conv.in_channels, conv.out_channels, (size, 1))
    column.load_state_dict({"weight": conv.weight.detach()[..., None], "bias": cast(Tensor, conv.bias).detach()})
    return nn.Sequential(nn.ZeroPad2d((0, 0, reach, reach - (TOKENS - places))), column)


class _ImageGenerator(nn.Module):
    """A ``worker.nets.Generator`` on such an image; the same shapes outside."""

    def __init__(self, net: Generator) -> None:
        super().__init__()
        self.channels, self.spread, self.film = net.channels, net.spread, net.film
        unmoved = torch.cat([torch.ones(net.channels), torch.zeros(net.channels)])  # a block multiplies by 1 + scale
        self.modulate = nn.ModuleList(_linear(m.weight.detach(), m.bias.detach() + unmoved) for m in cast("list[nn.Linear]", net.modulate))
        *blocks, last = cast("list[Block]", net.blocks)
        self.blocks = nn.ModuleList([*map(_ImageBlock, blocks), _ImageBlock(last, places=FIELDS)])  # quality and type need no reading
        read = torch.zeros(FIELDS, net.channels, FIELDS)
        for j in range(FIELDS):
            read[j, :, j] = net.read.detach()[:, j]
        self.read = _linear(read.flatten(1), net.read_bias.detach())

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        source = torch.cat([latent, condition], dim=1)
        x = _columns(self.spread, source.t()).reshape(1, self.channels, TOKENS, -1)
        style = leaky_relu(self.film(source), SLOPE)
        for block, modulate in zip(self.blocks, self.modulate, strict=True):
            x = block(x, modulate(style).t()[None, :, None])
        return cast(Tensor, self.read(leaky_relu(x, SLOPE).reshape(self.channels * FIELDS, -1).t()))


class _ImageTrunk(nn.Module):
    """A ``worker.nets.Trunk`` on such an image; the same shapes outside."""

    def __init__(self, net: Trunk) -> None:
        super().__init__()
        self.channels = net.embed.shape[0]
        embed = torch.zeros(self.channels, TOKENS, FIELDS + CONDITION)  # of each channel and place: what each input adds to it
        for place in range(TOKENS):
            read = place if place < FIELDS else CONDITION - 2 + place  # behind the fields; the condition ends with quality and type
            embed[:, place, read] = net.embed.detach()[:, place]
        embed[:, :, FIELDS:] += net.condition.weight.detach()[:, None]
        self.embed = _linear(embed.flatten(0, 1), (net.bias.detach() + net.condition.bias.detach()[:, None]).flatten())
        self.blocks = nn.ModuleList(map(_ImageBlock, cast("list[Block]", net.blocks)))
        self.dense, self.last = _plain(net.dense), _plain(net.last)

    def forward(self, fields: Tensor, condition: Tensor) -> Tensor:
        x = _columns(self.embed, torch.cat([fields, condition], dim=1).t()).reshape(1, self.channels, TOKENS, -1)
        for block in self.blocks:
            x = block(x)
        flat = leaky_relu(x, SLOPE).reshape(self.channels * TOKENS, -1).t()
        return leaky_relu(self.last(leaky_relu(self.dense(flat), SLOPE)), SLOPE)


def _columns(linear: nn.Linear, columns: Tensor) -> Tensor:
    """A layer on columns, (in, rows) -> (out, rows), where turning its rows would cost a copy of all."""
    return linear.weight @ columns + linear.bias[:, None]


def _linear(weight: Tensor, bias: Tensor) -> nn.Linear:
    linear = nn.Linear(weight.shape[1], weight.shape[0])
    linear.load_state_dict({"weight": weight, "bias": bias})
    return linear


def _plain(dense: nn.Linear) -> nn.Linear:
    """A dense layer as itself: a runtime of its own multiplies matrices as fast as it convolves."""
    return _linear(dense.weight.detach(), dense.bias.detach())


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


# by the very type: an attentive trunk is a trunk, and no image helps its tokens to look at each other (docs/decisions/0022-one-discriminator-attends.md)
_LOWERED: dict[type[nn.Module], Callable[[Any], nn.Module]] = {Generator: _ImageGenerator, Trunk: _ImageTrunk, Dense: _plain}


def _lower(net: nn.Module) -> nn.Module:
    """The network with every part replaced that is faster in other words, itself perhaps."""
    if (faster := _LOWERED.get(type(net))) is not None:
        return faster(net)
    for name, child in net.named_children():
        setattr(net, name, _lower(child))
    return net
