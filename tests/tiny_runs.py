"""What the tests of the training functions share: a model as small as they come, and how runs are compared."""

import pytest
import torch

from lrt import tiny
from lrt.checkpoints import save_model
from lrt.models import Loaded
from lrt.prompts import TINY_WORDING

SHAPE = tiny.Shape(text=32, layers=2, heads=2, vision=32, vision_layers=1, vision_heads=2)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


def build(architecture: str = "qwen") -> Loaded:
    """A model with random weights (always the same)."""
    processor = tiny.qwen_processor() if architecture == "qwen" else tiny.llava_processor()
    with torch.random.fork_rng():
        torch.manual_seed(0)
        maker = tiny.build_qwen if architecture == "qwen" else tiny.build_llava
        model = maker(SHAPE, processor)
    return Loaded(architecture, model, processor, TINY_WORDING)


def saved(folder, architecture: str = "qwen") -> str:
    save_model(build(architecture), folder)
    return str(folder)


def weights(model) -> dict[str, torch.Tensor]:
    return {name: p.detach().cpu().clone() for name, p in model.named_parameters()}


def assert_same_weights(a: dict, b: dict) -> None:
    assert a.keys() == b.keys()
    assert [name for name in a if not torch.equal(a[name], b[name])] == []


def changed(a: dict, b: dict) -> set[str]:
    return {name for name in a if not torch.equal(a[name], b[name])}


def untimed(log: list[dict]) -> list[dict]:
    return [{k: v for k, v in record.items() if not k.startswith("time_")} for record in log]
