"""The page at `/docs`: the OpenAPI document in readable form. It loads nothing from other servers, so it works on a closed network."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from html import escape
from string import Template
from typing import Any

from rayline.inference.pipeline import InferencePipeline
from rayline.serve.form_page import STYLE, about, security, type_words
from rayline.serve.openapi import example_rows

_STYLE = """
section { border-top: 1px solid var(--line); padding: .9rem 0; } section h2 { margin: 0; font-family: ui-monospace, monospace; overflow-wrap: anywhere; }
section h2 b { color: var(--accent); } section p { margin: .2rem 0; } code { font-size: .9em; }
"""

_SCRIPT = """
"use strict";
const base = location.pathname.replace(/\\/docs\\/?$/, "");
for (const text of document.querySelectorAll("pre.curl")) text.textContent = text.textContent.replace("SERVER", location.origin + base);
for (const link of document.querySelectorAll("a[data-path]")) link.href = base + link.dataset.path;
"""

_PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>$name: API</title><style nonce="$nonce">$style</style></head>
<body><header><h1>$name</h1><p>$about <a data-path="/" href="./">Try it</a> · <a data-path="/openapi.json" href="openapi.json">OpenAPI</a></p></header>
<h2>Columns of a row</h2>
<table><tr><th>column</th><th>type</th><th>example</th></tr>$columns</table>
<p>All columns are required; <code>null</code> is a missing value. Other columns are ignored.</p>
<h2>Requests</h2>$sections
<script nonce="$nonce">$script</script></body></html>
""")


def html(
    name: str, pipeline: InferencePipeline, document: Mapping[str, Any]
) -> tuple[bytes, Sequence[tuple[bytes, bytes]]]:
    """Return the page, and headers that forbid everything that it does not need."""
    example = next(iter(example_rows(pipeline)), {})
    columns = "".join(
        f"<tr><td><code>{escape(column)}</code></td><td>{escape(type_words(dtype))}</td><td><code>{escape(json.dumps(example.get(column)))}</code></td></tr>"
        for column, dtype in pipeline.input_schema.items()
    )
    sections = "".join(
        _section(method.upper(), path, operation, "security" in document)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    )
    nonce = secrets.token_urlsafe(16)
    text = _PAGE.substitute(
        name=escape(name), about=escape(about(pipeline)), columns=columns, sections=sections, nonce=nonce, style=STYLE + _STYLE, script=_SCRIPT
    )  # fmt: skip
    return text.encode(), security(nonce)


def _section(method: str, path: str, operation: Mapping[str, Any], has_token: bool) -> str:
    parts = [f"<section><h2><b>{method}</b> {escape(path)}</h2><p>{escape(operation['summary'])}.</p>"]
    parts += [
        f"<p><code>?{escape(p['name'])}=true</code> {escape(p['description'])}</p>"
        for p in operation.get("parameters", [])
    ]
    body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("example")
    curl = f"curl SERVER{path}"
    if has_token:
        curl += ' \\\n  -H "authorization: Bearer $TOKEN"'
    if body is not None:
        quoted = json.dumps(body[:1] if isinstance(body, list) else body).replace("'", "'\\''")
        curl += f" \\\n  -H 'content-type: application/json' \\\n  -d '{quoted}'"
    if method == "GET" or body is not None:
        parts.append(f'<pre class="curl">{escape(curl)}</pre>')
    refused = [(code, about["description"]) for code, about in operation["responses"].items() if code != "200"]
    if refused:
        lines = "".join(f"<tr><td><code>{code}</code></td><td>{escape(text)}</td></tr>" for code, text in refused)
        parts.append(f"<details><summary>Errors</summary><table>{lines}</table></details>")
    return "".join(parts) + "</section>"
