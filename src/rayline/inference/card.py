"""The model card: a description of a pipeline for people, in Markdown and as one HTML page.

After Mitchell et al., "Model Cards for Model Reporting" (2019); sections that need human
knowledge (intended use, ethics) are left empty under their headings.
"""

from __future__ import annotations

import html
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import polars as pl

from rayline.core import design, registry, storage
from rayline.core.arguments import known_arguments
from rayline.core.data_types import Data
from rayline.core.errors import ParameterError, SchemaError, counted
from rayline.core.files import checked_path, replace_content
from rayline.core.target import Target, Task
from rayline.inference import card_plots
from rayline.inference.scorer import Scorer
from rayline.inference.svg_plots import SVGPlot, number

if TYPE_CHECKING:
    from rayline.inference.pipeline import InferencePipeline

MAX_FEATURES = 20
"""Features that the importance shows."""

_TASKS = {
    Task.BINARY: "binary classification",
    Task.MULTICLASS: "classification",
    Task.REGRESSION: "regression",
    Task.RANKING: "ranking",
    Task.SURVIVAL: "survival analysis",
}

_PAGES, _TEXTS = (".html", ".htm"), (".md", ".markdown")

EXPLAINED_ROWS = 1_000
"""Rows of `data` whose predictions are explained: the first ones."""

MAX_ROWS = 100_000
"""Rows of `data` that are looked at: the first ones."""


@dataclass(frozen=True)
class _Section:
    title: str
    text: str = ""
    head: Sequence[str] = ()
    rows: Sequence[Sequence[str]] = ()
    bars: Sequence[tuple[str, float]] = field(default=())
    plots: Sequence[SVGPlot] = ()


@known_arguments
def model_card(
    pipeline: InferencePipeline,
    path: str | Path | None = None,
    *,
    name: str = "",
    data: Data | None = None,
    history: pl.DataFrame | None = None,
) -> str:
    """Return the card of a pipeline as Markdown; write it too when `path` is given, as HTML when that ends in `.html`.

    Parameters
    ----------
    pipeline
        What the card is about.
    path
        Where to write it. The plots of a Markdown card are written beside it, those of a page are in it.
    name
        The title; "Model of <targets>" when empty.
    data
    Rows with labels (none of them null), best those of a test set: a table or a ray.data.Dataset, of which the first 100,000 are used.
        They give the summary of each column and the plots: ROC, calibration and confusion of a classifier, predictions
        and errors of a regression.
    history
        The history of the training (`result.history`), for its curves.

    Returns
    -------
    str
        The Markdown text.

    Raises
    ------
    SchemaError
        When `data` lacks a column or a label.
    ParameterError
        When `path` ends in neither `.html`, `.htm`, `.md` nor `.markdown`.
    ArtifactError
        When the disk refuses; what was there before is still there.

    Examples
    --------
    >>> import polars as pl
    >>> from rayline import train
    >>> table = pl.DataFrame({"x": [0.0, 1.0, 2.0, 3.0] * 25, "late": ["no", "no", "yes", "yes"] * 25})
    >>> trainer = train.XGBoostTrainer({"max_depth": 2}, num_boost_round=3, seed=1)
    >>> result = train.fit(trainer, train_dataset=table, target_columns=["late"], verbose=False)
    >>> import rayline as rl
    >>> rl.model_card(result.inference_pipeline, name="Late flights").splitlines()[0]
    '# Late flights'
    """
    if not isinstance(pipeline, Scorer):
        raise ParameterError.value("pipeline", "an InferencePipeline", pipeline, where="model_card")
    if path is not None:
        checked_path(path)
    if history is not None and not (isinstance(history, pl.DataFrame) and "iteration" in history.columns):
        raise ParameterError.value("history", "a Polars table, such as result.history", history, where="model_card")
    title = name or f"Model of {', '.join(pipeline.target.columns)}"
    plain = None if path is None else storage.plain_path(path)
    if plain is not None and plain.suffix.lower() not in (*_PAGES, *_TEXTS):
        raise ParameterError(
            f"model_card: {path} is not a supported file type.",
            f"Expected one of {[*_PAGES, *_TEXTS]}.",
            "change the suffix.",
        )
    sections = _sections(pipeline, None if data is None else _rows(pipeline, data), history)
    text = _markdown(title, sections, "card" if plain is None else plain.stem)
    if path is not None and plain is not None and plain.suffix.lower() in _PAGES:
        replace_content(path, _html(title, _about(pipeline), sections))
    elif path is not None and plain is not None:
        for plot in (plot for section in sections for plot in section.plots):
            replace_content(storage.sibling(path, _file(plain.stem, plot)), plot.svg)
        replace_content(path, text)
    return text


def _rows(pipeline: InferencePipeline, data: Data) -> pl.DataFrame:
    engine = registry.engine_for(data)
    with engine.keeping(data):
        table = engine.head(data, MAX_ROWS)
    missing = [n for n in (*pipeline.input_schema, *pipeline.target.columns) if n not in table.columns]
    if missing:
        raise SchemaError.missing(missing, table.columns, where="model_card (data)")
    assert isinstance(table, pl.DataFrame)
    return table


def _meaning(target: Target) -> str:
    """Return the meaning of a score that is not a value of the target."""
    if len(target.quantiles) > 1:
        return f" It predicts the quantiles {', '.join(target.value_names)}."
    if target.task is Task.RANKING:
        return " It predicts a score: rows of a group are ranked by it, the greatest first."
    if target.task is Task.SURVIVAL:
        return (
            " It predicts a relative risk: the greater, the earlier the event."
            if target.predicts_risk
            else " It predicts a time."
        )
    return ""


def _about(pipeline: InferencePipeline) -> str:
    data = pipeline.model.data
    rows = f" · trained on {counted(data['n_rows'], 'row')}" if data.get("n_rows") else ""
    return f"{_TASKS[pipeline.target.task]} · {pipeline.model.framework} · {counted(len(pipeline.input_schema), 'column')}{rows}"


def _sections(pipeline: InferencePipeline, table: pl.DataFrame | None, history: pl.DataFrame | None) -> list[_Section]:
    model, target = pipeline.model, pipeline.target
    stages = [] if pipeline.preprocessor is None else pipeline.preprocessor.leaves
    rows = model.data.get("n_rows")
    trained = f"{counted(rows, 'row')}, whose fingerprint is {model.data['fingerprint']}." if rows else ""
    sections = [
        _what_it_predicts(pipeline),
        _what_it_takes(pipeline, table),
        _Section("What it was trained on", trained),
        _Section("How rows are prepared", "", ["stage", "what"], [[path, repr(stage)] for path, stage in stages]),
        _Section(
            "What happens to its answers",
            "",
            ["stage", "what it learned"],
            [[repr(stage), stage.summary(target)] for stage in pipeline.postprocessing],
        ),
        _measured(model.metrics, target),
        _on_rows_with_labels(pipeline, table),
        _Section("How it learned", plots=[] if history is None else card_plots.learning(history, target)),
        *_what_matters(pipeline, table),
        _examples(pipeline),
    ]
    shown = [s for s in sections if (s.text and s.text != _MOVES) or s.rows or s.bars or s.plots]
    return [*shown, *(_Section(title, "To be written by its owner.") for title in ("Intended use", "Limits and risks"))]


def _what_it_predicts(pipeline: InferencePipeline) -> _Section:
    target = pipeline.target
    learned = ", ".join(f"{name}: {stage!r}" for name, stage in target.stages)
    classes = [
        f"{column}: {', '.join(map(str, labels))}"
        for column, labels in zip(target.columns, target.classes, strict=False)
    ]
    return _Section(
        "What it predicts",
        f"A {_TASKS[target.task]} of {', '.join(target.columns)}, by {pipeline.model.framework}.{_meaning(target)}"
        + (f" It learns the target behind these stages, and they are undone: {learned}." if learned else ""),
        ["target", "classes"] if classes else [],
        [line.split(": ", 1) for line in classes],
    )


def _what_it_takes(pipeline: InferencePipeline, table: pl.DataFrame | None) -> _Section:
    schema = pipeline.input_schema
    return _Section(
        "What it takes",
        f"{counted(len(schema), 'column')}; null and NaN are missing values.",
        ["column", "type"] if table is None else ["column", "type", "missing", "values"],
        [[column, str(dtype)] for column, dtype in schema.items()]
        if table is None
        else card_plots.columns(table, list(schema)),
    )


def _on_rows_with_labels(pipeline: InferencePipeline, table: pl.DataFrame | None) -> _Section:
    title = "How it does on rows with labels"
    if table is None:
        return _Section(title)
    plots = card_plots.performance(pipeline.target, pipeline.scores(table.lazy()), table)
    return _Section(title, f"{counted(table.height, 'row')} that the maker of this card chose.", plots=plots)


def _what_matters(pipeline: InferencePipeline, table: pl.DataFrame | None) -> list[_Section]:
    columns, features = (_ranked(importance) for importance in (pipeline.importance(), pipeline.model.importance()))
    shown = [] if columns == features else features
    moves = _moves(pipeline, table)
    return [
        _Section("What moves its predictions", _MOVES, ["column", "mean size of its contributions"], bars=moves),
        _Section("What matters to it", _rest(columns, "column"), ["column", "importance"], bars=_shares(columns)),
        _Section("Its features", _rest(shown, "feature"), ["feature", "importance"], bars=_shares(shown)),
    ]


def _examples(pipeline: InferencePipeline) -> _Section:
    rows = zip(pipeline.examples.rows(), _predictions(pipeline), strict=True)
    head = [*pipeline.examples.columns, "prediction"]
    return _Section("Examples", "", head, [[*map(_value, row), _value(answer)] for row, answer in rows])


_MOVES = "How much each column changes the score of a row from the usual one, on average over rows with labels (SHAP)."


def _moves(pipeline: InferencePipeline, table: pl.DataFrame | None) -> list[tuple[str, float]]:
    """Return the shares of the raw columns in the contributions to predictions, where the framework computes these."""
    if table is None or not table.height or not registry.pipeline_method("explain").is_exact(pipeline):
        return []
    return _shares(_ranked(pipeline.importance("shap", rows=table.head(EXPLAINED_ROWS))))


def _ranked(importance: Mapping[str, float] | None) -> list[tuple[str, float]]:
    return sorted((importance or {}).items(), key=lambda item: -abs(item[1]))


def _shares(ranked: Sequence[tuple[str, float]]) -> list[tuple[str, float]]:
    """The first ones, each as a share of all."""
    total = sum(abs(value) for _, value in ranked) or 1.0
    return [(name, abs(value) / total) for name, value in ranked[:MAX_FEATURES]]


def _rest(ranked: Sequence[tuple[str, float]], noun: str) -> str:
    """Return the note about features that are not shown."""
    total = sum(abs(value) for _, value in ranked)
    rest = ranked[MAX_FEATURES:]
    if not rest or not total:
        return ""
    return f"Shares of all {counted(len(ranked), noun)}; those not shown have {sum(abs(v) for _, v in rest) / total:.1%} together."


TABLES = {"cv": "cross validation", "cv_standard_error": "standard error", "train": "train", "test": "test"}
"""What the prefixes of metrics say of the rows that they were computed on, as headings."""


def _measured(metrics: Mapping[str, float], target: Target) -> _Section:
    """The metrics, with a column for each table that they were computed on. A metric that the framework and Rayline both
    computed is there once, where both found the same."""
    rows: dict[str, dict[str, str]] = {}
    for name, value in sorted(metrics.items(), key=lambda item: "_" not in item[0]):
        table = next((t for t in TABLES if name.startswith(f"{t}-")), "value")
        plain = name.removeprefix(f"{table}-")
        same = (
            n
            for n, row in rows.items()
            if _letters(n) == _letters(plain) and row.get(table, number(value)) == number(value)
        )
        rows.setdefault(next(same, plain), {})[table] = number(value)
    tables = [t for t in ("value", *TABLES) if any(t in row for row in rows.values())]
    lines = [
        [f"{name}{target.of_class(name)}", *(row.get(t, "") for t in tables)] for name, row in sorted(rows.items())
    ]
    return _Section("How good it is", "", ["metric", *(TABLES.get(t, t) for t in tables)], lines)


def _letters(name: str) -> str:
    return name.replace("_", "").lower()


def _value(value: Any) -> str:
    if isinstance(value, float):
        return number(value)
    return ", ".join(map(_value, value)) if isinstance(value, (tuple, list)) else str(value)


def _predictions(pipeline: InferencePipeline) -> list[Any]:
    predictions = pipeline.predict(pipeline.examples)
    return [row[0] if len(row) == 1 else row for row in predictions.rows()]


def _file(stem: str, plot: SVGPlot) -> str:
    plain = "".join(c if c.isalnum() and c.isascii() else "-" for c in plot.name)
    return f"{stem}-{plain}.svg"


def _markdown(title: str, sections: Sequence[_Section], stem: str) -> str:
    def cell(text: str) -> str:
        return text.replace("|", "\\|").replace("\n", " ")

    lines = [f"# {title}"]
    for section in sections:
        lines += ["", f"## {section.title}"]
        if section.text:
            lines += ["", section.text]
        rows = [*section.rows, *([name, f"{value:.1%}"] for name, value in section.bars)]
        if rows:
            lines += ["", f"| {' | '.join(map(cell, section.head))} |", f"|{'---|' * len(section.head)}"]
            lines += [f"| {' | '.join(map(cell, row))} |" for row in rows]
        for plot in section.plots:
            lines += ["", f"![{cell(plot.title)}]({_file(stem, plot)})", "", f"{plot.title}. {plot.caption}"]
    return "\n".join(lines) + "\n"


def _html(title: str, about: str, sections: Sequence[_Section]) -> str:
    out = [f'<h1>{html.escape(title)}</h1><p class="sub">{html.escape(about)}</p>']
    for section in sections:
        out.append(f"<h2>{html.escape(section.title)}</h2>")
        if section.text:
            out.append(f"<p>{html.escape(section.text)}</p>")
        longest = max((value for _, value in section.bars), default=0.0) or 1.0
        rows: list[Sequence[design.Cell]] = [*section.rows]
        rows += [(name, (value / longest, f"{value:.1%}")) for name, value in section.bars]
        if rows:
            out.append(design.html_table(section.head, rows))
        if section.plots:
            figures = (
                f"<figure><b>{html.escape(p.title)}</b>{p.svg}<figcaption>{html.escape(p.caption)}</figcaption></figure>"
                for p in section.plots
            )
            out.append(f'<div class="plots">{"".join(figures)}</div>')
    return design.page(title, "".join(out))
