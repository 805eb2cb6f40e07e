"""Sphinx configuration of the site; `make docs` builds it."""

from __future__ import annotations

from importlib.metadata import version as installed_version

project = "Organism Flows"
author = project_copyright = "The Organism Flows authors"
version = release = installed_version("organism-flows")

extensions = ["myst_parser"]
# `README.md` is the front page on a code host. `index.md` includes it and adds the navigation.
exclude_patterns = ["_build", "README.md"]
# The same anchors as on code hosts, so that one link works in both places.
myst_heading_anchors = 4
nitpicky = True

html_theme = "furo"
html_title = project
html_copy_source = False
html_show_sphinx = False
