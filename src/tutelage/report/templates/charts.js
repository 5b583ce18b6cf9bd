"use strict";
(() => {
  const { figures } = JSON.parse(document.getElementById("report-data").textContent);
  const places = [...document.querySelectorAll("[data-chart]")];

  // Plotly paints in fixed colours; these follow the page's light or dark theme.
  function theme() {
    const style = getComputedStyle(document.documentElement);
    const read = (name) => style.getPropertyValue(name).trim();
    const look = {
      paper_bgcolor: "rgba(0,0,0,0)",
      plot_bgcolor: "rgba(0,0,0,0)",
      "font.color": read("--text"),
      "font.family": "system-ui, sans-serif",
      "font.size": 13,
    };
    for (const axis of ["xaxis", "yaxis"]) {
      look[`${axis}.gridcolor`] = read("--line");
      look[`${axis}.linecolor`] = read("--line");
      look[`${axis}.zerolinecolor`] = read("--line");
    }
    return look;
  }

  const options = { displayModeBar: false, responsive: true };
  const drawn = places.map((place) => {
    const { data, layout } = figures[place.dataset.chart];
    return Plotly.newPlot(place, data, layout, options).then(() => Plotly.relayout(place, theme()));
  });
  Promise.all(drawn).then(() => document.documentElement.classList.add("charts-drawn"));

  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => {
    for (const place of places) Plotly.relayout(place, theme());
  });
})();
