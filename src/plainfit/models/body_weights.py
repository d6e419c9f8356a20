"""The weights of a trained body, put into a model that has a new head."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from plainfit.common.errors import ModelError

COUNTS = "num_batches_tracked"  # which checkpoints from before torch 0.4.1 do not have
MOST_NAMES = 6


def load_body(model: nn.Module, weights: Mapping[str, Tensor], head: str) -> None:
    """Put weights into all layers but the head, which stays as it was built.

    Where the first convolution takes one channel and its weights are for several, they are summed
    over them: it then gives for a gray image what it gave for the image in all of the channels.

    Args:
        model: with the head for the new classes.
        weights: by the model's own names.
        head: the name of the layer that is not loaded.

    Raises:
        ModelError: if there is no body; if a layer of it is missing or has another shape: all are
            named.
    """
    own = {n: t for n, t in model.state_dict().items() if not n.startswith(f"{head}.")}
    if not own:
        raise ModelError(
            f"fine-tuning keeps the layers before the head, and {type(model).__name__} has none: "
            "train it anew"
        )
    given = {n: t for n, t in weights.items() if not n.startswith(f"{head}.")}
    stem = next((name for name, tensor in own.items() if tensor.dim() == 4), None)
    if stem in given and own[stem].shape[1] == 1 and given[stem].dim() == 4:
        given[stem] = given[stem].sum(1, keepdim=True)
    loaded = [n for n, t in own.items() if n in given and given[n].shape == t.shape]
    skipped = [
        f"{name} {tuple(tensor.shape)}" + (f" for {tuple(own[name].shape)}" if name in own else "")
        for name, tensor in given.items()
        if name not in loaded
    ]
    missing = [name for name in own if name not in given and not name.endswith(COUNTS)]
    if skipped or missing or not loaded:
        raise ModelError(
            f"the weights must fit the body of {type(model).__name__}: {listed('loaded', loaded)}; "
            f"{listed('skipped', skipped)}; {listed('missing', missing)}; name the architecture "
            "that they were trained in, as --model with --model-args"
        )
    with torch.no_grad():
        for name in loaded:
            own[name].copy_(given[name])


def listed(what: str, names: list[str]) -> str:
    """Return how many tensors there are, and the names of some.

    >>> listed("missing", ["fc.weight", "fc.bias"])
    '2 missing (fc.weight, fc.bias)'
    """
    more = ", ..." if len(names) > MOST_NAMES else ""
    return f"{len(names)} {what}" + (f" ({', '.join(names[:MOST_NAMES])}{more})" if names else "")
