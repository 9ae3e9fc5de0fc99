// What every thing to play with needs: elements, sliders, and the way from the static part to the living one.

function make(tag, attributes = {}, ...children) {
  const drawn = ["svg", "g", "line", "path", "rect", "circle", "polygon", "text"].includes(tag);
  const element = drawn ? document.createElementNS("http://www.w3.org/2000/svg", tag) : document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (value !== null && value !== false) element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children);
  return element;
}

const percent = (share) => `${Math.round(100 * share)} %`;
const signed = (value, digits = 2) => {
  const text = Math.abs(value).toFixed(digits);
  return Number(text) === 0 ? text : (value < 0 ? "-" : "+") + text;
};

// A range with its label and its value in words; `say` turns the number into what is read aloud.
function slider(label, { min = 0, max, step = 1, value, say = String }, changed) {
  const shown = make("output", {}, say(value));
  const input = make("input", { type: "range", min, max, step, "aria-valuetext": say(value), "aria-label": label });
  input.value = value;
  input.addEventListener("input", () => {
    input.setAttribute("aria-valuetext", say(Number(input.value)));
    shown.textContent = say(Number(input.value));
    changed(Number(input.value));
  });
  return { input, row: make("div", { class: "row" }, make("span", { "aria-hidden": "true" }, label), input, shown) };
}

function tableOf(head, rows) {
  const cells = (tag, row) => row.map((cell, i) =>
    make(i && tag === "td" ? "td" : "th", { scope: tag === "th" ? "col" : i ? null : "row" }, ...[cell].flat()));
  return make("table", {}, make("thead", {}, make("tr", {}, ...cells("th", head))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...cells("td", row)))));
}

// Draw into a shadow root; the static part stays in reach, folded away, and comes back if drawing fails.
function bringToLife(name, title, css, draw) {
  for (const host of document.querySelectorAll(`[data-lrt-widget="${name}"]`)) {
    if (host.shadowRoot) continue;
    const root = host.attachShadow({ mode: "open" });
    try {
      const data = JSON.parse(host.querySelector("script[type='application/json']").textContent);
      const box = make("div", { class: "box", role: "group", "aria-label": title }, make("p", { class: "title" }, title));
      draw(box, data);
      box.append(make("details", {}, make("summary", {}, "The same as a table"), make("slot")));
      root.append(make("style", {}, css), box);
    } catch (error) {
      root.replaceChildren(make("slot"));
      console.warn(`${name}: shown without its controls (${error})`);
    }
  }
}
