"""What reasoner and listener are told, and how what the reasoner wrote is read.

A completion is ``<think> trace </think> <answer> 1 </answer>``. The *trace* is what a listener may hear; the
*answer* never reaches it. A *verdict* is a sentence of the trace that names the winner ("image 2 is better"):
part of the trace, but removable, because a listener that reads only the verdict rewards a string comparison.

Everything here is text in, text out. Nothing raises on any text, and every pattern runs in linear time: the
text comes from a model that is being trained, and will sooner or later contain anything.
"""

import re
from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wording:
    """The fixed words around the two images; ``task`` contains ``{prompt}``."""

    name: str
    before_1: str
    before_2: str
    task: str


TINY_WORDING = Wording("tiny", before_1="image 1 :", before_2="image 2 :", task="prompt : {prompt} .")

ENGLISH_WORDING = Wording(
    "english",
    before_1="Image 1:",
    before_2="Image 2:",
    task=(
        "Both images were generated from this prompt: {prompt}\n"
        "Which image would people prefer, given how well it matches the prompt and how good it looks? "
        "First compare the two images step by step inside <think></think>. "
        "Then write only the number of the better image, 1 or 2, inside <answer></answer>. "
        "Write nothing outside these tags."
    ),
)

END_OF_TURN = ("<|im_end|>", "<|endoftext|>")
SPECIAL = re.compile(r"<\|[^|<>\s]*\|>")
# Special tokens and plain tags (`<image>`, `</s>`), which a listener's tokenizer may read as more than text.
# They are replaced by a space, never by nothing: `<th<x>ink>` must not become a tag.
MARKUP = re.compile(r"<\|[^|<>\s]*\|>|</?[A-Za-z]\w*>")
TAG = re.compile(r"</?(?:think|answer)>")
ANSWER = re.compile(
    r"\s*+<answer>\s*+([12])\s*+</answer>(?:\s|" + "|".join(map(re.escape, END_OF_TURN)) + r")*+"
)
# Where hearing ends. Wider than the strict format on purpose: `< /Answer` is no valid tag, but would leak.
CUT = re.compile(r"<\s*+/\s*+think|<\s*+(?:/\s*+)?answer", re.IGNORECASE)


def messages(prompt: str, wording: Wording) -> list[dict[str, Any]]:
    """The conversation that reasoner and listener share: one user turn of text, image, text, image, text.

    Special tokens and plain tags inside ``prompt`` become spaces: a prompt with an image token in it would
    otherwise shift every image after it. The images themselves are passed beside the messages, as TRL and the
    processors want it.
    """
    task = wording.task.replace("{prompt}", MARKUP.sub(" ", prompt))
    content = [
        {"type": "text", "text": wording.before_1},
        {"type": "image"},
        {"type": "text", "text": wording.before_2},
        {"type": "image"},
        {"type": "text", "text": task},
    ]
    return [{"role": "user", "content": content}]


def text_of(completion: str | list[dict[str, Any]]) -> str:
    """The text of a completion as TRL passes it: a plain string, or a list of messages.

    Of messages, the assistant's texts are joined. Raises TypeError for anything else.
    """
    if isinstance(completion, str):
        return completion
    if not isinstance(completion, list) or not all(isinstance(message, dict) for message in completion):
        raise TypeError(f"a completion is a string or a list of messages, not {type(completion).__name__}")
    contents = [m.get("content") or "" for m in completion if m.get("role", "assistant") == "assistant"]
    parts = [[c] if isinstance(c, str) else [part.get("text") or "" for part in c] for c in contents]
    return "".join(text for texts in parts for text in texts)


@dataclass(frozen=True)
class Parsed:
    """``answer`` is None unless ``ok``; ``trace`` is then only the best guess, ``heard(completion)``."""

    trace: str
    answer: int | None
    ok: bool


def parse(completion: str) -> Parsed:
    """Read a completion strictly: one ``<think>…</think>``, then one ``<answer>1|2</answer>``, and no more.

    Only whitespace stands outside; the trace holds none of the four tags and no special token. End-of-turn
    markers after the answer are ignored: TRL decodes without special tokens, plain generation keeps them.
    Never raises.
    """
    before, _, after = completion.partition("</think>")
    before = before.lstrip()
    trace = before.removeprefix("<think>")
    answer = ANSWER.fullmatch(after)
    ok = before.startswith("<think>") and answer and not TAG.search(trace) and not SPECIAL.search(trace)
    return Parsed(trace.strip(), int(answer[1]), True) if ok else Parsed(heard(completion), None, False)


def heard(completion: str, verdict: bool = True) -> str:
    """What a listener may hear of a completion: its trace, never its answer, in single spaces.

    The completion is cut at the first ``</think>``, ``<answer>`` or ``</answer>`` (also in capitals, with
    spaces inside, or unclosed), wherever it stands; what is left is heard from the first ``<think>`` on, or
    from its beginning if there is none. Special tokens and other tags become spaces. ``verdict=False`` also
    removes what names a winner (`remove_verdict`). Never raises.
    """
    cut = CUT.search(completion)
    text = completion[: cut.start()] if cut else completion
    before, tag, after = text.partition("<think>")
    text = MARKUP.sub(" ", after if tag else before)
    if verdict:
        return " ".join(text.split())
    # Before whitespace is normalised, because a line break may end a sentence; and after, because it may not.
    return remove_verdict(" ".join(remove_verdict(text).split()))


def listener_continuation(trace: str) -> str:
    """What follows the generation prompt in the listener's input; its next token is the answer, "1" or "2".

    An empty trace gives ``<think> </think> <answer>``, with one space, as in training on answers alone.
    """
    return " ".join(["<think>", *([trace] if trace else []), "</think>", "<answer>"])


# --- Verdicts -----------------------------------------------------------------------------------------------
# The text is first rewritten in a small canonical language: words in lower case, one space between any two,
# every way of naming an image as ONE or TWO, every end of a sentence as ".". The grammar then reads almost
# like English. Every repetition in it is bounded, so matching takes linear time.

_IMAGE = r"(?:image|picture|photo|photograph|option|candidate|version|img)"
_TOKEN = re.compile(
    rf"""(?:the\s++)?{_IMAGE}[\s_\#*-]{{0,4}}(?P<number>1|2|one|two)(?!\w)
       | (?:the\s++)?(?P<ordinal>first|second|1st|2nd)\s++(?:{_IMAGE}|one)(?!\w)
       | the\s++(?P<bare>first|second)(?=\s*+(?:$|[.,;:!?\n]
            |(?:is|wins|was|looks|seems|over|because|since|as|so|and|but|better|clearly|overall
              |matches|fits|follows)\b))
       | (?P<end>[.!?;]|(?-i:\n(?![ \t]{{0,8}}[a-z]))) | :\s*+ | , | \d++\.\d++ | \w[\w'’-]*+ | ['’]s\b""",
    re.IGNORECASE | re.VERBOSE,
)
_PAIRS = [("1", "2"), ("one", "two"), ("first", "second"), ("1st", "2nd")]
_NAMES = {number: name for pair in _PAIRS for number, name in zip(pair, ("ONE", "TWO"), strict=True)}
_OTHER = {
    cased(x): cased(y)
    for a, b in _PAIRS
    for x, y in ((a, b), (b, a))
    for cased in (str.lower, str.capitalize, str.upper)
}


def _any(*options: str) -> str:
    return f"(?:{'|'.join(options)})"


def _grammar() -> re.Pattern[str]:
    image = "(?:ONE|TWO)(?! 's)"
    # "The circle in image 1 is better" speaks of the circle.
    subject = "".join(rf"(?<!\b{word} )" for word in "in of from with than to on".split()) + image
    task = "(?:(?:the|this|its|your|given) ){0,2}(?:prompt|description|text|caption|request)"
    lead = _any(
        ",|:|so|therefore|thus|hence|consequently|accordingly|overall|and|then|that|finally|ultimately|clearly",
        "obviously|in (?:conclusion|summary|short|total|general|the end|my opinion|my view)|all in all",
        "as a result|to (?:conclude|sum up|summari[sz]e)|for (?:this|that|these) reasons?",
        "(?:based on|given) (?:this|that|these)|it is clear|it seems|(?:this|which) means|meaning|i|i'd|i'll",
        "i'm|i am|we|would|will|can|my|the|final|if|whether|unless|do not|don't|did not|didn't|would not",
        "wouldn't|cannot|can't|not|never|think|believe|feel|say|conclude|find|guess|judge",
    )
    adverb = _any(
        ",|clearly|definitely|overall|therefore|thus|also|still|slightly|much|far|by far|obviously|simply",
        "probably|likely|ultimately|generally|a bit|a little|marginally|significantly|just|really|indeed",
        "even|then|not|never|no|hardly|any",
    )
    adverbs = f"(?:{adverb} ){{0,4}}"
    be = _any(
        "is|was|isn't|wasn't|'s|looks|seems|appears|remains|(?:seems|appears) to be",
        "(?:must|would|should|could|might|may|will|can) be|(?:does not|doesn't) (?:look|seem|appear)",
    )
    # "Better lit", "better at the edges": evidence about one thing, not a verdict.
    alone = r"(?! (?:\w+ed|lit|drawn|shown|done|made|built|shot|at|on|quality|with"
    alone += r"|in (?!conclusion|summary|short|total|general|the end|my|every|all|both))\b)"
    kind = _any(
        "one|image|picture|option|choice|match|fit|candidate|result|rendition|depiction|representation"
    )
    faithful = _any("accurate|faithful|aligned|consistent|convincing|compelling|suitable|appropriate|true")
    ranked = _any(
        "better|best|stronger|strongest|superior|preferred|preferable|winning|right|correct",
        f"worse|worst|inferior|weaker|weakest|(?:more|most) {faithful}",
    )
    quality = _any(
        f"(?:the|my|a|our) (?:(?:overall|clear|clearly) ){{0,2}}(?:{ranked} {kind}|better|best|worse|worst"
        f"|winner|loser|choice|pick|favou?rite|preference){alone}",
        f"(?:better|best|worse|worst|superior|inferior|preferred|preferable|favou?red|chosen){alone}",
        f"more {faithful} (?:to|with) {task}|closer to {task}",
    )
    closely = _any("better|best|more (?:closely|accurately|faithfully|precisely|fully|completely)")
    matches = _any(
        "match(?:es)?|fits?|follows?|reflects?|represents?|captures?|depicts?|satisf(?:y|ies)|fulfill?s?",
        "meets?|adheres? to|aligns? with|corresponds? to|renders?|shows?",
    )
    stop = f"(?= (?:[.,:]|to {image}|overall|so|because|than|ONE|TWO)(?![^ ])|$)"
    predicate = adverbs + _any(
        f"{be} {adverbs}{quality}|(?:loses|lost){stop}|is beaten",
        f"(?:(?:does not|doesn't) )?{adverbs}"
        + _any(
            f"wins?|won|prevails?|outperforms {image}|beats {image}|gets my (?:vote|preference)",
            f"{matches} {task} {adverbs}{closely}{alone}|{closely} {matches} {task}",
            rf"does a better job(?: (?:at|of|in) \w+ {task})?{stop}",
        ),
    )
    prefer = _any(
        "prefer|choose|choosing|pick|picking|select|selecting|favou?r|recommend|in favou?r of",
        "(?:vote|opt|go|going) (?:for|with)|(?:preference|vote|nod|win) (?:goes|is) (?:to|for)",
    )
    prefer += f" {image}(?: as (?:the |my )?(?:{ranked}|winner|choice)(?: {kind})?)?"
    title = _any("answer|verdict|choice|winner|loser|conclusion|decision|pick|preference|judge?ment")
    is_ = "(?:is|:|would be|should be|must be|was|isn't) (?:: )?(?:not )?(?:that )?"
    digit = f"[12](?= (?:[.,]|so|because|and|but|as|since|i|the|my|final|{title})(?![^ ])|$)"
    named = "(?:(?:final|clear|overall) ){0,2}" + _any(
        f"{title} {is_}(?:{image}(?! or)(?: {predicate})?|{digit})",
        f"(?:{ranked} {kind}|better|best|worse|worst) {is_}{image}(?! or)(?: {predicate})?",
    )
    other = f"the other(?: {kind})?"
    tail = _any(
        f"(?: ,)? (?:than|over|to|by|and not|not|rather than|instead of|against) (?:{image}|{other})",
        f" of (?:the two|{task})| (?:to|for) {task}| overall| here| in (?:every|all) (?:way|respect)s?",
    )
    core = _any(f"{subject} {predicate}", prefer, named)
    return re.compile(f"(?<![^ ])(?:{lead} ){{0,8}}+(?P<core>{core})(?P<tail>{tail}{{0,3}})(?![^ ])")


_VERDICT = _grammar()
_CLOSING = tuple(',*"”)]')  # what may be left hanging behind a removed verdict
_NAME = re.compile(r"\b(?:ONE|TWO|1|2)\b")
_NEGATED = re.compile(r"\b(?:not|no|never|hardly|cannot|if|whether|unless|\w+n't)(?= )")
_LOST = re.compile(r"\b(?:worse|worst|inferior|weaker|weakest|loses|lost|loser|beaten)\b")


@dataclass(frozen=True)
class _Verdict:
    start: int  # a slice of the text
    end: int
    winner: int | None  # None if negated
    numbers: list[tuple[int, int]]  # the slices that hold the images' numbers
    opens: bool  # stands at the beginning of a sentence
    closes: int | None  # where the sentence's end mark ends, if the verdict reaches it


def _verdicts(text: str) -> Iterator[_Verdict]:
    tokens = list(_TOKEN.finditer(text))
    words = []
    for token in tokens:
        number = token["number"] or token["ordinal"] or token["bare"]
        plain = "." if token["end"] else token[0].strip().lower().replace("’", "'")
        words.append(_NAMES.get(number.casefold(), "?") if number else plain)
    starts, at = [], 0
    for word in words:
        starts.append(at)
        at += len(word) + 1
    for match in _VERDICT.finditer(" ".join(words)):
        first, last = bisect_left(starts, match.start()), bisect_left(starts, match.end()) - 1
        said = match[0][: match.start("tail") - match.start()]
        winner = 1 if _NAME.search(match["core"])[0] in ("ONE", "1") else 2
        winner = 3 - winner if _LOST.search(said) else winner
        yield _Verdict(
            start=tokens[first].start(),
            end=tokens[last].end(),
            winner=None if _NEGATED.search(said) else winner,
            numbers=_numbers(tokens[first : last + 1]),
            opens=first == 0 or words[first - 1] == ".",
            closes=tokens[min(last + 1, len(words) - 1)].end()
            if words[last + 1 : last + 2] in ([], ["."])
            else None,
        )


def _numbers(tokens: list[re.Match[str]]) -> list[tuple[int, int]]:
    named = [token.span(k) for token in tokens for k in ("number", "ordinal", "bare") if token[k]]
    return named or [token.span() for token in tokens if token[0] in ("1", "2")]


def verdict_of(trace: str) -> int | None:
    """The winner that the last verdict of a trace names, 1 or 2; None if none does.

    "Image 1 is worse (than image 2)" names image 2. A negated or hypothetical verdict ("image 2 is not
    better", "if image 1 is better") names nobody. What counts as a verdict: see `remove_verdict`.
    """
    winners = [verdict.winner for verdict in _verdicts(trace) if verdict.winner]
    return winners[-1] if winners else None


def remove_verdict(trace: str) -> str:
    """The trace without the sentences, or parts of sentences, that name a winner. Idempotent.

    Removed, in the tiny vocabulary and in free English: an image that "is better", "wins", "is the stronger
    one", "matches the prompt better" and the like; "I prefer the first"; "the answer is 1"; the same negated,
    supposed or turned round ("image 2 is not better", "image 1 is worse"); with the words that lead to it
    ("so", "overall, I think that"). The rest of the sentence stays ("The colours are right, so image 2 wins"
    keeps its first half), and so do comparisons about evidence ("image 1 is blurred", "image 1 is better
    lit", "the circle in the first image is better"). "Sharpness: image 1 is better" counts as a verdict all
    the same.

    Not caught: pronouns ("it is the better one"), "the former" and "the latter", "the left image", letters
    ("image A"), sentences that only imply a winner ("image 1 is far more beautiful", "image 2 has fewer
    errors"), verdicts torn by a clause ("image 1, which is sharper, wins"), other languages.
    """
    # Again until nothing is found: what is removed may have hidden the verdict before it.
    while verdicts := list(_verdicts(trace)):
        kept, at, opens = [], 0, True
        for verdict in verdicts:
            between = trace[at : verdict.start].rstrip(' *"“([')
            opens = verdict.opens or (opens and not between.strip())
            kept.append(between)
            at = verdict.closes if opens and verdict.closes else verdict.end
            while trace[at : at + 1] in _CLOSING:
                at += 1
            if not opens and not verdict.closes:
                kept.append(" .")  # so that what stood on its two sides is not read as one sentence
        trace = "".join([*kept, trace[at:]]).strip()
    return trace


def flip_verdict(trace: str) -> str:
    """The trace with the images swapped in every verdict, and nothing else changed. Its own inverse.

    "Image 1 is better than image 2" becomes "Image 2 is better than image 1"; the evidence stays as it is.
    """
    kept, at = [], 0
    for start, end in (number for verdict in _verdicts(trace) for number in verdict.numbers):
        kept += [trace[at:start], _OTHER.get(trace[start:end], trace[start:end])]
        at = end
    return "".join([*kept, trace[at:]])
