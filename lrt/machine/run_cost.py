"""What a run of a real profile would cost: tokens and GPU hours, by arithmetic. An estimate; no such run was made here.

Tokens follow from the profile. Operations follow from the published shapes (`lrt.machine.shapes`). Hours follow from
them and from assumptions on throughput (`H100`, `H100_WITH_VLLM`, `T4`), to be replaced by what your cards do:
`lrt bench gpu` measures some of them.
"""

from dataclasses import dataclass
from math import isqrt

from lrt.machine.memory import geometry
from lrt.machine.shapes import linear_weights, meta_model, qwen_config, text_flops, vision_flops
from lrt.profiles import Profile

# Pairs that are judged, each in both orders. ImageReward: 6,399 untied and 831 tied pairs of its test file. HPDv2: its
# README (github.com/tgxs002/HPSv2) counts 153,000 choices in the test set, as it counts 645,000 in training; ten people
# judged each of its pairs, so these are 15,300 pairs. That is our reading of it, and it adds up: 400 prompts, with nine
# images for 300 of them and ten for 100, are 300 x 36 + 100 x 45 pairs. Rapidata's set says its votes (1.2 million),
# not its pairs: it is left out of the sum and named.
BENCHMARK_PAIRS = {"imagereward": 6_399 + 831, "hpdv2": 300 * 36 + 100 * 45, "rapidata": None}
ROUGH = "An estimate by arithmetic from assumptions; no such run was made."


@dataclass(frozen=True)
class Throughput:
    """What a card is assumed to do. None of it was measured."""

    name: str
    peak: float  # operations a second in 16 bits, without sparsity, from the data sheet
    training: float  # share of the peak in forward and backward, with short sequences and an adapter
    prefill: float  # share of the peak in forward passes
    decode: float  # new tokens a second and card, several dozen sequences at a time
    judging: float  # new tokens a second in evaluation: plain generate on one card, `listener_batch` pairs at a time
    trace: int = 200  # tokens of a completion on average; `max_new_tokens` only cuts it


H100 = Throughput("H100, 7B, plain generate", peak=989e12, training=0.30, prefill=0.40, decode=1500.0, judging=300.0)
H100_WITH_VLLM = Throughput("H100, 7B, vLLM", peak=989e12, training=0.30, prefill=0.40, decode=2500.0, judging=300.0)
T4 = Throughput("T4, 3B, plain generate", peak=65e12, training=0.20, prefill=0.25, decode=400.0, judging=150.0)


def assumed(settings: Profile) -> Throughput:
    """The assumptions for a profile's cards."""
    if settings.gpu_gb < 20:
        return T4
    return H100_WITH_VLLM if settings.vllm_server else H100


@dataclass(frozen=True)
class Cost:
    """Of a whole run. Hours are of the clock; `gpu_hours` count every card for as long as training lasts, since cards
    that train wait for those that generate, and the other way round; and one card for the evaluation after it."""

    pairs: int
    completions: int
    prompt_tokens: int  # as the reasoner reads them in training: the prompt once a completion
    new_tokens: int
    hours: dict[str, float]
    gpu_hours: float
    left_out: tuple[str, ...] = ()


def run_cost(settings: Profile, rate: Throughput | None = None) -> Cost:
    """The cost of a profile's GRPO run and its evaluation. ValueError for a profile of the tiny world."""
    if not settings.size:
        raise ValueError(f"{settings.name} is a profile of the tiny world: it runs on any machine")
    rate = rate or assumed(settings)
    pairs = settings.grpo_steps * settings.pairs_per_step
    completions, working = pairs * settings.num_generations, _working(settings)
    prompt = geometry(settings).prompt
    reading, hearing, writing = _flops(settings, rate)
    known = {name: BENCHMARK_PAIRS[name] for name in settings.benchmarks}
    judged = {name: n and min(n, settings.test_pairs) for name, n in known.items()}
    answers = 2 * sum(filter(None, judged.values()))  # both orders
    # A server reads a pair's prompt once for its group; `generate` reads it for each completion.
    prompts = pairs if settings.vllm_server else completions
    # An engine of a listener's server holds what it read: a group that is spread over several is read by each.
    engines = min(settings.listener_gpus, settings.num_generations) or 1
    per_second = rate.peak * rate.prefill
    seconds = {  # of one card
        "generation": prompts * reading / per_second + completions * rate.trace / rate.decode,
        "listener": (engines * pairs * reading + completions * hearing) / per_second,
        "update": completions * writing / (rate.peak * rate.training),
        "evaluation": answers * (reading / per_second + rate.trace / rate.judging),
    }
    hours = {name: value / 3600 / working[name] for name, value in seconds.items()}
    return Cost(
        pairs=pairs,
        completions=completions,
        prompt_tokens=completions * prompt,
        new_tokens=completions * rate.trace,
        hours=hours,
        gpu_hours=sum(hours.values()) * settings.cards - hours["evaluation"] * (settings.cards - 1),
        left_out=tuple(name for name, n in judged.items() if n is None),
    )


def _flops(settings: Profile, rate: Throughput) -> tuple[float, float, float]:
    """Operations to read a pair's prompt with its images, to hear one trace after it, and to learn from one completion:
    forward, forward again (gradient checkpointing), and backward, which costs as much as a forward through frozen
    weights and twice that where all are trained. The vision tower runs forward once."""
    config, shape = qwen_config(settings.size), geometry(settings)
    weights = linear_weights(meta_model(config))
    side = isqrt(shape.patches // 2)
    images = 2 * vision_flops(config, weights, (side, side))
    reading = images + text_flops(config, weights, shape.prompt)
    hearing = text_flops(config, weights, rate.trace, before=shape.prompt)
    passes = 1 + settings.gradient_checkpointing + (1 if settings.lora_rank else 2)
    whole = text_flops(config, weights, shape.prompt + rate.trace) + 2.0 * weights["head"] * rate.trace
    return reading, hearing, images + passes * whole


def _working(settings: Profile) -> dict[str, int]:
    """Cards that work in each phase; the others wait. `lrt evaluate` is one process, on one card."""
    return {"generation": settings.rollout_gpus or settings.gpus, "listener": settings.listener_gpus or settings.gpus,
            "update": settings.gpus, "evaluation": 1}


def _on(settings: Profile, phase: str, hours: float) -> str:
    """Which of several cards work in a phase, in words."""
    if settings.cards == 1:
        return ""
    if phase == "evaluation":
        return " on one card, after training"
    working = _working(settings)[phase]
    return f" on {working} of the cards: {hours * working:,.0f} card hours of work"


def table(settings: Profile, rate: Throughput | None = None) -> str:
    """`run_cost` as text, with its assumptions."""
    rate = rate or assumed(settings)
    cost, cards = run_cost(settings, rate), settings.cards
    lines = [
        f"{settings.name}: {cost.pairs:,} pairs, {cost.completions:,} completions; {cost.prompt_tokens / 1e6:,.0f} "
        f"million tokens of prompts and {cost.new_tokens / 1e6:,.0f} million new ones",
        *(f"  {name:<12}{hours:>8.1f} h{_on(settings, name, hours)}" for name, hours in cost.hours.items()),
        f"  {'together':<12}{sum(cost.hours.values()):>8.1f} h on {cards} card{'s' * (cards > 1)}"
        f"{', the evaluation on one' * (cards > 1)}: "
        f"{cost.gpu_hours:,.0f} GPU hours",
        f"Assumed ({rate.name}): {rate.peak / 1e12:.0f} TFLOPS at {rate.training:.0%} in training and "
        f"{rate.prefill:.0%} in reading, {rate.decode:,.0f} new tokens a second and card ({rate.judging:,.0f} in "
        f"evaluation), traces of {rate.trace} tokens.",
    ]
    if cost.left_out:
        lines.append(f"Not counted, since its pairs are not known: the evaluation on {', '.join(cost.left_out)}.")
    return "\n".join([*lines, ROUGH])
