"""Checks that a version is ready and writes its notes: `python .ci/release.py`, after `make package docs`, writes dist/notes.md."""

from __future__ import annotations

import re
import sys
import tarfile
import tomllib
import zipfile
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]


def notes(changelog: str, version: str) -> str:
    """Return the section of a version in the changelog, without its heading. Raises KeyError without one."""
    sections = re.split(r"^## ", changelog, flags=re.MULTILINE)[1:]
    for section in sections:
        heading, _, text = section.partition("\n")
        if heading.split()[0] == version:
            return text.strip() + "\n"
    raise KeyError(version)


def problems(root: Path) -> Iterator[str]:
    """Yield what speaks against a release of the tree: versions that differ, a changelog without date, files that are not there."""
    with (root / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    own = re.search(r'VERSION = "(.+?)"', (root / "src/rayline/core/version.py").read_text(encoding="utf-8"))
    if own is None or own[1] != version:
        yield f"pyproject.toml says {version}, core/version.py {own and own[1]}"
    if not re.fullmatch(r"\d+\.\d+\.\d+", version):
        yield f"{version} is not major.minor.patch"
    changelog = (root / "CHANGELOG.md").read_text(encoding="utf-8")
    heading = re.search(r"^## (\S+) \((.+?)\)$", changelog, re.MULTILINE)
    if heading is None or heading[1] != version:
        yield f"CHANGELOG.md does not begin with {version}"
    elif not re.fullmatch(r"\d{4}-\d{2}-\d{2}", heading[2]):
        yield f"CHANGELOG.md says {heading[2]!r} instead of the date of {version}"
    wheel, sdist = root / f"dist/rayline-{version}-py3-none-any.whl", root / f"dist/rayline-{version}.tar.gz"
    for file in (wheel, sdist):
        if not file.exists():
            yield f"{file.name} is not in dist: make package"
    if wheel.exists():
        names = zipfile.ZipFile(wheel).namelist()
        if not any(name.endswith("py.typed") for name in names):
            yield "the wheel lacks py.typed, so type checkers ignore its types"
        if strange := [n for n in names if not n.startswith(("rayline/", f"rayline-{version}.dist-info/"))]:
            yield f"the wheel contains {strange[:3]}"
    if sdist.exists():
        with tarfile.open(sdist) as archive:
            if not any(name.endswith("/tests/conftest.py") for name in archive.getnames()):
                yield "the sdist lacks the tests"


def main() -> int:
    found = list(problems(ROOT))
    for problem in found:
        print(f"not ready: {problem}")
    if found:
        return 1
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    text = notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)
    (ROOT / "dist/notes.md").write_text(text, encoding="utf-8")
    print(f"{version} is ready: dist/notes.md; tag it v{version}, and upload dist/*.whl and dist/*.tar.gz")
    return 0


if __name__ == "__main__":
    sys.exit(main())
