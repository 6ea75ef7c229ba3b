"""The page at `/`: a description of the model, a form generated from its schema, and the prediction. One file that loads nothing else."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import polars as pl

from rayline.core import design
from rayline.core.schema import is_category
from rayline.inference.pipeline import InferencePipeline
from rayline.serve.openapi import example_rows

MAX_CHOICES = 200
"""Up to this number, known categories are offered as a list."""

LONG_TEXT = 40
"""A column whose example is longer gets a field as wide as the form."""

STYLE = (
    design.CSS
    + """
:root { --measure: 72rem; } header p { margin: var(--s1) 0 0; } .facts { color: var(--muted); }
button { font: inherit; padding: .45rem 1.1rem; border: 1px solid var(--line); border-radius: var(--round); cursor: pointer; background: var(--soft); color: inherit; }
button.main { background: var(--accent); border-color: var(--accent); color: var(--on-accent); font-weight: 600; }
pre { white-space: pre-wrap; word-break: break-word; } footer { margin-top: var(--s5); color: var(--muted); font-size: .9rem; }
"""
)
"""The style that the served pages share."""

_STYLE = """
main { display: grid; grid-template-columns: minmax(0, 1fr) 22rem; gap: 2rem; margin-top: 1.5rem; align-items: start; }
@media (max-width: 56rem) { main { grid-template-columns: minmax(0, 1fr); } }
form { display: grid; grid-template-columns: repeat(auto-fill, minmax(11rem, 1fr)); gap: .9rem 1.1rem; }
label { display: flex; flex-direction: column; gap: .15rem; font-weight: 600; overflow-wrap: anywhere; }
label small { font-weight: 400; color: var(--muted); }
.text { grid-column: 1 / -1; }
input, select, textarea { font: inherit; font-weight: 400; width: 100%; height: 2.3rem; padding: 0 .55rem; border: 1px solid var(--line); border-radius: .4rem; background: transparent; color: inherit; }
textarea { height: auto; min-height: 2.3rem; padding: .35rem .55rem; resize: vertical; field-sizing: content; max-height: 24rem; }
option { color: initial; } @media (prefers-color-scheme: dark) { option { background: #222; color: #eee; } }
.wrong { border-color: var(--bad); outline: 1px solid var(--bad); }
.buttons { grid-column: 1 / -1; display: flex; gap: .6rem; flex-wrap: wrap; align-items: center; } .buttons small { color: var(--muted); }
aside { position: sticky; top: 1rem; border: 1px solid var(--line); border-radius: .6rem; padding: 1rem 1.1rem; }
aside h2 { margin: 0 0 .5rem; } #result strong { font-size: 1.5rem; overflow-wrap: anywhere; } #result p { margin: .4rem 0 0; color: var(--muted); font-size: .9rem; }
#result table { width: 100%; margin-top: .5rem; } #result caption { text-align: left; font-weight: 600; } #result td { padding-right: .5rem; }
#why table { width: 100%; margin-top: .8rem; } #why caption { text-align: left; font-weight: 600; } #why p { color: var(--muted); font-size: .85rem; margin: .2rem 0 0; }
#why td { padding-right: .5rem; } #why .reason { padding-right: 0; } .reason { width: 45%; background: linear-gradient(var(--line), var(--line)) center / 1px 100% no-repeat; }
.reason span { display: block; height: .75rem; margin-top: .3rem; border-radius: 2px; background: var(--accent); } .less span { background: var(--bad); }
meter { width: 100%; min-width: 5rem; } details { margin-top: 1rem; } summary { cursor: pointer; color: var(--muted); }
"""

_SCRIPT = """
"use strict";
const rows = document.querySelector("main"), fields = [...document.querySelectorAll("#row [name]")];
const why = document.getElementById("why"), result = document.getElementById("result"), wire = document.getElementById("wire");
const examples = JSON.parse(document.getElementById("examples").textContent);
const base = location.pathname.replace(/\\/$/, "");
let shown = 0;
for (const link of document.querySelectorAll("a[data-path]")) link.href = base + link.dataset.path;

// Only the fields of the form are read by name: a column may have the name of a property of the form. An integer is sent as it is
// written, because JavaScript's numbers are exact only up to 2^53.
function read(field) {
  const text = field.value.trim(), kind = field.dataset.kind;
  if (text === "") return "null";
  if (kind === "number") return /^-?(0|[1-9]\\d*)$/.test(text) ? text : JSON.stringify(Number(text));
  if (kind === "boolean") return String(text === "true");
  return kind === "json" ? JSON.stringify(JSON.parse(text)) : JSON.stringify(field.value);
}
function row() { return "[{" + fields.map(f => JSON.stringify(f.name) + ":" + read(f)).join(",") + "}]"; }
function exact(key, value, context) {
  const source = context && context.source;
  return typeof value === "number" && source && Number.isInteger(value) && !Number.isSafeInteger(value) && !/[.eE]/.test(source) ? source : value;
}
function element(name, text) { const made = document.createElement(name); made.textContent = text; return made; }
function words(value) {
  if (value === null) return "none";
  return typeof value === "object" ? Object.entries(value).map(([k, v]) => k + ": " + words(v)).join(", ") : String(value);
}
function span(interval) {
  if (Array.isArray(interval)) return "one of: " + interval.map(words).join(", ");
  if ("lower" in interval && typeof interval.lower !== "object") return "between " + words(interval.lower) + " and " + words(interval.upper);
  return Object.entries(interval).map(([target, own]) => target + " " + span(own)).join("; ");
}
function bars(title, probabilities) {
  const table = document.createElement("table");
  if (title) table.append(element("caption", title));
  for (const [label, p] of Object.entries(probabilities).sort((a, b) => b[1] - a[1]).slice(0, 20)) {
    const line = table.insertRow(), bar = document.createElement("meter");
    bar.value = p;
    line.append(element("td", label), element("td", (100 * p).toFixed(1) + " %"));
    line.insertCell().append(bar);
  }
  return table;
}
function curl() {
  try {
    const body = row().replaceAll("'", "'\\\\''");
    wire.textContent = "curl " + location.origin + base + "/predict \\\\\\n  -H 'content-type: application/json' \\\\\\n  -d '" + body + "'";
  } catch { wire.textContent = ""; }
}
// Contributions as bars from the middle: to the left what lowers the score, to the right what raises it.
function reasons(title, said) {
  const table = document.createElement("table"), shown = Object.entries(said.contributions);
  table.append(element("caption", title));
  shown.sort((a, b) => Math.abs(b[1]) - Math.abs(a[1]));
  const most = Math.max(...shown.map(s => Math.abs(s[1])), 1e-300);
  for (const [column, value] of shown.slice(0, 8)) {
    const line = table.insertRow(), bar = document.createElement("span"), share = 50 * Math.abs(value) / most;
    bar.style.width = share + "%";
    bar.style.marginLeft = (value < 0 ? 50 - share : 50) + "%";
    line.append(element("td", column), element("td", (value < 0 ? "−" : "+") + Math.abs(value).toPrecision(3)));
    const cell = line.insertCell();
    cell.className = value < 0 ? "reason less" : "reason more";
    cell.append(bar);
  }
  const rest = shown.slice(8).reduce((sum, s) => sum + s[1], 0), more = shown.length - 8;
  const parts = ["usual score " + said.base_value.toPrecision(3)];
  if (more > 0) parts.push(more + " other columns " + rest.toPrecision(2));
  const note = element("p", parts.join(", ") + "; score of this row " + said.score.toPrecision(3));
  const box = document.createElement("div");
  box.append(table, note);
  return box;
}
async function explain(body) {
  why.replaceChildren(element("p", "…"));
  try {
    const answer = await fetch(base + "/explain", { method: "POST", headers: { "content-type": "application/json" }, body });
    const said = JSON.parse(await answer.text());
    if (!answer.ok) { why.replaceChildren(element("p", said.error)); return; }
    const own = said.explanations[0], several = rows.dataset.targets !== "1";
    const every = several ? Object.entries(own) : [["", own]];
    why.replaceChildren(...every.map(([target, one]) => reasons("Why " + (target || (one.class === undefined ? "" : words(one.class))), one)));
  } catch (error) { why.replaceChildren(element("p", "The explanation failed: " + error.message)); }
}
async function predict() {
  why.replaceChildren();
  for (const field of fields) field.classList.remove("wrong");
  try {
    const body = row(), started = performance.now();
    const answer = await fetch(base + "/predict" + (rows.dataset.proba ? "?proba=true" : ""),
      { method: "POST", headers: { "content-type": "application/json" }, body });
    const said = JSON.parse(await answer.text(), exact), ms = performance.now() - started;
    if (!answer.ok) {
      result.replaceChildren(element("strong", said.error));
      for (const p of said.problems || []) {
        result.append(element("div", (p.column || "") + ": " + p.problem));
        for (const field of fields) if (field.name === p.column) field.classList.add("wrong");
      }
      return;
    }
    result.replaceChildren(element("strong", words(said.predictions[0])));
    const interval = said.intervals || said.sets;
    if (interval) result.append(element("div", span(interval[0])));
    const probabilities = said.probabilities && said.probabilities[0];
    if (probabilities && rows.dataset.targets === "1") result.append(bars("", probabilities));
    else if (probabilities) for (const [target, own] of Object.entries(probabilities)) result.append(bars(target, own));
    result.append(element("p", "answered in " + ms.toFixed(1) + " ms"));
    if (rows.dataset.explains === "auto") explain(body);
    else if (rows.dataset.explains) {
      const ask = element("button", "Why?");
      ask.type = "button";
      ask.addEventListener("click", () => explain(body));
      why.replaceChildren(ask);
    }
  } catch (error) { result.replaceChildren(element("strong", "The request failed: " + error.message)); }
}
document.addEventListener("submit", event => { event.preventDefault(); predict(); });
document.addEventListener("input", curl);
const next = document.getElementById("next");
next.hidden = examples.length < 2;
next.addEventListener("click", () => {
  shown = (shown + 1) % examples.length;
  fields.forEach((field, i) => { field.value = examples[shown][i]; });
  curl();
  predict();
});
curl();
"""

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name</title><style nonce="$nonce">$style</style></head>
<body><header><h1>$name</h1><p>$about</p><p class="facts">$facts</p></header>
<main data-proba="$proba" data-explains="$explains" data-targets="$targets"><form id="row">$fields
<div class="buttons"><button class="main">Predict</button><button type="button" id="next">Another example</button>
<small>An empty field is a missing value.</small></div></form>
<aside><h2>$title</h2><div id="result" role="status" aria-live="polite">–</div>
<div id="why" aria-live="polite"></div>
<details><summary>The same over HTTP</summary><pre id="wire"></pre></details></aside></main>
<footer><a data-path="/docs" href="docs">API</a> · <a data-path="/openapi.json" href="openapi.json">OpenAPI</a> ·
<a data-path="/metrics" href="metrics">metrics</a></footer>
<script type="application/json" id="examples" nonce="$nonce">$examples</script>
<script nonce="$nonce">$script</script></body></html>
""")


def html(
    name: str,
    pipeline: InferencePipeline,
    categories: Mapping[str, Collection[Any]],
    *,
    has_probabilities: bool,
    explains: str = "",
) -> tuple[bytes, Sequence[tuple[bytes, bytes]]]:
    """The page, and the headers that forbid it everything that it does not need."""
    schema, target = pipeline.input_schema, pipeline.target
    examples = [[_shown(d, row[c]) for c, d in schema.items()] for row in example_rows(pipeline)]
    example = examples[0] if examples else [""] * len(schema)
    fields = [
        _field(
            c, d, example[i], categories.get(c, ()), any(len(row[i]) > LONG_TEXT or "\n" in row[i] for row in examples)
        )
        for i, (c, d) in enumerate(schema.items())
    ]
    nonce = secrets.token_urlsafe(16)
    text = _PAGE.substitute(
        name=escape(name),
        about=escape(about(pipeline)),
        facts=escape(" · ".join(f"{key} {value:.4g}" for key, value in pipeline.model.metrics.items())),
        title=escape(", ".join(target.columns)),
        fields="".join(fields),
        proba="1" if has_probabilities else "",
        explains=explains,
        targets=len(target.value_names),
        nonce=nonce,
        style=STYLE + _STYLE,
        script=_SCRIPT,
        examples=json.dumps(examples).replace("<", "\\u003c"),
    )
    return text.encode(), security(nonce)


def about(pipeline: InferencePipeline) -> str:
    """Describe the model in a sentence."""
    target = pipeline.target
    task = f"{str(target.task).capitalize()}{' classification' if target.task.is_classification else ''}"
    n = len(pipeline.input_schema)
    return (
        f"{task} of {', '.join(target.columns)} from {n} column{'s' if n != 1 else ''}, by {pipeline.model.framework}."
    )


def security(nonce: str) -> Sequence[tuple[bytes, bytes]]:
    """Headers that let a page run its own script, ask its own server, and nothing else."""
    directives = f"style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'"
    policy = f"default-src 'none'; {directives}; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return [(b"content-security-policy", policy.encode()), (b"x-content-type-options", b"nosniff")]


def type_words(dtype: pl.DataType) -> str:
    """A type of columns, for people."""
    if dtype == pl.Boolean:
        return "true or false"
    if dtype.is_integer():
        return "whole number"
    if dtype.is_numeric():
        return "number"
    if isinstance(dtype, pl.Duration):
        return "seconds"
    if dtype == pl.String or is_category(dtype):
        return "text"
    return "date" if dtype == pl.Date else "date and time" if isinstance(dtype, pl.Datetime) else str(dtype)


def _kind(dtype: pl.DataType) -> str:
    """Return how the page formats and reads a value."""
    if dtype == pl.Boolean:
        return "boolean"
    if isinstance(dtype, (pl.List, pl.Array, pl.Struct)):
        return "json"
    return "number" if dtype.is_numeric() or isinstance(dtype, pl.Duration) else "text"


def _shown(dtype: pl.DataType, value: Any) -> str:
    """Format a value for its form field."""
    return "" if value is None else json.dumps(value) if _kind(dtype) in ("json", "boolean") else str(value)


def _field(name: str, dtype: pl.DataType, shown: str, categories: Collection[Any], is_long: bool) -> str:
    kind, choices = _kind(dtype), None
    if kind == "boolean":
        choices = ["true", "false"]
    elif kind == "text" and 0 < len(categories) <= MAX_CHOICES and all(isinstance(c, str) for c in categories):
        choices = sorted(categories)
    named, place = f'name="{escape(name)}" data-kind="{kind}"', ""
    if choices is not None:
        options = "".join(f"<option{' selected' if c == shown else ''}>{escape(c)}</option>" for c in ["", *choices])
        control = f"<select {named}>{options}</select>"
    elif kind == "number":
        control = f'<input {named} type="number" step="{1 if dtype.is_integer() else "any"}" value="{escape(shown)}">'
    elif dtype == pl.Date:
        control = f'<input {named} type="date" value="{escape(shown)}">'
    else:  # an element drops the first line break of its content
        control, place = (
            f'<textarea {named} rows="{3 if is_long else 1}">\n{escape(shown)}</textarea>',
            ' class="text"' if is_long else "",
        )
    return f"<label{place}>{escape(name)} <small>{escape(type_words(dtype))}</small>{control}</label>"
