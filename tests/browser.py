"""A Chromium of the system's own, and a folder served to it; the tests that need them skip, aloud, without."""

import contextlib
import functools
import http.server
import shutil
import threading

import pytest

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable")


@contextlib.contextmanager
def chromium():
    """A headless browser that finds no host but 127.0.0.1."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: no browser to look with")
    path = next(filter(None, map(shutil.which, NAMES)), None)
    if path is None:
        pytest.skip("no Chromium here: install the system's package `chromium` to look at the pages")
    with api.sync_playwright() as started:
        browser = started.chromium.launch(executable_path=path, args=[
            "--no-sandbox", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"])
        yield browser
        browser.close()


class _Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass


@contextlib.contextmanager
def served(folder):
    """The address of a folder, ending in a slash."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), functools.partial(_Quiet, directory=folder))
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    server.server_close()
