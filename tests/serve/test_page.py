"""The page in a real browser: the form that it makes asks the model, and shows what it says.

Covers `serve.form_page` too.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from html import escape
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import polars as pl
import pytest

from rayline import Framework, register_framework
from rayline.core.target import Target, Task
from rayline.inference.model import Model
from rayline.inference.pipeline import InferencePipeline
from rayline.serve import form_page
from rayline.serve.app import create_app

from .conftest import served

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")


@pytest.fixture
def url(pipeline: InferencePipeline) -> Iterator[str]:
    with served(create_app(pipeline, name="flights")) as port:
        yield f"http://127.0.0.1:{port}"


@pytest.fixture
def browse(tmp_path: Path) -> Iterator[Callable[[str], Callable[[str], Any]]]:
    """Opens a page, and gives a function that evaluates JavaScript in it."""
    if CHROMIUM is None:
        pytest.skip("no Chromium is installed (Debian: apt-get install chromium)")
    client = pytest.importorskip("websockets.sync.client")
    options = [
        "--headless=new",
        "--no-sandbox",
        "--disable-gpu",
        "--remote-debugging-port=0",
        f"--user-data-dir={tmp_path}",
    ]
    process = subprocess.Popen(
        [CHROMIUM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    connections = contextlib.ExitStack()
    numbers = itertools.count()

    def open_page(address: str) -> Callable[[str], Any]:
        port = wait(lambda: (tmp_path / "DevToolsActivePort").read_text().split()[0])
        page = httpx.put(f"http://127.0.0.1:{port}/json/new?{address}").json()
        connection = connections.enter_context(client.connect(page["webSocketDebuggerUrl"], max_size=None))

        def evaluate(script: str) -> Any:
            number = next(numbers)
            asked = {"expression": script, "returnByValue": True, "awaitPromise": True}
            connection.send(json.dumps({"id": number, "method": "Runtime.evaluate", "params": asked}))
            while (answer := json.loads(connection.recv(timeout=30))).get("id") != number:
                pass
            return answer["result"]["result"].get("value")

        return evaluate

    try:
        yield open_page
    finally:
        connections.close()
        process.terminate()
        process.wait()


def wait(ready: Callable[[], Any], seconds: float = 60) -> Any:
    """What it gives as soon as it gives something."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if found := ready():
                return found
        except OSError:
            pass
        time.sleep(0.05)
    raise AssertionError("nothing came")


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_form_predicts(url: str, browse: Any, pipeline: InferencePipeline) -> None:
    page = browse(f"{url}/")
    wait(lambda: page("document.querySelector('#row button') !== null"))
    assert page("document.title") == "flights"
    assert page("[...document.querySelectorAll('select[name=carrier] option')].map(o => o.value)") == [
        "",
        "AA",
        "B6",
        "UA",
    ]
    row = {"distance": 1000.0, "hour": 20, "carrier": "AA", "weekend": None}
    for name, value in row.items():
        text = "" if value is None else str(value)
        page(f"document.querySelector('[name={name}]').value = {json.dumps(text)}")
    page("document.querySelector('#row button').click()")
    shown = wait(lambda: page("document.querySelector('#result strong')?.textContent"))
    assert shown == pipeline.predict([row])[0]["prediction"]
    best = max(pipeline.predict_proba([row])[0].values())
    assert page("document.querySelector('#result td + td').textContent") == f"{100 * best:.1f} %"

    page("document.querySelector('[name=hour]').type = 'text'")
    page("document.querySelector('[name=hour]').dataset.kind = 'text'")
    page("document.querySelector('[name=hour]').value = 'noon'")
    page("document.querySelector('#row button').click()")
    told = wait(lambda: page("document.querySelector('#result div')?.textContent"))
    assert told.startswith("hour: expected a whole number")

    page("document.querySelector('[name=hour]').dataset.kind = 'number'")
    page("document.getElementById('next').click()")
    example = pipeline.examples.to_dicts()[1]
    wait(
        lambda: (
            page("document.querySelector('#result strong')?.textContent")
            == pipeline.predict([example])[0]["prediction"]
        )
    )
    assert page("document.querySelector('[name=carrier]').value") == example["carrier"]
    command = page("document.getElementById('wire').textContent")
    answer = subprocess.run(["sh", "-c", command], capture_output=True, check=True).stdout
    assert json.loads(answer) == {"predictions": [pipeline.predict([example])[0]["prediction"]]}


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_documentation_shows_requests_that_work(url: str, browse: Any) -> None:
    page = browse(f"{url}/docs")
    wait(lambda: page("document.querySelector('pre.curl') !== null"))
    commands = wait(lambda: page("[...document.querySelectorAll('pre.curl')].map(p => p.textContent)"))
    assert len(commands) >= 6
    for command in commands:
        assert "SERVER" not in command
        subprocess.run(["sh", "-c", f"{command} --fail --silent --show-error"], capture_output=True, check=True)


AWKWARD = [
    "elements",
    "dataset",
    "addEventListener",
    "getAttribute",
    "querySelectorAll",
    "__proto__",
    "name",
    "id",
    "length",
    "submit",
]


def awkward() -> InferencePipeline:
    """A model whose columns are called as parts of a form are; the first is a number beyond 2^53, one a long text."""
    schema = {
        "n": pl.Int64(),
        **dict.fromkeys(AWKWARD, pl.Float64()),
        "text": pl.String(),
        "tags": pl.List(pl.String()),
    }
    examples = pl.DataFrame(
        [
            {"n": n, **dict.fromkeys(AWKWARD, 0.5), "text": text, "tags": ["a"]}
            for n, text in ((2**53 + 1, LONG), (7, "short"))
        ],
        schema=schema,
    )
    target = Target(("y",), Task.REGRESSION, (pl.Int64(),))
    return InferencePipeline(None, Model("serve-second", None, schema, target, examples=examples))


LONG = "\nA text of\nseveral lines, with <b>&amp;</b> in it, and longer than a field is wide."


@register_framework
class Second(Framework):
    """Answers with its first column, which is whole."""

    name = "serve-second"

    def train(self, context: Any) -> Any:
        raise NotImplementedError

    def predict(self, model: Any, features: Any) -> Any:
        return np.array([2.0**53 + 2] * features.n_rows)

    def save(self, model: Any, directory: Any) -> None:
        raise NotImplementedError

    def load(self, directory: Any) -> Any:
        raise NotImplementedError


def test_a_long_text_has_a_field_for_it() -> None:
    html = form_page.html("x", awkward(), {}, has_probabilities=False)[0].decode()
    assert f'<textarea name="text" data-kind="text" rows="3">\n{escape(LONG)}</textarea>' in html
    assert f'value="{2**53 + 1}"' in html
    assert 'name="tags" data-kind="json" rows="1"' in html


@pytest.mark.slow
def test_columns_of_any_name_and_whole_numbers_of_any_size(browse: Any) -> None:
    app = create_app(awkward(), name="awkward")
    asked: list[Any] = []
    reader = app._served.reader
    rows = reader.rows
    reader.rows = lambda sent: asked.append(sent) or rows(sent)  # type: ignore[assignment, func-returns-value, method-assign]
    with served(app) as port:
        open_page = browse(f"http://127.0.0.1:{port}/")
        wait(lambda: open_page("document.querySelector('#row button') !== null"))
        open_page("document.querySelector('#row button').click()")
        shown = wait(lambda: open_page("document.querySelector('#result strong')?.textContent"))
        assert shown == str(2**53 + 2)
        assert asked == [[{"n": 2**53 + 1, **dict.fromkeys(AWKWARD, 0.5), "text": LONG, "tags": ["a"]}]]
        assert str(2**53 + 1) in open_page("document.getElementById('wire').textContent")
        open_page("document.getElementById('next').click()")
        wait(lambda: len(asked) == 2)
        assert (asked[1][0]["n"], asked[1][0]["text"]) == (7, "short")
        open_page("document.getElementById('next').click()")
        wait(lambda: len(asked) == 3)
        assert asked[2] == asked[0]
