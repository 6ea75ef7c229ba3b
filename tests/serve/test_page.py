"""The page in a real browser: the form that it makes asks the model, and shows what it says."""

from __future__ import annotations

import contextlib
import itertools
import json
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from rayline.inference.pipeline import InferencePipeline
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
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--remote-debugging-port=0", f"--user-data-dir={tmp_path}"]
    process = subprocess.Popen([CHROMIUM, *options, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
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
    assert page("[...document.querySelectorAll('select[name=carrier] option')].map(o => o.value)") == ["", "AA", "B6", "UA"]
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
    wait(lambda: page("document.querySelector('#result strong')?.textContent") == pipeline.predict([example])[0]["prediction"])
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
