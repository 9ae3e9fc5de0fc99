"""What is sent to a listener behind OpenAI's chat protocol, and p from what comes back. No network here: `lrt.remote`.

The protocol is the one that vLLM serves, with four fields of its own (vLLM's `ChatCompletionRequest`):
`continue_final_message` and `add_generation_prompt`, so that the next token goes on with the assistant's message;
`echo`, so that the server repeats that message; `return_tokens_as_token_ids`, for tokens by number instead of by text.
"""

import base64
import json
from collections.abc import Sequence
from io import BytesIO

from PIL import Image

from lrt.listener import Images, p_of
from lrt.prompts import Wording, messages

FLOOR = -9999.0  # what vLLM writes for a log-probability of minus infinity


class Unscored(Exception):
    """Why there is no p. `again`: whether asking once more may help, after at least `after` seconds."""

    def __init__(self, reason: str, again: bool = False, after: float = 0.0):
        super().__init__(reason)
        self.reason, self.again, self.after = reason, again, after


def request(
    model: str, prompt: str, urls: Sequence[str], wording: Wording, start: str, top_logprobs: int, echo: bool, ids: bool
) -> dict:
    """The body of a request: the chat about a pair, its images as data URLs, and the assistant's words so far.

    `ids` asks for tokens by number. The chat is that of `models.Loaded.chat`, so a server that renders it with the
    model's own template makes the same text of it.
    """
    chat, images = messages(prompt, wording), iter(urls)
    chat[0]["content"] = [
        {"type": "image_url", "image_url": {"url": next(images)}} if part["type"] == "image" else part
        for part in chat[0]["content"]
    ]
    body = {
        "model": model,
        "messages": [*chat, {"role": "assistant", "content": start}],
        "add_generation_prompt": False,
        "continue_final_message": True,
        "max_tokens": 1,
        "temperature": 0,
        "logprobs": True,
        "top_logprobs": top_logprobs,
    }
    return body | ({"echo": True} if echo else {}) | ({"return_tokens_as_token_ids": True} if ids else {})


def data_urls(images: Images) -> list[str]:
    """Images as PNG data URLs that decode to the same RGB pixels; colour profiles and EXIF rotation stay behind, as the
    local processor does not look at them either."""
    urls = []
    for image in images:
        rgb, file = image.convert("RGB"), BytesIO()
        Image.frombytes("RGB", rgb.size, rgb.tobytes()).save(file, "PNG", compress_level=1)
        urls.append("data:image/png;base64," + base64.b64encode(file.getvalue()).decode())
    return urls


def p_from(body: bytes, start: str, tokens: tuple[str, str] = ("1", "2")) -> float:
    """p that image 1 is better, from the JSON of a chat completion (the schema of OpenAI's API and of vLLM's
    `ChatCompletionResponse`): the softmax over the log-probabilities of two tokens.

    `start` is what the message must begin with, `tokens` the exact text of the two. Raises Unscored.
    """
    try:
        reply = json.loads(body)
    except (ValueError, RecursionError):
        raise Unscored("not json") from None
    try:
        if reply.get("error"):
            raise Unscored("refused")
        choice = reply["choices"][0]
        message = choice["message"]
        if choice.get("finish_reason") == "content_filter" or message.get("refusal"):
            raise Unscored("refused")
        if not (message.get("content") or "").startswith(start):
            raise Unscored("not continued")
        found = [(one["token"], one["logprob"]) for one in choice["logprobs"]["content"][0]["top_logprobs"]]
    except (KeyError, IndexError, TypeError, AttributeError):
        raise Unscored("malformed") from None
    z = [[value for token, value in found if token == name] for name in tokens]
    if not all(z):
        raise Unscored("no answer token")
    if any(len(values) > 1 for values in z):
        raise Unscored("ambiguous")
    return _p_of_logs(z[0][0], z[1][0])


def _p_of_logs(z_1, z_2) -> float:
    for z in (z_1, z_2):
        if isinstance(z, bool) or not isinstance(z, int | float):
            raise Unscored("malformed")
        if not FLOOR < z < 0.01:  # a log-probability, give or take rounding; NaN is none
            raise Unscored("not finite")
    return p_of((z_1, z_2))
