"""The directive `guide-pages`: a table of contents of the given pages, then of all other pages of the folder, in alphabetical order."""

from __future__ import annotations

from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.directives.other import TocTree

ELSEWHERE = {"index", "guide", "benchmarks"}


class GuidePages(TocTree):
    def run(self) -> list[nodes.Node]:
        first = [line.strip() for line in self.content if line.strip() in self.env.found_docs]
        others = {page for page in self.env.found_docs if "/" not in page} - ELSEWHERE - {*first}
        self.content = StringList([*first, *sorted(others)], "guide-pages")
        self.env.note_reread()
        return super().run()


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("guide-pages", GuidePages)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
