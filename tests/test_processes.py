"""GRPO with listeners in two processes gives the rewards and advantages of one, completion by completion."""

import json
import math
import os
import subprocess
import sys
from pathlib import Path

import injected_run
import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from injected_run import BROKEN, DEAF, GROUP, PAIRS, WORDS, completion

from lrt.profiles import profile

CONFIGS = Path(__file__).resolve().parents[1] / "data" / "configs"
SCRIPT = Path(injected_run.__file__)


def launched(folder: Path) -> subprocess.Popen:
    """`--multi_gpu` stands for torchrun's launcher: with `--cpu`, accelerate 1.15 starts several processes through
    mpirun alone, and without it silently one. The script itself asks for the CPU."""
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["--main_process_port", "0", str(SCRIPT), str(folder)]  # 0: any that is free
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(SCRIPT.parents[1])}
    return subprocess.Popen(launch, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """{processes: (rows of all processes in order, log of the first)}; the run in one process is in this one."""
    folder = tmp_path_factory.mktemp("processes")
    injected_run.prepare(folder)
    two = launched(folder)
    try:
        injected_run.main(folder)
        said, _ = two.communicate(timeout=400)
    finally:
        two.terminate()  # the launcher ends its processes
    assert two.returncode == 0, said[-4000:]
    parts = {n: [json.loads((folder / f"{n}-{rank}.json").read_text()) for rank in range(n)] for n in (1, 2)}
    assert [len(part["rows"]) for part in parts[2]] == [6, 6]  # the second group stands on both processes
    return {n: ([row for part in found for row in part["rows"]], found[0]["log"]) for n, found in parts.items()}


def by_completion(rows):
    found = {(row["pair_id"], row["completion"]): row for row in rows}
    assert len(found) == len(rows) == PAIRS * GROUP
    return found


def part(rows, k):
    return [row["rewards"][k] for row in rows]


def test_rewards_and_advantages_are_those_of_one_process(runs):
    one, two = (by_completion(runs[n][0]) for n in (1, 2))
    assert one.keys() == two.keys()
    for key in one:
        assert two[key]["rewards"] == pytest.approx(one[key]["rewards"], abs=1e-6, nan_ok=True)
        assert two[key]["advantage"] == pytest.approx(one[key]["advantage"], abs=1e-3)
    spread = [row["advantage"] for row in one.values()]
    assert max(spread) > 0.5 and min(spread) < -0.5  # there was something to compare


def test_the_step_is_that_of_one_process(runs):
    one, two = (runs[n][1] for n in (1, 2))
    assert two["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-3) and one["grad_norm"] > 0
    for name in ("reward", "reward_std", "rewards/listener_reward/mean", "rewards/two/mean"):
        assert two[name] == pytest.approx(one[name], abs=1e-5)


@pytest.mark.parametrize("processes", [1, 2])
def test_an_unscored_completion_costs_its_group_the_listeners_part_on_both_processes(runs, processes):
    rows = runs[processes][0]
    assert [row["completion"] for row in rows] == [completion(n) for n in range(PAIRS * GROUP)]
    missing = [math.isnan(value) for value in part(rows, 2)]
    group = [n // GROUP for n in range(PAIRS * GROUP)]
    assert DEAF in WORDS[1] and missing == [g == 1 for g in group]
    assert [row["rewards"][2] for row in rows if BROKEN in row["completion"]] == [0.0]


@pytest.mark.parametrize("processes", [1, 2])
def test_async_rewards_that_end_in_another_order_in_each_process_are_not_mixed_up(runs, processes):
    """The one loses the first group ("good"); the other has one listener left for the second ("square") and the third
    ("clear")."""
    rows = runs[processes][0]
    assert [math.isnan(value) for value in part(rows, 3)] == [n < GROUP for n in range(PAIRS * GROUP)]
    assert not any(map(math.isnan, part(rows, 4)))
    assert part(rows, 4)[GROUP:] == pytest.approx(part(rows, 3)[GROUP:])  # both ask one model


# ---- configuration files ----


@pytest.mark.parametrize(
    ("name", "processes", "machines", "kind"),
    [
        ("1-gpu", 1, 1, "NO"),
        ("8-gpus", 4, 1, "FSDP"),
        ("8-gpus-zero3", 4, 1, "DEEPSPEED"),
        ("2x8-gpus", 8, 2, "FSDP"),
    ],
)
def test_accelerate_reads_each_file_and_its_profile_can_be_shared_out(name, processes, machines, kind):
    path = CONFIGS / f"{name}.yaml"
    config = load_config_from_file(str(path))  # refuses keys that it does not know
    found = (config.num_processes, config.num_machines, config.distributed_type)
    assert found == (processes, machines, kind) and config.mixed_precision == "bf16"
    options = {action.dest for action in launch_command_parser()._actions}
    assert set(config.fsdp_config or {}) | set(config.deepspeed_config or {}) <= options
    head = path.read_text().split("compute_environment")[0]
    assert f"accelerate launch --config_file data/configs/{name}.yaml" in head
    names = [word for word in ("gpu-many", "paper", "gpu") if f"--profile {word} " in head.replace("\n", " ")]
    (chosen,) = map(profile, names)
    completions = chosen.pairs_per_step * chosen.num_generations
    assert completions % (processes * chosen.completions_per_pass) == 0
    assert ("--listener" in head) == (kind != "NO")  # sharded weights: the listener is a server


def test_every_configuration_is_in_the_readme():
    said = (CONFIGS / "README.md").read_text()
    assert all(f"({path.name})" in said for path in CONFIGS.glob("*.yaml"))
