"""A folder of images gives the pixels that Pillow gives, however many processes read it."""

import shutil
import sys
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageDraw, ImageOps

from ejecting import differing, run_here
from plainfit import PlainfitError, get_data, open_data, predict
from plainfit.data import decoding
from plainfit.data.decoding import read_image
from plainfit.data.layout import find_images
from plainfit.eject import eject_run
from plainfit.eject.verify import outcome_of
from plainfit.runs.folder import open_run, read_record
from plainfit.runs.predict import predict_images
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train

pytestmark = pytest.mark.filterwarnings("ignore:.*fork:DeprecationWarning")  # from Python 3.12 on
SIZE = (13, 9)
FORMATS = {
    "L": (".png", ".jpg", ".bmp"),
    "RGB": (".png", ".jpeg", ".webp", ".bmp"),
    "RGBA": (".png", ".webp"),
    "LA": (".png",),
}


@pytest.fixture(autouse=True)
def workers(request, monkeypatch):
    """Files are decoded here, where a test does not ask for more processes."""
    count = getattr(request, "param", 1)
    monkeypatch.setattr(decoding, "cores", lambda: count)
    monkeypatch.setattr(decoding, "FEW", 4)


def save(path, mode, size=SIZE, seed=0, orientation=None):
    bands = len(Image.new(mode, (1, 1)).getbands())
    pixels = np.random.default_rng(seed).integers(0, 256, (*size[::-1], bands), dtype=np.uint8)
    exif = Image.Exif()
    if orientation:
        exif[0x0112] = orientation
    path.parent.mkdir(parents=True, exist_ok=True)
    options = {} if path.suffix == ".bmp" else {"exif": exif}
    Image.fromarray(pixels.squeeze()).convert(mode).save(path, **options)


def reference(path, size, mode):
    """The pixels by Pillow alone: (channels, height, width)."""
    with Image.open(path) as opened:
        image = ImageOps.exif_transpose(opened)
    if "A" in image.getbands():  # as on white
        bands = np.array(image).astype(float)
        share = bands[..., -1:] / 255
        seen = bands[..., :-1] * share + 255 * (1 - share)
        image = Image.fromarray(np.rint(seen).astype(np.uint8).squeeze())
    image = image.convert(mode)
    if image.size != size:
        image = ImageOps.fit(image, size, Image.Resampling.BILINEAR)
    pixels = np.array(image)
    return pixels[None] if mode == "L" else pixels.transpose(2, 0, 1)


def check(root, size, mode, **options):
    """Compare all pixels of training images with Pillow's, in memory and lazily; return notes."""
    shutil.copytree(root / "train", root / "valid", dirs_exist_ok=True)
    paths = [path for path in sorted((root / "train").rglob("*")) if path.is_file()]
    wanted = torch.from_numpy(np.stack([reference(path, size, mode) for path in paths]))
    kept = open_data(root, **options)
    lazy = open_data(root, memory_budget=0, **options)
    assert kept.train.tensors[0].shape == wanted.shape
    assert torch.equal(kept.train.tensors[0], wanted)
    assert lazy.classes == kept.classes == tuple(sorted({path.parts[-2] for path in paths}))
    loaders = [get_data(data.train, data.valid, bs=7)[0] for data in (kept, lazy)]
    for (xb, yb), (lazy_xb, lazy_yb) in zip(*loaders, strict=True):
        assert torch.equal(xb, lazy_xb)
        assert torch.equal(yb, lazy_yb)
    x, y = lazy.train[5]
    assert torch.equal(x * 256, wanted[5].float())
    assert y == kept.train.tensors[1][5]
    *notes, equal = kept.notes
    assert equal.endswith(f"remove the copies: {len(paths)} of {len(paths)} in valid")
    return notes


@pytest.mark.parametrize(
    ("modes", "mode"),
    [("L", "L"), ("RGB RGBA", "RGB"), ("L RGB", "RGB"), ("RGB LA", "RGB"), ("L LA", "L")],
)
def test_images_of_one_size(tmp_path, modes, mode):
    modes = modes.split()
    for i in range(30):
        chosen = modes[i // 10 % len(modes)]
        suffix = FORMATS[chosen][i % len(FORMATS[chosen])]
        save(tmp_path / "train" / "ab"[i % 2] / f"{i:02}{suffix}", chosen, seed=i)
    notes = check(tmp_path, SIZE, mode)
    clear = sum("A" in modes[i // 10 % len(modes)] for i in range(30)) * 2  # in both parts
    assert notes == [f"{clear} of 60 images have transparency: drawn on white"] * bool(clear)
    check(tmp_path, (8, 8), mode, image_size=8)


@pytest.mark.parametrize("workers", [1, 3], indirect=True)
@pytest.mark.parametrize("odd", [0, 3, 29])
def test_images_of_which_one_has_another_size(tmp_path, odd):
    for i in range(30):
        size = (30, 40) if i == odd else (70, 65)
        save(tmp_path / "train" / "ab"[i % 2] / f"{i:02}.png", "L", size, i)
    assert "differ in size" in check(tmp_path, (64, 64), "L")[0]


def test_images_are_turned_as_their_exif_says(tmp_path):
    for i in range(32):
        suffix = (".png", ".jpg", ".webp")[i % 3]
        size = SIZE[::-1] if i % 9 >= 5 else SIZE
        save(tmp_path / "train" / "ab"[i % 2] / f"{i:02}{suffix}", "RGB", size, i, i % 9)
    assert not check(tmp_path, SIZE, "RGB")


def test_large_files(tmp_path):
    for i in range(12):
        save(tmp_path / "train" / "ab"[i % 2] / f"{i:02}.png", "RGB", (200, 200), i)
    assert (tmp_path / "train/a/00.png").stat().st_size > decoding.SMALL
    check(tmp_path, (200, 200), "RGB")


@pytest.mark.parametrize("workers", [1, 3], indirect=True)
def test_bad_files_are_named_wherever_they_are(tmp_path):
    for i in range(40):
        save(tmp_path / "ab"[i % 2] / f"{i:02}.png", "L", seed=i)
    whole = (tmp_path / "b" / "39.png").read_bytes()
    (tmp_path / "a" / "00.png").write_bytes(b"no image")
    (tmp_path / "b" / "39.png").write_bytes(whole[:-30])
    Image.new("1", (5001, 5000)).save(tmp_path / "a" / "20.png")
    for budget in (0, 2048):
        with pytest.raises(PlainfitError, match="3 of 40 are not") as caught:
            open_data(tmp_path, memory_budget=budget)
        for text in ("a/00.png (not a readable", "a/20.png (larger than", "b/39.png (damaged"):
            assert text in str(caught.value)
        data = open_data(tmp_path, skip_bad=True, memory_budget=budget)
        assert sum(data.counts().values()) == 37
        assert data.input_shape == (1, 9, 13)


def test_each_file_is_read_once_where_all_are_alike(tmp_path, monkeypatch):
    for i in range(10):
        save(tmp_path / "ab"[i % 2] / f"{i:02}.png", "L", seed=i)
    opened = []
    monkeypatch.setattr(decoding, "cores", lambda: 1)
    monkeypatch.setattr(
        decoding, "open_image", lambda p, f=decoding.open_image: opened.append(p) or f(p)
    )
    open_data(tmp_path)
    first, *others = sorted(map(str, tmp_path.rglob("*.png")))
    assert sorted(opened) == [first, first, *others]  # by its header, all others are expected


def test_files_are_found_in_the_order_of_their_paths(tmp_path):
    names = "b/x.png b-c/x.png b/y/x.png b.png c/.x.png c/thumbs.db c/Z.png c/a.png .d/x.png"
    for name in names.split():
        save(tmp_path / "one" / "0" / name.replace("thumbs.db", "thumbs.png"), "L")
    (tmp_path / "one/0/c/thumbs.png").rename(tmp_path / "one/0/c/Thumbs.DB")
    (tmp_path / "one/0/broken.png").symlink_to(tmp_path / "none")
    (tmp_path / "one/0/linked.png").symlink_to(tmp_path / "one/0/b.png")
    (tmp_path / "one/0/loop").symlink_to(tmp_path / "one")
    save(tmp_path / "one" / "1" / "x.png", "L")
    found = [path for _, label, path in find_images(tmp_path / "one")[0] if label == "0"]
    wanted = "b/x.png b/y/x.png b-c/x.png b.png c/Z.png c/a.png linked.png"
    assert found == [str(tmp_path / "one/0" / name) for name in wanted.split()]


def test_runs_within_the_data_are_no_data(tmp_path, trained_run, monkeypatch):
    """Below the data as classes are, below a class, and one that begins; a class of none stays."""
    for label in ("cat", "dog"):
        for number in range(6):
            save(tmp_path / label / f"{number}.png", "L", seed=number + 6 * (label == "dog"))
    before = open_data(tmp_path)
    places = ["runs/first", "studies/one/0000", "cat/run", "dog/deep/er"]
    for place in places:
        shutil.copytree(trained_run, tmp_path / place)
    (tmp_path / "studies/one/study.html").touch()
    (tmp_path / "runs/second").mkdir()
    (tmp_path / "runs/second/.plainfit.lock").touch()
    after = open_data(tmp_path)
    assert (after.classes, after.counts()) == (("cat", "dog"), before.counts())
    assert after.fingerprint == before.fingerprint
    assert after.notes == ("5 run folders within the data are left out",)
    monkeypatch.chdir(tmp_path)
    assert open_data(Path()).notes == after.notes
    (tmp_path / "cat/run/run.json").write_text("[]")  # of something else
    with pytest.raises(PlainfitError, match="every image must be readable"):
        open_data(tmp_path)
    shutil.rmtree(tmp_path / "cat")
    shutil.rmtree(tmp_path / "dog")
    with pytest.raises(PlainfitError, match="has only runs"):
        open_data(tmp_path)


COLOURS = np.random.default_rng(0).integers(0, 256, (*SIZE[::-1], 3), dtype=np.uint8)
DEEP = np.arange(117, dtype=np.uint16).reshape(9, 13) * 560  # up to 64,960
FRAMES = [Image.fromarray(COLOURS[::step]).resize(SIZE, 0) for step in (1, -1)]


def half_clear(kind):
    """The upper half of an image is seen, the lower is transparent."""
    image = Image.fromarray(COLOURS).quantize(200) if kind == "P" else Image.fromarray(COLOURS)
    seen = np.array(image.convert("RGB"))
    if kind == "P":
        image.info["transparency"] = 3
        seen[np.array(image) == 3] = 255
        return image, seen
    alpha = np.full(SIZE[::-1], 255, np.uint8)
    alpha[4:], seen[4:] = 0, 255
    image.putalpha(Image.fromarray(alpha))
    return image, seen


@pytest.mark.parametrize(
    ("name", "image", "seen", "note"),
    [
        ("rgba.png", *half_clear("RGBA"), "have transparency: drawn on white"),
        ("palette.png", *half_clear("P"), "have transparency: drawn on white"),
        ("deep.png", Image.fromarray(DEEP), np.rint(DEEP / 257), "have 16 bits a pixel: scaled"),
        ("deep.tiff", Image.fromarray(DEEP), np.rint(DEEP / 257), "have 16 bits a pixel: scaled"),
        ("cmyk.tif", Image.fromarray(COLOURS).convert("CMYK"), COLOURS, "are CMYK: converted"),
        ("pages.tif", FRAMES, COLOURS, "have several frames: the first is used"),
        ("moving.png", FRAMES, COLOURS, "have several frames: the first is used"),
        ("moving.webp", FRAMES, COLOURS, "have several frames: the first is used"),
        ("gray.gif", Image.fromarray(COLOURS[..., 0]), COLOURS[..., 0], None),
        ("naïve 図.png", Image.fromarray(COLOURS), COLOURS, None),
    ],
)
def test_each_kind_of_image_is_read_as_it_looks(tmp_path, name, image, seen, note):
    """By a training and by predict; the one odd image is noted, and the others have no note."""
    for label in "ab":
        for i in range(4):
            save(tmp_path / label / f"{i}.png", "L" if seen.ndim == 2 else "RGB", seed=i)
    first, *more = image if isinstance(image, list) else [image]
    options = {"lossless": True} if name.endswith("webp") else {}
    options |= {"save_all": True, "append_images": more} if more else {}
    if "transparency" in first.info:
        options["transparency"] = first.info["transparency"]
    first.save(tmp_path / "a" / name, **options)
    wanted = seen[None] if seen.ndim == 2 else seen.transpose(2, 0, 1)
    data = open_data(tmp_path)
    notes = [text for text in data.notes if text.startswith(f"1 of 9 images {note}")]
    assert len(notes) == bool(note) <= len(data.notes)
    xb = torch.cat([part.tensors[0] for part in data.parts().values()])
    assert (xb == torch.from_numpy(wanted)).flatten(1).all(1).any()
    assert np.array_equal(read_image(tmp_path / "a" / name, wanted.shape), wanted)


def test_what_reading_loses_is_noted(tmp_path):
    """Colours of 16 bits, which Pillow cuts, and white drawings, which white hides."""

    def chunk(kind, content):
        size, end = len(content).to_bytes(4), zlib.crc32(kind + content).to_bytes(4)
        return size + kind + content + end

    deep = np.random.default_rng(0).integers(0, 2**16, (*SIZE[::-1], 3)).astype(">u2")
    header = b"".join(side.to_bytes(4) for side in SIZE) + bytes([16, 2, 0, 0, 0])
    lines = zlib.compress(b"".join(b"\0" + line.tobytes() for line in deep))
    chunks = ((b"IHDR", header), (b"IDAT", lines), (b"IEND", b""))
    for label in "ab":
        for i in range(4):
            save(tmp_path / label / f"{i}.png", "RGB", seed=i)
        png = b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*each) for each in chunks)
        (tmp_path / label / "deep.png").write_bytes(png)
    white = Image.new("RGBA", SIZE, (255, 255, 255, 0))
    ImageDraw.Draw(white).ellipse((2, 2, 7, 7), fill="white")
    white.save(tmp_path / "a" / "white.png")
    data = open_data(tmp_path)
    notes = "\n".join([*data.notes, *open_data(tmp_path, memory_budget=0).notes])
    assert notes.count("2 of 11 images have 16 bits a colour: the higher 8 are kept") == 2
    assert notes.count("1 of 11 images are white all over (drawn in white on") == 2
    xb = torch.cat([part.tensors[0] for part in data.parts().values()])
    wanted = torch.from_numpy((deep >> 8).astype(np.uint8)).permute(2, 0, 1)
    assert (xb == wanted).flatten(1).all(1).sum() == 2


def test_images_that_cannot_be_read_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)  # as if it were not installed
    for i in range(12):
        save(tmp_path / "ab"[i % 2] / f"{i:02}.png", "L", seed=i)
        (tmp_path / "ab"[i % 2] / f"{i:02}.heic").write_bytes(bytes(4) + b"ftypheic" + bytes(99))
    Image.fromarray(DEEP.astype(np.float32)).save(tmp_path / "a" / "00.tif")
    with pytest.raises(PlainfitError, match="13 of 25 are not") as caught:
        open_data(tmp_path)
    for text in (
        "a/00.heic, a/02.heic, ",
        " and 2 more (HEIC, which needs a package: pip install pillow-heif), ",
        ", a/00.tif (32 bits per pixel; save it with 8 or 16); repair",
    ):
        assert text in str(caught.value)


def test_drawings_in_the_alpha_channel_are_learned_and_ejected(tmp_path):
    for label, shape in (("circle", "ellipse"), ("square", "rectangle")):
        for i in range(40):
            image = Image.new("RGBA", (16, 16), (0, 0, 0, 0))
            getattr(ImageDraw.Draw(image), shape)((i % 4, i // 20, 12, 12), fill="black")
            (tmp_path / "data" / label).mkdir(parents=True, exist_ok=True)
            image.save(tmp_path / "data" / label / f"{i}.png")
    config = RunConfig(data=str(tmp_path / "data"), model="cnn", epochs=25, out=tmp_path / "run")
    assert train(config, echo=None).test["accuracy"] > 0.9
    script = eject_run(tmp_path / "run", tmp_path / "script.py").path
    losses, weights = run_here(script)
    outcome = outcome_of(tmp_path / "run", read_record(tmp_path / "run"))
    assert (losses, differing(weights, outcome.weights)) == (outcome.losses, [])
    (row,) = predict_images(open_run(tmp_path / "run"), [tmp_path / "data/circle/0.png"])
    assert row["class"] == "circle"


@pytest.mark.parametrize("mode", ["gray", "rgb"])
@pytest.mark.parametrize("resize", [None, "crop", "pad", "squash"])
def test_mode_and_shape_are_as_set(tmp_path, mode, resize):
    """In memory, lazily and for new images; pixels as Pillow makes them step by step."""
    for i in range(8):
        save(tmp_path / "train" / "ab"[i % 2] / f"{i}.png", "L" if mode == "rgb" else "RGB", seed=i)
    shutil.copytree(tmp_path / "train", tmp_path / "valid")
    options = {"image_mode": mode, "resize": resize, "image_size": 6}
    kept = open_data(tmp_path, **options)
    lazy = open_data(tmp_path, memory_budget=0, **options)
    path = tmp_path / "train/a/4.png"
    with Image.open(path) as opened:
        image = opened.convert("L" if mode == "gray" else "RGB")  # 13 x 9
    if resize == "pad":
        wanted = Image.new(image.mode, (6, 6))
        wanted.paste(image.resize((6, 4), Image.Resampling.BILINEAR), (0, 1))
    else:
        box = None if resize == "squash" else (2, 0, 11, 9)
        wanted = image.resize((6, 6), Image.Resampling.BILINEAR, box=box)
    wanted = np.array(wanted)[None] if mode == "gray" else np.array(wanted).transpose(2, 0, 1)
    assert np.array_equal(kept.train.tensors[0][2], wanted)
    assert torch.equal(lazy.train[2][0] * 256, torch.from_numpy(wanted).float())
    assert np.array_equal(read_image(path, wanted.shape, resize), wanted)


def test_predict_reads_images_as_the_run_was_set_to(tmp_path):
    for i in range(20):
        save(tmp_path / "data" / "ab"[i % 2] / f"{i}.png", "RGB", seed=i)
    config = RunConfig(
        data=str(tmp_path / "data"), image_mode="gray", resize="pad", image_size=8,
        model="logistic", epochs=1, out=tmp_path / "run",
    )  # fmt: skip
    train(config, echo=None)
    run = open_run(tmp_path / "run")
    assert read_record(run.folder)["config"]["resize"] == "pad"
    paths = sorted((tmp_path / "data" / "a").iterdir())
    pixels = np.stack([read_image(path, (1, 8, 8), "pad") for path in paths])
    assert torch.equal(predict(run, paths), predict(run, pixels))
    assert not torch.equal(predict(run, paths), predict(run, pixels[:, :, ::-1].copy()))


@pytest.mark.parametrize("budget", [0, 2048])
def test_copies_in_several_parts_are_noted_and_kept_together(tmp_path, budget):
    for i in range(20):
        for copy in range(5):
            save(tmp_path / "ab"[i % 2] / f"{i}-{copy}.png", "L", seed=i)
    data = open_data(tmp_path, memory_budget=budget)
    parts = {name: [x.numpy().tobytes() for x, _ in part] for name, part in data.parts().items()}
    equal = {n: sum(x in parts["train"] for x in parts[n]) for n in ("valid", "test")}
    assert min(equal.values()) > 0
    found = f"--group-by: {equal['valid']} of 16 in valid and {equal['test']} of 16 in test"
    assert data.notes[-1].endswith(found)
    data = open_data(tmp_path, memory_budget=budget, group_by="-")
    assert "equal" not in " ".join(data.notes)
    parts = {name: {x.numpy().tobytes() for x, _ in part} for name, part in data.parts().items()}
    assert [len(parts[name]) for name in ("train", "valid", "test")] == [12, 4, 4]
    assert len(set.union(*parts.values())) == 20
    assert data.class_counts() == {"train": [30, 30], "valid": [10, 10], "test": [10, 10]}
    with pytest.raises(PlainfitError, match=r"such as '0-0', and '_' is in none of 100$"):
        open_data(tmp_path, group_by="_")
    (tmp_path / "b").rename(tmp_path / "bb")
    for part in ("train", "valid"):
        shutil.copytree(tmp_path / "a", tmp_path / "parts" / part / "a")
        shutil.copytree(tmp_path / "bb", tmp_path / "parts" / part / "b")
    with pytest.raises(PlainfitError, match="group_by is for parts that are drawn"):
        open_data(tmp_path / "parts", group_by="-")
    assert "100 of 100 in valid" in open_data(tmp_path / "parts").notes[-1]
