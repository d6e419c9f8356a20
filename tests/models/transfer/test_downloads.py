"""Weights from a URL and from the Hub, which a web server on this machine stands for."""

import hashlib

import pytest
import torch
from safetensors.torch import save
from typer.testing import CliRunner

from ejecting import differing
from plainfit.cli import app
from plainfit.common.errors import ConfigError, DataError, DownloadError
from plainfit.models.networks import resnet18
from plainfit.models.weights import PUBLISHED, read_weights
from plainfit.runs.fine_tuning import model_name, new_model

CONTENT = save({"fc.bias": torch.arange(3.0)})
DIGITS = hashlib.sha256(CONTENT).hexdigest()
NAME = f"net-{DIGITS[:8]}.safetensors"


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    return tmp_path / "hub" / "checkpoints"


def test_a_download_is_kept_and_read_again_without_the_network(server, cache):
    server.pages = {f"/{NAME}": CONTENT}
    for _ in range(2):
        assert torch.equal(read_weights(server.url + NAME)["fc.bias"], torch.arange(3.0))
    assert server.asked == [f"/{NAME}"]
    assert [path.name for path in cache.iterdir()] == [NAME]


def test_a_published_name_is_downloaded_and_loaded(server, cache, tmp_path, monkeypatch):
    weights = resnet18().state_dict()
    torch.save(weights, tmp_path / "file")
    content = (tmp_path / "file").read_bytes()
    name = f"resnet18-{hashlib.sha256(content).hexdigest()[:8]}.pth"
    monkeypatch.setitem(PUBLISHED, "resnet18", server.url + name)
    server.pages = {f"/{name}": content}
    model = new_model("resnet18", None, input_shape=(3, 32, 32), classes=4)
    assert differing(weights, model.state_dict()) == ["fc.bias", "fc.weight"]
    assert (cache / name).read_bytes() == content


@pytest.mark.parametrize(
    ("pages", "cut_at", "reason"),
    [({f"/{NAME}": b"wrong"}, None, "wrong SHA-256"), ({}, None, "HTTP 404"),
     ({f"/{NAME}": CONTENT}, 20, "Error")],
    ids=["wrong", "missing", "cut"],
)  # fmt: skip
def test_what_is_not_the_file_is_one_line_and_nothing_is_left(server, cache, pages, cut_at, reason):
    server.pages, server.cut_at = pages, cut_at
    result = CliRunner().invoke(app, ["fine-tune", server.url + NAME, "--model", "resnet18"])
    assert isinstance(result.exception, DownloadError)
    message = str(result.exception)
    assert f"{NAME} could not be downloaded; tried {server.url}{NAME} (" in message
    assert reason in message
    assert "give its path" in message
    assert "\n" not in message
    assert list(cache.iterdir()) == []


def test_no_network_is_one_line(cache):
    with pytest.raises(DownloadError, match=r"\(ConnectionError\); offline, download it elsewhere"):
        read_weights(f"http://127.0.0.1:9/{NAME}")


def test_a_cache_that_cannot_be_written_is_named(server, tmp_path):
    (tmp_path / "hub").write_text("in the way")
    with pytest.raises(DataError, match=r"must be writable .* the variable TORCH_HOME"):
        read_weights(server.url + NAME)


def test_weights_of_the_hub_are_checked_by_the_hash_that_it_has(server, cache, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", server.url)
    pointer = f"version https://git-lfs.github.com/spec/v1\noid sha256:{DIGITS}\nsize 1\n"
    raw, whole = (f"/me/net/{kind}/main/model.safetensors" for kind in ("raw", "resolve"))
    server.pages = {raw: pointer.encode(), whole: b"wrong"}
    with pytest.raises(DownloadError, match="wrong SHA-256"):
        read_weights("hf:me/net")
    assert list(cache.iterdir()) == []
    server.pages[whole] = CONTENT
    assert list(read_weights("hf:me/net")) == ["fc.bias"]
    with pytest.raises(DownloadError, match=r"me/other/raw/.* \(HTTP Error 404.*give their path"):
        read_weights("hf:me/other")
    with pytest.raises(ConfigError, match=r"^model must name the architecture of hf:me"):
        model_name("hf:me/net", None)
    with pytest.raises(ConfigError, match="a source must be a run folder"):
        model_name("hf:me", "resnet18")
