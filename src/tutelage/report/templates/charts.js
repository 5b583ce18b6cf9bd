"use strict";
(() => {
  const { figures } = JSON.parse(document.getElementById("report-data").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];

  // Plotly paints in fixed colours; these follow the page's light or dark theme.
  function themed(layout) {
    const style = getComputedStyle(document.documentElement);
    const line = style.getPropertyValue("--line").trim();
    const text = style.getPropertyValue("--text").trim();
    const lines = { gridcolor: line, linecolor: line, zerolinecolor: line };
    return {
      ...layout,
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      font: { color: text, family: "system-ui, sans-serif", size: 13 },
      xaxis: { ...layout.xaxis, ...lines },
      yaxis: { ...layout.yaxis, ...lines },
    };
  }

  function draw(place) {
    const { data, layout } = figures[place.dataset.chart];
    return Plotly.react(place, data, themed(layout), { displayModeBar: false, responsive: true });
  }

  const drawn = places.map(draw);
  Promise.all(drawn).then(() => document.documentElement.classList.add("charts-drawn"));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => places.forEach(draw));
})();
