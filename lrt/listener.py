"""Listeners: p(image 1 is better) from the prompt, the two images and a reasoner's trace, never from its answer.

    p_first(prompts_B, images_B, traces_BG) -> p_BG

One forward pass and no generation: the listener reads the same chat as the reasoner, then `<think> trace </think>
<answer>`, and p is the softmax over the two logits of "1" and "2" at the slot that comes next (the listener term of
arXiv 2506.22832). Where a tokenizer has no single token for an answer there, the answers are scored whole: p is the
softmax over the two sums of log-probabilities, which is the same number wherever both can be had.

The G completions of a pair share a long prefix: chat and images. It runs once a pair, its key-value cache is selected
once a completion, and only the traces run after it. `share_prefix=False` is the plain form of the same numbers.
Control listeners are in `lrt.controls`.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol

import torch
from PIL.Image import Image

from lrt.answer_slot import ANSWERS, answer_endings, last_logits, shared_length, single_answer_ids
from lrt.models import Loaded
from lrt.prompts import heard, listener_continuation

Images = Sequence[Image]  # the two images of a pair


class Listener(Protocol):
    """What the rest of the package asks of a listener: a local model, an API, a control."""

    name: str

    def p_first(
        self, prompts_B: Sequence[str], images_B: Sequence[Images], traces_BG: Sequence[Sequence[str]]
    ) -> list[list[float | None]]:
        """p that image 1 is better, in [0, 1], for every trace of every pair; None where it could not be scored.

        Groups may be ragged: `traces_BG[b]` holds any number of traces of pair b, and so does the result.
        """


class LocalListener:
    """A model in memory as a listener.

    `batch` is the most completions in one forward pass. With `verdict=False` sentences that name a winner are removed
    from every trace before it is read. Whatever is passed as a trace goes through `prompts.heard`, so that not even a
    whole completion passed by mistake can leak its answer.

    `answers` are the two texts whose probabilities are compared: (" 1", " 2") for a model that was taught to leave a
    space after `<answer>`. `whole=True` scores them as whole continuations, two plain passes, even where two logits
    would do; otherwise that is done for a batch of rows in which some answer is not one token of its own.

    The model is used as it is found (a frozen one, or a policy in training): scoring runs in eval mode without
    gradients or checkpointing, and leaves mode, M-RoPE state and random generators as they were.
    Raises ValueError if the tokenizer does not tell the two answers apart.
    """

    def __init__(self, loaded: Loaded, share_prefix: bool = True, batch: int = 64, verdict: bool = True,
                 answers: tuple[str, str] = ANSWERS, whole: bool = False):
        if batch < 1:
            raise ValueError(f"batch is a number of completions, at least 1: {batch}")
        self.loaded, self.share_prefix, self.batch, self.verdict = loaded, share_prefix, batch, verdict
        self.name = loaded.name if verdict else f"{loaded.name}, verdict removed"
        self.answers, self.whole = answers, whole
        answer_endings(loaded, self._continuation(""), answers)

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        """See `Listener.p_first`. None where a logit is not finite. ValueError if the three lengths differ."""
        return [[p_of(z) for z in zs] for zs in self.logits(prompts_B, images_B, traces_BG)]

    def logits(self, prompts_B, images_B, traces_BG) -> list[list[tuple[float, float]]]:
        """The two raw logits behind each p, of "1" and of "2", in float32 (`last_logits`); where the answers are
        scored whole, their log-probabilities up to a constant that the two share, so p is the softmax of either. Those
        are of logits in the model's own precision."""
        if not len(prompts_B) == len(images_B) == len(traces_BG):
            sizes = f"{len(prompts_B)} prompts, {len(images_B)} pairs of images and {len(traces_BG)} groups of traces"
            raise ValueError(f"a listener takes one of each a pair, not {sizes}")
        chats_B = [self.loaded.chat(prompt) for prompt in prompts_B]
        rows = [(b, self._continuation(trace)) for b, traces in enumerate(traces_BG) for trace in traces]
        flat: list[list[float]] = []
        with scoring(self.loaded.model):
            for start in range(0, len(rows), self.batch):
                flat += self._score(rows[start : start + self.batch], chats_B, images_B)
        scored = iter(flat)
        return [[tuple(next(scored)) for _ in traces] for traces in traces_BG]

    def token_ids(self, prompt: str, trace: str) -> list[int]:
        """What the listener reads, as token ids, each image being one placeholder."""
        text = self.loaded.chat(prompt) + self._continuation(trace)
        return self.loaded.tokenizer(text)["input_ids"]

    def _continuation(self, trace: str) -> str:
        return listener_continuation(heard(trace, self.verdict))

    def _score(self, rows: list[tuple[int, str]], chats_B, images_B) -> list[list[float]]:
        """[logit of "1", logit of "2"] for each row: (pair, continuation)."""
        answer_ids = None if self.whole else single_answer_ids(self.loaded, [rest for _, rest in rows], self.answers)
        if answer_ids is None:
            return self._whole([chats_B[b] + rest for b, rest in rows], [images_B[b] for b, _ in rows]).tolist()
        pairs = sorted({b for b, _ in rows})
        ids_R = None
        if self.share_prefix and len(pairs) < len(rows):
            ids_R = self._continuation_ids(rows, {b: chats_B[b] for b in pairs})
        if ids_R is None:
            z_R2 = self._plain([chats_B[b] + rest for b, rest in rows], [images_B[b] for b, _ in rows], answer_ids)
        else:
            owner_R = torch.tensor([pairs.index(b) for b, _ in rows], device=self.loaded.device)
            z_R2 = self._shared([chats_B[b] for b in pairs], [images_B[b] for b in pairs], owner_R, ids_R, answer_ids)
        return z_R2.tolist()

    def _continuation_ids(self, rows: list[tuple[int, str]], chats: dict[int, str]) -> list[list[int]] | None:
        """The tokens of each row after its chat; None if some tokenizer merges across that boundary, since the chat's
        cache would then hold other tokens than the whole text has."""
        tokenizer = self.loaded.tokenizer
        prefixes = dict(zip(chats, tokenizer(list(chats.values()))["input_ids"], strict=True))
        whole_R = tokenizer([chats[b] + rest for b, rest in rows])["input_ids"]
        if any(ids[: len(prefixes[b])] != prefixes[b] for ids, (b, _) in zip(whole_R, rows, strict=True)):
            return None
        return [ids[len(prefixes[b]) :] for ids, (b, _) in zip(whole_R, rows, strict=True)]

    def _inputs(self, texts: list[str], images: list[Images]):
        """Left-padded, so that the last position of every row is its answer slot."""
        seen = {"images": [list(pair) for pair in images]} if self.loaded.sees else {}
        inputs = self.loaded.processor(text=texts, **seen, padding=True, padding_side="left", return_tensors="pt")
        return inputs.to(self.loaded.device)

    def _plain(self, texts: list[str], images: list[Images], answer_ids) -> torch.Tensor:
        """Logits (R, 2) of the answers at their slot; every row runs chat, images and trace."""
        return last_logits(self.loaded.model, answer_ids, **self._inputs(texts, images), use_cache=False)

    def _whole(self, texts: list[str], images: list[Images]) -> torch.Tensor:
        """Log-probabilities (R, 2) of each answer after each text, in float32, less what the two answers share.

        Each whole text with its answer is tokenized as it stands, so a token may reach from the text into the answer
        ("> 1"). What is summed begins where the tokens of the two answers part and ends with the answer: the tokens
        before that are the same for both and cancel in the softmax. A tokenizer that merges an answer with what would
        follow it (`1</`) is scored as if nothing followed.
        """
        both = [self._inputs([text + answer for text in texts], images) for answer in self.answers]
        ids_2R = [_unpadded(inputs) for inputs in both]
        shared_R = [shared_length(one, two) for one, two in zip(*ids_2R, strict=True)]
        return torch.stack([self._ending(inputs, [len(ids) - n for ids, n in zip(ids_R, shared_R, strict=True)])
                            for inputs, ids_R in zip(both, ids_2R, strict=True)], dim=1)

    def _ending(self, inputs, length_R: list[int]) -> torch.Tensor:
        """Log-probability (R,) of the last `length_R[r]` tokens of each row, given what is before them."""
        longest = max(length_R)
        logits_RTV = self.loaded.model(**inputs, use_cache=False, logits_to_keep=longest + 1).logits[:, :-1]
        ids_RT = inputs["input_ids"][:, -longest:]
        logp_RT = logits_RTV.float().log_softmax(-1).gather(2, ids_RT[:, :, None])[:, :, 0]
        place_T = torch.arange(longest, 0, -1, device=ids_RT.device)  # counted from the end of the row
        counted_RT = place_T <= torch.tensor(length_R, device=ids_RT.device)[:, None]
        return torch.where(counted_RT, logp_RT, 0.0).sum(dim=1)

    def _shared(self, chats: list[str], images: list[Images], owner_R, ids_R, answer_ids) -> torch.Tensor:
        """The same logits; each chat with its images runs once, and row r goes on from the cache of `owner_R[r]`.

        Rows look like [padding, chat, padding, trace]. Masks hide both paddings, and positions are given explicitly,
        because Qwen2.5-VL would otherwise make them from the state of its last call and assume equal groups.
        """
        model = self.loaded.model
        chat = self._inputs(chats, images)
        position_ids, shift_B1 = _positions(model, chat)
        cache = model(**chat, position_ids=position_ids, use_cache=True, logits_to_keep=1).past_key_values
        cache.batch_select_indices(owner_R)

        longest = max(map(len, ids_R))
        padding = self.loaded.tokenizer.pad_token_id or 0  # masked: any token will do
        ids_RT = torch.tensor([[padding] * (longest - len(ids)) + ids for ids in ids_R], device=owner_R.device)
        kept_RT = torch.tensor([[0] * (longest - len(ids)) + [1] * len(ids) for ids in ids_R], device=owner_R.device)
        mask_RL = torch.cat([chat["attention_mask"][owner_R], kept_RT], dim=1)
        position_RT = _counted(mask_RL)[:, -longest:] + shift_B1[owner_R]
        return last_logits(
            model, answer_ids,
            input_ids=ids_RT,
            attention_mask=mask_RL,
            position_ids=position_RT.expand(3, -1, -1) if position_ids.ndim == 3 else position_RT,
            past_key_values=cache,
            use_cache=True,
        )


def p_of(logits: tuple[float, float]) -> float | None:
    """softmax(z_1, z_2)[0]; None if either is not finite."""
    z_1, z_2 = logits
    if not (math.isfinite(z_1) and math.isfinite(z_2)):
        return None
    small = math.exp(-abs(z_1 - z_2))  # of the smaller side, so that it cannot overflow
    return (1.0 if z_1 >= z_2 else small) / (1.0 + small)


def _unpadded(inputs) -> list[list[int]]:
    """The token ids of every row, without padding."""
    rows = zip(inputs["input_ids"], inputs["attention_mask"], strict=True)
    return [ids[mask.bool()].tolist() for ids, mask in rows]


def _counted(mask_BL: torch.Tensor) -> torch.Tensor:
    """Positions that count the tokens that are there, and no padding."""
    return (mask_BL.cumsum(dim=1) - 1).clamp(min=0)


def _positions(model, inputs) -> tuple[torch.Tensor, torch.Tensor]:
    """(position ids, shift (B, 1)) of a batch of chats: position of a later token = number of tokens before + shift.

    Under M-RoPE (Qwen2.5-VL) an image of w x h tokens takes max(w, h) positions, in three coordinates: the shift is
    what it saves. Everywhere else, and for a text without images, positions count tokens.
    """
    rope = next((module for module in model.modules() if hasattr(type(module), "get_rope_index")), None)
    if rope is not None and inputs.get("image_grid_thw") is not None:
        return rope.get_rope_index(**inputs)
    mask_BL = inputs["attention_mask"]
    return _counted(mask_BL), torch.zeros_like(mask_BL[:, :1])


@contextmanager
def scoring(model) -> Iterator[None]:
    """Eval mode, no gradients, no gradient checkpointing (it drops the cache); everything as it was afterwards.

    Also restores `rope_deltas`, which Qwen2.5-VL keeps from its last forward pass: with the adapter off, listener and
    policy are one module.
    """
    training = [(module, module.training) for module in model.modules()]
    own = [(module, vars(module)) for module in model.modules()]  # not getattr: wrappers pass it on to what they wrap
    state = [
        (module, name, attributes[name])
        for module, attributes in own
        for name in ("gradient_checkpointing", "rope_deltas")
        if name in attributes
    ]
    try:
        model.eval()
        for module, name, _ in state:
            if name == "gradient_checkpointing":
                module.gradient_checkpointing = False
        with torch.no_grad():
            yield
    finally:
        for module, mode in training:
            module.training = mode
        for module, name, value in state:
            setattr(module, name, value)


class AdapterOffListener:
    """The paper's listener without a second copy in memory: the policy's own base, its adapter switched off.

    `policy.model` is a peft model, in training or not; ValueError if it is not. Options as for `LocalListener`.
    """

    def __init__(self, policy: Loaded, **options):
        if not hasattr(policy.model, "disable_adapter"):
            raise ValueError(f"{policy.name}: no adapter to switch off; load a frozen copy as LocalListener instead")
        self.local = LocalListener(policy, **options)
        self.name = f"{self.local.name}, adapter off"

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        """See `Listener.p_first`."""
        with adapter_off(self.local.loaded.model):
            return self.local.p_first(prompts_B, images_B, traces_BG)

    def logits(self, prompts_B, images_B, traces_BG) -> list[list[tuple[float, float]]]:
        """See `LocalListener.logits`."""
        with adapter_off(self.local.loaded.model):
            return self.local.logits(prompts_B, images_B, traces_BG)


@contextmanager
def adapter_off(model) -> Iterator[None]:
    """peft's `disable_adapter`, which on leaving makes the adapter trainable whether or not it was: restored here."""
    flags = [(parameter, parameter.requires_grad) for parameter in model.parameters()]
    try:
        with model.disable_adapter():
            yield
    finally:
        for parameter, flag in flags:
            parameter.requires_grad_(flag)
