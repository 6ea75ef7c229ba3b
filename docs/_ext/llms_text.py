"""Writes llms.txt into the finished site: what Rayline is, and every page with its first sentence, for programs that read.

The form is the one of https://llmstxt.org: a title, a summary, sections of links.
"""

from __future__ import annotations

from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx

SECTIONS = {
    "": "Guide", "install": "Install", "tutorials": "Tutorials", "how-to": "How-to", "stages": "Stages", "trainers": "Trainers",
    "reference": "Reference", "explanation": "Explanation", "migration": "Migration", "about": "About", "decisions": "Optional",
}  # fmt: skip
SUMMARY = (
    "Rayline is a Python library: one path for machine learning on Ray, the same calls whatever the framework. A preprocessor (named "
    "stages) and a trainer give a result, whose inference pipeline predicts a row, a table, a ray.data.Dataset or an HTTP request. "
    "Tables (pandas, Polars, Arrow) are processed in this process without Ray; Datasets on Ray."
)


def page_lines(app: Sphinx) -> dict[str, list[str]]:
    found: dict[str, list[str]] = {title: [] for title in SECTIONS.values()}
    for name in sorted(app.env.found_docs):
        folder, _, page = name.rpartition("/")
        if name == "index" or (folder == "reference/api" and page.count(".") > 1):
            continue  # one line for a module is enough
        document = app.env.get_doctree(name)
        first = next(iter(document.findall(nodes.paragraph)), None)
        about = " ".join(first.astext().split()) if first is not None else ""
        title = app.env.titles[name].astext()
        section = SECTIONS.get(folder.partition("/")[0], "Guide")
        found[section].append(f"- [{title}]({name}.html): {about[:200]}")
    return found


def write(app: Sphinx, error: Exception | None) -> None:
    if error or app.builder.format != "html":
        return
    lines = ["# Rayline", "", f"> {SUMMARY}", ""]
    for title, links in page_lines(app).items():
        if links:
            lines += [f"## {title}", "", *links, ""]
    (Path(app.outdir) / "llms.txt").write_text("\n".join(lines), encoding="utf-8")


def setup(app: Sphinx) -> dict[str, bool]:
    app.connect("build-finished", write)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
