// What is read of a text and of logits, as lrt.prompts and lrt.listener read them. Patterns, words and token ids come
// from gallery.json, which Python wrote; nothing here knows a prompt.

export class Reading {
  constructor(gallery) {
    const made = ({ source, flags }, more = "", whole = false) =>
      new RegExp(whole ? `^(?:${source})$` : source, flags + more);
    const { cut, markup, tag, special, answer } = gallery.patterns;
    this.cut = made(cut);
    this.markup = made(markup, "g");
    this.marks = [made(tag), made(special)];
    this.answer = made(answer, "", true);
    this.space = new RegExp(`[${gallery.spaces}]+`, "u");
    this.ids = new Map(gallery.words.map((word, id) => [word, id]));
    Object.assign(this, {
      words: gallery.words, unknown: gallery.unknown, listen: gallery.listen, answers: gallery.answers,
      never: new Set(gallery.never), skipped: new Set(gallery.skipped),
    });
  }

  split(text) {
    return text.split(this.space).filter((word) => word !== "");
  }

  // prompts.heard: what a listener may hear of a completion, never its answer.
  heard(completion) {
    const cut = completion.search(this.cut);
    let text = cut < 0 ? completion : completion.slice(0, cut);
    const opened = text.indexOf("<think>");
    if (opened >= 0) text = text.slice(opened + "<think>".length);
    return this.split(text.replace(this.markup, " ")).join(" ");
  }

  // prompts.parse: the trace and the answer of a completion in the strict format; otherwise answer null.
  parse(completion) {
    const end = completion.indexOf("</think>");
    const before = this.stripped(end < 0 ? completion : completion.slice(0, end));
    const answer = this.answer.exec(end < 0 ? "" : completion.slice(end + "</think>".length));
    const trace = before.startsWith("<think>") ? before.slice("<think>".length) : null;
    if (trace === null || !answer || this.marks.some((mark) => mark.test(trace)))
      return { trace: this.heard(completion), answer: null };
    return { trace: this.stripped(trace), answer: Number(answer[1]) };
  }

  stripped(text) {
    const edges = new RegExp(`^${this.space.source}|${this.space.source}$`, "gu");
    return text.replace(edges, "");
  }

  // The words of a trace that no listener has a token for, once each.
  strangers(trace) {
    return [...new Set(this.split(this.heard(trace)))].filter((word) => !this.ids.has(word));
  }

  // The tokens that follow the chat when a listener hears a trace: the next one is its answer.
  listened(trace) {
    const said = this.split(this.heard(trace)).map((word) => this.ids.get(word) ?? this.unknown);
    return [...this.listen.before, ...said, ...this.listen.after];
  }

  // p that image 1 is better: the softmax over the two answers' logits.
  p(logits) {
    const [one, two] = this.answers.map((id) => logits[id]);
    return { p: pOf(one, two), one, two };
  }

  // What the tokens of a completion say, without marks such as the end of a turn.
  text(ids) {
    return ids.filter((id) => !this.skipped.has(id)).map((id) => this.words[id]).join(" ");
  }

  // The next token: the likeliest, or one drawn at temperature 1 where `random` is given.
  next(logits, random = null) {
    const allowed = [...logits.keys()].filter((id) => !this.never.has(id));
    const best = allowed.reduce((a, b) => (logits[b] > logits[a] ? b : a));
    if (!random) return best;
    const weights = allowed.map((id) => Math.exp(logits[id] - logits[best]));
    let left = random() * weights.reduce((a, b) => a + b, 0);
    return allowed[weights.findIndex((weight) => (left -= weight) < 0)] ?? best;
  }
}

export function pOf(one, two) {
  return 1 / (1 + Math.exp(two - one));
}

// Numbers in [0, 1) from a seed, the same in every browser (mulberry32); not PyTorch's numbers for that seed.
export function randomFrom(seed) {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let t = Math.imul(state ^ (state >>> 15), state | 1);
    t ^= t + Math.imul(t ^ (t >>> 7), t | 61);
    return ((t ^ (t >>> 14)) >>> 0) / 4294967296;
  };
}
