"""The claims of the study held against its logs: `data/study/claims.toml` says what was claimed before it was run, and
`data/study/PLAN.md` what decides.
"""

import tomllib
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Literal

import numpy as np

from lrt.models import data_dir
from lrt.stats import holm
from lrt.study.effects import LEVEL, Comparison, compared
from lrt.study.logs import Run
from lrt.study.outcomes import measure
from lrt.study.pairing import by_method, paired

BASE = "base"  # as a method to compare with: the model before training
WHERE = "in the tiny world"  # part of every verdict
PLANNED = 10  # seeds that PLAN.md asks for; with fewer a verdict is one on the way


@dataclass(frozen=True)
class Claim:
    """What a method does to a measure, against each of the others named."""

    id: str
    about: str
    text: str
    method: str
    against: tuple[str, ...]
    measure: str
    predicted: Literal["higher", "lower"]


@dataclass(frozen=True)
class Decision:
    claim: Claim
    comparisons: tuple[Comparison, ...]
    verdict: Literal["supported", "not supported", "reversed", "not run"]

    @property
    def seeds(self) -> int:
        """Run by both, of the comparison that has fewest; also where the measure applies to nothing."""
        return min(len(c.seeds) + len(c.left_out) for c in self.comparisons)

    def in_words(self) -> str:
        """The verdict as a table says it; as one on the way while seeds of the plan are missing."""
        if self.verdict == "not run":
            return self.verdict
        so_far = f"so far, with {self.seeds} of {PLANNED} seeds: " if self.seeds < PLANNED else ""
        return f"{so_far}**{self.verdict}** {WHERE}"


def read_claims(path: str | Path | None = None) -> list[Claim]:
    """The claims of a file, by default the study's own. ValueError names the file, the claim and what does not fit."""
    path = Path(path) if path else data_dir() / "study" / "claims.toml"
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path}: not a TOML file ({error})") from None
    rows = raw.get("claims")
    if set(raw) != {"claims"} or not isinstance(rows, list):
        raise ValueError(f"{path}: expected [[claims]] and nothing else, found {', '.join(raw) or 'nothing'}")
    claims = [_claim(row, f"{path}, claim {i}") for i, row in enumerate(rows, start=1)]
    ids = [claim.id for claim in claims]
    if again := [name for name in ids if ids.count(name) > 1]:
        raise ValueError(f"{path}: there are two claims {again[0]!r}")
    return claims


def _claim(row, where: str) -> Claim:
    names = [field.name for field in fields(Claim)]
    if not isinstance(row, dict) or set(row) != set(names):
        raise ValueError(f"{where}: expected exactly the fields {', '.join(names)}")
    for name, value in row.items():
        texts = value if name == "against" and isinstance(value, list) else [value]
        if (name == "against") != isinstance(value, list) or not all(isinstance(t, str) and t for t in texts):
            raise ValueError(f"{where}, {name}: {value!r} does not fit")
    against = row["against"]
    if not against or len(set(against)) < len(against) or row["method"] in against:
        raise ValueError(f"{where}, against: expected other methods, each once, not {against!r}")
    if row["predicted"] not in ("higher", "lower"):
        raise ValueError(f"{where}, predicted: 'higher' or 'lower', not {row['predicted']!r}")
    try:
        measure(row["measure"])
    except ValueError as error:
        raise ValueError(f"{where}, measure: {error}") from None
    return Claim(**{**row, "against": tuple(against)})


# --- deciding --------------------------------------------------------------------------------------------------------


def decide(claim: Claim, runs: Sequence[Run]) -> Decision:
    """A claim held against the runs, at the last step (see `claims.toml` for the rule).

    *not run*: a method without runs, fewer than two seeds in common, or a measure that applies to nothing, in any of
    its comparisons.
    """
    of = by_method(runs)
    found = [
        compared(paired(of.get(claim.method, []), BASE if name == BASE else of.get(name, []), claim.measure), name)
        for name in claim.against
    ]
    p = [c.p for c in found]
    if np.isnan(p).any():
        return Decision(claim, tuple(found), "not run")
    found = [replace(c, p_holm=float(q)) for c, q in zip(found, holm(p), strict=True)]
    predicted = 1 if claim.predicted == "higher" else -1
    sides = [predicted * np.sign(c.effect) if c.p_holm <= LEVEL else 0 for c in found]  # 1: as predicted, and clear
    verdict = "supported" if min(sides) == 1 else "reversed" if sides[0] == -1 else "not supported"
    return Decision(claim, tuple(found), verdict)
