"""The exercises of the notebooks: solutions pass, an empty copy fails with a sentence each, wrong solutions fail."""

import ast
import importlib.util
import os
import re
import subprocess
import sys
from collections import Counter
from types import ModuleType

import nbformat
import pytest
from typer.testing import CliRunner

from lrt.cli import app
from lrt.course import exercises

NOTEBOOKS = exercises.folder()
TESTS = NOTEBOOKS / exercises.TESTS
ALL = exercises.exercises()
GRADED = {one.graded: one for one in ALL if one.graded}
QUESTIONS = exercises.questions()

# A line of a solution, and what a student might well write instead: each has to fail its test.
WRONG = {
    "content_bound": [
        ("np.abs(gap_B)", "gap_B"),
        ("-scale * ", "-1.5 * "),
        ("np.mean(1 / (1 + np.exp(-scale * np.abs(gap_B))))", "1 / (1 + np.exp(-scale * np.mean(np.abs(gap_B))))"),
        ("np.exp(-scale", "np.exp(scale"),
    ],
    "accuracy_at_agreement": [
        ("larger_B >= threshold", "larger_B > threshold"),
        ("(share_B != 0.5) & ", ""),
        ("np.maximum(share_B, 1 - share_B)", "share_B"),
        ("(larger_B >= threshold)", "(larger_B >= threshold) & ~np.isnan(answer_B)"),
        ("share_B > 0.5, 1, 2", "share_B > 0.5, 2, 1"),
        ("np.mean((answer_B == majority_B)[used_B])", "np.mean((answer_B == majority_B) & used_B)"),
    ],
    "right_in_both_orders": [
        ("3 - reverse_B", "reverse_B"),
        ("np.mean((forward_B == better_B) & (3 - reverse_B == better_B))",
         "(np.mean(forward_B == better_B) + np.mean(3 - reverse_B == better_B)) / 2"),
        ("np.mean((forward_B == better_B) & (3 - reverse_B == better_B))",
         "np.mean(forward_B == better_B) * np.mean(3 - reverse_B == better_B)"),
        ("np.mean((forward_B == better_B) & (3 - reverse_B == better_B))",
         "np.mean(((forward_B == better_B) & (3 - reverse_B == better_B))[~np.isnan(forward_B + reverse_B)])"),
        ("np.mean((forward_B == better_B) & (3 - reverse_B == better_B))", "np.mean(forward_B == 3 - reverse_B)"),
    ],
    "paired_interval": [
        ("np.unique(prompt_B, return_inverse=True)", "np.unique(range(len(prompt_B)), return_inverse=True)"),  # pairs
        ("np.concatenate([own[i] for i in draw]).mean()", "np.mean([own[i].mean() for i in draw])"),
        ("[0.025, 0.975]", "[0.05, 0.95]"),
        (" - np.asarray(right_b_B, dtype=float)", ""),
        ("np.concatenate([own[i] for i in draw]).mean() for draw in draws",  # prompts drawn anew for each of the judges
         "np.concatenate([np.asarray(right_a_B)[index_B == i] for i in draw]).mean() - np.concatenate("
         "[np.asarray(right_b_B)[index_B == i] for i in other]).mean() for draw, other in zip(draws, draws[::-1])"),
    ],
    "completion_labels": [
        ("place_T >= prompt_B", "place_T > prompt_B"),
        ("place_T >= prompt_B", "place_T + 1 >= prompt_B"),  # shifted
        ("place_T < end_B[:, None]", "ids_BT != 7"),  # the padding's id, which ends a turn as well
        (" & (place_T < end_B[:, None])", ""),
        ("(place_T >= prompt_B[:, None]) & ", ""),
        ("torch.where(scored_BT, ids_BT, -100)", "ids_BT.masked_fill_(~scored_BT, -100)"),
    ],
    "vote_floor": [
        (" / n_tokens", ""),
        ("np.log(", "np.log2("),
        ("p_B = np.asarray(p_B, dtype=float)", "p_B = np.mean(p_B)"),
        ("np.where(p_B > 0, p_B, 1)", "p_B"),
        (" + q_B * np.log(np.where(q_B > 0, q_B, 1))", ""),
    ],
    "flip_rate": [
        ("[read_B]", ""),
        ("np.isnan(before_B) | np.isnan(after_B)", "np.isnan(before_B) & np.isnan(after_B)"),
        ("np.mean((before_B != after_B)[read_B])", "np.mean((before_B != after_B) & read_B)"),
        ("before_B != after_B", "before_B == after_B"),
    ],
    "group_advantages": [
        ("ddof=1", "ddof=0"),
        (" + 1e-4", ""),
        (" / (r_G.std(ddof=1) + 1e-4)", ""),
        ("r_G.std(ddof=1)", "reward_N.std(ddof=1)"),
        ("r_G.mean()", "reward_N.mean()"),
        ("own_N.sum() > 1", "own_N.sum() > 0"),
        ("pair_N = np.asarray(reward_N, dtype=float), np.asarray(pair_N)",  # groups taken for neighbours
         "pair_N = np.asarray(reward_N, dtype=float), np.arange(len(pair_N)) // 3"),
    ],
    "mean_over_tokens": [
        ('form == "dapo"', 'form == "grpo"'),
        ("(value_NT * mask_NT).sum() / mask_NT.sum()", "value_NT.mean()"),
        ("/ mask_NT.sum(1)", "/ mask_NT.shape[1]"),
        ("/ mask_NT.sum(1)", "/ mask_NT.sum()"),
        ("(value_NT * mask_NT).sum(1) / mask_NT.sum(1)", "value_NT.mean(1)"),
    ],
    "kl_estimates": [
        ("(ref_logp_NT - logp_NT)", "(logp_NT - ref_logp_NT)"),
        ("[mask_NT.bool()]", ""),
        ("(-d).mean()", "d.mean()"),
        (" - d - 1", " - 1"),
        ("(d.exp() - d - 1).mean()", "(d ** 2 / 2).mean()"),
    ],
    "clipped_objective": [
        ("torch.minimum", "torch.maximum"),
        ("1 + high", "1 + low"),
        ("1 - low", "1 - high"),
        ("torch.minimum(ratio_NT * A_N1, ratio_NT.clamp(1 - low, 1 + high) * A_N1)",
         "ratio_NT.clamp(1 - low, 1 + high) * A_N1"),
        ("torch.minimum(ratio_NT * A_N1, ratio_NT.clamp(1 - low, 1 + high) * A_N1)",
         "torch.minimum(ratio_NT, ratio_NT.clamp(1 - low, 1 + high)) * A_N1"),
        ("high=0.28", "high=0.2"),
    ],
    "listener_rewards": [
        ("vote_B == 1, p_B, 1 - p_B", "vote_B == 1, 1 - p_B, p_B"),
        ("np.where(vote_B == 1, p_B, 1 - p_B)", "p_B"),
        ("logits_BTV[np.arange(len(last_B)), last_B]", "logits_BTV[:, -1]"),  # padding on the right
        ("logits_BTV[np.arange(len(last_B)), last_B]", "logits_BTV[np.arange(len(last_B)), mask_BT.sum(1) - 1]"),
        ("logits_BTV[np.arange(len(last_B)), last_B]", "logits_BTV[np.arange(len(last_B)), last_B - 1]"),
        ("(1 + np.tanh((z_1 - z_2) / 2)) / 2", "np.exp(z_1) / np.exp(z_BV).sum(1)"),  # all words take part
        ("(1 + np.tanh((z_1 - z_2) / 2)) / 2", "np.exp(z_1) / (np.exp(z_1) + np.exp(z_2))"),  # overflows
        ("(1 + np.tanh((z_1 - z_2) / 2)) / 2", "(z_1 > z_2).astype(float)"),
    ],
    "listener_parts": [
        ("ok and p is None", "p is None"),
        ("ok and p is None", "False and p is None"),
        ("None if pair in failed", "0.0 if pair in failed"),
        ("None if pair in failed", "None if ok and p is None"),
        ("0.0 if not ok else", "None if not ok else"),
        ("p if vote == 1 else 1 - p", "p"),
        ("None if pair in failed else 0.0 if not ok", "0.0 if not ok else None if pair in failed"),
    ],
    "trace_positions": [
        (" - 1", ""),
        ("(np.cumsum(mask_BL, axis=1) - 1)[:, -n_new:]", "np.cumsum(mask_BL[:, -n_new:], axis=1) - 1"),
        ("(np.cumsum(mask_BL, axis=1) - 1)", "(np.zeros_like(mask_BL) + np.arange(mask_BL.shape[1]))"),
        ("[:, -n_new:]", "[:, :n_new]"),
        ("axis=1", "axis=0"),
    ],
    "two_listeners": [
        ("p_B > 0.5", "p_B < 0.5"),
        ("answer_B + p_one_B + p_two_B", "answer_B + p_one_B"),
        ("answer_B + p_one_B + p_two_B", "p_one_B + p_two_B"),
        ("np.mean((one_B & two_B)[used_B])", "np.mean(one_B[used_B]) * np.mean(two_B[used_B])"),
        ("np.mean((one_B | two_B)[used_B])", "np.mean(one_B[used_B]) + np.mean(two_B[used_B])"),
        ("one_B | two_B", "one_B ^ two_B"),
        ("return math.nan, math.nan", "return 0.0, 0.0"),
    ],
    "accuracy_by_disagreement": [
        ("np.where(answer_B == 1, 1 - p_B, p_B)", "1 - p_B"),
        ("np.where(answer_B == 1, 1 - p_B, p_B)", "np.where(answer_B == 1, p_B, 1 - p_B)"),
        ("answer_B + p_B", "p_B"),
        ("answer_B + p_B", "answer_B"),
        (" & (share_B != 0.5)", ""),
        ("np.digitize(d_B, edges[1:-1])", "np.digitize(d_B, edges[1:-1], right=True)"),
        ("np.digitize(d_B, edges[1:-1])", "np.digitize(d_B, edges) - 1"),  # 1 falls out of the last bin
        ("share_B > 0.5, 1, 2", "share_B > 0.5, 2, 1"),
    ],
    "truth_of": [
        ("for true in trace if true is not None", "for true in trace"),
        ("if true is not None", "if true"),
        ("counted = [trace for trace in counted if trace]", "counted = [trace or [False] for trace in counted]"),
        ("sum(map(sum, counted)) / sum(map(len, counted)), ", "np.mean([np.mean(trace) for trace in counted]), "),
        ("np.mean([np.mean(trace) for trace in counted])", "np.mean([true for trace in counted for true in trace])"),
        ("sum(map(len, counted))", "sum(map(len, said))"),
    ],
    "consistency_reward": [
        ("s.ok and verdict_of(s.trace) == s.answer", "verdict_of(s.trace) == s.answer"),
        ("s.ok and verdict_of(s.trace) == s.answer", "s.ok"),
        ("s.ok and verdict_of(s.trace) == s.answer", "s.ok and s.answer == vote[0]"),
        ("s.ok and verdict_of(s.trace) == s.answer", 's.ok and f"image {s.answer} is better" in s.trace'),
    ],
    "seeds_needed": [
        ("stats.t_quantile(0.95, n - 1)", "1.96"),
        ("n - 1", "n"),
        ("math.sqrt(n)", "n"),
        (" / math.sqrt(n) > effect", " / math.sqrt(n - 1) > effect"),
        ("n = 2", "n = 3"),
    ],
    "permuted": [
        ("dealt_N[r.permutation(own)]", "dealt_N[np.roll(own, 1)]"),
        ("dealt_N[r.permutation(own)]", "dealt_N[own]"),
        ("dealt_N[r.permutation(own)]", "r.choice(dealt_N[own], len(own))"),  # with replacement
        ("dealt_N[r.permutation(own)]", "dealt_N[np.random.permutation(own)]"),  # the seed is not used
        ("dealt_N[r.permutation(own)]", "dealt_N[np.random.default_rng(seed).permutation(own)]"),
        ("np.flatnonzero(pair_N == name)", "np.arange(len(pair_N))"),  # across groups
        ("np.array(p_N, dtype=float)", "p_N"),
    ],
    "hierarchical_interval": [
        ("r.integers(S, size=S)", "np.arange(S)"),
        ("r.integers(P, size=P)", "np.arange(P)"),
        ("d_SP[np.ix_(r.integers(S, size=S), r.integers(P, size=P))].mean()",  # other prompts for each seed
         "np.mean([d_SP[s, r.integers(P, size=P)].mean() for s in r.integers(S, size=S)])"),
        ("d_SP[np.ix_(r.integers(S, size=S), r.integers(P, size=P))]",  # every number on its own
         "d_SP.ravel()[r.integers(S * P, size=S * P)]"),
        ("[0.025, 0.975]", "[0.05, 0.95]"),
    ],
    "credits_of_parts": [
        ("ddof=1", "ddof=0"),
        (" + 1e-4", ""),
        ("shares_KG = weights_K1 * ", "shares_KG = "),
        ("np.sum(weights_K1 * parts_KG, axis=0)", "np.sum(parts_KG, axis=0)"),
        ("keepdims=True)) / s", "keepdims=True)) / (parts_KG.std(1, keepdims=True) + 1e-4)"),
        ("np.mean(shares_KG[:, has_G] * (x_G[has_G] - x_G[has_G].mean()), axis=1)",
         "np.sum(shares_KG[:, has_G] * (x_G[has_G] - x_G[has_G].mean()), axis=1) / len(x_G)"),
        ("x_G[has_G] - x_G[has_G].mean()", "x_G[has_G]"),
    ],
}


# --- grading ---------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def solved():
    """The module `adapters` with the notebooks' solutions."""
    module = ModuleType("adapters")
    exec(exercises.adapters(ALL, solved=True), module.__dict__)
    return module


@pytest.fixture(scope="module")
def graders(solved):
    """name of a graded function -> its test, which sees the module `solved`."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(TESTS))
        patch.setitem(sys.modules, "adapters", solved)
        found = {}
        for path in sorted(TESTS.glob("test_*.py")):
            spec = importlib.util.spec_from_file_location(f"exercises_{path.stem}", path)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            found |= {name[5:]: value for name, value in vars(module).items() if name.startswith("test_")}
        yield found
    sys.modules.pop("checking", None)


def pytest_in(folder, *arguments):
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *arguments]
    env = os.environ | {"PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}  # which a student may well have, and which take a while
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, env=env)


@pytest.mark.parametrize("name", GRADED)
def test_the_notebook_s_solution_passes(graders, name):
    graders[name]()


@pytest.mark.parametrize("name", GRADED)
def test_plausible_wrong_solutions_fail(graders, solved, monkeypatch, name):
    right, survivors = GRADED[name].function, []
    for old, new in WRONG[name]:
        assert old in right, f"not a part of the solution any more: {old}"
        scope = dict(vars(solved))
        exec(right.replace(old, new), scope)
        monkeypatch.setattr(solved, name, scope[name])
        try:
            graders[name]()
        except (AssertionError, TypeError):
            continue
        survivors.append(f"{old}  ->  {new}")
    assert not survivors


def test_every_graded_function_has_a_test_and_wrong_solutions(graders):
    assert set(graders) == set(GRADED) == set(WRONG)
    assert min(map(len, WRONG.values())) >= 4


def test_an_empty_copy_says_what_is_missing(tmp_path):
    exercises.student_copy(tmp_path / "mine")
    done = pytest_in(tmp_path / "mine", exercises.TESTS)
    assert done.returncode == 1 and f"{len(GRADED)} failed" in done.stdout
    for name, one in GRADED.items():
        assert f"\nexercise {one.name}, {name}: not written yet\n" in done.stdout
    assert "Traceback" not in done.stdout and "passed" not in done.stdout


def test_a_wrong_answer_gets_its_sentence_first_and_sees_no_test(tmp_path):
    folder = tmp_path / "mine"
    exercises.student_copy(folder)
    text = exercises.adapters(ALL, solved=True)
    for old, new in ((WRONG["flip_rate"][0]), (WRONG["content_bound"][0])):
        assert old in text
        text = text.replace(old, new)
    (folder / exercises.TESTS / "adapters.py").write_text(text)
    done = pytest_in(folder, exercises.TESTS, "-k", "content_bound or flip_rate")
    assert done.returncode == 1 and "2 failed" in done.stdout, done.stdout
    assert "\nthe judge takes the better image, whichever of the two it is\n" in done.stdout
    assert "adapters.content_bound(gap_B)" not in done.stdout and "isnan" not in done.stdout, "no line of a test"


def test_a_copy_that_is_filled_in_passes(tmp_path):
    folder = tmp_path / "mine"
    exercises.student_copy(folder)
    (folder / exercises.TESTS / "adapters.py").write_text(exercises.adapters(ALL, solved=True))
    done = pytest_in(folder, exercises.TESTS)
    assert done.returncode == 0 and f"{len(GRADED)} passed" in done.stdout, done.stdout


# --- one source ------------------------------------------------------------------------------------------------------


def test_the_committed_adapters_are_made_from_the_notebooks():
    committed = (TESTS / "adapters.py").read_text(encoding="utf-8")
    assert committed == exercises.adapters(ALL), (
        "changed an exercise? `python -m lrt.course.exercises`. Solving them? Work in a copy: `lrt exercises ../mine`")
    functions = [node for node in ast.parse(committed).body if isinstance(node, ast.FunctionDef)]
    assert [node.name for node in functions] == list(GRADED)
    assert all(isinstance(node.body[-1], ast.Raise) and len(node.body) == 2 for node in functions)


def test_a_student_s_copy_has_no_solution(tmp_path):
    result = CliRunner().invoke(app, ["exercises", str(tmp_path / "mine")])
    assert result.exit_code == 0, result.output
    copies = sorted((tmp_path / "mine").glob("*.ipynb"))
    assert [path.name for path in copies] == [path.name for path in sorted(NOTEBOOKS.glob("*.ipynb"))]
    for path in copies:
        copy, source = (nbformat.read(p, as_version=4) for p in (path, NOTEBOOKS / path.name))
        nbformat.validate(copy)
        changed = [(a, b) for a, b in zip(copy.cells, source.cells, strict=True) if a != b]
        [(cell, original)] = changed  # the one cell of exercises
        assert "<summary>Solution" not in cell.source and "```python" not in cell.source
        assert cell.source.count("<summary>Hint") == original.source.count("<summary>Hint")
        assert cell.source.count("<summary>Answer") == original.source.count("<summary>Answer")
        assert cell.source.endswith(original.source.partition("## Recap")[2])
        assert cell.source.count("<details>") == cell.source.count("</details>")
    text = (tmp_path / "mine" / "exercises" / "adapters.py").read_text()
    for one in GRADED.values():
        body = one.function.removeprefix(one.stub.rpartition("\n")[0]).strip()
        assert body and body not in text, f"{one.graded} is given away"


def test_nobody_s_work_is_overwritten(tmp_path):
    work = tmp_path / "mine" / "notes.txt"
    work.parent.mkdir()
    work.write_text("my solutions")
    result = CliRunner().invoke(app, ["exercises", str(work.parent)])
    assert result.exit_code == 2 and "mine is there already" in result.stderr
    assert work.read_text() == "my solutions" and [*tmp_path.rglob("*")] == [work.parent, work]


# --- the cells -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", range(1, 7))
def test_each_notebook_has_exercises_and_questions(number):
    [path] = NOTEBOOKS.glob(f"{number:02}_*.ipynb")
    own = [one for one in ALL if one.notebook == path.stem]
    assert 3 <= len(own) <= 5 and [one.number for one in own] == list(range(1, len(own) + 1))
    assert sum(one.graded is not None for one in own) >= 3
    text = exercises.section(path)
    assert len(re.findall(r"^\*\*\d\. ", text, re.M)) == len(own), "a bold line that is not of the form"
    assert text.count("<summary>Solution") == text.count("<summary>Hint") == len(own)
    assert all(5 <= one.minutes <= 30 for one in own)
    asked = [question for question in QUESTIONS if question.notebook == path.stem]
    assert [question.number for question in asked] == [1, 2, 3, 4, 5]
    assert text.count("<summary>Answer") == 5, "a question that is not of the form"


@pytest.mark.parametrize("question", QUESTIONS, ids=lambda q: f"{q.notebook[:2]}-Q{q.number}")
def test_an_answer_speaks_of_every_option(question):
    letters = [chr(ord("a") + i) for i in range(len(question.options))]
    assert len(letters) >= 3 and len(set(question.options)) == len(letters) and question.right in letters
    assert re.findall(r"\*\*\(([a-z])\)\*\*", question.answer) == [
        question.right, *(letter for letter in letters if letter != question.right)]


def test_the_right_letter_cannot_be_guessed():
    counts = Counter(question.right for question in QUESTIONS)
    assert max(counts.values()) < len(QUESTIONS) / 2


@pytest.mark.parametrize("old, new, said", [
    ("<summary>Hint</summary>", "<summary>Clue</summary>", "expected a folded Hint"),
    ("def flip_rate(", "def flips(", "does not define flip_rate"),
    ("**(c)** Five sure tokens", "Five sure tokens", "begins with the right option"),
    ("\n## Recap", "\n## Summary", "headings Exercises and Recap"),
])
def test_a_cell_of_another_form_is_named(tmp_path, old, new, said):
    notebook = nbformat.read(NOTEBOOKS / "02_sft.ipynb", as_version=4)
    [cell] = [cell for cell in notebook.cells if "## Exercises" in cell.source]
    assert old in cell.source
    cell.source = cell.source.replace(old, new)
    nbformat.write(notebook, tmp_path / "02_sft.ipynb")
    with pytest.raises(ValueError, match=f"02_sft.*{said}"):
        exercises.adapters(exercises.exercises(tmp_path))
        exercises.questions(tmp_path)
