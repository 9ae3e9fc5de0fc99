"""A run whose weights are spread over two processes (FSDP2) saves whole weights, and goes on after a kill."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import sharded_run
import yaml
from safetensors.torch import load_file
from tiny_runs import assert_same_weights

from lrt import checkpoints, models

SCRIPT = Path(sharded_run.__file__)
CONFIG = SCRIPT.parents[1] / "data" / "configs" / "8-gpus.yaml"


def launched(folder: Path, out: str, *more: str) -> subprocess.CompletedProcess:
    """As `data/configs/8-gpus.yaml` says it, but for two processes and precision."""
    fsdp = yaml.safe_load(CONFIG.read_text())["fsdp_config"]
    options = [word for name, value in fsdp.items() for word in (f"--{name}", str(value).lower())]
    options[options.index("--fsdp_auto_wrap_policy") + 1] = fsdp["fsdp_auto_wrap_policy"]
    options[options.index("--fsdp_state_dict_type") + 1] = fsdp["fsdp_state_dict_type"]
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--use_fsdp", *options, "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no", "--main_process_port", "0"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.run([*launch, str(SCRIPT), str(folder), str(folder / out), *more], env=environment,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """`whole`: a run without a break; `killed`: one that died after its third step, then started again."""
    folder = tmp_path_factory.mktemp("sharded")
    sharded_run.prepare(folder)
    died = launched(folder, "killed", "3", str(folder / "whole"))
    assert (folder / "whole" / "done.json").exists(), died.stdout[-4000:]
    assert died.returncode != 0 and not (folder / "killed" / "done.json").exists(), died.stdout[-4000:]
    checkpoint, step = checkpoints.last_checkpoint(folder / "killed")
    assert step == 2 and (checkpoint / "optimizer.bin").exists()  # FSDP's own name
    again = launched(folder, "killed")
    assert again.returncode == 0, again.stdout[-4000:]
    return folder


def adapter(folder: Path) -> dict:
    return load_file(folder / "model" / "adapter_model.safetensors")


def untimed(folder: Path) -> list[dict]:
    records = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    return [{k: v for k, v in record.items() if not k.startswith("time_")} for record in records]


def test_the_weights_that_are_saved_are_whole(folder):
    loaded = models.load(str(folder / "whole" / "model"))
    shapes = {name: tuple(p.shape) for name, p in loaded.model.named_parameters() if "lora_" in name}
    saved = adapter(folder / "whole")
    assert {name.replace(".weight", ".default.weight"): tuple(w.shape) for name, w in saved.items()} == shapes
    assert any(w.abs().max() > 0 for name, w in saved.items() if "lora_B" in name), "it was trained"


def test_a_killed_run_ends_as_one_that_was_not(folder):
    assert_same_weights(adapter(folder / "whole"), adapter(folder / "killed"))
    assert untimed(folder / "whole") == untimed(folder / "killed")
    assert len(untimed(folder / "whole")) == sharded_run.STEPS
