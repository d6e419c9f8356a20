"""A training on images and masks, and all that follows it."""

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

import plainfit as pf
from ejecting import differing, run_here
from pages import Page
from plainfit.common.errors import ModelError, PlainfitError
from plainfit.data.segmentation import COLOURS
from plainfit.eject import eject_run
from plainfit.eject.verify import outcome_of
from plainfit.models.networks import UNet
from plainfit.report.page import write_report
from plainfit.runs.export import export_run
from plainfit.runs.folder import open_run, read_record
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import resume, train


@pytest.fixture(scope="module")
def shapes(tmp_path_factory):
    """A bright square on noise in each image, and at its border pixels without a class."""
    root, rng = tmp_path_factory.mktemp("shapes"), np.random.default_rng(0)
    for kind in ("images", "masks"):
        (root / kind).mkdir()
    for at in range(40):
        top, left = rng.integers(0, 7, 2)
        image, mask = rng.integers(0, 90, (14, 14, 3)), np.zeros((14, 14), np.uint8)
        image[top : top + 7, left : left + 7] += 120
        mask[top : top + 7, left : left + 7] = 255
        mask[top + 1 : top + 6, left + 1 : left + 6] = 1
        Image.fromarray(image.astype(np.uint8)).save(root / "images" / f"{at:02}.png")
        Image.fromarray(mask).save(root / "masks" / f"{at:02}.png")
    return root


@pytest.fixture(scope="module")
def run(shapes, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "run"
    config = RunConfig(
        data=str(shapes), model_args="width=4, depth=2", epochs=15, batch_size=8, device="cpu",
        augment="rotate=10,horizontal-flip,brightness", out=out,
    )  # fmt: skip
    result = train(config, echo=None)
    assert result.test["iou"] > 0.9
    return open_run(out)


def truth(run):
    xb, yb = run.open_data().test[:]
    with torch.no_grad():
        return run.model(xb), yb


def test_scores_are_those_by_hand(run):
    out, yb = truth(run)
    known = yb >= 0
    assert not known.all()
    hit, said, there = out.argmax(1)[known] == yb[known], out.argmax(1)[known], yb[known]
    pairs = [((said == c) & (there == c), (said == c), (there == c)) for c in (0, 1)]
    iou = [float(both.sum() / (a | b).sum()) for both, a, b in pairs]
    dice = [float(2 * both.sum() / (a.sum() + b.sum())) for both, a, b in pairs]
    wanted = {"loss": float(F.cross_entropy(out, yb)), "accuracy": float(hit.float().mean())}
    wanted |= {"iou": np.mean(iou), "dice": np.mean(dice)}
    assert pf.evaluate(run) == pytest.approx(wanted, rel=1e-5)
    assert run.record["test"] == pytest.approx(wanted, rel=1e-5)
    assert (run.target.task, run.classes, type(run.model)) == ("segmentation", ["0", "1"], UNet)


def test_masks_are_predicted_and_scored(run, shapes, tmp_path, plainfit):
    masks = pf.predict(run, shapes / "images", output="classes")
    assert masks.shape == (40, 14, 14)
    assert pf.evaluate(run, shapes)["iou"] > 0.9
    code, text, _ = plainfit("predict", run.folder, shapes / "images", "-o", "out/masks")
    assert (code, text) == (0, "wrote  out/masks: 40 masks\n")
    written = [Image.open(path) for path in sorted((tmp_path / "out" / "masks").iterdir())]
    assert np.array_equal(np.stack([np.asarray(mask) for mask in written]), masks)
    assert written[0].getpalette()[:9] == COLOURS[:3].flatten().tolist()
    assert COLOURS[:4].tolist() == [[0, 0, 0], [128, 0, 0], [0, 128, 0], [128, 128, 0]]
    for more in ([], ["-o", tmp_path], ["-o", tmp_path / "new", "--tta", 2]):
        assert plainfit("predict", run.folder, shapes / "images", *more)[0] == 2


@pytest.mark.filterwarnings("default")
def test_predicted_masks_have_the_size_of_their_images(run, shapes, tmp_path, plainfit):
    path, wanted = shapes / "images" / "00.png", np.full((28, 44), 255, np.uint8)
    Image.open(path).resize((28, 28), Image.Resampling.NEAREST).save(tmp_path / "square.png")
    wide = Image.new("RGB", (44, 28))
    wide.paste(Image.open(tmp_path / "square.png"), (8, 0))
    wide.save(tmp_path / "wide.png")
    names = [path, tmp_path / "square.png", tmp_path / "wide.png"]
    code, _, said = plainfit("predict", run.folder, *names, "-o", "masks")
    assert code == 0
    assert "2 of 3 masks are scaled from 14x14, the training's size, to that of their" in said
    fitted = pf.predict(run, names, output="classes").numpy().astype(np.uint8)
    large = fitted.repeat(2, 1).repeat(2, 2)
    wanted[:, 8:36] = large[2]
    for name, mask in zip(names, (fitted[0], large[1], wanted), strict=True):
        assert np.array_equal(np.asarray(Image.open(tmp_path / "masks" / name.name)), mask)


def test_the_page_shows_masks_and_the_iou(run, tmp_path):
    page = Page(write_report(run.folder, tmp_path / "report.html"))
    out, yb = truth(run)
    said, there = out.argmax(1)[yb >= 0], yb[yb >= 0]
    table = page.tables["Classes"]
    assert table[0] == ["class", "precision", "recall", "F1", "IoU", "support"]
    for label in (0, 1):
        both, either = ((said == label) & (there == label)), ((said == label) | (there == label))
        assert table[1 + label][4:] == [
            f"{both.sum() / either.sum():.3f}",
            f"{(there == label).sum():,}",
        ]
    text = (tmp_path / "report.html").read_text()
    assert text.count("with its mask and with the predicted one") == 12
    assert "left out" not in text


def test_a_script_repeats_the_training(run, tmp_path):
    script = eject_run(run.folder, tmp_path / "script.py").path
    losses, weights = run_here(script)
    outcome = outcome_of(run.folder, read_record(run.folder))
    assert (losses, differing(weights, outcome.weights)) == (outcome.losses, [])


def test_a_training_from_disk_has_the_bits_of_one_in_memory(shapes, tmp_path):
    """Though it is resumed; a script of it is refused."""
    settings = {"model_args": "width=2, depth=1", "epochs": 2, "batch_size": 8, "device": "cpu"}
    for name, budget, epochs in (("memory", 2048, 2), ("disk", 0, 1)):
        config = RunConfig(data=str(shapes), memory_budget=budget, out=tmp_path / name, **settings)
        train(replace(config, epochs=epochs), echo=None)
    resume(tmp_path / "disk", epochs=2, echo=None)
    memory, disk = (open_run(tmp_path / name) for name in ("memory", "disk"))
    assert differing(disk.model.state_dict(), memory.model.state_dict()) == []
    assert disk.record["test"] == memory.record["test"]
    assert "left out" not in write_report(tmp_path / "disk", tmp_path / "report.html").read_text()
    with pytest.raises(PlainfitError, match=r"must fit into memory, .* larger memory_budget"):
        eject_run(tmp_path / "disk", tmp_path / "script.py")


@pytest.mark.soak  # translating takes seconds
@pytest.mark.parametrize(("format", "name"), [("torch-export", "net.pt2"), ("onnx", "net.onnx")])
def test_an_export_gives_scores_of_pixels(run, tmp_path, format, name):
    result = export_run(run, format, tmp_path / name)
    assert result.facts["output"]["shape"] == ["batch", 2, 14, 14]
    names = {}
    exec(result.snippet, names)
    assert names["masks"].shape == (2, 14, 14)


def test_pictures_show_masks(shapes, tmp_path, plainfit):
    for command in (["data"], ["augment", "--augment", "standard"]):
        path = tmp_path / f"{command[0]}.png"
        code, text, _ = plainfit(command[0], shapes, *command[1:], "--picture", path)
        assert (code, path.stat().st_size > 5000) == (0, True)
        assert ("class" in text) == bool(re.search(r"\n1 + 700 + 150 + 150\n", text))
    assert plainfit("data", shapes, "--write", tmp_path / "new")[0] == 2


@pytest.mark.parametrize(("height", "width"), [(16, 16), (13, 21), (1, 1)])
def test_a_u_net_takes_images_of_any_size(height, width):
    model = UNet(channels=1, classes=5, width=4).eval()
    assert model(torch.rand(2, 1, height, width)).shape == (2, 5, height, width)
    assert 0.4e6 < sum(p.numel() for p in UNet().parameters()) < 0.6e6


def test_what_does_not_go_with_masks_is_refused(shapes, tmp_path):
    with pytest.raises(ModelError, match=r"shape \(6, 2, 14, 14\) for 6 samples, got \(6, 2\)"):
        train(RunConfig(data=str(shapes), model="cnn", out=tmp_path / "run"), echo=None)
    with pytest.raises(PlainfitError, match="must move both or change colours, got mixup; choose"):
        train(RunConfig(data=str(shapes), augment="mixup", out=tmp_path / "run"), echo=None)
    assert not Path(tmp_path / "run").exists()
