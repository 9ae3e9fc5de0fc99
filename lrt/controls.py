"""Control listeners: what a listener's reward would be without what should make it work.

If training with one of these helps as much as with a real listener, the real one's reading is not what helps. Each has
the interface of `lrt.listener.Listener`, draws nothing from the global generators, and is a function of its arguments.
"""

from lrt.listener import Listener
from lrt.world import rng


class RandomListener:
    """p uniform in [0, 1), a function of (seed, prompt, trace): the same trace always earns the same reward."""

    def __init__(self, seed: int = 0):
        self.seed, self.name = seed, f"random, seed {seed}"

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        return [
            [float(rng("random listener", self.seed, prompt, trace).random()) for trace in traces]
            for prompt, traces in zip(prompts_B, traces_BG, strict=True)
        ]


class WrongPair:
    """Each trace heard with the prompt and images of another pair: the next in the batch that has another prompt.

    A pair alone with its prompt (B = 1, or one prompt in the whole batch) has no wrong pair: None for its traces.
    """

    def __init__(self, listener: Listener):
        self.listener, self.name = listener, f"{listener.name}, wrong pair"

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        other = {b: o for b in range(len(prompts_B)) if (o := _next_other(prompts_B, b)) is not None}
        p = self.listener.p_first(
            [prompts_B[o] for o in other.values()],
            [images_B[o] for o in other.values()],
            [traces_BG[b] for b in other],
        )
        found = dict(zip(other, p, strict=True))
        return [found.get(b, [None] * len(traces)) for b, traces in enumerate(traces_BG)]


def _next_other(prompts_B, b: int) -> int | None:
    after = [*range(b + 1, len(prompts_B)), *range(b)]
    return next((o for o in after if prompts_B[o] != prompts_B[b]), None)


class Permuted:
    """The listener's own p, dealt out at random within each group: right on average, wrong for the single trace.

    The permutation is a function of (seed, prompt, traces of the group).
    """

    def __init__(self, listener: Listener, seed: int = 0):
        self.listener, self.seed, self.name = listener, seed, f"{listener.name}, permuted"

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        p_BG = self.listener.p_first(prompts_B, images_B, traces_BG)
        return [
            [p_G[i] for i in rng("permuted listener", self.seed, prompt, *traces).permutation(len(p_G))]
            for prompt, traces, p_G in zip(prompts_B, traces_BG, p_BG, strict=True)
        ]


class Opinion:
    """The listener's own opinion: it hears an empty trace, so every completion of a pair earns the same."""

    def __init__(self, listener: Listener):
        self.listener, self.name = listener, f"{listener.name}, no trace"

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        p_B1 = self.listener.p_first(prompts_B, images_B, [[""] for _ in traces_BG])
        return [[p] * len(traces) for [p], traces in zip(p_B1, traces_BG, strict=True)]


class Binary:
    """The listener's choice instead of its probability: 1, 0, or 0.5 where it has no preference."""

    def __init__(self, listener: Listener):
        self.listener, self.name = listener, f"{listener.name}, binary"

    def p_first(self, prompts_B, images_B, traces_BG) -> list[list[float | None]]:
        p_BG = self.listener.p_first(prompts_B, images_B, traces_BG)
        return [[p if p is None else ((p > 0.5) + (p >= 0.5)) / 2 for p in p_G] for p_G in p_BG]
