"""A whole script, from its sections."""

import textwrap
from pathlib import Path

from plainfit.eject.data import DataText, data_file
from plainfit.eject.layout import wrapped
from plainfit.eject.lifting import Lifter
from plainfit.eject.optimizer import OptimizerText
from plainfit.eject.recipe import Recipe
from plainfit.eject.training import Training
from plainfit.eject.values import call, constructor, expression, named
from plainfit.errors import EjectError

# Names that the loop of a script uses: a definition of the user's must not have one.
TAKEN = {
    "BATCH_SIZE", "EPOCHS", "SEED", "averaged", "epoch", "loss", "losses", "model", "opt", "order",
    "rows", "samples", "schedule", "sizes", "started", "step", "train_loss", "trained", "xb", "yb",
    "validate", "x_train", "y_train", "x_valid", "y_valid",
}  # fmt: skip


class Script:
    """A script at rung `loop` or `data`."""

    def __init__(self, recipe: Recipe, rung: str, path: Path) -> None:
        self.recipe = recipe
        self.rung = rung
        self.path = path
        self.lifter = Lifter()
        self.lifter.groups = recipe.groups
        self.lifter.imports.add("import torch")
        self.lifter.imports.add("from torch import nn")
        self.lifter.imports.add("from safetensors.torch import save_model")
        self.optimizer = OptimizerText(recipe, self.lifter)
        self.data = DataText(recipe, self.lifter, rung)
        self.training = Training(recipe, self.data, self.lifter)

    def text(self) -> str:
        """Return the script."""
        data = self.data.reading(data_file(self.path).name)
        # In the order in which a reader meets them: each section notes what it needs.
        model = [*self.model(), *self.optimizer.lines()]
        validation = self.training.validation()
        loop = [*self.training.before(), *self.training.loop(), *self.training.after()]
        served = self.data.definitions()
        self.check_names()
        settings = [
            f"SEED = {self.recipe.seed}",
            f"EPOCHS = {self.recipe.epochs}",
            f"BATCH_SIZE = {self.data.train.batch_size}",
            *self.optimizer.settings(),
            *self.training.settings(),
            *self.more_settings(),
            *self.data.settings(),
        ]
        threads = f"torch.set_num_threads({self.recipe.fingerprint['threads']})"
        definitions = [text.split("\n") for text in self.lifter.definitions.values()]
        blocks = [
            [*settings],
            [f"{threads}  # the bits depend on it"],
            *definitions,
            served,
            data,
            validation,
            model,
            [*loop, "", 'save_model(model, "model.safetensors")'],
        ]
        lines = [*self.heading(), "", *self.lifter.imports.lines(), "", *spaced(blocks)]
        return "\n".join(row for line in lines for row in wrapped(line)) + "\n"

    def more_settings(self) -> list[str]:
        """Return the constants that only some scripts have."""
        lines = []
        text = "\n".join([*self.training.before(), *self.training.loop()])
        if "STEPS" in text:
            lines.append(f"STEPS = {self.recipe.steps}  # in an epoch")
        if "ORDER_SEED" in text:
            lines.append(f"ORDER_SEED = {self.data.train.seed}  # of the order of samples")
        if self.recipe.device != "cpu":
            lines.append(f'DEVICE = "{self.recipe.device}"')
        return lines

    def heading(self) -> list[str]:
        """Return the script's docstring."""
        recipe = self.recipe
        print_ = recipe.fingerprint
        what = f"It is the training of {recipe.origin}, made by `{recipe.command}`, without plainfit."
        same = (
            f"With torch {print_['torch']} on {print_['device']} "
            f"({print_['cpu_capability']}, {print_['threads']} threads) it gives the same loss at "
            "every step and the same weights, bit for bit."
        )
        lines = [f'"""Train {recipe.name}.', "", *textwrap.wrap(what, 98, break_on_hyphens=False)]
        lines += textwrap.wrap(same, 98, break_on_hyphens=False)
        if recipe.outcome.sha256:
            lines.append(f"SHA-256 of model.safetensors: {recipe.outcome.sha256}")
        if recipe.notes:
            lines.append(f"Left out, as it only looks: {', '.join(recipe.notes)}.")
        return [*lines, '"""']

    def model(self) -> list[str]:
        """Return the lines that build the model as it was when the training began."""
        recipe, lifter = self.recipe, self.lifter
        if recipe.target is None:
            made = constructor(recipe.model, lifter)
        else:
            arguments = {k: expression(v, lifter) for k, v in recipe.arguments.items()}
            made = call(named(recipe.target, lifter), [], arguments)
        lines = [] if recipe.initial else ["torch.manual_seed(SEED)"]
        moved = "" if recipe.device == "cpu" else ".to(DEVICE)"
        layout = ".to(memory_format=torch.channels_last)" if recipe.channels_last else ""
        lines.append(f"model = {made}{moved}{layout}")
        if recipe.initial:
            lines.append('model.load_state_dict({k: v for k, v in data.items() if k in names})')
        lines += self.frozen()
        if recipe.generator is not None:
            lines.append('torch.set_rng_state(data["generator"])')
        return lines

    def frozen(self) -> list[str]:
        """Return the lines that keep parameters from being trained."""
        return []

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


