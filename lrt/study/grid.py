"""The study's grid: one readable file of settings (`data/study/study.toml`) -> the runs it asks for.

    [defaults]               what every run shares; its keys are the fields of `Cell`
    [methods.NAME]           what a method changes; `like = "OTHER"` begins from another method's changes
    [tiers.NAME]             seeds = 10, methods = ["grpo", ...], why = "..."
    [tiers.NAME.questions]   instead of methods: "what it asks" = ["method", ...], in the order of figures

A run is a `Cell`: a method with a seed. The seed chooses the training pairs, the order of rows, all sampling, and the
base model (`bases[seed % len(bases)]`), so that methods are compared within a seed.
"""

import json
import tomllib
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, get_args, get_origin

from lrt.models import data_dir

TABLES, OF_TIER = ("defaults", "methods", "tiers"), ("seeds", "methods", "questions", "why")
TRAINERS = ("grpo", "sft_answer", "sft_trace", "bradley_terry", "dpo")  # the last four: `lrt.study.baselines`
REWARDS = ("none", "rule", "truth", "random", "self_reading", "agreement", "opinion", "log_p", "living", "dead",
           "listener", "permuted", "wrong_pair", "binary")  # `lrt.study.arms`
UNHEARD = REWARDS[:5]  # these need no listener
CHOICES = {"reward": REWARDS, "scale_rewards": ("group", "batch", "none"),
           "aggregation": ("sum_then_normalize", "normalize_then_sum"),
           "trainer": TRAINERS}


@dataclass(frozen=True)
class Cell:
    """Everything that one run depends on, besides the code. Equal cells give equal logs on the same machine."""

    method: str
    seed: int
    bases: tuple[str, ...]  # the models that training starts from, by seed
    reward: str = "none"  # what is added to format and accuracy: see `lrt.study.arms`
    listeners: tuple[str, ...] = ()  # whose p is rewarded; "base" is the frozen model that training began with
    verdict: bool = True  # False: sentences that name a winner are removed before a listener hears a trace
    weights: tuple[float, ...] = (1.0, 0.5, 0.5)  # of format, accuracy and what is added
    dial: float = 0.9  # how often the better training image has the warm background
    train_pairs: int = 2400
    steps: int = 300
    pairs_per_step: int = 8
    num_generations: int = 8  # completions a pair: in a step of GRPO, once before DPO; the others have none
    balance_votes: bool = True  # in every step
    max_new_tokens: int = 56
    lr: float = 5e-5
    beta: float = 0.0  # weight of the KL to the base; DPO's beta
    entropy_coef: float = 0.0  # weight of an entropy bonus
    sft_weight: float = 0.0  # DPO: of an SFT term on the chosen completions
    scale_rewards: str = "group"
    aggregation: str = "sum_then_normalize"
    measure_every: int = 25  # steps between measurements
    measured_pairs: int = 64  # of `probe.fixed_pairs`, at each measurement
    final_pairs: int = 240  # at the last one
    judges: tuple[str, ...] = ("reader", "llava", "base")  # listeners that hear the measured traces
    trainer: str = "grpo"  # what learns from the votes; logs from before there were others do not name it

    @property
    def base(self) -> str:
        return self.bases[self.seed % len(self.bases)]

    @property
    def writes(self) -> bool:
        """Whether its policy writes traces: a Bradley-Terry head only chooses."""
        return self.trainer != "bradley_terry"

    @property
    def name(self) -> str:
        return f"{self.method}.s{self.seed}"

    def differing(self, other: "Cell") -> list[str]:
        """The fields in which two cells differ."""
        return [field.name for field in fields(Cell) if getattr(self, field.name) != getattr(other, field.name)]

    def to_json(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)

    @staticmethod
    def from_dict(values: dict) -> "Cell":
        """A cell from its fields; one that is missing has its default: what was written before there was such a field
        is still read. TypeError for an unknown field, or a missing one without a default."""
        return Cell(**{name: tuple(value) if isinstance(value, list) else value for name, value in values.items()})


@dataclass(frozen=True)
class Tier:
    """Methods that share a number of seeds, and what they are for."""

    name: str
    seeds: tuple[int, ...]
    methods: tuple[str, ...]
    why: str
    questions: dict[str, tuple[str, ...]]  # question -> the methods that answer it; {} where there is only one


@dataclass(frozen=True)
class Grid:
    """The settings file, checked."""

    tiers: tuple[Tier, ...]
    changes: dict[str, dict]  # method -> the fields of `Cell` that it has of its own, with the defaults
    labels: dict[str, str]  # method -> a few words

    def cell(self, method: str, seed: int) -> Cell:
        """ValueError for a method that the file does not have."""
        if method not in self.changes:
            raise ValueError(f"no method {method!r} in the grid; there are {', '.join(self.changes)}")
        return Cell.from_dict({"method": method, "seed": seed, **self.changes[method]})

    def tier(self, name: str) -> Tier:
        """ValueError for a tier that the file does not have."""
        known = {tier.name: tier for tier in self.tiers}
        return known[self._known(name, known, "tier")]

    def cells(self, tiers: Iterable[str] | None = None, methods: Iterable[str] | None = None,
              seeds: Sequence[int] | None = None) -> list[Cell]:
        """The runs asked for, seed by seed, so that what is there at any time compares all methods on the same seeds.

        Without `tiers` all of them; `methods` and `seeds` keep only those named. ValueError for an unknown name.
        """
        chosen = [self.tier(name) for name in tiers] if tiers else list(self.tiers)
        wanted = {self._known(name, self.changes, "method") for name in methods} if methods else set(self.changes)
        found: dict[tuple[str, int], Cell] = {}
        for tier in chosen:
            for seed in tier.seeds if seeds is None else seeds:
                for method in tier.methods:
                    if method in wanted:
                        found.setdefault((method, seed), self.cell(method, seed))
        return list(found.values())

    @staticmethod
    def _known(name: str, known: Iterable[str], what: str) -> str:
        if name not in known:
            raise ValueError(f"no {what} {name!r} in the grid; there are {', '.join(known)}")
        return name


def settings_file() -> Path:
    return data_dir() / "study" / "study.toml"


def read_grid(path: str | Path | None = None) -> Grid:
    """The grid of a settings file, by default the study's own. ValueError names the file and what does not fit."""
    path = Path(path) if path else settings_file()
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from None
    _check_keys(raw, TABLES, f"{path}")
    defaults, methods, tiers = (_table(raw.get(name, {}), f"{path}, {name}") for name in TABLES)
    changes, labels = {}, {}
    for method in methods:
        changes[method] = {**defaults, **_changes(methods, method, path)}
        labels[method] = changes[method].pop("label", method.replace("_", " "))
        _check(changes[method], labels[method], f"{path}, method {method}")
    if not tiers:
        raise ValueError(f"{path}: there is no [tiers.NAME], so no run is asked for")
    return Grid(tuple(_tier(name, tiers[name], changes, path) for name in tiers), changes, labels)


def _changes(methods: dict[str, dict], name: str, path: Path, seen: tuple[str, ...] = ()) -> dict:
    if name not in methods or name in seen:
        raise ValueError(f"{path}, method {(seen or (name,))[0]}: like = {name!r} names no other method")
    own = dict(_table(methods[name], f"{path}, method {name}"))
    like = own.pop("like", None)
    if like is not None and not isinstance(like, str):
        raise ValueError(f"{path}, method {name}, like: {like!r} does not fit")
    before = _changes(methods, like, path, (*seen, name)) if like is not None else {}
    before.pop("label", None)
    return {**before, **own}


def _table(value: Any, where: str) -> dict:
    if not isinstance(value, dict):
        raise ValueError(f"{where}: a table is wanted here, not {value!r}")
    return value


def _check_keys(found: Iterable[str], known: Sequence[str], where: str) -> None:
    if unknown := [name for name in found if name not in known]:
        raise ValueError(f"{where}: unknown setting {unknown[0]!r}; there are {', '.join(sorted(known))}")


def _check(values: dict, label: Any, where: str) -> None:
    """ValueError unless these are fields of a `Cell`, of their types, and a run can be made of them."""
    kinds = {field.name: field.type for field in fields(Cell) if field.name not in ("method", "seed")}
    _check_keys(values, tuple(kinds), where)
    for name, value in {**values, "label": label}.items():
        small = kinds.get(name) is int and isinstance(value, int) and value < 1
        if small or not fits(value, kinds.get(name, str)):
            raise ValueError(f"{where}, {name}: {value!r} does not fit")
        if value not in CHOICES.get(name, (value,)):
            raise ValueError(f"{where}, {name}: one of {', '.join(CHOICES[name])}, not {value!r}")
    if not values.get("bases"):
        raise ValueError(f"{where}: bases must name at least one model")
    cell = Cell.from_dict({"method": "", "seed": 0, **values})
    if not 0 <= cell.dial <= 1:
        raise ValueError(f"{where}, dial: a share from 0 to 1, not {cell.dial}")
    if cell.reward not in UNHEARD and not cell.listeners:
        raise ValueError(f"{where}, listeners: reward {cell.reward!r} needs at least one")
    if len(cell.weights) < 2 + (cell.reward != "none"):
        raise ValueError(f"{where}, weights: {len(cell.weights)} are fewer than the parts of the reward")
    if cell.balance_votes and cell.pairs_per_step % 2:
        raise ValueError(f"{where}, pairs_per_step: an even number where votes are balanced, not {cell.pairs_per_step}")
    if cell.measured_pairs > cell.final_pairs:
        raise ValueError(f"{where}, measured_pairs: {cell.measured_pairs} are more than the {cell.final_pairs} of the "
                         "final measurement, of which they are the first")
    if cell.trainer != "grpo" and cell.reward != "none":
        raise ValueError(f"{where}, reward: {cell.reward!r} is for GRPO; {cell.trainer} learns from the votes alone")
    if cell.trainer == "dpo" and (cell.beta <= 0 or cell.num_generations < 2):
        raise ValueError(f"{where}: DPO needs beta > 0, and num_generations of at least 2 to choose from")


def fits(value: Any, kind: Any) -> bool:
    """Whether a value of the file is of a field's type: a list for a tuple, also 1 for 1.0, and no truth value for a
    number."""
    if get_origin(kind) is tuple:
        return isinstance(value, list) and all(fits(element, get_args(kind)[0]) for element in value)
    return isinstance(value, (int, float) if kind is float else kind) and isinstance(value, bool) == (kind is bool)


def _tier(name: str, tier: Any, changes: dict, path: Path) -> Tier:
    where = f"{path}, tier {name}"
    _check_keys(_table(tier, where), OF_TIER, where)
    if len({"methods", "questions"} & set(tier)) == 2:
        raise ValueError(f"{where}: methods, or questions with methods, not both")
    questions = _table(tier.get("questions", {}), f"{where}, questions")
    if bad := [text for text, own in questions.items() if not fits(own, tuple[str, ...])]:
        raise ValueError(f"{where}, questions: a list of methods for {bad[0]!r}, not {questions[bad[0]]!r}")
    methods, seeds = tier.get("methods") or [m for own in questions.values() for m in own], tier.get("seeds")
    why = tier.get("why", "")
    if not methods or not fits(methods, tuple[str, ...]):
        raise ValueError(f"{where}, methods: a list of at least one method, not {methods!r}")
    if unknown := [m for m in methods if m not in changes]:
        raise ValueError(f"{where}: no method {unknown[0]!r}; there are {', '.join(changes)}")
    if len(set(methods)) < len(methods):
        raise ValueError(f"{where}: a method stands there twice")
    if not fits(seeds, int) or seeds < 1:
        raise ValueError(f"{where}: seeds is how many there are, at least 1, not {seeds!r}")
    if not fits(why, str):
        raise ValueError(f"{where}, why: {why!r} does not fit")
    return Tier(name, tuple(range(seeds)), tuple(methods), why, {text: tuple(own) for text, own in questions.items()})


def quick(cell: Cell) -> Cell:
    """The same run, so short that it only shows the shape of things."""
    return replace(cell, steps=20, train_pairs=120, measure_every=10, measured_pairs=24, final_pairs=24)
