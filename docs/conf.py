"""The documentation site: `python -m sphinx -W -n docs build/site` writes it as HTML."""

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
    "sphinx_design",
    "command_reference",
    "mathml",
    "public_names",
    "root_pages",
    "settings_tables",
]
exclude_patterns = ["extensions"]

# Markdown: headings are targets, so that `page.md#heading` is a link that the build checks
myst_enable_extensions = ["colon_fence", "dollarmath"]
myst_heading_anchors = 4

# the API reference: types are in signatures, members as in the source, `name` is a Python name
autodoc_class_signature = "mixed"
autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
python_maximum_signature_line_length = 115  # with the module, which methods do not show
default_role = "py:obj"

smartquotes = False  # `--option` and "word" stay as they are typed

html_theme = "furo"
html_title = f"lightloom {release}"
html_copy_source = False
html_math_renderer = "mathml"
html_static_path = ["_static"]
html_css_files = ["site.css"]

# the build needs no network, so other projects' pages are not asked for names
nitpick_ignore_regex = [
    ("py:.*", r"(?!lightloom).*"),
    ("py:.*", r"lightloom\.instruments\.conformance\.Kind"),  # a type variable
]
