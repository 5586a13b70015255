"""Optimiser steps of models with several objectives, whose gradients several processes average.

DistributedDataParallel averages by hooks that know one backward pass a step only.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor


def update(fabric: Any, optimiser: torch.optim.Optimizer, objective: Tensor) -> None:
    """Take one step of the optimiser along the gradient of a scalar. Other parameters get no gradient."""
    weights = [weight for group in optimiser.param_groups for weight in group["params"]]
    gradients = averaged(fabric, torch.autograd.grad(objective, weights))
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.grad = gradient
    optimiser.step()
    optimiser.zero_grad()


def averaged(fabric: Any, tensors: Iterable[Tensor]) -> list[Tensor]:
    """Return the mean of each tensor over all processes, in one transfer."""
    tensors = list(tensors)
    if fabric.world_size == 1:
        return tensors
    mean = fabric.all_reduce(torch.cat([x.flatten() for x in tensors]), reduce_op="mean")
    return [x.view_as(like) for x, like in zip(mean.split([x.numel() for x in tensors]), tensors, strict=True)]
