"""A folder of images and masks: what is paired, which values are classes, what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import plainfit as pf
from plainfit.common.errors import PlainfitError
from plainfit.data.decoding import RESIZE
from plainfit.data.segmentation import MaskedFiles, mask_picture

LAYOUTS = {
    "flat": "{kind}s/{name}",
    "one": "{kind}/{name}",
    "inside": "{kind}s/{part}/{name}",
    "around": "{part}/{kind}s/{name}",
}
PALETTE = [0, 0, 0, 200, 0, 0, 0, 200, 0]


def write(root, masks, *, layout="flat", ending="", parts=("train",), size=None, mode=None):
    """Write an image of noise for each mask; return the images."""
    rng = np.random.default_rng(0)
    images = []
    for at, mask in enumerate(masks):
        part = parts[at % len(parts)]
        height, width = mask.shape[:2]
        images.append(rng.integers(0, 255, (height, width, 3), dtype=np.uint8))
        for kind, array in (("image", images[-1]), ("mask", mask)):
            name = f"{at:02}{ending * (kind == 'mask')}.png"
            path = root / LAYOUTS[layout].format(kind=kind, part=part, name=name)
            path.parent.mkdir(parents=True, exist_ok=True)
            picture = Image.fromarray(array)
            if kind == "mask" and mode == "P":
                picture = Image.frombytes("P", picture.size, array.tobytes())
                picture.putpalette(PALETTE)
            picture.save(path)
    return images


def drawn(n=8, values=(0, 1, 2), side=(10, 12)):
    rng = np.random.default_rng(1)
    return [rng.choice(np.array(values, np.uint8), side) for _ in range(n)]


def all_of(data):
    parts = [part.tensors for part in data.parts().values()]
    return [torch.cat(tensors) for tensors in zip(*parts, strict=True)]


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("ending", ["", "_mask"])
def test_images_are_paired_with_masks_in_every_layout(tmp_path, layout, ending):
    parts = ("train", "val") if layout in ("inside", "around") else ("train",)
    masks = drawn()
    images = write(tmp_path, masks, layout=layout, ending=ending, parts=parts, mode="P")
    data = pf.open_data(tmp_path)
    assert (data.task, data.classes, data.notes) == ("segmentation", ("0", "1", "2"), ())
    assert data.counts() == (
        {"train": 4, "valid": 4} if len(parts) > 1 else {"train": 6, "valid": 1, "test": 1}
    )
    xb, yb = all_of(data)
    assert yb.dtype == torch.int64
    of = {
        image.transpose(2, 0, 1).tobytes(): mask for image, mask in zip(images, masks, strict=True)
    }
    for x, y in zip(xb, yb, strict=True):
        assert np.array_equal(of[x.numpy().tobytes()], y)
    counts = np.sum([*data.class_counts().values()], axis=0)
    assert counts.tolist() == np.bincount(np.ravel(masks)).tolist()


RED, BLUE = (200, 0, 0), (0, 0, 255)


@pytest.mark.parametrize(
    ("values", "as_rgb", "classes", "note"),
    [
        ((0, 1, 2, 255), False, ("0", "1", "2"), None),
        ((0, 1, 2, 255), True, ("0", "1", "2"), None),
        ((0, 255), False, ("0", "255"), "masks are black and white, 0 and 255: two classes"),
        ((0, 255), True, ("0", "255"), "masks are black and white, 0 and 255: two classes"),
        ((0, 50, 90), False, ("0", "50", "90"), "classes in sorted order: 0, 50, 90"),
        ((RED, BLUE), True, ("#0000ff", "#c80000"), "classes in sorted order: #0000ff, #c80000"),
    ],
)  # fmt: skip
def test_each_value_is_a_class(tmp_path, values, as_rgb, classes, note):
    numbers = drawn(values=range(len(values)))
    table = np.array(values, np.uint8)
    masks = [table[mask] for mask in numbers]
    if as_rgb and table.ndim == 1:
        masks = [np.repeat(mask[..., None], 3, 2) for mask in masks]
    write(tmp_path, masks)
    data = pf.open_data(tmp_path)
    assert data.classes == classes
    assert [note in text for text in data.notes] == ([True] if note else [])
    own = [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in table] if table.ndim > 1 else map(str, values)
    wanted = [classes.index(name) if name in classes else -100 for name in own]
    _, yb = all_of(data)
    assert yb.unique().tolist() == sorted(wanted)
    pixels = np.ravel(numbers)
    for number, label in enumerate(wanted):
        assert (yb == label).sum() == (pixels == number).sum()


def test_classes_have_the_names_of_a_file(tmp_path):
    write(tmp_path, drawn(values=(0, 2)))
    (tmp_path / "classes.txt").write_text("sky\nroad\ncar\ntree\n")
    data = pf.open_data(tmp_path)
    assert data.classes == ("sky", "road", "car", "tree")
    assert all_of(data)[1].unique().tolist() == [0, 2]
    (tmp_path / "classes.txt").write_text("sky")
    with pytest.raises(PlainfitError, match="got 2 values and 1 names"):
        pf.open_data(tmp_path)


@pytest.mark.parametrize("resize", [None, "pad", "squash"])
def test_masks_are_fitted_as_their_images_are(tmp_path, resize):
    masks = [np.kron(mask, np.ones((4, 4), np.uint8)) for mask in drawn(side=(3, 5))]
    write(tmp_path, [*masks[:-1], masks[-1][:, 4:]])
    with pytest.raises(PlainfitError, match="image_size must be set, as images differ in size"):
        pf.open_data(tmp_path)
    for at, mask in enumerate(masks):  # images that show their masks
        Image.fromarray(mask * 100 + 20).save(tmp_path / "images" / f"{at:02}.png")
        Image.fromarray(mask).save(tmp_path / "masks" / f"{at:02}.png")
    xb, yb = all_of(pf.open_data(tmp_path, image_size=12, resize=resize))
    seen = (xb[:, 0].float() - 20) / 100
    clear = (seen - seen.round()).abs() < 0.01
    assert clear.float().mean() > 0.3
    wanted = torch.where(xb[:, 0] == 0, -100, seen.round().long())
    assert torch.equal(yb[clear | (xb[:, 0] == 0)], wanted[clear | (xb[:, 0] == 0)])


@pytest.mark.parametrize("resize", [None, "pad", "squash"])
@pytest.mark.parametrize("size", [(40, 24), (23, 41), (12, 12), (5, 7), (9, 91)])
def test_masks_of_fitted_images_are_scaled_back(size, resize):
    """Each pixel comes from where the fitted image has it."""
    places = [np.arange(n, dtype=np.float32) + 0.5 for n in size]
    grids = np.meshgrid(*places)
    way = RESIZE[resize or "crop"]
    seen = [np.array(way(Image.fromarray(g), (12, 12), Image.Resampling.NEAREST)) for g in grids]
    inside = seen[0] > 0  # and 0 is what is padded
    mask = torch.from_numpy(np.where(inside, np.arange(144).reshape(12, 12), 200))
    restored = np.asarray(mask_picture(mask, size, resize))
    assert restored.shape == size[::-1]
    known = restored[restored != 255]
    assert known.size == restored.size or resize is None
    assert known.max() < 144
    for grid, found in zip(grids, seen, strict=True):
        step = max(1, len(np.unique(grid)) / len(np.unique(found[inside])))
        off = np.abs(found.ravel()[known] - grid[restored != 255])
        assert off.max() <= step
    if resize is None:  # what was cropped away, and no more
        spans = [
            np.abs(g - n / 2) < 12 / max(12 / np.array(size)) / 2
            for g, n in zip(grids, size, strict=True)
        ]
        assert np.array_equal(restored != 255, spans[0] & spans[1])


def test_what_does_not_fit_is_named(tmp_path):
    masks = drawn(14)
    write(tmp_path, masks)
    for at in (1, 3):
        Image.fromarray(masks[at][:, :9]).save(tmp_path / "masks" / f"{at:02}.png")
    (tmp_path / "masks" / "05.png").write_bytes(b"no")
    (tmp_path / "masks" / "07.png").unlink()
    Image.fromarray(masks[7] * 127).save(tmp_path / "masks" / "07.jpg")
    with pytest.raises(PlainfitError) as caught:
        pf.open_data(tmp_path)
    for text in (
        "4 of 14 are not: masks/01.png, masks/03.png (9x10, and its image is 12x10), ",
        "masks/05.png (not a readable image of its kind), ",
        "masks/07.jpg (JPEG, which changes values; make masks as PNG); repair",
    ):
        assert text in str(caught.value)
    data = pf.open_data(tmp_path, skip_bad=True)
    assert (sum(data.counts().values()), data.notes) == (
        10,
        ("4 of 14 images could not be read and are left out",),
    )
    for at in range(11):
        (tmp_path / "masks" / f"{at:02}.png").unlink(missing_ok=True)
    (tmp_path / "masks" / "07.jpg").unlink()
    (tmp_path / "images" / "12.png").write_bytes(b"no")
    none = r"and 1 more \(no mask of the same name\), images/12.png \(not a readable image"
    with pytest.raises(PlainfitError, match=rf"12 of 14 are not: images/00.png, .* {none}"):
        pf.open_data(tmp_path)
    assert "12 of 14 images could" in str(pf.open_data(tmp_path, skip_bad=True, test_share=0).notes)


@pytest.mark.parametrize("resize", [None, "pad"])
@pytest.mark.parametrize("values", [(0, 3, 7, 255), (0, 255)])
def test_what_memory_does_not_hold_is_read_as_it_is_used(tmp_path, resize, values):
    masks = drawn(12, values)
    masks[3][:] = 255
    write(tmp_path, masks)
    memory, disk = (
        pf.open_data(tmp_path, image_size=8, resize=resize, memory_budget=mib) for mib in (2048, 0)
    )
    assert isinstance(disk.train, MaskedFiles)
    assert disk.notes[0] == "images and masks larger than 0 MiB: read from disk as they are used"
    assert (disk.notes[1:], disk.classes) == (memory.notes, memory.classes)
    assert disk.class_counts() == memory.class_counts()
    for name, part in memory.parts().items():
        for pair, of_disk in zip(part, disk.parts()[name], strict=True):
            assert all(map(torch.equal, pair, of_disk))
    before = disk.fingerprint
    changed = Path(disk.train.masks[2])
    Image.fromarray(255 - np.asarray(Image.open(changed))).save(changed)
    assert (
        pf.open_data(tmp_path, image_size=8, resize=resize, memory_budget=0).fingerprint != before
    )
    with pytest.raises(PlainfitError, match=f"{changed.name} must not change .* another file now"):
        disk.train[2]
    changed.unlink()
    with pytest.raises(PlainfitError, match=f"{changed.name} must not .* no such file now"):
        disk.train[2]


def test_groups_and_shares_hold(tmp_path):
    write(tmp_path, drawn(12))
    for at in range(12):
        for kind in ("images", "masks"):
            path = tmp_path / kind / f"{at:02}.png"
            path.rename(path.with_name(f"p{at // 3}_{at}.png"))
    data = pf.open_data(tmp_path, group_by="_", test_share=0.0, valid_share=0.3)
    assert data.counts() == {"train": 9, "valid": 3}
