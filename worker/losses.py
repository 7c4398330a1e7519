"""The losses: pure functions of logits and gradients, each with its paper."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, softplus

from app.wine import QUALITY_RANGE


def relativistic_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Scalar; logits (rows,) of pairs with the same label. Jolicoeur-Martineau, *The relativistic discriminator*, ICLR 2019."""
    return softplus(fake - real).mean()


def relativistic_generator(real: Tensor, fake: Tensor) -> Tensor:
    """Scalar; the same pairing seen from the other side, as in R3GAN (Huang et al., NeurIPS 2024, eq. 2)."""
    return softplus(real - fake).mean()


def traditional_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Scalar; -log D(x) - log(1 - D(G(z))). Goodfellow et al., *Generative adversarial nets*, NeurIPS 2014, eq. 1."""
    return softplus(-real).mean() + softplus(fake).mean()


def traditional_generator(fake: Tensor) -> Tensor:
    """Scalar; -log D(G(z)), the non-saturating form (ibid., section 3)."""
    return softplus(-fake).mean()


def wasserstein_discriminator(real: Tensor, fake: Tensor) -> Tensor:
    """Scalar; Arjovsky et al., *Wasserstein GAN*, ICML 2017, eq. 2."""
    return fake.mean() - real.mean()


def wasserstein_generator(fake: Tensor) -> Tensor:
    """Scalar; the other side of the same game."""
    return -fake.mean()


def squared_gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    """Mean over rows of ||d logit / d input||^2, a scalar with a graph; logits (rows,), inputs (rows, 11).

    At real rows it is R1, at generated ones R2 (Mescheder et al., *Which training methods for GANs do actually
    converge?*, ICML 2018, eq. 9 and 10).
    """
    return _gradient(logits, inputs).square().sum(1).mean()


def one_lipschitz(logits: Tensor, inputs: Tensor) -> Tensor:
    """Mean over rows of (||d logit / d input|| - 1)^2, a scalar with a graph. Gulrajani et al., NeurIPS 2017, eq. 3."""
    norm = cast(Tensor, torch.linalg.vector_norm(_gradient(logits, inputs), dim=1))  # (rows,)
    return (norm - 1).square().mean()


def _gradient(logits: Tensor, inputs: Tensor) -> Tensor:
    (gradient,) = torch.autograd.grad(logits.sum(), inputs, create_graph=True)  # (rows, 11)
    return gradient


def quality_cross_entropy(logits: Tensor, quality: Tensor) -> Tensor:
    """Scalar; logits (rows, 11), one for each score of the tasters' scale, against scores (rows,) of that scale."""
    return cross_entropy(logits, quality - QUALITY_RANGE[0])
