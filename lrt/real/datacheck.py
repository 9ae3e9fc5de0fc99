"""What is in a benchmark's files, before anything is trained or measured on them: `lrt data check`.

Counted in passes that hold a few rows at a time: the labels alone first, so that a missing image changes none of their
numbers; then the images, where they are there. The accuracy of a judge that always answers "1" is the floor that any
accuracy on the pairs has to be held against: on ImageReward's test it is 59.0 %, not 50.
"""

import tempfile
from collections import Counter
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from PIL import Image

from lrt.folder import decoded, image_problem
from lrt.real.reading import BadImage, NoVote, name_of
from lrt.real.sources import needs_folder, rows
from lrt.stats import Interval, bootstrap_ratio

EXAMPLES = 6  # pairs in the picture
NAMED = 5  # problems shown, of each kind
BAR = 40  # characters of the histogram's longest bar
AGREEMENT = (0.5, 0.6, 0.7, 0.8, 0.9, 1.0)  # lower edges; the last is agreement of all


class _Tally(list):
    """Stands for the list that collects bad rows, and keeps of a million of them only what is reported."""

    def __init__(self):
        super().__init__()
        self.rows: list[str] = []
        self.images: dict[str, str] = {}  # name -> what is wrong with it
        self.unjudged = 0

    def append(self, error: ValueError) -> None:
        if isinstance(error, BadImage):
            for one in (error, *error.also):
                self.images.setdefault(one.name, str(one))
        elif isinstance(error, NoVote):
            self.unjudged += 1
        else:
            self.rows.append(str(error))

    def extend(self, errors) -> None:
        for error in errors:
            self.append(error)


@dataclass
class Check:
    """What is in a benchmark's files."""

    name: str
    path: str
    pairs: int = 0  # that can be read, whatever their images
    untied: int = 0
    named_images: set[str] = field(default_factory=set)
    prompts: dict[str, list[int]] = field(default_factory=dict)  # prompt_id -> [first image better, untied pairs]
    agreement: Counter = field(default_factory=Counter)  # lower edge of AGREEMENT -> pairs with several voters
    bad_rows: list[str] = field(default_factory=list)
    unjudged: int = 0  # rows that say of themselves that nobody judged them
    looked: bool = False  # were the images looked at?
    whole_pairs: int = 0  # both of whose images can be used
    bad_images: dict[str, str] = field(default_factory=dict)  # name -> what is wrong
    examples: list[dict] = field(default_factory=list)

    @property
    def tied(self) -> int:
        return self.pairs - self.untied

    @property
    def images(self) -> int | None:
        """Different images; None where the labels do not name them and they were not looked at."""
        return len(self.named_images) or None

    @property
    def clean(self) -> bool:
        """Pairs are there, and everything could be read."""
        return bool(self.pairs) and not self.bad_images and not self.bad_rows

    def always_first(self) -> Interval:
        """Accuracy of a judge that always answers 1, over untied pairs, with an interval over prompts."""
        first, untied = zip(*self.prompts.values(), strict=True) if self.prompts else ((), ())
        return bootstrap_ratio(first, untied, list(self.prompts))


def check(name: str, path: str | Path, images: str | Path | None = None, labels_only: bool = False,
          decode: bool = True, limit: int | None = None, **how) -> Check:
    """Count what is there, one row in memory at a time: first the labels alone, then the images, if they are there.

    Bad rows and images are counted, never an error; ValueError when the file as a whole cannot be read. `limit`: only
    the first pairs.
    """
    found, tally = Check(name, str(path)), _Tally()
    for row in islice(rows(name, path, images, bad=tally, labels_only=True, **how), limit):
        _count(found, row)
    found.bad_rows, found.unjudged = tally.rows, tally.unjudged
    if labels_only or (images is None and needs_folder(name, path)):
        return found
    with tempfile.TemporaryDirectory(prefix="lrt-check-") as folder:
        _look(found, name, path, images, limit, {"decode": decode, **how}, folder)
    return found


def _count(found: Check, row: dict) -> None:
    found.pairs += 1
    found.named_images.update(row["image_names"] or ())
    of_prompt = found.prompts.setdefault(row["prompt_id"], [0, 0])
    if row["vote"]:
        found.untied += 1
        of_prompt[0] += row["vote"] == 1
        of_prompt[1] += 1
    alone = row["votes_1"] is not None and row["votes_1"] + row["votes_2"] < 2 and row["share"] in (0, 0.5, 1)
    if not alone:
        agreed = max(row["share"], 1 - row["share"])
        found.agreement[max(edge for edge in AGREEMENT if agreed >= edge - 1e-9)] += 1


def _look(found: Check, name: str, path, images, limit: int | None, how: dict, folder: str) -> None:
    """The images: which can be used, and a few pairs of different prompts to look at."""
    tally, prompts = _Tally(), set()
    if name == "imagereward":
        how["cache_dir"] = folder
    found.looked, seen = True, set()
    for row in islice(rows(name, path, images, bad=tally, **how), limit):
        found.whole_pairs += 1
        seen.update(row["image_names"] or map(name_of, row["images"]))
        if len(found.examples) < EXAMPLES and row["prompt_id"] not in prompts:
            prompts.add(row["prompt_id"])
            images = [_small(cell) for cell in row["images"]]
            found.examples += [row | {"images": images}] if all(images) else []
    found.bad_images = tally.images
    found.named_images = found.named_images or seen | set(tally.images)


def _small(cell: dict) -> Image.Image | None:
    """An image small enough to keep; None for one that cannot be read (which is known only if all are decoded)."""
    data = cell["bytes"] if cell["bytes"] is not None else Path(cell["path"]).read_bytes()
    if image_problem(data):
        return None
    image = decoded(data).convert("RGB")
    image.thumbnail((256, 256))
    return image


def told(found: Check) -> str:
    """A check in words, for a terminal."""
    first = found.always_first()
    lines = [
        f"{found.name}: {found.path}",
        f"prompts          {len(found.prompts):>9,}",
        "images           " + (f"{found.images:>9,}" if found.images else "not named by the labels"),
        f"rows (pairs)     {found.pairs:>9,}",
        f"  untied         {found.untied:>9,}",
        f"  tied           {found.tied:>9,}",
    ]
    if found.unjudged:
        lines.append(f"not judged       {found.unjudged:>9,}  rows, passed over")
    if found.untied:
        spread = f" [{100 * first.low:.1f}, {100 * first.high:.1f}]" if first.low == first.low else ""
        lines.append(f"always first     {100 * first.value:>7.1f} %{spread} of untied pairs (interval over prompts)")
    lines += _histogram(found.agreement)
    if found.looked:
        lines.append(f"pairs with both images: {found.whole_pairs:,} of {found.pairs:,}")
        lines += _problems("images missing or broken", list(found.bad_images.values()))
    else:
        lines.append("images were not looked at: labels only")
    return "\n".join(lines + _problems("rows that cannot be read", found.bad_rows))


def _histogram(agreement: Counter) -> list[str]:
    if not agreement:
        return ["agreement: one vote a pair, nothing to compare"]
    most, ends = max(agreement.values()), [*AGREEMENT[1:], None]
    lines = ["agreement of voters (larger share of a pair's votes)"]
    for low, high in zip(AGREEMENT, ends, strict=True):
        name = f"{100 * low:.0f} to {100 * high:.0f} %" if high else "all agree"
        bar = "#" * round(BAR * agreement[low] / most)
        lines.append(f"  {name:<14} {agreement[low]:>9,}  {bar}".rstrip())
    return lines


def _problems(what: str, messages: list[str]) -> list[str]:
    lines = [f"{what}: {len(messages):,}"]
    lines += [f"  {message}" for message in messages[:NAMED]]
    return lines + ([f"  ... and {len(messages) - NAMED:,} more"] if len(messages) > NAMED else [])


def draw(found: Check, path: str | Path) -> None:
    """Write a PNG of a few pairs of different prompts, with alternative text. ValueError where no images were read."""
    from lrt.diagrams import pairs_grid
    from lrt.style import save

    if not found.examples:
        raise ValueError("no images were read, so there is no picture: say where they are")
    shown = [row | _votes_in_words(row) for row in found.examples]
    alt = f"{len(shown)} example pairs of {found.name}: each prompt with its two images, the preferred one starred."
    part = Path(path).with_name(Path(path).name + ".part")
    figure = pairs_grid(shown, n=len(shown))
    figure.suptitle(f"Example pairs of {found.name}: prompt, both images, votes (* = preferred)", fontsize=12)
    save(figure, part, alt)
    part.replace(path)


def _votes_in_words(row: dict) -> dict:
    """Where there are shares alone, the figure's "... votes" becomes "63 % of votes"."""
    if row["votes_1"] is not None:
        return {}
    return {f"votes_{i}": f"{100 * share:.0f} % of" for i, share in ((1, row["share"]), (2, 1 - row["share"]))}
