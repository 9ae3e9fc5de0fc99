"""What the study says of its claims, in sentences."""

import math
from collections.abc import Sequence

from lrt.study.claims import PLANNED, WHERE, Decision
from lrt.study.effects import LEVEL, Comparison, Effect
from lrt.study.outcomes import measure
from lrt.study.tables import PLAIN
from lrt.words import FEW, capital, listed, name_of, points, share, side

ALONE = "That is against plain GRPO alone: it need not come from listening."
SEEN_SIZE = 0.1  # a help of 10 points: what the plan asks the study to be able to exclude


def prevents(last: Sequence[Effect], matched: Sequence[Effect], long: Sequence[Effect], method: str) -> str:
    """The plan's three words for a listener, by `flip` against plain GRPO: prevents, delays, neither. Each list holds
    `effects.against_plain`: at the last step, at matched accuracy, and (of any method) at the last of 900 steps."""
    at_end, at_matched = ([e for e in found if e.method == method and e.measure == "flip"] for found in (last, matched))
    later = [e for e in long if e.measure == "flip"]
    if not at_end or math.isnan(at_end[0].low) or len(at_end[0].seeds) < FEW:
        return f"{name_of(method)}: too few seeds to say anything about the tint."
    found, size = side(at_end[0].low, at_end[0].high), points(at_end[0].effect, at_end[0].low, at_end[0].high)
    if found == "higher":
        return (f"{name_of(method)}: **the opposite**, by this interval alone: at the last step its answers flip "
                f"*more* often than plain GRPO's, {size}. {ALONE}{_much_later(later)}")
    if not found:
        return (f"{name_of(method)}: **neither** *prevents* nor *delays* is shown, by answers that flip when only the "
                f"tint is swapped: {size} against plain GRPO at the last step, where + is worse.{_much_later(later)}")
    checks = {"where both are as accurate in distribution": at_matched, "in the runs of 900 steps": later}
    told = {where: own[0] for where, own in checks.items()
            if own and len(own[0].seeds) >= FEW and not math.isnan(own[0].low)}
    text = f"{name_of(method)}: at the last step its answers flip less often ({size})"
    if unclear := [where for where, e in told.items() if side(e.low, e.high) != "lower"]:
        return f"{text}, but not clearly so {listed(unclear)}: no more than **delays** is shown."
    if missing := [where for where in checks if where not in told]:
        return (f"{text}; whether that is to prevent or to delay must be seen {listed(missing)}: not run, or fewer "
                f"than {FEW} seeds to compare.")
    return (f"{text}, and so they do {listed(told)}: **prevents**, against plain GRPO alone and as far "
            "as these runs go.")


def _much_later(long: Sequence[Effect]) -> str:
    """A sentence on the runs of 900 steps, if there are seeds enough."""
    told = [e for e in long if len(e.seeds) >= FEW and not math.isnan(e.low)]
    word = {"lower": f"clearly fewer by this interval. {ALONE}", "higher": f"clearly more by this interval. {ALONE}",
            "": "not clearly different by this interval."}
    return "".join(f" After 900 steps: {points(e.effect, e.low, e.high)} ({len(e.seeds)} seeds), "
                   f"{word[side(e.low, e.high)]}" for e in told)


def lead(decisions: Sequence[Decision]) -> str:
    """The question of the study and its answer so far, for who reads one sentence."""
    of = _listeners(decisions)
    every = [d for own in of.values() for d in own]
    if not every or all(d.verdict == "not run" for d in every):
        return "**Does a listener's reward help?** No claim can be decided yet."
    won = [d.claim.id for d in every if d.verdict == "supported"]
    said = {0: "None of the claims for it is supported", len(every): "All claims for it are supported"}
    text = said.get(len(won), f"Of the claims for it, {listed(won)} {'is' if len(won) == 1 else 'are'} supported")
    labels = "; ".join(dict.fromkeys(measure(d.claim.measure).label for d in every))
    abouts = "; ".join(f"{listed(d.claim.id for d in own)}: {about}" for about, own in of.items())
    return (f"**Does a listener's reward help? {text}** {WHERE}. To be supported, it must do better than plain GRPO "
            f"*and* than both controls, in one of: {labels} ({abouts}).")


def _listeners(decisions: Sequence[Decision]) -> dict[str, list[Decision]]:
    """The claims that are no premises, by what they are about."""
    own = [d for d in decisions if d.claim.about != "premise"]
    return {about: [d for d in own if d.claim.about == about] for about in dict.fromkeys(d.claim.about for d in own)}


def decided(decisions: Sequence[Decision], details: bool = True) -> list[str]:
    """The claims that are decided, in words with their effects; the names of the others, and (`details`) what each that
    is not supported leaves open."""
    told = []
    for verdict, against in (("supported", ""), ("reversed", ", the opposite of what was predicted")):
        for d in (d for d in decisions if d.verdict == verdict):
            c = d.comparisons[0]
            told.append(f"**{capital(verdict)}** {WHERE}{against}: \"{d.claim.text}\" ({d.claim.id}). Measured: "
                        f"{measure(d.claim.measure).label} {share(c.level + c.effect)}, {name_of(c.against)} "
                        f"{share(c.level)}: {points(c.effect, c.low, c.high)}.")
    for verdict in ("not supported", "not run"):
        if names := [d.claim.id for d in decisions if d.verdict == verdict]:
            told.append(f"**{capital(verdict)}** {WHERE if verdict != 'not run' else 'yet'}: {listed(names)}.")
    if early := [d for d in decisions if d.verdict != "not run" and d.seeds < PLANNED]:
        told.append(f"On the way: {len(early)} of {len(decisions)} claims rest on fewer seeds so far than the "
                    f"{PLANNED} planned, {min(d.seeds for d in early)} at least.")
    open_ones: dict[str, list[str]] = {}
    for d in (d for d in decisions if details and d.verdict == "not supported"):
        open_ones.setdefault(left_open(d), []).append(d.claim.id)
    return told + [f"{listed(names)}: {text}." for text, names in open_ones.items()]


def answer(decisions: Sequence[Decision]) -> list[str]:
    """What the claims come to, by what they are about: premises one by one, and for each listener where it beats plain
    GRPO, where also both controls, and which help the intervals exclude."""
    told = [f"{d.claim.text}: **{d.verdict}**." for d in decisions if d.claim.about == "premise"]
    for about, own in _listeners(decisions).items():
        ids, won = [d.claim.id for d in own], [d.claim.id for d in own if d.verdict == "supported"]
        plain = [(d, c) for d in own for c in d.comparisons if c.against == PLAIN and not math.isnan(c.low)]
        clear = [d.claim.id for d, c in plain if _clear(d, c)]
        bounds = ", ".join(f"{d.claim.id} {100 * max(0, _towards(d, c)[1]):.0f}" for d, c in plain)
        told.append(f"{capital(about)} ({', '.join(ids)}): clearly better than plain GRPO in {listed(clear)}; than "
                    f"plain GRPO and both controls in {listed(won)}. The largest help against plain GRPO that the "
                    f"intervals still allow, in points: {bounds or 'not run'}.")
    return told


def _towards(d: Decision, c: Comparison) -> tuple[float, float]:
    """The interval of a comparison, turned so that what was predicted is positive."""
    return (c.low, c.high) if d.claim.predicted == "higher" else (-c.high, -c.low)


def _clear(d: Decision, c: Comparison) -> bool:
    """On the side that was predicted, after Holm's adjustment within the claim."""
    return c.p_holm <= LEVEL and (c.effect > 0) == (d.claim.predicted == "higher")


def left_open(d: Decision) -> str:
    """Of a claim that is not supported: what is clear all the same, and whether a help of `SEEN_SIZE` is excluded.
    Excluded against plain GRPO, PLAN.md calls that refuted, even where plain GRPO leaves no room for such a help."""
    size = f"{100 * SEEN_SIZE:.0f} points or more"
    clear = [c.against for c in d.comparisons if _clear(d, c)]
    out = [c.against for c in d.comparisons if _towards(d, c)[1] <= SEEN_SIZE]
    text = f"clear against {listed(map(name_of, clear))}" if clear else "no comparison is clear"
    text += f"; a help of {size} is excluded against {listed(map(name_of, out))}"
    if PLAIN not in out:
        return text
    [plain] = [c for c in d.comparisons if c.against == PLAIN]
    room = plain.level if d.claim.predicted == "lower" else 1 - plain.level
    if room < SEEN_SIZE:
        text += (f" (which stands at {share(plain.level)}, so such a help was never possible; the largest that the "
                 f"interval still allows is {100 * max(0, _towards(d, plain)[1]):.0f})")
    return f"{text}: in the plan's words, **refuted**"
