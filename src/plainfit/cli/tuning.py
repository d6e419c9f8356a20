"""Search for settings: `tune`."""

from contextlib import nullcontext
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from typer import Option

from plainfit.cli.config import ConfigFile
from plainfit.cli.processes import Processes, train_together
from plainfit.cli.shared import Debug, Json, is_given, rank, show, show_json, with_options_of
from plainfit.common.errors import ConfigError, command
from plainfit.common.schema import SHARDS
from plainfit.runs.settings import RunConfig, TransferSettings, names_of
from plainfit.tuning.space import Spec, kinds_of_setting, parse_space, read_searches

if TYPE_CHECKING:
    from plainfit.tuning.results import StudyResult

# Options that a study has under the same names, and those of another command.
LEFT_OUT = ("monitor", "out", "time_limit", *names_of(TransferSettings))


@with_options_of(names_of(RunConfig, without=LEFT_OUT))
def tune(
    context: typer.Context,
    *,
    search: Annotated[
        list[str] | None,
        Option(
            help="A setting to search: NAME=log:A..B, NAME=A..B or NAME=a,b,c.", metavar="NAME=WHAT"
        ),
    ] = None,
    space: Annotated[
        Path | None, Option(help="A TOML file with more of them: NAME = WHAT.")
    ] = None,
    trials: Annotated[int, Option(min=1, help="Number of trials in all.")] = 50,
    monitor: Annotated[
        str, Option(help="Optimize the last epoch's valid_loss, train_loss or a metric.")
    ] = "valid_loss",
    mode: Annotated[
        str | None, Option(help="Which values of it are better: min or max (default: by name).")
    ] = None,
    pruner: Annotated[
        str, Option(help="How to stop trials early: median, hyperband or none.")
    ] = "median",
    seeds: Annotated[int, Option(min=1, help="Trainings per trial; their mean counts.")] = 1,
    repeat: Annotated[
        int, Option(min=0, help="Train with the best settings and N more seeds.")
    ] = 0,
    time_limit: Annotated[
        float | None, Option(help="Stop after N seconds; the same command continues.")
    ] = None,
    out: Annotated[
        Path | None, Option(help="Folder of the study, new or to continue (default: studies/TIME).")
    ] = None,
    config_file: ConfigFile = None,
    storage: Annotated[
        str | None, Option(help="URL of a database, for several machines.", metavar="URL")
    ] = None,
    processes: Processes = 1,
    json_: Json = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Search for settings: many runs, poor ones stopped early. Optuna chooses what to try.

    The same command continues a study, as does plainfit tune --out FOLDER; several processes share
    its trials.
    """
    own: dict[str, Any] = {"monitor": monitor, "mode": mode, "pruner": pruner}
    own |= {"seeds": seeds, "trials": trials}
    plan = options | own
    given = {name for name in plan if is_given(context, name)}
    RunConfig(time_limit=time_limit)  # checks it
    searches, known = read_searches(search or [], space), None
    if out is not None:
        from plainfit.tuning.study import read_study

        known = read_study(out, storage)
    if known is not None:  # options that are not given stay as they were
        before = {**known["fixed"], **known}
        plan |= {name: before[name] for name in plan.keys() & before.keys() - given}
        searches = searches or known["space"]
    if processes > 1 and plan["reduce"] == "exact" and plan["fsdp"] is None:
        plan["shards"] = plan["shards"] or SHARDS  # of the study, on any number of processes
    own = {name: plan.pop(name) for name in (*own, "seed")}
    specs = parse_space(searches, kinds_of_setting)
    for name in filter(partial(is_given, context, in_file=False), specs):
        raise ConfigError("must be either searched or given, and is both", field=name)
    fixed = checked_runs(plan, specs)
    train_together(processes, 0, RunConfig.from_dict(fixed))

    from rich.console import Console

    from plainfit.training.processes import join
    from plainfit.tuning.results import live_table
    from plainfit.tuning.study import check_launcher
    from plainfit.tuning.study import tune as run
    from plainfit.tuning.trials import RunTraining, check_runs, follow

    check_launcher()
    if join().share(known is None):
        check_runs(fixed, specs, own["monitor"])
    if rank() != "0":
        follow()
        return
    console = Console(stderr=True)
    live = console.is_terminal and not json_
    with live_table(console, own["trials"]) if live else nullcontext() as watch:
        study = run(
            specs,
            RunTraining(own["monitor"]),
            folder=out,
            fixed=fixed,
            repeat=repeat,
            time_limit=time_limit,
            storage=storage,
            echo=None if json_ else show,
            watch=watch,
            **own,
        )
    show_study(study, json_)


def checked_runs(settings: dict[str, Any], specs: dict[str, Spec]) -> dict[str, Any]:
    base = RunConfig.from_dict(settings)
    for name, spec in specs.items():
        for value in spec.values:
            replace(base, **{name: value})
    return {
        name: value for name, value in base.to_dict().items() if name in settings.keys() - specs
    }


def show_study(study: "StudyResult", json_: bool) -> None:
    if json_:
        show_json(study.to_dict())
        return
    show(f"\n{study}\n\nbest   {study.best_line()}")
    if study.repeated:
        show(f"repeat {study.repeated_line()}")
    if study.best is not None:
        show(f"next   {command('report', study.best.folder)}")
        show(f"       {command('eject', study.best.folder, '--verify')}")
    show(f"page   {study.folder / 'study.html'}")
    more = command("tune", "--out", study.folder, "--trials", "N")
    show(f"study  {study.folder}; continue with: {more}")
