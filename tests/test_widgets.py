"""Things to play with: what they say without a script, that no data becomes HTML, and the numbers of the scripts."""

import itertools
import json
import math
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import study_logs
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import lrt
from lrt import world
from lrt.pairs import VOTERS, tiny_pairs
from lrt.rewards import advantages
from lrt.stats import several_seeds, t_quantile
from lrt.study.grid import read_grid
from lrt.study.logs import read_run
from lrt.widgets import dial, fragment, group, learned, steps

HERE = Path(lrt.__file__).parent / "widgets"
EVIL = "</script><img src=x onerror=alert(1)><!-- & \u2028 'quoted' \"too\""
REWARDS = st.lists(st.floats(0, 2, allow_nan=False).map(lambda r: round(r, 3)), min_size=2, max_size=16)


class Page(HTMLParser):
    """The tags of a fragment, the text outside scripts and styles, and the JSON; fails on tags that do not match."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.text, self.scripts, self.data = [], [], "", [], None
        self.feed(text)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in ("img", "br"):
            self.open.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        assert self.open.pop()[0] == tag

    def handle_data(self, data):
        tag, attrs = self.open[-1] if self.open else ("", {})
        if tag == "script" and attrs.get("type") == "application/json":
            self.data = json.loads(data)
        elif tag == "script":
            self.scripts.append(data)
        elif tag != "style":
            self.text += data


@pytest.fixture(scope="module")
def made():
    """Each of them once, by name."""
    rows = tiny_pairs("train", 24)
    return {"group": group.group_html(), "dial": dial.dial_html(rows), "learned": learned.learned_html([]),
            "steps": steps.steps_html(steps.recorded())}


# --- the fragment ----------------------------------------------------------------------------------------------------


@given(st.recursive(st.text() | st.integers() | st.booleans() | st.none(),
                    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8))
def test_data_in_a_script_comes_back_as_it_was_and_cannot_leave_it(value):
    text = fragment.in_script(value)
    assert not set("<>&\u2028\u2029") & set(text)
    assert json.loads(text) == value


def test_numbers_that_json_has_no_word_for_are_refused():
    with pytest.raises(ValueError):
        fragment.in_script({"a": math.nan})


def test_text_from_data_stays_text():
    page = Page(fragment.fragment("group", EVIL, {"a": EVIL}, fragment.table(("a", EVIL), [(EVIL, EVIL)], EVIL)
                                  + fragment.paragraph(EVIL)))
    assert "img" not in [tag for tag, _ in page.tags]
    assert page.text.count("onerror") == 6 and page.data == {"a": EVIL}
    [code] = page.scripts
    assert "<img" not in code


def test_a_fragment_that_is_too_large_is_refused():
    with pytest.raises(ValueError, match="group: .* KB, where 60 KB are the most"):
        fragment.fragment("group", "t", {"a": "x" * fragment.LIMIT}, "")


@pytest.mark.parametrize("name", ["group", "dial", "learned", "steps"])
def test_each_one_means_something_without_its_script_and_asks_for_nothing(name, made):
    text = made[name]
    page = Page(text)
    assert len(text.encode()) < fragment.LIMIT
    assert len(re.findall(r"\w+", page.text)) > 40  # words and numbers
    for tag, attrs in page.tags:
        assert not {"src", "href", "onclick", "onload"} & {key for key, value in attrs.items() if value}, tag
    code = re.sub(r"http://www.w3.org/2000/svg|data:image/webp;base64,[\w+/=]+", "", text)
    assert not re.search(r"https?:|//[a-z]|@import|url\(", code)
    assert not re.search(r"innerHTML|eval\(|document\.write", text)
    assert page.data is not None and ":has(>.lrt-widget)" in text


def test_colours_are_the_palette_of_all_figures(made):
    assert "$BLUE" in (HERE / "base.css").read_text(encoding="utf-8")
    assert not any(f"${name}" in text for name in fragment.PALETTE for text in made.values())
    assert fragment.PALETTE["BLUE"] in made["group"] and fragment.PALETTE["VERMILION"] in made["dial"]


# --- the script's arithmetic -----------------------------------------------------------------------------------------


class Node:
    """A process that has a widget's functions, and answers a line of JSON [function, arguments] with its value."""

    def __init__(self, *files):
        if shutil.which("node") is None:
            pytest.skip("no node here: install it to hold the scripts' numbers against Python's")
        code = "".join((HERE / name).read_text(encoding="utf-8") for name in files)
        code += """
        require("readline").createInterface({ input: process.stdin }).on("line", (line) => {
          const [name, ...given] = JSON.parse(line);
          const plain = (key, value) => Number.isNaN(value) ? null : value;
          console.log(JSON.stringify(eval(name)(...given), plain));
        });"""
        self.process = subprocess.Popen(["node", "-e", code], text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)

    def __call__(self, *asked):
        self.process.stdin.write(json.dumps(asked) + "\n")
        self.process.stdin.flush()
        return json.loads(self.process.stdout.readline())

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=10)
        self.process.stdout.close()


@pytest.fixture(scope="module")
def group_js():
    node = Node("base.js", "group.js")
    yield node
    node.close()


REST = st.lists(st.lists(st.floats(0, 2).map(lambda r: round(r, 3)), min_size=2, max_size=8), max_size=3)
NEAR = settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@NEAR
@given(rewards=REWARDS, rest=REST, scale=st.sampled_from(["n_1", "n", "none"]), eps=st.sampled_from(group.EPS))
def test_the_scripts_advantages_are_those_of_lrt(group_js, rewards, rest, scale, eps):
    found = group_js("advantages", rewards, scale, rest, eps)
    ddof, by = (0 if scale == "n" else 1), ("none" if scale == "none" else "group")
    np.testing.assert_allclose(found, advantages([rewards], by, ddof=ddof, eps=eps)[0], rtol=1e-7, atol=1e-6)


@NEAR
@given(rewards=REWARDS, rest=REST)
def test_the_scripts_other_scalings_are_what_they_are_called(group_js, rewards, rest):
    everything = np.concatenate([rewards, *rest])
    batch = (np.array(rewards) - np.mean(rewards)) / (everything.std(ddof=1) + 1e-4)
    np.testing.assert_allclose(group_js("advantages", rewards, "batch", rest, 1e-4), batch, rtol=1e-7, atol=1e-6)
    np.testing.assert_allclose(group.group_advantages(rewards, "batch", rest=rest), batch, rtol=1e-7, atol=1e-6)
    others = [r - np.mean(rewards[:i] + rewards[i + 1 :]) for i, r in enumerate(rewards)]
    np.testing.assert_allclose(group_js("advantages", rewards, "others", [], 1e-4), others, atol=1e-9)
    np.testing.assert_allclose(group.group_advantages(rewards, "others"), others, atol=1e-9)


def test_the_batch_is_trls(group_js):
    """The deviation over the whole batch, as TRL takes it: of the rewards themselves, with n - 1."""
    batch = [list(group.SAMPLED), *map(list, group.REST)]
    found = group_js("advantages", batch[0], "batch", batch[1:], 1e-4)
    np.testing.assert_allclose(found, advantages(batch, "batch")[0], rtol=1e-9)


@pytest.mark.parametrize(("rewards", "scale", "eps", "told"), [
    ([1.5] * 8, "n_1", 1e-4, "dead group"),
    ([1.501] + [1.5] * 7, "n_1", 1e-4, "ε takes 22 % off; without it they would reach +2.47"),
    ([1.501] + [1.5] * 7, "none", 1e-4, "Nothing is divided"),
    ([1.96, 1.95, 1.94, 1.93], "n_1", 1e-4, "as large as in any other group"),
    ([1.5, 1.0, 1.5, 1.0], "n_1", 1e-4, "Mean reward 1.25, deviation 0.289"),
])
def test_what_is_said_of_a_group(group_js, rewards, scale, eps, told):
    assert told in group_js("said", rewards, scale, group.REST, eps)


def test_the_static_group_has_the_numbers_of_its_choices():
    page = Page(group.group_html([1.5, 1.0, 1.5, 1.5]))
    for value in ("+0.50", "-1.50", "+0.58", "-1.73", "+0.12", "-0.38", "+0.17"):
        assert value in page.text
    assert "the group is dead" in page.text


@pytest.mark.parametrize("rewards", [[1.0], [1.0] * 17, [0.5, 2.5], [0.5, math.nan], [0.5, -0.1]])
def test_rewards_that_cannot_be_shown_are_refused(rewards):
    with pytest.raises(ValueError, match="a group has 2 to 16|lies between 0 and 2"):
        group.group_html(rewards)


# --- the dial --------------------------------------------------------------------------------------------------------


def by_hand(gap, dial_):
    """(probability, warm is better, warm is the vote, votes for the warm image) for all tints and votes of a pair."""
    q, found = world.p_prefer_first(abs(gap), 0), []
    for warm_is_better in (True, False):
        tint = (dial_ if warm_is_better else 1 - dial_) if gap else 0.5
        for votes in itertools.product((True, False), repeat=VOTERS):  # for the better image
            chance = tint * math.prod(q if vote else 1 - q for vote in votes)
            found.append((chance, warm_is_better, votes[0] == warm_is_better,
                          sum(vote == warm_is_better for vote in votes)))
    return found


@settings(deadline=None, max_examples=40)
@given(st.lists(st.sampled_from([-2.0, -1.0, -0.5, 0.0, 0.5, 1.5, 3.0]), min_size=1, max_size=5), st.floats(0, 1))
def test_agreement_is_what_counting_all_votes_and_tints_gives(gaps, d):
    cases = [case for gap in gaps for case in by_hand(gap, d)]
    found = dial.agreement(gaps, d)
    assert found["vote"] == pytest.approx(sum(p for p, _, vote, _ in cases if vote) / len(gaps))
    untied = sum(p for p, _, _, n in cases if n != VOTERS / 2)
    assert found["majority"] == pytest.approx(sum(p for p, _, _, n in cases if n > VOTERS / 2) / untied)
    assert found["better"] == pytest.approx(d) if any(gaps) else math.isnan(found["better"])


def test_agreement_is_what_drawn_pairs_show():
    frame = tiny_pairs("train", 120).remove_columns("images").to_pandas()
    found = dial.agreement(frame["utility_1"] - frame["utility_2"], 0.9)
    warm = np.where(frame["tint_1"] == "warm", 1, 2)
    assert np.mean(warm == frame["vote"]) == pytest.approx(found["vote"], abs=3 * math.sqrt(0.2 / 120))


def test_a_dial_outside_0_to_1_and_pairs_without_a_utility_are_refused():
    with pytest.raises(ValueError, match="a probability, not 1.2"):
        dial.agreement([1.0], 1.2)
    with pytest.raises(ValueError, match="whose utilities are known"):
        dial.dial_html(tiny_pairs("train", 2).map(lambda row: {"utility_1": None}))


def test_pairs_keep_everything_but_their_tints_and_turn_once(made):
    data = Page(made["dial"]).data
    assert len(data["pairs"]) == dial.SHOWN
    for pair in data["pairs"]:
        assert sum(a != b for a, b in itertools.pairwise(pair["warm"])) <= 1
        if pair["better"]:
            assert pair["warm"][-1] == pair["better"] and pair["warm"][0] != pair["better"]
        assert all(uri.startswith("data:image/webp;base64,") for both in pair["images"] for uri in both)
    assert data["lines"][0]["ends"] == [0, 1]


# --- what methods learn ----------------------------------------------------------------------------------------------


def test_runs_stand_under_the_dial_and_the_method_with_their_settings(tmp_path):
    tinted, seeing = (lambda step, n: study_logs.like_tint(n)), (lambda step, n: study_logs.like_content(n))
    small = {"judges": ("reader", "llava", "base"), "measured_pairs": 8, "final_pairs": 12, "measure_every": 300}
    grid = read_grid()
    changes = {name: own | small for name, own in grid.changes.items()}
    grid = type(grid)(grid.tiers, changes, grid.labels)
    made = (("grpo", 0, tinted), ("grpo", 1, seeing), ("grpo_dial_50", 0, seeing), ("beta", 0, seeing))
    runs = [read_run(study_logs.written(tmp_path, grid.cell(method, seed), at)) for method, seed, at in made]
    found = learned.learned(runs, grid)
    assert [run["seed"] for run in found[0.9]["grpo"]] == [0, 1] and len(found[0.5]["grpo"]) == 1
    assert found[0.9]["grpo"][0] == {"seed": 0, "agree": 1, "conflict": 0, "flip": 1}
    assert found[0.9]["grpo"][1] == found[0.5]["grpo"][0] | {"seed": 1}
    assert found[0.7] == {"grpo": [], "listener_reader": []}  # the plan asks for them, and nothing else there
    assert "beta" not in found[0.9]  # another setting than the dial
    assert learned.at_test_dial(found[0.9]["grpo"][:1], 0.3)[0] == pytest.approx(0.3)
    text = Page(learned.learned_html(runs, grid)).text
    assert "Trained with the dial at 0.5" in text and "Dial 0.7: not run yet: GRPO, reader as listener." in text


def test_without_logs_it_says_so(made):
    text = Page(made["learned"]).text
    assert "Dial 0.9: not run yet" in text and "Dial 0.5: not run yet" in text


@pytest.fixture(scope="module")
def learned_js():
    node = Node("base.js", "chart.js", "learned.js")
    yield node
    node.close()


@NEAR
@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0, 1)), min_size=1, max_size=10), st.floats(0, 1))
def test_the_scripts_intervals_over_seeds_are_those_of_lrt(learned_js, runs, d):
    t = [None, None, *(t_quantile(0.95, n - 1) for n in range(2, 11))]
    values = [learned_js("atTest", [a, c, 0], d) for a, c in runs]
    found = learned_js("overSeeds", values, t)
    own = [{"agree": a, "conflict": c} for a, c in runs]
    for key, value in zip(("mean", "low", "high"), learned.at_test_dial(own, d), strict=True):
        assert found[key] is None if math.isnan(value) else found[key] == pytest.approx(value, abs=1e-9)
    assert learned_js("overSeeds", [*values, None], t) == found  # what does not apply is left out
    assert math.isnan(several_seeds([]).value) and learned_js("overSeeds", [None], t)["mean"] is None


# --- completions over training ---------------------------------------------------------------------------------------


def line(pair, step, text, sample=0, **p):
    return {"step": step, "pair_id": pair["pair_id"], "sample": sample, "text": text, "p": p}


@pytest.fixture(scope="module")
def one_pair():
    rows = tiny_pairs("tint_uninformative", 1)
    return rows, rows[0]


def texts(pair):
    from lrt.pairs import scenes_of
    from lrt.traces import gold_trace

    gold = str(gold_trace(world.parse_prompt(pair["prompt"]), scenes_of(pair), 1))
    first = gold.split()[3]
    other = next(colour for colour in world.COLOURS if colour != first)
    return gold, gold.replace(first, other, 1)


def test_words_are_marked_true_or_false_and_new(one_pair):
    rows, pair = one_pair
    gold, wrong = texts(pair)
    lines = [line(pair, step, f"<think> {trace} </think> <answer> {pair['vote']} </answer>", reader=0.25)
             for step, trace in ((0, gold), (5, wrong), (9, wrong))]
    data = Page(steps.steps_html({"grpo": lines}, rows)).data
    [run] = data["runs"]
    first, then, last = (by_pair[0][0] for by_pair in run["shown"])
    assert run["steps"] == [0, 5, 9] and run["ears"] == ["reader"] and run["name"] == "GRPO"
    assert [" ".join(data["words"][letter] for letter in own["w"]) for own in (first, then)] == [gold, wrong]
    assert set(first["m"]) == {"t", "-"} and then["m"] == first["m"][:3] + "F" + first["m"][4:]
    assert last["m"] == then["m"].lower()  # nothing is new
    assert first["s"] == [1, pair["vote"], 1, 1] and first["p"] == [250] and "x" not in first


def test_what_a_model_wrote_stays_text(one_pair):
    rows, pair = one_pair
    page = Page(steps.steps_html({"grpo": [line(pair, 0, EVIL)]}, rows))
    assert "img" not in [tag for tag, _ in page.tags]
    [[[shown]]] = page.data["runs"][0]["shown"]
    assert shown["x"] == EVIL and shown["s"] == [0, 0, 0, 0]


@pytest.mark.parametrize(("lines", "said"), [
    (lambda pair: [], "no completions were kept"),
    (lambda pair: [line(pair, 0, "a"), line(pair, 0, "b")], "two lines have one step"),
    (lambda pair: [line({"pair_id": "other"}, 0, "a")], "no pair 'other'"),
])
def test_lines_that_cannot_be_shown_are_refused(one_pair, lines, said):
    rows, pair = one_pair
    with pytest.raises(ValueError, match=said):
        steps.steps_html({"grpo": lines(pair)}, rows)


@given(st.lists(st.integers(0, 900), unique=True, min_size=1, max_size=60).map(sorted), st.integers(2, 9))
def test_few_steps_are_kept_evenly_with_both_ends(all_steps, most):
    kept = steps.thinned(all_steps, most)
    assert kept == sorted(set(kept)) and set(kept) <= set(all_steps) and len(kept) == min(most, len(all_steps))
    assert kept[0] == all_steps[0] and kept[-1] == all_steps[-1]


def test_the_readers_own_samples_come_first_and_otherwise_the_recorded_ones(tmp_path, one_pair):
    pair = one_pair[1]
    [name] = steps.kept(tmp_path, "grpo")
    assert name == "GRPO (recorded)"
    (tmp_path / "grpo").mkdir()
    (tmp_path / "grpo" / "samples.jsonl").write_text(json.dumps(line(pair, 3, "a")) + "\n")
    assert steps.kept(tmp_path, "grpo") == {"grpo": [line(pair, 3, "a")]}
