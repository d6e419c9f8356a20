"""A whole script, from its sections."""

import ast
import inspect
from functools import cache
from typing import Any

import torch
from torch import Tensor

from plainfit.common.devices import PRECISIONS
from plainfit.common.errors import EjectError
from plainfit.common.seeding import seed_at, stream
from plainfit.data.batches import join
from plainfit.eject.data import DataText
from plainfit.eject.lifting import Lifter
from plainfit.eject.loop import LoopText
from plainfit.eject.optimizer import OptimizerText, path_to
from plainfit.eject.recipe import Recipe
from plainfit.eject.source import (
    Source,
    docstring,
    imports_in,
    literal,
    spaced,
    words,
    wrapped,
)
from plainfit.eject.values import USUAL, call, constructor, expression, named
from plainfit.training.callbacks.optimization import (
    freeze,
    frozen_groups,
    plain_mean,
    warmed_up_mean,
)
from plainfit.training.compiling import OneGraph
from plainfit.training.history import weighted_mean
from plainfit.training.metrics import LossWeights, correct
from plainfit.training.sharding import FromPieces, change, seed_of_state
from plainfit.training.tracing import InGraph

PROMISES = {
    "tensors": "the same weights, bit for bit, and losses within 2 units in the last place",
    "math": "the same mathematics, rounded otherwise: in float64, losses within 1e-12",
}
FIRST = "first."  # before the names of first weights in the file beside a script
FIRST_OF_LOSS = "first_of_loss."
SAVE = 'save_model(model, "model.safetensors")'
SAVE_OF_FIRST = ["if RANK == 0:", f"    {SAVE}"]
# How a script sets what the bits depend on, with torch's default, by the name in the fingerprint.
MACHINE = {
    "threads": (None, "torch.set_num_threads({})  # the bits depend on it"),
    "default_dtype": ("torch.float32", "torch.set_default_dtype({})"),
    "deterministic_algorithms": (False, "torch.use_deterministic_algorithms({})"),
    "cudnn_benchmark": (False, "torch.backends.cudnn.benchmark = {}"),
    "cudnn_deterministic": (False, "torch.backends.cudnn.deterministic = {}"),
    "float32_matmul_precision": ("highest", "torch.set_float32_matmul_precision({})"),  # of older
    "cudnn_allow_tf32": (True, "torch.backends.cudnn.allow_tf32 = {}"),  # runs, as is this
    **{
        f"{name}.fp32_precision": (usual, f"torch.backends.{name}.fp32_precision = {{}}")
        for name, usual in PRECISIONS.items()
    },
}
# Names of a script that are not words of its templates.
OTHERS = "LR MOMENTUM WEIGHT_DECAY k train_order v valid_loss valid_order"
# What its text, or that of a lower level, may import; and definitions of ours that are copied.
IMPORTS = """
import gzip
import math
import os
import sys
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors.torch import load_file, save_model
from sklearn.datasets import load_digits
from torch import Generator, Tensor, nn
from torch._higher_order_ops.while_loop import while_loop
from torch._subclasses.functional_tensor import dispatch_functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils._pytree import tree_leaves, tree_map, tree_structure, tree_unflatten
from torch.utils.data import DataLoader, TensorDataset
"""
STATEMENTS = {name: statement for name, _, statement in imports_in(ast.parse(IMPORTS).body)}
COPIED = {each.__name__: each for each in (
    FromPieces, InGraph, LossWeights, OneGraph, change, correct, freeze, frozen_groups, join,
    plain_mean, seed_at, seed_of_state, stream, warmed_up_mean,
)}  # fmt: skip


@cache
def reserved() -> dict[str, str]:
    """Return the names of the text of a script, with where those are from that it imports."""
    ours = dict.fromkeys([*words(), *OTHERS.split()], "")
    imports = imports_in(ast.parse("\n".join([IMPORTS, *(s for *_, s in USUAL)])).body)
    copied = [*COPIED.values(), weighted_mean]
    homes = {each.__name__: f"{each.__module__}:{each.__name__}" for each in copied}
    return {**ours, **homes, **{name: full for name, full, _ in imports}}


class Script:
    """A script at level `loop` or `data`."""

    def __init__(self, recipe: Recipe, level: str, data: str) -> None:
        self.recipe = recipe
        self.data_name = data
        self.lifter = Lifter(reserved())
        self.data = DataText(recipe, self.lifter, level)
        self.level = level
        self.limits: list[EjectError] = []  # each with the lowest level that has it

    def text(self) -> str:
        reading = self.data.reading()
        to_read = len(self.lifter.definitions)
        if self.data.gives_images():
            self.lifter.unused.add("as_images")  # what they are already
        optimizer = OptimizerText(self.recipe, self.lifter)
        model = [*self.model(), *optimizer.lines()]
        training = LoopText(self.recipe, self.data, self.lifter)
        for part in (self.recipe, self.data, optimizer, training):
            self.limits += part.limits()
        validation, loop = training.validation(), training.lines()
        settings = training.settings(optimizer)
        tensors = f"data = load_file(Path(__file__).with_name({literal(self.data_name)}))"
        beside = [tensors] if self.beside() else []
        if self.recipe.loss_initial:
            training.loss.append(load_first("loss_func", FIRST_OF_LOSS))
        model = [*training.loss, *model]
        loop += ["", *(SAVE_OF_FIRST if self.recipe.shards else [SAVE])]
        ours = [settings, self.machine(), beside, reading, validation, model, loop]
        self.take_needed("\n".join(line for block in ours for line in block))
        settings, machine, beside, reading, validation, model, loop = map(all_wrapped, ours)
        definitions = [text.splitlines() for text in self.lifter.definitions.values()]
        before, after = definitions[:to_read], definitions[to_read:]
        blocks = [settings, machine, beside, *before, reading, *after, validation, model, loop]
        imports = all_wrapped(self.lifter.imports.lines())
        return "\n".join([*self.header(training.left_out), "", *imports, "", *spaced(blocks), ""])

    def machine(self) -> list[str]:
        lines = []
        for name, (default, statement) in MACHINE.items():
            value: Any = self.recipe.fingerprint.get(name, default)
            if value != default:
                if name != "default_dtype":
                    value = literal(value)
                elif not isinstance(getattr(torch, value.removeprefix("torch."), 0), torch.dtype):
                    raise EjectError(f"the default dtype must be one of torch, got {value!r}")
                lines.append(statement.format(value))
        return lines

    def header(self, left_out: list[str]) -> list[str]:
        recipe, on = self.recipe, self.recipe.fingerprint
        threads = f"{on['threads']} thread{'s' * (on['threads'] != 1)}"
        promise = PROMISES.get(self.level, "the same losses and weights, bit for bit")
        text = (
            f"{recipe.origin} (`{recipe.command}`) in plain PyTorch, at level {self.level} of "
            f"`plainfit eject`. On torch {on['torch']} ({on['device']}, {on['cpu_capability']}, "
            f"{threads}) it gives {promise}"
        )
        if recipe.outcome.sha256 and self.level != "math":
            text += f"; the SHA-256 of model.safetensors is {recipe.outcome.sha256}"
        if recipe.shards:
            text += f". `torchrun --nproc-per-node N` gives them too, for N up to {recipe.shards}"
        notes = f" Left out, as they only observe: {', '.join(left_out)}." * bool(left_out)
        return docstring(f"Train {recipe.name}.", f"{text}.{notes}")

    def model(self) -> list[str]:
        recipe, lifter = self.recipe, self.lifter
        if recipe.target is None:
            made = constructor(recipe.model, lifter)
            kinds = {str(p.dtype) for p in recipe.model.parameters()} - {"torch.float32"}
            made += "".join(f".to({kind})" for kind in kinds)
        else:
            order = [*inspect.signature(recipe.target).parameters]
            given = {name: recipe.arguments[name] for name in order if name in recipe.arguments}
            given |= recipe.arguments  # those that the target takes as **kwargs come last
            arguments = {name: expression(value, lifter) for name, value in given.items()}
            made = call(named(recipe.target, lifter), [], arguments)
        moved = "" if recipe.device == "cpu" else ".to(DEVICE)"
        layout = ".to(memory_format=torch.channels_last)" if recipe.channels_last else ""
        lines = [] if recipe.target is None and recipe.initial else ["torch.manual_seed(SEED)"]
        lines.append(f"model = {made}{moved}{layout}")
        for name, first in recipe.ties.items():
            lines.append(f"{path_to(name, recipe.model)} = {path_to(first, recipe.model)}")
        if recipe.initial:
            lines.append(load_first("model", FIRST))
        for name in recipe.frozen:
            lines.append(f"model.get_parameter({literal(name)}).requires_grad_(False)")
        if recipe.generator is not None:
            lines.append('torch.set_rng_state(data["generator"])')
        return lines

    def beside(self) -> dict[str, Tensor]:
        first = {f"{FIRST}{name}": value for name, value in (self.recipe.initial or {}).items()}
        first |= {f"{FIRST_OF_LOSS}{name}": v for name, v in self.recipe.loss_initial.items()}
        state = {"generator": self.recipe.generator}
        own = {**self.data.tensors, **self.lifter.tensors}
        return {**own, **first, **{k: v for k, v in state.items() if v is not None}}

    def take_needed(self, text: str) -> None:
        """Make what our own text names part of the script."""
        for name in sorted({name for name, *_ in Source(text).global_names}):
            if name in STATEMENTS:
                self.lifter.imports.add(STATEMENTS[name])
            elif name in COPIED:
                self.lifter.lift(COPIED[name])


def load_first(module: str, prefix: str) -> str:
    """Return the line that loads first weights from the file beside a script."""
    taken = (
        f'{{k.removeprefix("{prefix}"): v for k, v in data.items() if k.startswith("{prefix}")}}'
    )
    return f"{module}.load_state_dict({taken})"


def all_wrapped(lines: list[str]) -> list[str]:
    return [row for line in lines for row in wrapped(line)]
