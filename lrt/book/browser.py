"""Tiny models for a reader's browser: the language part as ONNX, what it takes as inputs, and a check against PyTorch.

The vision part does not export (its code splits by sizes that depend on data), so an image comes as its features. All
else runs in the browser: `export` makes of a model a function

    input_ids (1, T) int32, position_ids (3, 1, T) int32, image_features (N, H) float32 -> logits (1, V) float32

of the next token after the last. N counts the image tokens among the T, H is the model's width, V its vocabulary.
Positions are M-RoPE's three coordinates (Qwen2.5-VL); they come from `prefix`, so that nobody writes them again.
"""

import re
import warnings
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from lrt.listener import scoring
from lrt.models import Loaded

LARGE = 1024  # numbers; a weight of this many is kept in float16, as the shipped models are
OPSET = 20


class LanguagePart(torch.nn.Module):
    """The language part of a Qwen2.5-VL, tokens and image features in, logits (1, V) of the next token out."""

    def __init__(self, model):
        super().__init__()
        self.text, self.head, self.image_id = model.model.language_model, model.lm_head, model.config.image_token_id

    def forward(self, input_ids: torch.Tensor, position_ids: torch.Tensor, image_features: torch.Tensor):
        """See the module's docstring."""
        is_image = input_ids == self.image_id
        which = (is_image.cumsum(1) - 1).clamp(min=0)  # the first image token takes the first row of features
        embeds = torch.where(is_image[..., None], image_features[which], self.text.embed_tokens(input_ids.long()))
        hidden = self.text(inputs_embeds=embeds, position_ids=position_ids.long(), use_cache=False).last_hidden_state
        return self.head(hidden[:, -1])


@dataclass(frozen=True)
class Prefix:
    """The chat about a pair as numbers: `ids` (T), `positions` (3, T), and what a later token's position is less the
    number of tokens before it."""

    ids: list[int]
    positions: list[list[int]]
    shift: int


def prefix(loaded: Loaded, prompt: str, images) -> Prefix:
    """What reasoner and listener read of a pair before a trace begins."""
    inputs = loaded.processor(text=[loaded.chat(prompt)], images=[list(images)], return_tensors="pt")
    positions, shift = loaded.model.model.get_rope_index(**inputs)
    return Prefix(inputs["input_ids"][0].tolist(), positions[:, 0].tolist(), int(shift[0, 0]))


def image_features(loaded: Loaded, prompt: str, images) -> np.ndarray:
    """(N, H) float32: what the vision part makes of a pair's images, a row for each image token."""
    inputs = loaded.processor(text=[loaded.chat(prompt)], images=[list(images)], return_tensors="pt")
    with scoring(loaded.model):
        seen = loaded.model.model.get_image_features(inputs["pixel_values"], inputs["image_grid_thw"], return_dict=True)
    return torch.cat(list(seen.pooler_output)).float().numpy()


# --- export ----------------------------------------------------------------------------------------------------------


def export(loaded: Loaded, path: str | Path) -> Path:
    """Write the language part of a Qwen2.5-VL to an ONNX file, of any length T of at least 2; takes about half a
    minute. ValueError for a model of another architecture."""
    if not hasattr(getattr(loaded.model, "model", None), "language_model") or not hasattr(type(loaded.model.model),
                                                                                        "get_rope_index"):
        raise ValueError(f"{loaded.name}: only Qwen2.5-VL's language part is exported, not {type(loaded.model)}")
    part = LanguagePart(loaded.model).eval()
    length, width = 12, loaded.model.config.text_config.hidden_size
    ids = torch.full((1, length), loaded.tokenizer.unk_token_id, dtype=torch.int32)
    ids[0, 2:4] = part.image_id
    positions = torch.arange(length, dtype=torch.int32).expand(3, 1, length).contiguous()
    tokens, seen = torch.export.Dim("T", min=2, max=2048), torch.export.Dim("N", min=2, max=1024)
    with scoring(loaded.model), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of torchvision, which is not needed
        program = torch.onnx.export(
            part, (ids, positions, torch.zeros(2, width)), dynamo=True, verbose=False, opset_version=OPSET,
            input_names=["input_ids", "position_ids", "image_features"], output_names=["logits"],
            dynamic_shapes=({1: tokens}, {2: tokens}, {0: seen}),
        )
    draft, path = Path(f"{path}.part"), Path(path)
    draft.write_bytes(_slim(program.model_proto).SerializeToString())
    draft.replace(path)
    return path


def _slim(model):
    """The same graph without the exporter's notes (they hold paths of this machine), its large weights in float16
    where that loses nothing: the shipped models are stored so, and a cast gives back the same float32."""
    import onnx
    from onnx import numpy_helper

    graph = model.graph
    for part in (model, graph, *graph.node, *graph.input, *graph.output, *graph.initializer):
        part.doc_string = ""
        del part.metadata_props[:]
    del graph.value_info[:]
    casts = []
    for weight in graph.initializer:
        values = numpy_helper.to_array(weight)
        with np.errstate(over="ignore"):
            half = values.astype(np.float16)
        if values.dtype == np.float32 and values.size >= LARGE and np.array_equal(half.astype(np.float32), values):
            name = weight.name
            weight.CopyFrom(numpy_helper.from_array(half, f"{name}.half"))
            casts.append(onnx.helper.make_node("Cast", [f"{name}.half"], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *graph.node]
    del graph.node[:]
    graph.node.extend(nodes)
    onnx.checker.check_model(model)
    return model


# --- the same numbers without PyTorch --------------------------------------------------------------------------------


class Exported:
    """An exported file, run by onnxruntime in Python as a browser runs it."""

    def __init__(self, path: str | Path):
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])

    def logits(self, before: Prefix, after: list[int], features: np.ndarray) -> np.ndarray:
        """(V,) float32: logits of the token that follows the chat and then the tokens `after`."""
        n = len(before.ids)
        later = np.arange(n, n + len(after)) + before.shift
        positions = np.concatenate([np.array(before.positions), np.tile(later, (3, 1))], axis=1)
        inputs = {"input_ids": np.array([[*before.ids, *after]], dtype=np.int32),
                  "position_ids": positions[:, None].astype(np.int32), "image_features": features}
        return self.session.run(["logits"], inputs)[0][0]


# --- patterns --------------------------------------------------------------------------------------------------------

SPACES = "".join(f"\\u{ord(c):04x}" for c in map(chr, range(0x10000)) if c.isspace())
CLASSES = {r"\s": SPACES, r"\w": r"\p{L}\p{N}_"}


def javascript(pattern: re.Pattern) -> dict[str, str]:
    """A pattern of `lrt.prompts` as JavaScript's source and flags, meaning the same on any text.

    Python's white space and word characters are written out, and possessive repetitions become plain ones: these
    patterns match the same either way. ValueError for what is not known to be the same.
    """
    source, inside, out = pattern.pattern, False, []
    for token in re.findall(r"\\.|\(\?.|[*+?]\+|.", source, re.DOTALL):
        if token in CLASSES:
            token = CLASSES[token] if inside else f"[{CLASSES[token]}]"
        elif re.fullmatch(r"\\[A-Za-z0-9]", token) or (token.startswith("(?") and token != "(?:"):
            raise ValueError(f"{token!r} in {source!r} may mean something else in JavaScript")
        elif token in ("*+", "++", "?+"):
            token = token[0]
        elif token in "[]":
            inside = token == "["
        out.append(token)
    if pattern.flags & ~(re.UNICODE | re.IGNORECASE):
        raise ValueError(f"flags of {source!r} are not known to JavaScript")
    return {"source": "".join(out), "flags": "iu" if pattern.flags & re.IGNORECASE else "u"}
