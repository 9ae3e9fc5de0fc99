"""What the study's visitors are told: from logs of runs that never were, and what the README holds against them."""

from pathlib import Path

import pytest
from PIL import Image
from study_logs import cell, like_content, like_tint, written
from test_page import a_run

from lrt.course import page
from lrt.study import page as study_page
from lrt.study.claims import read_claims
from lrt.study.grid import read_grid
from lrt.study.logs import read_runs

ROOT = Path(__file__).resolve().parents[1]


def looking(step, n):
    return like_content(n)


def tinted(step, n):
    return like_tint(n)


@pytest.fixture
def runs(tmp_path):
    """Plain GRPO ends at the tint, the reader's run at the content, in each of five seeds."""
    for seed in range(5):
        written(tmp_path, cell("grpo", seed), tinted)
        written(tmp_path, cell("listener_reader", seed), looking)
    return read_runs(tmp_path)


def test_it_says_how_much_is_there_and_what_it_means(runs):
    told = study_page.paragraphs(runs, read_grid(), read_claims())
    assert told[0].startswith("**Does a listener's reward help?**") and "10 of 50 of tier 1" in told[-1]
    assert any("**Not run** yet" in text for text in told)
    reader = next(text for text in told if text.startswith("reader as listener"))
    assert "flip less often (-100" in reader
    assert any(text.startswith("base as listener: too few seeds") for text in told)


def test_a_later_tier_stands_below_the_first_and_tells_its_own_effects(tmp_path):
    for seed in range(3):
        for method in ("grpo", "rule", "truth"):
            written(tmp_path, cell(method, seed), tinted if method == "grpo" else looking)
    runs, plan = read_runs(tmp_path), read_grid()
    shown = study_page.later_tier(runs, plan, "2")
    rows = [label.get_text() for label in shown.fig.axes[0].get_yticklabels()]
    assert rows == ["The first tier, same seeds", "rule", "And without a listener?", plan.labels["truth"]]
    assert "*" not in shown.fig.get_suptitle() and {e.method for e in shown.effects} == {"truth"}
    assert any(text.startswith("Answers that flip: means ") for text in shown.told)
    assert study_page.later_tier(runs, plan, "3") is None
    alone = study_page.later_tier([run for run in runs if run.cell.method == "truth"], plan, "2")
    assert alone.fig is None and not alone.effects and not alone.told


def test_the_reason_is_told_against_plain_grpo_and_the_same_noise(tmp_path):
    for seed in range(5):
        written(tmp_path, cell("grpo", seed), looking)
        written(tmp_path, cell("no_verdict", seed), tinted)
    told = study_page.heard_guess(read_runs(tmp_path))
    assert len(told) == 2 and "Not all of it" in told[1]
    assert told[0].startswith("Without seeds 0 and 1, which suggested it: reader, verdict removed")
    assert "answers that flip: +100.0" in told[0] and "(3 seeds)" in told[0]
    for seed in range(7):
        for method, judged in (("grpo", looking), ("no_verdict", tinted), ("permuted_no_verdict", looking)):
            written(tmp_path, cell(method, seed), judged)
    runs = read_runs(tmp_path)
    told = study_page.heard_guess(runs)
    assert "against reader, verdict removed, permuted (5 seeds): higher, which is worse" in told[1]
    assert "it is so (5 seeds)" in told[2]
    beside = study_page.heard_beside(runs)
    assert any("against GRPO (7 seeds)" in text for text in beside)
    block = study_page.readme_block(runs, read_grid(), read_claims())
    assert "**Is it the listening that does it?**" in block and all(text in block for text in told)
    plain = [run for run in runs if run.cell.method == "grpo"]
    assert study_page.heard_guess(plain) == study_page.heard_beside(plain) == []


def test_long_runs_are_shown_over_training_and_held_against_plain_grpo(tmp_path):
    for seed in range(5):
        written(tmp_path, cell("grpo_long", seed), looking)
        written(tmp_path, cell("reader_long", seed), tinted)
    runs = read_runs(tmp_path)
    shown = study_page.long_runs(runs)
    assert [ax.get_title() for ax in shown.fig.axes[:2]] == ["plain GRPO, 900 steps", "reader, 900 steps"]
    told = study_page.long_sentences(runs, shown)
    assert any("answers that flip: +100.0 points" in text and "higher, which is worse" in text for text in told)
    block = study_page.readme_block(runs, read_grid(), read_claims())
    assert "study_long.png" in block and "no control was run" in block and told[0] in block
    assert study_page.long_runs([]) is None
    assert not study_page.long_runs([run for run in runs if run.cell.method == "grpo_long"]).effects


def test_the_short_form_leaves_out_what_each_claim_leaves_open(tmp_path):
    for seed in range(5):
        for method in ("grpo", "listener_reader", "rule", "permuted"):
            written(tmp_path, cell(method, seed), looking)
    long, short = (study_page.paragraphs(read_runs(tmp_path), read_grid(), read_claims(), details=d)
                   for d in (True, False))
    left = [text for text in long if text not in short]
    assert left and all("no comparison is clear" in text for text in left) and set(short) < set(long)


def test_without_runs_it_says_so_and_draws_nothing(tmp_path):
    assert len(study_page.paragraphs([], read_grid(), read_claims())) == 1
    assert study_page.draw([], read_grid(), tmp_path) is None and not list(tmp_path.iterdir())


def test_the_picture_says_in_words_what_it_shows(runs, tmp_path):
    path = study_page.draw(runs, read_grid(), tmp_path / "figures")
    with Image.open(path) as image:
        assert "clearly lower: reader as listener" in image.info["Description"]


def test_the_page_of_a_run_shows_picture_and_words(runs, tmp_path):
    study_page.draw(runs, read_grid(), tmp_path / "figures")
    out = page.write_page(a_run(), tmp_path / "figures", tmp_path / "index.html", study=["6 <of> 50 runs"])
    html = out.read_text()
    assert "What many seeds say" in html and "6 &lt;of&gt; 50 runs" in html
    assert "clearly lower: reader as listener" in html and "What many seeds say" not in page_without(tmp_path)


def page_without(tmp_path):
    return page.write_page(a_run(), tmp_path / "nothing", tmp_path / "other.html").read_text()


def test_the_readme_says_what_the_logs_say():
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    assert study_page.in_readme(text, study_page.readme_block(*study_page.whole())) == text, "run: make picture"


def test_a_readme_without_marks_is_refused():
    with pytest.raises(ValueError, match="once"):
        study_page.in_readme("no marks", "block")
