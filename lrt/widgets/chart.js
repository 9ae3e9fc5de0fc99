// Shares against a dial, markers of methods.

function marker(kind, x, y, colour) {
  const at = (points) => points.map(([a, b]) => `${x + a},${y + b}`).join(" ");
  const shapes = { s: [[-5, -5], [5, -5], [5, 5], [-5, 5]], D: [[0, -7], [7, 0], [0, 7], [-7, 0]],
    "^": [[0, -7], [6, 5], [-6, 5]], v: [[0, 7], [6, -5], [-6, -5]],
    X: [[-6, -3], [-3, -6], [0, -3], [3, -6], [6, -3], [3, 0], [6, 3], [3, 6], [0, 3], [-3, 6], [-6, 3], [-3, 0]],
    P: [[-2, -6], [2, -6], [2, -2], [6, -2], [6, 2], [2, 2], [2, 6], [-2, 6], [-2, 2], [-6, 2], [-6, -2], [-2, -2]] };
  const look = { fill: colour, stroke: "var(--paper)", "stroke-width": 1 };
  return shapes[kind] ? make("polygon", { points: at(shapes[kind]), ...look })
    : make("circle", { cx: x, cy: y, r: 5, ...look });
}

// Shares against a dial from 0 to 1. lines: [{colour, marker, dash, y: f(dial)}]; a marker stands at the dial.
function dialChart(lines, dial, names) {
  const W = 420, H = 250, left = 44, right = 12, top = 12, bottom = 42;
  const X = (d) => left + d * (W - left - right), Y = (s) => top + (1 - s) * (H - top - bottom);
  const svg = make("svg", { viewBox: `0 0 ${W} ${H}`, "aria-hidden": "true" });
  for (const s of [0, 0.25, 0.5, 0.75, 1]) {
    svg.append(make("line", { class: s ? "grid" : "axis", x1: left, x2: W - right, y1: Y(s), y2: Y(s) }),
      make("text", { x: left - 6, y: Y(s) + 4, "text-anchor": "end" }, String(100 * s)));
    svg.append(make("text", { x: X(s), y: H - bottom + 16, "text-anchor": "middle" }, String(s)));
  }
  svg.append(make("line", { class: "axis", x1: X(dial), x2: X(dial), y1: top, y2: H - bottom }),
    make("text", { x: X(0.5), y: H - 6, "text-anchor": "middle" }, names.x),
    make("text", { x: 12, y: H / 2 - 12, "text-anchor": "middle", transform: `rotate(-90 12 ${H / 2 - 12})` }, names.y));
  for (const line of lines) {
    const path = `M${X(0)},${Y(line.y(0))}L${X(1)},${Y(line.y(1))}`;
    svg.append(make("path", { d: path, stroke: line.colour, "stroke-width": line.thin ? 1 : 2.5,
      "stroke-opacity": line.thin && !line.dash ? 0.4 : 1, "stroke-dasharray": line.dash || null, fill: "none" }));
    if (!line.thin) svg.append(marker(line.marker, X(dial), Y(line.y(dial)), line.colour));
  }
  return svg;
}

const swatch = (colour, kind) => make("svg", { viewBox: "0 0 16 16", width: 16, height: 16, "aria-hidden": "true",
  style: "display:inline-block;width:16px;height:16px;vertical-align:-3px;margin-right:.35em" }, marker(kind, 8, 8, colour));
