"""The book for the tests that look at it, built once a run of the suite, whichever of its processes asks first."""

from pathlib import Path

import pytest
from filelock import FileLock

from lrt.book import assets, build

BOOK = Path(__file__).resolve().parents[1] / "book"


def built(shared: Path) -> Path:
    """The site's folder. `shared` is a folder that all processes of the run have, and this run alone. Skipped, aloud,
    where a tool is missing, or the vendored files are not there and cannot be fetched."""
    for tool in build.TOOLS:
        pytest.importorskip(tool)
    with FileLock(shared / "book.lock"):
        note = shared / "book.txt"
        if not note.is_file():
            try:
                assets.ensure(BOOK / "_vendor", BOOK / "_tarballs")
            except ValueError as error:
                pytest.skip(str(error))
            note.write_text(str(build.build(report=lambda text: None).parent), encoding="utf-8")
        return Path(note.read_text(encoding="utf-8"))
