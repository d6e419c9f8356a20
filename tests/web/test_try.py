"""The page `try`: drawings with real mouse moves, rows, texts, and what is shown of a model."""

import base64
import importlib
import io
import json
import shutil

import numpy as np
import pytest
import torch
from browsing import TOKEN, browser, check_accessible, needs_chromium, opened, serving
from PIL import Image
from sklearn.datasets import load_digits
from starlette.testclient import TestClient

import plainfit as pf
from plainfit.data.open_data import open_data
from plainfit.models import trust
from plainfit.runs.explain import Inside
from plainfit.runs.predict import predict_images, predict_rows
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train
from plainfit.web.page import create_page

THREE = [[(0.32, 0.2), (0.5, 0.13), (0.66, 0.22), (0.66, 0.36), (0.48, 0.47), (0.68, 0.58),
          (0.7, 0.75), (0.52, 0.87), (0.3, 0.8)]]  # fmt: skip
SEVEN = [[(0.28, 0.18), (0.72, 0.18), (0.45, 0.88)], [(0.38, 0.52), (0.66, 0.52)]]
pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")  # what is noted of a table


def quiet(out, **settings):
    train(RunConfig(out=out, **{"epochs": 1, "model": "logistic", **settings}), echo=None)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A folder of runs, one of each kind."""
    home, data = tmp_path_factory.mktemp("runs"), tmp_path_factory.mktemp("data")
    quiet(home / "digits", model="resnet", epochs=6)  # as `make run` does
    quiet(home / "plain", epochs=3)
    rows = [
        f"{n % 50},{'red' if n % 3 else 'blue'},{n % 28 + 1:02}.01.2025,{n % 50 * 2}.5"
        for n in range(200)
    ]
    (data / "prices.csv").write_text("size,colour,sold,price\n" + "\n".join(rows) + "\n")
    quiet(home / "prices", data=str(data / "prices.csv"), target="price", epochs=5)
    texts = [f"{'good' if n % 2 else 'bad'} film,{'yes' if n % 2 else 'no'}" for n in range(80)]
    (data / "films.csv").write_text("said,liked\n" + "\n".join(texts) + "\n")
    quiet(home / "films", data=str(data / "films.csv"), target="liked", text="said", model="bag")
    for part in ("pairs/images", "pairs/masks", "shapes/images"):
        (data / part).mkdir(parents=True)
    labels = ["file,tags"]
    for n in range(24):
        pixels = np.zeros((16, 16, 3), np.uint8)
        pixels[n % 8 : n % 8 + 6, 4:12] = 200
        for name in ("pairs/images", "shapes/images"):
            Image.fromarray(pixels).save(data / name / f"{n}.png")
        Image.fromarray((pixels[..., 0] > 0).astype(np.uint8)).save(data / f"pairs/masks/{n}.png")
        labels.append(f"images/{n}.png,{('high', 'low', 'high|wide', 'wide')[n % 4]}")
    (data / "shapes/labels.csv").write_text("\n".join(labels) + "\n")
    quiet(home / "masks", data=str(data / "pairs"), model="unet", model_args="width=4, depth=2")
    quiet(home / "tags", data=str(data / "shapes"), model="cnn")
    (home / "damaged").mkdir()
    (home / "damaged/run.json").write_text("{")
    return home


@pytest.fixture(scope="module")
def page(folder):
    client = TestClient(create_page(folder, TOKEN), base_url="http://127.0.0.1")
    client.get(f"/?token={TOKEN}", follow_redirects=False)
    return client


def ask(page, run, what, image, **fields):
    answer = page.post(f"/api/try/{run}/{what}", files={"image": ("x.png", image)}, data=fields)
    assert answer.status_code == 200, answer.text
    return answer.json()


def png(pixels, size=None):
    content, image = io.BytesIO(), Image.fromarray(pixels)
    (image.resize(size) if size else image).save(content, "PNG")
    return content.getvalue()


def pixels_of(uri):
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))


def digit(number, size=(320, 320)):
    return png((load_digits().images[number] * 15.9).astype(np.uint8), size)


def test_runs_say_what_they_take(page):
    runs = {run["name"]: run for run in page.get("/api/try").json()}
    kinds = {name: run["kind"] for name, run in runs.items()}
    assert kinds == {
        "digits": "picture", "plain": "picture", "masks": "picture", "tags": "picture",
        "prices": "row", "films": "row", "damaged": "none",
    }  # fmt: skip
    assert "damaged one" in runs["damaged"]["reason"]
    assert runs["digits"]["drawing"]["is_light"]
    assert not runs["tags"]["drawing"]["is_light"]
    refused = page.get("/api/try/digits/form")
    assert refused.status_code == 422
    assert "a form has the columns of a table" in refused.json()["detail"]
    assert page.post("/api/try/nowhere/picture", files={"image": b"x"}).status_code == 404
    assert page.post("/api/try/..%2Fdata/picture", files={"image": b"x"}).status_code == 404


def test_a_picture_is_answered_and_shown_as_the_model_sees_it(page, folder, tmp_path):
    found = ask(page, "digits", "picture", digit(3))
    assert found["answer"]["class"] == "3"
    assert pixels_of(found["seen"]).shape == (8, 8)
    (tmp_path / "3.png").write_bytes(digit(3, (8, 8)))  # as prepared already
    (wanted,) = predict_images(pf.load_run(folder / "digits"), [tmp_path / "3.png"])
    found = ask(page, "digits", "picture", digit(3, (8, 8)))
    assert found["how"] == "crop"  # as it is: it has that size
    assert found["answer"] == {n: value for n, value in wanted.items() if n != "image"}
    large = np.zeros((40, 60, 3), np.uint8)
    large[10:30, 20:50] = (200, 50, 50)
    (tmp_path / "large.png").write_bytes(png(large))
    (wanted,) = predict_images(pf.load_run(folder / "tags"), [tmp_path / "large.png"])
    found = ask(page, "tags", "picture", png(large))
    assert found["answer"] == {n: value for n, value in wanted.items() if n != "image"}
    assert {*found["answer"]["probabilities"]} == {"high", "low", "wide"}
    refused = page.post("/api/try/digits/picture", files={"image": ("x.png", b"no image")})
    assert refused.status_code == 422
    assert refused.json()["detail"]["text"] == "no_picture"


def test_masks_are_laid_over_the_picture(page):
    found = ask(page, "masks", "picture", png(np.full((16, 16, 3), 90, np.uint8)))
    assert sum(each["share"] for each in found["answer"]["shares"]) == pytest.approx(1)
    assert pixels_of(found["answer"]["overlaid"]).shape == (16, 16, 3)
    inside = ask(page, "masks", "inside", png(np.full((16, 16, 3), 90, np.uint8)))
    assert inside.keys() == {"layers"}


def test_what_is_inside(page):
    inside = ask(page, "digits", "inside", digit(3))
    assert inside["of"] == "3"
    assert ask(page, "digits", "inside", digit(3), of="7")["of"] == "7"
    names = [layer["name"] for layer in inside["layers"]]
    assert names[:2] == ["conv1", "layer1.0.conv1"]
    assert names[-1] == "fc"
    assert len(inside["layers"][0]["maps"]) == 16
    near = ask(page, "digits", "nearest", digit(3))["samples"]
    assert len(near) == 8
    assert [each["label"] for each in near].count("3") > 4


def test_the_nearest_sample_of_a_training_sample_is_itself(folder):
    inside = Inside(pf.load_run(folder / "plain"))
    for row in (0, 5, 1000):
        assert inside.nearest(inside.data.train[row][0][None])[0] == row


def test_where_a_score_comes_from_in_a_linear_model(folder):
    """The gradient is the weights, and hiding takes away what a patch adds to the score."""
    inside = Inside(pf.load_run(folder / "plain"))
    xb = inside.data.train[0][0][None]
    weights = inside.run.model.lin.weight[4].detach().view(8, 8)
    assert torch.allclose(inside.gradient(xb, 4), weights)
    ground = xb.median()
    added = ((xb[0, 0] - ground) * weights)[:2, :2].sum()  # the corner is in this patch only
    assert inside.hiding(xb, 4)[0, 0] == pytest.approx(float(added), abs=1e-4)


def test_a_row_is_answered_as_predict_does_and_varied(page, folder, tmp_path):
    form = page.get("/api/try/prices/form").json()
    assert form["fields"] == [
        {"name": "size", "kind": "number", "low": 0, "high": 49, "whole": True, "is_known": True},
        {"name": "colour", "kind": "category", "choices": ["blue", "red"]},
        {"name": "sold", "kind": "date", "is_known": True, "low": "2025-01-01",
         "high": "2025-01-28", "with_time": False},
    ]  # fmt: skip
    assert form["rows"][1] == {"size": 1, "colour": "red", "sold": "2025-01-02"}
    (tmp_path / "new.csv").write_text("size,colour,sold\n1,red,02.01.2025\n")
    (wanted,) = predict_rows(pf.load_run(folder / "prices"), tmp_path / "new.csv")
    row = form["rows"][1]
    assert page.post("/api/try/prices/row", json={"row": row}).json() == {"answer": wanted}
    curves = page.post("/api/try/prices/curves", json={"row": row}).json()
    assert curves["of"] == "price"
    assert [point["x"] for point in curves["curves"]["colour"]] == ["blue", "red"]
    assert curves["curves"]["colour"][1]["y"] == pytest.approx(wanted["price"], rel=1e-5)
    assert len(curves["curves"]["size"]) == 25
    gap = row | {"sold": None, "size": None}
    assert page.post("/api/try/prices/row", json={"row": gap}).status_code == 200  # filled
    for wrong in (row | {"sold": "soon"}, row | {"size": "much"}, {"size": 1}, {}):
        assert page.post("/api/try/prices/row", json={"row": wrong}).status_code == 422
    refused = page.post("/api/try/prices/row", json={"row": [1]})
    assert (refused.status_code, type(refused.json()["detail"])) == (422, str)  # one line of text
    nowhere = {"row": row, "of": "value"}
    assert "unknown output" in page.post("/api/try/prices/curves", json=nowhere).json()["detail"]


def test_a_text_is_answered(page):
    assert page.get("/api/try/films/form").json()["fields"] == [{"name": "said", "kind": "text"}]
    found = page.post("/api/try/films/row", json={"row": {"said": "good film"}}).json()
    assert {*found["answer"]["probabilities"]} == {"yes", "no"}
    curves = page.post("/api/try/films/curves", json={"row": {"said": "good film"}}).json()
    assert curves["curves"] == {}


def test_a_table_that_is_gone_leaves_usual_values(folder, tmp_path):
    shutil.copytree(folder / "prices", tmp_path / "moved")
    record = json.loads((tmp_path / "moved/run.json").read_text())
    record["config"]["data"] = str(tmp_path / "gone.csv")
    (tmp_path / "moved/run.json").write_text(json.dumps(record))
    page = TestClient(create_page(tmp_path, TOKEN), base_url="http://127.0.0.1")
    page.get(f"/?token={TOKEN}", follow_redirects=False)
    form = page.get("/api/try/moved/form").json()
    assert [field["kind"] for field in form["fields"]] == ["number", "category", "date"]
    assert form["fields"][0]["is_known"] is False
    (row,) = form["rows"]
    assert page.post("/api/try/moved/curves", json={"row": row}).status_code == 200


def test_a_runs_own_code_needs_to_be_trusted(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    net = tmp_path / "net_of_the_page.py"
    net.write_text(
        "from torch import nn\n\n\nclass Net(nn.Sequential):\n"
        "    def __init__(self, in_features, classes):\n"
        "        super().__init__(nn.Flatten(), nn.Linear(in_features, classes))\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    importlib.invalidate_caches()
    quiet(tmp_path / "runs/own", model="net_of_the_page:Net")
    monkeypatch.setattr(trust, "trusted_now", set())
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "another user"))
    page = TestClient(create_page(tmp_path / "runs", TOKEN), base_url="http://127.0.0.1")
    page.get(f"/?token={TOKEN}", follow_redirects=False)
    refused = page.get("/api/try/own")
    assert refused.status_code == 409
    named = refused.json()["untrusted"]
    assert str(net) in named["source"]
    trusting = {"source": named["source"]}
    net.write_text(net.read_text() + "# changed after it was shown\n")
    assert page.post("/api/trust/own", json=trusting).status_code == 409
    assert page.get("/api/try/own").status_code == 409
    assert page.post("/api/runs/own/resume", json={"epochs": 2}).status_code == 409
    if needs_chromium.args[0] is False:
        agree_in_a_browser(tmp_path / "runs", net)
    else:
        source = page.get("/api/try/own").json()["untrusted"]["source"]
        assert page.post("/api/trust/own", json={"source": source}).status_code == 200
    assert page.get("/api/try/own").status_code == 200


def agree_in_a_browser(folder, net):
    app = create_page(folder, TOKEN)
    with serving(app) as address, browser() as chromium:
        tab = chromium.new_page(locale="zh-CN")
        dialog = tab.get_by_role("dialog")
        tab.goto(f"{address}/runs?token={TOKEN}")
        tab.locator("details.one summary").click()
        tab.get_by_role("button", name="训练更久", exact=True).click()
        dialog.get_by_text(str(net)).wait_for()
        check_accessible(tab)
        dialog.get_by_role("button", name="不运行").press("Enter")
        tab.locator("#problem[lang=en]").get_by_text("must be trusted").wait_for()
        assert not app.state.home.trainings.all
        tab.goto(f"{address}/try?lang=en")
        dialog.get_by_text(str(net)).wait_for()
        check_accessible(tab)
        dialog.get_by_role("button", name="Do not run it").press("Enter")
        tab.get_by_role("alert").get_by_text("must be trusted").wait_for()
        tab.reload()
        with tab.expect_response("**/api/trust/own") as trusted:
            dialog.get_by_role("button", name="Run it, now").press("Enter")
        assert trusted.value.ok
        tab.locator("#canvas").wait_for()


def on_canvas(tab, line):
    """Return points of the canvas, given as shares of its sides, as points of the window."""
    tab.locator("#canvas").wait_for()
    box = tab.locator("#canvas").bounding_box()
    return [(box["x"] + x * box["width"], box["y"] + y * box["height"]) for x, y in line]


def draw(tab, lines):
    for line in lines:
        first, *others = on_canvas(tab, line)
        tab.mouse.move(*first)
        tab.mouse.down()
        for point in others:
            tab.mouse.move(*point, steps=5)
        tab.mouse.up()


def recognised(tab, digit, answers=1):
    from playwright.sync_api import expect

    for at in range(answers):
        expect(tab.locator(".verdict").nth(at)).to_contain_text(f"{digit} ", timeout=60_000)
    expect(tab.locator(".near img")).to_have_count(8 * answers, timeout=60_000)


@needs_chromium
def test_drawings_by_mouse_keyboard_and_file_are_recognised(folder, tmp_path):
    (tmp_path / "three.png").write_bytes(digit(3))
    with opened(folder, "/try", viewport={"width": 1300, "height": 900}) as tab:
        tab.goto("/try?run=digits")
        draw(tab, THREE)
        recognised(tab, 3)
        tab.get_by_role("button", name="Clear").click()
        tab.get_by_text("Draw something").wait_for()
        draw(tab, SEVEN)
        recognised(tab, 7)
        tab.get_by_label("Beside it").select_option("plain")
        recognised(tab, 7, answers=2)
        check_accessible(tab)
        tab.get_by_role("button", name="Undo").click(click_count=2)
        tab.get_by_text("Draw something").first.wait_for()

        tab.set_viewport_size({"width": 360, "height": 800})
        tab.emulate_media(color_scheme="dark")
        tab.goto("/try?run=digits")
        tab.locator("#canvas").wait_for()
        tab.locator("#canvas").focus()
        for key in [*["ArrowUp"] * 9, " ", *["ArrowDown"] * 18, " "]:
            tab.keyboard.press(key)
        recognised(tab, 1)
        check_accessible(tab)
        tab.keyboard.press("Control+z")
        tab.get_by_text("Draw something").wait_for()
        tab.set_input_files("#files", tmp_path / "three.png")
        recognised(tab, 3)
        assert tab.evaluate("document.documentElement.scrollWidth") <= 360


def draw_by_finger(tab, lines):
    send = tab.context.new_cdp_session(tab).send

    def touch(kind, *points):
        send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})

    for line in lines:
        first, *others = ({"x": x, "y": y, "id": 0} for x, y in on_canvas(tab, line))
        touch("touchStart", first)
        for point in others:
            touch("touchMove", point)
        touch("touchEnd")


def draw_by_pen(tab, lines, pressure):
    send = tab.context.new_cdp_session(tab).send
    pen = {"pointerType": "pen", "button": "left", "buttons": 1, "clickCount": 1, "force": pressure}
    for line in lines:
        points = on_canvas(tab, line)
        for kind, some in (("Pressed", points[:1]), ("Moved", points), ("Released", points[-1:])):
            for x, y in some:
                send("Input.dispatchMouseEvent", {"type": f"mouse{kind}", "x": x, "y": y, **pen})


def inked(tab):
    """Return how many pixels of the canvas are drawn on, in white on black."""
    pixels = "getContext('2d').getImageData(0, 0, canvas.width, canvas.height).data"
    return tab.evaluate(f"canvas.{pixels}.filter((value) => value > 128).length") - 336**2


@needs_chromium
def test_drawings_by_finger_and_pen(folder):
    with opened(folder, "/try?run=digits", has_touch=True) as tab:
        draw_by_finger(tab, SEVEN)
        recognised(tab, 7)
        shares = []
        for pressure in (0.2, 0.9):
            tab.get_by_role("button", name="Clear").click()
            draw_by_pen(tab, THREE, pressure)
            shares.append(inked(tab))
        assert shares[1] > 1.5 * shares[0] > 0
        recognised(tab, 3)

        tab.get_by_role("button", name="Clear").click()
        draw_by_finger(tab, [[(0.2, 0.1), (0.2, 0.9)]])
        alone = inked(tab)
        tab.get_by_role("button", name="Clear").click()
        send = tab.context.new_cdp_session(tab).send
        top, middle, bottom, palm = on_canvas(tab, [(0.2, 0.1), (0.2, 0.5), (0.2, 0.9), (0.8, 0.5)])
        for kind, *places in (  # a hand that lies on the canvas does not draw
            ("touchStart", top), ("touchStart", middle, palm), ("touchMove", bottom, palm),
            ("touchEnd", bottom), ("touchEnd",),
        ):  # fmt: skip
            points = [{"x": x, "y": y, "id": number} for number, (x, y) in enumerate(places)]
            send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points})
        assert inked(tab) == pytest.approx(alone, rel=0.02)


@needs_chromium
def test_pictures_are_pasted_and_dropped(folder, tmp_path):
    (tmp_path / "seven.png").write_bytes(digit(7))
    three = base64.b64encode(digit(3)).decode()
    with opened(folder, "/try?run=digits") as tab:
        tab.context.grant_permissions(["clipboard-read", "clipboard-write"])
        tab.locator("#canvas").wait_for()
        tab.evaluate(
            """data => {
                const bytes = Uint8Array.from(atob(data), (letter) => letter.charCodeAt(0));
                const content = new Blob([bytes], { type: "image/png" });
                return navigator.clipboard.write([new ClipboardItem({ "image/png": content })]);
            }""",
            three,
        )
        tab.keyboard.press("Control+V")
        recognised(tab, 3)
        send = tab.context.new_cdp_session(tab).send
        dropped = {"items": [], "files": [str(tmp_path / "seven.png")], "dragOperationsMask": 1}
        for target in ("#canvas", "h1"):  # beside the canvas too: no other page is opened
            box = tab.locator(target).bounding_box()
            place = {"x": box["x"] + 5, "y": box["y"] + 5, "data": dropped}
            for kind in ("dragEnter", "dragOver", "drop"):
                send("Input.dispatchDragEvent", {"type": kind, **place})
            recognised(tab, 7)
            tab.get_by_role("button", name="Clear").click()
            tab.get_by_text("Draw something").wait_for()


@needs_chromium
def test_a_photo_is_taken_where_the_camera_is_allowed(folder, tmp_path):
    Image.open(io.BytesIO(digit(3))).save(tmp_path / "three.mjpeg", "JPEG")
    flags = (
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-video-capture={tmp_path / 'three.mjpeg'}",
    )
    with opened(folder, "/try?run=digits", flags) as tab:
        camera = tab.locator("#camera")
        camera.click()
        tab.get_by_role("alert").get_by_text("The camera must be there, and allowed").wait_for()
        assert tab.locator("#video").is_hidden()
        tab.context.grant_permissions(["camera"])
        camera.click()
        tab.get_by_role("button", name="Take the picture").click()
        recognised(tab, 3)
        assert tab.get_by_role("alert").count() == 0
        (state,) = tab.evaluate("video.srcObject.getTracks().map((track) => track.readyState)")
        assert state == "ended"  # its light is off


@needs_chromium
def test_a_form_moves_the_prediction(folder):
    from playwright.sync_api import expect

    with opened(folder, "/try") as tab:
        tab.goto("/try?run=prices")
        verdict = tab.locator(".verdict")
        tab.get_by_text("price goes from").first.wait_for()
        check_accessible(tab)
        before = verdict.inner_text()
        tab.get_by_label("size").fill("45")
        expect(verdict).not_to_have_text(before, timeout=60_000, use_inner_text=True)
        tab.get_by_label("Run").select_option("films")
        tab.get_by_label("said").fill("good")
        tab.locator(".bars").wait_for()
        tab.get_by_label("Run").select_option("damaged")
        tab.get_by_text("This run cannot be tried").wait_for()
        check_accessible(tab)


@needs_chromium
@pytest.mark.soak
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 800, 1600])
def test_every_kind_of_run_is_accessible(folder, width, scheme, tmp_path):
    (tmp_path / "picture.png").write_bytes(digit(5))
    size = {"width": width, "height": 900}
    with opened(folder, "/try", viewport=size, color_scheme=scheme) as tab:
        for name in ("digits", "masks", "tags", "prices", "films"):
            tab.goto(f"/try?run={name}")
            if name in ("digits", "masks", "tags"):
                tab.locator("#canvas").wait_for()
                tab.set_input_files("#files", tmp_path / "picture.png")
                tab.locator(".layers").wait_for()
            elif name == "prices":
                tab.get_by_text("price goes from").first.wait_for()
            else:
                tab.locator(".bars").wait_for()
            check_accessible(tab)
            assert tab.evaluate("document.documentElement.scrollWidth") <= width


@pytest.fixture(scope="module")
def mnist_run(mnist_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "mnist"
    quiet(out, data="mnist", data_dir=mnist_folder, model="mlp", epochs=2, lr=0.1)
    return out


@needs_chromium
@pytest.mark.soak
def test_drawings_on_a_model_of_mnist(mnist_run):
    with opened(mnist_run.parent, "/try") as tab:
        draw(tab, THREE)
        recognised(tab, 3)
        tab.get_by_role("button", name="Clear").click()
        draw(tab, SEVEN)
        recognised(tab, 7)


@pytest.mark.soak
def test_images_of_mnist_as_drawings(mnist_run, mnist_folder, folder):
    """Enlarged to the size of the canvas, they are answered about as well as they are."""
    from plainfit.web.trying import picture_input

    images, labels = open_data("mnist", data_dir=mnist_folder).test.tensors
    drawn = [png(image[0].numpy(), (336, 336)) for image in images[:1000]]
    for run, least in ((mnist_run, 0.93), (folder / "digits", 0.75)):
        opened = pf.load_run(run)
        xb = torch.cat([picture_input(opened, content)[0] for content in drawn])
        right = pf.predict(opened, xb, output="classes") == labels[:1000]
        print(f"\n{run.name}: {right.float().mean():.3f} of 1,000 images of MNIST as drawings")
        assert right.float().mean() > least
