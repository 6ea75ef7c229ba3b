"""The documentation site builds without a warning, loads nothing from a network, and is found by its search.

The tutorials are executed by `make docs`; here the pages are built without their outputs.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    for name in ("sphinx", "myst_nb", "pydata_sphinx_theme", "sphinx_design", "sphinx_copybutton"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install -e '.[docs]')")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-m", "sphinx", "-W", "--keep-going", "-q", "-d", folder / "trees", ROOT / "docs", folder / "html"],
        env={**os.environ, "RAYLINE_DOCS_EXECUTE": "off", "PYTHONPATH": str(ROOT / "src")},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    return folder / "html"


def test_nothing_is_loaded_and_every_link_leads_somewhere(site: Path) -> None:
    spec = importlib.util.spec_from_file_location("check_site", ROOT / "docs" / "_ext" / "check_site.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert list(module.problems(site)) == []
    page = module.Page('<a href="x.html">x</a><img src="https://example.org/a.png"><p id="here">')
    assert (page.links, page.loads, page.places) == (["x.html"], ["https://example.org/a.png"], {"here"})


def test_search_finds_without_a_server(site: Path) -> None:
    text = (site / "searchindex.js").read_text(encoding="utf-8")
    index = json.loads(re.search(r"Search\.setIndex\((.*)\)", text, re.DOTALL)[1])  # type: ignore[index]
    names = index["docnames"]
    for word, page in (("kuberay", "how-to/clusters"), ("fold", "explanation/folds")):
        found = [index[where].get(word, []) for where in ("terms", "titleterms")]
        places = [p for places in found for p in ([places] if isinstance(places, int) else places)]
        assert page in [names[p] for p in places]
    assert "rayline.train" in index["objects"]


def test_every_public_name_has_a_page(site: Path) -> None:
    sys.path.insert(0, str(ROOT / "docs" / "_ext"))
    try:
        import reference_pages  # type: ignore[import-not-found]
    finally:
        sys.path.pop(0)
    texts = {path.stem: path.read_text(encoding="utf-8") for path in (site / "reference" / "api").glob("*.html")}
    for module, found in reference_pages.public().items():
        for name in found:
            assert f"{module}.{name}" in texts or name in texts[module], f"{module}.{name}"


def test_llms_txt_leads_to_pages(site: Path) -> None:
    lines = (site / "llms.txt").read_text(encoding="utf-8").splitlines()
    assert lines[0] == "# Rayline"
    assert lines[2].startswith("> ")
    links = [match[1] for line in lines if (match := re.match(r"- \[.+\]\((.+?)\): .+", line))]
    assert len(links) > 60
    assert all((site / link).exists() for link in links)
    assert {"tutorials/text.html", "how-to/troubleshooting.html", "reference/api/rayline.train.html"} <= {*links}
