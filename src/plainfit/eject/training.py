"""The loop of a script: that of `fit`, with what is known of the training put in."""

import ast
from collections import Counter
from collections.abc import Callable
from typing import Any

from plainfit.common.errors import EjectError
from plainfit.eject.data import DataText
from plainfit.eject.lifting import Lifter
from plainfit.eject.recipe import Recipe
from plainfit.eject.specialise import Facts, Specialiser
from plainfit.eject.transformers import Part, part_of
from plainfit.eject.values import expression
from plainfit.training import compiling
from plainfit.training.callbacks.optimization import parameters_of
from plainfit.training.compiling import DTYPES
from plainfit.training.history import HEADINGS, SHAPES, WIDTH, heading_line
from plainfit.training.hooks import Callback, Context
from plainfit.training.loop import end_epoch, fit, loss_batch, validate
from plainfit.training.metrics import is_streaming, metric_name

# Statements of `fit`, and of what it calls, that only keep the library's own state.
BOOKKEEPING = (
    "watch = context or NoHooks()",
    "watch.loss, watch.take_step = (loss, True)",
    "watch.loss = detached",
    "batches = rest_of_epoch(context)",
    "context.read_losses()",
    "dl = UntilStopped(valid_dl, context)",
    "valid_model = context.valid_model",
    "self.pending.append(loss)",
    "self.step += 1",
    "losses = context.history.step_losses[-len(context.sizes):]",
    "row |= {'valid_loss' if k == 'loss' else k: value for k, value in context.result.items()}",
    "row['seconds'] = time.perf_counter() - context.began",
    "row['samples_per_second'] = sum(context.sizes) / trained",
    "is_first = context.epoch == context.first_epoch",
    "context.history.epochs.append(row)",
    "context.epoch += 1",
    "context.step, context.sizes, context.seconds, context.result = (0, [], 0.0, {})",
)
ROW = "row = {'epoch': context.epoch, 'train_loss': weighted_mean(losses, context.sizes)}"
# What an expression of `fit` is called in a script.
TEXTS = {
    "context.stop": "step == STOP",
    "context.xb": "xb",
    "context.yb": "yb",
    "context.epoch": "epoch",
    "context.global_step": "step",
    "context.step": "len(sizes)",
    "context.steps": "STEPS",
    "context.model": "model",
    "context.opt": "opt",
    "context.loss": "loss",
    "watch.loss": "loss",
    "watch.take_step": "is_full",
    "context.take_step": "is_full",
    "batch_size(xb)": "len(xb)",
    "batch_size(context.xb)": "len(xb)",
    "context.began": "started",
    "time.perf_counter() - context.seconds": "time.perf_counter()",
    "context.sizes": "sizes",
    "torch.nn.utils.clip_grad_norm_": "nn.utils.clip_grad_norm_",
}


class Training:
    """Writes the loop of a recipe."""

    def __init__(self, recipe: Recipe, data: DataText, lifter: Lifter) -> None:
        self.recipe = recipe
        self.data = data
        self.lifter = lifter
        self.loss = expression(recipe.loss_func, lifter)
        is_name = self.loss.replace(".", "").isidentifier()
        self.loss_name = self.loss if is_name else "loss_func"
        self.metrics = [metric for metric in recipe.metrics if not is_streaming(metric)]
        made = [(callback, part_of(callback, recipe, lifter)) for callback in recipe.callbacks]
        self.parts = [part for _, part in made if part is not None]
        for kind, count in Counter(type(part.callback).__name__ for part in self.parts).items():
            if count > 1:
                raise EjectError(f"a script has one {kind}, and the training had {count}")
        recipe.notes += [type(c).__name__ for c, part in made if part is None and is_theirs(c)]
        recipe.notes += [metric_name(metric) for metric in recipe.metrics if is_streaming(metric)]
        self.valid_model = next((p.valid_model for p in self.parts if p.valid_model), "model")
        self.has_steps = recipe.stop is not None or recipe.compile
        self.has_steps |= any(part.uses_step for part in self.parts)

    def limits(self) -> list[EjectError]:
        """Return why the callbacks stop above the lowest rung, if they do."""
        return [part.limit for part in self.parts if part.limit]

    def settings(self) -> list[str]:
        """Return the constants of the parts of the step."""
        lines = [line for part in self.parts for line in part.settings]
        if self.recipe.stop is not None:
            lines.append(f"STOP = {self.recipe.stop}  # the step after which the training stopped")
        return lines

    def before(self) -> list[str]:
        """Return the lines before the loop."""
        name = [f"loss_func = {self.loss}"] if self.loss_name == "loss_func" else []
        parts = []
        for part in self.parts:
            parts += self.taken(type(part.callback), part.before)
            parts += self.hook(part, "on_fit_start")
        in_graph = compiling.gradients_in_graph(self.recipe.callbacks)
        whole = "" if in_graph else ", with_gradients=False"
        compiled = f"compiled = OneGraph(model, {self.loss_name}{whole})"
        return [
            *name,
            *parts,
            *(self.taken(compiling.OneGraph, [compiled]) if self.recipe.compile else []),
            "losses = []  # of every step",
            *(["step = 0"] if self.has_steps else []),
            f'print("{heading_line(dict.fromkeys(self.columns()))}")',
        ]

    def loop(self) -> list[str]:
        """Return the loop over epochs."""
        return self.taken(fit, Specialiser(fit, self.facts()).loop())

    def after(self) -> list[str]:
        """Return what is done after the last epoch."""
        return [*self.hooks("on_fit_end"), *(line for part in self.parts for line in part.after)]

    def validation(self) -> list[str]:
        """Return the function that validates the model."""
        if self.recipe.valid_dl is None:
            return []
        keeps = ["outputs, targets = [], []"] if self.metrics else []
        kept = ["outputs.append(out)", "targets.append(yb)"] if self.metrics else []
        facts = Facts(
            texts={
                "loss_func(out, yb)": f"{self.loss_name}(out, yb).item()",
                "batch_size(xb)": "len(xb)",
            },
            statements={
                "device = device_of(model)": [],
                "whole = WholeSet(metrics, device)": keeps,
                "whole.update(out, yb)": kept,
            },
            headings={"pairs(valid_dl, device)": self.data.valid_heading()},
        )  # fmt: skip
        joined = "torch.cat(outputs), torch.cat(targets)"
        figures = [f"{expression(m, self.lifter)}({joined}).item()" for m in self.metrics]
        lines = Specialiser(validate, facts).body()
        lines.append(f"return {', '.join(['weighted_mean(losses, sizes)', *figures])}")
        kind = f"tuple[{', '.join(['float'] * (1 + len(figures)))}]" if figures else "float"
        what = "the mean loss" + ("" if not figures else " and the metrics")
        return [
            f"def validate(model: nn.Module) -> {kind}:",
            f'    """Return {what} over the validation samples."""',
            *(f"    {line}" for line in self.taken(validate, lines)),
        ]

    def taken(self, function: Callable[..., Any], lines: list[str]) -> list[str]:
        """Have what these lines of a function of ours look up in its module in the script."""
        self.lifter.take_used("\n".join(lines), function.__module__)
        return lines

    def hooks(self, name: str) -> list[str]:
        """Return what the parts of the step do at one hook."""
        return [line for part in self.parts for line in self.hook(part, name)]

    def hook(self, part: Part, name: str) -> list[str]:
        """Return what a part of the step does at one hook."""
        hook = getattr(type(part.callback), name)
        if hook is getattr(Callback, name):
            return []
        facts = self.facts().with_(values=part.values, texts=part.texts, statements=part.statements)
        first = part.first if name == "on_batch_start" else []
        return first + self.taken(hook, Specialiser(hook, facts).body())

    def facts(self) -> Facts:
        """Return what is known while the loop runs."""
        recipe, cast = self.recipe, self.autocast()
        facts = Facts(
            values={
                "context.step == 0": True,
                "valid_dl is not None": recipe.valid_dl is not None,
                "isinstance(opt, LBFGS)": False,
                "opt is not None": True,
                "echo is not None": True,
                "context.valid_model is not context.model": self.valid_model != "model",
            },
            texts={
                **TEXTS,
                "context.valid_model": self.valid_model,
                "cast": cast,
                "loss_func": self.loss_name,
                "parameters_of(context.opt)": self.parameters(),
            },
            statements={
                **{statement: [] for statement in BOOKKEEPING},
                "loss = loss_func(model(xb), yb)": self.forward(cast),
                "detached = loss.detach()": ["losses.append(loss.item())"],
                "self.sizes.append(size)": ["sizes.append(len(xb))"],
                "self.global_step += 1": ["step += 1"] if self.has_steps else [],
                ROW: ["train_loss = weighted_mean(losses[-len(sizes) :], sizes)"],
            },
            headings={
                "context.goes_on()": ["for epoch in range(EPOCHS):"],
                "pairs(batches, device)": ["sizes = []", *self.data.train_heading()],
            },
            inline=self.inline,
        )  # fmt: skip
        if recipe.stop is None:
            facts.values["context.stop"] = False
        if not any("ACCUMULATE" in part.texts.values() for part in self.parts):
            facts.values |= {"watch.take_step": True, "context.take_step": True}
        return facts

    def forward(self, cast: str) -> list[str]:
        """Return the statement that computes the loss, in autocast where `fit` wrapped it so."""
        loss = f"{self.loss_name}(model(xb), yb)"
        if self.recipe.compile:
            loss = f"compiled(xb, yb) if step >= {compiling.PLAIN_STEPS} else {loss}"
        return [f"with {cast}:", f"    loss = {loss}"] if cast else [f"loss = {loss}"]

    def inline(self, call: ast.Call) -> list[str] | None:
        """Return the lines that a call of one of our own functions becomes."""
        match call:
            case ast.Call(ast.Attribute(_, "call"), [ast.Constant(str(name))]):
                return self.hooks(name)
            case ast.Call(ast.Name("loss_batch")):
                return self.taken(loss_batch, Specialiser(loss_batch, self.facts()).body())
            case ast.Call(ast.Attribute(ast.Name("context"), "count")):
                return Specialiser(Context.count, self.facts()).body()
            case ast.Call(ast.Name("validate")):
                figures = ", ".join(["valid_loss", *map(valid_name, self.metrics)])
                return [f"{figures} = validate({self.valid_model})"]
            case ast.Call(ast.Name("end_epoch")):
                return self.taken(end_epoch, Specialiser(end_epoch, self.facts()).body())
            case ast.Call(ast.Name("echo")):
                return self.row()
            case ast.Call(ast.Name("refuse_lbfgs")):  # a check
                return []
        return None

    def columns(self) -> list[str]:
        """Return the columns of the table."""
        valid = (
            [] if self.recipe.valid_dl is None else ["valid_loss", *map(metric_name, self.metrics)]
        )
        return ["epoch", "train_loss", *valid, "seconds", "samples_per_second"]

    def row(self) -> list[str]:
        """Return the statement that prints a row of the table, as `epoch_line` lays it out."""
        names = {metric_name(metric): valid_name(metric) for metric in self.metrics}
        code = Specialiser(end_epoch, self.facts())
        for column in ("seconds", "samples_per_second"):
            names[column] = code.assigned(f"row['{column}']")
        cells = [
            f"{{{names.get(name, name)}:{max(WIDTH, len(HEADINGS.get(name, name)))}"
            f"{SHAPES.get(name, '.4f')}}}"
            for name in self.columns()
        ]
        first, second = " ".join(cells[:-2]), " ".join(cells[-2:])
        return ["print(", f'    f"{first} "', f'    f"{second}"', ")"]

    def parameters(self) -> str:
        """Return what the optimizer's parameters are called."""
        own, mine = list(self.recipe.model.parameters()), parameters_of(self.recipe.opt)
        if len(own) == len(mine) and all(a is b for a, b in zip(own, mine, strict=True)):
            return "model.parameters()"
        return '[p for group in opt.param_groups for p in group["params"]]'

    def autocast(self) -> str:
        """Return the context that the forward pass runs in; nothing, where there is none."""
        if self.recipe.precision == "fp32":
            return ""
        dtype = DTYPES[self.recipe.precision]
        return f'torch.autocast("{self.recipe.device}", dtype={dtype})'


def is_theirs(callback: Any) -> bool:
    """Return whether a callback is not one of ours."""
    return not type(callback).__module__.startswith("plainfit.")


def valid_name(metric: Any) -> str:
    """Return the name of a metric's value in a script, where the function has its own."""
    return f"valid_{metric_name(metric)}"
