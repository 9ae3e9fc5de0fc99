"""`lrt train sft`, `lrt train grpo`, `lrt pretrain`."""

from pathlib import Path
from typing import Annotated

import typer

from lrt.cli.options import (
    AnyProfile,
    AnyProfileName,
    Aspect,
    Changes,
    Images,
    ProfilesModel,
    Seed,
    SkipBad,
    Source,
    brought,
    chosen_profile,
    known,
    load,
    plainly,
    read_pairs,
    say,
)

app = typer.Typer(help="Train a reasoner: `lrt train sft` or `lrt train grpo`.", no_args_is_help=True)

Steps = Annotated[int | None, typer.Option(min=1, help="Optimiser steps. Default: the profile's.")]
OwnPairs = Annotated[Path | None, typer.Option(help="A folder of your own pairs (lrt.folder), or what --source says.")]
Rank = Annotated[int | None, typer.Option(min=0, help="Rank of a LoRA adapter; 0 trains all weights. Default: the "
                                                      "profile's.")]
Out = Annotated[Path | None, typer.Option(help="The run's folder. Asked again with it, a run goes on.")]


@app.command("sft")
@plainly
def train_sft(
    model: ProfilesModel = None,
    profile: AnyProfile = AnyProfileName.laptop,
    changes: Changes = None,
    steps: Steps = None,
    seed: Seed = 0,
    lora_rank: Rank = None,
    pairs: OwnPairs = None,
    source: Source = "folder",
    images: Images = None,
    aspect: Aspect = None,
    skip_bad: SkipBad = False,
    out: Out = None,
):
    """Supervised fine-tuning on the votes, without traces."""
    from dataclasses import replace

    from lrt.checkpoints import with_adapter
    from lrt.methods import sft_settings
    from lrt.sft import train_sft as train

    chosen = chosen_profile(profile, changes, lora_rank)
    how = sft_settings(chosen, seed)
    how = replace(how, steps=steps or how.steps)
    files = brought(pairs, source, images, aspect, skip_bad)
    known(model or chosen.reasoner)
    rows = _training_pairs(chosen, seed, files)
    loaded = load(model or chosen.reasoner, not chosen.lora_rank, chosen)
    _refuse(rows, files, loaded)
    out = out or Path("runs/sft")
    log = train(with_adapter(loaded, chosen.lora_rank, seed), rows, how, out)
    _done(log, out, "loss", _to_evaluate(profile, changes, files))


@app.command("grpo")
@plainly
def train_grpo(
    model: ProfilesModel = None,
    listener: Annotated[list[str] | None, typer.Option(
        help="Whose reading is rewarded: a model; 'adapter-off' for the base under the adapter; a server's address and "
             "model, http://host:8000/v1#owner/model; 'none' for plain GRPO. May be repeated. Default: the profile's."
    )] = None,
    combine: Annotated[str, typer.Option(help="Several listeners: mean, minimum or majority (lrt.ensemble).")] = "mean",
    profile: AnyProfile = AnyProfileName.laptop,
    changes: Changes = None,
    steps: Steps = None,
    seed: Seed = 0,
    lora_rank: Rank = None,
    pairs: OwnPairs = None,
    source: Source = "folder",
    images: Images = None,
    aspect: Aspect = None,
    skip_bad: SkipBad = False,
    out: Out = None,
):
    """GRPO on r = r_format + 0.5 r_accuracy + 0.5 r_listener, or without the listener's part."""
    from dataclasses import replace

    from lrt.checkpoints import with_adapter
    from lrt.grpo import train_grpo as train
    from lrt.images import one_size
    from lrt.methods import grpo_settings

    chosen = chosen_profile(profile, changes, lora_rank)
    names = listener or [chosen.listener]
    how = grpo_settings(chosen, seed)
    how = replace(how, steps=steps or how.steps)
    files = brought(pairs, source, images, aspect, skip_bad)
    elsewhere = [name for name in names if name in ("none", "adapter-off") or "://" in name]
    known(model or chosen.reasoner, *(name for name in names if name not in elsewhere))
    rows = _training_pairs(chosen, seed, files)
    loaded = load(model or chosen.reasoner, not chosen.lora_rank, chosen)
    readers = {name: load(name, chosen=chosen) for name in names if name not in elsewhere}
    _refuse(rows, files, loaded, *readers.values())
    loaded = with_adapter(loaded, chosen.lora_rank, seed)
    functions, weights = _rewards(names, combine, readers, loaded, chosen)
    out = out or Path("runs") / ("grpo" if names == ["none"] else "grpo_listener")
    if not (out / "done.json").exists():  # a finished run only loads its model
        _refuse_the_silent(functions, one_size(rows.select(range(min(1, len(rows)))), chosen.image_side))
    _done(train(loaded, rows, functions, weights, how, out), out, "reward", _to_evaluate(profile, changes, files))


def _rewards(names: list[str], combine: str, readers: dict, policy, chosen):
    """(functions, weights) of GRPO with the listeners that are named; `readers` are those that were loaded."""
    from lrt.async_rewards import listener_reward
    from lrt.listener import LocalListener
    from lrt.methods import listener_for
    from lrt.rewards import WEIGHTS, accuracy_reward, format_reward

    if "none" in names:
        if len(names) > 1:
            raise ValueError("--listener none is plain GRPO, and stands alone")
        return [format_reward, accuracy_reward], list(WEIGHTS[:2])
    ears = [LocalListener(readers[name], batch=chosen.listener_batch) if name in readers
            else listener_for(chosen, policy, name) for name in names]
    return [format_reward, accuracy_reward, listener_reward(ears, combine)], list(WEIGHTS)


def _training_pairs(chosen, seed: int, files):
    """The profile's pairs, or what it uses of those brought: of a benchmark no other is copied."""
    from lrt.methods import training_pairs

    if files is None:
        return training_pairs(chosen, seed)
    if not chosen.size:
        return read_pairs(files)
    return read_pairs(files, share=chosen.share, limit=chosen.train_pairs)


def _refuse(rows, files, *models) -> None:
    """A tiny model among the models, and pairs brought that are not of its world."""
    from lrt.judging import refuse_unknown_pairs

    for loaded in models if files is not None else ():
        refuse_unknown_pairs(loaded, rows)


def _refuse_the_silent(functions, rows) -> None:
    """Ask every listener elsewhere about one pair: training would go on without it, and take hours to say so."""
    from lrt.remote import RemoteListener, check_answer

    for ear in [ear for f in functions for ear in getattr(f, "listeners", ())]:
        if isinstance(ear, RemoteListener) and len(rows):
            check_answer(ear, rows[0]["prompt"], rows[0]["images"])


def _to_evaluate(profile, changes: list[str] | None, files) -> str:
    """The options with which `lrt evaluate` judges as the run was trained; test pairs are the user's to name."""
    said = "" if profile.value == "laptop" else f" --profile {profile.value}"
    said += "".join(f" --set {change}" for change in changes or ())
    if files is None:
        return said
    if files.source == "folder":
        return f"{said} --pairs TEST_FOLDER"
    said += f" --source {files.source} --pairs TEST_FILES"
    return said + (" --images FOLDER" if files.images else "") + (f" --aspect {files.aspect}" if files.aspect else "")


def _done(log: list[dict], out: Path, what: str, options: str = "") -> None:
    """First and last tenth of the run, how much of it a listener missed, where the model is, and what comes next."""
    values = [record[what] for record in log if record.get(what) is not None]
    if values:
        n = max(1, len(values) // 10)
        first, last = sum(values[:n]) / n, sum(values[-n:]) / n
        say(f"{what} {first:.3f} at first, {last:.3f} at last (one seed; a mean of {n} step{'s' * (n != 1)} each)")
    missed = [record[key] for record in log if (key := "listener/unscored_groups") in record]
    if missed:
        say(f"groups that the listener did not score: {100 * sum(missed) / len(missed):.1f} %")
    say(f"model: {out / 'model'}\nlog:   {out / 'log.jsonl'}\nnext:  lrt evaluate --model {out / 'model'}{options}")


@plainly
def pretrain(
    names: Annotated[list[str] | None, typer.Argument(help="Tiny models. Default: all that have a recipe.")] = None,
    runs: Annotated[Path, typer.Option(help="Where finished stages are kept, to go on from.")] = Path("runs/pretrain"),
):
    """Make the tiny models of data/models again, each with its card. About ten minutes a model on one core."""
    from lrt import cards
    from lrt import pretrain as rooms
    from lrt.models import data_dir

    shipped = [name for name in rooms.RECIPES if not name.endswith("-base")]
    if unknown := [name for name in names or [] if name not in rooms.RECIPES]:
        raise ValueError(f"no recipe {unknown[0]!r}; there are {', '.join(shipped)}")
    for name in names or shipped:
        rooms.pretrain(name, data_dir() / "models", runs, report=say)
        if name in shipped:
            cards.card_for(name, report=say)
