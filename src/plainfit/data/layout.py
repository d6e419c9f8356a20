"""Which images of a folder belong to which part and class."""

import json
import os
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from plainfit.common.errors import DataError, command, plural, shortened
from plainfit.common.files import LOCK, RECORD
from plainfit.data.decoding import SUFFIXES
from plainfit.data.label_file import NAME, LabelOptions, find_label_file, read_labels
from plainfit.data.splits import PARTS

IGNORED = {"thumbs.db", "desktop.ini"}
HOMES = (
    {"images", "image", "imgs", "img"},
    {"masks", "mask", "labels", "label", "annotations", "annotation", "ground_truth", "gt"},
)  # names of the folders of images and of masks
ENDING = re.compile(r"[-_ ](mask|masks|label|labels|seg)$", re.IGNORECASE)  # of a mask's name
UNLABELLED = {"predict", "unlabelled", "unlabeled"}  # beside `test`, where it holds no folders


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
    runs: list[str] = []
    nested = Counter[str]()
    for part, label, folder in classes:
        before = len(runs)
        files = list(files_under(folder, runs))
        if not any(path.lower().endswith(SUFFIXES) for path in files):
            if len(runs) > before:
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
    notes += missed(root, {path for *_, path in found}, runs, apart)
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
    runs: list[str] = []
    images = [file for file in files_under(root, runs) if file.lower().endswith(SUFFIXES)]
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
    return Images(files, notes + missed(root, set(images), runs, []), targets)


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
    return (path for path in files_under(folder, []) if path.lower().endswith(SUFFIXES))


def missed(
    root: Path, used: Collection[str], runs: Collection[str], apart: Collection[Path]
) -> list[str]:
    """Count the runs and images that are left out."""
    passed = {os.path.normpath(path) for path in [*runs, *map(str, apart)]}
    holding = {Path(home) for home in {*map(home_of, used)}}
    holding |= {home.parent for home in holding}
    counts = Counter[str]()
    for place, folders, names in os.walk(root):
        home = Path(place)
        if os.path.normpath(place) in passed:
            folders.clear()  # and so not walked
            continue
        linked = [name for name in folders if (home / name).is_symlink()]
        images = [name for name in names if name.lower().endswith(SUFFIXES)]
        counts[place] += sum(home / name not in holding for name in linked)
        counts[place] += sum(str(home / name) not in used for name in images)
    within = plural(len(runs), "run folder within the data is", "run folders within the data are")
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


def files_under(folder: Path | str, runs: list[str]) -> Iterator[str]:
    # Run folders go to `runs`, and their files are no data.
    with os.scandir(folder) as entries:
        in_order = sorted(entries, key=lambda entry: entry.name)
    if holds_run(folder, {entry.name for entry in in_order}):
        runs.append(str(folder))
        return
    for entry in in_order:
        if entry.name[0] == "." or entry.name.lower() in IGNORED:
            continue
        if entry.is_dir(follow_symlinks=False):
            yield from files_under(entry.path, runs)
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
