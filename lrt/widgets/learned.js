// d a + (1 - d) c for each run [agree, conflict, flip], as lrt.widgets.learned.at_test_dial has it.
const atTest = (run, d) => run[0] === null || run[1] === null ? null : d * run[0] + (1 - d) * run[1];

// Mean and 95 % t-interval over seeds; t[n] is Student's point for n values. null: the measure did not apply.
function overSeeds(all, t) {
  const values = all.filter((value) => value !== null), n = values.length, mean = values.reduce((a, b) => a + b, 0) / n;
  if (n < 2) return { mean, low: NaN, high: NaN };
  const sd = Math.sqrt(values.reduce((sum, value) => sum + (value - mean) ** 2, 0) / (n - 1));
  const half = t[n] * sd / Math.sqrt(n);
  return { mean, low: mean - half, high: mean + half };
}

function draw(box, data) {
  let trained = 0, test = 0.5;
  const hidden = new Set(), chart = make("div", {}), readout = make("div", { class: "wide" });
  const live = make("p", { class: "said", "aria-live": "polite" }), missing = make("p", { class: "small" });
  const within = (x) => Math.round(100 * Math.min(1, Math.max(0, x)));
  const share = ({ mean, low, high }) => Number.isNaN(mean) ? ["-"] : Number.isNaN(low) ? [percent(mean)]
    : [percent(mean), make("span", { class: "ends" }, ` [${within(low)}, ${within(high)}]`)];
  const rightAt = (method, d) => overSeeds(method.runs[trained].map((run) => atTest(run, d)), data.t);

  function lines() {
    const drawn = data.methods.filter((m) => m.runs[trained].some((run) => atTest(run, 0) !== null) && !hidden.has(m.name));
    chart.replaceChildren(dialChart(drawn.flatMap((m) => [
      ...m.runs[trained].filter((run) => atTest(run, 0) !== null).map((run) => ({ colour: m.colour, thin: true, y: (d) => atTest(run, d) })),
      { colour: m.colour, marker: m.marker, y: (d) => rightAt(m, d).mean }]), test,
      { x: "dial of the test pairs", y: "chose the better image (%)" }));
  }

  function named(method) {
    const input = make("input", { type: "checkbox", onchange: () => {
      if (input.checked) hidden.delete(method.name); else hidden.add(method.name);
      lines();
    } });
    input.checked = !hidden.has(method.name);
    return make("label", {}, input, swatch(method.colour, method.marker), method.name);
  }

  function show() {
    const there = data.methods.filter((m) => m.runs[trained].length), n = there.reduce((sum, m) => sum + m.runs[trained].length, 0);
    lines();
    readout.replaceChildren(tableOf(["method (shown)", "seeds", `right at test dial ${test}`, "answers that flip"],
      there.map((m) => [named(m), String(m.runs[trained].length), share(rightAt(m, test)),
        share(overSeeds(m.runs[trained].map((run) => run[2]), data.t))])));
    const gone = data.methods.filter((m) => m.asked[trained] && !m.runs[trained].length).map((m) => m.name);
    const other = data.methods.filter((m) => !m.asked[trained]).map((m) => m.name);
    readout.hidden = chart.hidden = !n;
    live.textContent = n
      ? `Trained at dial ${data.dials[trained]}, tested at ${test}: ${there.length} methods, ${n} runs. Thick: means over seeds; thin: single runs.`
      : `Trained at dial ${data.dials[trained]}: nothing was run yet, so there is nothing to show.`;
    missing.textContent = (gone.length ? `Planned, and not run yet: ${gone.join(", ")}. ` : "")
      + (other.length ? `Not planned at this dial: ${other.join(", ")}.` : "");
    buttons.forEach((button, i) => button.setAttribute("aria-pressed", String(i === trained)));
  }

  const buttons = data.dials.map((dial, i) => {
    const runs = data.methods.reduce((n, m) => n + m.runs[i].length, 0);
    return make("button", { type: "button", onclick: () => { trained = i; show(); } },
      `${dial} (${runs ? `${runs} run${runs > 1 ? "s" : ""}` : "not run yet"})`);
  });
  const dial = slider("test dial", { min: 0, max: 1, step: 0.1, value: test,
    say: (d) => `${d}: the better image is warm in ${Math.round(10 * d)} of 10` },
    (d) => { test = Number(d.toFixed(1)); show(); });
  box.append(make("fieldset", {}, make("legend", {}, "Dial in training"), make("div", { class: "row" }, ...buttons)),
    dial.row, live, chart, readout,
    make("p", { class: "small" }, "In brackets: 95 % intervals over seeds, cut to 0 to 100; one seed has none. At test dial 1 tint and content always agree, at 0 they always conflict."),
    missing);
  show();
}
