"""A remote listener gives the local one's p, or None with a reason; whatever a server does, and never "right"."""

import asyncio
import json
import logging
import math
import socket
import threading
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime, formatdate
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from listener_server import images_of, model_behind, says, serving, trace_of
from PIL import Image
from tiny_runs import build
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import smart_resize
from trl.trainer.utils import get_callable_name, is_async_callable

from lrt.answer_slot import answer_token_ids
from lrt.async_rewards import AsyncListenerReward, listener_reward
from lrt.chat_protocol import Unscored, data_urls, p_from
from lrt.images import within
from lrt.listener import LocalListener, p_of
from lrt.models import limit_pixels
from lrt.prompts import TINY_WORDING, listener_continuation
from lrt.remote import KEY, RemoteListener, RemoteSettings, _retry_after, check_answer
from lrt.rewards import ListenerReward

QUICK = {"backoff": 0.001, "longest": 0.002}
PROMPTS = ["red circle top-left", "green star top-right"]
TRACES = [["image 1 is better .", "", "red circle"], ["blue"]]


@cache
def pictures():
    r = np.random.default_rng(0)
    sizes = [((56, 56), (112, 56)), ((84, 140), (56, 84))]
    return [[Image.fromarray(r.integers(0, 256, (h, w, 3), dtype=np.uint8)) for w, h in pair] for pair in sizes]


def remote(server, wording=TINY_WORDING, verdict=True, **changes):
    return RemoteListener(server.url, "tiny", wording, RemoteSettings(**{**QUICK, **changes}), verdict)


def ask(listener, traces=("red",)):
    """p of one pair's traces."""
    return listener.p_first(PROMPTS[:1], pictures()[:1], [list(traces)])[0]


def known(start):
    """p by the trace, for `says`: the number that it ends with, 0.8 without one."""
    word = start.split()[-3]
    return float(word) if word.startswith("0.") else 0.8


# ---- the same number as the local listener ----


@cache
def model(kind):
    loaded = build(kind)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in loaded.model.parameters():  # wide, so that what is read moves the answer
            if parameter.ndim > 1:
                parameter.normal_(0, 2 * parameter[0].numel() ** -0.5, generator=generator)
    loaded.model.eval().requires_grad_(False)
    return loaded


@pytest.mark.parametrize("kind", ["qwen", "llava"])
@pytest.mark.parametrize("by_number", [False, True])
def test_remote_and_local_p_are_equal(kind, by_number):
    loaded = model(kind)
    local = LocalListener(loaded)
    ids = answer_token_ids(loaded) if by_number else None
    with serving(model_behind(loaded)) as server:
        listener = remote(server, top_logprobs=100, answer_ids=ids)
        found = listener.p_first(PROMPTS, pictures(), TRACES)
        assert not listener.unscored
    expected = local.p_first(PROMPTS, pictures(), TRACES)
    assert [len(group) for group in found] == [3, 1]
    flat = [p for group in expected for p in group]
    assert max(flat) - min(flat) > 0.01  # not one number for all
    assert [p for group in found for p in group] == pytest.approx(flat, abs=1e-4)


def test_without_the_verdict_remote_and_local_agree_too():
    loaded, trace = model("qwen"), "red circle . image 1 is better . </think> <answer> 2"
    with serving(model_behind(loaded)) as server:
        found = ask(remote(server, verdict=False, top_logprobs=100), [trace])
        assert trace_of(server.bodies[0]) == listener_continuation("red circle .")  # and never the answer
    expected = LocalListener(loaded, verdict=False).p_first(PROMPTS[:1], pictures()[:1], [[trace]])[0]
    assert found == pytest.approx(expected, abs=1e-4)


def test_two_of_few_alternatives_are_not_enough():
    """A random model's "1" and "2" are seldom among its two likeliest tokens: then there is no p, not a guess."""
    loaded = model("qwen")
    likeliest = model_behind(loaded)
    with serving(likeliest) as server:
        listener = remote(server, top_logprobs=2)
        assert ask(listener) == [None]
        names = {token for token, _ in likeliest(server.bodies[0])}
    assert names != {"1", "2"} and listener.unscored == {"no answer token": 1}


def test_what_is_sent():
    with serving(says(known)) as server:
        ask(remote(server))
        (body,) = server.bodies
        (headers,) = server.headers
    assert {k: v for k, v in body.items() if k != "messages"} == {
        "model": "tiny", "max_tokens": 1, "temperature": 0, "logprobs": True, "top_logprobs": 20, "echo": True,
        "add_generation_prompt": False, "continue_final_message": True,
    }  # fmt: skip
    user, assistant = body["messages"]
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text", "image_url", "text"]
    assert assistant == {"role": "assistant", "content": "<think> red </think> <answer>"}
    assert "authorization" not in headers and headers["accept-encoding"] == "identity"


def test_images_come_through_to_the_bit():
    r = np.random.default_rng(1)
    noise = Image.fromarray(r.integers(0, 256, (40, 30, 3), dtype=np.uint8))
    see_through = Image.fromarray(r.integers(0, 256, (7, 9, 4), dtype=np.uint8), "RGBA")
    turned = noise.copy()
    turned.info |= {"icc_profile": b"x" * 50, "exif": b"Exif\x00\x00MM\x00*\x00\x00\x00\x08\x00\x00", "gamma": 0.1}
    others = [noise.convert("L"), noise.convert("P"), noise.convert("CMYK"), noise.convert("1"), see_through, turned]
    for image in [noise, *others]:
        (url,) = data_urls([image])
        body = {"messages": [{"content": [{"type": "image_url", "image_url": {"url": url}}]}]}
        (back,) = images_of(body)
        assert back.mode == "RGB" and not back.info and not back.getexif()
        assert np.array_equal(np.asarray(back), np.asarray(image.convert("RGB")))


def test_a_large_image_is_sent_at_the_size_that_the_reasoner_sees():
    loaded = build("qwen")
    limit_pixels(loaded.processor, 84 * 84)
    r = np.random.default_rng(1)
    large, small = (Image.fromarray(r.integers(0, 256, (h, w, 3), dtype=np.uint8)) for h, w in ((200, 120), (40, 30)))
    with serving(says(known)) as server:
        listener = RemoteListener(server.url, "tiny", TINY_WORDING, max_pixels=84 * 84)
        listener.p_first(["red circle"], [(large, small)], [["0.5"]])
        one, two = images_of(server.bodies[0])
    grid = loaded.processor.image_processor(images=[large], return_tensors="pt")["image_grid_thw"][0].tolist()
    assert one.size == (14 * grid[2], 14 * grid[1]) and one.width * one.height <= 84 * 84
    assert np.array_equal(np.asarray(two), np.asarray(small)), "within the limit: to the bit"


@pytest.mark.parametrize("size", [(576, 448), (448, 576), (500, 520), (512, 512), (300, 200), (1200, 300)])
def test_the_limit_is_that_of_qwens_processor(size):
    image = Image.new("RGB", size)
    sent = within(image, 512 * 512)
    seen = smart_resize(image.height, image.width, 28, 56 * 56, 512 * 512)
    assert sent is image or sent.size == seen[::-1]
    assert smart_resize(sent.height, sent.width, 28, 56 * 56, 10**8) == seen, "a server with no such limit agrees"


def test_inside_a_running_loop_too():
    async def in_a_notebook():
        return ask(remote(server), ["0.25"])

    with serving(says(known)) as server:
        assert asyncio.run(in_a_notebook()) == pytest.approx([0.25])


# ---- faults ----

TOP = [{"token": "1", "logprob": -0.1, "bytes": None}, {"token": "2", "logprob": -2.4, "bytes": None}]


def listed(*top):
    return {"logprobs": {"content": [{"token": "1", "logprob": -0.1, "top_logprobs": list(top)}]}}


def said(**message):
    return {"message": {"role": "assistant", "content": "<think> 0.3 </think> <answer>1", **message}}


NAN = json.dumps({"choices": [{**said(), **listed(TOP[0] | {"logprob": math.nan}, TOP[1])}]}).encode()
FAULTS = [  # what the server does, the reason that is counted, and how often it is asked with three retries
    (400, "http 400", 1),
    (401, "http 401", 1),
    (404, "http 404", 1),
    (422, "http 422", 1),
    (408, "http 408", 4),
    (429, "http 429", 4),
    (500, "http 500", 4),
    (503, "http 503", 4),
    ("redirect x", "http 307", 1),
    ("drop", "cut off", 4),
    ("cut", "cut off", 4),
    ("packed", "malformed", 1),
    (b"", "not json", 1),
    (b"<html>\x1b[31m busy", "not json", 1),
    (b"[" * 3_000, "not json", 1),
    (b"\xff\xfe\x00", "not json", 1),
    (b"[]", "malformed", 1),
    (b"null", "malformed", 1),
    (b'{"choices": []}', "malformed", 1),
    (b'{"choices": [{"message": null}]}', "malformed", 1),
    (b'{"error": {"message": "out of memory"}}', "refused", 1),
    ({"finish_reason": "content_filter"}, "refused", 1),
    (said(refusal="I cannot help with that"), "refused", 1),
    (said(content="1"), "not continued", 1),
    (said(content=None), "not continued", 1),
    (said(content=["1"]), "malformed", 1),
    ({"logprobs": None}, "malformed", 1),
    ({"logprobs": {"content": []}}, "malformed", 1),
    (listed(), "no answer token", 1),
    (listed(TOP[0]), "no answer token", 1),
    (listed(TOP[1]), "no answer token", 1),
    (listed(TOP[0], TOP[1] | {"token": " 2"}), "no answer token", 1),
    (listed(TOP[0], TOP[1], TOP[1]), "ambiguous", 1),
    (listed(TOP[0], {"token": "2"}), "malformed", 1),
    (listed(TOP[0], TOP[1] | {"logprob": "-2.4"}), "malformed", 1),
    (listed(TOP[0], TOP[1] | {"logprob": True}), "malformed", 1),
    (listed(TOP[0], TOP[1] | {"logprob": None}), "malformed", 1),
    (listed(TOP[0], TOP[1] | {"logprob": -9999.0}), "not finite", 1),
    (listed(TOP[0], TOP[1] | {"logprob": 3.5}), "not finite", 1),
    (listed(TOP[0], TOP[1] | {"logprob": 10**400}), "not finite", 1),
    (NAN, "not finite", 1),
    (NAN.replace(b"NaN", b"-Infinity"), "not finite", 1),
    (b'"' + b"x" * 5000 + b'"', "too large", 1),
]


@pytest.mark.parametrize(("fault", "reason", "times"), FAULTS, ids=[f"{i} {reason}" for i, (_, reason, _) in
                                                                  enumerate(FAULTS)])  # fmt: skip
def test_a_fault_is_no_answer_has_a_reason_and_leaves_the_others(fault, reason, times, caplog):
    faulty = listener_continuation("0.3")
    with serving(says(known), lambda body, n: fault if trace_of(body) == faulty else None) as server:
        listener = remote(server, retries=3, max_bytes=4000)
        with caplog.at_level(logging.WARNING, "lrt"):
            found = ask(listener, ["0.2", "0.3", "0.4"])
        assert server.times[faulty] == times and len(server.bodies) == times + 2
        assert all(isinstance(body, dict) for body in server.bodies)  # nothing but POSTs: no redirect was followed
    assert found == [pytest.approx(0.2), None, pytest.approx(0.4)]
    assert listener.unscored == {reason: 1}
    (record,) = caplog.records
    assert f"1 of 3 traces not scored: {reason} 1" in record.getMessage()
    assert record.getMessage().isprintable()  # nothing of what the server wrote


def test_what_passes_is_asked_again():
    faults = [503, "drop", "cut", "later 0", None]
    with serving(says(known), lambda body, n: faults[n]) as server:
        listener = remote(server, retries=4)
        assert ask(listener) == pytest.approx([0.8]) and not listener.unscored
        assert len(server.bodies) == 5


def test_a_time_out_is_asked_again_and_then_given_up():
    with serving(says(known), lambda body, n: "drip" if trace_of(body).split()[1] == "slow" else None) as server:
        listener = remote(server, timeout=0.2, retries=1)
        assert ask(listener, ["slow", "0.4"]) == [None, pytest.approx(0.4)]
        assert server.times[listener_continuation("slow")] == 2
    assert listener.unscored == {"timeout": 1}


def test_the_budget_ends_a_call_whatever_else_is_allowed():
    with serving(says(known), lambda body, n: "hang" if "0.4" not in trace_of(body) else None) as server:
        listener = remote(server, timeout=100.0, budget=3.0, in_flight=2)
        assert ask(listener, ["0.4", "a", "b", "c"]) == [pytest.approx(0.4), None, None, None]
        assert len(server.bodies) == 3  # the fourth was never sent
    assert listener.unscored == {"budget": 3}


def test_a_server_may_ask_for_more_time_than_there_is():
    with serving(says(known), lambda body, n: "later 3600") as server:
        listener = remote(server, budget=5.0)
        assert ask(listener) == [None]
        assert len(server.bodies) == 1  # it was not asked again before its time
    assert listener.unscored == {"http 429": 1}


def test_nobody_there():
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound, not listening
        url = f"http://127.0.0.1:{taken.getsockname()[1]}/v1"
        listener = RemoteListener(url, "m", settings=RemoteSettings(**QUICK))
        assert ask(listener, ["a", "b"]) == [None, None]
    assert listener.unscored == {"connection": 2}


def test_retry_after_is_a_number_or_a_date():
    assert _retry_after("7") == 7 and _retry_after("0") == 0 and _retry_after(None) == 0
    later = datetime.now(UTC) + timedelta(seconds=100)
    assert 95 < _retry_after(format_datetime(later, usegmt=True)) <= 100
    assert _retry_after(formatdate(0, usegmt=True)) == 0
    assert [_retry_after(text) for text in ("soon", "-1", "1e9", "x" * 1000, "", "٣")] == [0] * 6
    no_calendar = ("Mon, 01 Jan 99999999999 00:00:00 GMT", "Mon, 01 Jan 2024 00:00:00 +99999999999")
    assert [_retry_after(text) for text in no_calendar] == [0, 0]


@settings(max_examples=60, deadline=None)
@given(st.recursive(st.none() | st.booleans() | st.floats() | st.text(max_size=8), lambda x: st.lists(x, max_size=3)
                    | st.dictionaries(st.sampled_from(["choices", "message", "content", "logprobs", "token", "error",
                                                       "top_logprobs", "logprob", "finish_reason"]), x), max_leaves=12)
       | st.binary(max_size=30))  # fmt: skip
def test_any_reply_is_a_p_or_a_reason(reply):
    body = reply if isinstance(reply, bytes) else json.dumps(reply).encode()
    with pytest.raises(Unscored):  # no such reply happens to be a whole one
        p_from(body, "<think>")


@settings(max_examples=60, deadline=None)
@given(st.floats(-60, 0), st.floats(-60, 0))
def test_p_is_the_softmax_of_the_two(z_1, z_2):
    body = {"choices": [said() | listed(TOP[1] | {"logprob": z_2}, TOP[0] | {"logprob": z_1})]}
    assert p_from(json.dumps(body).encode(), "<think> 0.3") == p_of((z_1, z_2))


# ---- side by side, and not too many ----


def test_no_more_than_the_limit_are_in_flight_and_as_many_as_it_allows():
    three = threading.Barrier(3)  # opens only while three requests are in flight
    with serving(says(known), during=lambda body: three.wait(30)) as server:
        listener = remote(server, in_flight=3)

        async def two_calls():  # one limit for both
            calls = [
                listener.p_first_async(PROMPTS, pictures(), [[f"0.{i}{k}" for k in range(1, 4)], ["0.5"] * 3])
                for i in (1, 2)
            ]
            return await asyncio.gather(*calls)

        found = asyncio.run(two_calls())
        assert server.most == 3 and len(server.bodies) == 12
    assert found[1] == [pytest.approx([0.21, 0.22, 0.23]), pytest.approx([0.5] * 3)] and not listener.unscored


COLUMNS = {
    "pair_text": PROMPTS[:1] * 2 + PROMPTS[1:] * 2, "vote": [1, 1, 2, 2], "pair_id": ["a", "a", "b", "b"],
}  # fmt: skip


def columns(*traces):
    images = [pictures()[0]] * 2 + [pictures()[1]] * 2
    return {**COLUMNS, "images": images, "completions": [f"<think> {t} </think> <answer> 1 </answer>" for t in traces]}


def test_two_listeners_answer_side_by_side():
    both = threading.Barrier(2)  # opens only if a request of each server is in flight with one of the other
    with (
        serving(says(lambda t: 0.9), during=lambda body: both.wait(30)) as one,
        serving(says(lambda t: 0.5), during=lambda body: both.wait(30)) as two,
    ):
        reward = AsyncListenerReward([remote(server, in_flight=1) for server in (one, two)])
        rewards = asyncio.run(reward(**columns("x", "y", "z", "w")))
        assert one.most == two.most == 1 and len(one.bodies) == len(two.bodies) == 4
    assert rewards == pytest.approx([0.7, 0.7, 0.3, 0.3])


# ---- as a reward ----


def test_the_async_reward_is_the_plain_ones_and_what_trl_takes():
    given = columns("0.2", "0.3", "0.4", "0.9")
    given["completions"][1] = "no format"
    logged = {}
    with serving(says(known)) as server:
        listener = remote(server)
        reward = listener_reward([listener])
        assert is_async_callable(reward) and get_callable_name(reward) == "listener_reward"
        found = asyncio.run(reward(**given, log_metric=logged.__setitem__))
        assert found == ListenerReward(listener)(**given) == pytest.approx([0.2, 0.0, 0.6, 0.1])
    assert (reward.unparsable, reward.unscored_groups) == (1, 0) and reward.seconds > 0
    assert set(logged) == {"listener/unparsable", "listener/unscored_groups", "listener/seconds"}


def test_a_group_with_a_fault_loses_its_listeners_part_and_the_log_says_why(caplog):
    faulty = listener_continuation("0.3")
    logged = {}
    with serving(says(known), lambda body, n: 404 if trace_of(body) == faulty else None) as server:
        reward = listener_reward([remote(server)])
        found = asyncio.run(reward(**columns("0.2", "0.3", "0.4", "0.9"), log_metric=logged.__setitem__))
    assert found == [None, None, pytest.approx(0.6), pytest.approx(0.1)]
    assert logged["listener/unscored/http 404"] == 1 and logged["listener/unscored_groups"] == 0.5
    assert "1 of 4 traces not scored: http 404 1" in caplog.text and "no listener reward for a:" in caplog.text


# ---- addresses and keys ----


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("ftp://host/v1", "http:// or https://"),
        ("file:///etc/passwd", "http:// or https://"),
        ("host:8000/v1", "http:// or https://"),
        ("http:///v1", "http:// or https://"),
        ("http://host:port/v1", "not an address"),
        ("http://user:secret@host/v1", "not in the address"),
        ("http://host/v1?key=secret", "not in the address"),
    ],
)
def test_other_addresses_are_refused(url, says):
    with pytest.raises(ValueError, match=says) as caught:
        RemoteListener(url, "m")
    assert "secret" not in str(caught.value)


def test_the_key_is_sent_and_never_told(monkeypatch, caplog):
    monkeypatch.setenv(KEY, "sk-secret")
    with caplog.at_level(logging.DEBUG), serving(says(known), lambda body, n: 401) as server:
        listener = remote(server)
        assert ask(listener) == [None]
        assert server.headers[0]["authorization"] == "Bearer sk-secret"
    assert "sk-secret" not in caplog.text + repr(vars(listener)) + listener.name
    monkeypatch.setenv(KEY, "two\nlines")
    with pytest.raises(ValueError, match=f"{KEY} holds characters"):
        ask(listener)


@pytest.mark.parametrize("changes", [{"timeout": 0}, {"retries": -1}, {"in_flight": 0}, {"top_logprobs": 1}])
def test_settings_that_make_no_sense(changes):
    with pytest.raises(ValueError):
        RemoteSettings(**changes)


@pytest.mark.parametrize("answer", [[("the", -0.1), ("a", -2.0)], [("1", float("nan")), ("2", -1.0)]])
def test_a_listener_without_an_answer_is_found_before_a_run(answer):
    pair = [Image.new("RGB", (8, 8)) for _ in range(2)]
    with serving(says(lambda t: 0.9), lambda *_: answer) as broken, serving(says(lambda t: 0.9)) as good:
        ear = RemoteListener(broken.url, "m")
        with pytest.raises(ValueError, match="listener m at 127.0.0.1:.* does not score a pair"):
            check_answer(ear, "a cat", pair)
        assert not ear.unscored and ear.settings.budget == 300  # the run counts for itself
        check_answer(RemoteListener(good.url, "m"), "a cat", pair)


# ---- on the command line ----


def test_grpo_hears_listeners_elsewhere_and_here(tmp_path):
    """One step with two servers and a local model: each completion that can be parsed is heard by both servers, of
    which one goes down once training has begun."""
    from typer.testing import CliRunner

    from lrt.cli import app

    train = ["train", "grpo", "--profile", "ci", "--steps", "1", "--out", str(tmp_path / "run")]
    faults = iter([None])  # what is asked before training is answered
    with serving(says(lambda t: 0.9)) as one, serving(says(lambda t: 0.6), lambda *_: next(faults, 404)) as two:
        at = [f"--listener={server.url}#m" for server in (one, two)]
        result = CliRunner().invoke(app, [*train, *at, "--listener", "reader", "--combine", "minimum"])
        assert result.exit_code == 0, (result.output, result.exception)
        assert 1 < len(one.bodies) == len(two.bodies)
        assert "groups that the listener did not score: 0.0 %" in result.stdout
    (line,) = (tmp_path / "run" / "log.jsonl").read_text().splitlines()
    record = json.loads(line)
    assert record["listener/unscored/http 404"] == len(two.bodies) - 1 and record["listener/left_out"] > 0
    assert record["listener/unscored_groups"] == 0 and record["rewards/listener_reward/mean"] is not None
    for arguments, says_so in [
        (["--listener", "http://127.0.0.1:1/v1"], "name the model behind the address"),
        (["--listener", "ftp://127.0.0.1:1/v1#m"], "begins with http:// or https://"),
        (["--listener", "none", "--listener", "reader"], "stands alone"),
        (["--combine", "median", "--listener", "reader", "--listener", "blind"], "mean, minimum, majority"),
    ]:
        result = CliRunner().invoke(app, [*train[:-1], str(tmp_path / "other"), *arguments])
        assert result.exit_code == 2 and says_so in result.stderr
