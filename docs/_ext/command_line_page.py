"""The directive `command-line`: every command of `rayline` with its arguments and options, from the program itself."""

from __future__ import annotations

from typing import Any

import typer
from docutils import nodes
from docutils.statemachine import StringList
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

from rayline import cli


def text() -> list[str]:
    """The commands as Markdown."""
    group: Any = typer.main.get_command(cli.app)
    lines: list[str] = []
    for name, command in group.commands.items():
        lines += [f"## rayline {name}", "", command.help or "", "", "| argument | what it does |", "|---|---|"]
        for parameter in command.params:
            is_option = parameter.param_type_name == "option"
            shown = ", ".join(f"`{o}`" for o in parameter.opts) if is_option else f"`{parameter.name.upper()}`"
            about = " ".join((parameter.help or "").split())
            if is_option and parameter.default not in (None, False, ()) and not callable(parameter.default):
                about += f" By default `{parameter.default}`."
            lines.append(f"| {shown} | {about.replace('|', '/')} |")
        lines.append("")
    return lines


class CommandLine(SphinxDirective):
    def run(self) -> list[nodes.Node]:
        self.env.note_dependency(cli.__file__)
        parent = nodes.section()
        parent.document = self.state.document
        self.state.nested_parse(StringList(text(), cli.__file__), self.content_offset, parent, match_titles=True)
        return parent.children


def setup(app: Sphinx) -> dict[str, bool]:
    app.add_directive("command-line", CommandLine)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
