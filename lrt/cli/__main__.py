"""`python -m lrt.cli` is `lrt`."""

from lrt.cli import app

app()
