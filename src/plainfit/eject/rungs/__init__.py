"""A plain PyTorch script, rung by rung: each no longer uses a part of torch that the last did.

Definitions take the place of torch's; how the script uses them stays. The reasons are in
docs/decisions/0013-rungs.md.
"""

from plainfit.common.errors import ConfigError, unknown_name
from plainfit.eject.rungs.catalog import OURS, RUNGS
from plainfit.eject.rungs.checks import check, pools_to_one
from plainfit.eject.rungs.float64 import in_float64
from plainfit.eject.rungs.inline import inlined
from plainfit.eject.rungs.passes import compact, without
from plainfit.eject.rungs.placing import without_imports
from plainfit.eject.source import Source
from plainfit.eject.rungs.tidy import tidy

__all__ = ["RUNGS", "in_float64", "lower"]


def lower(source: str, rung: str, *, inline: bool = False) -> str:
    """Return a training script at a rung.

    Args:
        source: the text of a script that uses torch alone and no `DataLoader` (rung `data`).
        rung: `optim`: the update rules are written out; `layers`: the layers are, and call `F`;
            `tensors`: no `torch.nn` at all; `math`: convolutions and the like are products and
            sums, in float64. Each includes the ones before. `loop` and `data`: as it is.
        inline: write its definitions for the calls there are.

    Raises:
        EjectError: for the first line that cannot be written at the rung.
    """
    if rung not in RUNGS:
        raise ConfigError(unknown_name("rung", rung, RUNGS))
    source = inlined(source) if inline else source
    if rung not in OURS:
        return tidy(source) if inline else source
    check(source, rung)
    text, pools = source, pools_to_one(Source(source))
    emitted: dict[str, tuple[str, str]] = {}
    for step in OURS[: OURS.index(rung) + 1]:
        if step == "tensors" and rung == "math":
            continue  # the same, with other functions
        text = without(text, step, emitted, pools)
    text = compact(text, emitted, whole=not inline)
    if inline:
        text = compact(without_imports(inlined(text), set()), emitted)
    if rung == "math":
        text = in_float64(text)
    return tidy(text)
