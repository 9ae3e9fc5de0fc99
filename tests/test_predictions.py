"""Files of predictions: what is read, what is refused with file, line and column, and what the template asks for."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lrt import evaluate, pairs
from lrt.real import benchmarks, imagereward, predictions
from lrt.real.predictions import Predictions, from_judgements, names_of, read, template, write
from lrt.real.ranked import Ranked
from lrt.real.scores import orders, ranked_of, scores_of

CATS = Ranked("cats", "two cats", ("a.png", "b.png", "c.png"), (1.0, 2.0, 2.0))
DOGS = Ranked("dogs", "a dog", ("a.png", "d.png"), (2.0, 1.0))
LABELS = [CATS, DOGS]
SCORE = {"prompt_id": "cats", "image": "b.png", "score": 0.5}
CHOICE = {"prompt_id": "cats", "image_1": "b.png", "image_2": "a.png", "choice": 2}


def write_lines(path, *lines):
    path.write_text("".join((line if isinstance(line, str) else json.dumps(line)) + "\n" for line in lines))
    return path


def refusal(tmp_path, *lines):
    with pytest.raises(ValueError) as caught:
        read(write_lines(tmp_path / "preds.jsonl", *lines), LABELS)
    return str(caught.value)


# ---- what is read ----


def test_scores_of_images_and_choices_of_pairs(tmp_path):
    made = read(write_lines(tmp_path / "a.jsonl", SCORE, "", {**SCORE, "image": "c.png", "score": -3, "x": 1}), LABELS)
    assert made == Predictions("image", {("cats", "b.png"): 0.5, ("cats", "c.png"): -3.0})
    made = read(write_lines(tmp_path / "b.jsonl", CHOICE, {**CHOICE, "image_2": "c.png", "choice": 0}), LABELS)
    assert made == Predictions("pair", {("cats", "b.png", "a.png"): 2, ("cats", "b.png", "c.png"): 0})


def test_null_is_no_prediction(tmp_path):
    made = read(write_lines(tmp_path / "a.jsonl", {**SCORE, "score": None}), LABELS)
    assert made == Predictions("image", {})


def test_null_counts_as_asked_so_half_an_answered_file_is_in_both_orders_and_incomplete(tmp_path):
    turned = {**CHOICE, "image_1": "a.png", "image_2": "b.png", "choice": None}
    made = read(write_lines(tmp_path / "a.jsonl", CHOICE, turned), LABELS)
    assert orders(made) == ("forward", "reverse") and made.unanswered == (("cats", "a.png", "b.png"),)
    with pytest.raises(ValueError, match="missing"):
        benchmarks.score("imagereward", made, LABELS)
    scored = benchmarks.score("imagereward", made, LABELS, allow_missing=True)
    own = {line.order: line.interval.value for line in scored if "own" in line.rule}
    assert own == {"forward": 0, "reverse": 1 / 3, "both": 1 / 6, "consistent": 0}  # one of three untied pairs, once
    write(made, tmp_path / "again.jsonl")
    again = read(tmp_path / "again.jsonl", LABELS)
    assert (again, orders(again)) == (made, orders(made))


def test_spaces_at_the_ends_of_an_id_are_no_part_of_it(tmp_path):
    made = read(write_lines(tmp_path / "a.jsonl", {**SCORE, "prompt_id": " cats "}), LABELS)
    assert made.values == {("cats", "b.png"): 0.5}


def test_a_key_that_stands_twice_is_no_prediction(tmp_path):
    line = json.dumps(SCORE)[:-1] + ', "score": 3}'
    assert "the key 'score' twice in one object" in refusal(tmp_path, line)


def test_one_name_may_stand_for_images_of_two_prompts(tmp_path):
    lines = [{"prompt_id": prompt, "image": "a.png", "score": s} for prompt, s in (("cats", 1.0), ("dogs", 2.0))]
    made = read(write_lines(tmp_path / "a.jsonl", *lines), LABELS)
    assert made.values == {("cats", "a.png"): 1.0, ("dogs", "a.png"): 2.0}


# ---- what is refused ----


@pytest.mark.parametrize(
    ("change", "column", "says"),
    [
        ({"score": math.nan}, "score", "nan is not a finite number"),
        ({"score": -math.inf}, "score", "-inf is not a finite number"),
        ({"score": 10**400}, "score", "not a finite number"),
        ({"score": True}, "score", "True is not"),
        ({"score": "0.5"}, "score", "'0.5' is not"),
        ({"score": [1]}, "score", "[1] is not"),
        ({"prompt_id": "birds"}, "prompt_id", "'birds' is not in the labels"),
        ({"prompt_id": 7}, "prompt_id", "expected text, found 7"),
        ({"prompt_id": None}, "prompt_id", "expected text"),
        ({"image": "d.png"}, "image", "'d.png' is no image of prompt 'cats'"),
        ({"image": {}}, "image", "expected text"),
    ],
)
def test_a_bad_score_is_named_by_line_and_column(tmp_path, change, column, says):
    message = refusal(tmp_path, {**SCORE, "image": "a.png"}, "", SCORE | change)
    assert message.startswith(f"preds.jsonl, line 3, column {column}: ") and says in message


@pytest.mark.parametrize(
    ("change", "column", "says"),
    [
        ({"choice": 3}, "choice", "3 is not 1, 2 or 0"),
        ({"choice": math.nan}, "choice", "nan is not"),
        ({"choice": 1.0}, "choice", "1.0 is not"),
        ({"choice": True}, "choice", "True is not"),
        ({"choice": "1"}, "choice", "'1' is not"),
        ({"image_2": "b.png"}, "image_2", "the same image as image_1"),
        ({"image_2": "d.png"}, "image_2", "no image of prompt"),
        ({"prompt_id": "x"}, "prompt_id", "not in the labels"),
    ],
)
def test_a_bad_choice_is_named_by_line_and_column(tmp_path, change, column, says):
    message = refusal(tmp_path, CHOICE | change)
    assert message.startswith(f"preds.jsonl, line 1, column {column}: ") and says in message


@pytest.mark.parametrize(
    ("lines", "says"),
    [
        (["{"], "line 1: not JSON"),
        (["[" * 100_000], "line 1: not JSON"),
        (["[1]"], "line 1: expected an object"),
        ([SCORE, json.dumps([SCORE, SCORE])], "line 2: expected an object"),
        (["x" * (1 << 20)], "line 1: too long"),
        ([{"prompt_id": "cats"}], "line 1: expected the keys prompt_id, image, score or prompt_id, image_1, image_2"),
        ([{**SCORE, **CHOICE}], "line 1: expected the keys"),
        ([SCORE, CHOICE], "line 2: a prediction by pair, those before it are by image"),
        ([SCORE, {**SCORE, "score": 1}], "line 2: 'cats' with 'b.png' is already on line 1"),
        ([{**SCORE, "score": None}, SCORE], "line 2: 'cats' with 'b.png' is already on line 1"),
        ([CHOICE, CHOICE], "line 2: 'cats' with 'b.png', 'a.png' is already on line 1"),
        ([], "no predictions in it"),
    ],
)
def test_a_file_that_is_none_gets_a_sentence(tmp_path, lines, says):
    message = refusal(tmp_path, *lines)
    assert "preds.jsonl" in message and says in message


def test_other_bytes_and_no_file_get_a_sentence(tmp_path):
    (tmp_path / "preds.jsonl").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ValueError, match="preds.jsonl: not text in UTF-8"):
        read(tmp_path / "preds.jsonl", LABELS)
    with pytest.raises(FileNotFoundError, match="no file"):
        read(tmp_path / "none.jsonl", LABELS)


def test_labels_with_one_name_for_two_images_are_refused(tmp_path):
    path = write_lines(tmp_path / "preds.jsonl", SCORE)
    with pytest.raises(ValueError, match="prompt 'cats': 'b.png' is the name of two"):
        read(path, [Ranked("cats", "", ("b.png", "b.png"), (1.0, 2.0))])


def test_images_that_no_label_compares_are_refused(tmp_path):
    rows = [Ranked("p", "", ("a", "b"), (1.0, 2.0)), Ranked("p", "", ("b", "c"), (1.0, 2.0))]
    line = {"prompt_id": "p", "image_1": "a", "image_2": "b", "choice": 1}
    made = read(write_lines(tmp_path / "ok.jsonl", line, {**line, "image_1": "b", "image_2": "c"}), rows)
    assert scores_of(made, rows)["answer"].tolist() == [1, 1]
    with pytest.raises(ValueError, match="line 1, column image_2: the labels do not compare 'c' with 'a'"):
        read(write_lines(tmp_path / "bad.jsonl", {**line, "image_2": "c"}), rows)


# ---- writing ----


def test_a_template_asks_for_everything_and_tells_nothing(tmp_path):
    assert template(LABELS, tmp_path / "new" / "image.jsonl", "image") == 5
    lines = [json.loads(line) for line in (tmp_path / "new/image.jsonl").read_text().splitlines()]
    assert lines[0] == {"prompt_id": "cats", "image": "a.png", "score": None}
    assert template(LABELS, tmp_path / "pair.jsonl", "pair") == 8  # tied pairs too, in both orders
    lines = [json.loads(line) for line in (tmp_path / "pair.jsonl").read_text().splitlines()]
    assert lines[1] == {"prompt_id": "cats", "image_1": "b.png", "image_2": "a.png", "choice": None}
    assert read(tmp_path / "pair.jsonl", LABELS) == Predictions("pair", {})


def test_a_template_never_replaces_a_file(tmp_path):
    path = write_lines(tmp_path / "filled.jsonl", SCORE)
    with pytest.raises(ValueError, match="already there"):
        template(LABELS, path, "image")
    assert json.loads(path.read_text()) == SCORE
    with pytest.raises(ValueError, match="image or pair, not by 'both'"):
        template(LABELS, tmp_path / "b.jsonl", "both")
    assert [p.name for p in tmp_path.iterdir()] == ["filled.jsonl"]


@given(st.dictionaries(st.sampled_from([("cats", c + ".png") for c in "abc"]), st.floats(-1e9, 1e9), min_size=1))
def test_what_is_written_is_read_again(tmp_path_factory, values):
    path = tmp_path_factory.mktemp("out") / "p.jsonl"
    write(Predictions("image", values), path)
    assert read(path, LABELS) == Predictions("image", values)


# ---- beside labels ----


def test_scores_decide_pairs_and_a_missing_one_is_no_answer():
    frame = scores_of(Predictions("image", {("cats", "a.png"): 1.0, ("cats", "b.png"): 1.0, ("dogs", "d.png"): 2.0}),
                      LABELS)
    assert frame[["image_1", "image_2"]].values.tolist() == [
        ["a.png", "b.png"], ["a.png", "c.png"], ["b.png", "c.png"], ["a.png", "d.png"]]
    assert frame["vote"].tolist() == [1, 1, 0, 2] and frame["row"].tolist() == [0, 0, 0, 1]
    assert frame["answer"].fillna(-1).tolist() == [0, -1, -1, -1]
    assert frame["margin"].fillna(-9).tolist() == [0, -9, -9, -9]


def test_the_margin_is_the_difference_of_two_softmax_probabilities():
    frame = scores_of(Predictions("image", {("dogs", "a.png"): 0.3, ("dogs", "d.png"): 1.7}), [DOGS])
    p = [math.exp(s) / (math.exp(0.3) + math.exp(1.7)) for s in (0.3, 1.7)]
    assert frame["answer"].tolist() == [2] and frame["margin"][0] == pytest.approx(p[0] - p[1])
    frame = scores_of(Predictions("image", {("dogs", "a.png"): -1.7e308, ("dogs", "d.png"): 1.7e308}), [DOGS])
    assert frame["margin"].tolist() == [-1.0]


def test_a_choice_counts_in_the_labels_numbering_whatever_the_order_shown():
    forward, reverse = ("dogs", "a.png", "d.png"), ("dogs", "d.png", "a.png")
    one = Predictions("pair", {reverse: 1})
    assert orders(one) == ("given",)
    assert scores_of(one, [DOGS])[["answer", "first"]].values.tolist() == [[2, 2]]
    both = Predictions("pair", {forward: 1, reverse: 1})
    assert orders(both) == ("forward", "reverse")
    assert scores_of(both, [DOGS], "forward")[["answer", "first"]].values.tolist() == [[1, 1]]
    assert scores_of(both, [DOGS], "reverse")[["answer", "first"]].values.tolist() == [[2, 2]]
    assert scores_of(Predictions("pair", {reverse: 0}), [DOGS])["answer"].tolist() == [0]


# ---- our own judgements ----


def test_judgement_tables_become_choices_of_ordered_pairs(tmp_path):
    rows = pairs.tiny_pairs("train", 4).remove_columns("images")
    say = "<think>x</think><answer>{}</answer>".format
    forward = evaluate.judgements(rows, [say(1), say(2), say(1), "?"])
    shown = evaluate.judgements(rows, [say(2), say(2), "?", say(1)])  # as the judge wrote, images exchanged
    reverse = shown.assign(answer=3 - shown["answer"], order="reverse")
    made, ids = from_judgements(forward, reverse), rows["pair_id"][:]
    labels = ranked_of(rows)
    assert [row.images for row in labels] == [(f"{i}/1", f"{i}/2") for i in ids]
    asked = [(row.prompt_id, *row.images) for row in labels]
    assert [made.values.get(key) for key in asked] == [1, 2, 1, None]
    assert [made.values.get((p, b, a)) for p, a, b in asked] == [2, 2, None, 1]
    write(made, tmp_path / "ours.jsonl")
    again = read(tmp_path / "ours.jsonl", labels)
    assert again == made
    for order, table in (("forward", forward), ("reverse", reverse)):
        assert scores_of(again, labels, order)["answer"].fillna(-1).tolist() == table["answer"].fillna(-1).tolist()


def test_the_readers_ids_lead_back_to_the_label_files_names(tmp_path):
    listed = [{"id": "7-1", "prompt": "a cat", "generations": ["x/a.webp", "x/b.webp", "x/c.webp"],
               "ranking": [2, 1, 2]}]
    (tmp_path / "test.json").write_text(json.dumps(listed))
    labels = imagereward.labels(tmp_path / "test.json")
    rows = list(imagereward.rows(tmp_path / "test.json", labels_only=True))
    names = names_of(labels, "imagereward")
    assert [names[row["pair_id"]] for row in rows] == [tuple(row["image_names"]) for row in rows]
    assert [row.images for row in ranked_of(rows)] == list(names.values())
    frame = pairs.tiny_pairs("train", 3).remove_columns("images").to_pandas()
    frame = frame.assign(pair_id=list(names), prompt_id="7-1", answer=[2, 1, 2])
    made = from_judgements(frame, names=names)
    assert scores_of(made, labels)["answer"].tolist() == [2, 1, 2]
    with pytest.raises(KeyError):
        from_judgements(frame, names={})


def test_labels_of_pairs_keep_vote_share_and_prompt():
    rows = [
        {"pair_id": "r/1", "prompt_id": "p", "prompt": "p", "vote": 2, "share": 0.25, "image_names": None},
        {"pair_id": "r/2", "prompt_id": "p", "prompt": "p", "vote": 0, "share": 0.75},
        {"pair_id": "r/3", "prompt_id": "q", "prompt": "q", "vote": 0, "share": None, "image_names": ["u", "v"]},
    ]
    labels = ranked_of(rows)
    frame = scores_of(Predictions("pair", {("q", "v", "u"): 1}), labels)
    assert frame["vote"].tolist() == [2, 1, 0] and frame["share"].tolist() == [0.25, 0.75, 0.5]
    assert frame["image_1"].tolist() == ["r/1/1", "r/2/1", "u"] and frame["answer"].fillna(-1).tolist() == [-1, -1, 2]


def test_forms_name_the_keys_of_the_documentation():
    for keys in predictions.FORMS.values():
        assert all(f'"{key}"' in predictions.__doc__ for key in keys)
