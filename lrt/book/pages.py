"""The parts of the book that are made of what the repository holds: numbers, tables, figures, cards and lists.

`write` puts them into a folder as Markdown, which the written pages include. So no page has a number typed by hand, and
a page cannot be older than the records behind it. Text from records is escaped.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from lrt import stats, story
from lrt.book import lists
from lrt.book.lists import bullets, figure, rubric
from lrt.course import page
from lrt.stats import Record
from lrt.study import claims, displaced, fresh
from lrt.study import page as study_page
from lrt.study import plots as study_plots
from lrt.study import story as study_story
from lrt.study import tables as study_tables
from lrt.study.grid import Grid, read_grid
from lrt.study.logs import Run, read_runs
from lrt.study.outcomes import measure
from lrt.study.report import markdown
from lrt.study.seeds import prediction
from lrt.study.verdicts import decided, lead
from lrt.style import METHODS, in_order, look, save
from lrt.widgets import dial, group, learned, steps

TINY = "Tiny world"


def write(root: Path, into: Path) -> None:
    """Write all parts below `into`, a new folder, from the repository at `root`."""
    figures = into / "figures"
    figures.mkdir(parents=True)
    study = root / "data" / "study"
    grid, asked = read_grid(), claims.read_claims()
    runs = read_runs(study / "logs")
    decisions = [claims.decide(claim, runs) for claim in asked]
    records = stats.load_records(root / "data" / "results" / "one_seed.json")
    parts = {
        "opening": opening(runs, grid, decisions, root, figures),
        "claims": claims_part(study, runs, grid, asked, decisions, figures),
        "tiers": tiers_part(runs, grid, figures),
        "long": long_part(runs, figures),
        "effects": effects_part(study),
        "curves": curves_part(runs, grid, figures),
        "one_seed": one_seed(records, figures),
        "study_ranges": study_ranges(runs, grid),
        **play(runs, grid),
        "fresh": fresh_part(study, runs),
        "one_seed_ranges": one_seed_ranges(records),
        "exact": lists.exact(root / "notebooks"),
        "times": lists.times(root / "notebooks"),
        "class_times": lists.class_times(root / "notebooks"),
        "t4_cost": lists.t4_cost(),
        "notebooks": lists.notebook_cards(root / "book" / "executed"),
        "rooms": lists.rooms(root / "lrt"),
        "published": lists.published(),
        "profiles": lists.profiles_table(),
        "memory": lists.memory_tables(),
        "run_costs": lists.run_costs(),
        "costs": lists.costs(),
        "commands": lists.commands(),
        "citation": f"```bibtex\n{lists.bibtex(root / 'CITATION.cff')}```\n",
    }
    for name, text in parts.items():
        (into / f"{name}.md").write_text(text, encoding="utf-8")


# --- the study -------------------------------------------------------------------------------------------------------


def opening(runs: Sequence[Run], grid: Grid, decisions: Sequence[claims.Decision], root: Path, figures: Path) -> str:
    """The README's opening picture, drawn from today's logs, and the answer so far; without logs, that of a single
    run."""
    path = study_page.draw(runs, grid, figures)
    if path is None:
        shutil.copy(root / "book" / "figures" / "accuracy_by_split.png", figures / "accuracy_by_split.png")
        alt, _ = _described(figures / "accuracy_by_split.png")
        return figure(figures / "accuracy_by_split.png", alt, f"{TINY}, one seed, intervals over prompts.")
    caption = f"{TINY}, every run of it trained here. {study_page.HOW}\n\n{lead(decisions)}"
    return figure(path, _described(path)[0], caption)


def claims_part(study: Path, runs: Sequence[Run], grid: Grid, asked: Sequence[claims.Claim],
                decisions: Sequence[claims.Decision], figures: Path) -> str:
    """What the study says of each claim, a figure of them all, then the committed table of `claims.md`."""
    told, drawn = study_page.paragraphs(runs, grid, asked, decisions), ""
    if any(d.verdict != "not run" for d in decisions):
        path, alt = figures / "claims.png", "Claims, right of 0 as predicted. " + " ".join(decided(decisions, False))
        save(study_plots.claims(decisions), path, alt)
        drawn = figure(path, alt, f"{TINY}. The three marks of a claim are its three comparisons.")
    levels = study_page.levels(study_page.first_tier(runs, grid))
    return f"{bullets(told)}\n{drawn}\n{levels}\n{_section(study / 'claims.md', '## Claims')}"


def tiers_part(runs: Sequence[Run], grid: Grid, figures: Path) -> str:
    """A figure of each later tier, or that it is not there yet."""
    parts = []
    for tier in grid.tiers[1:]:
        shown = study_page.later_tier(runs, grid, tier.name)
        parts.append(f"{rubric(f'Tier {tier.name}: {tier.why}')}\n")
        if shown is None or shown.fig is None:
            parts.append("No runs to compare yet.\n")
            continue
        path, alt = figures / f"tier_{tier.name}.png", f"Differences from plain GRPO. {' '.join(shown.told)}"
        save(shown.fig, path, alt)
        parts.append(figure(path, alt, f"{TINY}. The first tier's methods stand on top, on the same seeds. A bar that "
                                       "leaves its panel goes on; no side is named from fewer than five seeds."))
        if tier.name == "heard":
            parts.append(bullets(study_page.heard_guess(runs) + study_page.heard_beside(runs)))
    return "\n".join([*parts, displaced_part(runs, grid, figures)])


def displaced_part(runs: Sequence[Run], grid: Grid, figures: Path) -> str:
    """What DPO's loss leaves likely, as a figure and in words; "" without a run of it."""
    table = displaced.displacement(runs)
    if not len(table):
        return ""
    path, told = figures / "displaced.png", displaced.told(table, grid.labels)
    save(displaced.picture(table, grid.labels), path, " ".join(told))
    return f"{rubric('What DPO loses')}\n\n{figure(path, ' '.join(told), f'{TINY}.')}\n{bullets(told)}"


def long_part(runs: Sequence[Run], figures: Path) -> str:
    """The runs of 900 steps over training, and how they differ at their end; words where there are none."""
    shown = study_page.long_runs(runs)
    if shown is None:
        return "No run of 900 steps is here yet.\n"
    path, alt = figures / f"{study_page.LONG_NAME}.png", " ".join(shown.told)
    save(shown.fig, path, alt)
    return f"{figure(path, alt, f'{TINY}.')}\n{bullets([*shown.told, *study_page.long_sentences(runs, shown)])}"


def effects_part(study: Path) -> str:
    """The tables of every method in `claims.md`, each under its own words."""
    text = (study / "claims.md").read_text(encoding="utf-8")
    heads = [line for line in text.splitlines() if line.startswith("## ") and line != "## Claims"]
    return "\n".join(f"{rubric(head.lstrip('# '))}\n{_section(study / 'claims.md', head)}" for head in heads)


def _section(path: Path, head: str) -> str:
    """The text below a heading, up to the next one. ValueError without such a heading."""
    _, found, rest = path.read_text(encoding="utf-8").partition(f"{head}\n")
    if not found:
        raise ValueError(f"{path}: no heading {head!r}; make it again with `lrt study claims`")
    return rest.split("\n## ")[0].strip() + "\n"


def curves_part(runs: Sequence[Run], grid: Grid, figures: Path) -> str:
    """Figures over training, of the runs that decide the claims; words where there are none yet."""
    main = study_page.first_tier(runs, grid)
    names = study_tables.measured(main)
    if not main or not names:
        return "No run of the first tier is here yet.\n"
    over_time = study_tables.curves(main, names)
    parts = []
    for name in names:
        own = over_time[over_time["measure"] == name]
        path = figures / f"over_training_{name.replace('/', '_')}.png"
        alt = study_story.over_training(own, name)
        save(study_plots.over_training(own, measure(name).label.capitalize()), path, alt)
        parts.append(figure(path, alt, f"{TINY}. {measure(name).about}"))
    return "\n".join(parts)


def study_ranges(runs: Sequence[Run], grid: Grid) -> str:
    """Where single runs of the first tier fall: seeds, smallest and largest, and the 95 % prediction interval."""
    ends = study_tables.last(study_page.first_tier(runs, grid), fresh.MEASURES) if runs else None
    if ends is None or not len(ends):
        return "No run of the study is here yet: nothing to compare with.\n"
    rows = []
    for method in in_order(ends["method"]):
        own = ends[ends["method"] == method]
        for name in fresh.MEASURES:
            found = own[name].dropna()
            if len(found):
                rows.append((look(method)[0], measure(name).label, len(found), _range(found.min(), found.max()),
                             _expected(found)))
    head = ("method", "measure, last step", "seeds", "smallest to largest, %", "95 % of single runs, %")
    return markdown(head, rows)


def fresh_part(study: Path, runs: Sequence[Run]) -> str:
    """Runs of further seeds, which no claim uses, held against the prediction intervals; words where there are none."""
    extra = read_runs(study / "fresh") if (study / "fresh").is_dir() else []
    if not extra:
        return "Fresh seeds, beyond the study's own, have not been run.\n"
    return markdown(fresh.HEAD, fresh.fresh_rows(fresh.held_against(runs, extra)))


def _range(low: float, high: float) -> str:
    ends = [f"{100 * end:.0f}" for end in (low, high)]
    return " to ".join(dict.fromkeys(ends))


def _expected(values) -> str:
    """The prediction interval of one new run, cut to what a share can be."""
    found = prediction(values)
    if found.low != found.low:
        return "one seed: not known"
    return _range(max(0.0, found.low), min(1.0, found.high))


# --- things to play with ---------------------------------------------------------------------------------------------


def play(runs: Sequence[Run], grid: Grid) -> dict[str, str]:
    """The page parts of `lrt.widgets`, by the name of the file that holds each."""
    parts = {
        "play_group": group.group_html(),
        "play_dial": dial.dial_html(),
        "play_learned": learned.learned_html(runs, grid),
        "play_steps": steps.steps_html(steps.recorded()),
    }
    return {name: f"``````{{raw}} html\n{text}``````\n" for name, text in parts.items()}


# --- one run ---------------------------------------------------------------------------------------------------------


def one_seed(records: list[Record], figures: Path) -> str:
    """The figures of the shipped models, one seed, with what the records say."""
    page.draw_overview(records, {}, figures)
    parts = []
    for name in ("accuracy_by_split", "agree_conflict", "flip_rates"):
        path = figures / f"{name}.png"
        if path.is_file():
            parts.append(figure(path, _described(path)[0], f"{TINY}, one seed. {page.CAPTIONS[name][1]}"))
    return "\n".join([*parts, bullets(story.truth(records))])


def one_seed_ranges(records: list[Record]) -> str:
    """Every method's numbers of the one committed run, with intervals over prompts."""
    rows = []
    for title, lines in page.table(records):
        for label, cells in lines:
            shown = [cell["why"] or f"{cell['value']} {cell['ends']}".strip() for cell in cells]
            rows.append((title.lower(), label, *shown))
    return markdown(("what", "where", *(look(method)[0] for method in METHODS)), rows)


def _described(path: Path) -> tuple[str, tuple[int, int]]:
    """(alternative text, size in pixels) of a figure."""
    with Image.open(path) as image:
        return image.info.get("Description", ""), image.size
