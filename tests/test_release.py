"""What a release is held to.

Covers `core.version` too.
"""

from __future__ import annotations

import importlib.util
import io
import re
import tarfile
import tomllib
import zipfile
from pathlib import Path

import pytest

import rayline

ROOT = Path(__file__).parents[1]
spec = importlib.util.spec_from_file_location("release", ROOT / ".ci" / "release.py")
assert spec is not None
assert spec.loader is not None
release = importlib.util.module_from_spec(spec)
spec.loader.exec_module(release)


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A tree that is ready for release."""
    (tmp_path / "src/rayline/core").mkdir(parents=True)
    (tmp_path / "dist").mkdir()
    (tmp_path / "pyproject.toml").write_text('[project]\nversion = "1.2.0"\n')
    (tmp_path / "src/rayline/core/version.py").write_text('VERSION = "1.2.0"\n')
    (tmp_path / "CHANGELOG.md").write_text(
        "# Changes\n\n## 1.2.0 (2027-01-31)\n\n- New.\n\n## 1.1.0 (2027-01-01)\n\n- Old.\n"
    )
    with zipfile.ZipFile(tmp_path / "dist/rayline-1.2.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("rayline/py.typed", "")
        wheel.writestr("rayline-1.2.0.dist-info/METADATA", "")
    with tarfile.open(tmp_path / "dist/rayline-1.2.0.tar.gz", "w:gz") as sdist:
        sdist.addfile(tarfile.TarInfo("rayline-1.2.0/tests/conftest.py"), io.BytesIO())
    return tmp_path


def test_a_good_tree_is_ready(tree: Path) -> None:
    assert list(release.problems(tree)) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "problem"),
    [
        ("pyproject.toml", "1.2.0", "1.3.0", "core/version.py 1.2.0"),
        ("CHANGELOG.md", "2027-01-31", "unreleased", "'unreleased' instead of the date"),
        ("CHANGELOG.md", "## 1.2.0 (2027-01-31)", "## Next", "does not begin with 1.2.0"),
    ],
)
def test_what_is_not_ready_is_named(tree: Path, file: str, old: str, new: str, problem: str) -> None:
    (tree / file).write_text((tree / file).read_text().replace(old, new))
    assert any(problem in found for found in release.problems(tree))


def test_missing_files_are_named(tree: Path) -> None:
    (tree / "dist/rayline-1.2.0.tar.gz").unlink()
    with zipfile.ZipFile(tree / "dist/rayline-1.2.0-py3-none-any.whl", "w") as wheel:
        wheel.writestr("tests/conftest.py", "")
    found = " ".join(release.problems(tree))
    for problem in ("tar.gz is not in dist", "lacks py.typed", "contains ['tests/conftest.py']"):
        assert problem in found


def test_notes_are_the_section_of_the_version() -> None:
    text = "# Changes\n\n## 1.2.0 (2027-01-31)\n\n### Added\n\n- New.\n\n## 1.1.0 (x)\n\n- Old.\n"
    assert release.notes(text, "1.2.0") == "### Added\n\n- New.\n"
    assert release.notes(text, "1.1.0") == "- Old.\n"
    with pytest.raises(KeyError):
        release.notes(text, "1.0.0")


def test_this_tree_has_one_version_and_notes() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        version = tomllib.load(file)["project"]["version"]
    assert version == rayline.__version__
    assert "### Added" in release.notes((ROOT / "CHANGELOG.md").read_text(encoding="utf-8"), version)


def test_classifiers_name_the_versions_of_the_matrix() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project = tomllib.load(file)["project"]
    versions = [c.rpartition(" ")[2] for c in project["classifiers"] if re.search(r":: 3\.\d+$", c)]
    table = (ROOT / "docs" / "install" / "matrix.md").read_text(encoding="utf-8")
    assert versions
    assert all(version in table for version in versions)
    assert str(project["requires-python"]) == f">={versions[0]}"
