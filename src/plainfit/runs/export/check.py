"""Whether a file that was read again gives the scores that the model gives."""

from collections.abc import Callable
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from plainfit.common.errors import DataError, PlainfitError, RunError
from plainfit.data.loaders import bytes_to_floats, make_loader
from plainfit.data.open_data import open_data
from plainfit.data.splits import DataSplits
from plainfit.runs.export.formats import cause
from plainfit.runs.folder import Run
from plainfit.runs.settings import DATA_FIELDS

SIZES = (1, 2, 64)  # one sample often takes another way through a library than many do
MOST = 4 * SIZES[-1]  # samples


def reopen_data(run: Run) -> tuple[DataSplits | None, str]:
    """Return the data that a run was trained on, or None and why there is none."""
    config = run.record["config"]
    options = {name: config[name] for name in DATA_FIELDS if name in config}
    if options.get("data_dir") is not None:
        options["data_dir"] = Path(options["data_dir"])
    try:
        data = open_data(config["data"], **options)
    except PlainfitError as error:
        return None, str(error)
    if list(data.input_shape) != run.record["data"]["input_shape"]:
        return None, f"the samples of {config['data']} have shape {data.input_shape} now"
    return data, ""


def take_samples(run: Run, data: DataSplits | None, problem: str) -> tuple[Tensor, str]:
    """Return float32 samples, shape (samples, ...), and what they are."""
    sizes = f"in batches of {', '.join(map(str, SIZES[:-1]))} and {SIZES[-1]}"
    if data is not None:
        loader = make_loader(data.valid, SIZES[-1], False)
        try:
            xb = torch.cat([batch[0] for batch in islice(loader, MOST // SIZES[-1])])
            return xb, f"{len(xb)} validation samples of {data.name}, {sizes}"
        except DataError as error:  # of an image that was there when its folder was listed
            problem = str(error)
    shape, generator = run.record["data"]["input_shape"], torch.Generator().manual_seed(0)
    xb = torch.randint(256, (MOST, *shape), dtype=torch.uint8, generator=generator)
    because = f"because the validation set cannot be read again ({problem})"
    return bytes_to_floats(xb), f"{MOST} samples of random bytes, {sizes}, {because}"


def batches(xb: Tensor) -> list[Tensor]:
    """Return batches of each of the sizes; where there are too few samples, they are repeated."""
    xb = xb[torch.arange(max(SIZES[-1], len(xb))) % len(xb)]
    return [*(xb[:size] for size in SIZES[:-1]), *xb.split(SIZES[-1])]


def compare(
    format: str,
    model: nn.Module,
    call: Callable[[Tensor], Any],
    xb: Tensor,
    tolerance: float,
) -> tuple[float, float]:
    """Return the largest difference of scores, and what it may be.

    Args:
        format: for messages.
        model: in `eval()` mode, on the CPU.
        call: what the file holds.
        xb: float32 samples, shape (samples, ...).
        tolerance: of the largest score.

    Raises:
        RunError: if the scores differ by more, or name another best class where the model's two
            best are further apart than that.
    """
    pairs = [score(format, model, call, part) for part in batches(xb)]
    most = max(float(ours.abs().max()) for ours, _ in pairs)
    allowed = tolerance * max(1.0, most)
    difference = torch.stack([(ours - theirs).abs().max() for ours, theirs in pairs]).max().item()
    others = sum(other_classes(ours, theirs, allowed) for ours, theirs in pairs)
    if not difference <= allowed or others:  # NaN is neither
        raise RunError(
            f"the scores of the {format} file must be within {allowed:.1e} of the model's, and "
            f"differ by {difference:.1e}, and name another class for {others} samples; nothing was "
            "written"
        )
    return difference, allowed


def score(
    format: str, model: nn.Module, call: Callable[[Tensor], Any], xb: Tensor
) -> tuple[Tensor, Tensor]:
    """Return what the model and the file give for a batch, with equal random numbers."""
    found = []
    for what in (model, call):
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):
                found.append(what(xb))
        except Exception as error:  # each library has errors of its own
            raise RunError(
                f"the model and the {format} file must take batches of {len(xb)}, and one failed "
                f"with {cause(error)}; nothing was written"
            ) from error
    ours, theirs = found
    if not ours.isfinite().all():
        raise RunError(
            "the model's scores must be finite to be compared, and are not; nothing was written"
        )
    if theirs.shape != ours.shape or ours.shape[:1] != (len(xb),):
        raise RunError(
            f"the model and the {format} file must give one row of scores a sample, and for "
            f"{len(xb)} gave shapes {tuple(ours.shape)} and {tuple(theirs.shape)}; nothing was "
            "written"
        )
    return ours, theirs


def other_classes(ours: Tensor, theirs: Tensor, allowed: float) -> int:
    """Count the samples of which the file names another class, though ours is clearly best."""
    best = ours.topk(2, dim=1).values
    clear = best[:, 0] - best[:, 1] > allowed
    return int(((ours.argmax(1) != theirs.argmax(1)) & clear).sum())
