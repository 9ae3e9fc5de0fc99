"""A short GRPO run with an adapter, its weights spread over processes by FSDP2: `test_sharded.py` starts it.

accelerate shards on accelerators only. PyTorch's `fully_shard` works on CPUs too, so all that stands in the way is a
name, which is changed here: everything else is the code that eight cards would run.

    python -m accelerate.commands.launch --use_fsdp ... sharded_run.py FOLDER OUT [DIES_AFTER_STEP [FIRST_OUT]]

FIRST_OUT: a run without a break, made first in the same processes, whose start takes longest.
"""

import os
import sys
from pathlib import Path

from accelerate import PartialState
from accelerate.utils import DistributedType
from tiny_runs import build

from lrt import checkpoints, grpo, models
from lrt.pairs import tiny_pairs

STEPS, DEAD = 4, 3  # steps of the run; the exit status of one that dies
set_up = PartialState.__init__


def as_if_on_cards(self, *args, **kwargs):
    set_up(self, *args, **kwargs)
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


def length_reward(completions, **_):
    return [len(str(completion)) / 100 for completion in completions]


def main(folder: Path, out: Path, dies_after: int = 0) -> None:
    loaded = checkpoints.with_adapter(models.load(str(folder / "policy"), trainable=True), 4, seed=0)
    settings = grpo.GRPOSettings(steps=STEPS, pairs_per_step=2, num_generations=4, lr=1e-3, lora_rank=4,
                                 max_new_tokens=8, save_every=2)

    def on_step(step, total, record):
        if step == dies_after:
            os._exit(DEAD)

    grpo.train_grpo(loaded, tiny_pairs("train", 8), [length_reward], [1.0], settings, out, on_step=on_step)


def prepare(folder: Path) -> None:
    checkpoints.save_model(build(), folder / "policy")


if __name__ == "__main__":
    PartialState.__init__ = as_if_on_cards
    PartialState(cpu=True)
    where, out, *dies_after = sys.argv[1:4]
    for first in sys.argv[4:]:
        main(Path(where), Path(first))
    main(Path(where), Path(out), *map(int, dies_after))
