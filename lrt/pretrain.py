"""How the tiny models came to be: `lrt pretrain` makes the files of `data/models` again.

A reasoner or listener starts from random weights and learns in two stages to *see* (describe one image, in a chat with
a prompt that says little about the picture) and to *speak* (describe two images, give a verdict and an answer). The
judge that it imitates in stage two is weak and departs from its own verdict one time in five. The reasoner then learns
in two more to *compare*, from images that nearly show what was asked for, alone and in pairs *again*. The outcome is a
base that sees, keeps the format, judges poorly, and sometimes contradicts itself. A listener learns in a stage of its
own to *read*: to answer from traces whose statements are corrupted and whose verdict is missing or wrong as often as
right.

A description must not be predictable from the prompt, or the model copies the prompt and never looks: fewer than half
of the things drawn in stages one and two are asked for.

Every batch is a function of (recipe, stage, step), so a run that is killed goes on from its last save as if it had not
been.
"""

import json
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PILImage

from lrt import tiny, traces, world
from lrt.pairs import scenes_of, split_prompts, tiny_pairs
from lrt.prompts import TINY_WORDING, listener_continuation, messages
from lrt.world import Scene, Thing

SAVE_EVERY = 50  # steps
LISTENER_PAIRS = 1800  # whose votes a listener learns to tell from traces
STAGES = ("see", "speak", "compare", "again")


@dataclass(frozen=True)
class Stage:
    """One stage of training: AdamW, one cycle up to `lr` and down to nothing."""

    steps: int
    batch: int
    lr: float = 1e-3


@dataclass(frozen=True)
class Reading:
    """How a listener learns to read: what is done to the traces it is given, and what it is shown."""

    stage: Stage = Stage(350, 64, 5e-4)
    corruption: tuple[float, ...] = (0.0, 0.1, 0.3)  # one of these rates a trace
    empty: float = 0.05  # how often the trace is empty
    shortcut: float = 0.5  # of the pairs it learns from
    images: bool = True  # False: a blind listener, text only


@dataclass(frozen=True)
class Judge:
    """The weak judge that a base learns to imitate."""

    right: float = 0.6  # how often the verdict names the better image
    consistent: float = 0.8  # how often the answer is the verdict


@dataclass(frozen=True)
class Recipe:
    """A tiny model: its classes, shape and seed; the stages from nothing, or the recipe that it goes on from."""

    name: str
    architecture: str = "qwen"
    shape: tiny.Shape = field(default_factory=tiny.Shape)
    seed: int = 0
    see: Stage | None = Stage(450, 192)
    speak: Stage | None = Stage(600, 64)
    compare: Stage | None = None  # single images that nearly show what was asked for
    again: Stage | None = None  # pairs as in `speak`, with such images
    reading: Reading | None = None
    judge: Judge = Judge()
    start: str | None = None  # another recipe's name: the stages up to `after` are that recipe's
    after: str = "speak"


NARROW = tiny.Shape(text=96, layers=4, heads=3, vision=64, vision_layers=3, vision_heads=2)
_READER = {"shape": NARROW, "seed": 1, "see": Stage(400, 192), "speak": Stage(300, 64), "start": "reader-base"}
_BASE = {"speak": None, "compare": Stage(350, 128), "again": Stage(600, 64)}
_VARIANT = {"see": None, "speak": None, "again": Stage(400, 64), "start": "base-b", "after": "compare", "seed": 11}
RECIPES = {
    recipe.name: recipe
    for recipe in (
        # after two stages it sees everything, but calls good whatever stands in a place that the prompt names:
        # comparing colour and shape as well is the slowest thing to learn, hence lessons of near misses
        Recipe("reasoner", compare=Stage(350, 128), again=Stage(400, 64)),
        Recipe("reader-base", shape=NARROW, seed=1, see=Stage(400, 192), speak=Stage(300, 64)),
        Recipe("reader", **_READER, reading=Reading()),
        Recipe("weak", **_READER, reading=Reading(Stage(100, 64, 5e-4))),
        Recipe("blind", **_READER, reading=Reading(images=False)),
        Recipe("shortcut", **_READER, reading=Reading(shortcut=0.95, empty=0.5)),
        Recipe("llava-base", "llava", NARROW, seed=2, see=Stage(400, 192), speak=Stage(300, 64)),
        Recipe(
            "llava", "llava", NARROW, 2, Stage(400, 192), Stage(300, 64), reading=Reading(), start="llava-base"
        ),
        # more bases for the study, pretrained apart from the reasoner; the last two have another judge to imitate
        Recipe("base-b", seed=11, **_BASE),
        Recipe("base-c", seed=12, **_BASE),
        Recipe("base-consistent", judge=Judge(consistent=1.0), **_VARIANT),
        Recipe("base-clueless", judge=Judge(right=0.5), **_VARIANT),
    )
}


# --- examples ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Example:
    """A chat: the prompt, its images (H, W, 3 uint8), which images they are called, and the completion to learn."""

    prompt: str
    images: tuple[np.ndarray, ...]
    completion: str
    called: int | None = None  # a single image is called image 1 or image 2


def free_scene(asked: tuple[Thing, Thing], r: np.random.Generator) -> Scene:
    """A scene that the prompt says little about: each thing asked for is there with probability 0.45, exactly."""
    things: list[Thing] = []
    for thing in asked:
        free = [p for p in world.PLACES if p not in {t.place for t in things}]
        u = r.random()
        if u < 0.45 and thing.place in free:
            things.append(thing)
        elif u < 0.92:
            things.append(world.random_thing(r, free, allow_held_out=False))
    quality = world.pick(r, ("clear", "clear", "blurred", "noisy", "faded"))
    return Scene(world.reading_order(things), quality, int(r.integers(2**31)))


def _asked(r: np.random.Generator) -> tuple[Thing, Thing]:
    first, second = world.pick(r, split_prompts("pretrain"))
    return (first, second) if r.random() < 0.5 else (second, first)


def near_scene(asked: tuple[Thing, Thing], r: np.random.Generator) -> Scene:
    """A scene that the prompt nearly describes: in half of its things one attribute is wrong, seldom two."""
    rate = world.pick(r, (0.0, 0.2, 0.3))
    return replace(world.draw_scene(asked, world.Flaws(rate), r), quality=world.pick(r, tuple(world.QUALITIES)))


def see_example(r: np.random.Generator, draw=free_scene) -> Example:
    asked, number = _asked(r), int(r.integers(1, 3))
    scene = draw(asked, r)
    image = world.render(scene, world.pick(r, tuple(world.BACKGROUNDS)))
    said = f"<think> image {number} : {traces.describe(asked, scene)} . </think>"
    return Example(world.prompt_text(asked), (image,), said, called=number)


def speak_example(r: np.random.Generator, draw=free_scene, judge: Judge = Judge()) -> Example:
    """A pair, half of the time by the real generators, judged by the weak and inconsistent judge."""
    asked = _asked(r)
    if r.random() < 0.5:
        scenes = (draw(asked, r), draw(asked, r))
    else:
        scenes = tuple(world.draw_scene(asked, world.pick(r, (world.SKILLED, world.CLUMSY)), r) for _ in (1, 2))
    gap = world.utility(asked, scenes[0]) - world.utility(asked, scenes[1])
    better = (1 if gap > 0 else 2) if gap else int(r.integers(1, 3))
    verdict = better if r.random() < judge.right else 3 - better
    answer = verdict if r.random() < judge.consistent else 3 - verdict
    tints = world.pick(r, (("warm", "cool"), ("cool", "warm"), ("none", "none")))
    images = tuple(world.render(s, t) for s, t in zip(scenes, tints, strict=True))
    completion = traces.write_completion(traces.gold_trace(asked, scenes, verdict), answer)
    return Example(world.prompt_text(asked), images, completion)


def read_example(row: dict, reading: Reading, r: np.random.Generator) -> Example:
    """A pair of the listeners' own, a trace damaged on purpose, and one drawn vote as the answer."""
    asked, scenes = world.parse_prompt(row["prompt"]), scenes_of(row)
    better = 1 if row["utility_1"] > row["utility_2"] else 2
    verdict = None if r.random() < 0.5 else better if r.random() < 0.5 else 3 - better
    trace = traces.corrupt(traces.gold_trace(asked, scenes, verdict), world.pick(r, reading.corruption), r)
    text = "" if r.random() < reading.empty else str(trace)
    images = tuple(np.asarray(i) for i in row["images"]) if reading.images else ()
    return Example(row["prompt"], images, f"{listener_continuation(text)} {row['vote']} </answer>")


# --- batches and losses --------------------------------------------------------------------------------------------


def chat_text(processor, example: Example) -> str:
    """The chat up to where the assistant speaks."""
    chat = messages(example.prompt, TINY_WORDING)
    if example.called is not None:  # keep only that image and its name
        content = chat[0]["content"]
        chat = [{"role": "user", "content": content[2 * example.called - 2 : 2 * example.called] + content[4:]}]
    elif not example.images:
        chat = [{"role": "user", "content": [c for c in chat[0]["content"] if c["type"] == "text"]}]
    return processor.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)


def make_batch(processor, examples: list[Example], answer_only: bool) -> dict:
    """Model inputs with `labels`: the completion's tokens, or only the answer's; -100 elsewhere."""
    tokenizer = processor.tokenizer
    texts = [chat_text(processor, e) + " " + e.completion + tokenizer.eos_token for e in examples]
    images = [PILImage.fromarray(i) for e in examples for i in e.images]
    batch = processor(text=texts, images=images or None, padding=True, return_tensors="pt")
    labels = batch["input_ids"].clone()
    start = tokenizer.convert_tokens_to_ids("<answer>" if answer_only else "<think>")
    # the last start mark of each row: everything up to it (with the mark itself, when only the answer counts) is given
    position = (labels == start).int().cumsum(1)
    labels[position == 0] = -100
    if answer_only:
        labels[labels == start] = -100
        labels[:, -2:] = -100  # </answer> and the end of the turn
    return {**batch, "labels": labels}


def stage_loss(model, batch: dict) -> torch.Tensor:
    return model(**batch, use_cache=False).loss


def _examples(recipe: Recipe, stage: str, step: int, batch: int, rows) -> list[Example]:
    r = world.rng("pretrain", recipe.name, recipe.seed, stage, step)
    if stage == "see":
        return [see_example(r) for _ in range(batch)]
    if stage == "compare":
        return [see_example(r, near_scene) for _ in range(batch)]
    if stage in ("speak", "again"):
        draw = free_scene if stage == "speak" else near_scene
        return [speak_example(r, draw, recipe.judge) for _ in range(batch)]
    return [read_example(rows[int(r.integers(len(rows)))], recipe.reading, r) for _ in range(batch)]


# --- training ------------------------------------------------------------------------------------------------------


def build(recipe: Recipe):
    """(model, processor) with the random weights that the recipe's seed gives."""
    processor = tiny.qwen_processor() if recipe.architecture == "qwen" else tiny.llava_processor()
    torch.manual_seed(recipe.seed)
    maker = tiny.build_qwen if recipe.architecture == "qwen" else tiny.build_llava
    return maker(recipe.shape, processor), processor


def train_stage(model, processor, recipe: Recipe, name: str, stage: Stage, state: Path | None = None,
                stop: int | None = None, report: Callable[[str], None] = print) -> list[float]:
    """Train one stage; its losses by step. With `state`, saves there every `SAVE_EVERY` steps and goes on from it."""
    optimizer = torch.optim.AdamW(model.parameters(), lr=stage.lr, weight_decay=0.01, betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, stage.lr, total_steps=stage.steps, pct_start=0.1)
    losses: list[float] = []
    if state and state.exists():
        saved = torch.load(state, weights_only=True)
        model.load_state_dict(saved["model"])
        optimizer.load_state_dict(saved["optimizer"])
        schedule.load_state_dict(saved["schedule"])
        losses = saved["losses"]
    rows = list(tiny_pairs("listener", LISTENER_PAIRS, shortcut=recipe.reading.shortcut)) if name == "read" else None
    model.train()
    started, first = time.time(), len(losses)
    for step in range(first, stop or stage.steps):
        examples = _examples(recipe, name, step, stage.batch, rows)
        loss = stage_loss(model, make_batch(processor, examples, answer_only=name == "read"))
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(round(loss.item(), 5))
        if (step + 1) % 25 == 0:
            pace = (time.time() - started) / (step + 1 - first)
            left = pace * (stage.steps - step - 1) / 60
            loss_now = np.mean(losses[-25:])
            report(f"{recipe.name} {name} {step + 1}/{stage.steps} loss {loss_now:.4f} {left:.1f} min left")
        if state and (step + 1) % SAVE_EVERY == 0:
            parts = {"model": model.state_dict(), "optimizer": optimizer.state_dict(), "losses": losses}
            torch.save({**parts, "schedule": schedule.state_dict()}, state.with_suffix(".part"))
            state.with_suffix(".part").replace(state)
    return losses


def own_stages(recipe: Recipe) -> dict[str, Stage]:
    """The stages that a recipe trains itself, in order: all that it has, after those that it starts from."""
    begun = _up_to(recipe.after) if recipe.start else ()
    stages = {name: getattr(recipe, name) for name in STAGES if name not in begun}
    if recipe.reading:
        stages["read"] = recipe.reading.stage
    return {name: stage for name, stage in stages.items() if stage}


def _up_to(stage: str) -> tuple[str, ...]:
    return STAGES[: STAGES.index(stage) + 1]


def pretrain(name: str, out: Path, runs: Path, report: Callable[[str], None] = print) -> Path:
    """Run a recipe (and, where needed, the one that it starts from) and save model, processor and losses in `out/name`.

    Finished stages are kept in `runs`, so that asked again it goes on from there. ValueError for an unknown name.
    """
    if name not in RECIPES:
        raise ValueError(f"no recipe {name!r}; there are {', '.join(RECIPES)}")
    recipe, folder = RECIPES[name], runs / name
    folder.mkdir(parents=True, exist_ok=True)
    model, processor = build(recipe)
    losses = {}
    if recipe.start:
        if not (runs / recipe.start / f"{recipe.after}.pt").exists():
            pretrain(recipe.start, runs / "bases", runs, report)
        begun = [stage for stage in own_stages(RECIPES[recipe.start]) if stage in _up_to(recipe.after)]
        start = {stage: torch.load(runs / recipe.start / f"{stage}.pt", weights_only=True) for stage in begun}
        losses = {stage: state["losses"] for stage, state in start.items()}
        model.load_state_dict(start[recipe.after]["model"])
    for stage, settings in own_stages(recipe).items():
        state = folder / f"{stage}.pt"
        losses[stage] = train_stage(model, processor, recipe, stage, settings, state, report=report)
    save(model, processor, recipe, losses, out / name)
    return out / name


def save(model, processor, recipe: Recipe, losses: dict[str, list[float]], folder: Path) -> None:
    """Weights in float16 (half the size; they are read back as float32), processor, and how they were made."""
    folder.mkdir(parents=True, exist_ok=True)
    model.eval().to(torch.float16).save_pretrained(folder)
    model.float()
    processor.save_pretrained(folder)
    shown = recipe.reading is None or recipe.reading.images
    (folder / "lrt.json").write_text(json.dumps({"wording": "tiny", "images": shown}) + "\n")
    record = {"recipe": asdict(recipe), "first_losses": {k: v[:3] for k, v in losses.items()}}
    record["last_loss"] = {k: round(float(np.mean(v[-25:])), 4) for k, v in losses.items()}
    (folder / "recipe.json").write_text(json.dumps(record, indent=1) + "\n")
