"""The picture of an augmentation, and predictions over several views."""

import json

import pytest
import torch
from PIL import Image
from test_cli import plainfit

from plainfit.common.errors import ConfigError
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline
from plainfit.data.loaders import bytes_to_floats
from plainfit.data.open_data import open_data
from plainfit.runs.folder import open_run
from plainfit.runs.predict import predict_images
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train


def test_a_picture_of_samples_before_and_after(tmp_path):
    sizes = {}
    for name in ("strong", "mixup=1"):
        done = plainfit("augment", "digits", "--augment", name, "--picture", "a.png", cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert done.stdout.startswith("picture: a.png (the first row as it is)\n")
        with Image.open(tmp_path / "a.png") as picture:
            sizes[name] = picture.size
            assert min(picture.size) > 600
    assert json.loads(
        plainfit("augment", "digits", "--augment", "light", "--json", cwd=tmp_path).stdout
    ) == {"augment": "light", "picture": "digits-augmented.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["augment", "digits"], "--augment says what to draw: light, standard, strong, or names"),
        (
            ["augment", "table.csv", "--target", "c", "--augment", "light"],
            "--augment varies images, and the sampl",
        ),
        (["augment", "digits", "--augment", "lihgt"], "unknown augmentation 'lihgt': choose from"),
        (["predict", "run", "a.png", "--augment", "light"], "--augment says what the views of --"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments, message, tmp_path):
    (tmp_path / "table.csv").write_text("a,b,c\n" + "".join(f"{i},1,{i % 2}\n" for i in range(40)))
    done = plainfit(*arguments, cwd=tmp_path)
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {message}")
    assert done.stderr.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_views_are_averaged_and_an_image_does_not_depend_on_the_others(tmp_path):
    train(
        RunConfig(model="cnn", epochs=1, augment="warp,mixup", out=tmp_path / "run", seed=4),
        echo=None,
    )
    images, _ = open_data("digits").train.tensors
    paths = [tmp_path / f"{row}.png" for row in range(3)]
    for path, image in zip(paths, images[:3], strict=True):
        Image.fromarray(image[0].numpy()).save(path)
    run = open_run(tmp_path / "run")
    (*_, alone), many = predict_images(run, paths[2:], views=6), predict_images(run, paths, views=6)
    assert many[2] == alone
    x = bytes_to_floats(images[2:3])
    varied, _ = Pipeline("warp")(x.repeat(6, 1, 1, 1), None, stream(4, "views"))
    wanted = run.model(torch.cat([x, varied])).softmax(1).mean(0)
    assert torch.allclose(torch.tensor([*alone["probabilities"].values()]), wanted, atol=1e-6)
    assert predict_images(run, paths)[2]["probabilities"] != alone["probabilities"]
    assert predict_images(run, paths, views=6, augment="light") != many
    with pytest.raises(
        ConfigError, match=r"views need an augmentation of the image, and .* none; "
    ):
        predict_images(run, paths, views=6, augment="mixup")
    line = plainfit("predict", tmp_path / "run", paths[0], "--tta", 6, "--json").stdout
    assert json.loads(line) == many[:1]
