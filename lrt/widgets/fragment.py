"""What the things to play with share: a page part that means something by itself, and a script that brings it to life.

A fragment is one piece of HTML:

    <div class="lrt-widget" data-lrt-widget="NAME">
      static content: a figure or table with words      what is there without scripts, in print and on GitHub
      <script type="application/json">                   the numbers
    </div>
    <script>                                             base.js and NAME.js, which draw into a shadow root

It asks for no other file, so it works in JupyterLab, Colab and VS Code, and in the book, where executed copies carry
it. Styles stay in the shadow root, the script finds its parts by attribute, so several on one page, or one of them
twice, do not clash. Where the script fails, the static content stays.

Colours are the palette of `lrt.style`, and the page's own for text and ground: the variables of the site's theme
(--pst-color-...), of JupyterLab (--jp-...), VS Code or Colab, otherwise black on white.
"""

import base64
import html
import io
import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from string import Template
from typing import Any

from PIL import Image

from lrt import style

LIMIT = 60_000  # bytes of a fragment: an executed notebook holds several
HERE = Path(__file__).parent
PALETTE = {name: getattr(style, name) for name in
           ("ORANGE", "SKY", "GREEN", "YELLOW", "BLUE", "VERMILION", "PURPLE", "GREY")}


def fragment(name: str, title: str, data: Mapping[str, Any], static: str, parts: Sequence[str] = ()) -> str:
    """The HTML of a thing to play with. `name`: of its .js and .css beside this file; `title`: plain text; `data`: what
    the script draws, made of JSON's types; `static`: HTML, its text escaped by whoever wrote it (`escape`, `table`);
    `parts`: further .js files that it needs.

    ValueError if it is larger than `LIMIT`, or a number is not finite (JSON has no word for that).
    """
    css = "".join((HERE / part).read_text(encoding="utf-8") for part in ("base.css", f"{name}.css"))
    css = Template(css).substitute(PALETTE)
    code = "".join((HERE / f"{part}.js").read_text(encoding="utf-8") for part in ("base", *parts, name))
    text = (
        f'<div class="lrt-widget" data-lrt-widget="{escape(name)}">\n<style>{ROOM}</style>\n'
        f'<p><strong>{escape(title)}</strong></p>\n{static}\n'
        f'<script type="application/json">{in_script(data)}</script>\n</div>\n'
        f"<script>(() => {{\n{squeezed(code)}\nbringToLife({in_script(name)}, {in_script(title)}, "
        f"{in_script(squeezed(css))}, draw);\n}})();</script>\n"
    )
    if (size := len(text.encode())) > LIMIT:
        raise ValueError(f"{name}: {size / 1000:.0f} KB, where {LIMIT // 1000} KB are the most: show less in it")
    return text


# The site puts a light card behind HTML outputs in the dark; this part brings its own ground.
ROOM = (".text_html:has(>.lrt-widget){background:none!important;color:inherit!important;padding:0!important}"
        ".lrt-widget table{width:auto}.lrt-widget th,.lrt-widget td{padding:.1em .6em;text-align:right}"
        ".lrt-widget :is(caption,tbody th){text-align:left}")


def in_script(value: Any) -> str:
    """JSON that may stand inside <script>: "<" cannot end the script or open a comment, and the two separators that
    are line ends to JavaScript alone are escaped. ValueError for a number that is not finite."""
    text = json.dumps(value, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def squeezed(text: str) -> str:
    """JavaScript or CSS without the indentation, empty lines and lines of comment that are for its readers."""
    lines = (line.strip() for line in text.splitlines())
    return "\n".join(line for line in lines if line and not line.startswith("//"))


# --- static content --------------------------------------------------------------------------------------------------


def escape(text: Any) -> str:
    return html.escape(str(text))


def table(head: Sequence[str], rows: Iterable[Sequence], caption: str) -> str:
    """A table that reads well without any style: the first cell of a row names it. All text is escaped."""
    cells = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    body = "".join(
        f'<tr><th scope="row">{escape(first)}</th>' + "".join(f"<td>{escape(cell)}</td>" for cell in rest) + "</tr>"
        for first, *rest in rows
    )
    return (f'<div style="overflow-x:auto" tabindex="0" role="group" aria-label="{escape(caption)}"><table>'
            f"<caption>{escape(caption)}</caption>"
            f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table></div>")


def paragraph(text: str) -> str:
    return f"<p>{escape(text)}</p>"


def picture(image: Image.Image) -> str:
    """A data URI of an image of the tiny world, as lossy WebP: a tenth of its PNG, most of which would be noise."""
    buffer = io.BytesIO()
    image.convert("RGB").save(buffer, "webp", quality=80, method=6)
    return "data:image/webp;base64," + base64.b64encode(buffer.getvalue()).decode()
