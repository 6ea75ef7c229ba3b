"""The page at `/`: what the model is, a form made from its schema, and the prediction. One file, nothing from elsewhere."""

from __future__ import annotations

import json
import secrets
from collections.abc import Collection, Mapping, Sequence
from html import escape
from string import Template
from typing import Any

import polars as pl

from rayline.inference.pipeline import InferencePipeline
from rayline.serve.openapi import example_rows

MOST_CHOICES = 200
"""Known categories up to so many become a list to choose from."""

_STYLE = """
:root { color-scheme: light dark; --line: color-mix(in srgb, currentColor 25%, transparent); }
body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; }
form { display: grid; grid-template-columns: repeat(auto-fill, minmax(15rem, 1fr)); gap: .75rem 1.25rem; }
label { display: flex; flex-direction: column; font-weight: 600; }
label small { font-weight: 400; opacity: .7; }
input, select, button { font: inherit; padding: .4rem .5rem; border: 1px solid var(--line); border-radius: .3rem; }
button { grid-column: 1 / -1; justify-self: start; padding: .5rem 1.5rem; cursor: pointer; }
#result { margin: 1.5rem 0; padding: 1rem; border: 1px solid var(--line); border-radius: .3rem; }
#result:empty { display: none; }
#result strong { font-size: 1.3rem; }
table { border-collapse: collapse; } td { padding: .15rem 1rem .15rem 0; } meter { width: 12rem; }
footer { margin-top: 2rem; opacity: .7; font-size: .9rem; }
"""

_SCRIPT = """
"use strict";
const form = document.getElementById("row"), result = document.getElementById("result");
const base = location.pathname.replace(/\\/$/, "");
for (const link of document.querySelectorAll("a[data-path]")) link.href = base + link.dataset.path;

function read(field) {
  const text = field.value.trim(), kind = field.dataset.kind;
  if (text === "") return null;
  if (kind === "number") return Number(text);
  if (kind === "boolean") return text === "true";
  if (kind === "json") return JSON.parse(text);
  return field.value;
}
function element(name, text) { const made = document.createElement(name); made.textContent = text; return made; }
function words(value) {
  if (value === null) return "none";
  return typeof value === "object" ? Object.entries(value).map(([k, v]) => k + ": " + words(v)).join(", ") : String(value);
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
form.addEventListener("submit", async event => {
  event.preventDefault();
  result.replaceChildren(element("span", "…"));
  try {
    const row = Object.fromEntries([...form.elements].filter(f => f.name).map(f => [f.name, read(f)]));
    const answer = await fetch(base + "/predict" + (form.dataset.proba ? "?proba=true" : ""),
      { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify([row]) });
    const body = await answer.json();
    if (!answer.ok) {
      result.replaceChildren(element("strong", body.error));
      for (const p of body.problems || []) result.append(element("div", (p.column || "") + ": " + p.problem));
      return;
    }
    result.replaceChildren(element("strong", words(body.predictions[0])));
    const probabilities = body.probabilities && body.probabilities[0];
    if (!probabilities) return;
    if (form.dataset.targets === "1") result.append(bars("", probabilities));
    else for (const [target, own] of Object.entries(probabilities)) result.append(bars(target, own));
  } catch (error) { result.replaceChildren(element("strong", "The request failed: " + error.message)); }
});
"""

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name</title><style nonce="$nonce">$style</style></head>
<body><h1>$name</h1><p>$about</p>
<form id="row" data-proba="$proba" data-targets="$targets">$fields<button>Predict</button></form>
<div id="result" role="status" aria-live="polite"></div>
<footer><a data-path="/docs" href="docs">API</a> · <a data-path="/openapi.json" href="openapi.json">OpenAPI</a> ·
<a data-path="/metrics" href="metrics">metrics</a></footer>
<script nonce="$nonce">$script</script></body></html>
""")


def html(
    name: str, pipeline: InferencePipeline, categories: Mapping[str, Collection[Any]], *, has_probabilities: bool
) -> tuple[bytes, Sequence[tuple[bytes, bytes]]]:
    """The page, and the headers that forbid it everything that it does not need."""
    examples, target = example_rows(pipeline), pipeline.target
    example = examples[0] if examples else {}
    fields = [_field(c, d, example.get(c), categories.get(c, ())) for c, d in pipeline.input_schema.items()]
    metrics = ", ".join(f"{key} {value:.4g}" for key, value in pipeline.model.metrics.items())
    about = f"{str(target.task).capitalize()} of {', '.join(target.columns)} by {pipeline.model.framework}"
    nonce = secrets.token_urlsafe(16)
    text = _PAGE.substitute(
        name=escape(name),
        about=escape(about + (f" ({metrics})." if metrics else ".")),
        fields="".join(fields),
        proba="1" if has_probabilities else "",
        targets=len(target.columns),
        nonce=nonce,
        style=_STYLE,
        script=_SCRIPT,
    )
    policy = f"default-src 'none'; style-src 'nonce-{nonce}'; script-src 'nonce-{nonce}'; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    return text.encode(), [(b"content-security-policy", policy.encode()), (b"x-content-type-options", b"nosniff")]


def _field(name: str, dtype: pl.DataType, example: Any, categories: Collection[Any]) -> str:
    kind, attributes, choices = "text", 'type="text"', None
    if dtype == pl.Boolean:
        kind, choices = "boolean", ["true", "false"]
    elif dtype.is_numeric() or isinstance(dtype, pl.Duration):
        kind, attributes = "number", f'type="number" step="{1 if dtype.is_integer() else "any"}"'
    elif dtype == pl.Date:
        attributes = 'type="date"'
    elif isinstance(dtype, (pl.List, pl.Array, pl.Struct)):
        kind = "json"
    elif 0 < len(categories) <= MOST_CHOICES and all(isinstance(c, str) for c in categories):
        choices = sorted(categories)
    shown = "" if example is None else json.dumps(example) if kind in ("json", "boolean") else str(example)
    named = f'name="{escape(name)}" data-kind="{kind}"'
    if choices is not None:
        options = "".join(f"<option{' selected' if c == shown else ''}>{escape(c)}</option>" for c in ["", *choices])
        control = f"<select {named}>{options}</select>"
    else:
        control = f'<input {named} {attributes} value="{escape(shown)}">'
    return f"<label>{escape(name)} <small>{escape(str(dtype))}</small>{control}</label>"
