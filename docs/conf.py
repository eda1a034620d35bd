"""How the documentation is built: ``sphinx-build -W -n docs build/docs``."""

from __future__ import annotations

import importlib.metadata
from typing import Any

project = "pytest-clusterjobs"
author = "The pytest-clusterjobs developers"
copyright = author
release = version = importlib.metadata.version("pytest-clusterjobs")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 3
html_theme = "furo"
html_title = f"{project} {release}"
exclude_patterns = ["_build"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"
napoleon_google_docstring = True
napoleon_numpy_docstring = False
# Types of other projects: their documentation is not linked, so that a build needs no network.
nitpick_ignore_regex = [("py:.*", r"(?!pytest_clusterjobs\.).*"), ("py:class", r".*\.[PRF]")]


def _hide_constructor(app: Any, what: str, name: str, obj: Any, options: Any, signature: str, returns: str) -> Any:
    """Show no signature of a class: users make none of these."""
    return ("", None) if what == "class" else (signature, returns)


def setup(app: Any) -> None:
    """Connect what is defined here."""
    app.connect("autodoc-process-signature", _hide_constructor)
