"""Commands about labels that may be wrong: `clean` and `relabel`."""

from pathlib import Path
from typing import Annotated, Any

from typer import Argument, Option

from plainfit.cli.shared import Debug, Json, Source, show, show_json, with_options_of
from plainfit.common.errors import command
from plainfit.runs.settings import RunConfig, TransferSettings, names_of

OF_A_RUN = ("data", "out", "track", "checkpoint_every", "fsdp", "overfit_one_batch")
SHOWN = 10  # samples


@with_options_of(names_of(RunConfig, without=(*OF_A_RUN, *names_of(TransferSettings))))
def clean(
    *,
    source: Source,
    folds: Annotated[
        int, Option(min=2, max=100, help="Train so many times, each without a part.")
    ] = 5,
    out: Annotated[
        Path | None, Option(help="New folder for the result (default: runs/TIME-DATA-clean).")
    ] = None,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Rank samples by how likely their labels are wrong, and find equal ones."""
    config = RunConfig(data=source, out=out, **options)  # checked before torch loads
    from plainfit.runs.cleaning import clean as run
    from plainfit.runs.decisions import Cleaning

    found = Cleaning.open(run(config, folds, echo=None if json_ else show))
    record, suspects = found.record, found.record["suspects"]
    first = [sample for sample in found.samples[:SHOWN] if sample.is_suspect]
    if json_:
        own = {name: record[name] for name in ("suspects", "accuracy", "equal")}
        show_json({"folder": str(found.folder), **own, "first": [s._asdict() for s in first]})
        return
    judged = sum(sample.part != "test" for sample in found.samples)
    show(f"\nlabels {suspects} of {judged:,} are most likely wrong", end="")
    show(f"; models that have not seen a sample agree with {record['accuracy']:.1%}")
    for sample in first:
        at = found.classes.index(sample.label), found.classes.index(sample.suggested)
        given, other = (sample.probabilities[place] for place in at)
        show(f"       {sample.origin}: {sample.label} {given:.3f}, {sample.suggested} {other:.3f}")
    if record["equal"]:
        show(f"equal  {len(record['equal'])} groups of samples are in several parts or classes")
    show(f"result {found.folder}")
    show(f"next   {command('app', found.folder.parent)}, page Clean, to look at them")


def relabel(
    result: Annotated[Path, Argument(help="A folder that plainfit clean wrote.")],
    out: Annotated[Path, Option(help="The new folder or table.")],
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write new data with the labels that were decided on the page; the old stays as it is."""
    from plainfit.runs.decisions import Cleaning

    cleaning = Cleaning.open(result)
    commands = cleaning.apply(out)
    counts = cleaning.counts(cleaning.decisions())
    if json_:
        show_json({"data": str(out), **counts, "commands": commands})
        return
    show(f"wrote  {out}: {counts['relabelled']} relabelled, {counts['dropped']} left out")
    for head, line in zip(("next", "", ""), commands, strict=True):
        show(f"{head:6} {line}")
