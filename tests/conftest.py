"""What every test shares: no network, one thread a process, a spoken skip where a GPU is missing, one built book."""

import os

# Set before anything imports torch or the Hugging Face libraries; the notebooks' kernels inherit it.
for name in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE", "HF_HUB_DISABLE_TELEMETRY", "WANDB_DISABLED"):
    os.environ[name] = "1"
os.environ.setdefault("MPLBACKEND", "Agg")
os.environ.setdefault("OMP_NUM_THREADS", "1")  # two test processes share two cores
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")

import pytest  # noqa: E402

FIRST = ("test_notebooks.py", "test_browser.py", "test_colab.py", "test_book.py", "test_sharded.py")  # the longest


def pytest_collection_modifyitems(items):
    """The longest files first, so that no process is left with one at the end; a skip for tests without their GPU."""
    place = {name: i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: place.get(item.path.name, len(FIRST)))
    _skip_without_gpu([item for item in items if item.get_closest_marker("gpu")])


def _skip_without_gpu(needing_gpu):
    """`-ra` in pyproject.toml then says so."""
    if not needing_gpu:
        return
    import torch

    if not torch.cuda.is_available():
        skip = pytest.mark.skip(reason="no CUDA device here; run `pytest -m gpu` on a machine with one")
        for item in needing_gpu:
            item.add_marker(skip)


@pytest.fixture(scope="session")
def site(tmp_path_factory):
    """The folder of the built book; skipped, aloud, where it cannot be built for want of vendored files."""
    from built_book import built

    own = tmp_path_factory.getbasetemp()
    return built(own.parent if "PYTEST_XDIST_WORKER" in os.environ else own)  # xdist: a folder a process, in the run's
