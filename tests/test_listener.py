"""A listener's p is the plain forward's, however it is computed; it hears no answer; it leaves the model as it was."""

import random
import re
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from peft import LoraConfig, get_peft_model
from PIL import Image
from tokenizers import Tokenizer
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerFast, Qwen2VLImageProcessorPil

from lrt import tiny
from lrt.answer_slot import answer_token_ids
from lrt.controls import Binary, Opinion, Permuted, RandomListener, WrongPair
from lrt.listener import AdapterOffListener, LocalListener, p_of
from lrt.models import Loaded
from lrt.pairs import tiny_pairs
from lrt.prompts import ENGLISH_WORDING, TINY_WORDING, listener_continuation, remove_verdict

KINDS = ("qwen", "llava", "blind")
SHAPE = tiny.Shape(text=32, layers=2, heads=2, vision=32, vision_layers=2, vision_heads=2)
PROMPTS = [
    "red circle top-left and blue square bottom-right",
    "green star top-right",
    "yellow square bottom-left and red star top-left and blue circle top-right",
    "red circle top-left",
]
DESCRIBED = "image 1 : red circle top-left good , blue square top-right bad , clear . image 2 : missing , blurred ."
TRACES = [  # ragged groups: four, one, none, five
    [f"{DESCRIBED} image 1 is better .", "", "image 2 is better .", "image 2 is better ."],
    ["green star top-right good"],
    [],
    ["1", "2", "red circle", "circle red", DESCRIBED],
]


@cache
def pictures(seed=0):
    r = np.random.default_rng(seed)
    sizes = [((56, 56), (112, 56)), ((84, 140), (56, 84)), ((56, 56), (56, 56)), ((140, 56), (56, 56))]
    return [[Image.fromarray(r.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in pair] for pair in sizes]


def random_weights(model, seed=0):
    """Wide enough that attention is sharp: what is read, and where it stands, then moves the logits."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 2 * parameter[0].numel() ** -0.5, generator=generator)
        model.get_input_embeddings().weight.mul_(0.5)
    return model.eval()


def build(kind):
    processor = tiny.llava_processor() if kind == "llava" else tiny.qwen_processor()
    torch.manual_seed(0)
    model = (tiny.build_llava if kind == "llava" else tiny.build_qwen)(SHAPE, processor)
    return Loaded(kind, random_weights(model), processor, TINY_WORDING, sees=kind != "blind")


shared_build = cache(build)  # for tests that leave the model alone


def naive(loaded, prompt, images, trace):
    """One row, one plain forward pass, every logit."""
    given = {"images": [list(images)]} if loaded.sees else {}
    text = loaded.chat(prompt) + listener_continuation(trace)
    inputs = loaded.processor(text=[text], **given, return_tensors="pt").to(loaded.device)
    with torch.no_grad():
        z = loaded.model(**inputs).logits[0, -1, list(answer_token_ids(loaded))]
    return tuple(z.tolist())


def naive_all(loaded, prompts=PROMPTS, traces=TRACES):
    return [
        [naive(loaded, prompt, pair, trace) for trace in group]
        for prompt, pair, group in zip(prompts, pictures(), traces, strict=True)
    ]


def flat(logits_BG):
    return np.array([z for group in logits_BG for z in group])


class Watched:
    """How many tokens each forward pass of a model runs, as (rows, tokens)."""

    def __init__(self, model):
        self.passes = []
        self.handle = model.register_forward_pre_hook(self, with_kwargs=True)

    def __call__(self, module, args, kwargs):
        self.passes.append(tuple(kwargs["input_ids"].shape))


# ---- equal to the plain forward ----


@pytest.mark.parametrize("batch", [64, 3])  # 3: groups straddle forward passes
@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_naive_forward(kind, share_prefix, batch):
    loaded = shared_build(kind)
    expected = flat(naive_all(loaded))
    assert np.ptp(expected[:, 0] - expected[:, 1]) > 0.3  # the traces are told apart
    logits = LocalListener(loaded, share_prefix, batch).logits(PROMPTS, pictures(), TRACES)
    assert [len(group) for group in logits] == [4, 1, 0, 5]
    np.testing.assert_allclose(flat(logits), expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", KINDS)
def test_every_input_matters(kind):
    """Otherwise the equality above would say little: images, their order, the prompt, and the order of words."""
    loaded = shared_build(kind)
    listener = LocalListener(loaded)

    def z(prompts=PROMPTS, images=None, traces=TRACES):
        return flat(listener.logits(prompts, images or pictures(), traces))[:4]

    swapped = [pair[::-1] for pair in pictures()]
    backwards = [[" ".join(t.split()[::-1]) for t in group] for group in TRACES]
    assert np.abs(z(prompts=PROMPTS[::-1]) - z()).max() > 1e-2
    assert np.abs(z(traces=backwards) - z()).max() > 1e-2
    for other in (swapped, pictures(seed=1)):
        moved = np.abs(z(images=other) - z()).max()
        assert moved > 1e-2 if loaded.sees else moved == 0


def test_p_is_the_softmax_of_the_two_logits():
    listener = LocalListener(shared_build("qwen"))
    logits, p = (f(PROMPTS, pictures(), TRACES) for f in (listener.logits, listener.p_first))
    np.testing.assert_allclose(
        [p for group in p for p in group], torch.tensor(flat(logits)).softmax(-1)[:, 0], rtol=1e-9
    )


def test_p_of_far_and_broken_logits():
    assert p_of((1000.0, -1000.0)) == 1.0 and p_of((-1000.0, 1000.0)) == 0.0 and p_of((3.0, 3.0)) == 0.5
    for broken in (float("nan"), float("inf"), float("-inf")):
        assert p_of((broken, 0.0)) is None and p_of((0.0, broken)) is None


def test_a_pairs_chat_runs_once_and_each_completion_runs_its_trace_only():
    loaded = build("qwen")
    watched = Watched(loaded.model)
    traces = [[f"{DESCRIBED} image {1 + g % 2} is better ." for g in range(8)] for _ in PROMPTS]
    LocalListener(loaded).logits(PROMPTS, pictures(), traces)
    (pairs, chat), (rows, trace) = watched.passes
    assert (pairs, rows) == (len(PROMPTS), 8 * len(PROMPTS))
    assert trace == len(listener_continuation(traces[0][0]).split())
    watched.passes.clear()
    LocalListener(loaded, share_prefix=False).logits(PROMPTS, pictures(), traces)
    assert watched.passes == [(rows, chat + trace)]
    watched.passes.clear()
    LocalListener(loaded).logits(PROMPTS, pictures(), [group[:1] for group in traces])
    assert watched.passes == [(pairs, chat + trace)]  # nothing to share: one pass is enough


def bpe(merge_across_words):
    """A Qwen with a byte-level tokenizer of free English; it may have tokens that reach over the end of the chat."""
    core = Tokenizer(BPE())
    core.pre_tokenizer = ByteLevel(add_prefix_space=False, use_regex=not merge_across_words)
    corpus = ["assistant\n<think> the image 1 is better . </think> <answer>", "user\nthe image"] * 20 + ["\n<"] * 200
    core.train_from_iterator(corpus, BpeTrainer(vocab_size=600, initial_alphabet=ByteLevel.alphabet()))
    core.add_special_tokens(tiny.QWEN_SPECIAL)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, padding_side="left", eos_token="<|im_end|>", pad_token="<|endoftext|>"
    )
    images = Qwen2VLImageProcessorPil(min_pixels=56 * 56, max_pixels=140 * 140)
    processor = tiny.TinyQwenProcessor(images, tokenizer, chat_template=tiny.QWEN_TEMPLATE)
    return Loaded("bpe", random_weights(tiny.build_qwen(SHAPE, processor)), processor, ENGLISH_WORDING)


@pytest.mark.parametrize("merge_across_words", [False, True])
def test_a_tokenizer_that_merges_across_the_chats_end_gets_the_plain_forward(merge_across_words):
    loaded = bpe(merge_across_words)
    ids = [loaded.tokenizer(text)["input_ids"] for text in ("assistant\n", "assistant\n<think> the")]
    assert (ids[1][: len(ids[0])] != ids[0]) == merge_across_words
    watched = Watched(loaded.model)
    logits = flat(LocalListener(loaded).logits(PROMPTS, pictures(), TRACES))
    assert len(watched.passes) == (1 if merge_across_words else 2)
    np.testing.assert_allclose(logits, flat(naive_all(loaded)), atol=1e-5, rtol=0)


def test_a_score_that_is_no_number_is_none_and_the_others_stay():
    loaded = build("qwen")
    sound = LocalListener(loaded).p_first(PROMPTS, pictures(), TRACES)
    with torch.no_grad():  # a broken word, which the last group alone uses
        loaded.model.get_input_embeddings().weight[loaded.tokenizer.convert_tokens_to_ids("purple")] = torch.nan
    traces = [*TRACES[:3], ["1", "purple", "red circle", "circle red", "red purple circle"]]
    for share_prefix in (True, False):
        p = LocalListener(loaded, share_prefix).p_first(PROMPTS, pictures(), traces)
        assert [[value is None for value in group] for group in p[:3]] == [[False] * 4, [False], []]
        assert p[3][1] is None and p[3][4] is None
        np.testing.assert_allclose([p[3][i] for i in (0, 2, 3)], [sound[3][i] for i in (0, 2, 3)], atol=1e-5)


def test_wrong_arguments():
    listener = LocalListener(shared_build("qwen"))
    with pytest.raises(ValueError, match="4 prompts, 3 pairs of images and 4 groups"):
        listener.p_first(PROMPTS, pictures()[:3], TRACES)
    with pytest.raises(ValueError, match="batch"):
        LocalListener(shared_build("qwen"), batch=0)
    assert listener.p_first([], [], []) == []
    assert listener.p_first(PROMPTS[:2], pictures()[:2], [[], []]) == [[], []]


@pytest.mark.parametrize("share_prefix", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_model_in_16_bits_does_not_round_the_two_logits(kind, share_prefix):
    """They are what its output layer makes of its own hidden states in float32, not what bfloat16 makes of that."""
    loaded = build(kind)
    loaded.model.to(torch.bfloat16)
    trace = TRACES[0][0]
    ((one, two),), = LocalListener(loaded, share_prefix).logits(PROMPTS[:1], pictures()[:1], [[trace]])
    rounded = naive(loaded, PROMPTS[0], pictures()[0], trace)
    exact = torch.tensor([one, two])
    assert not torch.equal(exact, exact.bfloat16().float())
    assert exact.tolist() == pytest.approx(rounded, rel=2**-7, abs=0.02)
    assert len(loaded.model.get_output_embeddings()._forward_hooks) == 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("change", ["capped", "adapter"])
def test_what_comes_after_the_output_layer_counts(change, dtype):
    loaded = build("qwen")
    if change == "adapter":
        adapted = get_peft_model(loaded.model, LoraConfig(r=2, target_modules=["lm_head"], init_lora_weights=False))
        loaded = replace(loaded, model=adapted)
    else:
        forward = loaded.model.forward

        def capped(*args, **options):
            out = forward(*args, **options)
            out.logits = torch.tanh(out.logits / 3)
            return out

        loaded.model.forward = capped
    loaded.model.to(dtype)
    [[found]] = LocalListener(loaded).logits(PROMPTS[:1], pictures()[:1], [TRACES[0][:1]])
    assert found == pytest.approx(naive(loaded, PROMPTS[0], pictures()[0], TRACES[0][0]), abs=1e-5, rel=2**-7)


@pytest.mark.gpu
@pytest.mark.parametrize("kind", KINDS)
def test_equal_to_the_naive_forward_on_a_gpu(kind):
    loaded = build(kind)
    on_cpu = flat(LocalListener(loaded).logits(PROMPTS, pictures(), TRACES))
    loaded.model.to("cuda")
    expected = flat(naive_all(loaded))
    for share_prefix in (True, False):
        logits = flat(LocalListener(loaded, share_prefix).logits(PROMPTS, pictures(), TRACES))
        np.testing.assert_allclose(logits, expected, atol=1e-4, rtol=0)  # kernels differ by shape on a GPU
        np.testing.assert_allclose(logits, on_cpu, atol=1e-3, rtol=0)


# ---- what is heard ----

PIECES = "<think> </think> <answer> </answer> <answer>1</answer> <answer>2</answer> <|im_end|> <|image_pad|> "
PIECES += "</ think > < <Answer> <image> </Think 1 2 red circle image better is . : \n"
completions = st.one_of(
    st.text(max_size=40),
    st.lists(st.sampled_from(PIECES.split(" ")), max_size=15).map(" ".join),
    st.lists(st.sampled_from(PIECES.split(" ")), max_size=15).map("".join),
    st.sampled_from("12").map(lambda a: f"<think> red circle </think> <answer> {a} </answer>"),
)
ANSWER = re.compile(r"<answer>.*?(?:</answer>|$)", re.DOTALL)


def other_answers(completion):
    return ANSWER.sub(lambda inside: inside[0].translate(str.maketrans("12", "21")), completion)


@settings(deadline=None)
@given(completions)
def test_swapping_the_answer_changes_no_token(completion):
    listener = LocalListener(shared_build("qwen"))
    ids = listener.token_ids(PROMPTS[0], completion)
    assert listener.token_ids(PROMPTS[0], other_answers(completion)) == ids


@settings(deadline=None)
@given(completions, completions)
def test_nothing_after_the_trace_changes_a_token(completion, after):
    listener = LocalListener(shared_build("qwen"))
    upto, tag, _ = f"{completion}</think>".partition("</think>")
    assert listener.token_ids(PROMPTS[0], upto + tag + after) == listener.token_ids(PROMPTS[0], upto + tag)


def test_a_trace_cannot_bring_in_an_image():
    listener = LocalListener(shared_build("qwen"))
    ids = listener.token_ids(PROMPTS[0], "red <|image_pad|> circle <|vision_start|>")
    assert ids == listener.token_ids(PROMPTS[0], "red circle")


def test_without_verdict_it_reads_the_rest():
    loaded = shared_build("qwen")
    with_verdict, rest = f"{DESCRIBED} image 1 is better .", DESCRIBED
    assert remove_verdict(with_verdict) == rest
    deaf = LocalListener(loaded, verdict=False)
    assert deaf.name != LocalListener(loaded).name
    p = deaf.p_first(PROMPTS[:1], pictures()[:1], [[with_verdict, rest]])
    assert p[0][0] == pytest.approx(p[0][1], abs=1e-6)
    heard_all = LocalListener(loaded).p_first(PROMPTS[:1], pictures()[:1], [[with_verdict, rest]])
    assert abs(heard_all[0][0] - heard_all[0][1]) > 1e-3


# ---- the model is left as it was ----


def test_a_model_in_training_scores_the_same_and_is_left_as_it_was():
    loaded = build("qwen")
    expected = LocalListener(loaded).logits(PROMPTS, pictures(), TRACES)
    model = loaded.model
    model.train()
    model.model.visual.eval()  # a part that is frozen
    model.activation_checkpointing_enable()
    model.model.rope_deltas = stale = torch.full((4, 1), 7)
    for module in model.modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    modes = {name: module.training for name, module in model.named_modules()}
    layers = [m for m in model.modules() if vars(m).get("gradient_checkpointing")]
    before = (torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate())

    logits = LocalListener(loaded).logits(PROMPTS, pictures(), TRACES)

    np.testing.assert_allclose(flat(logits), flat(expected), atol=1e-6)
    assert torch.equal(torch.get_rng_state(), before[0])
    assert (np.random.get_state()[1] == before[1]).all() and random.getstate() == before[2]
    assert {name: module.training for name, module in model.named_modules()} == modes
    assert layers and all(layer.gradient_checkpointing for layer in layers)
    assert model.model.rope_deltas is stale
    assert all(p.requires_grad and p.grad is None for p in model.parameters())


def test_a_failure_too_leaves_the_model_as_it_was():
    loaded = build("qwen")
    loaded.model.train()
    with pytest.raises((ValueError, TypeError, AttributeError, IndexError)):
        LocalListener(loaded).p_first(PROMPTS[:1], [["no image", "no image"]], [["red"]])
    assert loaded.model.training and torch.is_grad_enabled()


@pytest.mark.parametrize("kind", ["qwen", "llava"])
@pytest.mark.parametrize("trainable", [True, False])
def test_adapter_off_is_a_separate_copy_of_the_base(kind, trainable):
    expected = LocalListener(shared_build(kind)).logits(PROMPTS, pictures(), TRACES)
    base = build(kind)
    config = LoraConfig(r=2, lora_dropout=0.5, target_modules=["q_proj", "v_proj", "down_proj"])
    policy = Loaded("policy", get_peft_model(base.model, config), base.processor, base.wording)
    adapter = {name: p for name, p in policy.model.named_parameters() if "lora_" in name}
    for p in adapter.values():
        torch.nn.init.normal_(p, generator=torch.Generator().manual_seed(1))
        p.requires_grad_(trainable)
        p.grad = torch.ones_like(p)
    policy.model.train()

    off = AdapterOffListener(policy)
    np.testing.assert_allclose(flat(off.logits(PROMPTS, pictures(), TRACES)), flat(expected), atol=1e-6)
    for group, logits in zip(off.p_first(PROMPTS, pictures(), TRACES), expected, strict=True):
        np.testing.assert_allclose(group, [p_of(z) for z in logits], atol=1e-6)
    on = LocalListener(policy).logits(PROMPTS, pictures(), TRACES)
    assert np.abs(flat(on) - flat(expected)).max() > 0.1  # the adapter does something, and is on again
    assert policy.model.training
    assert {p.requires_grad for p in adapter.values()} == {trainable}
    assert not any(p.requires_grad for name, p in policy.model.named_parameters() if name not in adapter)
    assert all(torch.equal(p.grad, torch.ones_like(p)) for p in adapter.values())


def test_adapter_off_needs_an_adapter():
    with pytest.raises(ValueError, match="qwen: no adapter"):
        AdapterOffListener(shared_build("qwen"))


# ---- controls ----


class Spelling:
    """p known in advance: the share of "red" among the words that it is given. Remembers what it heard."""

    name = "spelling"

    def __init__(self):
        self.heard = []

    def p_first(self, prompts_B, images_B, traces_BG):
        self.heard += [(p, i, t) for p, i, ts in zip(prompts_B, images_B, traces_BG, strict=True) for t in ts]
        return [[self.p(p, t) for t in ts] for p, ts in zip(prompts_B, traces_BG, strict=True)]

    @staticmethod
    def p(prompt, trace):
        words = f"{prompt} {trace}".split()
        return None if "purple" in words else words.count("red") / len(words)


def test_random_listener_is_a_function_of_seed_prompt_and_trace():
    state = np.random.get_state()[1].copy()
    p = RandomListener(3).p_first(PROMPTS, pictures(), TRACES)
    assert (np.random.get_state()[1] == state).all()
    assert p[0][2] == p[0][3]  # the same trace
    assert RandomListener(3).p_first(PROMPTS[3:], pictures()[3:], [TRACES[3][::-1]]) == [p[3][::-1]]
    assert len({*p[3]}) == 5 and p != RandomListener(4).p_first(PROMPTS, pictures(), TRACES)
    assert RandomListener(3).p_first(["a"], [None], [["t"]]) != RandomListener(3).p_first(["b"], [None], [["t"]])


def test_random_listener_knows_nothing():
    pairs = tiny_pairs("validation", 120).remove_columns("images")
    prompts, vote = pairs["prompt"], [v == 1 for v in pairs["vote"] for _ in range(8)]
    traces = [[f"{g}" for g in range(8)] for _ in prompts]
    one, two = (np.ravel(RandomListener(seed).p_first(prompts, [None] * len(prompts), traces)) for seed in (0, 1))
    assert 0 <= one.min() < 0.05 and 0.95 < one.max() < 1 and abs(one.mean() - 0.5) < 0.05
    distinct = len(set(prompts)) * 8  # pairs of one prompt draw the same numbers
    for other in (vote, two):
        assert abs(np.corrcoef(one, other)[0, 1]) < 4 / distinct**0.5


def test_wrong_pair_hears_each_trace_with_another_prompt_and_its_images():
    inner = Spelling()
    prompts, images = ["red", "red", "blue", "green"], ["i0", "i1", "i2", "i3"]
    traces = [["a", "b"], ["c"], ["d", "e", "f"], []]
    p = WrongPair(inner).p_first(prompts, images, traces)
    assert inner.heard == [
        ("blue", "i2", "a"),
        ("blue", "i2", "b"),
        ("blue", "i2", "c"),
        ("green", "i3", "d"),
        ("green", "i3", "e"),
        ("green", "i3", "f"),
    ]
    assert p == [[0, 0], [0], [0, 0, 0], []]


def test_a_pair_without_another_has_no_wrong_pair():
    assert WrongPair(Spelling()).p_first(["red"], ["i"], [["a", "b"]]) == [[None, None]]
    assert WrongPair(Spelling()).p_first(["red", "red"], ["i", "j"], [["a"], ["b"]]) == [[None], [None]]


def test_permuted_deals_the_same_scores_out_within_each_group():
    traces = [["red " * n + "x" for n in range(9)], ["red x", "purple"], ["red"]]
    prompts, images = ["a", "b", "c"], [None] * 3
    p = Spelling().p_first(prompts, images, traces)
    dealt = Permuted(Spelling(), seed=1).p_first(prompts, images, traces)
    for group, original in zip(dealt, p, strict=True):
        assert sorted(group, key=str) == sorted(original, key=str)
    assert dealt != p
    assert Permuted(Spelling(), seed=1).p_first(prompts[:1], images[:1], traces[:1]) == dealt[:1]
    assert Permuted(Spelling(), seed=2).p_first(prompts, images, traces) != dealt


def test_opinion_hears_no_trace():
    inner = Spelling()
    p = Opinion(inner).p_first(["red x", "blue"], ["i", "j"], [["red", "red red", ""], []])
    assert p == [[0.5, 0.5, 0.5], []]
    assert {trace for _, _, trace in inner.heard} == {""}


def test_binary_is_the_choice():
    p = Binary(Spelling()).p_first(["red"], ["i"], [["red", "x", "x x", "purple"]])
    assert p == [[1.0, 0.5, 0.0, None]]


def test_controls_are_named_after_their_listener():
    controls = [WrongPair, Permuted, Opinion, Binary]
    names = {control(Spelling()).name for control in controls} | {RandomListener(0).name, RandomListener(1).name}
    assert len(names) == 6 and all("spelling" in control(Spelling()).name for control in controls)
