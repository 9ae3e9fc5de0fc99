"""Rollouts by a vLLM server: what TRL sends to it, and the commands at the heads of data/configs that start it."""

import importlib.util
import json
import re
import shlex
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
import requests
import torch
import trl.trainer.grpo_trainer
from tiny_runs import build
from trl.generation.vllm_client import VLLMClient
from trl.scripts.vllm_serve import ScriptArguments, build_command

from lrt import grpo
from lrt.grpo import GRPOSettings
from lrt.machine.shapes import TEXT
from lrt.pairs import tiny_pairs
from lrt.profiles import REAL
from lrt.rewards import format_reward

CONFIGS = Path(__file__).resolve().parents[1] / "data" / "configs"
WITH_SERVER = GRPOSettings(steps=1, pairs_per_step=2, num_generations=2, save_every=1, image_side=56,
                           vllm_server="http://127.0.0.1:8000")
SEVERAL = [one for one in REAL.values() if one.cards > 1]


# ---- image tokens ----


@pytest.fixture
def served():
    """(address of a server that answers as vLLM's /inference/v1/generate does, what it was asked)."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            choice = {"token_ids": [5], "logprobs": {"content": [{"token": "token_id:5", "logprob": -1.0,
                                                                  "top_logprobs": []}]}}
            body = json.dumps({"choices": [choice] * asked[-1]["sampling_params"]["n"]}).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}", asked
    server.shutdown()
    server.server_close()


def test_a_server_is_told_never_to_write_an_image_token(served, tmp_path, monkeypatch):
    """From the settings through TRL's trainer and client to the request: TRL leaves image tokens alone here."""
    found = {}

    class Here(Exception):
        pass

    def engine(**how):
        found.update(how)
        raise Here

    loaded = build()
    look = importlib.util.find_spec
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *rest: name == "vllm" or look(name, *rest))
    monkeypatch.setattr(trl.trainer.grpo_trainer, "VLLMGeneration", engine)
    with pytest.raises(Here):  # it would look for the server
        grpo.build_trainer(loaded, tiny_pairs("train", 4), [format_reward], [1.0], WITH_SERVER, tmp_path)

    address, asked = served
    client = VLLMClient.__new__(VLLMClient)  # its own constructor wants the package vllm
    client.base_url, client.session, client.model = address, requests.Session(), "a model"
    client.generate([[1, 2]], features=[{}], n=2, generation_kwargs=found["generation_kwargs"])
    image = loaded.model.config.image_token_id
    assert asked[0]["sampling_params"]["logit_bias"] == {str(image): -100.0}
    assert asked[0]["sampling_params"]["n"] == 2  # and nothing else is lost


def test_the_image_tokens_id_is_asked_for_where_a_server_writes(tmp_path):
    cpu = torch.device("cpu")
    with pytest.raises(ValueError, match="with vllm_server say which id the image token has"):
        grpo.trl_config(WITH_SERVER, [1.0], tmp_path, cpu)
    here = GRPOSettings(steps=1, pairs_per_step=2, num_generations=2, save_every=1)
    assert grpo.trl_config(here, [1.0], tmp_path, cpu, 7).generation_kwargs is None  # or TRL's own would be replaced


# ---- the commands ----


def commands(path):
    """{port: (cards, words after `vllm serve`)} of the servers, and the words of the training command."""
    head = path.read_text().split("compute_environment")[0]
    text = re.sub(r" *\\\n# *", " ", head)
    lines = [line.lstrip("# ") for line in text.splitlines()]
    servers = {}
    for line in lines:
        if " vllm serve " in f" {line}":
            words = shlex.split(line)
            cards = next(word for word in words if word.startswith("CUDA_VISIBLE_DEVICES=")).split("=")[1].split(",")
            rest = words[words.index("serve") + 1:]
            servers[rest[rest.index("--port") + 1]] = (cards, rest, words)
    (training,) = [line for line in lines if "accelerate launch" in line and "lrt.cli" in line]
    return servers, shlex.split(training)


def test_there_is_a_configuration_for_every_profile_of_more_than_one_card():
    assert [one.name for one in SEVERAL] == ["gpu-many", "paper"]
    assert all((CONFIGS / one.config).exists() for one in REAL.values() if one.config)


@pytest.mark.parametrize("settings", SEVERAL, ids=lambda one: one.name)
def test_a_profiles_cards_are_those_of_its_configuration(settings):
    servers, training = commands(CONFIGS / settings.config)
    assert set(servers) == {"8000", "8001"} and settings.vllm_server.endswith(":8000")
    assert training[training.index("--profile") + 1] == settings.name
    assert len(servers["8000"][0]) == settings.rollout_gpus and len(servers["8001"][0]) == settings.listener_gpus
    processes = re.search(r"^num_processes: (\d+)", (CONFIGS / settings.config).read_text(), re.M)
    assert int(processes[1]) == settings.gpus
    assert all(rest[0] == settings.reasoner for _, rest, _ in servers.values())


@pytest.mark.parametrize("settings", SEVERAL, ids=lambda one: one.name)
def test_the_rollouts_server_is_started_as_trl_would_start_it(settings):
    """Held against the command that TRL's own (deprecated) `trl vllm-serve` runs."""
    cards, rest, words = commands(CONFIGS / settings.config)[0]["8000"]
    assert "VLLM_SERVER_DEV_MODE=1" in words  # without it weights cannot be passed on
    wanted = build_command(ScriptArguments(settings.reasoner, tensor_parallel_size=len(cards), host="127.0.0.1"))
    wanted = wanted[wanted.index("serve") + 1:]
    said = dict(zip(rest[1::2], rest[2::2], strict=True))
    trls = dict(zip(wanted[1::2], wanted[2::2], strict=True))
    assert said.items() <= trls.items()
    assert {"--weight-transfer-config", "--logprobs-mode", "--max-logprobs", "--tensor-parallel-size"} <= set(said)
    heads = TEXT[settings.size]
    assert heads["num_attention_heads"] % len(cards) == heads["num_key_value_heads"] % len(cards) == 0
    assert json.loads(said["--weight-transfer-config"]) == {"backend": "nccl"}
