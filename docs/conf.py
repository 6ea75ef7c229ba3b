"""The documentation site: `make docs` builds it into build/docs, with warnings as errors and without a network."""

from __future__ import annotations

import os
import sys
from pathlib import Path

HERE = Path(__file__).parent
sys.path[:0] = [str(HERE / "_ext"), str(HERE.parent / "src"), str(HERE.parent)]
# The tutorials run in processes of their own: on this source, and quiet.
os.environ["PYTHONPATH"] = os.pathsep.join([str(HERE.parent / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
os.environ |= {
    "RAYLINE_QUIET": "1",
    "OMP_NUM_THREADS": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "PYDEVD_DISABLE_FILE_VALIDATION": "1",
}

from rayline.core.version import VERSION

project, author, copyright = "Rayline", "the authors of Rayline", "the authors of Rayline, Apache-2.0"
version = release = VERSION

extensions = [
    "myst_nb",               # Markdown, and pages whose blocks are executed
    "sphinx.ext.autodoc",    # the reference, from docstrings
    "sphinx.ext.napoleon",   # which are numpydoc
    "sphinx_design",         # cards, tabs, grids
    "sphinx_copybutton",
    "guide_pages", "reference_pages", "command_line_page", "import_map", "llms_text",  # ours, in _ext
]  # fmt: skip
exclude_patterns = [
    "_build",
    "install/matrix.md",
    "migration/executed.md",
    "_ext",
    "decisions/0000-template.md",
    "notebooks",
]
suppress_warnings = [
    "myst.strikethrough",
    "misc.highlighting_failure",  # output of programs is no Python
]
default_role = "code"  # single backticks in docstrings are code
nitpicky = False

# -- Markdown and executed pages -----------------------------------------------------------------------------------------

myst_enable_extensions = ["colon_fence", "deflist", "attrs_inline", "substitution"]
myst_heading_anchors = 3
myst_substitutions = {"version": VERSION}
nb_execution_mode = os.environ.get("RAYLINE_DOCS_EXECUTE", "cache")  # a page runs again when its blocks have changed
if nb_execution_mode == "off":  # a page that has not run does not know its language
    suppress_warnings.append("myst-nb.lexer")
nb_execution_cache_path = str(HERE.parent / "build" / "docs-cache")
nb_execution_timeout = 180
nb_execution_raise_on_error = True
nb_execution_show_tb = True
nb_merge_streams = True
nb_output_stderr = "remove"  # warnings of other libraries

# -- reference -----------------------------------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
toc_object_entries_show_parents = "hide"  # fit() beside the page, not XGBoostTrainer.fit()
autodoc_default_options = {"show-inheritance": False}
napoleon_numpy_docstring, napoleon_google_docstring = True, False
napoleon_use_ivar = True  # the attributes of a result are no second description of its fields
napoleon_use_rtype = False
napoleon_use_param = False  # parameters that are described together stay together
maximum_signature_line_length = 80
python_use_unqualified_type_names = True

# -- looks ---------------------------------------------------------------------------------------------------------------

html_theme = "pydata_sphinx_theme"
html_title = f"Rayline {VERSION}"
html_static_path = ["_static"]
html_css_files = ["rayline.css"]
html_favicon = "_static/mark.svg"
html_show_sourcelink = False
html_copy_source = False
TWO_COLUMNS = {f"migration/{path.stem}": [] for path in HERE.glob("migration/*.md")}  # they need the room
html_sidebars = {"index": [], "install/index": [], "about/changelog": [], "benchmarks": [], **TWO_COLUMNS}
html_theme_options = {
    "logo": {"text": "Rayline", "image_light": "_static/mark.svg", "image_dark": "_static/mark.svg"},
    "navbar_align": "left",
    "header_links_before_dropdown": 8,
    "navbar_end": ["theme-switcher"],
    "navbar_persistent": ["search-button"],
    "show_prev_next": True,
    "secondary_sidebar_items": {"**": ["page-toc"], "index": [], **TWO_COLUMNS},
    "footer_start": ["copyright"],
    "footer_center": [],
    "footer_end": [],
    "show_nav_level": 1,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}


def setup(app):
    # The theme copies the mark before Sphinx makes the folder; it would become a file of its name.
    app.connect(
        "builder-inited", lambda app: (Path(app.outdir) / "_static").mkdir(parents=True, exist_ok=True), priority=1
    )
