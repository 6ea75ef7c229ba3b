"""The directive `import-map`: which package of Rayline imports which, read from the source and drawn as SVG."""

from __future__ import annotations

import ast
from collections import defaultdict
from functools import cache
from pathlib import Path

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

SOURCE = Path(__file__).parents[2] / "src" / "rayline"
WIDTH, BOX, HEIGHT, GAP = 760, 122, 34, 46


def edges() -> dict[str, set[str]]:
    """Every package of Rayline with the packages that it imports."""
    packages = {p.name for p in SOURCE.iterdir() if (p / "__init__.py").exists()}
    found: dict[str, set[str]] = {package: set() for package in packages}
    for path in SOURCE.rglob("*.py"):
        own = path.relative_to(SOURCE).parts[0]
        if own not in packages:
            continue
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            named = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                named = [node.module, *(f"{node.module}.{a.name}" for a in node.names)]
            for name in named:
                parts = name.split(".")
                if parts[0] == "rayline" and len(parts) > 1 and parts[1] in packages - {own}:
                    found[own].add(parts[1])
    return found


def reduced(graph: dict[str, set[str]]) -> dict[str, set[str]]:
    """Without the edges that a longer way implies."""

    @cache
    def reached(package: str) -> frozenset[str]:
        return frozenset(graph[package]).union(*(reached(p) for p in graph[package]))

    return {p: {q for q in own if not any(q in reached(r) for r in own - {q})} for p, own in graph.items()}


def svg() -> str:
    graph = edges()

    @cache
    def level(package: str) -> int:
        return 1 + max((level(p) for p in graph[package]), default=-1)

    rows = defaultdict(list)
    for package in sorted(graph):
        rows[level(package)].append(package)
    place = {}
    for depth, packages in rows.items():
        for i, package in enumerate(packages):
            place[package] = ((i + 0.5) * WIDTH / len(packages), (max(rows) - depth) * (HEIGHT + GAP) + 4)
    height = (max(rows) + 1) * (HEIGHT + GAP) - GAP + 8
    parts = []
    for package, others in reduced(graph).items():
        x, y = place[package]
        for other in sorted(others):
            a, b = place[other]
            parts.append(
                f'<path d="M{x:.0f} {y + HEIGHT} C{x:.0f} {y + HEIGHT + 24} {a:.0f} {b - 24} {a:.0f} {b - 2}" class="edge"/>'
            )
    for package, (x, y) in place.items():
        parts.append(f'<rect x="{x - BOX / 2:.0f}" y="{y}" width="{BOX}" height="{HEIGHT}" rx="6" class="box"/>')
        parts.append(f'<text x="{x:.0f}" y="{y + 22}" text-anchor="middle">{package}</text>')
    return f'<svg class="drawing" viewBox="0 0 {WIDTH} {height}" role="img" aria-label="Imports between the packages">{"".join(parts)}</svg>'


class ImportMap(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        return [nodes.raw("", svg(), format="html")]


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("import-map", ImportMap)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
