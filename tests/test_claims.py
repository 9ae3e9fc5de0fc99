"""Claims are read strictly, decided by their rule, and told in tables that the logs alone determine."""
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from study_logs import cell, like_content, like_tint, two, written

from lrt.models import data_dir
from lrt.stats import holm
from lrt.study import effects
from lrt.study.claims import PLANNED, Claim, decide, read_claims
from lrt.study.effects import against_plain, reference_of, stopped_early, versus
from lrt.study.grid import read_grid
from lrt.study.logs import read_run, read_runs
from lrt.study.outcomes import measure
from lrt.study.pairing import paired
from lrt.study.report import claims_table, rendered, tabulated, write
from lrt.study.seeds import hierarchical

FLIP = Claim("R1", "a reader", "Answers flip less often", "listener_reader", ("grpo", "rule"), "flip", "lower")


def run(folder, method, seed, at=lambda step, n: {}, **changes):
    return read_run(written(folder, cell(method, seed, **changes), at))


def runs_of(folder, seeds=4, **methods):
    """Runs whose answers follow what each method is given: `like_tint`, `like_content`, or fields."""
    return [run(folder, name, seed, lambda step, n, judge=judge: judge(n) if callable(judge) else judge,
                reward="none" if name == "grpo" else "rule")
            for name, judge in methods.items() for seed in range(seeds)]


# --- reading ---------------------------------------------------------------------------------------------------------


def test_the_studys_own_claims_are_of_its_grid_and_its_measures():
    found, grid = read_claims(), read_grid()
    assert len({claim.id for claim in found}) == len(found) > 0
    for claim in found:
        assert {claim.method, *claim.against} - {"base"} <= set(grid.changes)
        ear = claim.measure.partition("/")[2]
        for method in {claim.method, *claim.against} - {"base"}:
            assert not ear or ear in grid.cell(method, 0).judges
        assert measure(claim.measure).about and claim.text[0].isupper()


GOOD = """[[claims]]
id = "R1"
about = "a reader"
text = "Answers flip less often"
method = "listener_reader"
against = ["grpo", "rule"]
measure = "flip"
predicted = "lower"
"""


def test_claims_come_from_a_file(tmp_path):
    path = tmp_path / "claims.toml"
    path.write_text(GOOD)
    assert read_claims(path) == [FLIP]


@pytest.mark.parametrize("old, new, message", [
    ("[[claims]]", "[[claims]", "not a TOML file"),
    ("[[claims]]", "[[claim]]", "expected .*claims.* found claim"),
    ("[[claims]]", "[claims]", "expected .*claims"),
    ("[[claims]]", "extra = 1\n[[claims]]", "found extra, claims"),
    ('about = "a reader"\n', "", "claim 1: expected exactly the fields id, about"),
    ('about = "a reader"', 'about = "a"\ncolour = "red"', "claim 1: expected exactly the fields"),
    ('id = "R1"', "id = 1", "claim 1, id: 1 does not fit"),
    ('id = "R1"', 'id = ""', "claim 1, id: '' does not fit"),
    ('["grpo", "rule"]', '"grpo"', "claim 1, against: 'grpo'"),
    ('["grpo", "rule"]', "[]", "claim 1, against: expected other methods"),
    ('["grpo", "rule"]', '["grpo", 1]', "claim 1, against: .* does not fit"),
    ('["grpo", "rule"]', '["grpo", "grpo"]', "claim 1, against: expected other methods, each once"),
    ('["grpo", "rule"]', '["listener_reader"]', "claim 1, against: expected other methods"),
    ('"listener_reader"', '["listener_reader"]', "claim 1, method"),
    ('"flip"', '"flap"', "claim 1, measure: no measure 'flap'; there are"),
    ('"lower"', '"less"', "claim 1, predicted: 'higher' or 'lower', not 'less'"),
    ("[[claims]]", GOOD + "[[claims]]", "two claims 'R1'"),
])
def test_a_claim_that_does_not_fit_is_named(tmp_path, old, new, message):
    path = tmp_path / "claims.toml"
    path.write_text(GOOD.replace(old, new, 1))
    with pytest.raises(ValueError, match=message) as error:
        read_claims(path)
    assert str(path) in str(error.value)


# --- deciding --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("reader, grpo, rule, verdict", [
    (like_content, like_tint, like_tint, "supported"),
    (like_content, like_tint, like_content, "not supported"),  # the rule does it as well
    (like_content, like_content, like_tint, "not supported"),
    (like_content, like_content, like_content, "not supported"),
    (like_tint, like_content, like_content, "reversed"),
    (like_tint, like_content, like_tint, "reversed"),  # the first comparison decides
    (like_tint, like_tint, like_content, "not supported"),
])
def test_verdicts(tmp_path, reader, grpo, rule, verdict):
    found = decide(FLIP, runs_of(tmp_path, listener_reader=reader, grpo=grpo, rule=rule))
    assert found.verdict == verdict and found.claim == FLIP
    flips = {like_tint: 1.0, like_content: 0.0}
    assert [c.effect for c in found.comparisons] == [flips[reader] - flips[grpo], flips[reader] - flips[rule]]
    assert [(c.against, c.n) for c in found.comparisons] == [("grpo", 12), ("rule", 12)]
    assert {c.seeds for c in found.comparisons} == {(0, 1, 2, 3)}


def test_the_predicted_side_decides_and_which_way_is_better_does_not(tmp_path):
    runs = runs_of(tmp_path, listener_reader=like_content, grpo=like_tint, rule=like_tint)
    assert decide(replace(FLIP, predicted="higher"), runs).verdict == "reversed"
    assert decide(replace(FLIP, measure="conflict", predicted="higher"), runs).verdict == "supported"


def noisy(seed_spread: float, shift: float):
    """Answers right for a share of the pairs that differs from seed to seed."""
    def at(folder, method, seed):
        rng = np.random.default_rng([seed, int(1000 * shift)])
        right = int(np.clip(round(12 * (0.5 + shift + rng.normal(0, seed_spread))), 0, 12))
        return run(folder, method, seed, lambda step, n: like_content(n, right))

    return at


def test_numbers_are_those_of_the_bootstrap_and_of_holm(tmp_path):
    made = {"listener_reader": noisy(0.1, 0.1), "grpo": noisy(0.1, 0.0), "rule": noisy(0.1, 0.05)}
    runs = [make(tmp_path, method, seed) for method, make in made.items() for seed in range(5)]
    of = {method: [r for r in runs if r.cell.method == method] for method in made}
    found = decide(replace(FLIP, measure="conflict", predicted="higher"), runs)
    p = []
    for c in found.comparisons:
        pair = paired(of["listener_reader"], of[c.against], "conflict")
        interval, own = hierarchical(pair.d_SB, pair.prompt_id_B, n_boot=effects.DRAWS)
        assert (c.effect, c.low, c.high, c.p) == (*interval[:3], own)
        assert c.n == 12 - np.isnan(pair.d_SB).all(axis=0).sum()
        p.append(own)
    assert [c.p_holm for c in found.comparisons] == holm(p).tolist()
    assert len({c.effect for c in found.comparisons}) == 2


def test_against_the_base_each_run_is_its_own(tmp_path):
    claim = replace(FLIP, method="grpo", against=("base",), predicted="higher")
    runs = [run(tmp_path, "grpo", s, lambda step, n: like_tint(n) if step else {}) for s in range(3)]
    found = decide(claim, runs)
    assert found.verdict == "supported"
    assert (found.comparisons[0].effect, found.comparisons[0].n) == (1.0, 12)


@pytest.mark.parametrize("methods, seeds", [
    ({}, 3),
    ({"listener_reader": like_content, "grpo": like_tint}, 3),  # one of the controls is lacking
    ({"grpo": like_tint, "rule": like_tint}, 3),
    ({"listener_reader": like_content, "grpo": like_tint, "rule": like_tint}, 1),
])
def test_too_few_runs_are_not_a_verdict(tmp_path, methods, seeds):
    found = decide(FLIP, runs_of(tmp_path, seeds, **methods))
    assert found.verdict == "not run" and all(math.isnan(c.p_holm) for c in found.comparisons)
    if "listener_reader" in methods:
        assert found.comparisons[0].effect == -1  # what is known is told


def test_one_seed_in_common_is_not_enough(tmp_path):
    runs = [run(tmp_path, "listener_reader", s, lambda step, n: like_content(n)) for s in (0, 1, 2)]
    runs += [run(tmp_path, name, s, lambda step, n: like_tint(n)) for name in ("grpo", "rule") for s in (2, 3, 4)]
    found = decide(FLIP, runs)
    assert found.verdict == "not run" and [c.seeds for c in found.comparisons] == [(2,), (2,)]


def test_a_measure_that_applies_to_nothing_is_not_run(tmp_path):
    silent = {"sampled_said": "0" * 12, "sampled_true": "0" * 12}
    runs = runs_of(tmp_path, 2, listener_reader=lambda n: {k: v[:n] for k, v in silent.items()}, grpo={}, rule={})
    found = decide(replace(FLIP, measure="truth"), runs)
    assert found.verdict == "not run" and {(c.n, c.seeds) for c in found.comparisons} == {(0, ())}


# --- references ------------------------------------------------------------------------------------------------------


def test_references_of_the_studys_own_grid():
    grid = read_grid()
    cells = {method: grid.cell(method, 0) for method in grid.changes}
    found = {method: reference_of(method, cells) for method in cells}
    for method, other in found.items():
        a, b = cells[method], cells[other]
        assert b.reward == "none"
        if a.reward != "none" and other != "grpo":
            assert (a.dial, a.steps, a.scale_rewards, a.bases) == (b.dial, b.steps, b.scale_rewards, b.bases)
        if a.reward == "none":
            assert other == "grpo"
    shared = {m: o for m, o in found.items() if o != "grpo"}
    assert shared["reader_long"] == "grpo_long" and shared["reader_dial_50"] == "grpo_dial_50"
    assert found["rule"] == found["no_verdict"] == found["weights_0_100"] == "grpo"


def test_two_plain_methods_with_the_same_settings_leave_the_choice_to_the_reference():
    cells = {name: cell(name, reward=reward) for name, reward in (("b", "none"), ("a", "none"), ("x", "rule"))}
    assert reference_of("x", cells, "b") == "b" and reference_of("x", cells, "grpo") == "a"
    assert reference_of("b", cells, "b") == "b" and reference_of("x", {"x": cells["x"]}, "grpo") == "grpo"


def test_effects_are_held_against_the_plain_grpo_of_the_same_settings(tmp_path):
    runs = runs_of(tmp_path, 2, grpo=like_tint) + [
        run(tmp_path, name, s, lambda step, n, judge=judge: judge(n), dial=0.5, reward=reward)
        for name, judge, reward in (("grpo_dial_50", like_content, "none"), ("reader_dial_50", like_tint, "listener"))
        for s in range(3)
    ]
    found = {(e.method, e.reference): e for e in against_plain(runs, measures=["flip"])}
    assert found["reader_dial_50", "grpo_dial_50"].effect == 1 and found["grpo_dial_50", "grpo"].effect == -1
    assert [e.seeds for e in found.values()] == [(0, 1), (0, 1, 2)] and len(found) == 2
    assert against_plain(runs_of(tmp_path, 2, rule={})) == []  # nothing to hold it against


def test_effects_at_matched_accuracy(tmp_path):
    """One has at step 2 what the other has at the end: they differ at the last step, and not where they match."""
    runs = [run(tmp_path, "rule", s, lambda step, n: like_content(n, 2 * step), reward="rule") for s in range(2)]
    runs += [run(tmp_path, "grpo", s, lambda step, n: like_content(n, step)) for s in range(2)]
    last, = against_plain(runs, measures=["conflict"])
    matched, = against_plain(runs, measures=["conflict"], matched=True)
    assert last.effect > 0 == matched.effect and (last.at, matched.at) == ("last step", "matched accuracy")
    assert (last.n > matched.n) and matched.reference == "grpo"


def test_any_two_methods(tmp_path):
    runs = runs_of(tmp_path, 2, binary=like_content, rule=like_tint)
    [found] = versus(runs, "binary", "rule", ["flip"])
    assert (found.method, found.reference, found.effect, found.seeds) == ("binary", "rule", -1, (0, 1))


def test_the_best_checkpoint_is_held_against_the_runs_own_last_step(tmp_path):
    """All right at step 2, on both halves; tint alone at the end."""
    runs = [run(tmp_path, "grpo", s, lambda step, n: like_content(n, n) if step == 2 else like_tint(n))
            for s in range(2)]
    found = {e.measure: e for e in stopped_early(runs, ["flip", "conflict"])}
    assert found["flip"].effect == -1 and found["conflict"].effect == 1
    assert {(e.method, e.reference, e.at, e.seeds) for e in found.values()} == {
        ("grpo", "grpo", "best checkpoint", (0, 1))}
    assert found["flip"].n < len(runs[0].history()[2]), "the pairs that chose the step do not judge it"


# --- tables ----------------------------------------------------------------------------------------------------------


def test_claims_table_says_what_it_stands_on(tmp_path):
    runs = runs_of(tmp_path, 4, listener_reader=like_content, grpo=like_tint, rule=like_content)
    text = claims_table([decide(FLIP, runs), decide(replace(FLIP, id="X", method="nobody"), runs)])
    first, _, head, _, *rows = text.splitlines()
    assert first.startswith("12 runs in the tiny world: 3 methods, seeds 0 to 3.")
    assert [cell.strip() for cell in head.split("|")][1:-1] == [
        "claim", "predicted", "against", "level of that, %", "effect, points", "pairs", "seeds", "p (Holm)", "verdict"]
    assert rows[0] == ("| **R1** Answers flip less often | lower | GRPO | 100.0 | -100.0 [-100.0, -100.0] | 12 | 4 | "
                       "< 0.0001 | so far, with 4 of 10 seeds: **not supported** in the tiny world |")
    assert rows[1] == "| R1 | lower | rule | 0.0 | +0.0 [+0.0, +0.0] | 12 | 4 | 1.0000 |  |"
    assert rows[2] == "| **X** Answers flip less often | lower | GRPO |  |  |  |  |  | not run |"
    assert len(rows) == 4


def test_with_the_planned_seeds_a_verdict_stands_alone(tmp_path):
    runs = runs_of(tmp_path, 10, listener_reader=like_content, grpo=like_tint, rule=like_content)
    assert decide(FLIP, runs).in_words() == "**not supported** in the tiny world"
    assert PLANNED == len(read_grid().tiers[0].seeds)


def test_a_seed_whose_traces_state_nothing_was_run_all_the_same(tmp_path):
    silent = run(tmp_path, "rule", 9, lambda step, n: {"sampled_said": "0" * n, "sampled_true": "0" * n}, reward="rule")
    runs = [*runs_of(tmp_path, 10, listener_reader={}, grpo={}), *runs_of(tmp_path, 9, rule={}), silent]
    found = decide(replace(FLIP, measure="truth"), runs)
    assert [(len(c.seeds), c.left_out) for c in found.comparisons] == [(10, ()), (9, (9,))]
    assert found.in_words() == "**not supported** in the tiny world", "not on the way to a tenth"
    assert "| 9 of 10 |" in claims_table([found])
    assert " (9 of 10) |" in tabulated(against_plain(runs, measures=["flip", "truth"], grid=read_grid()), read_grid())


def test_a_seed_beyond_the_plan_decides_nothing(tmp_path):
    written(tmp_path / "logs", cell("grpo", 10))
    with pytest.raises(ValueError, match=r"logs/grpo.s10.jsonl: seed 10 is not one of the plan's; .* in .*fresh"):
        write(tmp_path)


def test_tables_without_runs():
    assert claims_table([decide(FLIP, [])]).startswith("No runs to compare in the tiny world yet.")
    assert tabulated([], read_grid()).strip() == "No runs to compare in the tiny world yet."


def test_a_table_of_effects_has_a_row_a_method_in_the_order_of_the_grid(tmp_path):
    runs = runs_of(tmp_path, 2, grpo=like_tint, binary=like_content, mine=like_content, rule=like_tint)
    text = tabulated(against_plain(runs, measures=["flip", "contradiction/llava"], grid=read_grid()), read_grid())
    lines = text.splitlines()
    assert lines[0].startswith("8 runs in the tiny world: 4 methods, seeds 0, 1.")
    assert lines[2] == "| method | against | seeds | answers that flip | contradicts llava |"
    assert [line.split(" | ")[:4] for line in lines[4:]] == [
        ["| rule", "GRPO", "2", "+0.0"], ["| reader's choice, 0 or 1", "GRPO", "2", "-100.0"],
        ["| mine", "GRPO", "2", "-100.0"]], "two seeds: no interval"


def test_a_listener_that_was_paid_for_is_no_outside_view(tmp_path):
    runs = runs_of(tmp_path, 2, grpo=like_tint, listener_llava=like_content, rule=like_tint)
    text = tabulated(against_plain(runs, measures=["flip", "contradiction/llava"], grid=read_grid()), read_grid())
    starred = [line.split(" | ")[0] for line in text.splitlines() if "\\*" in line and line.startswith("| ")]
    assert starred == ["| listener of other architecture"] and "no outside view" in text


def test_a_method_waits_for_its_own_plain_grpo(tmp_path):
    runs = runs_of(tmp_path, 2, grpo=like_tint, reader_dial_50=like_content)
    assert against_plain(runs, grid=read_grid()) == []


def test_a_bar_in_a_claim_does_not_break_the_table():
    text = claims_table([decide(replace(FLIP, text="p(a|b)"), [])])
    assert "p(a\\|b)" in text


# --- files -----------------------------------------------------------------------------------------------------------


def test_the_same_logs_give_the_same_bytes(tmp_path):
    folders = [tmp_path / "one", tmp_path / "two"]
    for folder in folders:
        for method in ("grpo", "listener_reader", "rule"):
            for seed in (0, 1, 2):
                p = 0.2 + 0.1 * seed
                written(folder / "logs", cell(method, seed, reward="none" if method == "grpo" else "listener"),
                        lambda step, n, m=method, p=p: (like_tint(n) if m == "grpo" else like_content(n, n - 2))
                        | {"sampled_p": {"reader": two(p) * n, "llava": two(1 - p) * n}})
        (folder / "claims.toml").write_text(GOOD)
    pages = [[path.read_bytes() for path in write(folder)] for folder in folders]
    assert pages[0] == pages[1]
    assert sorted(path.name for path in folders[0].iterdir()) == ["claims.json", "claims.md", "claims.toml", "logs"]
    text, records = pages[0][0].decode(), json.loads(pages[0][1])
    assert claims_table([decide(FLIP, read_runs(folders[0] / "logs"))]).strip() in text
    assert set(records) == {"claims", "effects"} and len(records["claims"]) == 2
    first = records["claims"][0]
    assert (first["id"], first["against"], first["verdict"]) == ("R1", "grpo", "not supported")
    assert first["seeds"] == [0, 1, 2]
    assert {e["at"] for e in records["effects"]} == {"last step", "matched accuracy", "best checkpoint"}
    assert "| rule | GRPO |" in text


def test_unknown_numbers_are_null(tmp_path):
    page, records = rendered(runs_of(tmp_path, 1, listener_reader=like_content, grpo=like_tint), [FLIP], read_grid())
    one, none = json.loads(records, parse_constant=pytest.fail)["claims"]
    assert one["effect"] == -1 and one["low"] is None and one["seeds"] == [0]
    assert none["effect"] is None and none["seeds"] == [] and "not run" in page


def test_committed_tables_are_those_of_the_committed_logs():
    folder = data_dir() / "study"
    if not list((folder / "logs").glob("*.jsonl")):
        pytest.skip("no logs of the study yet: data/study/logs")
    if not (folder / "claims.md").exists():
        pytest.skip("the logs of the study are not all there yet: no data/study/claims.md")
    page, records = rendered(read_runs(folder / "logs"), read_claims(), read_grid(), read_runs(folder / "fresh"))
    assert (folder / "claims.md").read_text(encoding="utf-8") == page
    assert (folder / "claims.json").read_text(encoding="utf-8") == records
