"""What a failure shows: a sentence where an exercise is not written yet, what the answer got wrong where it is; and a
traceback only for what stopped inside the answer. The tests themselves, which nearly solve some, are not shown."""

import traceback
from pathlib import Path

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    try:
        return (yield)
    except NotImplementedError as error:
        said = str(error)
    except AssertionError as error:
        if any(Path(frame.filename).name == "adapters.py" for frame in traceback.extract_tb(error.__traceback__)):
            raise  # the student's own
        said = str(error).strip()
    pytest.fail(said, pytrace=False)
