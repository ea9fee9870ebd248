"""The documentation site: `python -m sphinx -W -n docs site` writes it as HTML."""

import sys
from importlib.metadata import version as version_of
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "extensions"))

project = "lightloom"
author = "The lightloom authors"
project_copyright = "The lightloom authors, MIT licence"
version = release = version_of("lightloom")

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.napoleon",
    "sphinx_design",
]
exclude_patterns = ["extensions"]

# Markdown: headings are targets, so that `page.md#heading` is a link that the build checks
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

html_theme = "furo"
html_title = f"lightloom {release}"
html_copy_source = False

# the build needs no network, so other projects' pages are not asked for names
nitpick_ignore_regex = [("py:.*", r"(?!lightloom).*")]
