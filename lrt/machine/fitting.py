"""Which profile for real models fits on a machine, and what to change where none does: by `lrt.machine.memory`."""

from dataclasses import dataclass, replace
from pathlib import Path

from lrt.machine.doctor import Check, disk_gb, memory_gb
from lrt.machine.memory import GB, grpo_memory, weights_bytes
from lrt.machine.shapes import qwen_config
from lrt.profiles import REAL, Profile

LOADING_GB = 6  # of CPU memory: weights go to the card a file at a time, of at most 5 GB
RUN_GB = 2  # of disk: checkpoints of an adapter (one is kept), the model at the end, logs


@dataclass(frozen=True)
class Card:
    """A GPU: its name, its memory in GB (1e9 bytes), whether it computes in bf16."""

    name: str
    gb: float
    bf16: bool


@dataclass(frozen=True)
class Machine:
    """What is looked at: CPU memory that is free (None where nobody says), disk that is free for runs, and for models
    where that is another one."""

    cards: tuple[Card, ...]
    memory_gb: float | None
    disk_gb: float
    models_gb: float | None = None  # None: models lie on the same disk


def this_machine(folder: str | Path = ".") -> Machine:
    """The machine that this runs on, with runs below `folder` and models where the hub's library keeps them."""
    import torch
    from huggingface_hub.constants import HF_HOME

    cards = []
    for i in range(torch.cuda.device_count()):
        about = torch.cuda.get_device_properties(i)
        cards.append(Card(about.name, about.total_memory / GB, about.major >= 8))
    (runs, free), (models, models_free) = disk_gb(Path(folder)), disk_gb(Path(HF_HOME))
    other = runs.stat().st_dev != models.stat().st_dev  # on Colab: Drive, and the machine's own
    return Machine(tuple(cards), memory_gb(), free, models_free if other else None)


def fit(settings: Profile, machine: Machine) -> Check:
    """Whether a GRPO step of the profile fits, and what to do where it does not. The first hindrance is named."""
    peak, name = grpo_memory(settings).peak_gb, f"profile {settings.name}"
    what = f"Qwen2.5-VL-{settings.size} in {settings.weights}: about {peak:.0f} GB a card"
    if not machine.cards:
        return Check(name, what, False, "no GPU that torch sees; the tiny world needs none")
    smallest = min(machine.cards, key=lambda card: card.gb)
    if len(machine.cards) < settings.cards:
        said = f"it takes {settings.gpus} cards to train, {settings.rollout_gpus} to generate and "
        here = "is 1" if len(machine.cards) == 1 else f"are {len(machine.cards)}"
        said += f"{settings.listener_gpus} to listen, and here {here}: {_instead(settings, machine)}"
        return Check(name, what, False, said)
    if "bf16" in (settings.weights, settings.precision) and not all(card.bf16 for card in machine.cards):
        return Check(name, what, False, f"{smallest.name} has no bf16: {_instead(settings, machine)}")
    if peak > smallest.gb:
        said = f"{settings.size} needs {peak:.0f} GB, this card has {smallest.gb:.0f}: {_instead(settings, machine)}"
        return Check(name, what, False, said)
    if machine.memory_gb is not None and machine.memory_gb < LOADING_GB:
        said = f"loading takes about {LOADING_GB} GB of CPU memory, and {machine.memory_gb:.1f} GB are free"
        return Check(name, what, False, said + ": close other programs")
    weights = weights_bytes(qwen_config(settings.size), "bf16") / GB
    elsewhere = "set HF_HOME to a larger disk"
    if machine.models_gb is None:
        disks = [("model and run take", weights + RUN_GB, machine.disk_gb, elsewhere)]
    else:
        disks = [("the model takes", weights, machine.models_gb, elsewhere),
                 ("the run takes", RUN_GB, machine.disk_gb, "choose another folder for it")]
    for of, needed, free, advice in disks:
        if free < needed:
            said = f"{of} {needed:.0f} GB of disk without the data, and {free:.0f} GB are free"
            return Check(name, what, False, f"{said}: make room, or {advice}")
    return Check(name, f"{what}, and this card has {smallest.gb:.0f}", True)


def _instead(settings: Profile, machine: Machine) -> str:
    """What would fit: another profile, or this one with changes, the mildest that do; or that nothing does."""
    others = [one.name for one in REAL.values() if one.name != settings.name and _runs(one, machine)]
    said = [f"use {others[-1]}"] if others else []
    if changes := smaller(settings, machine):
        how = " ".join(f"--set {name}={value}" for name, value in changes.items())
        said.append(f"--profile {settings.name} {how}: {grpo_memory(replace(settings, **changes)).peak_gb:.0f} GB")
    return ", or ".join(said) or "nothing here is small enough: take a larger card"


def smaller(settings: Profile, machine: Machine) -> dict:
    """Changes that make a profile of one card's kind fit on one card of the machine, milder ones first; {} if none do.

    Tried one after another, each added to those before it: the precision that the card has; weights in 4 bits; one
    group a pass; fewer groups a step; images of 256 tokens; completions of 256 tokens and an adapter of rank 16.
    """
    card = max(machine.cards, key=lambda card: card.gb)
    changes = {}
    if settings.cards > 1:
        return changes  # another kind of run
    if settings.precision == "bf16" and not card.bf16:
        changes |= {"weights": "fp16", "precision": "fp16"}
    steps = [{}, {"weights": "4bit"}, {"completions_per_pass": settings.num_generations},
             {"pairs_per_step": min(2, settings.pairs_per_step)}, {"max_pixels": 256 * 28 * 28},
             {"max_new_tokens": min(256, settings.max_new_tokens), "lora_rank": min(16, settings.lora_rank)}]
    for step in steps:
        changes |= {name: value for name, value in step.items() if getattr(settings, name) != value}
        if changes and grpo_memory(replace(settings, **changes)).peak_gb <= card.gb:
            return changes
    return {}


def _runs(settings: Profile, machine: Machine) -> bool:
    """Whether cards, their number and their precision are enough."""
    enough = [card for card in machine.cards if grpo_memory(settings).peak_gb <= card.gb]
    enough = [card for card in enough if card.bf16 or "bf16" not in (settings.weights, settings.precision)]
    return len(enough) >= settings.cards


def report(machine: Machine) -> str:
    """Every real profile with its verdict, and what to start."""
    found = [fit(settings, machine) for settings in REAL.values()]
    lines, width = ["Real models (estimates, not measured; lrt.machine.memory):"], max(len(one.name) for one in found)
    for one in found:
        lines.append(f"{'ok' if one.ok else '--'}  {one.name:<{width}}  {one.found}")
        if not one.ok and machine.cards:
            lines.append(f"    {'':<{width}}  -> {one.advice}")
    fitting = [name for name, one in zip(REAL, found, strict=True) if one.ok]
    if not fitting:
        why = "None of them fits here." if machine.cards else "torch sees no GPU here. The tiny world needs none."
        return "\n".join([*lines, why])
    return "\n".join([*lines, f"Fits here: {', '.join(fitting)}. {start(REAL[fitting[-1]])}"])


def start(settings: Profile) -> str:
    """How a run of a profile is started: a command, or the file at whose head the commands of several stand."""
    if settings.cards > 1:
        return f"{settings.name} is several programs: the commands stand at the head of data/configs/{settings.config}"
    return f"`lrt train grpo --profile {settings.name} --source {settings.data} --pairs FILE --images FOLDER`"
