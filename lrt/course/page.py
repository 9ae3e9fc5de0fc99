"""The story of a run on one page: a static HTML file that asks nothing of the network.

Everything on it that has a direction is computed by `lrt.story` from the records. Figures are embedded as data URIs,
with the alternative text that `plots.save` wrote into them.
"""

import base64
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from lrt import comparing, plots, story
from lrt.files import write_text
from lrt.stats import Record
from lrt.style import METHODS, look

# Where a figure stands and what is said below it, in the order of the story; figures are known by their file's name.
CAPTIONS = {
    "one_pair": ("training", "A pair as the reasoner sees it."),
    "twins": ("training", "The shortcut: the same scenes and the same noise, their tints exchanged."),
    "learning_curves": ("training", "What the trainers logged, step by step."),
    "flip_rates": ("reliance", "The scenes stay, only their tints are swapped: a judge of content would not notice."),
    "agree_conflict": ("reliance", "The longer the arrow, the more the accuracy depends on the tint."),
    "accuracy_by_split": ("accuracy", "The splits differ in what the tint says, and in what training never showed."),
    "contradiction_bars": ("contradiction", "Each listener reads the same traces without the answer, and chooses."),
    "accuracy_by_disagreement": ("contradiction", "Are answers that the listener doubts more often wrong?"),
    "truth_by_attribute": ("truth", "Which kind of statement is true, and which is not."),
    "faithfulness": ("faithfulness", "What each edit of the trace does to the answer."),
    "study_effects": ("study", "Against plain GRPO's run of the same seed: dots are runs, bars intervals."),
    "study_tint": ("study", "Its runs over training: the tint."),
    "study_traces": ("study", "Its runs over training: the traces."),
}
OTHER = {  # rows of the table below the accuracies
    "flip rate": "flip_rate",
    "accuracy where tint and content agree": "accuracy_agree",
    "accuracy where they conflict": "accuracy_conflict",
    "sampled answer departs from own verdict": "own_verdict_departure_sampled",
    "true statements": "truth",
    "parsable completions": "parsable",
}
SHOWN = {"accuracy": 4, "contradiction": 3}  # paragraphs of a section before the rest is folded away


def write_page(records: list[Record], figures_dir: str | Path, out: str | Path, notebooks=None,
               training_listener: str = "reader", study: Sequence[str] = ()) -> Path:
    """Write the page of one run to the file `out`, whole or not at all, and return its path.

    figures_dir: a folder of PNG files from `plots.save` (it may be missing); notebooks: executed notebooks to link to,
    by default those in `notebooks/` beside the page; study: what many
    seeds say (`study_page.paragraphs`). ValueError names a figure without alternative text, or a number
    that two records give.
    """
    out = Path(out)
    notebooks = sorted((out.parent / "notebooks").glob("*.ipynb")) if notebooks is None else map(Path, notebooks)
    placed, other = place(load_figures(figures_dir))
    judge = story.independent(records, training_listener)[:1]
    measures = [story.FLIP, story.DEPARTURE, *(story.heard_by(name, training_listener) for name in judge), story.TRUTH]
    numbers = [(measure, comparing.split_of(records, measure.metric)) for measure in measures]
    numbers += [(story.ACCURACY, split) for split in (comparing.HOME, comparing.MAIN)]
    environment = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True, trim_blocks=True,
                              lstrip_blocks=True, undefined=StrictUndefined, finalize=keep_together)
    html = environment.get_template("page.html.jinja").render(
        methods=[(method, look(method)[0]) for method in METHODS],
        headline=story.headline(records, training_listener),
        cards=[card for measure, split in numbers if (card := headline_card(records, measure, split))],
        table=table(records),
        sections=[(s.key, s.title, list(map(lead, s.paragraphs))) for s in story.sections(records, training_listener)],
        shown=SHOWN,
        figures=placed,
        more_figures=other,
        limits=story.LIMITS,
        study=study,
        seeds=sorted({r.seed for r in records if r.seed is not None and r.method in METHODS}),
        notebooks=[(path.stem, quote(Path(os.path.relpath(path, out.parent)).as_posix())) for path in notebooks],
    )
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, html)
    return out


# --- text ------------------------------------------------------------------------------------------------------------


def keep_together(value):
    """No line of the page ends within "61 % [55, 67]" or "n = 240"."""
    spaces = r" (?=[%=])|(?<=[%=]) (?=[\[\d])|(?<=\d,) (?=\d+\])"
    return re.sub(spaces, "\u00a0", value) if type(value) is str else value


def lead(paragraph: str) -> tuple[str, str]:
    """(what a paragraph is about, the rest): the words before its first bracket or colon."""
    end = re.search(r" \(|:|$", paragraph).start()
    return paragraph[:end], paragraph[end:]


# --- figures ---------------------------------------------------------------------------------------------------------


def draw_overview(records: list[Record], logs: dict[str, list[dict]], figures_dir: str | Path) -> None:
    """Draw the figures in which all methods stand side by side, which no single notebook can: accuracy by split, where
    tint and content agree or conflict, flip rates, learning curves. logs: method -> entries of its training log. What
    was not measured is not drawn."""
    records = [record for record in records if record.method in METHODS]
    logs = {method: log for method, log in logs.items() if log}
    drawn = {"flip_rates": (plots.flip_rates, story.reliance(records)[0]),
             "agree_conflict": (plots.agree_conflict, story.reliance(records)[1]),
             "accuracy_by_split": (plots.accuracy_by_split, " ".join(story.accuracy(records)[:3]))}
    Path(figures_dir).mkdir(parents=True, exist_ok=True)
    for name, (draw, alt) in drawn.items():
        try:
            figure = draw(records)
        except ValueError:  # no such records
            continue
        plots.save(figure, Path(figures_dir) / f"{name}.png", alt)
    if logs:
        alt = "Training of " + "; ".join(f"{look(method)[0]}: {_trend(log)}" for method, log in logs.items())
        plots.save(plots.learning_curves(logs), Path(figures_dir) / "learning_curves.png", f"{alt} (one seed each).")


def _trend(log):
    rewards = [entry["reward"] for entry in log if entry.get("reward") is not None]
    window = max(1, len(rewards) // 10)
    if not rewards:
        return f"{len(log)} steps"
    first, last = (sum(part) / window for part in (rewards[:window], rewards[-window:]))
    return f"{len(log)} steps, reward {first:.2f} at first and {last:.2f} at the end"


@dataclass(frozen=True)
class FigureFile:
    """A figure as the page embeds it."""

    name: str
    src: str
    alt: str
    width: int  # pixels on the page: `plots` draws at 150 dpi, a browser's inch has 96
    height: int
    caption: str


def load_figures(folder: str | Path) -> dict[str, FigureFile]:
    """The PNG files of a folder by name; those that belong to the story have its caption."""
    figures = {}
    for path in sorted(Path(folder).glob("*.png")):
        with Image.open(path) as image:
            alt, size = image.info.get("Description", ""), image.size
        if not alt.strip():
            raise ValueError(f"{path}: a figure without alternative text; write it with plots.save(figure, path, alt)")
        data = base64.b64encode(path.read_bytes()).decode()
        width, height = (round(side * 96 / 150) for side in size)
        _, caption = CAPTIONS.get(path.stem, ("", f"{path.stem.replace('_', ' ').capitalize()}."))
        figures[path.stem] = FigureFile(path.stem, f"data:image/png;base64,{data}", alt, width, height, caption)
    return figures


def place(figures: dict[str, FigureFile]) -> tuple[dict[str, list[FigureFile]], list[FigureFile]]:
    """(figures by section, in the order of the story; the others, by name)."""
    placed: dict[str, list[FigureFile]] = {section: [] for section, _ in CAPTIONS.values()}
    for name, (section, _) in CAPTIONS.items():
        if name in figures:
            placed[section].append(figures[name])
    return placed, [figure for name, figure in figures.items() if name not in CAPTIONS]


# --- numbers ---------------------------------------------------------------------------------------------------------


def headline_card(records: list[Record], measure: comparing.Measure, split: str) -> dict | None:
    """A headline number of every method; None if it was not measured."""
    found = {method: comparing.find(records, method, measure.metric, split) for method in METHODS}
    rows = [{"method": method, "label": look(method)[0], **number(record)} for method, record in found.items()]
    known = [record for record, row in zip(found.values(), rows, strict=True) if not row["why"]]
    about = f"{measure.counts} ({comparing.context(known)})" if known else ""
    return {"name": measure.name, "about": about, "rows": rows} if known else None


def number(record: Record | None) -> dict:
    """What the page shows of a record: value and interval in per cent, n, where they stand on a scale from 0 to 100; or
    `why` there is no number."""
    if record is None or record.value != record.value:
        return {"why": "not measured" if record is None else "does not apply"}
    known = record.low == record.low and record.high == record.high
    low, high = (record.low, record.high) if known else (record.value, record.value)
    left, right, point = (round(100 * min(1.0, max(0.0, x)), 1) for x in (low, high, record.value))
    return {"why": "", "value": f"{100 * record.value:.0f} %", "ends": f"[{100 * low:.0f}, {100 * high:.0f}]" * known,
            "n": record.n, "left": left, "width": round(right - left, 1), "point": point}


def table(records: list[Record]) -> list[tuple[str, list[tuple[str, list[dict]]]]]:
    """Methods x splits: groups of rows, each a title and rows of (label, a number for each method). Rows without any
    number are left out, and groups without rows."""
    splits = dict.fromkeys(r.split for r in records if r.metric == "accuracy" and r.method in METHODS)
    groups = {"Accuracy against the votes": [(split.replace("_", " "), "accuracy", split) for split in splits]}
    for name, metric in OTHER.items():
        split = comparing.split_of(records, metric)
        groups.setdefault(f"Other measures, {split.replace('_', ' ')}", []).append((name, metric, split))
    found = {title: [(label, [number(comparing.find(records, method, metric, split)) for method in METHODS])
                     for label, metric, split in rows] for title, rows in groups.items()}
    kept = {title: [row for row in rows if not all(cell["why"] for cell in row[1])] for title, rows in found.items()}
    return [(title, rows) for title, rows in kept.items() if rows]
