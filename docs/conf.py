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

html_theme = "furo"
html_title = f"stem-kombu {release}"
html_theme_options = {
    "light_css_variables": {"color-brand-primary": "#2f5f9e", "color-brand-content": "#2f5f9e"},
    "dark_css_variables": {"color-brand-primary": "#8fb8ee", "color-brand-content": "#8fb8ee"},
}
html_static_path = ["_static"]
html_css_files = ["wide.css"]
smartquotes = False  # two dashes are an option, not a dash
