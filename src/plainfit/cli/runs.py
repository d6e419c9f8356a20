"""Commands that take a run: `predict`, `summary`, `runs`, `report`, `compare`, `export`."""

import math
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Annotated

import typer
from typer import Argument, Option

from plainfit.cli.shared import Debug, Json, RunFolder, TrustCode, open_trusted, show, show_json
from plainfit.common.errors import ConfigError, ModelError, plural


def predict(
    run: RunFolder,
    sources: Annotated[
        list[Path],
        Argument(
            help="Images or folders of them; or a table, - for JSON lines on the standard input.",
            metavar="FILE...",
        ),
    ],
    out: Annotated[
        Path | None,
        Option("--out", "-o", help="Write them here: .csv, .parquet, .jsonl; a folder for masks."),
    ] = None,
    tta: Annotated[
        int, Option(min=0, max=10_000, help="Average over N augmented views of an image too.")
    ] = 0,
    augment: Annotated[str | None, Option(help="Of the views (default: the training's).")] = None,
    delimiter: Annotated[str | None, Option(help="Of a .csv, if not as in the training.")] = None,
    encoding: Annotated[str | None, Option(help="Of a .csv, likewise.")] = None,
    decimal: Annotated[str | None, Option(help="Of numbers in a .csv, likewise.")] = None,
    na: Annotated[str | None, Option(help="Further texts in a .csv that mean a gap.")] = None,
    trust_code: TrustCode = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Print what a run predicts for image files, or for the rows of a table."""
    if augment is not None and not tta:
        raise ConfigError("--augment is for the views of --tta: add --tta 8")
    from plainfit.data.open_data import TABLES
    from plainfit.data.targets import SEGMENTATION
    from plainfit.runs import predict as predicting
    from plainfit.runs.folder import write_output
    from plainfit.runs.inputs import images_in

    opened, first = open_trusted(run, trust_code), sources[0]
    if opened.target.task == SEGMENTATION:
        if out is None or tta:
            raise ConfigError("must be a folder for the masks, which have no --tta", field="out")
        masks = predicting.write_masks(opened, [*chain(*map(images_in, sources))], out)
        show_json(masks) if json_ else show(f"wrote  {out}: {plural(len(masks), 'mask')}")
        return
    if out is not None:
        predicting.check_out(out, sources)
    if is_table := str(first) == "-" or first.name.lower().endswith(TABLES):
        if len(sources) > 1 or tta:
            raise ConfigError("a table is predicted alone, and has no views; leave out the rest")
        written = {"delimiter": delimiter, "encoding": encoding, "decimal": decimal, "na": na}
        results = predicting.predict_rows(opened, first, **written)
    else:
        images = [*chain(*map(images_in, sources))]
        results = predicting.predict_images(opened, images, views=tta, augment=augment)
    if out is not None:
        write_output(out, predicting.to_bytes(results, out.suffix))
        show(f"wrote  {out}: {plural(len(results), 'row')}")
    elif json_:
        show_json(results)
    elif is_table:
        show(predicting.to_bytes(results, ".csv").decode(), end="")
    else:
        for result in results:
            if "probabilities" not in result:  # of a regression
                numbers = ", ".join(f"{k} {v:g}" for k, v in result.items() if k != "image")
                show(f"{result['image']}: {numbers}")
                continue
            ranked = sorted(result["probabilities"].items(), key=lambda item: -item[1])
            likeliest = ", ".join(f"{name} {probability:.4f}" for name, probability in ranked[:5])
            show(f"{result['image']}: {likeliest}{', ...' if len(ranked) > 5 else ''}")


def summary(
    model: Annotated[str, Argument(help="A built-in name, MODULE:CALLABLE or a run folder.")],
    input_shape: Annotated[
        str, Option(help="Of one sample, for a name: CHANNELS,HEIGHT,WIDTH or FEATURES.")
    ] = "1,28,28",
    classes: Annotated[int, Option(min=1, max=10_000, help="Number of outputs, for a name.")] = 10,
    trust_code: TrustCode = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Show a model's layers, the shapes of their outputs for one sample, and parameters."""
    shape, groups = parse_shape(input_shape), []
    import torch

    from plainfit.models.build import MODELS, get_model
    from plainfit.models.layers import count_parameters, summarize

    if model not in MODELS and Path(model).is_dir():
        run = open_trusted(Path(model), trust_code)
        built, xb = run.model, run.samples(1)
        groups = run.record.get("layers", [])
    else:
        built, _ = get_model(model, input_shape=shape, classes=classes, device="cpu")
        xb = torch.zeros(1, *shape)
    rows = summarize(built, xb)
    total = count_parameters(built)
    if json_:
        show_json({"layers": [vars(row) for row in rows], "parameters": total, "groups": groups})
        return
    width = max(len("layer"), *(len(row.name) for row in rows))
    show(f"{'layer':{width}}  {'kind':20}{'output':16}{'parameters':>12}")
    show(f"{'(input)':{width}}  {'':20}{'x'.join(map(str, xb.shape[1:])):16}")
    for row in rows:
        output = "x".join(map(str, row.output_shape)) if row.output_shape else "-"
        show(f"{row.name:{width}}  {row.kind:20}{output:16}{row.parameters:12,}")
    show(f"{'all':{width}}  {'':36}{total:12,}")
    for group in groups:  # of a fine-tuning
        show(f"rate {group['lr']:.2g}: {', '.join(group['layers'])}")


def parse_shape(text: str) -> list[int]:
    sizes = [int(size) if size.strip().isdecimal() else 0 for size in text.split(",")]
    if len(sizes) not in (1, 3) or min(sizes) < 1 or math.prod(sizes) > 10**8:
        raise typer.BadParameter(
            "--input-shape must be like 1,28,28 (channels, height, width) or 30, of at most 10**8 "
            f"values; got {text!r}"
        )
    return sizes


def runs(
    folder: Annotated[Path, Argument(help="Where the runs are.", metavar="DIR")] = Path("runs"),
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """List the runs in a folder: state, epochs, best metrics, size."""
    from plainfit.report.rendering import header_text, value_text
    from plainfit.runs.folder import list_runs

    lines = list_runs(folder)
    if json_:
        show_json([vars(line) for line in lines])
        return
    if not lines:
        show(f"no runs in {folder} yet; plainfit train makes one")
        return
    width = max(len(line.name) for line in lines)
    show(f"{'run':{width}}  {'state':12}{'epochs':>8}{'valid loss':>12}{'MB':>8}  metric")
    for line in lines:
        loss, metric = (value_text(n, line.best.get(n)) for n in ("valid_loss", line.metric))
        values = f"{line.epochs:>4}/{line.of:<3}{loss:>12}{line.bytes / 1e6:8.1f}"
        named = f"{header_text(line.metric)} {metric}".lstrip()
        show(f"{line.name:{width}}  {line.state:12}{values}  {named}")


def report(
    run: RunFolder,
    out: Annotated[
        Path | None, Option(help="Where to write it (default: report.html in the run).")
    ] = None,
    trust_code: TrustCode = False,
    debug: Debug = False,
) -> None:
    """Write one HTML page about a run: curves, scores, mistakes, settings; it works offline."""
    from plainfit.report.page import write_report

    with suppress(ModelError):  # the page says what it leaves out, and why
        open_trusted(run, trust_code)
    show(f"report {write_report(run, out)}")


def compare(
    run_folders: Annotated[list[Path], Argument(help="Run folders.", metavar="RUN...")],
    out: Annotated[Path, Option(help="Where to write the page.")] = Path("comparison.html"),
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Compare runs: print a table, and draw their curves on an HTML page."""
    from plainfit.report.comparison import Comparison
    from plainfit.report.rendering import header_text, value_text

    comparison = Comparison(run_folders)
    rows, page = comparison.rows, comparison.write(out)
    if json_:
        show_json({"runs": rows, "page": str(page)})
        return
    width = max(len(str(row["run"])) for row in rows)
    for name in rows[0]:  # a line for each value, a column for each run
        cells = [value_text(name, row[name]) for row in rows]
        show(f"{header_text(name):18}" + "".join(f"  {cell:>{width}}" for cell in cells))
    show(f"page {page}")


def export(
    run: RunFolder,
    format_: Annotated[
        str | None,
        Option("--format", help="safetensors, torch-export or onnx (default: as --out ends)."),
    ] = None,
    out: Annotated[
        Path | None, Option(help="Where to write it (default: export.* in the run).")
    ] = None,
    force: Annotated[bool, Option("--force", help="Overwrite an existing file.")] = False,
    trust_code: TrustCode = False,
    json_: Json = False,
    debug: Debug = False,
) -> None:
    """Write a run's model as a file that works without plainfit, checked by its scores."""
    from plainfit.runs.export import export_run

    result = export_run(open_trusted(run, trust_code), format_, out, force=force)
    if json_:
        show_json(result.to_dict())
        return
    show(f"{result}\n\n{result.snippet.rstrip()}")
