// Advantages of one group, as lrt.rewards.advantages and TRL compute them (a test holds one against the other).
function deviation(values, ddof) {
  const mean = values.reduce((a, b) => a + b, 0) / values.length;
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return Math.sqrt(squares / (values.length - ddof));
}

function advantages(rewards, scale, rest, eps) {
  const total = rewards.reduce((a, b) => a + b, 0), n = rewards.length;
  if (scale === "others") return rewards.map((r) => r - (total - r) / (n - 1));
  const centred = rewards.map((r) => r - total / n);
  if (scale === "none") return centred;
  const spread = scale === "batch" ? deviation([...rewards, ...rest.flat()], 1) : deviation(rewards, scale === "n" ? 0 : 1);
  return centred.map((c) => c / (spread + eps));
}

// What there is to say about the group, in two sentences at most.
function said(rewards, scale, rest, eps) {
  const A = advantages(rewards, scale, rest, eps), apart = Math.max(...rewards) - Math.min(...rewards);
  if (apart === 0) return "All rewards are equal: every advantage is 0. A dead group, from which nothing is learnt.";
  const range = `Advantages from ${signed(Math.min(...A))} to ${signed(Math.max(...A))}.`;
  if (scale === "none" || scale === "others")
    return `${range} Nothing is divided: rewards that differ by ${Number(apart.toFixed(3))} at most give advantages as small.`;
  if (scale === "batch") return `${range} All groups of the batch share one deviation, ${deviation([...rewards, ...rest.flat()], 1).toFixed(3)}.`;
  const s = deviation(rewards, scale === "n" ? 0 : 1), held = eps / (s + eps);
  if (held > 0.05)
    return `${range} Rewards differ by ${Number(apart.toFixed(4))} at most, and the deviation is ${s.toFixed(5)}: ε takes ${percent(held)} off; without it they would reach ${signed(Math.max(...advantages(rewards, scale, rest, 0)))}.`;
  if (apart < 0.1)
    return `${range} Rewards differ by ${Number(apart.toFixed(3))} at most, and yet the advantages are as large as in any other group: the deviation is as small.`;
  return `${range} Mean reward ${(rewards.reduce((a, b) => a + b, 0) / rewards.length).toFixed(2)}, deviation ${s.toFixed(3)}.`;
}

function draw(box, data) {
  let rewards = [...data.presets[0].rewards], scale = data.scales[0].key, eps = data.eps[0];
  const top = data.most, bars = [], live = make("p", { class: "said", "aria-live": "polite" });
  const columns = make("div", { class: "columns" });

  function show() {
    const A = advantages(rewards, scale, data.rest, eps);
    const reach = Math.max(2.7, ...A.map(Math.abs));
    const mean = rewards.reduce((a, b) => a + b, 0) / rewards.length;
    columns.style.setProperty("--mean", `${100 * mean / top}%`);
    A.forEach((a, i) => {
      const { input, fill, reward, half, value } = bars[i];
      input.value = rewards[i];
      input.setAttribute("aria-valuetext", `reward ${rewards[i].toFixed(3)}, advantage ${signed(a, 3)}`);
      fill.style.height = `${100 * rewards[i] / top}%`;
      reward.textContent = rewards[i].toFixed(Number.isInteger(Math.round(1000 * rewards[i]) / 10) ? 2 : 3);
      half.style.cssText = `height:${50 * Math.abs(a) / reach}%;${a < 0 ? "top" : "bottom"}:50%;`;
      half.className = a < 0 ? "half down" : a > 0 ? "half up" : "half";
      value.textContent = signed(a);
    });
    live.textContent = said(rewards, scale, data.rest, eps);
    note.textContent = data.scales.find((s) => s.key === scale).note;
    others.hidden = scale !== "batch";
    for (const b of buttons) b.setAttribute("aria-pressed", String(b.preset.every((r, i) => r === rewards[i])));
  }

  rewards.forEach((_, i) => {
    const input = make("input", { type: "range", min: 0, max: top, step: 0.001, "aria-label": `reward of completion ${i + 1}`,
      "aria-orientation": "vertical", oninput: () => set(Number(input.value)),
      onkeydown: (event) => {
        const way = { ArrowUp: 1, ArrowRight: 1, ArrowDown: -1, ArrowLeft: -1 }[event.key];
        if (!way) return;
        event.preventDefault();
        set(rewards[i] + way * (event.shiftKey ? 0.001 : 0.05));
      } });
    const set = (value) => {
      rewards[i] = Number(Math.min(top, Math.max(0, value)).toFixed(3));
      show();
    };
    const fill = make("div", { class: "fill" }), half = make("div", { class: "half" });
    const reward = make("span", { "aria-hidden": "true" }), value = make("b", { "aria-hidden": "true" });
    bars.push({ input, fill, reward, half, value });
    columns.append(make("div", { class: "column" }, reward, make("div", { class: "track" }, fill, input),
      make("div", { class: "signed", "aria-hidden": "true" }, half), value));
  });

  const choice = make("select", { onchange: () => { scale = choice.value; show(); } },
    ...data.scales.map((s) => make("option", { value: s.key }, s.name)));
  const small = make("select", { onchange: () => { eps = Number(small.value); show(); } },
    ...data.eps.map((e) => make("option", { value: e }, String(e))));
  const buttons = data.presets.map((preset) => {
    const button = make("button", { type: "button", onclick: () => { rewards = [...preset.rewards]; show(); } }, preset.name);
    button.preset = preset.rewards;
    return button;
  });
  const note = make("p", { class: "small" });
  const others = make("p", { class: "small" }, `The rest of this batch is fixed: ${data.rest.map((g) => `(${g.join(", ")})`).join(", ")}.`);
  box.append(make("p", {}, "Drag a bar, or move it with the arrow keys (with Shift by 0.001). Above: the reward, and a dashed line for the mean. Below: the advantage."),
    make("div", { class: "row" }, make("label", {}, "Scaling ", choice), make("label", {}, "ε ", small)),
    columns, live, note, others,
    make("fieldset", {}, make("legend", {}, `Set all ${rewards.length}`), make("div", { class: "row" }, ...buttons)));
  show();
}
