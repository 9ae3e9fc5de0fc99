function draw(box, data) {
  let run = 0, pair = 0, at = data.runs[0].steps.length - 1;
  const page = make("div", {}), live = make("p", { class: "said", "aria-live": "polite" });
  const stated = (c) => [...c.m].filter((m) => "tfTF".includes(m)).length;
  const trueOf = (c) => [...c.m].filter((m) => "tT".includes(m)).length;

  function words(completion) {
    const out = [];
    [...completion.w].forEach((letter, i) => {
      const word = data.words[letter], mark = { T: "t", F: "f", "!": "?" }[completion.m[i]] || completion.m[i];
      const tag = { t: "u", f: "mark", "?": "span" }[mark];
      let element = tag ? make(tag, { class: mark === "?" ? "unscorable" : null }, word,
        ...(mark === "f" ? [make("sup", {}, "✗")] : mark === "?" ? [make("sup", {}, "?")] : [])) : word;
      if ("TF_!".includes(completion.m[i])) element = make("ins", {}, element);
      out.push(element, word === "." ? make("br") : " ");
    });
    return out.length ? out : [make("em", {}, "no trace")];
  }

  function shown(completion, k, vote, ears) {
    const [verdict, answer, format, accuracy] = completion.s;
    const said = answer ? `answer: image ${answer} (${answer === vote ? "as voted ✓" : "not as voted ✗"})` : "no answer that can be read ✗";
    const apart = verdict && answer && verdict !== answer ? " · the answer departs from the verdict ≠" : "";
    const heard = ears.map((name, i) => completion.p[i] === null ? `${name}: not scored`
      : `${name}: p(image 1) = ${(completion.p[i] / 1000).toFixed(2)}, so ${((vote === 1 ? completion.p[i] : 1000 - completion.p[i]) / 1000).toFixed(2)} for the vote`);
    return make("div", { class: "completion" },
      make("p", { class: "small" }, k ? `sample ${k}` : "greedy"),
      make("p", { class: "trace" }, ...words(completion)),
      completion.x ? make("p", {}, "Not in the strict format. As written: ", make("code", {}, completion.x)) : "",
      make("p", {}, `${verdict ? `verdict: image ${verdict}` : "no verdict"} · ${said}${apart}`),
      make("p", { class: "small" }, `reward: format ${format} + 0.5 × accuracy ${accuracy} = ${format + 0.5 * accuracy}`
        + (heard.length ? "; a listener, where one is paid for, adds 0.5 × its p for the vote:" : "")),
      heard.length ? make("ul", { class: "small" }, ...heard.map((ear) => make("li", {}, ear))) : "");
  }

  // One mark a step for the greedy completion of this pair: where in the run does something change?
  function strip(one) {
    const rows = [["step", ...one.steps.map((step, i) => i === at ? make("b", {}, `▸${step}`) : String(step))],
      ["answer", ...one.shown.map((by) => by[pair].length ? (by[pair][0].s[1] === data.pairs[pair].vote ? "✓" : "✗") : "")],
      ["true", ...one.shown.map((by) => by[pair].length && stated(by[pair][0]) ? `${Math.round(100 * trueOf(by[pair][0]) / stated(by[pair][0]))} %` : "")]];
    return make("div", { class: "wide", tabindex: 0, role: "group", "aria-label": "the greedy completion, step by step" }, tableOf(rows[0], rows.slice(1)));
  }

  function show() {
    const one = data.runs[run], of = data.pairs[pair], own = one.shown[at][pair];
    const pictures = of.images.map((src, i) => make("figure", {},
      make("img", { src, width: 112, height: 112, alt: `image ${i + 1}, ${of.tints[i]} background: ${of.alts[i]}` }),
      make("figcaption", {}, `image ${i + 1}: ${of.tints[i]}${of.vote === i + 1 ? ", voted" : ""}${of.better === i + 1 ? ", better" : ""}`)));
    const [greedy, ...samples] = own.map((completion, k) => shown(completion, k, of.vote, one.ears));
    page.replaceChildren(make("div", { class: "two" }, ...pictures), make("p", {}, of.prompt), strip(one), greedy || "",
      make("details", { open: open.value, ontoggle: (event) => { open.value = event.target.open; } },
        make("summary", {}, `sampled completions: ${samples.length}`), ...samples));
    const states = own.reduce((n, c) => n + stated(c), 0), trues = own.reduce((n, c) => n + trueOf(c), 0);
    live.textContent = `${one.name}, step ${one.steps[at]}, pair ${pair + 1}: ${own.filter((c) => c.s[1] === of.vote).length} of ${own.length} as voted, ${trues} of ${states} statements true.`;
  }

  const open = { value: false };
  const stepRow = make("div", {});
  function sliders() {
    const steps = data.runs[run].steps;
    stepRow.replaceChildren(slider("step", { max: steps.length - 1, value: at, say: (i) => `${steps[i]} of ${steps.at(-1)}` },
      (i) => { at = i; show(); }).row);
  }
  const choice = make("select", { onchange: () => { run = Number(choice.value); at = Math.min(at, data.runs[run].steps.length - 1); sliders(); show(); } },
    ...data.runs.map((one, i) => make("option", { value: i }, one.name)));
  const which = slider("pair", { max: data.pairs.length - 1, value: 0, say: (i) => `${i + 1} of ${data.pairs.length}` }, (i) => { pair = i; show(); });
  box.append(make("p", { class: "small" }, "In a trace: ", make("u", {}, "true"), ", ", make("mark", {}, "false", make("sup", {}, "✗")), ", ",
    make("span", { class: "unscorable" }, "not to be scored", make("sup", {}, "?")), ", ", make("ins", {}, "new since the step before"), "."),
    ...(data.runs.length > 1 ? [make("div", { class: "row" }, make("label", {}, "run ", choice))] : []), stepRow, which.row, live, page);
  sliders();
  show();
}
