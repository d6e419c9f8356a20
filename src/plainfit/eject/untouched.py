"""Whether a model is what its class and its arguments make of it."""

from torch import nn

from plainfit.common.errors import EjectError
from plainfit.eject.sources import place

HOOKS = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")


def check_untouched(model: nn.Module, fresh: nn.Module | None) -> None:
    """Check that a model is what a fresh build gives: no hooks, patches or layers came later.

    Args:
        model: that was trained.
        fresh: the same, built anew; None where nobody knows how.

    Raises:
        EjectError: if it is not, with the name of the layer.
    """
    own, others = dict(model.named_modules()), dict(fresh.named_modules()) if fresh else {}
    if fresh is not None and own.keys() != others.keys():
        name = min(own.keys() ^ others.keys())
        raise changed(model, f"the layer {name!r} is in one of them only")
    for name, module in own.items():
        other = others.get(name)
        if hasattr(module, "parametrizations") and not hasattr(other, "parametrizations"):
            raise changed(model, f"{name or 'it'} has parametrizations")
        if other is not None and type(module) is not type(other):
            kinds = f"{type(module).__name__}, and was built as {type(other).__name__}"
            raise changed(model, f"{name or 'it'} is a {kinds}")
        if "forward" in vars(module) and (other is None or "forward" not in vars(other)):
            raise changed(model, f"the forward of {name or 'it'} was replaced")
        for kind in HOOKS:
            if len(getattr(module, kind)) > (len(getattr(other, kind)) if other else 0):
                raise changed(model, f"{name or 'it'} has {kind.strip('_').replace('_', ' ')}")
    check_tensors(model, fresh)


def check_tensors(model: nn.Module, fresh: nn.Module | None) -> None:
    """Check that parameters and buffers have the names and shapes of a fresh build."""
    if fresh is None:
        return
    shapes = [{n: (t.shape, t.dtype) for n, t in m.state_dict().items()} for m in (model, fresh)]
    if differing := sorted(name for name, _ in shapes[0].items() ^ shapes[1].items()):
        raise changed(model, f"{differing[0]} has another shape or type, or is in one only")


def changed(model: nn.Module, how: str) -> EjectError:
    """Return the error that says what was changed."""
    return EjectError(
        f"{place(type(model))}: a script builds the model as its class does, and this one was "
        f"changed afterwards: {how}; do it in the class, or in a function given to get_model"
    )
