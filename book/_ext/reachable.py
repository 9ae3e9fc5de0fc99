"""Where other packages' HTML leaves a screen reader behind, it is put right as a page is written.

Each entry names who writes it so. `tests/test_browser.py` holds the pages against axe's rules, and fails once an entry
is missing; the sidebar and the search button, which the theme writes, are put right in `_templates`.
"""

import re

REPLACED = {
    # myst-nb: a label hides the words "Show code cell content", which say the same better
    '<summary aria-label="Toggle hidden content">': "<summary>",
    # Sphinx: the items of this list have a role of their own, which no list may hold
    '<div role="list" class="citation-list">': '<div class="citation-list">',
}
# Sphinx: the parameters of a long signature are definitions of no term
PARAMETERS = re.compile(r'<dl>\n(<dd><em class="sig-param">.*?)</dl>', re.S)


def put_right(app, pagename, templatename, context, doctree):
    """Change the body of one page."""
    body = context.get("body")
    if not body:
        return
    for old, new in REPLACED.items():
        body = body.replace(old, new)
    context["body"] = PARAMETERS.sub(_parameters, body)


def _parameters(match):
    lines = match[1].replace("<dd>", "<span>").replace("</dd>", "</span>")
    return f'<span class="sig-lines">{lines}</span>'


def setup(app):
    app.connect("html-page-context", put_right)
    return {"version": "1", "parallel_read_safe": True}
