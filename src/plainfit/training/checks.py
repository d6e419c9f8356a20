"""What is checked before a training starts."""

import copy
from typing import Any

import torch
from torch import nn
from torch.utils.data import BatchSampler

from plainfit.common.devices import device_of
from plainfit.common.errors import ConfigError
from plainfit.data.batches import length, pairs
from plainfit.training.state import random_state, set_random_state

NORMS = (nn.modules.batchnorm._BatchNorm, nn.GroupNorm)  # those that may need several samples
ONE_SAMPLE = "Expected more than 1 value per channel"  # as they say it


def check_last_batch(model: nn.Module, dl: Any) -> None:
    """Refuse a last batch of one sample where the model cannot be trained on it."""
    if how := fails_on_last(model, dl):
        raise ConfigError(
            f"must leave no last batch of one sample, where a norm of {type(model).__name__} has "
            f"one value per channel, got {how} samples; set drop_last, or choose another "
            "batch_size",
            field="batch_size",
        )


def fails_on_last(model: nn.Module, dl: Any) -> str:
    """Return how the last batch comes to one sample, if the model cannot be trained on it."""
    inner = dl
    while hasattr(inner, "dl"):  # within WrappedDataLoaders
        inner = inner.dl
    if hasattr(inner, "seek"):
        order = getattr(inner, "sampler", inner)
        samples = length(order.dataset)
    else:
        order = getattr(inner, "batch_sampler", None)
        samples = length(order.sampler) if type(order) is BatchSampler else None
    if not samples or order.drop_last or (samples - 1) % order.batch_size:
        return ""
    if not any(isinstance(module, NORMS) for module in model.modules()):
        return ""
    how = f"{samples:,} = {(samples - 1) // order.batch_size} * {order.batch_size} + 1"
    states, kept = random_state(dl), (order.batch_size, getattr(inner, "num_workers", 0))
    order.batch_size, inner.num_workers = 1, 0
    try:
        with torch.no_grad():
            xb, _ = next(pairs(dl, device_of(model)))
            copy.deepcopy(model).train()(xb)
    except Exception as error:  # another one is for the training to raise
        return how if ONE_SAMPLE in str(error) else ""
    finally:
        order.batch_size, inner.num_workers = kept
        set_random_state(states, dl)
    return ""
