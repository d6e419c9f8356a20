"""A run's model over HTTP: real requests to a real server on this machine."""

import json
import socket
import threading
import time
import urllib.error
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import numpy as np
import pytest
import torch
import uvicorn
from PIL import Image
from sklearn.datasets import load_digits

import plainfit as pf
from plainfit.common.errors import RunError
from plainfit.data.targets import SEGMENTATION, Target
from plainfit.runs.predict import predict_images, predict_rows
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train
from plainfit.web.serving import LIMITS, create_app


@contextmanager
def served(run, limits=LIMITS):
    app = create_app(run, "mine", limits)
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning"))
    listening = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, args=([listening],))
    thread.start()
    while not server.started:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(30)
        listening.close()


def ask(url, body=None, kind="application/json", **headers):
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    request = urllib.request.Request(url, body, {"content-type": kind, **names})
    try:
        with urllib.request.urlopen(request, timeout=60) as answer:
            return answer.status, json.load(answer)
    except urllib.error.HTTPError as error:
        return error.code, json.load(error)


def form(*files, field="images"):
    """Return the body and the kind of a form with files, as a browser sends it."""
    mark = "a-mark-between"
    head = f'--{mark}\r\ncontent-disposition: form-data; name="{field}"; filename="x.png"\r\n\r\n'
    body = b"".join(head.encode() + content + b"\r\n" for content in files)
    return body + f"--{mark}--\r\n".encode(), f"multipart/form-data; boundary={mark}"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    folder = tmp_path_factory.mktemp("digits")
    run = train_run(folder / "run", model="logistic")
    paths = [folder / f"{number}.png" for number in range(5)]
    for path, image in zip(paths, load_digits().images, strict=False):
        Image.fromarray((image * 15.9).astype(np.uint8)).save(path)
    return run, paths


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("table")
    rows = [f"{n % 7},{'red' if n % 3 else 'blue'},{'yes' if n % 2 else 'no'}" for n in range(60)]
    (folder / "t.csv").write_text("size,colour,sold\n" + "\n".join(rows) + "\n")
    return train_run(folder / "run", data=str(folder / "t.csv"), target="sold"), folder


def train_run(out, **settings):
    train(RunConfig(epochs=1, out=out, **settings), echo=None)
    return pf.load_run(out)


def test_images_are_answered_as_predict_does(digits):
    run, paths = digits
    wanted = predict_images(run, paths)
    with served(run) as url:
        status, found = ask(f"{url}/predict", *form(*(path.read_bytes() for path in paths)))
        assert status == 200
        assert found == [{k: v for k, v in one.items() if k != "image"} for one in wanted]
        assert ask(f"{url}/health")[1] | {"names": 0} == {
            "status": "ok", "run": "mine", "task": "classification", "names": 0,
        }  # fmt: skip
        described = ask(f"{url}/openapi.json")[1]["paths"]["/predict"]["post"]
        assert "multipart/form-data" in described["requestBody"]["content"]


@pytest.mark.filterwarnings("ignore")  # an unknown category
def test_rows_are_answered_as_predict_does(table):
    run, folder = table
    rows = [{"colour": "blue", "size": 3}, {"colour": "green", "size": None}]
    (folder / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wanted = predict_rows(run, folder / "new.jsonl")
    with served(run) as url:
        assert ask(f"{url}/predict", json.dumps(rows).encode()) == (200, wanted)
        status, refused = ask(f"{url}/predict", b'[{"colour": "red"}]')
        assert status == 422
        assert "'size'" in refused["detail"]
        status, refused = ask(f"{url}/predict", b'[{"colour": "red", "size": {"a": 1}}]')
        assert status == 422
        assert ask(f"{url}/predict", b"[1]")[0] == 422
        assert ask(f"{url}/predict", b"{")[0] == 422


def test_requests_that_wait_are_one_batch(digits, monkeypatch):
    run, paths = digits
    sizes, may_go = [], threading.Event()
    forward = run.model.forward

    def slow(xb):
        sizes.append(len(xb))
        may_go.wait(60)
        return forward(xb)

    monkeypatch.setattr(run.model, "forward", slow)
    body, kind = form(paths[0].read_bytes())
    with served(run, LIMITS._replace(samples=16)) as url, ThreadPoolExecutor(24) as pool:
        answers = [pool.submit(ask, f"{url}/predict", body, kind) for _ in range(24)]
        while not sizes:
            time.sleep(0.01)
        time.sleep(1)  # the others arrive meanwhile; if later, there are more batches
        may_go.set()
        found = [answer.result() for answer in answers]
    assert {status for status, _ in found} == {200}
    assert sum(sizes) == 24
    assert 1 < max(sizes) <= 16
    assert np.ptp([one["probabilities"]["0"] for _, [one] in found]) < 1e-6


def test_limits(digits, monkeypatch):
    run, paths = digits
    good, kind = form(paths[0].read_bytes())
    with served(run, LIMITS._replace(body=4000, samples=2, seconds=0.2, waiting=1)) as url:
        at = f"{url}/predict"
        assert ask(at, good, kind)[0] == 200
        status, refused = ask(at, *form(bytes(5000)))
        assert (status, refused["detail"]) == (413, "a request has at most 4,000 bytes")
        status, refused = ask(at, *form(*[paths[0].read_bytes()] * 3))
        assert (status, refused["detail"]) == (422, "must be 1 to 2 samples, got 3")
        status, refused = ask(at, *form(b"no image"))
        assert status == 422
        assert "'x.png' is not a readable image" in refused["detail"]
        assert ask(at, *form(b"x", field="others"))[0] == 422
        assert ask(at, good, kind, host="example.com")[0] == 403
        assert ask(at, good, kind, origin="http://example.com")[0] == 403
        assert ask(at, good, kind, origin=url)[0] == 200
        may_go = threading.Event()
        monkeypatch.setattr(run.model, "forward", lambda xb: may_go.wait(60) and torch.zeros(1, 10))
        assert ask(at, good, kind)[0] == 504
        with ThreadPoolExecutor(8) as pool:
            found = [*pool.map(lambda _: ask(at, good, kind)[0], range(8))]
        assert {*found} == {503, 504}
        may_go.set()


def test_a_model_that_fails_is_said(digits, monkeypatch):
    run, paths = digits
    with served(run) as url:
        with monkeypatch.context() as patch:
            patch.setattr(run.model, "forward", lambda xb: xb.missing)
            status, refused = ask(f"{url}/predict", *form(paths[0].read_bytes()))
        assert status == 500
        assert "missing" in refused["detail"]
        assert ask(f"{url}/predict", *form(paths[0].read_bytes()))[0] == 200


def test_masks_are_no_answer(digits, monkeypatch):
    run, _ = digits
    monkeypatch.setattr(run, "target", Target(("a", "b"), SEGMENTATION))
    with pytest.raises(RunError, match="a segmentation answers with pictures"):
        create_app(run, "masks")
