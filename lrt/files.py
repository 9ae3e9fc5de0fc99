"""Small files that are whole or not there: text, JSON, and JSON lines, which a kill may tear at their end.

And JSON that somebody else wrote, read without trust.
"""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def write_json(path: Path, value: Any) -> None:
    """Write a whole file or none of it."""
    write_text(path, json.dumps(value, indent=1) + "\n")


def write_lines(path: Path, records: Iterable[dict]) -> None:
    """Write a whole file of JSON lines or none of it."""
    write_text(path, "".join(json.dumps(record) + "\n" for record in records))


def write_text(path: Path, text: str) -> None:
    """Write a whole file or none of it."""
    part = path.with_name(path.name + ".part")
    part.write_text(text, encoding="utf-8")
    os.replace(part, path)


def json_object(text: str | bytes, where: str, hint: str = "", like: str = "") -> dict:
    """The JSON object that a text from outside holds. ValueError that begins with `where`: for what is not JSON, or has
    a key twice, `hint` at its end; for what is JSON and no object, `like` at its end."""
    try:
        found = json.loads(text, object_pairs_hook=_each_key_once)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{where}: not JSON ({error}){hint}") from None
    if not isinstance(found, dict):
        raise ValueError(f"{where}: expected an object{like}")
    return found


def _each_key_once(pairs: list[tuple[str, object]]) -> dict:
    found = dict(pairs)
    if len(found) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the key {next(name for name in names if names.count(name) > 1)!r} twice in one object")
    return found


def read_lines(path: Path) -> list[dict]:
    """The JSON lines of a file, in order; one torn by a kill, or not ended yet, is left out. [] where there is none."""
    records = []
    for line in path.read_text(encoding="utf-8").split("\n")[:-1] if path.exists() else []:
        try:
            records.append(json.loads(line))
        except (json.JSONDecodeError, RecursionError):
            continue
    return records
