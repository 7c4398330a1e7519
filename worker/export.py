"""Networks -> ONNX graphs that need neither torch nor us.

Convolutions are what serving pays for: ONNX Runtime runs them 3x slower per row than a dense net of four times the
weights. So at export each becomes what it is, exactly: shifted copies side by side and one matrix product.
"""

from __future__ import annotations

import copy
import logging
import math
import warnings

import onnx
import torch
from torch import Tensor, nn

from app.codec import CONDITION
from worker.nets import FIELDS, Classifier, Dense, Panel, Source

EXAMPLE_ROWS = 3  # the exporter traces with some number of rows and leaves it open
OPSET = 20


class _Lowered(nn.Module):
    """A Conv1d as shifted slices and one product. Shape: (rows, channels, places) -> the same."""

    def __init__(self, conv: nn.Conv1d) -> None:
        super().__init__()
        self.reach = conv.kernel_size[0] // 2
        # (out, in, shift) -> (shift * in, out), to match the order in which slices are laid side by side
        self.weight = nn.Parameter(conv.weight.detach().permute(2, 1, 0).flatten(0, 1).contiguous())
        bias = conv.bias if conv.bias is not None else torch.zeros(conv.out_channels)
        self.bias = nn.Parameter(bias.detach())

    def forward(self, x: Tensor) -> Tensor:
        places = x.shape[2]
        padded = nn.functional.pad(x.transpose(1, 2), (0, 0, self.reach, self.reach))  # (rows, places + 2 reach, channels)
        slices = [padded[:, shift : shift + places] for shift in range(2 * self.reach + 1)]
        return (torch.cat(slices, dim=2) @ self.weight + self.bias).transpose(1, 2)


class _ToUniform(nn.Module):
    """What makes fields, followed by the normal distribution function: u in [0, 1] instead of scores."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, latent: Tensor, condition: Tensor) -> Tensor:
        return (1 + torch.erf(self.net(latent, condition) * math.sqrt(0.5))) / 2


def generator_graph(source: Source) -> bytes:
    """ONNX: latent (rows, latent), condition (rows, 8) -> u (rows, 11) in [0, 1]; rows a multiple of its ``turns``."""
    return _graph(_ToUniform(source), {"latent": source.latent, "condition": CONDITION}, "u", rows_in=source.turns)


def encoder_graph(encoder: nn.Module) -> bytes:
    """ONNX of a ``worker.training.Autoencoder``'s first half: fields (rows, 11), condition (rows, 8) -> latent (rows, k)."""
    return _graph(encoder, {"fields": FIELDS, "condition": CONDITION}, "latent")


def decoder_graph(decoder: nn.Module, latents: int) -> bytes:
    """ONNX of its other half: latent (rows, k), condition (rows, 8) -> u (rows, 11) in [0, 1]."""
    return _graph(_ToUniform(decoder), {"latent": latents, "condition": CONDITION}, "u")


def discriminator_graph(discriminator: Panel) -> bytes:
    """ONNX: fields (rows, 11), condition (rows, 8) -> logit (rows,)."""
    return _graph(discriminator, {"fields": FIELDS, "condition": CONDITION}, "logit")


def critic_graph(critic: nn.Module) -> bytes:
    """ONNX of a ``worker.critic.Critic``: fields (rows, 11), condition (rows, 8) -> logit (rows,)."""
    return _graph(critic, {"fields": FIELDS, "condition": CONDITION}, "logit")


def classifier_graph(classifier: Classifier) -> bytes:
    """ONNX: fields (rows, 11), neutral condition (rows, 8) -> logits (rows, 11)."""
    return _graph(classifier, {"fields": FIELDS, "condition": CONDITION}, "logits")


def _graph(net: nn.Module, inputs: dict[str, int], output: str, *, rows_in: int = 1) -> bytes:
    """The graph of a network that takes rows in multiples of ``rows_in``."""
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


def _lower(net: nn.Module) -> nn.Module:
    for name, child in net.named_children():
        if isinstance(child, nn.Conv1d):
            setattr(net, name, _Lowered(child))
        elif isinstance(child, Dense):  # a runtime of its own multiplies matrices as fast as it convolves
            linear = nn.Linear(child.in_features, child.out_features)
            linear.load_state_dict(child.state_dict())
            setattr(net, name, linear)
        else:
            _lower(child)
    return net
