// The page "Edit the trace": builds its controls inside <div class="lrt-play"> and keeps them up to date.
// Without the models (still loading, or not to be had) the prepared traces show the numbers that Python wrote down.

import { Models, gallery as fetchGallery } from "./models.js";
import { pOf, randomFrom } from "./reading.js";

const SIZE = "about 18 MB";

// el("p", { class: "note" }, "text", child): an element; a property that begins with "on" is a listener.
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== false && value !== null) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

const frame = () => new Promise((resolve) => setTimeout(resolve, 24)); // lets the page draw, also in a hidden tab

class Page {
  constructor(root, gallery) {
    this.root = root;
    this.gallery = gallery;
    this.models = new Models(gallery);
    this.reading = this.models.reading;
    this.here = new URL(".", import.meta.url);
    this.b = 0;
    this.picture = 0;
    this.edit = "own"; // which prepared trace is in the field; null once it was changed by hand
    this.before = {}; // listener -> p of the trace that the last edit began from
    this.ready = false;
    this.asked = 0;
    this.run = null; // the run of a reasoner that is under way
    root.replaceChildren(this.status(), this.pairs(), this.shown(), this.writing(), this.heard(), this.thinking());
    this.choose(0);
  }

  get pair() {
    return this.gallery.pairs[this.b];
  }

  // --- parts of the page ---

  status() {
    this.said = el("span", { role: "status" }, "Numbers of the prepared traces are here already.");
    this.starter = el("button", { type: "button", class: "start", onclick: () => this.start() },
      `Start the models (${SIZE}, from this site)`);
    return el("p", { class: "state" }, this.starter, " ", this.said);
  }

  pairs() {
    const option = (pair, b) => {
      const input = el("input", { type: "radio", name: "lrt-pair", value: b, checked: b === 0,
        onchange: () => this.choose(b) });
      const pictures = pair.images[0].map((file) =>
        el("img", { src: new URL(file, this.here), alt: "", width: 40, height: 40 }));
      return el("label", { title: pair.prompt }, input, ...pictures,
        el("span", { class: "hidden" }, `pair ${b + 1}: ${pair.prompt}`));
    };
    const options = this.gallery.pairs.map(option);
    const shelves = this.gallery.shelves.map(({ name, pairs }) =>
      el("div", { class: "shelf" }, el("p", { class: "note" }, name), ...options.splice(0, pairs)));
    return el("fieldset", { class: "gallery" }, el("legend", {}, "1. Choose a pair"), ...shelves);
  }

  shown() {
    this.pictures = [1, 2].map((i) => el("img", { width: 140, height: 140, alt: "" }));
    this.truth = el("p", { class: "truth" });
    this.prompt = el("p", { class: "prompt" });
    const figures = this.pictures.map((img, i) => el("figure", {}, img, el("figcaption", {}, `image ${i + 1}`)));
    this.exchange = el("input", { type: "checkbox", onchange: () => this.exchanged() });
    return el("div", { class: "shown" }, el("div", { class: "pictures" }, ...figures),
      el("div", {}, this.prompt, this.truth, el("label", {}, this.exchange, " exchange the two backgrounds")));
  }

  writing() {
    this.field = el("textarea", { rows: 4, spellcheck: "false", autocapitalize: "none", id: "lrt-trace",
      oninput: () => this.typed() });
    this.buttons = this.gallery.edits.map(({ name, what }) =>
      el("button", { type: "button", "data-edit": name, "aria-pressed": "false", onclick: () => this.prepare(name) },
        what));
    this.strangers = el("p", { class: "strangers", role: "status" });
    const groups = Object.entries(this.gallery.groups).map(([name, words]) =>
      el("p", {}, el("span", { class: "group" }, `${name}: `), ...words.map((word) =>
        el("button", { type: "button", class: "word", onclick: () => this.insert(word) }, word))));
    return el("fieldset", {}, el("legend", {}, "2. Edit the trace"),
      el("p", { class: "buttons", role: "group", "aria-label": "begin with a prepared trace" }, ...this.buttons),
      el("label", { for: "lrt-trace" }, "what the listeners hear (write here)"), this.field, this.strangers,
      el("details", {}, el("summary", {}, "All the words there are: choose one to put it in"), ...groups));
  }

  heard() {
    this.rows = new Map(this.gallery.listeners.map(({ model, name, made }) => {
      const row = { bar: el("span", { class: "bar" }), ghost: el("span", { class: "ghost" }), p: el("td"),
        margin: el("td"), side: el("td") };
      const track = el("span", { class: "track", "aria-hidden": "true" }, row.ghost, row.bar);
      row.line = el("tr", { "data-listener": model }, el("th", { scope: "row" }, name, el("small", {}, made)),
        el("td", { class: "dial" }, track), row.p, row.margin, row.side);
      return [model, row];
    }));
    this.spoken = el("p", { class: "hidden", role: "status" });
    const heads = ["listener", "image 1 | image 2", "p(image 1)", "margin", "leans to"];
    const table = el("table", {},
      el("thead", {}, el("tr", {}, ...heads.map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, ...[...this.rows.values()].map((row) => row.line)));
    return el("section", { class: "listeners", "aria-label": "what the listeners believe" },
      el("p", { class: "head" }, "3. What the listeners believe"), table, this.spoken,
      el("p", { class: "note" }, "The bar goes left for image 1 and right for image 2; the thin line is where it was " +
        "before your last edit. The margin is the logit of \u201c1\u201d less that of \u201c2\u201d: p = 1 / (1 + exp(\u2212margin))."));
  }

  thinking() {
    const who = this.gallery.reasoners.map(({ model, name }) => el("option", { value: model }, name));
    this.who = el("select", { id: "lrt-who" }, ...who);
    this.how = el("select", { id: "lrt-how", onchange: () => (this.seed.disabled = this.how.value !== "sampled") },
      el("option", { value: "greedy" }, "always the likeliest word"),
      el("option", { value: "sampled" }, "words drawn by chance"));
    this.seed = el("input", { type: "number", id: "lrt-seed", value: 1, min: 0, max: 9999, step: 1, disabled: true });
    this.go = el("button", { type: "button", class: "go", onclick: () => this.think() }, "Think");
    this.thought = el("p", { class: "thought" });
    this.verdict = el("p", { class: "verdict", role: "status" });
    const field = (label, input) => el("span", { class: "field" }, el("label", { for: input.id }, label), input);
    return el("fieldset", { class: "thinking" }, el("legend", {}, "4. Let the reasoner think"),
      el("p", { class: "buttons" }, field("reasoner", this.who), field("words", this.how), field("seed", this.seed),
        this.go),
      this.thought, this.verdict);
  }

  // --- what a reader does ---

  async start() {
    this.starter.remove();
    this.stage("loading the runtime and the listeners\u2026");
    try {
      for (const { model, name } of this.gallery.listeners) {
        await this.models.load(model);
        this.stage(`loaded ${name}\u2026`);
      }
    } catch (error) {
      return this.stage(`The models could not be started (${error.message}). The prepared traces still show their numbers.`);
    }
    this.ready = true;
    await this.update(); // the first pass of a model is slow
    const start = performance.now();
    await this.update();
    const spent = Math.max(1, Math.round((performance.now() - start) / this.rows.size));
    this.stage(`The models run in this page: about ${spent} ms an answer. Nothing leaves your machine.`);
    this.root.dataset.state = "ready";
  }

  stage(text) {
    this.said.textContent = text;
  }

  choose(b) {
    this.b = b;
    this.stop();
    this.exchange.checked = this.picture === 1;
    this.prompt.textContent = `Prompt: ${this.pair.prompt}`;
    this.look();
    this.thought.textContent = "";
    this.verdict.textContent = "";
    this.before = {};
    this.prepare("own", false);
  }

  look() {
    const { better, vote, warm, shows, images } = this.pair;
    this.pictures.forEach((img, i) => {
      img.src = new URL(images[this.picture][i], this.here);
      img.alt = shows[i];
    });
    const tint = this.picture ? 3 - warm : warm;
    this.truth.textContent =
      `Image ${better} is truly better. Image ${tint} has the warm background. A voter chose image ${vote}.`;
  }

  exchanged() {
    this.stop();
    this.picture = this.exchange.checked ? 1 : 0;
    this.look();
    this.mark();
    this.update();
  }

  // Put a prepared trace into the field. The thin lines then show where p was before.
  prepare(edit, marked = true) {
    if (marked) this.mark();
    this.stop();
    this.edit = edit;
    this.field.value = this.pair.texts[edit];
    this.update();
  }

  typed() {
    if (this.edit !== null) this.mark();
    this.stop();
    this.edit = null;
    this.update();
  }

  insert(word) {
    const { selectionStart: a, selectionEnd: z, value } = this.field;
    const left = value.slice(0, a), right = value.slice(z);
    const text = `${left && !/\s$/.test(left) ? " " : ""}${word}${right && /^\s/.test(right) ? "" : " "}`;
    this.field.setRangeText(text, a, z, "end");
    this.typed();
  }

  stop() {
    this.run = null;
    this.go.textContent = "Think";
  }

  async think() {
    if (this.run) return this.stop();
    if (!this.ready) await this.start();
    if (!this.ready) return;
    const mine = (this.run = { b: this.b, picture: this.picture });
    const still = () => this.run === mine;
    this.go.textContent = "Stop";
    this.verdict.textContent = "";
    this.mark();
    try {
      const random = this.how.value === "sampled" ? randomFrom(Number(this.seed.value)) : null;
      const text = await this.models.think(this.who.value, mine.b, mine.picture, random, async (so_far) => {
        if (!still()) return false;
        this.thought.textContent = so_far;
        this.field.value = this.reading.heard(so_far);
        this.edit = null;
        await Promise.all([this.update(), frame()]);
        return still();
      });
      if (still()) this.tell(text, await this.update());
    } catch (error) {
      this.verdict.textContent = `The reasoner could not be started: ${error.message}`;
    }
    if (still()) this.stop();
  }

  // What the reasoner answered, and whether the listeners would say the same after its trace.
  tell(text, found) {
    const { answer } = this.reading.parse(text);
    this.thought.textContent = text;
    if (answer === null) {
      this.verdict.textContent = "There is no answer in the strict format: this completion would earn nothing.";
      return;
    }
    const agree = this.gallery.listeners.map(({ model, name }) => {
      const { p } = found[model];
      return `${name} ${(p > 0.5 ? 1 : 2) === answer ? "agrees" : "contradicts it"} ` +
        `(${(answer === 1 ? p : 1 - p).toFixed(2)} on its side)`;
    });
    const right = answer === this.pair.better ? "the better one" : "not the better one";
    this.verdict.textContent = `Its answer: image ${answer}, ${right}. After its trace ${agree.join(", ")}.`;
  }

  // --- numbers ---

  mark() {
    for (const [model, row] of this.rows) if (row.now) this.before[model] = row.now;
  }

  // Ask every listener about the text in the field. While one question is under way a newer one makes it stale.
  async update() {
    const mine = ++this.asked;
    const trace = this.field.value, { b, picture, edit } = this;
    const unknown = this.reading.strangers(trace);
    this.strangers.textContent = unknown.length === 0 ? "" :
      `The listeners have no word for ${unknown.map((word) => `\u201c${word}\u201d`).join(", ")}: there they hear a gap. ` +
      "Their whole language is in the list below.";
    this.buttons.forEach((button) => button.setAttribute("aria-pressed", String(button.dataset.edit === edit)));
    const found = {};
    for (const model of this.rows.keys()) {
      if (this.ready) found[model] = await this.models.listen(model, b, picture, trace);
      else if (edit !== null) found[model] = written(this.pair.logits[model][picture][edit]);
      if (mine !== this.asked) return found;
    }
    for (const [model, row] of this.rows) draw(row, found[model], this.before[model]);
    this.root.dataset.drawn = String(mine);
    clearTimeout(this.later);
    this.later = setTimeout(() => (this.spoken.textContent = this.gallery.listeners.map(({ model, name }) =>
      found[model] ? `${name}: ${found[model].p.toFixed(2)}` : "").join("; ")), 700);
    if (!this.ready && edit === null) this.stage("To hear what you write, start the models.");
    return found;
  }
}

function written([one, two]) {
  return { one, two, p: pOf(one, two) };
}

function draw(row, now, before) {
  row.now = now;
  row.p.textContent = now ? now.p.toFixed(2) : "\u2013";
  row.margin.textContent = now ? `${now.one >= now.two ? "+" : "\u2212"}${Math.abs(now.one - now.two).toFixed(2)}` : "\u2013";
  row.side.textContent = now ? `image ${now.p > 0.5 ? 1 : 2}` : "\u2013";
  row.line.dataset.p = now ? now.p : "";
  row.bar.style.left = `${now ? 100 * Math.min(0.5, 1 - now.p) : 50}%`;
  row.bar.style.width = `${now ? 100 * Math.abs(now.p - 0.5) : 0}%`;
  row.ghost.hidden = !before || !now;
  if (before) row.ghost.style.left = `${100 * (1 - before.p)}%`;
}

const root = document.querySelector(".lrt-play");
if (root) {
  try {
    const page = new Page(root, await fetchGallery());
    root.dataset.state = "written";
    root.page = page; // for the test that holds this page against PyTorch
    if (!navigator.connection?.saveData) page.start();
  } catch (error) {
    root.append(el("p", {}, `The gallery could not be read: ${error.message}`));
  }
}
