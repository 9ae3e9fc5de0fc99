"""The book: a site made of written pages, executed notebooks, docstrings and committed records; nothing is run for it.

    lrt book build      # `make book`: book/_build/html
    lrt book refresh    # the executed copies again, from a run of the notebooks

    book/*.md          written pages          book/_generated/   parts made of records (`lrt.book.pages`)
    book/executed/     executed notebooks     book/reference/    a page a module, for autodoc
    book/_static/      styles                 book/_vendor/      MathJax and the widget manager, fetched once

What stands on the right is not committed.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import lrt

TOOLS = ("sphinx", "myst_nb", "sphinx_book_theme", "sphinx_exercise", "sphinxcontrib.bibtex", "sphinx_design",
         "sphinx_copybutton", "sphinx_togglebutton")


def repository() -> Path:
    """The clone that this package is in. ValueError where there is none: the book is not part of the package."""
    root = Path(lrt.__file__).resolve().parents[1]
    if not (root / "book" / "conf.py").is_file():
        raise ValueError("the book is not here: run this in a clone of the repository, where book/ is")
    return root


def build(out: str | Path | None = None, report: Callable[[str], None] = print) -> Path:
    """Build the site, warnings as errors, and return its first page. ValueError says what is missing, or where
    Sphinx stopped; the pages it has built until then stay."""
    from importlib.util import find_spec

    start, root = time.monotonic(), repository()
    book = root / "book"
    out = Path(out).resolve() if out else book / "_build" / "html"
    if missing := [tool for tool in TOOLS if find_spec(tool.partition(".")[0]) is None]:
        raise ValueError(f"{missing[0]} is not installed: `make book` installs what requirements.lock names, "
                         "`pip install lrt[book]` the same without exact versions")
    if not any((book / "executed").glob("*.ipynb")):
        raise ValueError(f"no executed notebooks in {book / 'executed'}: `make executed` runs them")
    from sphinx.cmd.build import build_main

    from lrt.book import assets as book_assets
    from lrt.book import deck as book_deck
    from lrt.book import lists as book_lists
    from lrt.book import pages as book_pages

    if book_assets.ensure(book / "_vendor", book / "_tarballs"):
        report("fetched MathJax and the widget manager, once")
    with tempfile.TemporaryDirectory() as new:
        book_pages.write(root, Path(new) / "_generated")
        book_lists.reference(root / "lrt", Path(new) / "reference")
        for name in ("_generated", "reference"):
            sync(Path(new) / name, book / name)
    report(f"parts made of records: {time.monotonic() - start:.0f} s")
    doctrees = out.with_name(f"{out.name}.doctrees")
    if not (out / "searchindex.js").is_file():  # written last: without it, all pages are to be written again
        shutil.rmtree(doctrees, ignore_errors=True)
    if build_main(["-W", "-n", "--keep-going", "-q", "-b", "html", "-d", str(doctrees), str(book), str(out)]):
        shutil.rmtree(doctrees, ignore_errors=True)
        raise ValueError("Sphinx stopped at the warnings above: each names its page and line")
    book_deck.write(root, out)
    report(f"the book: {out / 'index.html'} ({time.monotonic() - start:.0f} s)")
    return out / "index.html"


def sync(new: Path, old: Path) -> None:
    """Make `old` equal to `new`, leaving alone what is equal already: Sphinx reads again what has a new date."""
    wanted = {path.relative_to(new): path for path in new.rglob("*") if path.is_file()}
    for name, path in wanted.items():
        target = old / name
        if not target.is_file() or target.read_bytes() != path.read_bytes():
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, target)
    for path in [path for path in old.rglob("*") if path.is_file() and path.relative_to(old) not in wanted]:
        path.unlink()


def refresh(run: str | Path | None = None, profile: str = "ci", report: Callable[[str], None] = print) -> list[Path]:
    """Make the executed copies again: from a finished run folder of `make tutorial`, or, without one, by running the
    notebooks under a profile (in `runs/book-PROFILE`, from where an earlier call stopped). A notebook that `make
    tutorial` leaves out is run on its own under the profile `ci`, in a folder of its own."""
    from lrt.book import executed as book_executed
    from lrt.course import tutorial

    root, ours = repository(), [path for group in tutorial.default_notebooks() for path in group]
    if run is None:
        run = root / "runs" / f"book-{profile}"
        tutorial.run(profile, os.path.relpath(run), seed=0)
    runs = dict.fromkeys(ours, Path(run))
    for path in sorted(set((root / "notebooks").glob("*.ipynb")) - set(ours)):
        runs[path] = root / "runs" / f"book-{path.stem}"
        tutorial.run_notebooks([[path]], "ci", os.path.relpath(runs[path]), seed=0)
    return book_executed.refresh(runs, root / "book" / "executed", report)
