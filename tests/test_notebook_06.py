"""Notebook 06 on logs of runs that never were: with many seeds, with one, without some methods, and with nothing."""

import ast
import io
import re
from contextlib import redirect_stdout
from pathlib import Path

import IPython.display
import nbformat
import numpy as np
import pytest
import study_runs
from hypothesis import given, settings
from hypothesis import strategies as st

from lrt import stats
from lrt.study import credit
from lrt.study import pool as study

ROOT = Path(__file__).resolve().parents[1]
NOTEBOOK = nbformat.read(ROOT / "notebooks" / "06_controls.ipynb", as_version=4)
TEXT = "\n".join(cell.source for cell in NOTEBOOK.cells if cell.cell_type == "markdown")
SOLUTIONS = re.findall(r"```python\n(.*?)```", TEXT, re.S)


def executed(folder, logs) -> tuple[dict, str]:
    """The notebook's names after all its cells but the live run, and everything that it displayed, as text."""
    shown, names = [], {}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(IPython.display, "display", lambda *found: shown.extend(found))
        for cell in (cell for cell in NOTEBOOK.cells if cell.cell_type == "code"):
            exec(cell.source, names)  # our own notebook's cells
            if "parameters" in cell.metadata.get("tags", []):
                names |= {"run_dir": str(folder / "run"), "logs": str(logs)}
    return names, "\n".join(getattr(found, "data", None) or str(found) for found in shown)


@pytest.fixture(scope="module")
def full(tmp_path_factory):
    """Five seeds of the first tier and a method of the second; the reader's runs rely on nothing but content."""
    folder = tmp_path_factory.mktemp("full")
    reliance = {"grpo": 0.9, "listener_reader": 0.0}
    study_runs.written(folder / "logs", noise=0.02, reliance=reliance, seeds=range(5))
    return executed(folder, study_runs.written(folder / "logs", ("truth",)))


def test_every_section_has_its_figure_and_its_words(full):
    names, shown = full
    figures = {path.stem for path in Path(names["run_dir"], "figures").glob("*.png")}
    assert figures == {"two_seeds", "study_tint", "study_traces", "study_effects", "study_paths", "study_disagreement",
                       "study_persuasive", "study_probes", "study_proxy", "study_credit", "study_claims",
                       "study_tier_2"}
    assert shown.count("<img") == shown.count('alt="') == len(figures)
    assert "25 of 50 runs are here" in shown and "GRPO 5" in shown


def test_what_is_said_follows_from_the_logs(full):
    """GRPO was made to rely on the tint and the reader's runs not to."""
    names, shown = full
    assert re.search(r"Answers that flip: clearly lower: [^.]*reader as listener", shown)
    verdicts = {decision.claim.id: decision.verdict for decision in names["decisions"]}
    assert verdicts["P1"] == "supported" and len(verdicts) == 11
    assert "**P1**" in shown and "base as listener: " in shown and "reader as listener: at the last step its" in shown
    assert "**Tier 2**: " in shown and "**Tier 3** is not there yet" in shown


@pytest.fixture(scope="module")
def later(tmp_path_factory):
    """Five seeds of three methods of the first tier, three of what comes after it, and one fresh seed."""
    folder = tmp_path_factory.mktemp("later")
    low = {"grpo": 0.9, "grpo_long": 0.9, "listener_reader": 0.1, "reader_long": 0.1}
    study_runs.written(folder / "logs", ("grpo", "listener_reader", "rule"), range(5), noise=0.02, reliance=low)
    after = ("reader_living", "reader_dead", "listener_llava", "reader_dial_50", "grpo_long", "reader_long")
    study_runs.written(folder / "logs", after, noise=0.02, reliance=low)
    study_runs.written(folder / "fresh", ("grpo",), [10], noise=0.02, reliance=low)
    return executed(folder, folder / "logs")


def test_later_tiers_are_told_beside_their_own_references(later):
    names, shown = later
    assert "Reader dead less reader living, directly:" in shown
    assert "| reader, in groups dead without it | GRPO | 3 |" in shown
    assert "| listener of other architecture | GRPO | 3 |" in shown and "no outside view" in shown
    assert "| reader, 900 steps | plain GRPO, 900 steps | 3 |" in shown
    assert "| reader, dial 0.5 |" not in shown, "its own plain GRPO was not run: there is nothing to hold it against"
    assert re.search(r"reader as listener: at the last step its answers flip less often .* fewer than 5 seeds", shown)
    assert re.search(r"\d of 5 values lie inside", shown)
    figures = {path.stem for path in Path(names["run_dir"], "figures").glob("study_tier_*.png")}
    assert figures == {"study_tier_2", "study_tier_3"}
    assert Path(names["run_dir"], "figures", "study_long.png").exists()
    assert "after 900 steps, on all pairs" in shown and "reader, 900 steps, answers that flip: -" in shown


def test_solutions_run_on_the_notebook_s_own_names(full):
    names, _ = full
    out = io.StringIO()
    with redirect_stdout(out):
        for solution in SOLUTIONS:
            exec(solution, dict(names))
    said = out.getvalue()
    assert "10 points: 11 seeds" in said and "5 points: 33 seeds" in said
    heard, dealt = (float(x) for x in re.search(r"heard (\S+), dealt out (\S+) on average", said).groups())
    assert abs(dealt) < 0.02 < heard
    ends = {name.strip(): np.array(two.split(), float) for name, two in re.findall(r"^(.*?): +\[(.*?)\]", said, re.M)}
    width = {name: high - low for name, (low, high) in ends.items()}
    assert max(width["seeds alone"], width["prompts alone"]) < width["seeds and prompts"]
    assert width["seeds and prompts"] < width["lrt.study.seeds, with Student t"]
    assert len(set(re.search(r"add up to (\S+); whole (\S+)", said).groups())) == 1


def test_the_solution_s_reward_pays_for_consistency():
    names = {}
    exec(SOLUTIONS[0], names)
    said = "<think> image {} is better . </think> <answer> 1 </answer>"
    assert names["consistency_reward"]([said.format(1), said.format(2), "image 1"], vote=[2, 2, 2]) == [1, 0, 0]
    reward = ast.parse(SOLUTIONS[0]).body[-1]
    assert reward.end_lineno - reward.lineno + 1 < 10


def test_without_logs_it_says_so_and_how_to_get_them(tmp_path):
    names, shown = executed(tmp_path, tmp_path / "nothing")
    assert "There are no logs of the first tier" in shown and "`lrt study run" in shown and "<img" not in shown
    assert names["decisions"] == [] and not names["live"]


def test_one_seed_has_no_intervals_and_no_verdicts(tmp_path):
    names, shown = executed(tmp_path, study_runs.written(tmp_path / "logs", ("grpo", "listener_reader"), seeds=[4]))
    assert "**One seed only.**" in shown and "one seed, no interval" in shown
    assert {decision.verdict for decision in names["decisions"]} == {"not run"}


def test_without_plain_grpo_nothing_is_compared(tmp_path):
    names, shown = executed(tmp_path, study_runs.written(tmp_path / "logs", ("listener_reader", "rule"), seeds=[0, 1]))
    assert "nothing to compare yet" in shown and "Seeds by method" in shown
    assert names["effects"] == [] and shown.count("<img") >= 4


# --- what is taught --------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def taught():
    names = {"np": np, "math": __import__("math"), "stats": stats}
    for cell in NOTEBOOK.cells:
        if "teaches" in cell.metadata.get("tags", []):
            exec(cell.source, names)
    return names


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=2, max_size=20))
def test_resolution_as_taught_is_the_half_width_over_seeds(taught, values):
    interval = stats.several_seeds(values)
    assert taught["resolves"](np.std(values, ddof=1), len(values)) == pytest.approx(interval.high - interval.value)


@pytest.mark.parametrize("seed", range(3))
def test_credit_as_taught_is_the_package_s_and_adds_up(taught, seed):
    r = np.random.default_rng(seed)
    parts, weights, x = r.random((3, 8)), [1.0, 0.5, 0.5], r.random(8)
    total, group = np.array(weights) @ parts, ["a"] * 8
    shares = credit.shares_of_advantage(parts, weights, group)
    ours = [taught["credit_of"](part, x, total, w) for part, w in zip(parts, weights, strict=True)]
    assert ours == pytest.approx([credit.credit(share, x, group) for share in shares])
    assert sum(ours) == pytest.approx(credit.credit(shares.sum(axis=0), x, group))


# --- the text --------------------------------------------------------------------------------------------------------


def test_the_plan_is_quoted_as_it_stands():
    plan = " ".join((study.logs_folder().parent / "PLAN.md").read_text().split())
    quotes = re.findall(r"^> (.*)$", TEXT, re.M)
    assert len(quotes) == 2 and all(quote in plan for quote in quotes)
    [said] = re.findall(r'The plan took ten and warned: "(.*?)"', TEXT)
    assert said.replace("'", '"') in plan


def test_solutions_are_folded():
    assert TEXT.count("<details><summary>Solution</summary>") == len(SOLUTIONS) == 5
    assert TEXT.count("<details>") == TEXT.count("</details>")
