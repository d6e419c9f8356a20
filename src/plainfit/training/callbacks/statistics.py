"""What goes on inside the model while it trains: activations and gradients, layer by layer."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from plainfit.common.errors import ConfigError
from plainfit.training.callbacks.gradients import refuse_lbfgs
from plainfit.training.hooks import Callback, Context

if TYPE_CHECKING:
    from plainfit.common.plots import Picture


class Statistics(Callback):
    """Base: figures by name and step, kept on the device until they are read.

    Args:
        every: look at every so many steps.
    """

    observer = True

    columns: tuple[str, ...]

    def __init__(self, every: int = 1) -> None:
        if every < 1:
            raise ConfigError(f"statistics are taken every 1 or more steps, got {every}")
        self.every = every
        self.figures: dict[str, list[Tensor]] = {}
        self.steps: dict[str, list[int]] = {}

    def on_fit_start(self, context: Context) -> None:
        """Begin with no figures."""
        self.figures, self.steps = {}, {}

    def note(self, name: str, value: Tensor, context: Context) -> None:
        """Keep a vector of figures of this step under a name."""
        self.figures.setdefault(name, []).append(value)
        self.steps.setdefault(name, []).append(context.global_step)

    def to_dict(self) -> dict[str, list[list[float]]]:
        """Return, for each name, the figures of each step that was looked at."""
        return {name: torch.stack(rows).tolist() for name, rows in self.figures.items()}

    def plot(self) -> "Picture":
        """Draw each figure by step, a line for each name."""
        from plainfit.common.plots import statistics_curves

        return statistics_curves(self.columns, self.to_dict(), self.steps)


class ActivationStatistics(Statistics):
    """Mean, standard deviation and share of (almost) zeros of every layer's output while training.

    A layer whose outputs shrink to a standard deviation of 0, or are mostly zeros, has stopped
    learning. It only looks: the training stays the same, bit for bit.
    """

    columns = ("mean", "standard deviation", "share of |x| < 1e-3")

    def __init__(self, every: int = 1) -> None:
        super().__init__(every)
        self.hooks: list[RemovableHandle] = []

    def on_fit_start(self, context: Context) -> None:
        """Watch the layers without layers of their own."""
        super().on_fit_start(context)
        leaves = [(n, m) for n, m in context.model.named_modules() if not list(m.children())]
        self.hooks = [
            module.register_forward_hook(self.watch(name, context)) for name, module in leaves
        ]

    def watch(self, name: str, context: Context) -> Callable[[nn.Module, Any, Any], None]:
        """Return a hook that notes a layer's output."""

        def look(module: nn.Module, _: Any, out: Any) -> None:
            is_step = module.training and torch.is_grad_enabled()
            is_due = is_step and context.global_step % self.every == 0
            if is_due and isinstance(out, Tensor) and out.is_floating_point():
                x = out.detach().float()
                self.note(
                    name or type(module).__name__,
                    torch.stack([x.mean(), x.std(correction=0), (x.abs() < 1e-3).float().mean()]),
                    context,
                )

        return look

    def on_fit_end(self, context: Context) -> None:
        """Watch no longer."""
        for hook in self.hooks:
            hook.remove()

    def on_exception(self, context: Context) -> None:
        """Watch no longer."""
        self.on_fit_end(context)


class GradientStatistics(Statistics):
    """Norm and largest size of every parameter's gradient, before the optimizer's step.

    Where gradients are summed over batches: of the first sum that is `every` batches after the last
    one looked at.
    """

    columns = ("norm", "largest |g|")

    def on_fit_start(self, context: Context) -> None:
        """Begin with no figures; refuse an optimizer that takes several gradients a step."""
        refuse_lbfgs(self, context)
        super().on_fit_start(context)
        self.next = context.global_step

    def on_step_start(self, context: Context) -> None:
        """Look at the gradients: after clipping, if that comes earlier in the list."""
        if context.global_step < self.next:
            return
        self.next = context.global_step + self.every
        for name, parameter in context.model.named_parameters():
            if parameter.grad is not None:
                grad = parameter.grad.detach()
                grad = (grad.coalesce().values() if grad.is_sparse else grad).float()
                self.note(name, torch.stack([grad.norm(), grad.abs().max()]), context)
