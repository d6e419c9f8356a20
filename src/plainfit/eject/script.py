"""A whole script, from its sections."""

import inspect
import textwrap

from torch import Tensor

from plainfit.common.errors import EjectError
from plainfit.eject.data import DataText
from plainfit.eject.layout import wrapped
from plainfit.eject.lifting import Lifter
from plainfit.eject.optimizer import OptimizerText
from plainfit.eject.recipe import Recipe
from plainfit.eject.training import Training
from plainfit.eject.values import call, constructor, expression, named

PROMISES = {
    "tensors": "the same weights, bit for bit, and losses within 2 units in the last place",
    "math": "the same mathematics, rounded otherwise: in float64, losses within 1e-12",
}
FIRST = "first."  # before the names of first weights in the file beside a script
# Names that the loop of a script uses: a definition of the user's must not have one.
TAKEN = {
    "BATCH_SIZE", "EPOCHS", "SEED", "averaged", "best", "best_loss", "epoch", "generator", "loss",
    "losses", "model", "opt", "order", "rows", "samples", "schedule", "sizes", "started", "state",
    "step", "train_loss", "trained", "xb", "yb", "validate", "x_train", "y_train", "x_valid",
    "y_valid",
}  # fmt: skip


class Script:
    """A script at rung `loop` or `data`."""

    def __init__(self, recipe: Recipe, rung: str, data: str) -> None:
        self.recipe = recipe
        self.data_name = data
        self.lifter = Lifter()
        for statement in ("import torch", "from torch import nn"):
            self.lifter.imports.add(statement)
        self.lifter.imports.add("from safetensors.torch import save_model")
        self.data = DataText(recipe, self.lifter, rung)
        self.rung = rung
        self.limits: list[EjectError] = []
        """Why there is no script at lower rungs, each with the lowest that there is."""

    def text(self) -> str:
        """Return the script: its sections in the order in which each needs the ones before."""
        self.data.prepare()
        reading = self.data.reading(self.data_name)
        to_read = self.lifted()
        if self.data.gives_images():
            self.lifter.unused.add("as_images")  # what they are already
        optimizer = OptimizerText(self.recipe, self.lifter)
        model = [*self.model(), *optimizer.lines()]
        to_build = self.lifted(to_read)
        training = Training(self.recipe, self.data, self.lifter)
        for part in (self.recipe, self.data, optimizer, training):
            self.limits += part.limits()
        validation = training.validation()
        loop = [*training.before(), *training.loop(), *training.after()]
        to_train = self.lifted(to_read, to_build)
        self.check_names()
        settings = [
            f"SEED = {self.recipe.seed}",
            f"EPOCHS = {self.recipe.epochs}",
            f"BATCH_SIZE = {self.data.train.batch_size}",
            *optimizer.settings(),
            *training.settings(),
            *self.more_settings("\n".join(loop)),
            *self.data.settings(),
        ]
        blocks = [
            settings,
            self.machine(),
            *map(str.splitlines, to_read.values()),
            reading,
            *map(str.splitlines, to_build.values()),
            *map(str.splitlines, to_train.values()),
            validation,
            model,
            [*loop, "", 'save_model(model, "model.safetensors")'],
        ]  # fmt: skip
        lines = [*self.heading(), "", *self.lifter.imports.lines(), "", *spaced(blocks)]
        return "\n".join(row for line in lines for row in wrapped(line)) + "\n"

    def lifted(self, *before: dict[str, str]) -> dict[str, str]:
        """Return the definitions that came since some others."""
        known = {name for group in before for name in group}
        return {name: text for name, text in self.lifter.definitions.items() if name not in known}

    def more_settings(self, loop: str) -> list[str]:
        """Return the constants that only some scripts have."""
        lines = []
        if "STEPS" in loop:
            lines.append(f"STEPS = {self.recipe.steps}  # in an epoch")
        if "ORDER_SEED" in loop:
            lines.append(f"ORDER_SEED = {self.data.train.seed}  # of the order of samples")
        if self.recipe.device != "cpu":
            lines.append(f'DEVICE = "{self.recipe.device}"')
        return lines

    def machine(self) -> list[str]:
        """Return the lines that set what the bits depend on, where it is not torch's default."""
        on = self.recipe.fingerprint
        lines = [f"torch.set_num_threads({on['threads']})  # the bits depend on it"]
        if on["default_dtype"] != "torch.float32":
            lines.append(f"torch.set_default_dtype({on['default_dtype']})")
        if on["deterministic_algorithms"]:
            lines.append("torch.use_deterministic_algorithms(True)")
        if on["float32_matmul_precision"] != "highest":
            lines.append(f'torch.set_float32_matmul_precision("{on["float32_matmul_precision"]}")')
        return lines

    def heading(self) -> list[str]:
        """Return the script's docstring."""
        recipe, on = self.recipe, self.recipe.fingerprint
        threads = f"{on['threads']} thread{'s' * (on['threads'] != 1)}"
        promise = PROMISES.get(self.rung, "the same losses and weights, bit for bit")
        text = (
            f"{recipe.origin} (`{recipe.command}`) in plain PyTorch, at rung {self.rung} of "
            f"`plainfit eject`. On torch {on['torch']} ({on['device']}, {on['cpu_capability']}, "
            f"{threads}) it gives {promise}"
        )
        if recipe.outcome.sha256 and self.rung != "math":
            text += f"; the SHA-256 of model.safetensors is {recipe.outcome.sha256}"
        text += "."
        if recipe.notes:
            text += f" Left out, as they only look: {', '.join(recipe.notes)}."
        wrap = textwrap.wrap(text, 98, break_on_hyphens=False, break_long_words=False)
        return [f'"""Train {recipe.name}.', "", *wrap, '"""']

    def model(self) -> list[str]:
        """Return the lines that build the model as it was when the training began."""
        recipe, lifter = self.recipe, self.lifter
        if recipe.target is None:
            made = constructor(recipe.model, lifter)
            kinds = {str(p.dtype) for p in recipe.model.parameters()} - {"torch.float32"}
            made += "".join(f".to({kind})" for kind in kinds)  # one at most, else it is refused
        else:
            order = list(inspect.signature(recipe.target).parameters)
            given = sorted(recipe.arguments.items(), key=lambda item: order.index(item[0]))
            arguments = {name: expression(value, lifter) for name, value in given}
            made = call(named(recipe.target, lifter), [], arguments)
        moved = "" if recipe.device == "cpu" else ".to(DEVICE)"
        layout = ".to(memory_format=torch.channels_last)" if recipe.channels_last else ""
        lines = [] if recipe.target is None and recipe.initial else ["torch.manual_seed(SEED)"]
        lines.append(f"model = {made}{moved}{layout}")
        if recipe.initial:
            taken = f'{{k.removeprefix("{FIRST}"): v for k, v in data.items() if "{FIRST}" in k}}'
            lines.append(f"model.load_state_dict({taken})")
        for name in recipe.frozen:
            lines.append(f'model.get_parameter("{name}").requires_grad_(False)')
        if recipe.generator is not None:
            lines.append('torch.set_rng_state(data["generator"])')
        return lines

    def beside(self) -> dict[str, Tensor]:
        """Return the tensors that are written beside the script."""
        first = {f"{FIRST}{name}": value for name, value in (self.recipe.initial or {}).items()}
        generator = self.recipe.generator
        state = {} if generator is None else {"generator": generator}
        return {**self.data.tensors, **first, **state}

    def check_names(self) -> None:
        """Check that no definition has a name of the loop's.

        Raises:
            EjectError: if one does.
        """
        for name in TAKEN & self.lifter.definitions.keys():
            home = self.lifter.homes[name]
            if not home.startswith("plainfit."):
                raise EjectError(
                    f"the loop of a script has a {name!r} of its own, and so has {home}; rename it"
                )


def spaced(blocks: list[list[str]]) -> list[str]:
    """Return the lines of the blocks with blank lines between them, as ruff has them."""
    lines: list[str] = []
    previous_defines = False
    for block in (block for block in blocks if block):
        defines = block[0].startswith(("def ", "class ", "@", "#")) and any(
            line.startswith(("def ", "class ")) for line in block
        )
        if lines:
            lines += [""] * (2 if defines or previous_defines else 1)
        lines += block
        previous_defines = any(line.startswith(("def ", "class ")) for line in block) and block[
            -1
        ].startswith(" ")
    return lines
