function draw(box, data) {
  const at = (line, d) => line.ends[0] + d * (line.ends[1] - line.ends[0]);
  const chart = make("div", {}), readout = make("div", { class: "wide" });
  const live = make("p", { class: "said", "aria-live": "polite" });
  const cards = data.pairs.map((pair, p) => {
    const pictures = [0, 1].map((i) => make("img", { width: 84, height: 84 }));
    const captions = [0, 1].map(() => make("figcaption", {}));
    const told = make("p", { class: "small" });
    const figures = pictures.map((picture, i) => make("figure", {}, picture, captions[i]));
    return { pair, pictures, captions, told, card: make("div", { class: "pair" },
      make("div", { class: "two" }, ...figures), make("p", { class: "small" }, pair.prompt), told) };
  });

  function show(d) {
    chart.replaceChildren(dialChart([...data.lines.map((line) => ({ ...line, y: (x) => at(line, x) })),
      { colour: "var(--line)", dash: "5 4", thin: true, y: () => data.bound }], d,
      { x: "dial d", y: "the warm image is ... (%)" }));
    readout.replaceChildren(tableOf(["the warm image is", `at d = ${d}`],
      [...data.lines.map((line) => [[swatch(line.colour, line.marker), line.name], percent(at(line, d))]),
        ["dashed: one voter agrees with a judge that sees everything", percent(data.bound)]]));
    const place = data.places.filter((other) => Math.abs(other.dial - d) < 1e-9).map((other) => other.name);
    let agree = 0, known = 0;
    for (const { pair, pictures, captions, told } of cards) {
      const warm = pair.warm[data.dials.findIndex((other) => Math.abs(other - d) < 1e-9)];
      pictures.forEach((picture, i) => {
        const is = warm === i + 1;
        picture.src = pair.images[i][is ? 0 : 1];
        picture.alt = `image ${i + 1}, ${is ? "warm" : "cool"} background: ${pair.alt[i]}`;
        captions[i].textContent = `${is ? "warm" : "cool"}${pair.better === i + 1 ? ", better" : ""}`;
        captions[i].className = pair.better === i + 1 ? "better" : "";
      });
      if (pair.better) { known += 1; agree += pair.better === warm; }
      told.textContent = `votes ${pair.votes[0]} : ${pair.votes[1]} · ${!pair.better ? "neither is better"
        : pair.better === warm ? "tint and content agree" : "tint and content conflict"}`;
    }
    live.textContent = `Of the ${known} pairs below with a better image, tint and content agree in ${agree}.`
      + (place.length ? ` This is the dial of ${place.join(", ")}.` : "");
  }

  const dial = slider("dial d", { min: 0, max: 1, step: 0.1, value: 0.9,
    say: (d) => `${d}: the better image is warm in ${Math.round(10 * d)} of 10` }, (d) => show(Number(d.toFixed(1))));
  box.append(make("p", {}, "How often is the better image the warm one? Everything but the backgrounds stays."),
    dial.row, live, make("div", { class: "beside" }, chart, readout),
    make("div", { class: "pairs" }, ...cards.map(({ card }) => card)));
  show(0.9);
}
