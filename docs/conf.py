"""The documentation site, built by Sphinx: `make docs` writes it to build/docs.

Its sources are the pages as they lie in the repository, so that their links work there and on the site.
README.md is its front page. Files that pages link to, such as records, are copied into the site.
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from docutils import nodes
from sphinx.addnodes import pending_xref
from sphinx.application import Sphinx

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from lasfast import __version__  # noqa: E402

project = "lasfast"
release = version = __version__
html_title = f"lasfast {version}"
html_theme = "furo"  # it has the reader's own fonts, and fetches nothing
html_show_copyright = html_show_sphinx = html_copy_source = False
html_theme_options = {"navigation_with_keys": True}

extensions = [
    "myst_parser",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",
    "sphinx_copybutton",
]
root_doc = "README"
exclude_patterns = [".*", "benchmarks", "build", "csrc", "data", "lasfast", "runs", "tests"]
include_patterns = ["*.md", "docs/*.md", "docs/*.rst", "docs/tutorials/*.md", "docs/reference/*.rst"]
templates_path = [str(ROOT / "docs" / "_templates")]

myst_heading_anchors = 3  # links to headings are GitHub's
copybutton_prompt_text = r"^\$ "
copybutton_prompt_is_regexp = True

autosummary_ignore_module_all = False
autosummary_imported_members = True
autodoc_member_order = "bysource"
autodoc_typehints = "signature"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
default_role = "code"
napoleon_numpy_docstring = False
python_maximum_signature_line_length = 90

# The front page's table of contents, which README.md itself cannot have: GitHub would show the directive.
NAVIGATION = {
    "Start": ["install", "commands", "workflow"],
    "Tutorials": ["tutorials/folder", "tutorials/smaller", "tutorials/choosing", "tutorials/own-space"],
    "Guides": [
        *("own-network", "data", "evaluation", "training", "operators", "recipes"),
        *("distillation", "deploy", "distributed", "any-network", "tables"),
    ],
    "Methods": ["nir", "layernas", "evolution", "itnas", "bit-widths", "papers"],
    "Measured": [
        *("performance", "ranking", "relation", "searchers", "searchers-cells", "sharing", "one-shot"),
        *("tabular-macro", "itnas-parts", "recipe-figures"),
    ],
    "Reference": ["reference"],
    "The project": ["/ARCHITECTURE", "/CONTRIBUTING", "releasing", "/CHANGELOG"],
}


def add_navigation(app: Sphinx, page: str, source: list[str]) -> None:
    """Put the table of contents at the end of the front page."""
    if page == root_doc:
        for caption, pages in NAVIGATION.items():
            names = "\n".join(name if name.startswith("/") else f"/docs/{name}" for name in pages)
            source[0] += f"\n\n```{{toctree}}\n:hidden:\n:caption: {caption}\n\n{names}\n```\n"


def unlink_folders(app: Sphinx, document: nodes.document) -> None:
    """Leave links to folders, which GitHub lists, as text: a site has no page of a folder."""
    for link in list(document.findall(pending_xref)):
        if (app.srcdir / link.get("refdoc", "")).parent.joinpath(link["reftarget"]).is_dir():
            link.replace_self(link.children)


def copy_front_page(app: Sphinx, error: Exception | None) -> None:
    """Make the front page the one that servers show."""
    if error is None and app.builder.name == "html":
        shutil.copyfile(app.outdir / "README.html", app.outdir / "index.html")


def setup(app: Sphinx) -> None:
    """Connect the functions above."""
    app.connect("source-read", add_navigation)
    app.connect("doctree-read", unlink_folders)
    app.connect("build-finished", copy_front_page)
