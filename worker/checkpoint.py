"""Training state as bytes: safetensors and nothing else, complete enough that resumed equals uninterrupted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor, nn
from torch.optim import Optimizer

Tensors = dict[str, Tensor]

MAX_WHY = 300  # characters of what torch says: it names every weight


class CheckpointUnusable(Exception):
    """Bytes that are not the state of these networks and optimisers."""


@dataclass(frozen=True)
class Trainees:
    """All that changes while a method trains: networks, optimisers, and the one source of randomness."""

    nets: Mapping[str, nn.Module]
    optimizers: Mapping[str, Optimizer]
    random: torch.Generator

    def save(self, step: int) -> bytes:
        """The state after ``step`` steps."""
        tensors: Tensors = {"step": torch.tensor(step), "random": self.random.get_state()}
        for name, net in self.nets.items():
            tensors |= {f"net.{name}.{key}": value for key, value in net.state_dict().items()}
        for name, optimizer in self.optimizers.items():
            for index, slots in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{name}.{index}.{key}": value for key, value in slots.items()}
        return save({key: value.detach().cpu().contiguous() for key, value in tensors.items()})

    def load(self, state: bytes) -> int:
        """Puts back what ``save`` wrote and returns its step; ``CheckpointUnusable`` if a name or a shape is another."""
        try:
            return self._load(state)
        except (KeyError, ValueError, RuntimeError, SafetensorError) as error:
            why = " ".join(str(error).split())[:MAX_WHY]
            raise CheckpointUnusable(f"the checkpoint does not fit what is trained here, perhaps another version wrote it: {why}") from error

    def _load(self, state: bytes) -> int:
        tensors = load(state)
        self.random.set_state(tensors["random"])
        for name, net in self.nets.items():
            net.load_state_dict(_below(tensors, f"net.{name}."))
        for name, optimizer in self.optimizers.items():
            slots: dict[int, Tensors] = {}
            for key, value in _below(tensors, f"optimizer.{name}.").items():
                index, slot = key.split(".")
                slots.setdefault(int(index), {})[slot] = value
            optimizer.load_state_dict({"state": slots, "param_groups": optimizer.state_dict()["param_groups"]})
        return int(tensors["step"])


def weights(net: nn.Module) -> bytes:
    """The weights of one network, for a later training to start from."""
    return save({key: value.detach().cpu().contiguous() for key, value in net.state_dict().items()})


def load_weights(net: nn.Module, state: bytes) -> None:
    """Puts weights back; ``RuntimeError`` names what is missing or of another shape."""
    net.load_state_dict(load(state))


def _below(tensors: Tensors, prefix: str) -> Tensors:
    return {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
