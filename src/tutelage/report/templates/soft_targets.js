"use strict";
(() => {
  const { samples, temperature: start } = JSON.parse(
    document.getElementById("report-data").textContent,
  );
  const slider = document.getElementById("temperature");
  const shown = document.getElementById("temperature-value");

  function fillBar(cell, probability) {
    cell.querySelector(".fill").style.width = `${100 * probability}%`;
    cell.querySelector(".value").textContent = probability.toFixed(3);
  }

  function fillColumn(cells, probabilities) {
    const facts = { highest: Math.max(...probabilities), entropy: entropy(probabilities) };
    let rest = 1;
    for (const cell of cells) {
      const { class: index, fact } = cell.dataset;
      if (fact) cell.textContent = facts[fact].toFixed(3);
      else if (index === "rest") fillBar(cell, Math.max(rest, 0));
      else {
        fillBar(cell, probabilities[Number(index)]);
        rest -= probabilities[Number(index)];
      }
    }
  }

  const columns = samples.flatMap((networks, index) => {
    const card = document.querySelector(`[data-sample="${index}"]`);
    const cells = [...card.querySelectorAll("[data-network]")];
    return Object.entries(networks).map(([name, logits]) => ({
      logits,
      cells: cells.filter((cell) => cell.dataset.network === name),
    }));
  });

  function show(temperature) {
    const text = String(Number(temperature.toFixed(2)));
    shown.textContent = text;
    slider.setAttribute("aria-valuetext", `temperature ${text}`);
    for (const { logits, cells } of columns) fillColumn(cells, soften(logits, temperature));
  }

  slider.addEventListener("input", () => show(Number(slider.value)));
  for (const button of document.querySelectorAll("[data-temperature]")) {
    button.addEventListener("click", () => {
      slider.value = button.dataset.temperature;
      show(Number(button.dataset.temperature));
    });
  }
  for (const image of document.querySelectorAll(".sample img")) {
    const sharpen = () => image.classList.toggle("pixels", image.naturalWidth <= 64);
    if (image.complete) sharpen();
    else image.addEventListener("load", sharpen);
  }
  show(start);
})();
