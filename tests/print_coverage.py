"""Print what the tests have covered of each room of the library, from what SlipCover has left."""

import json
from collections import Counter
from pathlib import Path


def main() -> None:
    files = json.loads(Path(".coverage.json").read_text(encoding="utf-8"))["files"]
    rooms: dict[str, Counter[str]] = {}
    for path, file in files.items():
        room = path.removeprefix("src/plainfit/").split("/")[0].removesuffix(".py")
        counts = {key: value for key, value in file["summary"].items() if isinstance(value, int)}
        for name in (room, "all"):
            rooms.setdefault(name, Counter()).update(counts)
    print("covered        lines  branches")
    for name, counts in sorted(rooms.items(), key=lambda room: room[0] == "all"):
        print(f"{name:12} {share(counts, 'lines')}    {share(counts, 'branches')}")


def share(counts: Counter[str], kind: str) -> str:
    covered, missing = counts[f"covered_{kind}"], counts[f"missing_{kind}"]
    return f"{covered / max(1, covered + missing):7.1%}"


if __name__ == "__main__":
    main()
