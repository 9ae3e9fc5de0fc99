"""The tokens at the answer slot: what follows `<answer>` in a tokenizer's own ids.

A listener reads its p from the logits of two tokens there, where a tokenizer has such two; where it has not, it scores
both answers whole (`lrt.listener`).
"""

from collections.abc import Sequence

import torch

from lrt.models import Loaded
from lrt.prompts import listener_continuation

ANSWERS = ("1", "2")  # as they follow `<answer>`


def answer_token_ids(loaded: Loaded) -> tuple[int, int]:
    """Ids of "1" and "2" as they follow `<answer>` in the listener's prompt.

    ValueError when the tokenizer does not give each a single token of its own there.
    """
    start = listener_continuation("image 1 is better .")
    answer_endings(loaded, start)
    ids = single_answer_ids(loaded, [start])
    if ids is None:
        raise ValueError(f"{loaded.name}: '1' or '2' after '<answer>' is not one token of its tokenizer")
    return ids


def single_answer_ids(loaded: Loaded, texts: list[str], answers: tuple[str, str] = ANSWERS) -> tuple[int, int] | None:
    """The two token ids that stand for the answers after every one of the texts, or None where there are no such two:
    an answer of several tokens, one that merges with the end of its text, or other ids after another text."""
    if not texts:
        return None
    given, ones, twos = (_ids(loaded, [text + answer for text in texts]) for answer in ("", *answers))
    if any(not one[:-1] == ids == two[:-1] for ids, one, two in zip(given, ones, twos, strict=True)):
        return None
    found = {(one[-1], two[-1]) for one, two in zip(ones, twos, strict=True)}
    return found.pop() if len(found) == 1 else None


def answer_endings(loaded: Loaded, text: str, answers: tuple[str, str] = ANSWERS) -> tuple[list[int], list[int]]:
    """The token ids of `text + answer` for each answer, from where the two part to the end.

    ValueError where they do not part, or where an unknown token stands for an answer.
    """
    one, two = _ids(loaded, [text + answer for answer in answers])
    n = shared_length(one, two)
    endings = one[n:], two[n:]
    if not all(endings) or loaded.tokenizer.unk_token_id in (*endings[0], *endings[1]):
        raise ValueError(f"{loaded.name}: its tokenizer does not tell {answers[0]!r} from {answers[1]!r} after "
                         "'<answer>'")
    return endings


def shared_length(one: list[int], two: list[int]) -> int:
    """How many ids two sequences have in common from their beginning."""
    return next((n for n, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))


def _ids(loaded: Loaded, texts: list[str]) -> list[list[int]]:
    return loaded.tokenizer(texts, add_special_tokens=False)["input_ids"]


def last_logits(model, token_ids: Sequence[int], **inputs) -> torch.Tensor:
    """Logits (R, K) of K tokens after the last position, in float32.

    A model in 16 bits rounds its logits: bfloat16 has steps of 1/8 between 16 and 32, where a reward is made of
    differences of hundredths. There the rows of the output layer that count are applied once more, in float32, to what
    went into it. Where that is not the last word (an adapter on the output layer, logits that are capped or scaled),
    the model's own logits count.
    """
    seen = []
    head = model.get_output_embeddings()
    hook = head.register_forward_hook(lambda _, given, out: seen.append((given[0], out)))
    try:
        said_RV = model(**inputs, logits_to_keep=1).logits[:, -1]
    finally:
        hook.remove()
    into_RTD, logits_RTV = seen[-1]
    ids, own_RV = list(token_ids), logits_RTV[:, -1]
    last = type(head) is torch.nn.Linear and torch.equal(own_RV.to(said_RV.dtype), said_RV)
    if own_RV.dtype == torch.float32 or not last:
        return said_RV[:, ids].float()
    with torch.autocast(into_RTD.device.type, enabled=False):
        bias = None if head.bias is None else head.bias[ids].float()
        return torch.nn.functional.linear(into_RTD[:, -1].float(), head.weight[ids].float(), bias)
