"""The answer slot under real tokenizers: byte-level BPE, trained here; "1" and "2" become what they become."""

from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image
from tokenizers import Regex, Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

from lrt import tiny
from lrt.answer_slot import answer_endings, answer_token_ids, shared_length, single_answer_ids
from lrt.listener import LocalListener, p_of
from lrt.models import Loaded
from lrt.prompts import ENGLISH_WORDING, listener_continuation

SHAPE = tiny.Shape(text=32, layers=2, heads=2, vision=32, vision_layers=1, vision_heads=2)
# Qwen2.5's own way of cutting text before merging: every digit alone, words with the character before them
QWEN_SPLIT = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*"
QWEN_SPLIT += r"|\s*[\r\n]+|\s+(?!\S)|\s+"
SAID = ["<think> image 1 is sharper than image 2 . </think> <answer>", "user\nthe image", "assistant\n"] * 20
PROMPTS = ["a red fox in the snow", "two cups of tea"]
TRACES = [["Image 1 is sharper, so image 1 is better.", "", "Image 2 has 2 foxes"], ["both are fine"]]
# name -> (how text is cut, what is said often enough to become one token, answers): what an answer then is
KINDS = {
    "one token": ("qwen", [], ("1", "2")),
    "one token after a space of its own": ("qwen", [], (" 1", " 2")),
    "one token with its space": ("gpt2", [" 1 2 1 2"] * 50, (" 1", " 2")),
    "one token merged with the mark before it": ("none", [">1", ">2"] * 50, ("1", "2")),
    "one merged with mark and space, one not": ("none", ["> 1"] * 50, (" 1", " 2")),
    "several tokens": ("gpt2", [], (" one", " two")),
    "two and one": ("gpt2", [" one"] * 50, (" one", " two")),
}
SINGLE = {"one token", "one token with its space"}


def tokenizer(cut: str, said: list[str]) -> PreTrainedTokenizerFast:
    core = Tokenizer(BPE())
    whole = ByteLevel(add_prefix_space=False, use_regex=cut == "gpt2")
    core.pre_tokenizer = Sequence([Split(Regex(QWEN_SPLIT), "isolated"), whole]) if cut == "qwen" else whole
    # without cutting, only what is to become a token is learnt: everything else stays bytes
    corpus = said if cut == "none" else SAID + said
    trainer = BpeTrainer(vocab_size=420, initial_alphabet=ByteLevel.alphabet(), min_frequency=2, show_progress=False)
    core.train_from_iterator(corpus, trainer)
    core.add_special_tokens(tiny.QWEN_SPECIAL)
    return PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )


@cache
def build(kind: str) -> Loaded:
    images = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=140 * 140)
    processor = tiny.TinyQwenProcessor(images, tokenizer(*KINDS[kind][:2]), chat_template=tiny.QWEN_TEMPLATE)
    torch.manual_seed(0)
    model = tiny.build_qwen(SHAPE, tiny.qwen_processor())
    model.resize_token_embeddings(len(processor.tokenizer), mean_resizing=False)
    ids = processor.tokenizer.convert_tokens_to_ids
    model.config.image_token_id, model.config.video_token_id = ids("<|image_pad|>"), ids("<|video_pad|>")
    model.config.vision_start_token_id = ids("<|vision_start|>")
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():  # wide enough that what is read moves the logits
            if parameter.ndim > 1:
                parameter.normal_(0, 2 * parameter[0].numel() ** -0.5, generator=generator)
    return Loaded(kind, model.eval(), processor, ENGLISH_WORDING)


@cache
def pictures():
    r = np.random.default_rng(0)
    sizes = [((56, 56), (112, 84)), ((140, 56), (56, 56))]
    return [[Image.fromarray(r.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in pair] for pair in sizes]


def log_probability(loaded: Loaded, before: str, images, text: str) -> float:
    """Of every token of the whole text, one plain forward a token: nothing is shared, nothing is left out."""
    inputs = loaded.processor(text=[before + text], images=[images], return_tensors="pt")
    with torch.no_grad():
        logp_TV = loaded.model(**inputs).logits[0].double().log_softmax(-1)
    ids_T = inputs["input_ids"][0]
    return float(logp_TV[:-1].gather(1, ids_T[1:, None]).sum())


def naive(loaded: Loaded, answers) -> list[float]:
    """log P(text + first answer) - log P(text + second answer) of every trace."""
    log_odds = []
    for prompt, images, traces in zip(PROMPTS, pictures(), TRACES, strict=True):
        texts = [loaded.chat(prompt) + listener_continuation(" ".join(trace.split())) for trace in traces]
        sums = [[log_probability(loaded, text, images, answer) for answer in answers] for text in texts]
        log_odds += [one - two for one, two in sums]
    return log_odds


@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_probability_of_the_whole_text(kind):
    """p(1) = P(text + "1") / (P(text + "1") + P(text + "2")), each token by token: what both ways must give."""
    loaded, answers = build(kind), KINDS[kind][2]
    log_odds = np.array(naive(loaded, answers))
    for options in ({}, {"share_prefix": False}, {"whole": True}, {"batch": 2}, {"batch": 1, "whole": True}):
        listener = LocalListener(loaded, answers=answers, **options)
        p = listener.p_first(PROMPTS, pictures(), TRACES)
        assert [len(group) for group in p] == [3, 1]
        np.testing.assert_allclose(np.concatenate(p), 1 / (1 + np.exp(-log_odds)), atol=1e-5, err_msg=str(options))
        z = np.concatenate(listener.logits(PROMPTS, pictures(), TRACES))
        np.testing.assert_allclose(z[:, 0] - z[:, 1], log_odds, atol=1e-4, err_msg=str(options))
    assert np.ptp(log_odds) > 0.05  # the rows differ, so a mix-up would be seen


@pytest.mark.parametrize("kind", KINDS)
def test_two_logits_where_there_are_two_tokens_and_whole_answers_elsewhere(kind):
    loaded, answers = build(kind), KINDS[kind][2]
    texts = [listener_continuation(trace) for group in TRACES for trace in group]
    ids = single_answer_ids(loaded, texts, answers)
    assert (ids is not None) == (kind in SINGLE)
    listener, called = LocalListener(loaded, answers=answers), []
    listener._whole = lambda *args: called.append(1) or LocalListener._whole(listener, *args)
    z = listener.logits(PROMPTS, pictures(), TRACES)
    assert bool(called) == (kind not in SINGLE)
    if ids:
        assert loaded.tokenizer.convert_ids_to_tokens(ids) == [a.replace(" ", "\u0120") for a in answers]
        whole = LocalListener(loaded, answers=answers, whole=True).logits(PROMPTS, pictures(), TRACES)
        for one, other in zip(sum(z, []), sum(whole, []), strict=True):
            assert abs(p_of(one) - p_of(other)) < 1e-5
            assert abs((one[0] - one[1]) - (other[0] - other[1])) < 1e-4


def test_what_an_answer_adds_begins_where_the_two_part():
    said = {kind: answer_endings(build(kind), "so <answer>", KINDS[kind][2]) for kind in KINDS}
    words = {kind: ["".join(build(kind).tokenizer.convert_ids_to_tokens(ids)) for ids in said[kind]] for kind in said}
    assert words["one token"] == words["one token after a space of its own"] == ["1", "2"]
    assert words["one token with its space"] == ["Ġ1", "Ġ2"]
    assert words["one token merged with the mark before it"] == [">1", ">2"]
    assert words["one merged with mark and space, one not"] == [">Ġ1", ">Ġ2"]
    assert [len(ids) for ids in said["one merged with mark and space, one not"]] == [1, 2]
    assert words["several tokens"] == ["one", "two"]  # the space is common to both
    assert words["two and one"] == ["Ġone", "Ġtwo"]


def test_the_ids_by_name_are_refused_where_they_are_no_single_tokens():
    loaded = build("one token")
    assert loaded.tokenizer.convert_ids_to_tokens(list(answer_token_ids(loaded))) == ["1", "2"]
    with pytest.raises(ValueError, match="is not one token"):
        answer_token_ids(build("one token merged with the mark before it"))


def test_a_tokenizer_that_cannot_tell_the_answers_apart_is_refused():
    loaded = build("one token")
    with pytest.raises(ValueError, match="does not tell '1' from '1' after '<answer>'"):
        LocalListener(loaded, answers=("1", "1"))
    with pytest.raises(ValueError, match="does not tell '1' from '12'"):  # one is the beginning of the other
        LocalListener(loaded, answers=("1", "12"))


def test_a_whole_answer_that_is_no_number_is_none(monkeypatch):
    loaded = build("several tokens")
    listener = LocalListener(loaded, answers=(" one", " two"))
    hook = loaded.model.lm_head.register_forward_hook(lambda *args: args[-1] * float("nan"))
    try:
        assert listener.p_first(PROMPTS, pictures(), TRACES) == [[None] * 3, [None]]
    finally:
        hook.remove()


def test_shared_length():
    assert shared_length([1, 2, 3], [1, 2, 4, 5]) == 2
    assert shared_length([1, 2], [1, 2, 4]) == 2 and shared_length([], [1]) == 0 and shared_length([1], [1]) == 1
