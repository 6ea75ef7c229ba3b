"""The command line as a module: `python -m rayline` is `rayline`."""

from __future__ import annotations

from rayline.cli import app

if __name__ == "__main__":
    app(prog_name="rayline")
