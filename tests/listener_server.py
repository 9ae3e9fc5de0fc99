"""A server on 127.0.0.1 that answers `/v1/chat/completions` as vLLM documents it, and breaks in every way one can.

Behind it is a function of the request, or a real model that renders the chat, decodes the images and runs by itself.
"""

import base64
import json
import math
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from io import BytesIO

import torch
from PIL import Image


def images_of(body):
    """The images of a request, decoded from their data URLs."""
    contents = [message["content"] for message in body["messages"]]
    parts = [part for content in contents if isinstance(content, list) for part in content]
    urls = [part["image_url"]["url"] for part in parts if part["type"] == "image_url"]
    assert all(url.startswith("data:image/png;base64,") for url in urls)
    return [Image.open(BytesIO(base64.b64decode(url.partition(",")[2]))) for url in urls]


def trace_of(body):
    """The assistant's words so far."""
    last = body["messages"][-1]
    assert last["role"] == "assistant"
    return last["content"]


def says(p):
    """An answering function that knows p(image 1) by the trace: p(trace), in the tokens "1" and "2"."""

    def top(body):
        value = p(trace_of(body))
        return [("1", math.log(value)), ("2", math.log(1 - value)), (" 1", -30.0), ("the", -31.0)]

    return top


def model_behind(loaded):
    """An answering function with a model: its own template, processor and tokenizer, one plain forward pass."""
    lock = threading.Lock()

    def top(body):
        chat = [
            {**m, "content": [{"type": "image"} if part["type"] == "image_url" else part for part in m["content"]]}
            if isinstance(m["content"], list)
            else m
            for m in body["messages"]
        ]
        text = loaded.processor.apply_chat_template(
            chat,
            tokenize=False,
            add_generation_prompt=body.get("add_generation_prompt", True),
            continue_final_message=body.get("continue_final_message", False),
        )
        with lock, torch.no_grad():
            inputs = loaded.processor(text=[text], images=[images_of(body)], return_tensors="pt")
            logp = loaded.model(**inputs).logits[0, -1].float().log_softmax(-1)
        values, ids = logp.topk(min(body["top_logprobs"], len(logp)))
        by_id = body.get("return_tokens_as_token_ids")
        return [
            (f"token_id:{i}" if by_id else loaded.tokenizer.decode([i]), v)
            for i, v in zip(ids.tolist(), values.tolist(), strict=True)
        ]

    return top


def completion(body, top, **changes):
    """The documented reply to a request with these most likely tokens; `changes` go into its one choice."""
    chosen, logprob = top[0]
    listed = [{"token": t, "logprob": max(v, -9999.0), "bytes": list(t.encode())} for t, v in top]
    echoed = trace_of(body) if body.get("echo") else ""
    choice = {
        "index": 0,
        "message": {"role": "assistant", "content": echoed + chosen, "refusal": None},
        "logprobs": {
            "content": [{"token": chosen, "logprob": logprob, "bytes": list(chosen.encode()), "top_logprobs": listed}]
        },
        "finish_reason": "length",
        "stop_reason": None,
    }
    return {
        "id": "chatcmpl-0",
        "object": "chat.completion",
        "created": 0,
        "model": body["model"],
        "choices": [choice | changes],
        "usage": {"prompt_tokens": 9, "completion_tokens": 1, "total_tokens": 10},
    }


class Server(ThreadingHTTPServer):
    """`answer(body)` gives the most likely tokens; `fault(body, n)` a way to break (see `Handler.broken`) or None, `n`
    being how often this trace was asked before; `during(body)` is called while the request is in flight."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, answer, fault=None, during=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.answer, self.fault, self.during = answer, fault or (lambda body, n: None), during or (lambda body: None)
        self.lock, self.bodies, self.headers, self.times = threading.Lock(), [], [], {}
        self.now, self.most = 0, 0  # requests in flight

    @property
    def url(self):
        return f"http://127.0.0.1:{self.server_address[1]}/v1"


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        self.server.bodies.append("GET " + self.path)
        self.reply(200, b"{}")

    def do_POST(self):
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with server.lock:
            n = server.times.get(trace_of(body), 0)
            server.times[trace_of(body)] = n + 1
            server.bodies.append(body)
            server.headers.append({k.lower(): v for k, v in self.headers.items()})
            server.now += 1
            server.most = max(server.most, server.now)
        try:
            server.during(body)
            fault = server.fault(body, n)
            if fault is None:
                self.json(200, completion(body, server.answer(body)))
            else:
                self.broken(fault, body)
        except OSError:
            pass  # the client has gone
        finally:
            with server.lock:
                server.now -= 1

    def broken(self, fault, body):
        good = completion(body, [("1", -0.1), ("2", -2.4)])
        text = json.dumps(good).encode()
        if isinstance(fault, int):
            return self.json(fault, {"error": {"message": "\x1b[2Jno", "type": "x", "code": fault}})
        if isinstance(fault, dict):  # a reply that is well formed but says something else
            return self.json(200, completion(body, [("1", -0.1), ("2", -2.4)], **fault))
        if isinstance(fault, bytes):  # a body
            return self.reply(200, fault)
        if isinstance(fault, list):  # other tokens
            return self.json(200, completion(body, fault))
        name, _, argument = fault.partition(" ")
        if name == "later":
            return self.reply(429, b"{}", {"Retry-After": argument})
        if name == "redirect":
            return self.reply(307, b"", {"Location": f"/v1/elsewhere?{argument}"})
        if name == "packed":
            return self.reply(200, text, {"Content-Encoding": "gzip"})
        if name == "cut":
            self.reply(200, text[: len(text) // 2], {"Content-Length": str(len(text))})
        if name == "drip":
            self.reply(200, text[:5], {"Content-Length": str(len(text))})
            self.server.stop.wait(20)
        self.close_connection = True
        if name == "hang":
            self.server.stop.wait(20)
        return None  # "drop", and the rest of the others: the connection ends here

    def json(self, status, value):
        self.reply(status, json.dumps(value).encode())

    def reply(self, status, data, headers=()):
        headers = {"Content-Type": "application/json", "Content-Length": str(len(data)), **dict(headers)}
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)
        self.wfile.flush()

    def log_message(self, *args):
        pass


@contextmanager
def serving(answer, fault=None, during=None):
    """A running `Server`; `stop` releases the requests that hang."""
    server = Server(answer, fault, during)
    server.stop = threading.Event()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stop.set()
        server.shutdown()
        server.server_close()
        thread.join()
