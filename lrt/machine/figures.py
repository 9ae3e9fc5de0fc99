"""Figures of notebook 07: where memory and hours go. Arithmetic, drawn; nothing measured."""

from collections.abc import Mapping, Sequence

from lrt.machine.memory import CONTEXT, GB, SPARE, grpo_memory
from lrt.machine.run_cost import run_cost
from lrt.profiles import Profile
from lrt.style import BLUE, GREEN, GREY, ORANGE, PURPLE, SKY, VERMILION, figure, legend

HATCHES = ("", "//", "..", "xx", "--", "\\\\", "oo")  # beside colour, for print
PALETTE = (BLUE, ORANGE, GREEN, PURPLE, SKY, VERMILION, GREY)


def memory_parts(settings: Profile) -> dict[str, float]:
    """GB of one card at the peak of a GRPO step: what is held, the largest of the phases (named), and allowances."""
    memory = grpo_memory(settings)
    phase, parts = max(memory.phases.items(), key=lambda item: sum(item[1].values()))
    held = {"weights": memory.held["weights"], "adapter, gradients, AdamW": sum(memory.held.values())
            - memory.held["weights"]}
    found = held | {f"largest phase: {phase}": sum(parts.values())}
    spare = SPARE * sum(found.values()) + CONTEXT * GB
    return {name: value / GB for name, value in (found | {"allowances": spare}).items()}


def memory_bars(profiles: Sequence[Profile]):
    """A bar a profile, its parts side by side, a mark where its card ends."""
    fig = _bars({one.name: memory_parts(one) for one in profiles}, "Memory of one card in a GRPO step (estimate)", "GB")
    ax = fig.axes[0]
    for y, one in enumerate(profiles):
        ax.plot([one.gpu_gb] * 2, [y - 0.42, y + 0.42], color=VERMILION, linewidth=2.5,
                label="the card's memory" if not y else None)
    legend(fig, ncols=3)
    return fig


def hours_bars(profiles: Sequence[Profile]):
    """A bar a profile, with its pairs and cards: hours of a whole run by what they go to."""
    runs = {one: run_cost(one) for one in profiles}
    rows = {f"{one.name}: {run.pairs:,} pairs,\n{one.cards} card{'s' * (one.cards > 1)}": run.hours
            for one, run in runs.items()}
    fig = _bars(rows, "Hours of a whole run, each of another size (estimate)", "hours of the clock")
    legend(fig, ncols=4)
    return fig


def _bars(rows: Mapping[str, Mapping[str, float]], title: str, unit: str):
    names = list(dict.fromkeys(name for parts in rows.values() for name in parts))
    fig, [[ax]] = figure(title, size=(8.4, 1.6 + 0.55 * len(rows)))
    for y, parts in enumerate(rows.values()):
        left = 0.0
        for name, value in parts.items():
            i = names.index(name)
            ax.barh(y, value, 0.62, left=left, color=PALETTE[i % 7], hatch=HATCHES[i % 7], edgecolor="white",
                    label=name)
            left += value
        ax.annotate(f"{left:.1f}", (left, y - 0.31), (0, 1), textcoords="offset points", ha="right", va="bottom",
                    fontsize=9, zorder=5)  # above the bar's end: a card may end just behind it
    ax.set_yticks(range(len(rows)), list(rows))
    ax.invert_yaxis()
    ax.set_xlabel(unit)
    ax.margins(x=0.12)
    return fig


def in_words(rows: Mapping[str, Mapping[str, float]], unit: str) -> str:
    """What such a figure shows: each bar's length and its largest part."""
    told = []
    for name, parts in rows.items():
        largest = max(parts, key=parts.get)
        told.append(f"{name}: {sum(parts.values()):.1f} {unit}, most for {largest} ({parts[largest]:.1f})")
    return "; ".join(told) + "."
