"""The study for those who only look in: what the page of a run, the README and the book say and show of it.

    python -m lrt.study.page     # the README's picture and the lines below it, again from data/study
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.figure import Figure

from lrt.files import write_text
from lrt.study import claims
from lrt.study import plots as study_plots
from lrt.study import story as study_story
from lrt.study import tables as study_tables
from lrt.study.effects import Effect, against_plain, own_ear, versus
from lrt.study.grid import Grid, read_grid
from lrt.study.logs import Run, read_runs
from lrt.study.outcomes import mean, measure
from lrt.study.pool import logs_folder
from lrt.study.report import markdown
from lrt.study.verdicts import decided, lead, prevents
from lrt.style import look, save
from lrt.words import listed

LISTENERS = ("listener_base", "listener_reader")
LONG = "grpo_long", "reader_long"
SUGGESTED = 0, 1  # seeds of no_verdict that had been looked at when the guess was written (PLAN.md)
GUESSED = study_tables.PLAIN, "permuted_no_verdict"  # what no_verdict's answers must flip more often than
ASKED = "flip", "in_distribution", f"contradiction/{study_tables.JUDGE}", "told"
NAME, LONG_NAME = "study_effects", "study_long"  # of the pictures, as notebook 06 calls them
HOW = ("A dot is one seed: its run minus plain GRPO's run of that seed. Bars: 95 % intervals over seeds and prompts. "
       "Reader: a listener that passed a reading test; rule: pays if the trace's own verdict is the vote, no model; "
       "permuted: the reader's numbers, dealt out at random; llava: a listener that rewards nobody.")
MARKS = "<!-- study: made by `make picture` -->", "<!-- end of study -->"


def first_tier(runs: Sequence[Run], grid: Grid) -> list[Run]:
    """The runs that decide the claims."""
    return [run for run in runs if run.cell.method in grid.tiers[0].methods]


def paragraphs(runs: Sequence[Run], grid: Grid, asked: Sequence[claims.Claim],
               decisions: Sequence[claims.Decision] | None = None, details: bool = True) -> list[str]:
    """The answer so far, what the study says of each claim and of each listener (prevents, delays or neither), and how
    much of it is there. `decisions`: on these claims, if they are at hand; `details`: what each claim that is not
    supported leaves open."""
    main, there = first_tier(runs, grid), study_story.counted(runs, grid)
    if not main:
        return [there]
    flips = against_plain(main, measures=["flip"])
    matched = against_plain(main, measures=["flip"], matched=True)
    decisions = [claims.decide(claim, runs) for claim in asked] if decisions is None else decisions
    return [lead(decisions), *decided(decisions, details), *three_words(runs, flips, matched), there]


def three_words(runs: Sequence[Run], flips: Sequence[Effect], matched: Sequence[Effect]) -> list[str]:
    """prevents, delays or neither, for each listener: its effects at the last step and at matched accuracy, and those
    of the runs of 900 steps, which the plan has for the reader alone."""
    longer = [run for run in runs if run.cell.method in LONG]
    long = {"listener_reader": against_plain(longer, "grpo_long", ["flip"])}
    return [prevents(flips, matched, long.get(method, []), method) for method in LISTENERS]


def levels(main: Sequence[Run]) -> str:
    """Markdown: each method's mean over seeds at the last step, and the bases' before the first, in per cent."""
    names = study_tables.measured(main)
    plain = [run for run in main if run.cell.method == study_tables.PLAIN]
    tables = {"base": [run.measures[0] for run in plain]} if plain else {}
    tables |= {method: [run.final for run in own] for method, own in study_tables.of_methods(main).items()}
    rows = [(look(method)[0], len(own), *(_level([mean(table, name) for table in own]) for name in names))
            for method, own in tables.items()]
    return markdown(("mean over seeds, %", "seeds", *(f"{measure(n).label} ({measure(n).better} is better)"
                                                      for n in names)), rows)


def _level(shares: Sequence[float]) -> str:
    """"79", or "79 (9 of 10)" where a measure applies to nothing in some runs."""
    known = [x for x in shares if not np.isnan(x)]
    fewer = f" ({len(known)} of {len(shares)})" if len(known) < len(shares) else ""
    return f"{100 * np.mean(known):.0f}{fewer}" if known else ""


def draw(runs: Sequence[Run], grid: Grid, folder: str | Path) -> Path | None:
    """The differences from plain GRPO at the last step, as NAME.png in a folder; None without any."""
    main = first_tier(runs, grid)
    names = study_tables.measured(main)
    effects, table = against_plain(main, measures=names), study_tables.differences(main, names)
    if not effects or not len(table):
        return None
    path = Path(folder) / f"{NAME}.png"
    path.parent.mkdir(parents=True, exist_ok=True)
    save(study_plots.at_the_end(table, effects), path, study_story.effects_alt(effects))
    return path


@dataclass(frozen=True)
class LaterTier:
    """What runs show that decide nothing."""

    effects: list[Effect]  # of its own methods, against their plain GRPO
    told: list[str]  # from where to where the means go; also the figure's words
    fig: Figure | None  # None if nothing compares


def later_tier(runs: Sequence[Run], grid: Grid, tier: str) -> LaterTier | None:
    """A later tier's differences from plain GRPO at the last step, below those of the first tier on the same seeds.
    None if none of its runs is there."""
    asked = grid.tier(tier)
    beside = study_tables.beside_first(runs, grid, tier)
    if not beside:
        return None
    names = study_tables.measured(beside)
    effects, table = against_plain(beside, measures=names, grid=grid), study_tables.differences(beside, names, grid)
    hollow = [e for e in effects if own_ear(e, grid)]
    marks = {"*: of the same settings": any(e.reference != study_tables.PLAIN for e in effects),
             "hollow: heard by a listener that was paid for": bool(hollow)}
    said = "; ".join(mark for mark, needed in marks.items() if needed)
    title = f"Tier {tier}, against plain GRPO" + f" ({said})" * bool(said)
    groups = {"The first tier, same seeds": grid.tiers[0].methods} | asked.questions if asked.questions else None
    fig = study_plots.at_the_end(table, effects, title, grid.labels, groups, hollow) if len(table) else None
    own = [e for e in effects if e.method not in grid.tiers[0].methods]
    return LaterTier(own, study_story.ranged(effects, grid), fig)


def long_runs(runs: Sequence[Run]) -> LaterTier | None:
    """The runs of 900 steps over training, and the reader's against plain GRPO's at their end; None without any."""
    own = [run for run in runs if run.cell.method in LONG]
    if not own:
        return None
    names = study_tables.measured(own, ASKED)
    table, (plain, reader) = study_tables.curves(own, names), LONG
    told = [study_story.over_training(table, name) for name in names]
    effects = [e for e in versus(own, reader, plain, ["conflict", *names]) if e.seeds]
    return LaterTier(effects, told, study_plots.over_training(table, "900 steps", plain=plain))


def as_accurate(runs: Sequence[Run], method: str, plain: str) -> list[str]:
    """Flips once more, where a method's runs and plain GRPO's have come equally far in distribution: a method whose
    runs are also more accurate may flip more for that reason alone. [] without seeds that compare."""
    own = [run for run in runs if run.cell.method in (method, plain)]
    found = [e for e in against_plain(own, plain, ["flip", "in_distribution"], matched=True) if e.method == method]
    return list(filter(None, [study_story.at_the_level(*found)])) if found else []


def heard_guess(runs: Sequence[Run]) -> list[str]:
    """Whether the plan's guess at a reason is borne out: that who hears the statements without the verdict makes more
    answers flip than plain GRPO, and than the same p dealt out at random. On the seeds that nobody had looked at; []
    without any run of it."""
    others = [run for run in runs if run.cell.seed not in SUGGESTED]
    effects = [e for other in GUESSED for e in versus(others, "no_verdict", other, ASKED[:1])]
    told = [f"Without seeds {listed(map(str, SUGGESTED))}, which suggested it: {text}" for text in _each(effects)]
    guess = "The guess, which only these seeds decide: more answers flip than with either, clearly."
    level = as_accurate(others, "no_verdict", study_tables.PLAIN)
    return [*told, study_story.both_clear(effects, guess), *level] if told else []


def heard_beside(runs: Sequence[Run], others: Sequence[str] = (*GUESSED, "listener_reader"),
                 names: Sequence[str] = ASKED) -> list[str]:
    """What else hearing the statements without the verdict does, against each of `others`, over all seeds."""
    return [text for other in others for text in _each(versus(runs, "no_verdict", other, names))]


def long_sentences(runs: Sequence[Run], shown: LaterTier) -> list[str]:
    """The reader's runs against plain GRPO's after 900 steps, measure by measure, and at the same level."""
    plain, reader = LONG
    return _each(shown.effects) + as_accurate(runs, reader, plain)


def _each(effects: Sequence[Effect]) -> list[str]:
    """A sentence an effect, whatever it measures; none where nothing was run."""
    return [text for e in effects for text in study_story.effect_sentences([e], e.measure)]


def whole() -> tuple[list[Run], Grid, list[claims.Claim]]:
    """The committed study: its runs, its grid, its claims. Seconds, for all of its logs."""
    return read_runs(logs_folder()), read_grid(), claims.read_claims()


def readme_block(runs: Sequence[Run], grid: Grid, asked: Sequence[claims.Claim]) -> str:
    """What stands between MARKS in the README."""
    main = first_tier(runs, grid)
    alt = study_story.effects_alt(against_plain(main, measures=study_tables.measured(main)))
    picture = f"![{alt}](book/figures/{NAME}.png)"
    lines = "\n".join(f"- {text}" for text in paragraphs(runs, grid, asked, details=False))
    return (f"{MARKS[0]}\n{picture}\n\n*Tiny world, every run of it trained here. {HOW}*\n\n{lines}\n\n{levels(main)}"
            f"{_long_block(runs)}{_heard_block(runs)}{MARKS[1]}")


def _long_block(runs: Sequence[Run]) -> str:
    """The README's part on the runs of 900 steps; "" without any that compare."""
    shown = long_runs(runs)
    if shown is None or not shown.effects:
        return ""
    lines = "\n".join(f"- {text}" for text in long_sentences(runs, shown))
    return (f"\n**Three times as long** (tiny world; added to the plan later; no control was run for 900 steps, so a "
            "difference need not come from listening):\n\n"
            f"![{' '.join(shown.told)}](book/figures/{LONG_NAME}.png)\n\n{lines}\n")


def _heard_block(runs: Sequence[Run]) -> str:
    """The README's part on the reason; "" without runs of it."""
    lines = "\n".join(f"- {text}" for text in heard_guess(runs) + heard_beside(runs, GUESSED[:1], ASKED[1:]))
    return ("\n**Is it the listening that does it?** A guess, added to the plan after two of these runs had been "
            "looked at: a listener that hears the statements alone pays descriptions that speak for the voted image, "
            "and about three votes in four are for the warm one (tiny world; six seeds were planned, and four added "
            f"after all twelve runs had been looked at).\n\n{lines}\n") if lines else ""


def in_readme(text: str, block: str) -> str:
    """The README with a new block. ValueError if its marks are not there, once each."""
    pattern = re.escape(MARKS[0]) + ".*?" + re.escape(MARKS[1])
    if len(re.findall(pattern, text, re.S)) != 1:
        raise ValueError(f"README.md: {MARKS[0]} ... {MARKS[1]} must stand there once")
    return re.sub(pattern, lambda _: block, text, flags=re.S)


if __name__ == "__main__":
    found, root = whole(), Path(__file__).resolve().parents[2]
    draw(*found[:2], root / "book" / "figures")
    if long := long_runs(found[0]):
        save(long.fig, root / "book" / "figures" / f"{LONG_NAME}.png", " ".join(long.told))
    readme = root / "README.md"
    write_text(readme, in_readme(readme.read_text(encoding="utf-8"), readme_block(*found)))
