"""The model card: what a pipeline is, takes, gives and knows of itself, for people. Markdown and one HTML page.

After Mitchell et al., "Model Cards for Model Reporting" (2019); what a pipeline cannot know (intended use, ethics) is
left to its owner, as headed gaps.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rayline.inference.pipeline import InferencePipeline

MOST = 20
"""Features that the importance shows."""

_STYLE = """body{font:16px/1.5 system-ui,sans-serif;max-width:52rem;margin:2rem auto;padding:0 1rem;color:#222}
table{border-collapse:collapse;margin:.5rem 0}td,th{padding:.15rem .8rem .15rem 0;text-align:left;vertical-align:top}
th{border-bottom:1px solid #999}.bar{background:#4a7ab5;height:.8rem;display:inline-block;vertical-align:middle}
i{color:#888}h2{margin-top:2rem}"""


@dataclass(frozen=True)
class _Section:
    title: str
    text: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    bars: Sequence[tuple[str, float]] = field(default=())


def model_card(pipeline: InferencePipeline, path: str | Path | None = None, *, name: str = "") -> str:
    """The card of a pipeline as Markdown; written too when `path` is given, as HTML when that ends in `.html`.

    Parameters
    ----------
    pipeline
        What the card is about.
    path
        Where to write it.
    name
        The title; "Model of <targets>" when empty.

    Returns
    -------
    str
        The Markdown text.
    """
    title = name or f"Model of {', '.join(pipeline.target.columns)}"
    sections = _sections(pipeline)
    text = _markdown(title, sections)
    if path is not None:
        path = Path(path)
        path.write_text(_html(title, sections) if path.suffix in (".html", ".htm") else text, encoding="utf-8")
    return text


def _sections(pipeline: InferencePipeline) -> list[_Section]:
    model, target = pipeline.model, pipeline.target
    classes = [
        f"{column}: {', '.join(map(str, found))}" for column, found in zip(target.columns, target.classes, strict=False)
    ]
    stages = [] if pipeline.preprocessor is None else pipeline.preprocessor.leaves
    learned = ", ".join(f"{name}: {stage!r}" for name, stage in target.stages)
    examples = pipeline.examples
    columns, features = (_ranked(found) for found in (pipeline.importance(), model.importance()))
    sections = [
        _Section(
            "What it predicts",
            f"A {target.task} of {', '.join(target.columns)}, by {model.framework}."
            + (f" It learns the target behind these stages, and they are undone: {learned}." if learned else ""),
            ["target", "classes"] if classes else [],
            [line.split(": ", 1) for line in classes],
        ),
        _Section(
            "What it takes",
            f"{len(pipeline.input_schema)} columns; null and NaN are missing values.",
            ["column", "type"],
            [[column, str(dtype)] for column, dtype in pipeline.input_schema.items()],
        ),
        _Section("How rows are prepared", "", ["stage", "what"], [[path, repr(stage)] for path, stage in stages]),
        _Section(
            "How good it is", "", ["metric", "value"], [[n, f"{v:.6g}"] for n, v in sorted(model.metrics.items())]
        ),
        _Section("What matters to it", "", ["column", "importance"], bars=columns[:MOST]),
        _Section("Its features", "", ["feature", "importance"], bars=[] if columns == features else features[:MOST]),
        _Section(
            "Examples",
            "",
            [*examples.columns, "prediction"],
            [[*map(str, row), str(p)] for row, p in zip(examples.rows(), _predictions(pipeline), strict=True)],
        ),
    ]
    told = [s for s in sections if s.text or s.rows or s.bars]
    return [*told, *(_Section(title, "To be written by its owner.") for title in ("Intended use", "Limits and risks"))]


def _ranked(importance: Mapping[str, float] | None) -> list[tuple[str, float]]:
    return sorted((importance or {}).items(), key=lambda item: -abs(item[1]))


def _predictions(pipeline: InferencePipeline) -> list[Any]:
    found = pipeline.predict(pipeline.examples)
    return [row[0] if len(row) == 1 else row for row in found.rows()]


def _markdown(title: str, sections: Sequence[_Section]) -> str:
    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    lines = [f"# {title}"]
    for section in sections:
        lines += ["", f"## {section.title}"]
        if section.text:
            lines += ["", section.text]
        rows = [*section.rows, *([name, f"{value:.4g}"] for name, value in section.bars)]
        if rows:
            lines += ["", f"| {' | '.join(map(cell, section.head))} |", f"|{'---|' * len(section.head)}"]
            lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
    return "\n".join(lines) + "\n"


def _html(title: str, sections: Sequence[_Section]) -> str:
    out = [f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{html.escape(title)}</title>']
    out += [f"<style>{_STYLE}</style><h1>{html.escape(title)}</h1>"]
    for section in sections:
        out.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.text:
            out.append(f"<p>{html.escape(section.text)}</p>")
        most = max((abs(value) for _, value in section.bars), default=0.0) or 1.0
        rows = [[html.escape(value) for value in row] for row in section.rows]
        for name, value in section.bars:
            bar = f'<span class="bar" style="width:{20 * abs(value) / most:.2f}rem"></span> {value:.4g}'
            rows.append([html.escape(name), bar])
        if rows:
            head = "".join(f"<th>{html.escape(name)}</th>" for name in section.head)
            body = "".join(f"<tr>{''.join(f'<td>{value}</td>' for value in row)}</tr>" for row in rows)
            out.append(f"<table><tr>{head}</tr>{body}</table>")
    return "".join(out) + "</html>\n"
