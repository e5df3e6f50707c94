"""How Sphinx builds these pages: ``make docs``. Warnings are errors there."""

from importlib.metadata import version as installed_version

project = "stem-kombu"
author = "the stem-kombu authors"
copyright = "2026, the stem-kombu authors"
release = version = installed_version("stem-kombu")

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.viewcode"]
source_suffix = {".md": "markdown", ".rst": "restructuredtext"}
exclude_patterns = ["_build"]
nitpicky = False  # annotations name classes of kombu and billiard, which publish no inventory that could be linked here

myst_heading_anchors = 3
myst_enable_extensions = ["colon_fence", "deflist"]

autodoc_member_order = "bysource"
autodoc_typehints = "signature"

html_theme = "alabaster"
html_theme_options = {"description": "See, stop and steer Kombu and Celery workers", "fixed_sidebar": True}
html_title = f"stem-kombu {release}"
