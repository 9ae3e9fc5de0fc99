"""Sphinx's settings. `make book` builds the site; `lrt.book.build` says of what."""

import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE / "_ext"))
sys.path.insert(0, str(HERE.parent))

import lrt  # noqa: E402

project = "lrt"
author = "The lrt contributors"
copyright = "The lrt contributors. Text and figures: CC BY 4.0; code: Apache 2.0"  # noqa: A001
release = lrt.__version__

extensions = [
    "myst_nb", "sphinx.ext.autodoc", "sphinx.ext.mathjax", "sphinx_exercise",
    "sphinxcontrib.bibtex", "sphinx_design", "sphinx_copybutton", "sphinx_togglebutton", "readable", "reachable",
]
templates_path = ["_templates"]
exclude_patterns = ["_build", "_generated", "_vendor", "_tarballs", "executed/README.md", "**.ipynb_checkpoints"]

smartquotes = False  # options such as --help are options, in docstrings too

# --- Markdown and notebooks: read, never run -------------------------------------------------------------------------

nb_execution_mode = "off"
nb_merge_streams = True  # a progress bar stays one block
nb_render_markdown_format = "myst"  # of outputs: plain CommonMark has no tables
nb_ipywidgets_js = {"vendor/html-manager/embed.js": {"data-jupyter-widgets-cdn": "vendor/not-served/"}}
myst_enable_extensions = ["amsmath", "attrs_block", "attrs_inline", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
bibtex_bibfiles = ["references.bib"]
bibtex_reference_style = "author_year"

# --- docstrings ------------------------------------------------------------------------------------------------------

autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
maximum_signature_line_length = 90
python_use_unqualified_type_names = True
nitpick_ignore_regex = [
    (r"py:.*", r"(?!lrt\.).*"),  # other packages: their inventories would have to be fetched
    (r"py:.*", r"lrt\.(\w+\.)*_.*"),  # private classes in signatures have no entry
    (r"py:(obj|attr|data|class)", r"lrt\.\w+\.[A-Z]\w*"),  # names of types, such as `OnStep`: constants have no entry
]

# --- the site: everything from its own folder ------------------------------------------------------------------------

html_theme = "sphinx_book_theme"
html_title = "Listener-rewarded thinking"
html_static_path = ["_static", "_vendor"]
html_css_files = ["book.css"]
html_favicon = "_static/favicon.svg"
html_copy_source = True
html_show_sourcelink = False
html_context = {"default_mode": "auto"}  # light or dark, as the reader's machine is
html_theme_options = {
    "path_to_docs": "book",
    "navbar_persistent": [],  # the search field stands in the sidebar already
    "use_download_button": True,
    "use_fullscreen_button": False,
    "show_toc_level": 2,
    "show_navbar_depth": 1,
    "max_navbar_depth": 2,
    "collapse_navbar": True,
    "pygments_light_style": "a11y-high-contrast-light",
    "pygments_dark_style": "a11y-high-contrast-dark",
}
mathjax_path = "vendor/mathjax/tex-chtml.js"
mathjax4_config = {"loader": {"paths": {"fonts": "[mathjax]/fonts"}}}
copybutton_exclude = ".linenos, .gp, .go"
togglebutton_hint = "Show"
