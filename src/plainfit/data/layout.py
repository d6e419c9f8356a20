"""Which images of a folder belong to which part and class, by its folders or by `labels.csv`."""

import json
import os
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from plainfit.common.errors import DataError, command, plural, shortened
from plainfit.common.files import LOCK, RECORD
from plainfit.data.decoding import SUFFIXES
from plainfit.data.splits import MOST_NAMED, PARTS
from plainfit.data.tables.reading import TableOptions, read_columns
from plainfit.data.tables.table import find_targets, target_values
from plainfit.data.targets import MULTI_LABEL, SEVERAL

NAME = "labels.csv"
FILES = ("file", "filename", "filepath", "image", "imagename", "imageid", "imagepath", "path", "id")
IGNORED = {"thumbs.db", "desktop.ini"}
HOMES = (
    {"images", "image", "imgs", "img"},
    {"masks", "mask", "labels", "label", "annotations", "annotation", "ground_truth", "gt"},
)  # names of the folders of images and of masks
ENDING = re.compile(r"[-_ ](mask|masks|label|labels|seg)$", re.IGNORECASE)  # of a mask's name
UNLABELLED = {"predict", "unlabelled", "unlabeled"}  # beside `test`, where it holds no folders


class LabelOptions(NamedTuple):
    target: str | None = None
    task: str | None = None
    written: TableOptions = TableOptions()


class Images(NamedTuple):
    """The images of a folder, and notes on what was left open."""

    files: list[tuple[str, Any, str]]  # part, label, path
    notes: list[str]
    targets: Sequence[str] = ()  # the columns of a file of labels, if they are from one


def find_images(root: Path, options: LabelOptions | None = None) -> Images:
    """Return every file in the class folders, sorted by name.

    A folder of runs and no image is no class. A file of labels goes before the folders.
    """
    folders, options = subfolders(root), options or LabelOptions()
    if path := find_label_file(root, folders, options.written):
        return labelled_images(root, folders, path, options)
    classes, apart, notes = class_folders(root, folders)
    if not classes:
        remedy = how_to_label(root)
        if any(path.name.startswith("train-images-idx3") for path in root.iterdir()):
            remedy = "it holds IDX files: open mnist with data_dir set to this folder"
        raise DataError(
            f"{root} must have a folder of images for each class, and it has no folders; {remedy}"
        )
    found: list[tuple[str, Any, str]] = []
    nested = Counter[str]()
    for part, label, folder in classes:
        files = list(files_under(folder))
        if not any(map(is_image, files)):
            if any(holds_run(place, names) for place, _, names in os.walk(folder)):
                continue
            held = "it is empty"
            if files:
                held = f"holds no images but {Path(files[0]).name} (boxes of objects are not read)"
            raise DataError(
                f"{folder} must hold images of class {label!r}, and {held}; {how_to_label(root)}"
            )
        found += [(part, label, path) for path in files]
        nested.update(home for home in map(home_of, files) if home != str(folder))
    if not found:
        raise DataError(f"{root} must have a folder of images for each class, and has only runs")
    check_no_masks(root, found)
    if nested:
        notes.append(f"images in folders within a class belong to it: {counted(root, nested)}")
    notes += missed(root, {path for *_, path in found}, apart)
    if names := sorted({label for _, label, _ in found if label.lower() in PARTS}):
        notes.append(f"read as a class, since it has no folders: {shortened(names)}")
    return Images(found, notes)


def how_to_label(root: Path) -> str:
    if tables := sorted(path.name for path in root.glob("*.csv")):
        return f"a table of labels must be called {NAME}, and there is {shortened(tables)}"
    return (
        f"lay it out as CLASS/*.png or train/CLASS/*.png, or list file and label in {root / NAME}"
    )


def check_no_masks(root: Path, found: Sequence[tuple[str, str, str]]) -> None:
    """Refuse classes that are images and masks, as their names say."""
    labels = sorted({label for _, label, _ in found})
    stems = {path.rpartition(".")[0] for *_, path in found}
    masks = sorted(stem for stem in stems if ENDING.search(stem) and ENDING.sub("", stem) in stems)
    if 4 * len(masks) > len(stems) or (len(labels) > 1 and HOMES[0] & {*map(str.lower, labels)}):
        such = f", and {Path(masks[0]).name} seems to be a mask" if masks else ""
        raise DataError(
            f"{root}: images and masks must be in folders that are called so, and the folders are "
            f"{shortened(labels)}{such}; rename or move them"
        )


def labelled_images(
    root: Path, folders: Sequence[Path], path: Path, options: LabelOptions
) -> Images:
    images = list(images_under(root))
    labels, targets, notes = read_labels(path, images, options)
    tops = {image: Path(image).relative_to(root).parts[0] for image in images}
    used = {tops[image] for image in labels}
    without = Counter(top for image, top in tops.items() if image not in labels)
    apart = [f for f in folders if is_unlabelled(f) and f.name in without.keys() - used]
    for folder in apart:
        del without[folder.name]
    if (count := without.total()) > len(labels) or not labels:
        raise DataError(
            f"{path} must have a row for each image, and {count} of {count + len(labels)} in "
            f"{root} have none; add them, or move these images or the file away"
        )
    if count:
        notes.append(f"{count} of {count + len(labels)} images have no row in {NAME}: left out")
    parts = {top: PARTS.get(top.lower(), "") for top in used}
    if "" in parts.values() or "train" not in parts.values():
        parts = dict.fromkeys(used, "train")
    notes += [apart_note(folder, {*parts.values()}) for folder in apart]
    files = [(parts[tops[image]], labels[image], image) for image in images if image in labels]
    return Images(files, notes + missed(root, set(images)), targets)


def class_folders(
    root: Path, folders: Sequence[Path]
) -> tuple[list[tuple[str, str, Path]], list[Path], list[str]]:
    """Return the folder of each class in each part, those of images without a class, and notes."""
    named = [folder for folder in folders if folder.name.lower() in PARTS]
    inner = {folder: subfolders(folder) for folder in folders}
    if not named and has_parts_in_classes(inner):
        classes = [
            (PARTS[path.name.lower()], folder.name, path)
            for folder, paths in inner.items()
            for path in paths
        ]
        kinds = ", ".join(sorted({path.name for *_, path in classes}))
        return classes, [], [f"each class has folders that are its parts: {kinds}"]
    if not named or (len(named) == 1 < len(folders) and not inner[named[0]]):
        check_levels(root, folders)
        return [("train", path.name, path) for path in folders], [], []
    parts = {PARTS[folder.name.lower()]: folder for folder in named if inner[folder]}
    flat = [
        folder for folder in folders if folder not in parts.values() and any(images_under(folder))
    ]
    apart = [folder for folder in flat if not inner[folder] and is_unlabelled(folder)]
    left = flat if "train" not in parts else [folder for folder in flat if folder not in apart]
    names = shortened([path.name for path in left or folders])
    if left and all(folder in named and not inner[folder] for folder in left):
        raise DataError(
            f"{root} must have a folder of images for each class, and those in {names} are in "
            f"none; {how_to_label(root)}"
        )
    if left or "train" not in parts:
        raise DataError(
            f"{root}: its folders must be either parts (one called train, perhaps valid and test, "
            f"each with a folder for each class) or classes, and {names} would be neither or a "
            "part twice; rename or move them"
        )
    for folder in parts.values():
        check_levels(folder, inner[folder])
    classes = [(part, path.name, path) for part, home in parts.items() for path in inner[home]]
    notes = [apart_note(folder, parts.keys()) for folder in apart]
    return classes, apart, notes


def apart_note(folder: Path, parts: Collection[str]) -> str:
    images = list(images_under(folder))
    kept_for = command("predict", "RUN", folder)
    drawn = "; the test set is drawn from the training images" if [*parts] == ["train"] else ""
    one, many = "image in {} has no class and is", "images in {} have no class and are"
    count = plural(len(images), one.format(folder.name), many.format(folder.name))
    return f"{count} kept for {kept_for}{drawn}"


def has_parts_in_classes(inner: Mapping[Path, Sequence[Path]]) -> bool:
    """Return whether folders are classes that hold parts, `cat/train` and `cat/test`."""
    names = [[PARTS.get(path.name.lower(), "") for path in paths] for paths in inner.values()]
    return len(names) > 1 and all(
        "train" in of_class and "" not in of_class and len({*of_class}) == len(of_class)
        for of_class in names
    )


def is_unlabelled(folder: Path) -> bool:
    name = folder.name.lower()
    return name in UNLABELLED or PARTS.get(name) == "test"


def check_levels(root: Path, folders: Sequence[Path]) -> None:
    """Refuse class folders that all hold the same folders, or hold the classes themselves."""
    held = {tuple(path.name for path in subfolders(folder)) for folder in folders}
    inner = held.pop() if len(held) == 1 else ()
    if len(folders) > 1 and len(inner) > 1:
        raise DataError(
            f"{root}: parts cannot be told from classes, as all its folders hold the same ones, "
            f"{shortened(inner)}; call the parts train, valid and test, or move the images up"
        )
    if len(folders) == 1 and len(inner) > 0:
        raise DataError(
            f"{root}: there must be at least two classes, got only {folders[0].name!r}, which "
            f"holds {shortened(inner)}; to train on what is in it, open {folders[0]}"
        )
    if len(folders) == 1 and any(root.glob("*.csv")):
        raise DataError(
            f"{root}: there must be at least two classes, got only {folders[0].name!r}; "
            f"{how_to_label(root)}"
        )


def images_under(folder: Path) -> Iterator[str]:
    return filter(is_image, files_under(folder))


def is_image(path: str) -> bool:
    return path.lower().endswith(SUFFIXES)


def missed(root: Path, used: Collection[str], apart: Collection[Path] = ()) -> list[str]:
    holding = {Path(home) for home in {*map(home_of, used)}}
    holding |= {home.parent for home in holding}
    counts, runs = Counter[str](), 0
    for place, folders, names in os.walk(root):
        home = Path(place)
        is_run = home != root and holds_run(place, names)
        runs += is_run
        if is_run or home in apart:
            folders.clear()  # and so not walked
            continue
        linked = [name for name in folders if (home / name).is_symlink()]
        counts[place] += sum(home / name not in holding for name in linked)
        counts[place] += sum(str(home / name) not in used for name in filter(is_image, names))
    within = plural(runs, "run folder within the data is", "run folders within the data are")
    notes = [f"{within} left out"] if runs else []
    if +counts:
        notes.append(
            "images and linked folders are left out (hidden, not in the folder of a class, or in "
            f"one that begins with _ or .): {counted(root, +counts)}"
        )
    return notes


def home_of(path: str) -> str:
    return path.rpartition(os.sep)[0]  # for each file: no Path is made


def counted(root: Path, counts: Mapping[str, int]) -> str:
    places = {os.path.relpath(place, root): count for place, count in counts.items()}
    return shortened([f"{count} in {place}" for place, count in sorted(places.items())])


def subfolders(root: Path) -> list[Path]:
    return sorted(path for path in root.iterdir() if path.is_dir() and path.name[0] not in "._")


def files_under(folder: Path | str) -> Iterator[str]:
    # The files of runs are no data.
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    if holds_run(folder, {entry.name for entry in in_order}):
        return
    for entry in in_order:
        if entry.name[0] == "." or entry.name.lower() in IGNORED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from files_under(entry.path)
        elif entry.is_file():
            yield entry.path


def holds_run(folder: Path | str, names: Collection[str]) -> bool:
    if RECORD not in names:
        return LOCK in names  # of a run that begins
    try:
        record = json.loads(Path(folder, RECORD).read_bytes())
        return bool({"state", "config", "model"} <= record.keys())
    except (OSError, ValueError, AttributeError, RecursionError):
        return False


def find_label_file(root: Path, folders: Sequence[Path], options: TableOptions) -> Path | None:
    """Return the file in a folder, or beside one without folders.

    In a folder with several folders, a table without names of files says something else.
    """
    places = [root] if folders else [root, root.parent]
    found = next((place / NAME for place in places if (place / NAME).is_file()), None)
    if found and len(folders) > 1 and not file_columns(read_columns(found, options).columns):
        return None
    return found


def file_columns(names: Iterable[str]) -> list[str]:
    """Return the columns that may name files, the likeliest first."""
    plain = {name.lower().replace("_", "").replace(" ", ""): name for name in names}
    return [plain[known] for known in FILES if known in plain]


def read_labels(
    path: Path, images: Sequence[str], options: LabelOptions
) -> tuple[dict[str, Any], list[str], list[str]]:
    """Return the label of each image that has a row, the names of the targets, and notes.

    For several labels, an image may have a row for each.
    """
    target, task, written = options
    table = read_columns(path, written)
    names = list(table.columns)
    if not (files := file_columns(names)):
        raise DataError(
            f"{path}: its first row must name a column of files, such as file, got {names}"
        )
    others = [name for name in names if name != files[0]]
    targets = find_targets(path, others, target or (others[0] if len(others) == 1 else None))
    texts = table.texts([files[0], *targets])
    keys = [key_of(text) for text in texts.pop(files[0]).to_pylist()]
    values = target_values(table, texts, task)
    known = named(images, path.parent)
    labels: dict[str, Any] = {}
    wrong, lost = list[str](), list[str]()
    for row, (key, value) in enumerate(zip(keys, values, strict=True), 1):
        found = known.get(key, [])
        if len(found) > 1:
            places = " or ".join(os.path.relpath(image, path.parent) for image in found[:2])
            wrong.append(f"data row {row}: {key} could be {places}; write its folder")
        elif not found:
            lost.append(key)
        elif found[0] not in labels:
            labels[found[0]] = value
        elif task == MULTI_LABEL and len(targets) == 1:
            labels[found[0]] = f"{labels[found[0]]}{SEVERAL[0]}{value}"
        elif np.any(labels[found[0]] != value):
            wrong.append(
                f"data row {row}: {key} is {value!s}, and {labels[found[0]]!s} before (for several "
                "labels of an image, --task multi-label)"
            )
    if wrong:
        raise DataError(
            f"{path}: each row must give an image one label: {shortened(wrong, MOST_NAMED)}"
        )
    if 2 * len(lost) > len(keys):
        raise DataError(
            f"{path}: rows must name images in {path.parent} or below, and {len(lost)} of "
            f"{len(keys)} do not: {shortened(lost, MOST_NAMED)}; mend them, or move the file away"
        )
    which = f"column{'s' * (len(targets) > 1)} {shortened([*map(repr, targets)])}"
    notes = [*table.notes, f"labels are the {which} of {path}"]
    if lost:
        notes.append(f"{len(lost)} of {len(keys)} rows of {NAME} name no image: {shortened(lost)}")
    return labels, targets, notes


def named(images: Sequence[str], home: Path) -> Mapping[str, list[str]]:
    """Return the images that a name may mean: without the first folders, without the end.

    The path from the home of the file is of one image, even if others end alike.
    """
    tails, wholes = defaultdict[str, list[str]](list), defaultdict[str, list[str]](list)
    for image in images:
        parts = key_of(os.path.relpath(image, home)).split("/")
        for at in range(len(parts)):
            name = "/".join(parts[at:])
            for key in (name, name.rpartition(".")[0]):
                (tails if at else wholes)[key].append(image)
    return {**tails, **wholes}


def key_of(name: str) -> str:
    return unicodedata.normalize("NFC", name.strip().replace("\\", "/")).removeprefix("./")
