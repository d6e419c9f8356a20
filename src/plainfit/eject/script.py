"""A whole script, from its sections."""

import dis
import inspect
from typing import Any

import torch
from torch import Tensor

from plainfit.common.errors import EjectError
from plainfit.eject.data import DataText
from plainfit.eject.layout import docstring, literal, spaced, wrapped
from plainfit.eject.lifting import Lifter, module_names
from plainfit.eject.loop import NEEDS, LoopText
from plainfit.eject.optimizer import OptimizerText
from plainfit.eject.recipe import Recipe
from plainfit.eject.values import call, constructor, expression, named

PROMISES = {
    "tensors": "the same weights, bit for bit, and losses within 2 units in the last place",
    "math": "the same mathematics, rounded otherwise: in float64, losses within 1e-12",
}
FIRST = "first."  # before the names of first weights in the file beside a script
SAVE = 'save_model(model, "model.safetensors")'
# How a script sets what the bits depend on, with torch's default, by the name in the fingerprint.
MACHINE = {
    "threads": (None, "torch.set_num_threads({})  # the bits depend on it"),
    "default_dtype": ("torch.float32", "torch.set_default_dtype({})"),
    "deterministic_algorithms": (False, "torch.use_deterministic_algorithms({})"),
    "float32_matmul_precision": ("highest", "torch.set_float32_matmul_precision({})"),
    "cudnn_benchmark": (False, "torch.backends.cudnn.benchmark = {}"),
    "cudnn_allow_tf32": (True, "torch.backends.cudnn.allow_tf32 = {}"),
}


class Script:
    """A script at level `loop` or `data`."""

    def __init__(self, recipe: Recipe, level: str, data: str) -> None:
        self.recipe = recipe
        self.data_name = data
        self.lifter = Lifter()
        self.data = DataText(recipe, self.lifter, level)
        self.level = level
        self.limits: list[EjectError] = []  # each with the lowest level that has it

    def text(self) -> str:
        reading = self.data.reading(self.data_name)
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
        ours = [settings, self.machine(), reading, validation, model, [*loop, "", SAVE]]
        self.take_needed("\n".join(line for block in ours for line in block))
        settings, machine, reading, validation, model, loop = map(all_wrapped, ours)
        definitions = [text.splitlines() for text in self.lifter.definitions.values()]
        before, after = definitions[:to_read], definitions[to_read:]
        blocks = [settings, machine, *before, reading, *after, validation, model, loop]
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
        notes = f" Left out, as they only observe: {', '.join(left_out)}." * bool(left_out)
        return docstring(f"Train {recipe.name}.", f"{text}.{notes}")

    def model(self) -> list[str]:
        recipe, lifter = self.recipe, self.lifter
        if recipe.target is None:
            made = constructor(recipe.model, lifter)
            kinds = {str(p.dtype) for p in recipe.model.parameters()} - {"torch.float32"}
            made += "".join(f".to({kind})" for kind in kinds)  # one at most, else it is refused
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
        if recipe.initial:
            taken = f'{{k.removeprefix("{FIRST}"): v for k, v in data.items() if "{FIRST}" in k}}'
            lines.append(f"model.load_state_dict({taken})")
        for name in recipe.frozen:
            lines.append(f"model.get_parameter({literal(name)}).requires_grad_(False)")
        if recipe.generator is not None:
            lines.append('torch.set_rng_state(data["generator"])')
        return lines

    def beside(self) -> dict[str, Tensor]:
        first = {f"{FIRST}{name}": value for name, value in (self.recipe.initial or {}).items()}
        state = {"generator": self.recipe.generator}
        return {**self.data.tensors, **first, **{k: v for k, v in state.items() if v is not None}}

    def take_needed(self, text: str) -> None:
        """Make what our own text names part of the script, and check what it assigns to."""
        code = compile(text, "script", "exec")
        for name in sorted(module_names(code) & NEEDS.keys()):
            need = NEEDS[name]
            if isinstance(need, str):
                self.lifter.imports.add(need)
            else:
                self.lifter.lift(need)
        assigned = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
        for name in sorted(assigned & self.lifter.definitions.keys()):
            home = self.lifter.homes[name]
            if not home.startswith("plainfit."):
                raise EjectError(
                    f"the loop of a script has a {name!r} of its own, and so has {home}; rename it"
                )


def all_wrapped(lines: list[str]) -> list[str]:
    return [row for line in lines for row in wrapped(line)]
