/* The deck: light or dark as the book is, formulas from the site's own MathJax, reveal.js with speaker notes. */

window.MathJax = {
  loader: { paths: { fonts: "[mathjax]/fonts" } },
  chtml: { matchFontHeight: false }, // slides that are not shown have no height to match
};

(function () {
  let mode = null;
  try {
    mode = localStorage.getItem("theme"); // the book's own choice
  } catch (error) {
    mode = null; // no storage: as the system says
  }
  const dark = mode === "dark" || (mode !== "light" && window.matchMedia("(prefers-color-scheme: dark)").matches);
  const printed = /print-pdf/.test(window.location.search);
  document.documentElement.dataset.theme = dark && !printed ? "dark" : "light";
})();

function otherTheme() {
  const root = document.documentElement;
  root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
}

function startDeck() {
  document.getElementById("deck-theme").addEventListener("click", otherTheme);
  Reveal.initialize({
    width: 1280,
    height: 720,
    margin: 0.04,
    center: false,
    hash: true,
    slideNumber: "c/t",
    transition: "none",
    pdfSeparateFragments: false,
    pdfMaxPagesPerSlide: 1,
    plugins: [RevealNotes],
    keyboard: { 68: otherTheme }, // d
  });
  Reveal.registerKeyboardShortcut("D", "Light or dark");
}
