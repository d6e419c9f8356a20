"""Settings in a file: the options `--config` and `--print-config`, and `init`."""

import json
import re
import tomllib
from collections.abc import Sequence
from dataclasses import fields, replace
from math import ceil
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, get_args

import typer
from typer import Option

from plainfit.cli.shared import (
    GROUP_OF,
    GROUPS,
    SOURCE_OPTIONS,
    Debug,
    Source,
    show,
    show_json,
    with_options_of,
)
from plainfit.common.errors import ConfigError, command, raised_as, unknown_name
from plainfit.common.files import RECORD
from plainfit.common.schema import hints_of
from plainfit.runs.settings import OF_EVERY_PRESET, RunConfig, names_of

if TYPE_CHECKING:
    from plainfit.data.splits import DataSplits

NOT_TOML = re.compile(r"[\x00-\x1f\x7f-\x9f\ud800-\udfff]")  # not even in a comment
SMALL = 64  # pixels a side, at most, for the network of the presets
STEPS, LEAST, MOST = 2000, 10, 100  # of a training that `init` suggests; of its epochs
CHOICES: dict[str, dict[str, Any]] = {
    "data other than images": {"model": "tabular", "schedule": "one-cycle"},
    "text": {"model": "bag", "optimizer": "adamw", "schedule": "one-cycle"},
    "small images": OF_EVERY_PRESET | {"precision": "fp32"},
    "large images": {"model": "resnet18", "schedule": "one-cycle"},
    "images and masks": {"model": "unet", "optimizer": "adamw", "schedule": "one-cycle"},
    "images of labels or numbers": {
        "model": "resnet",
        "optimizer": "adamw",
        "schedule": "one-cycle",
    },
}


def read_config(path: Path) -> dict[str, Any]:
    """Return the settings that a TOML file names, or those of a run that are not as by default."""
    if path.is_dir() or path.name == RECORD:
        from plainfit.models.trust import code_of
        from plainfit.runs.folder import read_record

        record = read_record(path if path.is_dir() else path.parent)["config"]
        default = {item.name: item.default for item in fields(RunConfig)}
        found = {n: v for n, v in record.items() if v != default.get(n) and n != "out"}
        model = record.get("model", "")
        code = code_of(model) if ":" in model else None
        if code is not None and not code.is_trusted():
            raise ConfigError(
                f"{path} must name code that is trusted, and {code} did not train on this machine "
                "as it is now; read it, then give the settings as options or in a TOML file"
            )
    else:
        with raised_as(ConfigError, f"{path} must be a TOML file or a run folder"):
            found = settings_in(tomllib.loads(path.read_text(encoding="utf-8-sig")), path)
    try:
        config = RunConfig.from_dict(found)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return {name: value for name, value in config.to_dict().items() if name in found}


def settings_in(tables: dict[str, Any], path: Path) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for group, table in tables.items():
        if not isinstance(table, dict):
            home = GROUP_OF.get(group, "training")
            raise ConfigError(f"{path}: {group} must be in a group, such as [{home}]")
        if group not in GROUPS:
            raise ConfigError(f"{path}: {unknown_name('group', group, GROUPS)}")
        for name in table:
            if name not in GROUP_OF:
                known = names_of(GROUPS[group])
                raise ConfigError(f"{path}: {unknown_name(f'setting of {group}', name, known)}")
            if GROUP_OF[name] != group:
                raise ConfigError(f"{path}: {name} must be in the group [{GROUP_OF[name]}]")
        found |= table
    return found


def to_toml(config: RunConfig, comments: Sequence[str] = ()) -> str:
    """Return a file that `read_config` reads, in which what is as by default is commented out."""
    hints, values = hints_of(RunConfig), config.to_dict()
    lines = [f"# {comment}" for comment in comments]
    for group, kind in GROUPS.items():
        if group == "transfer" and config.source is None:
            continue
        lines += ["", f"[{group}]"]
        for item in fields(kind):
            value = values[item.name]
            text = "" if value is None else " " + json.dumps(value, ensure_ascii=False)
            mark = "#" if value == item.default else ""
            lines += [f"# {get_args(hints[item.name])[1]}", f"{mark}{item.name} ={text}"]
    escaped = (NOT_TOML.sub(lambda found: f"\\u{ord(found[0]):04x}", line) for line in lines)
    return "\n".join(escaped).lstrip() + "\n"


def use_as_defaults(context: typer.Context, file: Path | None) -> Path | None:
    if file is not None:
        found = read_config(file)
        if unused := found.keys() - {parameter.name for parameter in context.command.params}:
            raise ConfigError(
                f"{file} must have settings of {context.info_name}, and {min(unused)} is one of a "
                f"fine-tuning: {command('fine-tune', '--config', file)}"
            )
        context.default_map = {
            n: v if isinstance(v, bool | None) else str(v) for n, v in found.items()
        }
    return file


def print_settings(config: RunConfig, json_: bool) -> None:
    show_json(config.to_dict()) if json_ else show(to_toml(config), end="")


ConfigFile = Annotated[
    Path | None,
    Option(
        "--config",
        callback=use_as_defaults,
        is_eager=True,
        help="A TOML file of settings, or a run; options override it, and it overrides a preset.",
    ),
]
PrintConfig = Annotated[
    bool, Option("--print-config", help="Print all settings as such a file; train nothing.")
]


@with_options_of(SOURCE_OPTIONS)
def init(
    *,
    source: Source,
    out: Annotated[Path, Option("--out", "-o", help="Where to write it.")] = Path("run.toml"),
    force: Annotated[bool, Option("--force", help="Overwrite an existing file.")] = False,
    debug: Debug = False,
    **options: Any,
) -> None:
    """Look at data, and write settings to train on it to a file, with comments."""
    config = RunConfig(data=source, **options)
    from plainfit.runs.folder import check_new_file, write_output
    from plainfit.runs.prepare import completed

    config = completed(config)
    check_new_file(out, force)
    splits = config.open_data()
    chosen, comments = suggestion(splits)
    write_output(out, to_toml(replace(config, **chosen), comments).encode())
    for comment in comments:
        show(comment)
    show(f"\nfile   {out}")
    show(f"next   {command('train', '--config', out)}")


def suggestion(splits: "DataSplits") -> tuple[dict[str, Any], list[str]]:
    """Return settings for data, and lines that say what was seen of it and chosen."""
    from plainfit.common.errors import shortened
    from plainfit.data.targets import CLASSIFICATION, SEGMENTATION
    from plainfit.runs.tasks import described

    counts, shape, train = splits.counts(), splits.input_shape, splits.class_counts()["train"]
    kind = "data other than images" if splits.vocabulary is None else "text"
    if len(shape) == 3:
        kind = "small images" if max(shape[1:]) <= SMALL else "large images"
    if len(shape) == 3 and splits.task != CLASSIFICATION:
        is_masks = splits.task == SEGMENTATION
        kind = "images and masks" if is_masks else "images of labels or numbers"
    batch_size = 64 if counts["train"] < 10_000 else 128
    drop_last = counts["train"] % batch_size == 1  # which batch norm cannot take
    steps = ceil(counts["train"] / batch_size) - drop_last
    epochs = min(MOST, max(LEAST, ceil(STEPS / steps)))
    chosen = CHOICES[kind] | {"batch_size": batch_size, "epochs": epochs, "drop_last": drop_last}
    return chosen, [
        f"{splits.name}: samples of {'x'.join(map(str, shape))}, "
        + ", ".join(f"{count:,} for {part}" for part, count in counts.items()),
        described(splits.target)
        + (f", with {min(train):,} to {max(train):,} samples for train" if train else ""),
        *([f"columns: {shortened(list(splits.columns), 10)}"] if splits.columns else []),
        *(f"note: {note}" for note in splits.notes),
        f"chosen: {chosen['model']} for {kind}; {epochs} epochs in batches of {batch_size}, "
        f"{epochs * steps:,} steps in all",
    ]
