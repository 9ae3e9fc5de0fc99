"""Figures: the artists that the numbers call for are there, no text lies on another, alternative text is kept."""

import base64
import html
import io
import re
import subprocess
import sys
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.colors import to_hex
from matplotlib.container import BarContainer, ErrorbarContainer
from PIL import Image

from lrt import plots, stats, style
from lrt.stats import Record

NAN = float("nan")
TRAINED = ("sft", "grpo", "grpo_listener")
ALL = ("base", *TRAINED)
SPLITS = ("in_distribution", "tint_uninformative", "tint_reversed", "no_tint", "unseen_combinations",
          "unseen_flaws")


def records(metric, splits=("tint_uninformative",), methods=ALL, seeds=(0,), value=0.6):
    values = {m: value + 0.05 * i for i, m in enumerate(methods)}
    return [Record(m, split, metric, v, v - 0.04, v + 0.03, 400, seed)
            for m, v in values.items() for split in splits for seed in seeds]


def log(n=30, **keys):
    return [{"step": 2 * i, **{key: base + 0.01 * i for key, base in keys.items()}} for i in range(n)]


def pair(prompt="red circle top-left and blue square bottom-right", vote=1):
    images = [Image.new("RGB", size, colour) for size, colour in (((56, 56), "red"), ((40, 56), "blue"))]
    return {"prompt": prompt, "images": images, "vote": vote, "votes_1": 3, "votes_2": 1}


def bins(shift=0.0):
    rows = []
    for low, n in zip((0, 0.2, 0.4, 0.6, 0.8), (90, 40, 0, 30, 50), strict=True):
        value = 0.9 - low / 2 + shift if n else NAN
        rows.append({"low": low, "high": low + 0.2, "n": n,
                     "accuracy": value, "lo": value - 0.1, "hi": value + 0.05})
    return rows


def completion(format=1.0, accuracy=1.0, listener=0.8, advantage=0.5):
    return {"format": format, "accuracy": accuracy, "listener": listener, "advantage": advantage}


REFERENCES = {"majority of 8": 0.57, "rule on the base's statements": 0.74, "content only": 0.8,
              "tint only": 0.9, "HPSv2": 0.657, "HPSv3": 0.668, "MPS": 0.675}
CONTRADICTIONS = [r for name in ("reader", "llava", "weak", "blind", "shortcut", "base")
                  for r in records(f"contradiction/{name}", value=0.1)]
FIGURES = {
    "pairs_grid": lambda: plots.pairs_grid([pair(), pair(vote=2), pair()], titles=["a", "b", "c"]),
    "learning_curves": lambda: plots.learning_curves(
        {"grpo": log(reward=1, entropy=0.5), "grpo_listener": log(reward=1.1, entropy=0.4)}),
    "accuracy_by_split": lambda: plots.accuracy_by_split(records("accuracy", SPLITS)),
    "several seeds": lambda: plots.accuracy_by_split(records("accuracy", SPLITS, seeds=(0, 1, 2))),
    "agree_conflict": lambda: plots.agree_conflict(
        records("accuracy_agree", value=0.7) + records("accuracy_conflict", value=0.3)),
    "flip_rates": lambda: plots.flip_rates(records("flip_rate", value=0.2)),
    "contradiction_bars": lambda: plots.contradiction_bars(CONTRADICTIONS),
    "accuracy_reference": lambda: plots.accuracy_reference(records("accuracy", SPLITS), REFERENCES),
    "accuracy_by_disagreement": lambda: plots.accuracy_by_disagreement(
        {"grpo": bins(), "grpo_listener": bins(0.03)}),
    "two columns": lambda: plots.accuracy_by_disagreement({"grpo": bins()}, confidence={"grpo": bins()}),
    "reliability_diagram": lambda: plots.reliability_diagram(
        stats.reliability([0.1, 0.4, 0.8, 0.9], [0, 0, 1, 1], 5), 0.123, "reader"),
    "two_logits": lambda: plots.two_logits(
        (3, -2), {"verdict flipped": (1, -1), "descriptions swapped": (-2, 3)}),
    "reward_parts": lambda: plots.reward_parts([completion(), completion(0, 0, None, -1.5)] * 4),
    "clip_objective": plots.clip_objective,
}


def texts(fig):
    """All text that is drawn; ticks outside an axis' limits and those of hidden axes are not."""
    found = [t for part in (fig, *fig.subfigs) for t in part.texts] + [
        t for box in fig.legends for t in box.get_texts()]
    for ax in fig.axes:
        found += ax.texts
        if ax.axison:
            found += [ax.title, ax.xaxis.label, ax.yaxis.label]
            for axis, i in ((ax.xaxis, 0), (ax.yaxis, 1)):
                low, high = sorted(axis.get_view_interval())
                found += [t for t in axis.get_ticklabels() if low <= t.get_position()[i] <= high]
    return [t for t in found if t.get_visible() and t.get_text().strip()]


def title(fig):
    return fig.get_suptitle().replace("\n", " ")


def legend(fig):
    return [t.get_text() for t in fig.legends[0].get_texts()]


def series(ax, method):
    """(x, y) of the points drawn for a method, in all its containers on one axes."""
    colour = plots.METHODS[method][1]
    lines = [c.lines[0] for c in ax.containers if isinstance(c, ErrorbarContainer)]
    xy = [np.transpose(line.get_data()) for line in lines if to_hex(line.get_color()) == colour.lower()]
    return np.concatenate(xy).astype(float) if xy else np.empty((0, 2))


# --- every figure -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FIGURES)
def test_titled_labelled_within_the_page_and_without_overlap(name):
    fig = FIGURES[name]()
    assert title(fig)
    for ax in fig.axes:
        if ax.axison and not ax.images:
            assert any(other.get_xlabel() for other in ax.get_shared_x_axes().get_siblings(ax))
            assert ax.get_title() or any(o.get_ylabel() for o in ax.get_shared_y_axes().get_siblings(ax))
    FigureCanvasAgg(fig).draw()
    page, boxes = fig.bbox, {t: t.get_window_extent() for t in texts(fig)}
    for text, box in boxes.items():
        assert page.x0 - 1 <= box.x0 and box.x1 <= page.x1 + 1, text
        assert page.y0 - 1 <= box.y0 and box.y1 <= page.y1 + 1, text
    overlaps = [(a.get_text(), b.get_text()) for (a, p), (b, q) in combinations(boxes.items(), 2)
                if p.x0 < q.x1 - 1 and q.x0 < p.x1 - 1 and p.y0 < q.y1 - 1 and q.y0 < p.y1 - 1]
    assert overlaps == []


def test_no_two_methods_look_alike():
    looks = list(plots.METHODS.values())
    assert {len({look[i] for look in looks}) for i in range(3)} == {len(looks)}
    assert set(ALL) <= set(plots.METHODS)
    assert style.look("random_listener")[0] == "random listener"


def test_drawing_neither_loads_pyplot_nor_needs_it(tmp_path):
    code = ("import sys; from lrt import plots; plots.save(plots.clip_objective(), sys.argv[1], 'clip'); "
            "assert 'matplotlib.pyplot' not in sys.modules")
    result = subprocess.run([sys.executable, "-c", code, tmp_path / "clip.png"], capture_output=True, text=True)
    assert result.returncode == 0, result.stderr


# --- show and save ------------------------------------------------------------------------------------------


def test_show_escapes_the_alternative_text_and_closes(monkeypatch):
    from matplotlib import pyplot

    shown = []
    monkeypatch.setattr("IPython.display.display", shown.append)
    fig = pyplot.figure()
    alt = 'accuracy of "grpo" < base & <script>alert(1)</script>'
    plots.show(fig, alt)
    assert fig.number not in pyplot.get_fignums() and fig.alt == alt
    (page,) = shown
    assert "<script" not in page.data and page.data.count("<") == 1
    assert html.unescape(re.search(r'alt="([^"]*)"', page.data)[1]) == alt
    data = re.search(r'src="data:image/png;base64,([^"]+)"', page.data)[1]
    assert Image.open(io.BytesIO(base64.b64decode(data))).format == "PNG"


@pytest.mark.parametrize("alt", ["plain words", "ε and “quotes” <&>"])
def test_save_keeps_the_alternative_text(tmp_path, alt):
    fig = plots.clip_objective()
    plots.save(fig, tmp_path / "a.png", alt)
    plots.save(fig, tmp_path / "b.png")     # remembered
    for name in ("a.png", "b.png"):
        assert Image.open(tmp_path / name).text["Description"] == alt


@pytest.mark.parametrize("alt", [None, "", "  "])
def test_a_figure_without_alternative_text_is_refused(tmp_path, alt):
    with pytest.raises(ValueError, match="alternative text"):
        plots.save(plots.clip_objective(), tmp_path / "a.png", alt)
    assert not (tmp_path / "a.png").exists()


# --- results ------------------------------------------------------------------------------------------------


def test_accuracy_by_split_draws_every_record_in_its_place():
    fig = plots.accuracy_by_split(records("accuracy", SPLITS, seeds=(0, 1)) + records("ece"))
    (ax,) = fig.axes
    assert [t.get_text().replace("\n", "_").replace(" ", "_") for t in ax.get_xticklabels()] == list(SPLITS)
    for i, method in enumerate(ALL):
        xy = series(ax, method)
        assert len(xy) == 12 and set(np.round(xy[:, 0])) == set(range(6))
        assert xy[:, 1] == pytest.approx(0.6 + 0.05 * i)
    everyone = np.concatenate([series(ax, m)[:, 0] for m in ALL])
    assert len(set(np.round(everyone, 6))) == len(everyone)     # nothing hides another
    assert "chance" in legend(fig) and "GRPO + listener" in legend(fig) and "2 seeds" in title(fig)


def test_intervals_are_drawn_where_they_are_known():
    known = records("accuracy", methods=["base"])[0]
    unknown = Record("sft", "tint_uninformative", "accuracy", 0.7, NAN, NAN, 1, 0)
    nothing = Record("grpo", "tint_uninformative", "accuracy", NAN, NAN, NAN, 0, 0)
    (ax,) = plots.accuracy_by_split([known, unknown, nothing]).axes
    spans = {c.get_label(): c.lines[2][0].get_segments() for c in ax.containers}
    assert set(spans) == {"base", "SFT"}
    assert list(spans["base"][0][:, 1]) == pytest.approx([known.low, known.high])
    assert len(series(ax, "sft")) == 1 and spans["SFT"][0].size == 0


@pytest.mark.parametrize("seeds, said", [
    ((0,), "one seed"), ((0, 1, 2), "3 seeds"), ((None,), "several seeds")])
def test_titles_say_how_many_runs(seeds, said):
    wanted = records("accuracy", methods=TRAINED, seeds=seeds) + records("accuracy", methods=["base"])
    assert said in title(plots.accuracy_by_split(wanted))


def test_agree_conflict_joins_the_two_accuracies_of_each_method():
    fig = FIGURES["agree_conflict"]()
    (ax,) = fig.axes
    arrows = [a for a in ax.texts if a.arrow_patch]
    assert [(round(a.xyann[0], 2), round(a.xy[0], 2)) for a in arrows] == [
        (0.7, 0.3), (0.75, 0.35), (0.8, 0.4), (0.85, 0.45)]
    assert [t.get_text() for t in ax.get_yticklabels()] == ["base", "SFT", "GRPO", "GRPO + listener"]
    assert len(series(ax, "grpo")) == 2


def test_flip_rates_stand_above_their_method():
    (ax,) = plots.flip_rates(records("flip_rate", seeds=(0, 1))).axes
    names = [t.get_text() for t in ax.get_xticklabels()]
    for method in ALL:
        assert set(np.round(series(ax, method)[:, 0])) == {names.index(plots.METHODS[method][0])}
    assert ax.get_ylim()[0] == 0


def test_contradiction_bars_are_the_records_by_method_and_listener():
    fig = plots.contradiction_bars(CONTRADICTIONS + records("contradiction_no_verdict/reader"))
    (ax,) = fig.axes
    bars = [b for c in ax.containers if isinstance(c, BarContainer) for b in c]
    assert sorted(b.get_height() for b in bars) == pytest.approx(sorted(r.value for r in CONTRADICTIONS))
    spans = sorted((b.get_x(), b.get_x() + b.get_width()) for b in bars)
    assert all(left[1] <= right[0] for left, right in zip(spans, spans[1:], strict=False))
    names = [t.get_text() for t in ax.get_xticklabels()]
    assert names == ["reader", "llava", "weak", "blind", "shortcut", "base"]


def test_references_are_lines_with_their_names_and_values():
    fig = plots.accuracy_reference(records("accuracy", SPLITS), REFERENCES)
    (ax,) = fig.axes
    lines = [line.get_ydata()[0] for line in ax.lines if line.get_linestyle() == ":"]
    assert sorted(lines) == sorted(REFERENCES.values())
    assert {"majority of 8 57", "MPS 68"} <= {t.get_text() for t in ax.texts}


def test_rules_among_the_records_are_lines_and_not_methods():
    rules = {"content_only": 0.82, "tint_only": 0.9, "stated_rule": NAN, "majority_of_8": 0.56}
    found = records("accuracy", SPLITS)
    found += [Record(name, SPLITS[0], "accuracy", v, v, v, 400, None) for name, v in rules.items()]
    (ax,) = plots.accuracy_reference(found).axes
    assert {t.get_text() for t in ax.texts} == {"content only 82", "tint only 90", "majority of 8 56"}
    assert [t.get_text() for t in ax.get_xticklabels()] == ["base", "SFT", "GRPO", "GRPO +\nlistener"]
    fig = plots.accuracy_by_split(found)
    assert set(legend(fig)) == {"base", "SFT", "GRPO", "GRPO + listener", "chance"} and "one seed" in title(fig)


def test_disagreement_bins_skip_the_empty_one_and_count_the_rest():
    top, bottom = FIGURES["accuracy_by_disagreement"]().axes
    for method, shift in (("grpo", 0), ("grpo_listener", 0.03)):
        assert series(top, method)[:, 1] == pytest.approx([b["accuracy"] for b in bins(shift) if b["n"]])
    counts = [[b.get_height() for b in c] for c in bottom.containers]
    assert counts == [[90, 40, 30, 50]] * 2


def test_reliability_diagram():
    fig = FIGURES["reliability_diagram"]()
    top, bottom = fig.axes
    assert "12.3 points" in title(fig) and "reader" in title(fig)
    many, few = (np.transpose(line.get_data()) for line in top.lines[1:3])
    assert not len(many) and few == pytest.approx(np.array([[0.1, 0], [0.4, 0], [0.85, 1]])), "no line through so few"
    full = plots.reliability_diagram(stats.reliability([0.1] * 10 + [0.9], [0] * 9 + [1] * 2, 5), 0.1, "reader").axes[0]
    assert [list(map(len, line.get_data())) for line in full.lines[1:3]] == [[1, 1], [1, 1]]
    assert [b.get_height() for b in bottom.patches] == [1, 0, 1, 0, 2]


@pytest.mark.parametrize("draw, message", [
    (lambda: plots.accuracy_by_split([]), "no record of metric 'accuracy'"),
    (lambda: plots.agree_conflict(records("accuracy_agree")), "no record of metric 'accuracy_conflict'"),
    (lambda: plots.accuracy_reference(records("accuracy"), {}, split="no_tint"), "on split 'no_tint'"),
    (lambda: plots.contradiction_bars(records("contradiction/reader", SPLITS)), "several splits"),
    (lambda: plots.pairs_grid([]), "no pairs"),
])
def test_nothing_to_draw_is_an_error_not_an_empty_picture(draw, message):
    with pytest.raises(ValueError, match=message):
        draw()


# --- inside a run -------------------------------------------------------------------------------------------


def test_pairs_grid_shows_pixels_prompt_and_votes():
    fig = plots.pairs_grid([pair("a prompt with $ and <b> " * 20), pair(vote=2), pair()], n=2)
    assert len(fig.axes) == 4 and len(fig.subfigs) == 2
    assert all(ax.images[0].get_interpolation() == "nearest" for ax in fig.axes)
    assert fig.axes[0].images[0].get_array().shape == (56, 56, 3)
    assert [ax.get_xlabel() for ax in fig.axes] == [
        "image 1: 3 votes *", "image 2: 1 vote", "image 1: 3 votes", "image 2: 1 vote *"]
    head = fig.subfigs[0].get_suptitle()
    assert head.startswith("a prompt with $ and <b>") and head.count("\n") == 2
    FigureCanvasAgg(fig).draw()


def test_learning_curves_panels_runs_and_seeds():
    one = plots.learning_curves({"grpo": log(reward=1, extra=2)}, keys=["reward", "missing"])
    assert "one seed" in title(one) and [ax.get_title() for ax in one.axes] == ["total reward", "missing"]
    assert [t.get_text() for t in one.axes[1].texts] == ["not logged"]
    raw, mean = one.axes[0].lines
    assert raw.get_ydata() == pytest.approx(1 + 0.01 * np.arange(30)) and mean.get_label() == "GRPO"
    assert mean.get_ydata()[4:-4] == pytest.approx(raw.get_ydata()[4:-4])   # the mean of a line is the line
    several = plots.learning_curves({"grpo": [log(reward=1)] * 3, "sft": [log(reward=2)] * 3}, {"reward": "r"})
    assert "3 seeds" in title(several) and len(several.axes[0].lines) == 12 and legend(several) == ["SFT", "GRPO"]


def test_a_share_is_seen_from_0_to_1_and_what_hardly_moves_looks_so():
    keys = ["frac_reward_zero_std", "completions/mean_length"]
    entries = [{"step": n, keys[0]: 0.01 * n, keys[1]: 38 + 0.01 * n} for n in range(5)]
    share, length = plots.learning_curves({"grpo": entries}, keys).axes[:2]
    assert share.get_ylim() == pytest.approx((-0.03, 1.03))
    low, high = length.get_ylim()
    assert low < 36 and high > 40


def test_learning_curves_leave_out_steps_that_did_not_log_a_key():
    entries = [{"step": 1, "reward": 1.0}, {"step": 2}, {"step": 3, "reward": None}, {"step": 4, "reward": 2.0}]
    fig = plots.learning_curves({"grpo": entries}, ["reward"])
    assert fig.axes[0].lines[0].get_xdata().tolist() == [1, 4]


def test_two_logits_become_p():
    left, right = plots.two_logits((2.0, 2.0), {"swapped": (0.0, np.log(3))}).axes
    assert [b.get_width() for b in left.patches] == pytest.approx([2, 0, 2, np.log(3)])
    assert [b.get_width() for b in right.patches] == pytest.approx([0.5, 0.25])
    assert [t.get_text() for t in right.texts] == ["0.50", "0.25"]
    assert [t.get_text() for t in left.get_yticklabels()] == ["as written", "swapped"]


def test_reward_parts_stack_to_the_reward_and_mark_what_was_not_scored():
    rows = [completion(1, 1, 0.8, 1.2), completion(1, 0, None, -0.4), completion(0, 0, 0.0, 0.0)]
    top, bottom = plots.reward_parts(rows).axes
    heights = np.array([[b.get_height() for b in c] for c in top.containers])
    assert heights.sum(axis=0) == pytest.approx([1 + 0.5 + 0.4, 1, 0])
    assert [t.get_text() for t in top.texts] == ["no listener"]
    drawn = {line.get_marker(): line.get_data() for line in bottom.lines if line.get_marker() in "^vo"}
    assert [(list(x), list(y)) for x, y in (drawn["^"], drawn["v"], drawn["o"])] == [
        ([1], [1.2]), ([2], [-0.4]), ([3], [0.0])]


def test_clip_objective_is_flat_exactly_where_it_is_shaded():
    for ax, sign in zip(plots.clip_objective(0.3).axes, (1, -1), strict=True):
        clipped = next(line for line in ax.lines if line.get_label() == "clipped")
        r, y = clipped.get_data()
        shade = ax.patches[0].get_window_extent().transformed(ax.transData.inverted())
        inside = (r > shade.x0 + 0.01) & (r < shade.x1 - 0.01)
        assert inside.any() and np.ptp(y[inside]) == pytest.approx(0)
        assert np.diff(y[~inside])[2:-2] == pytest.approx(sign * np.diff(r)[0], abs=0.05)
        assert abs(np.interp(1.0, r, y) - sign) < 1e-9
