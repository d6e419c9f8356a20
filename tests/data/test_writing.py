"""Images written as a folder are the same images when it is read again."""

import numpy as np
import pytest
import torch
from PIL import Image
from typer.testing import CliRunner

from plainfit import open_data
from plainfit.cli import app
from plainfit.data.pictures import write_folder


@pytest.fixture
def refused(plainfit):
    def run(*arguments):
        code, _, error = plainfit("data", *arguments)
        assert code == 2
        (line,) = error.splitlines()
        return line

    return run


@pytest.fixture(autouse=True)
def folder_of_its_own(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_digits_of_two_classes_keep_their_pixels(tmp_path):
    done = CliRunner().invoke(app, ["data", "digits", "--only", "3, 7", "--write", "threes"])
    assert done.exit_code == 0, done.output
    assert done.stdout.startswith("threes: samples of 1x8x8")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["threes", "threes-samples.png"]
    digits, written = open_data("digits"), open_data("threes")
    assert written.classes == ("3", "7")
    for name, part in digits.parts().items():
        images, labels = part.tensors
        wanted = [images[labels == label] for label in (3, 7)]
        again, numbers = written.parts()[name].tensors
        assert torch.equal(again, torch.cat(wanted))
        assert torch.bincount(numbers).tolist() == [len(of_class) for of_class in wanted]


@pytest.mark.parametrize("budget", [1, 2048])
def test_colours_are_kept_from_memory_and_from_disk(tmp_path, budget):
    noise = torch.randint(256, (6, 400, 400, 3), generator=torch.Generator().manual_seed(0)).byte()
    for row, pixels in enumerate(noise):
        path = tmp_path / "photos" / ("train", "valid", "test")[row // 2] / "ab"[row % 2] / "x.png"
        path.parent.mkdir(parents=True)
        Image.fromarray(pixels.numpy()).save(path)
    write_folder(open_data("photos", memory_budget=budget), tmp_path / "again")
    assert open_data("again").fingerprint == open_data("photos").fingerprint


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path, refused):
    line = refused("digits", "--only", "3,77", "--write", "new")
    assert "unknown class '77': choose from 0, 1, 2" in line
    assert "did you mean '7'?" in line
    assert "add --write FOLDER" in refused("digits", "--only", "3")
    (tmp_path / "file").touch()
    assert "must be writable" in refused("digits", "--write", "file/new")
    (tmp_path / "there").mkdir()
    assert "new data must have a new name" in refused("digits", "--write", "there")
    (tmp_path / "table.csv").write_text("a,b,label\n" + "1,2,x\n2,1,y\n1,2,y\n" * 20)
    assert "only images of bytes in gray or in colour can be written" in refused(
        "table.csv", "--target", "label", "--write", "new"
    )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "table.csv", "there"]


def test_a_class_cannot_lead_out_of_the_folder(tmp_path, refused):
    labels = np.array(["../up", "down"] * 20)
    np.savez("set.npz", x=np.zeros((40, 4, 4), np.uint8), y=labels)
    assert "must have a name that a folder can have, got '../up'" in refused(
        "set.npz", "--write", "new"
    )
    assert [path.name for path in tmp_path.iterdir()] == ["set.npz"]
