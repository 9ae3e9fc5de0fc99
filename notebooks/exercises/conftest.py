"""An exercise that is not written yet fails with one sentence, not with a traceback."""

import pytest


@pytest.hookimpl(wrapper=True)
def pytest_pyfunc_call():
    try:
        return (yield)
    except NotImplementedError as error:
        missing = str(error)
    pytest.fail(missing, pytrace=False)
