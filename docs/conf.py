"""Sphinx configuration. Pages about systems, equations, encoders and the API are written by ``_ext/pages.py`` at every build."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

import expressor

project = "expressor"
author = "The expressor developers"
copyright = f"{author}, BSD-3-Clause"
version = release = expressor.__version__

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx.ext.viewcode",
    "sphinx_copybutton",
    "sphinx_design",
    "_ext.docstrings",
    "_ext.mathml",
    "_ext.pages",
]
exclude_patterns = ["_build", "_ext", "examples", "tables", "guides/_*.md"]
html_theme = "furo"
html_title = "expressor"
html_static_path = ["_static"]
html_css_files = ["expressor.css"]
html_show_sphinx = False
html_math_renderer = "mathml"
templates_path: list[str] = []
pygments_style = "friendly"
python_maximum_signature_line_length = 88

myst_enable_extensions = ["colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
# Emphasis in text such as `data.splits` must stay code, never be guessed.
default_role = "code"

autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
napoleon_google_docstring = False
# One label for fitted attributes and fields of records, with their trailing underscores.
napoleon_custom_sections = [("Attributes", "params_style")]
napoleon_use_rtype = False

# Every name of ours that a text refers to must exist. Others' names are not looked up: the build needs no network.
nitpicky = True
nitpick_ignore_regex = [
    ("py:.*", r"(?!expressor\.).*"),
    ("py:class", r"expressor\..*\.(T|Function|P)"),  # type variables
]

copybutton_prompt_text = r"\$ |>>> |\.\.\. "
copybutton_prompt_is_regexp = True
