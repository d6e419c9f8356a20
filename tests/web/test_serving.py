"""A run's model over HTTP: real requests to a real server on this machine."""

import asyncio
import json
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
import uvicorn
from browsing import serving
from fastapi import HTTPException
from PIL import Image
from sklearn.datasets import load_digits
from starlette.testclient import TestClient

import plainfit as pf
from plainfit.cli.web import bound
from plainfit.common.errors import RunError
from plainfit.data.targets import SEGMENTATION, Target
from plainfit.runs.predict import predict_images, predict_rows
from plainfit.runs.settings import RunConfig
from plainfit.runs.train import train
from plainfit.web.serving import LIMITS, SERVED, Batches, create_app, worker


def served(run, limits=LIMITS):
    return serving(create_app(run, "mine", limits))


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
        answers = described["responses"]
        assert answers.keys() == {"200", "400", "403", "413", "422", "500", "503", "504"}
        forms = [
            answers[status]["content"]["application/json"] for status in answers.keys() - {"200"}
        ]
        assert all(form["schema"]["required"] == ["detail"] for form in forms)
        assert {*described["requestBody"]["content"]} == {"multipart/form-data", "image/*"}
        for path, one in zip(paths, found, strict=True):  # others in the batch: other last bits
            status, [alone] = ask(f"{url}/predict", path.read_bytes(), "image/png")
            assert (status, alone["class"]) == (200, one["class"])
            assert alone["probabilities"] == pytest.approx(one["probabilities"], rel=1e-5)


def test_what_is_not_finite_is_null(digits, monkeypatch):
    run, paths = digits
    monkeypatch.setattr(run.model, "forward", lambda xb: torch.full((len(xb), 10), float("nan")))
    with served(run) as url:
        status, [found] = ask(f"{url}/predict", *form(paths[0].read_bytes()))
    assert status == 200
    assert {*found["probabilities"].values()} == {None}


@pytest.mark.filterwarnings("ignore")  # an unknown category
def test_rows_are_answered_as_predict_does(table):
    run, folder = table
    rows = [{"colour": "blue", "size": 3}, {"colour": "green", "size": None}]
    (folder / "new.jsonl").write_text("\n".join(map(json.dumps, rows)))
    wanted = predict_rows(run, folder / "new.jsonl")
    with served(run) as url:
        assert ask(f"{url}/predict", json.dumps(rows).encode()) == (200, wanted)
        for lacking in (
            b'[{"colour": "red"}]',
            b'[{"size": 1, "colour": "red"}, {"colour": "red"}]',
        ):
            status, refused = ask(f"{url}/predict", lacking)
            assert status == 422
            assert "'size'" in refused["detail"]
        described = ask(f"{url}/openapi.json")[1]["paths"]["/predict"]["post"]["requestBody"]
        schema = described["content"]["application/json"]["schema"]
        assert (schema["minItems"], schema["maxItems"]) == (1, LIMITS.samples)
        assert schema["items"]["required"] == ["size", "colour"]
        assert ask(f"{url}/predict", b"[]")[0] == 422
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
        assert status == 422
        assert "must have 1 to 2 images" in refused["detail"]
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


def test_bytes_that_are_held_at_once_are_bounded(digits, monkeypatch):
    run, paths = digits
    body, kind = form(paths[0].read_bytes())
    may_go, forward = threading.Event(), run.model.forward
    monkeypatch.setattr(run.model, "forward", lambda xb: may_go.wait(60) and forward(xb))
    with (
        served(run, LIMITS._replace(memory=int(2.5 * len(body)))) as url,
        ThreadPoolExecutor(8) as pool,
    ):
        answers = [pool.submit(ask, f"{url}/predict", body, kind) for _ in range(8)]
        while sum(answer.done() for answer in answers) < 6:  # two are held
            time.sleep(0.01)
        may_go.set()
        found = [answer.result() for answer in answers]
        assert sorted(status for status, _ in found) == [200] * 2 + [503] * 6
        assert {str(said) for status, said in found if status == 503} == {
            "{'detail': 'too many requests are read'}"
        }
        assert ask(f"{url}/predict", body, kind)[0] == 200  # what was held is free again


def test_samples_that_wait_are_bounded():
    started, may_go = threading.Event(), threading.Event()

    def predict(xb):
        started.set()
        may_go.wait(60)
        return xb

    async def main():
        batches = Batches(predict, LIMITS._replace(memory=1000, samples=1))
        worker = asyncio.create_task(batches.run())
        first = asyncio.create_task(batches.answer(torch.zeros(500)))  # more than all may have
        await asyncio.to_thread(started.wait, 60)
        second = asyncio.create_task(batches.answer(torch.zeros(200)))
        await asyncio.sleep(0)
        with pytest.raises(HTTPException, match="503"):
            await batches.answer(torch.zeros(100))
        may_go.set()
        assert (len(await first), len(await second), batches.held) == (500, 200, 0)
        worker.cancel()
        batches.pool.shutdown()

    asyncio.run(main())


@pytest.mark.parametrize("body", [b"[NaN]", b'["\\ud800"]', b"[\xff]", b"[[[", b"[" * 100_000])
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_row_is_not_sent_back(table, body):
    run, _ = table
    with served(run) as url:
        status, refused = ask(f"{url}/predict", body)
        assert status in (400, 422)
        assert isinstance(refused["detail"], str)


@pytest.mark.parametrize("value", [10**30, {"a": 1}, [1], "\ud800"], ids=str)
@pytest.mark.filterwarnings("ignore")
def test_what_is_no_value_is_refused(table, value):
    run, _ = table
    with served(run) as url:
        for name in ("size", "colour", "another"):
            row = {"size": 3, "colour": "blue"} | {name: value}
            assert ask(f"{url}/predict", json.dumps([row]).encode())[0] == 422


def test_a_worker_serves_the_run_that_it_is_told(digits, monkeypatch):
    run, paths = digits
    threads = torch.get_num_threads()
    monkeypatch.setenv(SERVED, json.dumps([str(run.folder), "mine", 64, False, False]))
    with warnings.catch_warnings():
        app = worker()
    assert torch.get_num_threads() == 1  # the cores are shared
    torch.set_num_threads(threads)
    with TestClient(app, "http://127.0.0.1") as client:
        assert client.get("/health").json()["run"] == "mine"
        file = {"images": paths[0].read_bytes()}
        assert client.post("/predict", files=file).json()[0].keys() == {"class", "probabilities"}


@pytest.mark.soak
def test_several_workers_share_an_address(digits):
    run, paths = digits
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "plainfit", "serve", run.folder, "--workers", "2"]
    with subprocess.Popen([*map(str, command), "--port", str(port)]) as process:
        url = f"http://127.0.0.1:{port}"
        while not answers(url):
            assert process.poll() is None
            time.sleep(0.1)
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
        assert len(children) >= 2
        body, kind = form(paths[0].read_bytes())
        with ThreadPoolExecutor(16) as pool:
            found = [*pool.map(lambda _: ask(f"{url}/predict", body, kind)[0], range(200))]
        assert {*found} == {200}
        process.send_signal(signal.SIGINT)
        process.wait(60)
    while any(map(runs, children)):
        time.sleep(0.1)


def runs(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def answers(url):
    try:
        return ask(f"{url}/health")[0] == 200
    except OSError:
        return False


def test_an_answer_does_not_wait_for_the_client_to_acknowledge_its_head():
    with bound(uvicorn.Config("", port=0, log_level="warning")) as listening:
        listening.listen()
        with socket.create_connection(listening.getsockname()), listening.accept()[0] as taken:
            assert taken.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)


def test_several_workers_need_a_port_and_unix(digits, plainfit, monkeypatch):
    code, _, error = plainfit("serve", digits[0].folder, "--workers", 2, "--port", 0)
    assert code == 2
    assert "--port must be given for several workers" in error
    monkeypatch.delattr(socket, "AF_UNIX")
    code, _, error = plainfit("serve", digits[0].folder, "--workers", 2)
    assert code == 2
    assert "--workers must be 1 on Windows, got 2" in error


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
