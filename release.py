"""Release a version: `make release VERSION=0.2.0`, on a clean main whose `make test` passes.

Sets the version in the package, the citation and the changelog, builds wheel and sdist into
`dist/`, installs the wheel into a fresh environment and runs the README's three lines there,
commits and tags. Nothing is published: `git push --follow-tags` and an upload of `dist/` are yours
to do.
"""

import re
import subprocess
import sys
import tempfile
import venv
from datetime import date
from pathlib import Path

ROOT = Path(__file__).resolve().parent
PARTS = re.compile(r"\d+\.\d+\.\d+")


def main(version: str) -> None:
    if not PARTS.fullmatch(version):
        sys.exit(f"VERSION must be like 0.2.0, got {version!r}")
    if output("git", "status", "--porcelain"):
        sys.exit("the tree must be clean: commit or remove what `git status` shows")
    if f"v{version}" in output("git", "tag").split():
        sys.exit(f"VERSION must be new, and there is a tag v{version}")
    set_version(version, date.today().isoformat())
    check(build())
    run("git", "commit", "--all", "--message", f"release: version {version}")
    run("git", "tag", "--annotate", f"v{version}", "--message", f"plainfit {version}")


def set_version(version: str, today: str) -> None:
    replace("src/plainfit/common/__init__.py", r'__version__ = ".*"', f'__version__ = "{version}"')
    replace("CITATION.cff", r"(?m)^version: .*", f"version: {version}")
    replace("CITATION.cff", r"(?m)^date-released: .*", f"date-released: {today}")
    replace("CHANGELOG.md", r"## \[Unreleased\]", f"## [Unreleased]\n\n## [{version}] - {today}")


def build() -> Path:
    """Build wheel and sdist; return the wheel."""
    dist = ROOT / "dist"
    for old in dist.glob("plainfit-*"):
        old.unlink()
    run(sys.executable, "-m", "build", "--outdir", str(dist), str(ROOT))
    (wheel,) = dist.glob("*.whl")
    return wheel


def check(wheel: Path) -> None:
    """Install a wheel into a fresh environment, and run there what the README shows first."""
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    (three_lines,) = re.findall(r"^```python\n(.*?)^```", readme, re.MULTILINE | re.DOTALL)
    with tempfile.TemporaryDirectory() as folder:
        venv.create(folder, with_pip=True)
        programs = Path(folder) / "bin"
        limits = str(ROOT / "constraints.txt")
        run(str(programs / "pip"), "install", "--quiet", "--constraint", limits, str(wheel))
        run(str(programs / "python"), "-c", three_lines, cwd=folder)
        run(str(programs / "plainfit"), "--help", cwd=folder)
        run(str(programs / "plainfit"), "train", "--model", "logistic", "--out", "run", cwd=folder)
        run(str(programs / "plainfit"), "eject", "run", "-o", "train.py", "--verify", cwd=folder)


def replace(name: str, pattern: str, text: str) -> None:
    path = ROOT / name
    content, count = re.subn(pattern, text, path.read_text(encoding="utf-8"), count=1)
    if not count:
        sys.exit(f"{name} must have a line like {pattern!r}")
    path.write_text(content, encoding="utf-8")


def run(*command: str, cwd: str | Path = ROOT) -> None:
    print("$", *command[:6], flush=True)
    subprocess.run(command, cwd=cwd, check=True)


def output(*command: str) -> str:
    return subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main(*sys.argv[1:])
