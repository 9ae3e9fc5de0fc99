"""The cost table: what `lrt bench gpu` measured, as Markdown, held against its goals.

    seconds         median, with the smallest and the largest in brackets
    peak GiB        the most memory that tensors took, weights included (torch.cuda.max_memory_allocated)
    share           operations that the step needs (`lrt.machine.shapes`; with gradient checkpointing's second forward),
                    over its seconds, over what one big product of matrices reached on the same card
"""

import statistics
from collections.abc import Callable
from pathlib import Path

from lrt.files import read_lines
from lrt.machine.bench import Ratio, line, ratio
from lrt.models import data_dir

TITLES = {
    "sft": "SFT step",
    "grpo": "GRPO step",
    "grpo_listener": "GRPO step with the listener",
}
NEEDED = ("arm", "size", "hardware", "geometry", "date", "found")


def committed() -> Path:
    """Where the repository's own measurements are, if there are any."""
    return data_dir() / "results" / "gpu_cost.jsonl"


def cost_table(path: str | Path | None = None) -> str:
    """Markdown: what was measured on which machine, a table with a column a size, and the goals. "Not measured" where
    there is no file, or nothing in it. ValueError for lines that are no measurements."""
    path = Path(path) if path else committed()
    sizes = by_size(path)
    if not sizes:
        return "Not measured: no GPU has run `lrt bench gpu` for this page.\n"
    parts = ["\n".join(_measured_on(size, arms) for size, arms in sizes.items()), _table(sizes)]
    for size, arms in sizes.items():
        if found := goals(arms, size):
            parts.append(f"Goals at {size} shapes:\n\n" + "\n".join(f"- {_goal(one)}" for one in found))
    return "\n\n".join(parts) + "\n"


def by_size(path: Path) -> dict[str, dict[str, dict]]:
    """size -> arm -> record. ValueError naming the file and the line for a record that is none."""
    found: dict[str, dict[str, dict]] = {}
    for number, record in enumerate(read_lines(path), 1):
        missing = [name for name in NEEDED if not isinstance(record, dict) or name not in record]
        if missing:
            raise ValueError(f"{path}, line {number}: no {missing[0]!r} in it, so `lrt bench gpu` did not write it")
        found.setdefault(record["size"], {})[record["arm"]] = record
    return dict(sorted(found.items()))


# --- goals ---------------------------------------------------------------------------------------------------------


def goals(arms: dict[str, dict], size: str) -> list[Ratio]:
    """What the measurements of one size say of the goals; those that need a missing arm are left out.

    A shared prefix at least 3 times as fast as plain passes (a goal at 7B shapes alone); the listener at most a tenth
    of a step; memory with the listener at most 5 % of the weights above memory without it: no second copy.
    """
    found = []
    if one := _found(arms, "listener"):
        limit = 3.0 if size == "7B" else None
        seconds = one["seconds"]
        found.append(ratio("listener: plain / shared prefix", seconds["plain"], seconds["shared"], at_least=limit))
    if one := _found(arms, "grpo_listener"):
        parts, whole = ([[value] for value in one[name]] for name in ("listener_seconds", "seconds"))
        found.append(ratio("listener's share of a step", parts, whole, at_most=0.1))
        alone = _found(arms, "grpo")
        if alone and alone["peak_gib"] is not None:
            more = (one["peak_gib"] - alone["peak_gib"]) / one["weights_gib"]
            found.append(Ratio("memory the listener adds / weights", more, more, more, "at most 0.05", more <= 0.05))
    return found


def _goal(one: Ratio) -> str:
    return " ".join(line(one).split())


# --- the table -----------------------------------------------------------------------------------------------------


def _found(arms: dict[str, dict], name: str) -> dict | None:
    return arms[name]["found"] if name in arms else None


def _measured_on(size: str, arms: dict[str, dict]) -> str:
    first = next(iter(arms.values()))
    on, geometry = first["hardware"], first["geometry"]
    card = f"{on['name']}, {on['gib']} GiB, CUDA {on['cuda']}" if "gib" in on else on["name"]
    versions = first.get("machine", {})
    with_what = ", ".join(f"{name} {versions[name]}" for name in ("torch", "transformers", "trl") if name in versions)
    model = next((record["found"] for record in arms.values() if "tokens" in record["found"]), None)
    tokens = f", {model['tokens']['chat']} tokens of chat with {model['tokens']['image']} an image" if model else ""
    attention = f", attention {model['attention']}" if model else ""
    return (
        f"- {size}: {card}; {with_what}; commit {first.get('commit') or 'not known'}; {first['date']}. "
        f"Random weights, LoRA rank {geometry['lora_rank']}, gradient checkpointing{attention}; two images of "
        f"{geometry['image']} x {geometry['image']} pixels{tokens}, {geometry['completions']} completions of "
        f"{geometry['trace_tokens']} tokens a pair. Pairs a step: GRPO {geometry['pairs_per_step']}, "
        f"SFT {geometry['completions']}."
    )


def _table(sizes: dict[str, dict[str, dict]]) -> str:
    rows = [("parameters, billions", _parameters), ("weights, GiB", _weights)]
    for name, title in TITLES.items():
        rows.append((f"{title}: seconds", _seconds(name)))
        if name != "sft":
            rows.append(("of which generation", _seconds(name, "generate_seconds")))
        if name == "grpo_listener":
            rows.append(("of which the listener", _seconds(name, "listener_seconds")))
        rows += [(f"{title}: peak GiB", _peak(name)), (f"{title}: share of the arithmetic limit", _share(name))]
    for kind, title in {"plain": "Listener alone, plain", "shared": "Listener alone, shared prefix"}.items():
        rows += [(f"{title}: seconds", _seconds("listener", "seconds", kind)),
                 (f"{title}: peak GiB", _peak("listener", kind)),
                 (f"{title}: share of the arithmetic limit", _share("listener", kind))]
    rows += [("Generation: tokens a second", _tokens_a_second), ("Generation: peak GiB", _peak("generation")),
             ("Generation: share of the arithmetic limit", _share("generation")),
             ("Arithmetic limit, TFLOP/s", _limit)]
    lines = ["| | " + " | ".join(sizes) + " |", "|---|" + "---:|" * len(sizes)]
    for title, cell in rows:
        cells = [_cell(cell, arms) for arms in sizes.values()]
        lines.append(f"| {title} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _cell(cell: Callable[[dict], str | None], arms: dict) -> str:
    try:
        return cell(arms) or "not measured"
    except KeyError:  # the arm that a number comes from was not run
        return "not measured"


def _number(value: float) -> str:
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _times(arms: dict, name: str, what: str = "seconds", kind: str | None = None) -> list[float]:
    values = arms[name]["found"][what]
    return [value for repeat in values[kind] for value in repeat] if kind else values


def _seconds(name: str, what: str = "seconds", kind: str | None = None):
    def cell(arms: dict) -> str:
        values = _times(arms, name, what, kind)
        return f"{_number(statistics.median(values))} ({_number(min(values))} to {_number(max(values))})"

    return cell


def _peak(name: str, kind: str | None = None):
    def cell(arms: dict) -> str | None:
        value = arms[name]["found"]["peak_gib"]
        value = value[kind] if kind else value
        return None if value is None else f"{value:.1f}"

    return cell


def _share(name: str, kind: str | None = None):
    def cell(arms: dict) -> str:
        flops = arms[name]["found"]["flops"]
        a_second = (flops[kind] if kind else flops) / statistics.median(_times(arms, name, "seconds", kind))
        return f"{100 * a_second / arms['matmul']['found']['flops_per_second']:.1f} %"

    return cell


def _parameters(arms: dict) -> str:
    return f"{_any_model(arms)['parameters'] / 1e9:.2f}"


def _weights(arms: dict) -> str:
    return f"{_any_model(arms)['weights_gib']:.1f}"


def _any_model(arms: dict) -> dict:
    found = [record["found"] for record in arms.values() if "parameters" in record["found"]]
    return found[0] if found else {}


def _tokens_a_second(arms: dict) -> str:
    found = arms["generation"]["found"]
    return _number(found["generated"] / statistics.median(found["seconds"]))


def _limit(arms: dict) -> str:
    return _number(arms["matmul"]["found"]["flops_per_second"] / 1e12)
