"""Tables, sentences and figures of the study, on logs of runs that never were."""

import math
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import study_logs
import study_runs
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg

from lrt import stats, style
from lrt.study import grid, heard, heard_plots, logs, outcomes, story, tables, verdicts
from lrt.study import plots as study_plots
from lrt.study.claims import Claim, Decision
from lrt.study.effects import Comparison, Effect, against_plain
from lrt.study.pairing import paired
from lrt.study.seeds import false_alarms
from lrt.words import side

NAN = math.nan


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    return logs.read_runs(study_runs.written(tmp_path_factory.mktemp("logs")))


@pytest.fixture(scope="module")
def single(runs):
    return [run for run in runs if run.cell.seed == 1]


def run_like(folder, at, method="grpo", **changes):
    """A run whose measurements have the fields of `at(step, n)`."""
    return logs.read_run(study_logs.written(folder, study_runs.cell(method, **changes), at))


# --- tables ----------------------------------------------------------------------------------------------------------


def test_differences_are_of_the_same_pairs_and_seed(runs):
    table = tables.differences(runs, ["flip", "truth"])
    assert len(table) == 2 * 4 * 3 and "grpo" not in set(table["method"])
    final = {(run.cell.method, run.cell.seed): run.final for run in runs}
    for row in table.itertuples():
        a, b = (outcomes.values(final[method, row.seed], row.measure) for method in (row.method, "grpo"))
        assert row.value == pytest.approx(np.nanmean(a - b)) and row.low <= row.value <= row.high


def test_without_the_reference_nothing_is_compared(runs):
    assert tables.differences([run for run in runs if run.cell.method != "grpo"], ["flip"]).empty
    assert tables.differences([], ["flip"]).empty and tables.curves([], ["flip"]).empty


@pytest.fixture(scope="module")
def dials(tmp_path_factory):
    """Two seeds of the first tier and of two methods at another dial, one of a third."""
    folder = tmp_path_factory.mktemp("dials")
    study_runs.written(folder)
    study_runs.written(folder, ["truth"], [0])
    return logs.read_runs(study_runs.written(folder, ["grpo_dial_50", "reader_dial_50"], [0, 1]))


def test_each_method_is_held_against_plain_grpo_of_its_own_settings(dials):
    table = tables.differences(dials, ["flip"], grid.read_grid())
    final = {(run.cell.method, run.cell.seed): run.final for run in dials}
    assert "grpo" not in set(table["method"])
    other = {"reader_dial_50": "grpo_dial_50"}
    for row in table.itertuples():
        a, b = (outcomes.values(final[name, row.seed], "flip") for name in
                (row.method, other.get(row.method, "grpo")))
        assert row.value == pytest.approx(np.nanmean(a - b))
    assert list(dict.fromkeys(table["method"]))[-2:] == ["grpo_dial_50", "reader_dial_50"]  # as the grid has them


def test_a_later_tier_stands_beside_the_first_on_its_own_seeds(dials):
    plan = grid.read_grid()
    names = [run.cell.name for run in tables.beside_first(dials, plan, "3")]
    first = [f"{method}.s{seed}" for method in plan.tiers[0].methods for seed in (0, 1)]
    assert sorted(names) == sorted([*first, *(f"{m}_dial_50.s{s}" for m in ("grpo", "reader") for s in (0, 1))])
    assert {run.cell.seed for run in tables.beside_first(dials, plan, "2")} == {0}
    assert tables.beside_first(dials, plan, "reason") == []


def test_a_tier_shows_its_own_seeds_though_another_has_more_of_a_method(tmp_path):
    study_runs.written(tmp_path, ["grpo", "rule", "grpo_long", "reader_long"], range(6))
    runs, plan = logs.read_runs(tmp_path), grid.read_grid()
    of = {tier: {run.cell.seed for run in tables.beside_first(runs, plan, tier)} for tier in ("3", "long")}
    assert of == {"3": {0, 1, 2}, "long": set(range(6))}


def comparison(*rows, method="rule", name="flip"):
    return pd.DataFrame([(name, method, seed, *row) for seed, row in enumerate(rows)],
                        columns=["measure", "method", "seed", "value", "low", "high"])


def test_two_stories_prefers_two_findings_to_a_larger_maybe():
    clear = comparison((0.1, 0.05, 0.15), (0.3, 0.2, 0.4), (-0.12, -0.2, -0.05), method="rule")
    maybe = comparison((0.5, -0.1, 0.9), (-0.5, -0.9, 0.1), method="permuted")
    found = tables.two_stories(pd.concat([maybe, clear]))
    assert (found.method, found.up, found.down, found.clear) == ("rule", 1, 2, True)
    assert tables.two_stories(maybe).clear is False
    assert tables.two_stories(comparison((0.1, 0.0, 0.2), (0.0, -0.1, 0.1))) is None
    assert tables.two_stories(tables.differences([], ["flip"])) is None
    nothing = comparison((NAN, NAN, NAN), (NAN, NAN, NAN), method="base")  # a measure that applies to no run
    assert tables.two_stories(pd.concat([nothing, clear])).method == "rule" and tables.two_stories(nothing) is None


@settings(max_examples=30, deadline=None)
@given(st.lists(st.floats(-1, 1), min_size=1, max_size=6))
def test_two_stories_needs_both_sides(values):
    found = tables.two_stories(comparison(*[(v, v - 0.1, v + 0.1) for v in values]))
    assert (found is not None) == (min(values) < 0 < max(values))


def test_over_seeds_is_several_seeds_of_each_group(runs):
    table = tables.curves(runs, ["flip"])
    for row in tables.over_seeds(table, ["method", "step"]).itertuples():
        own = table[(table["method"] == row.method) & (table["step"] == row.step)]["value"]
        assert tuple(row)[3:] == pytest.approx(tuple(stats.several_seeds(own)), nan_ok=True)


def test_bins_of_disagreement_against_a_loop(runs):
    [run] = [run for run in runs if run.cell.name == "grpo.s0"]
    rows = tables.accuracy_by_bin([run])
    hits = [[] for _ in rows]
    for pair in run.final.itertuples(index=False):
        pair = dict(zip(run.final.columns, pair, strict=True))
        p = pair["sampled_p/llava"] if pair["sampled"] == 1 else 1 - pair["sampled_p/llava"]
        if not math.isnan(pair["better"]):
            hits[min(4, int((1 - p) / 0.2 + 1e-9))].append(pair["sampled"] == pair["better"])
    assert [row["n"] for row in rows] == [len(own) for own in hits]
    for row, own in zip(rows, hits, strict=True):
        assert row["accuracy"] == pytest.approx(np.mean(own) if own else NAN, nan_ok=True)


def test_bins_of_several_seeds_are_means_over_seeds(runs):
    own = tables.of_methods(runs)["rule"]
    each = [tables.accuracy_by_bin([run]) for run in own]
    for i, row in enumerate(tables.accuracy_by_bin(own)):
        assert row["n"] == sum(rows[i]["n"] for rows in each)
        assert row["accuracy"] == pytest.approx(np.nanmean([rows[i]["accuracy"] for rows in each]))


def test_what_is_paid_is_the_mean_since_the_measurement_before(runs):
    table = tables.proxy_and_gold(runs)
    assert set(table["method"]) == {"listener_base", "listener_reader", "permuted"}, "no listener, no proxy"
    paid = table[table["method"] == "permuted"].groupby("step")["paid"].mean()
    assert paid.loc[[2, 8]].tolist() == pytest.approx([0.515, 0.575]) and math.isnan(paid[0])


def test_calibration_is_measured_on_equally_many_pairs(tmp_path):
    def sure_and_right(step, n):
        first = study_logs.known(n)["better"].fillna(1) == 1
        p = "".join(study_logs.two(1.0 if yes else 0.0) for yes in first)
        return {"sampled_p": dict.fromkeys(study_runs.SIZES["judges"], p if step else study_logs.two(0.5) * n)}

    [row] = tables.calibration([run_like(tmp_path, sure_and_right)]).itertuples()
    better = study_logs.known(40)["better"].dropna()
    assert row.after == 0 and row.before == pytest.approx(abs(0.5 - (better == 1).mean()))


def test_probes_count_silence_and_favour(tmp_path):
    def silent(step, n):
        return {"sampled_said": "0" * n, "sampled_true": "0" * n, "sampled": "1" * (n - 6) + "2" * 6} if step else {}

    probed = tables.probes([run_like(tmp_path, silent)])
    assert heard.silent(probed).endswith("hides: GRPO seed 0.") and heard.silent(probed[:0]).endswith("hides: none.")
    assert 'Sampled answers "1" (% of answers), means before and after: GRPO 100 to 85.' in heard.probed(probed)
    table = probed.set_index("when")
    assert table.loc["before", ["verdict only", "first"]].tolist() == [0, 1]
    assert table.loc["after", ["coverage", "verdict only", "first"]].tolist() == pytest.approx([0, 1, 34 / 40])


def test_credits_leave_out_what_was_not_logged(runs, tmp_path):
    table = tables.credits(runs)
    assert "verdict" not in set(table["property"]), "these logs have none"
    added = table[table["part"] == "credit_added"]
    assert set(added["method"]) == {"listener_base", "listener_reader", "rule", "permuted"}
    assert added[added["property"] == "answer"]["value"].tolist() == pytest.approx([0.03] * 4 * 3 * 4)
    assert tables.credits([run_like(tmp_path, lambda step, n: {})]).empty


def test_dead_groups_are_means_over_the_first_steps_and_the_last(runs):
    shares = [0.0, 0.2, 0.9, 0.1, 0.5, 0.7, 0.3, 0.4]  # eight steps, measured every other one
    dying = [replace(run, steps=run.steps.assign(dead_groups=shares)) for run in runs[:1]]
    without = replace(runs[1], steps=runs[1].steps.drop(columns="dead_groups", errors="ignore"))
    [row] = tables.dead_groups([*dying, without]).itertuples()
    assert (row.before, row.after) == pytest.approx((0.1, 0.35)), "a run without groups is left out"
    assert story.dead(tables.dead_groups(dying)) == [
        "GRPO: 10 % of the groups were dead in its first steps, 35 % in its last (one seed)."]


def test_alarms_are_counted_where_there_are_seeds_enough(runs):
    table = tables.alarms(runs, ["flip", "truth"], [2, 3, 9])
    assert set(table["seeds"]) == {2, 3}
    of = tables.of_methods(runs)
    found, row = paired(of["rule"], of["grpo"], "flip"), table[(table["method"] == "rule") & (table["seeds"] == 3)]
    assert row["share"].iloc[0] == false_alarms(found.d_SB, found.prompt_id_B, 3)
    assert set(table["measure"]) == {"answers that flip", "true statements"} and "grpo" not in set(table["method"])
    assert tables.alarms([], ["flip"], [2]).empty


def test_measures_of_a_listener_that_did_not_hear_are_left_out(tmp_path):
    run = run_like(tmp_path, lambda step, n: {}, judges=("reader",))
    assert tables.measured([run]) == ["flip", "conflict", "truth"]
    assert tables.measured([]) == list(tables.MAIN)


# --- sentences -------------------------------------------------------------------------------------------------------


def effect(low, high, method="listener_reader", name="flip", at="last step"):
    return Effect(method, "grpo", at, name, (low + high) / 2, low, high, 40, (0, 1, 2, 3, 4))


def test_few_seeds_name_no_side():
    few, enough = (replace(effect(-0.3, -0.1), seeds=tuple(range(n))) for n in (4, 5))
    assert story.effect_sentences([enough], "flip")[0].endswith("(5 seeds): lower, which is better.")
    assert "the interval leaves out 0, which 4 seeds do too easily" in story.effect_sentences([few], "flip")[0]


def test_runs_that_give_one_answer_are_named(tmp_path):
    runs = [run_like(tmp_path, lambda step, n, said=said: {"answers": said * (n // 2)}, method)
            for method, said in (("grpo", "11"), ("rule", "22"), ("permuted", "12"))]
    said = story.one_sided(tables.last(runs, ["first"]))
    assert said.endswith(': GRPO seed 0 (100 % "1") and rule seed 0 (0 % "1").')
    assert story.one_sided(tables.last(runs[2:], ["first"])).endswith(": none.")


def test_a_checkpoint_is_held_against_the_last_step_in_words():
    [said] = story.effect_sentences([effect(-0.3, -0.1, at="best checkpoint")], "flip")
    assert "against its own last step (5 seeds): lower, which is better" in said
    steps = pd.DataFrame({"method": ["rule", "grpo", "grpo"], "seed": [0, 0, 1], "step": [75, 0, 300]})
    assert story.chosen(steps) == "Steps chosen, seed by seed: GRPO 0 and 300; rule 75."


@settings(max_examples=30, deadline=None)
@given(st.floats(-1, 1), st.floats(-1, 1))
def test_a_direction_is_said_only_where_the_interval_leaves_out_0(a, b):
    low, high = sorted((a, b))
    [said] = story.effect_sentences([effect(low, high)], "flip")
    assert ("higher" in said) == (round(low, 3) > 0) and ("lower" in said) == (round(high, 3) < 0), "as printed"
    assert ("not clearly" in said) == (round(low, 3) <= 0 <= round(high, 3))
    assert ("better" in said, "worse" in said) == ("lower" in said, "higher" in said), "fewer flips are better"


def test_one_seed_is_called_one_seed(single):
    effects = against_plain(single, measures=["flip"])
    assert all("one seed, so no interval" in said for said in story.effect_sentences(effects, "flip"))
    assert heard.calibrated(tables.calibration(single), "llava").endswith("Clearly changed: none.")
    assert "[" not in story.over_training(tables.curves(single, ["flip"]), "flip")


LESS, SAME = (-0.3, -0.1), (-0.2, 0.1)


@pytest.mark.parametrize("last, matched, long, word", [
    (SAME, LESS, LESS, "**neither** *prevents* nor *delays* is shown"),
    ((0.1, 0.3), LESS, LESS, "**the opposite**, by this interval alone"),
    (LESS, LESS, LESS, "**prevents**"),
    (LESS, SAME, LESS, "but not clearly so where both are as accurate in distribution: no more than **delays**"),
    (LESS, LESS, SAME, "but not clearly so in the runs of 900 steps: no more than **delays**"),
    (LESS, LESS, None, "in the runs of 900 steps: not run"),
    (LESS, None, None, "where both are as accurate in distribution and in the runs of 900 steps: not run"),
    (LESS, LESS, (NAN, NAN), "in the runs of 900 steps: not run"),
    ((NAN, NAN), None, None, "too few seeds"),
    ((0.1, 0.3), LESS, LESS, "its answers flip *more* often"),
    (SAME, LESS, LESS, "After 900 steps: -20.0 points [-30.0, -10.0] (5 seeds), clearly fewer"),
    ((0.1, 0.3), LESS, SAME, "not clearly different by this interval"),
    (SAME, LESS, (0.1, 0.3), "clearly more by this interval. That is against plain GRPO alone"),
    (SAME, LESS, (NAN, NAN), "where + is worse."),
])
def test_the_plan_s_three_words(last, matched, long, word):
    found = [[effect(*ends)] if ends else [] for ends in (last, matched, long)]
    assert word in verdicts.prevents(*found, "listener_reader")
    assert "too few seeds" in verdicts.prevents(*found, "rule"), "which has no effects here"


def proxy(paid, right, seeds=3):
    rows = [("permuted", s, step, None if not step else 0.5 + paid * step + 0.01 * s * step, 0.5, 0.5 + right * step
             + 0.01 * s * step) for s in range(seeds) for step in (0, 1, 2)]
    return pd.DataFrame(rows, columns=["method", "seed", "step", "paid", "p_better", "right"])


@pytest.mark.parametrize("paid, right, greedy, seeds, words", [
    (0.2, -0.2, 0.2, 3, "right answers fell: what is paid for and what is wanted have parted"),
    (0.2, 0.2, -0.2, 3, "right greedy answers fell, so what is paid for and what is wanted have parted"),
    (0.2, -0.01, 0.0, 3, "cannot say"),
    (0.2, 0.2, 0.2, 3, "both rose, and greedy ones did not clearly fall"),
    (-0.2, 0.2, 0.2, 3, "did not clearly rise"),
    (0.2, 0.2, 0.2, 1, "One seed"),
])
def test_paid_and_wanted(paid, right, greedy, seeds, words):
    curve = proxy(0, greedy, seeds).rename(columns={"right": "value"})
    said = heard.fooled(proxy(paid, right, seeds), curve, "permuted")
    assert words in said and ("greedy answers -" in said) == (greedy < 0)


@pytest.mark.parametrize("kept, words", [
    (0.6, "it leans with the verdict"), (0.4, "it leans against the verdict"), (0.5, "it does not clearly lean"),
])
def test_whether_a_listener_goes_with_a_verdict(kept, words):
    frame = pd.DataFrame({"prompt_id": [f"p{i // 2}" for i in range(24)]})
    p = pd.DataFrame({"kept": kept, "removed": 0.5, "turned": 1 - kept}, index=frame.index)
    p["kept"] += np.tile([0.01, 0.01, -0.01, -0.01], 6)
    p.loc[0] = np.nan
    said = heard.leaned(frame, p, "reader")
    assert said.startswith("reader, 23 traces of the base: ") and words in said
    assert f"kept {p['kept'].mean():.3f}, removed 0.500, turned {1 - kept:.3f}. Kept less turned" in said


def test_what_two_added_parts_pay_is_compared_seed_by_seed():
    rows = [("statements", "credit_added", method, seed, step, base + 0.01 * seed + 0.001 * step)
            for method, base in (("listener_reader", 0.005), ("rule", 0.002)) for seed in range(5) for step in (25, 50)]
    table = pd.DataFrame(rows, columns=["property", "part", "method", "seed", "step", "value"])
    said = heard.paid_apart(table, "statements", "listener_reader", "rule")
    assert said.startswith("For *true statements* the added part of reader as listener pays more than that of rule: ")
    assert "+0.0030 [+0.0030, +0.0030]" in said, "the seeds' own levels cancel"
    assert "pays less than" in heard.paid_apart(table, "statements", "rule", "listener_reader")
    assert heard.paid_apart(table, "statements", "listener_reader", "permuted") == ""
    few = heard.paid_apart(table[table["seed"] < 4], "statements", "listener_reader", "rule")
    assert "less that of rule (4 seeds, too few to name a side): +0.0030" in few


def test_runs_that_name_no_winner_are_told_by_the_share_that_does_not(tmp_path):
    run = run_like(tmp_path, lambda step, n: {"sampled_verdicts": "-" * (n // 4) + "1" * (n - n // 4)})
    assert "GRPO seed 0 (25 % name none)" in heard.without_verdict([run])


def test_verdicts_in_words():
    claim = Claim("R1", "about", "text", "listener_reader", ("grpo", "rule"), "flip", "lower")
    against = (Comparison("grpo", -0.2, -0.3, -0.11, 0.001, 0.002, 40, (0, 1)),
               Comparison("rule", 0.0, -0.05, 0.05, 0.9, 0.9, 40, (0, 1)))
    not_run = Decision(replace(claim, id="X"), (), "not run")
    said = verdicts.decided([Decision(claim, against, "not supported"), not_run])
    assert said[:2] == ["**Not supported** in the tiny world: R1.", "**Not run** yet: X."]
    assert said[2] == "On the way: 1 of 2 claims rest on fewer seeds so far than the 10 planned, 2 at least."
    assert said[3] == "R1: clear against GRPO; a help of 10 points or more is excluded against rule."
    little = replace(against[0], effect=-0.02, low=-0.09, high=0.04, p_holm=0.5, level=0.3)
    refuted = verdicts.left_open(Decision(claim, (little, against[1]), "not supported"))
    assert refuted == ("no comparison is clear; a help of 10 points or more is excluded against GRPO and rule: in the "
                       "plan's words, **refuted**")
    no_room = (replace(little, level=0.07), against[1])
    never = verdicts.left_open(Decision(claim, no_room, "not supported"))
    assert "(which stands at 7 %, so such a help was never possible; the largest that the interval still" in never
    assert "still allows is 9): in the plan's words" in never
    enough = [replace(c, seeds=tuple(range(10)), level=0.3) for c in against]
    reverse = verdicts.decided([Decision(claim, tuple(enough), "reversed")])
    assert reverse == ["**Reversed** in the tiny world, the opposite of what was predicted: \"text\" (R1). Measured: "
                       "answers that flip 10 %, GRPO 30 %: -20.0 points [-30.0, -11.0]."]


@pytest.mark.parametrize("verdicts_of, said", [
    (("not supported", "reversed"), "None of the claims for it is supported** in the tiny world"),
    (("supported", "not run"), "Of the claims for it, R1 is supported**"),
    (("supported", "supported"), "All claims for it are supported**"),
    (("not run", "not run"), "No claim can be decided yet."),
])
def test_the_first_sentence_is_the_answer(verdicts_of, said):
    premise = Decision(Claim("P1", "premise", "text", "grpo", ("base",), "flip", "higher"), (), "supported")
    decisions = [premise] + [
        Decision(Claim(f"R{i}", "a reader", "text", "listener_reader", ("grpo", "rule"), "flip", "lower"), (), verdict)
        for i, verdict in enumerate(verdicts_of, start=1)]
    assert said in verdicts.lead(decisions)
    assert verdicts.lead([premise]).endswith("No claim can be decided yet.")


def test_the_answer_names_what_was_beaten_and_which_help_is_excluded():
    premise = Claim("P1", "premise", "It relies on the tint", "grpo", ("base",), "flip", "higher")
    reads = Claim("R1", "a reader", "text", "listener_reader", ("grpo", "rule"), "flip", "lower")
    sees = replace(reads, id="R2", measure="conflict", predicted="higher")
    against = (Comparison("grpo", -0.2, -0.3, -0.11, 0.001, 0.002, 40, (0, 1)),
               Comparison("rule", 0.0, -0.05, 0.05, 0.9, 0.9, 40, (0, 1)))
    decisions = [Decision(premise, against[:1], "reversed"),
                 *(Decision(claim, against, "not supported") for claim in (reads, sees))]
    first, second = verdicts.answer(decisions)
    assert first == "It relies on the tint: **reversed**."
    assert second.startswith("A reader (R1, R2): clearly better than plain GRPO in R1; than plain GRPO and both "
                             "controls in none.")
    assert second.endswith("that the intervals still allow, in points: R1 30, R2 0.")


def test_intervals_that_hold_0_hold_much_else():
    said = story.widest([effect(-0.1, 0.4), effect(-0.3, 0.2, "rule"), effect(0.1, 0.2)])
    assert said.startswith("Of 3 intervals 2 hold 0.")
    assert "down to -30.0 points (rule" in said and "up to +40.0" in said
    assert story.widest([effect(0.1, 0.2)]) == "No interval holds 0."


def test_a_guess_is_borne_out_where_all_of_it_is_clear():
    five = tuple(range(5))
    up, unclear, down = (replace(effect(*ends), seeds=five) for ends in ((0.1, 0.4), (-0.1, 0.4), (-0.4, -0.1)))
    assert story.both_clear([up, up], "More?") == "More? By these intervals it is so (5 seeds)."
    assert all("not shown" in story.both_clear([up, other], "More?") for other in (unclear, down))
    assert story.both_clear([up, replace(up, seeds=(0, 1, 2))], "More?") == "More? 3 seeds are too few to say."
    for missing in ([], [up, replace(up, seeds=())]):
        assert story.both_clear(missing, "More?") == "More? Not all of it has been run."


def test_runs_that_fell_are_counted_by_method():
    ends = pd.DataFrame([("grpo", 0, 0.1), ("grpo", 1, 0.5), ("rule", 0, 0.9), ("rule", 1, 0.2), ("rule", 2, 0.51)],
                        columns=["method", "seed", "flip"])
    assert story.fallen(ends).endswith("flipping: GRPO 0 of 2, rule 2 of 3 (seeds 0 and 2).")


def test_slopes_and_moves_in_words(runs):
    ends = tables.last(runs, ["agree", "conflict"])
    own = ends[ends["method"] == "rule"]
    expected = stats.several_seeds(own["agree"] - own["conflict"])
    assert f"rule {100 * expected.value:+.1f} points [" in story.slopes(ends) and "(3 seeds)" in story.slopes(ends)
    rows = [("flip", "grpo", s, step, 0.1 + (0.2 + 0.01 * s) * (step > 0)) for s in range(3) for step in (0, 9)]
    table = pd.DataFrame(rows, columns=["measure", "method", "seed", "step", "value"])
    said = story.moved(table, "flip", "grpo")
    assert said.startswith("GRPO, answers that flip: rose, from 10 % to 31 %, +21.0 points [")
    assert "in one seed" in story.moved(table[table["seed"] == 0], "flip", "grpo")


def test_what_is_there_is_counted(runs):
    first, *others = story.present(runs[:-1], grid.read_grid())
    assert "14 of 50" in first and "rule 2" in first
    assert all(" 0 of " in text for text in others)


def test_a_range_of_means_names_both_ends_and_no_side(dials):
    plan = grid.read_grid()
    found = against_plain(dials, measures=["flip"], grid=plan)
    [told] = story.ranged(found, plan)
    low, high = min(found, key=lambda e: e.effect), max(found, key=lambda e: e.effect)
    assert told.startswith("Answers that flip: means from ")
    assert all(f"{100 * e.effect:+.1f}" in told for e in (low, high)) and "better" not in told
    assert "too few seeds to name a side" in story.in_short(found)
    [alone] = story.ranged([replace(low, effect=0.1)], plan)
    assert "means +10.0 (" in alone and "one seed" not in alone
    [alone] = story.ranged([replace(low, effect=0.1, seeds=(1,))], plan)
    assert alone.endswith(", one seed) points.")
    paid = replace(low, method="listener_llava", measure="contradiction/llava")
    [alone] = story.ranged([paid], plan)
    assert f"({plan.labels['listener_llava']}, heard by a listener that was paid for)" in alone


def test_no_side_is_named_where_an_end_is_printed_as_nothing():
    assert side(0.0006, 0.1) == "higher" and side(-0.1, -0.0006) == "lower"
    assert side(0.0004, 0.1) == side(-0.1, -0.0004) == side(-0.1, 0.1) == side(NAN, NAN) == ""
    assert side(0.0004, 0.1, decimals=4) == "higher" and side(0.004, 0.1, decimals=2) == ""


def test_words_for_few_seeds_and_few_methods(single):
    assert "not yet runs of two seeds" in story.opposite(None, 1)
    assert "In no comparison" in story.opposite(None, 4)
    ends = tables.last(single, ["truth", "followed/llava"])
    assert "Too few seeds" in heard.together(ends)
    assert heard.together(ends[:1]).startswith("One method")
    assert story.listed([]) == "none" and story.listed("abc") == "a, b and c"


# --- figures ---------------------------------------------------------------------------------------------------------


def figures(runs):
    """Every figure of these runs."""
    names = tables.measured(runs)
    differences, curves = tables.differences(runs, names), tables.curves(runs, names)
    bins = {method: tables.accuracy_by_bin(own) for method, own in tables.of_methods(runs).items()}
    planes, right = tables.curves(runs, ["agree", "conflict"]), tables.curves(runs, ["sampled_right"])
    seeds = differences["seed"].nunique()
    yield study_plots.over_training(curves[curves["measure"].isin(names[:2])])
    yield study_plots.at_the_end(differences, against_plain(runs, measures=names))
    yield study_plots.paths(planes)
    yield heard_plots.by_disagreement(bins, seeds, "llava")
    yield heard_plots.persuasive_and_true(tables.last(runs, ["truth", "followed/llava"]))
    yield heard_plots.proxy_and_gold(tables.proxy_and_gold(runs), right[right["method"] == "grpo"])
    yield heard_plots.probes(tables.probes(runs))
    yield heard_plots.credits(tables.credits(runs))
    if found := tables.two_stories(differences):
        yield study_plots.one_comparison(found)


@pytest.mark.parametrize("which", ["runs", "single"])
def test_figures_are_labelled_and_keep_their_texts_on_the_page(request, which):
    several = which == "runs"
    for fig in figures(request.getfixturevalue(which)):
        assert fig.get_figwidth() <= 10 and fig.get_figheight() <= 5
        assert ("one seed" in fig.get_suptitle()) != several or "of that seed alone" in fig.get_suptitle()
        for ax in fig.axes:
            assert any(other.get_xlabel() for other in ax.get_shared_x_axes().get_siblings(ax))
        FigureCanvasAgg(fig).draw()
        texts = [fig._suptitle, *(t for ax in fig.axes for t in (ax.title, ax.xaxis.label, ax.yaxis.label))]
        for box in (text.get_window_extent() for text in texts if text.get_text()):
            assert fig.bbox.x0 - 1 <= box.x0 and box.x1 <= fig.bbox.x1 + 1
            assert fig.bbox.y0 - 1 <= box.y0 and box.y1 <= fig.bbox.y1 + 1


def test_every_seed_is_a_point_at_the_end(runs):
    differences = tables.differences(runs, ["flip"])
    fig = study_plots.at_the_end(differences, against_plain(runs, measures=["flip"]))
    drawn = sorted(x for line in fig.axes[0].lines if line.get_marker() == "." for x in line.get_xdata())
    assert drawn == pytest.approx(sorted(differences["value"]))


def test_many_methods_have_their_labels_and_bars_of_few_seeds_hide_nothing(dials):
    plan = grid.read_grid()
    table, found = tables.differences(dials, ["flip"], plan), against_plain(dials, measures=["flip"], grid=plan)
    [ax] = study_plots.at_the_end(table, found, "Later", plan.labels).axes
    drawn = [t.get_text().replace("\n", " ") for t in ax.get_yticklabels()]
    assert drawn[0] == "base as listener" and plan.labels["truth"] in drawn
    assert plan.labels["grpo_dial_50"] in drawn and plan.labels["reader_dial_50"] + " *" in drawn
    low, high = ax.get_xlim()
    assert low < table["value"].min() < table["value"].max() < high
    assert high - low < 1.5 * (max(0, table["value"].max()) - min(0, table["value"].min()))
    bars = {bar[0].get_ydata()[0]: bar for bar in ax.containers}
    assert [bool(bar[2]) for _, bar in sorted(bars.items())] == [True] * 4 + [False] * 3  # 3, 3, 3, 3, 1, 2 and 2 seeds


def test_methods_stand_below_the_question_that_they_answer(dials):
    plan = grid.read_grid()
    table, found = tables.differences(dials, ["flip"], plan), against_plain(dials, measures=["flip"], grid=plan)
    asked = {"Which dial?": ["reader_dial_50"], "Nobody here": ["entropy"], "Which control?": ["rule", "permuted"]}
    [ax] = study_plots.at_the_end(table, found, "Later", plan.labels, asked).axes
    ticks = [(t.get_text(), t.get_fontweight()) for t in ax.get_yticklabels()]
    assert [text for text, weight in ticks if weight == "bold"] == ["Which dial?", "Which control?"]
    assert [text for text, _ in ticks] == ["Which dial?", "reader, dial 0.5 *", "Which control?", "rule", "permuted"]
    assert sorted(bar[0].get_ydata()[0] for bar in ax.containers) == pytest.approx([1 - 0.1, 3 - 0.1, 4 - 0.1])


def test_claims_are_drawn_with_what_was_predicted_to_the_right():
    claim = Claim("R1", "about", "Answers flip less often", "listener_reader", ("grpo", "rule"), "flip", "lower")
    against = (Comparison("grpo", -0.2, -0.3, -0.11, 0.001, 0.002, 40, (0, 1)),
               Comparison("rule", 0.05, -0.02, 0.15, 0.9, 0.9, 40, (0, 1)))
    fig = study_plots.claims([Decision(claim, against, "not supported")])
    [ax] = fig.axes
    bars = [container for container in ax.containers]
    assert [bar[0].get_xdata()[0] for bar in bars] == pytest.approx([0.2, -0.05])
    ends = [bar[2][0].get_segments()[0][:, 0].tolist() for bar in bars]
    assert ends[0] == pytest.approx([0.11, 0.3]) and ends[1] == pytest.approx([-0.15, 0.02])
    assert ax.get_yticklabels()[0].get_text().startswith("R1: Answers flip")


def test_an_empty_table_is_no_figure():
    for draw in (study_plots.over_training, study_plots.paths, heard_plots.persuasive_and_true,
                 heard_plots.probes, heard_plots.credits, lambda none: heard_plots.proxy_and_gold(none, none),
                 lambda none: study_plots.at_the_end(none, [])):
        with pytest.raises(ValueError, match="to draw"):
            draw(pd.DataFrame())
    with pytest.raises(ValueError, match="no bins to draw"):
        heard_plots.by_disagreement({}, 1, "llava")


def test_no_two_methods_of_the_study_look_alike():
    looks = [style.look(name) for name in study_runs.RELIANCE] + [style.look("permuted"), style.look("base")]
    assert {len({look[i] for look in looks}) for i in range(3)} == {len(looks)}
    assert style.look("half_lr") == ("half lr", style.GREY, "v")
    assert style.in_order(["half_lr", "permuted", "grpo", "base"]) == ["base", "grpo", "permuted", "half_lr"]
