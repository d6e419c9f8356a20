"""What each rung no longer uses of torch, and what takes its place."""

from plainfit.eject.rungs.library import Definition, Parameter, find

RUNGS = ("loop", "data", "optim", "layers", "tensors", "math")
OURS = RUNGS[2:]
"""The rungs that are made from a script; the ones before are made from a run."""

KEPT_BY_LAYERS = {"Module", "Sequential", "ModuleList", "ModuleDict", "Parameter", "ParameterList"}
ONLY_AT_LAYERS = {"GELU", "SiLU", "gelu", "silu"}
"""Written out on tensors they have other bits (measured: 60 of 60 batches)."""

BEFORE_OPTIM = ("torch.autocast", "torch.amp", "torch.cuda.amp", "torch.compile", "optim.LBFGS")
"""They replace parts of the step itself, so a script that has them stays at rung `loop`."""

SAME_KERNEL = {  # F.name is torch.name, called with these arguments in this order
    "relu": "input",
    "tanh": "input",
    "sigmoid": "input",
    "softmax": "input dim",
    "log_softmax": "input dim",
    "conv1d": "input weight bias stride padding dilation groups",
    "conv2d": "input weight bias stride padding dilation groups",
    "layer_norm": "input normalized_shape weight bias eps",
    "max_pool2d": "input kernel_size stride padding",
}
ELEMENTARY = {"tanh", "sigmoid", "softmax", "log_softmax"}
"""Functions of numbers, which rung `math` leaves to torch as it does exp and sqrt."""

FUNCTIONS = {
    "tensors": ("functions",),
    "math": ("sums", "functions"),
}


def concerns(name: str, rung: str) -> bool:
    """Return whether a rung no longer uses a name of torch.

    >>> concerns("nn.Linear", "layers"), concerns("nn.Module", "layers"), concerns("F.relu", "math")
    (True, False, True)
    """
    family, _, rest = name.partition(".")
    if rung == "optim":
        return family == "optim"
    if rung == "layers":
        is_kept = rest in KEPT_BY_LAYERS or rest.startswith(("init.", "utils."))
        return family == "nn" and not is_kept
    if family in ("nn", "F"):
        return True
    return rung == "math" and family == "torch" and _is_kernel(rest)


def _is_kernel(name: str) -> bool:
    import torch

    function = getattr(torch, name, None)
    is_function = callable(function) and not isinstance(function, type)
    return is_function and hasattr(torch.nn.functional, name) and name not in ELEMENTARY


OTHER_ORDER = {"batch_norm", "dropout", "embedding", "binary_cross_entropy_with_logits"}
"""Functions of torch whose arguments are others than those of F's functions of the same name."""


def renamed(name: str, rung: str) -> tuple[str, tuple[Parameter, ...]] | None:
    """Return the name of the same kernel outside of `F`, and its parameters, where there is one."""
    family, _, rest = name.partition(".")
    is_same = family == "F" and rest in SAME_KERNEL and (rung == "tensors" or rest in ELEMENTARY)
    if not is_same:
        return None
    return f"torch.{rest}", tuple(Parameter(each, "None") for each in SAME_KERNEL[rest].split())


def written_out(name: str, rung: str, pools_to_one: bool = True) -> Definition | None:
    """Return what takes the place of a name of torch at a rung that no longer uses it, if any.

    Args:
        name: such as `nn.Linear`.
        rung: the one that no longer uses it.
        pools_to_one: whether all adaptive pools make images of one pixel; others round
            differently by hand.
    """
    family, _, rest = name.partition(".")
    if family == "optim":
        return find(rest.removeprefix("swa_utils."), ("optimizers",))
    if family == "nn" and rung == "layers":
        return find(rest, ("layers",))
    if family == "nn":
        if rest.startswith("init."):
            return find(rest.removeprefix("init."), ("modules",))
        if rest.startswith("utils.clip_grad"):
            return find(rest.removeprefix("utils."), ("optimizers",))
        return find(rest, ("modules",)) if rest != "Lambda" else None
    if family == "torch" and rest in OTHER_ORDER:
        return None
    if rest == "adaptive_avg_pool2d":
        return find("mean_pool2d", ("functions",)) if pools_to_one else None
    return find(rest, FUNCTIONS[rung])
