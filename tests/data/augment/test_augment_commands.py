"""The picture of an augmentation, and predictions over several views."""

import json

import pytest
import torch
from PIL import Image

from plainfit.common.errors import ConfigError
from plainfit.common.seeding import stream
from plainfit.data.augment import Pipeline
from plainfit.data.datasets import bytes_to_floats
from plainfit.data.open_data import open_data
from plainfit.runs.folder import open_run
from plainfit.runs.predict import predict_images
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train


def test_a_picture_of_samples_before_and_after(tmp_path, plainfit):
    code, output, errors = plainfit(
        "augment", "digits", "--augment", "strong,mixup=1", "--picture", "a.png"
    )
    assert code == 0, errors
    assert output.startswith("picture: a.png (the first row is not augmented)\n")
    with Image.open(tmp_path / "a.png") as picture:
        assert min(picture.size) > 600
    _, output, _ = plainfit("augment", "digits", "--augment", "light", "--json")
    assert json.loads(output) == {"augment": "light", "picture": "digits-augmented.png"}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["augment", "digits"], "--augment must be light, standard, strong or names"),
        (
            ["augment", "table.csv", "--target", "c", "--augment", "light"],
            "augment requires images, and the sampl",
        ),
        (["augment", "digits", "--augment", "lihgt"], "unknown augmentation 'lihgt': choose from"),
        (["predict", "run", "a.png", "--augment", "light"], "--augment is for the views of --tta"),
    ],
)
def test_what_cannot_be_drawn_is_said(arguments, message, tmp_path, plainfit):
    (tmp_path / "table.csv").write_text("a,b,c\n" + "".join(f"{i},1,{i % 2}\n" for i in range(40)))
    code, _, errors = plainfit(*arguments)
    assert code == 2
    assert errors.startswith(f"error: {message}")
    assert errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["table.csv"]


def test_views_are_averaged_and_an_image_does_not_depend_on_the_others(tmp_path, plainfit):
    train(
        RunConfig(model="mlp", epochs=1, augment="warp,mixup", out=tmp_path / "run", seed=4),
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
        ConfigError, match="augment must name an augmentation that changes single images"
    ):
        predict_images(run, paths, views=6, augment="mixup")
    _, line, _ = plainfit("predict", tmp_path / "run", paths[0], "--tta", 6, "--json")
    assert json.loads(line) == many[:1]
