"""A listener on another machine, over the chat protocol of OpenAI as vLLM serves it.

    listener = RemoteListener("http://gpu-2:8000/v1", "Qwen/Qwen2.5-VL-7B-Instruct")

One POST to `/chat/completions` a trace: the chat with the two images as PNG data URLs, then an assistant's message
`<think> trace </think> <answer>` that the server is to go on with (`continue_final_message`), one token, temperature 0,
and its most likely alternatives. So the next token stands at the same slot, after the same text, as with
`lrt.listener.LocalListener`, and p is the same softmax over the same two tokens:

- the tokens whose text is exactly "1" and "2". The local form reads one token each, the one that follows `<answer>`
  directly; " 1" is another token, and what it has is not added. For a model that was taught to leave a space,
  `answers=(" 1", " 2")`, as with the local form. Where a server shows two tokens by the same text, or shows the right
  one in another way, `answer_ids` names the two by number (vLLM then answers by number).
- a server that does not know `continue_final_message` would close the message and begin another, and its p would
  answer another question. So the server is also asked to repeat the message (`echo`), and a reply that does not is not
  used. `echo=False` is for servers that go on with a message but cannot repeat it; look at a few of their p first.
- chat templates that rewrite `<think>` (those of some reasoning models) make vLLM answer 400: such a model is no
  listener for this prompt.

Whatever goes wrong, a trace without p is None, never a guess: `lrt.rewards` then drops this listener from the whole
group. `RemoteListener.unscored` counts the reasons, and one warning a call names them.
"""

import asyncio
import logging
import os
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from copy import copy
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime

import httpx

from lrt.chat_protocol import Unscored, data_urls, p_from, request
from lrt.images import within
from lrt.prompts import ENGLISH_WORDING, Wording, heard, listener_continuation
from lrt.world import rng

KEY = "LRT_LISTENER_KEY"  # the environment variable with the API key, if the server wants one
AGAIN = {408, 425, 429, *range(500, 600)}  # what may pass; any other status is final
log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemoteSettings:
    """How patiently a server is asked. Seconds, unless said otherwise."""

    timeout: float = 60.0  # for one request, from connecting to the last byte
    connect: float = 10.0  # of these, for connecting: a machine that is gone does not say so
    budget: float = 300.0  # for one call of `p_first`; what is not answered then stays unscored
    in_flight: int = 16  # requests at a time, over all calls on an event loop; each process has its own
    retries: int = 4  # after the first attempt, if the fault may pass: 408, 425, 429, 5xx, no connection, time-out
    backoff: float = 0.5  # before the first retry; doubled for each, times 0.5 to 1.5 by chance
    longest: float = 30.0  # the longest such wait; a server's Retry-After may ask for more
    top_logprobs: int = 20  # alternatives asked for; vLLM gives no more than 20 unless told (--max-logprobs)
    max_bytes: int = 1_000_000  # of a reply; a larger one is not read
    echo: bool = True  # the reply must repeat the message that it goes on with
    answers: tuple[str, str] = ("1", "2")  # the exact text of the two tokens
    answer_ids: tuple[int, int] | None = None  # their numbers in the tokenizer, instead of their text
    seed: int = 0  # of the chance in the waits

    def __post_init__(self):
        if min(self.timeout, self.connect, self.budget, self.backoff, self.longest) <= 0 or self.retries < 0:
            raise ValueError("times are seconds above 0, and retries at least 0")
        if self.in_flight < 1 or self.top_logprobs < 2 or self.max_bytes < 1:
            raise ValueError("in_flight and max_bytes are at least 1, top_logprobs at least 2")


class RemoteListener:
    """A model behind `url` (the address up to and with `/v1`) as a listener; see the head of this file.

    `p_first` has the form of `listener.Listener`; `p_first_async` is the same for an event loop, and what
    `lrt.async_rewards` awaits. `verdict=False` removes sentences that name a winner from every trace. An image of more
    than `max_pixels` is made smaller before it is sent, as the reasoner's own processor does. The key, if any, is read
    from the environment variable LRT_LISTENER_KEY and stands in no log. The request goes to this host and nowhere else:
    no redirects, no proxy, no .netrc.

    `unscored` counts reasons since the start: "timeout", "budget", "connection", "cut off", "http 503", "too large",
    "not json", "malformed", "refused", "not continued", "no answer token", "ambiguous", "not finite".
    Raises ValueError for an address that is not plain http or https, or a key that no header can hold.
    """

    def __init__(
        self,
        url: str,
        model: str,
        wording: Wording = ENGLISH_WORDING,
        settings: RemoteSettings | None = None,
        verdict: bool = True,
        max_pixels: int | None = None,
    ):
        self.url, self.where = _endpoint(url)
        self.max_pixels = max_pixels
        self.model, self.wording, self.verdict = model, wording, verdict
        self.settings = settings or RemoteSettings()
        self.name = model + ("" if verdict else ", verdict removed")  # not the address: a server may move
        self.unscored: Counter[str] = Counter()
        self._gates: dict[asyncio.AbstractEventLoop, asyncio.Semaphore] = {}

    def __str__(self) -> str:
        return f"{self.name} at {self.where}"

    @classmethod
    def at(cls, address: str, wording: Wording = ENGLISH_WORDING, max_pixels: int | None = None) -> "RemoteListener":
        """The listener at `http://host:8000/v1#owner/model`. ValueError where the model is not named."""
        url, _, model = address.partition("#")
        if not model:
            raise ValueError(f"listener {url}: name the model behind the address, as in {url}#owner/model")
        return cls(url, model, wording, max_pixels=max_pixels)

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        """See `listener.Listener.p_first`."""
        asking = self.p_first_async(prompts_B, images_B, traces_BG)
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(asking)
        with ThreadPoolExecutor(1) as pool:  # a notebook's own loop runs here, and cannot wait for itself
            return pool.submit(asyncio.run, asking).result()

    async def p_first_async(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        """`p_first` for an event loop, to which it leaves the time that the server takes."""
        if not len(prompts_B) == len(images_B) == len(traces_BG):
            sizes = f"{len(prompts_B)} prompts, {len(images_B)} pairs of images and {len(traces_BG)} groups of traces"
            raise ValueError(f"a listener takes one of each a pair, not {sizes}")
        urls_B = [data_urls([within(image, self.max_pixels) for image in images]) for images in images_B]
        gate = self._gate()
        client = httpx.AsyncClient(
            headers=_headers(),
            limits=httpx.Limits(max_connections=self.settings.in_flight),
            verify=self.url.startswith("https:"),  # plain http has no certificates, and reading ours takes a while
            follow_redirects=False,
            trust_env=False,
        )
        deadline = asyncio.get_running_loop().time() + self.settings.budget
        failed: Counter[str] = Counter()
        async with client, asyncio.TaskGroup() as tasks:
            asked_BG = [
                [
                    tasks.create_task(self._patiently(client, gate, deadline, failed, prompt, urls, trace))
                    for trace in traces
                ]
                for prompt, urls, traces in zip(prompts_B, urls_B, traces_BG, strict=True)
            ]
        if failed:
            self.unscored += failed
            total = sum(map(len, traces_BG))
            why = ", ".join(f"{reason} {n}" for reason, n in failed.most_common())
            log.warning("listener %s: %d of %d traces not scored: %s", self, failed.total(), total, why)
        return [[asked.result() for asked in group] for group in asked_BG]

    def _gate(self) -> asyncio.Semaphore:
        """The one limit of all calls on this event loop; those of loops that are over are forgotten."""
        self._gates = {loop: gate for loop, gate in self._gates.items() if not loop.is_closed()}
        return self._gates.setdefault(asyncio.get_running_loop(), asyncio.Semaphore(self.settings.in_flight))

    async def _patiently(self, client, gate, deadline, failed, prompt, urls, trace) -> float | None:
        """Ask until there is an answer, the fault is final, or patience is at an end."""
        how, chance = self.settings, rng("remote listener", self.settings.seed, prompt, trace)
        now = asyncio.get_running_loop().time
        try:
            async with asyncio.timeout_at(deadline):
                for attempt in range(how.retries + 1):
                    try:
                        async with gate:
                            return await self._ask(client, prompt, urls, trace)
                    except Unscored as fault:
                        wait = min(how.backoff * 2**attempt, how.longest) * (0.5 + float(chance.random()))
                        wait = max(wait, fault.after)
                        if not fault.again or attempt == how.retries or now() + wait > deadline:
                            failed[fault.reason] += 1
                            return None
                    await asyncio.sleep(wait)  # not in flight: the place is another's meanwhile
        except TimeoutError:
            failed["budget"] += 1
        return None

    async def _ask(self, client: httpx.AsyncClient, prompt: str, urls: Sequence[str], trace: str) -> float:
        """p from one request. Raises Unscored."""
        start = listener_continuation(heard(trace, self.verdict))
        how = self.settings
        try:
            async with asyncio.timeout(how.timeout), client.stream(
                "POST",
                self.url,
                json=request(
                    self.model, prompt, urls, self.wording, start, how.top_logprobs, how.echo, bool(how.answer_ids)
                ),
                timeout=httpx.Timeout(None, connect=how.connect),
            ) as reply:
                if reply.status_code != 200:
                    status = reply.status_code
                    raise Unscored(f"http {status}", status in AGAIN, _retry_after(reply.headers.get("retry-after")))
                body = await _bounded(reply, how.max_bytes)
        except (TimeoutError, httpx.TimeoutException):
            raise Unscored("timeout", again=True) from None
        except httpx.RemoteProtocolError:
            raise Unscored("cut off", again=True) from None
        except httpx.HTTPError:
            raise Unscored("connection", again=True) from None
        tokens = tuple(f"token_id:{i}" for i in how.answer_ids) if how.answer_ids else how.answers
        return p_from(body, start if how.echo else "", tokens)


def check_answer(listener: RemoteListener, prompt: str, images: Sequence, patience: float = 60.0) -> None:
    """Ask about one pair, for at most so many seconds. ValueError with the reason where the listener has no p for it: a
    server that is not up, or another model's name, leaves every group of a run without its listener."""
    trial, budget = copy(listener), min(patience, listener.settings.budget)
    trial.settings, trial.unscored = replace(listener.settings, budget=budget), Counter()
    ((p,),) = trial.p_first([prompt], [images], [["image 1 is better ."]])
    if p is None:
        why = ", ".join(trial.unscored) or "no reason given"
        raise ValueError(f"listener {listener} does not score a pair ({why}): is its server up, and is this the name "
                         "under which it serves the model? Nothing was trained")


def _endpoint(url: str) -> tuple[str, str]:
    """(address of the chat, host and port) of a base address."""
    try:
        parts = httpx.URL(url)
    except (httpx.InvalidURL, TypeError):
        raise ValueError(f"listener {url!r} is not an address") from None
    if parts.scheme not in ("http", "https") or not parts.host:
        raise ValueError(f"listener {url!r}: an address begins with http:// or https:// and a host")
    if parts.userinfo or parts.query or parts.fragment:
        raise ValueError(f"a listener's address ends with its path, and a key belongs in {KEY}, not in the address")
    where = parts.netloc.decode()
    return f"{parts.scheme}://{where}{parts.path.rstrip('/')}/chat/completions", where


def _headers() -> dict[str, str]:
    key = os.environ.get(KEY, "").strip()
    if not (key.isascii() and key.isprintable()):
        raise ValueError(f"{KEY} holds characters that no header may have")
    plain = {"Accept-Encoding": "identity"}  # a compressed reply may unpack to any size
    return plain | ({"Authorization": f"Bearer {key}"} if key else {})


async def _bounded(reply: httpx.Response, limit: int) -> bytes:
    if reply.headers.get("content-encoding", "identity") != "identity":
        raise Unscored("malformed")
    body = bytearray()
    async for chunk in reply.aiter_raw():
        body += chunk
        if len(body) > limit:
            raise Unscored("too large")
    return bytes(body)


def _retry_after(text: str | None) -> float:
    """Seconds that a server asks to be left alone for: a number, or a date (RFC 9110); 0 where it says nothing."""
    if text is None or len(text) > 100:
        return 0.0
    if text.strip().isascii() and text.strip().isdigit():
        return float(text)
    try:
        until = parsedate_to_datetime(text)
    except (ValueError, OverflowError):  # no date, or one that no calendar has
        return 0.0
    until = until if until.tzinfo else until.replace(tzinfo=UTC)
    return max(0.0, (until - datetime.now(UTC)).total_seconds())
