"""Batch-norm statistics that a network can be used with."""

from __future__ import annotations

import copy

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from nowcast.model import Generator


def estimated_buffers(generator: Generator, contexts: Tensor) -> dict[str, Tensor]:
    """Buffers of a generator after one training pass over some contexts; the generator itself stays.

    All windows go through as one batch, so that every layer sees what it will see in a forecast. With
    statistics that trail behind the weights, as those that training leaves do, or with means over small
    batches, a forecast can run away. The buffers of spectral norm are those the statistics were taken with.

    Args:
        generator: The network.
        contexts: Network values (B, T, C, H, W), as many windows as fit into memory.
    """
    probe = copy.deepcopy(generator).train()
    probe.sampler.recompute = False
    for module in probe.modules():
        if isinstance(module, _BatchNorm):
            module.momentum = 1.0
    shape = (contexts.shape[0], *probe.latent_shape(*contexts.shape[-2:]))
    noise = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        probe(contexts, noise.to(contexts))
    return dict(probe.named_buffers())


def hold_statistics(module: nn.Module) -> None:
    """Lets batch norm use the statistics it has and leave them as they are, until `train` is called again."""
    for layer in module.modules():
        if isinstance(layer, _BatchNorm):
            layer.eval()


def set_buffers(module: nn.Module, values: dict[str, Tensor]) -> None:
    """Copies values into the buffers of those names."""
    buffers = dict(module.named_buffers())
    for name, value in values.items():
        buffers[name].copy_(value)
