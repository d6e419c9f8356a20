"""The code and the commands of the guides, run in their order as they are written."""

import re
import shlex
from pathlib import Path

import pytest
import torch

DOCS = Path(__file__).parents[1] / "docs"
PAGES = ["callbacks", "checkpoints", "schedules", pytest.param("start", marks=pytest.mark.soak)]


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.filterwarnings("default::RuntimeWarning")  # how the table is read
def test_the_page_runs_as_it_is_written(page, tmp_path, monkeypatch, plainfit):
    pytest.importorskip("torchmetrics", reason="torchmetrics is not installed")
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    text = (DOCS / f"{page}.md").read_text(encoding="utf-8")
    namespace = {"__name__": page}
    found = re.findall(r"^```(python|sh)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert found
    for language, block in found:
        if language == "python":
            exec(compile(block, page, "exec"), namespace)
            continue
        for command in block.splitlines():
            name, *arguments = shlex.split(command)
            code, _, err = plainfit(*arguments)
            assert (name, code) == ("plainfit", 0), f"{command}\n{err}"
    torch.set_num_threads(threads)
