"use strict";
// What pages of images and of texts share: running the latest input, soft targets, costs.

// data: from the page; toFeeds: from an input to named tensors; one: what an input is called.
function makeBoard(data, toFeeds, one) {
  const { classes } = data;
  const find = (id) => document.getElementById(id);
  const slider = find("temperature");
  const MOST_BARS = 12;
  const BARS_OF_MANY = 8;
  const CLASS_OF_BAR = { teacher: "teacher", distilled: "distilled", "distilled int8": "int8" };

  let networks = [];
  let input = null;
  let logits = {};
  let waiting = null;
  let isRunning = false;

  // What a test or another script may read; data-state of the page: loading, ready, busy, failed.
  const state = (window.playground = {
    get logits() { return logits; },
    get temperature() { return Number(slider.value); },
  });

  const nameOf = (index) => classes[index] ?? String(index);
  const best = (values) => values.indexOf(Math.max(...values));
  const digits = (value, places) => Number(value.toPrecision(places)).toLocaleString("en");

  function tell(word) {
    document.documentElement.dataset.state = word;
  }

  function say(text, isProblem = false) {
    find("status").textContent = text;
    find("status").classList.toggle("problem", isProblem);
  }

  function choose(sample) {
    for (const button of document.querySelectorAll("[data-sample]"))
      button.setAttribute("aria-pressed", String(button === sample));
  }

  // ---- running, the latest input first

  async function see(next) {
    input = waiting = next;
    if (isRunning || networks.length === 0) return;
    isRunning = true;
    tell("busy");
    try {
      while (waiting !== null) {
        const feeds = toFeeds(waiting);
        waiting = null;
        const found = {};
        for (const network of networks) found[network.name] = await network.call(feeds);
        logits = found;
        showBars();
      }
    } finally {
      isRunning = false;
    }
    if (state.latencies) tell("ready");
  }

  async function alone(work) {
    while (isRunning) await new Promise((done) => setTimeout(done, 5));
    isRunning = true;
    try {
      return await work();
    } finally {
      isRunning = false;
      if (waiting !== null) see(waiting);
    }
  }

  // ---- soft targets

  function shownClasses() {
    const first = logits[networks[0].name];
    if (first.length <= MOST_BARS) return first.map((_, index) => index);
    const ranked = first.map((_, index) => index).sort((a, b) => first[b] - first[a]);
    const kept = new Set([...ranked.slice(0, BARS_OF_MANY), ...Object.values(logits).map(best)]);
    return ranked.filter((index) => kept.has(index));
  }

  function cell(tag, content, options = {}) {
    const made = Object.assign(document.createElement(tag), options);
    made.append(content);
    return made;
  }

  function bar(name, probability, index) {
    const fill = cell("span", "", { className: `fill ${CLASS_OF_BAR[name]}` });
    fill.style.width = `${100 * probability}%`;
    const made = cell("td", cell("span", fill, { className: "track" }));
    made.append(cell("span", probability.toFixed(3), { className: "value" }));
    Object.assign(made.dataset, { network: name, class: index });
    return made;
  }

  function showBars() {
    const temperature = state.temperature;
    const soft = Object.fromEntries(
      networks.map(({ name }) => [name, soften(logits[name], temperature)]),
    );
    const shown = shownClasses();
    const teacherPick = best(logits[networks[0].name]);
    const rows = shown.map((index) => {
      const row = cell("tr", cell("th", nameOf(index), { scope: "row", title: nameOf(index) }));
      row.classList.toggle("label", index === teacherPick);
      row.append(...networks.map(({ name }) => bar(name, soft[name][index], index)));
      return row;
    });
    const others = logits[networks[0].name].length - shown.length;
    if (others) {
      const row = cell("tr", cell("th", `${others} more`, { scope: "row" }));
      row.append(
        ...networks.map(({ name }) => {
          const kept = shown.reduce((sum, index) => sum + soft[name][index], 0);
          return bar(name, Math.max(1 - kept, 0), "rest");
        }),
      );
      rows.push(row);
    }
    find("bars").replaceChildren(...rows);
    showFacts(soft);
    showPicks(soft);
    announce(soft, temperature);
  }

  function showFacts(soft) {
    const teacher = soft[networks[0].name];
    const facts = {
      entropy: ({ name }) => entropy(soft[name]).toFixed(3),
      KL: ({ name }, i) => (i ? divergence(teacher, soft[name]).toFixed(4) : "–"),
    };
    find("facts").replaceChildren(
      ...Object.entries(facts).map(([title, value]) => {
        const row = cell("tr", cell("th", title, { scope: "row" }));
        row.append(...networks.map((network, i) => cell("td", value(network, i))));
        return row;
      }),
    );
  }

  function showPicks(soft) {
    const teacherPick = best(logits[networks[0].name]);
    for (const { name } of networks) {
      const pick = best(logits[name]);
      const place = document.querySelector(`[data-pick="${name}"]`);
      place.querySelector("strong").textContent = nameOf(pick);
      place.querySelector(".detail").textContent =
        `${(100 * soft[name][pick]).toFixed(1)} %` + (pick === teacherPick ? "" : ", not the teacher's");
      place.classList.toggle("differs", pick !== teacherPick);
    }
  }

  // Read out once things are still, not at every stroke.
  let timer = null;
  function announce(soft, temperature) {
    clearTimeout(timer);
    timer = setTimeout(() => {
      const parts = networks.map(({ name, title }) => {
        const pick = best(logits[name]);
        return `${title}: ${nameOf(pick)}, ${(100 * soft[name][pick]).toFixed(0)} percent`;
      });
      find("answer").textContent = `${parts.join(". ")}. Temperature ${digits(temperature, 3)}.`;
    }, 700);
  }

  function setTemperature(value) {
    slider.value = value;
    const text = digits(state.temperature, 3);
    find("temperature-value").textContent = text;
    slider.setAttribute("aria-valuetext", `temperature ${text}`);
    if (Object.keys(logits).length) showBars();
  }

  // ---- cost on this device

  async function showLatency() {
    find("measure").disabled = true;
    const times = await alone(() => measureLatency(networks, toFeeds(input)));
    networks.forEach(({ name, bytes }, i) => {
      const row = document.querySelector(`[data-cost="${name}"]`);
      // A browser may hold its clock still; then there is no time to tell.
      const isTold = times[0] > 0 && times[i] > 0;
      row.querySelector(".time").textContent = isTold ? `${digits(times[i], 3)} ms` : "–";
      row.querySelector(".faster").textContent = i && isTold ? `${digits(times[0] / times[i], 3)}×` : "–";
      row.querySelector(".smaller").textContent = i ? `${digits(networks[0].bytes / bytes, 3)}×` : "–";
    });
    find("measure").disabled = false;
    return times;
  }

  // The samples' logits as the runtime gave them where this page was written.
  async function compareWithPython(inputs) {
    let largest = 0;
    for (const [i, { logits: expected }] of data.samples.entries()) {
      const feeds = toFeeds(inputs[i]);
      for (const network of networks) {
        const given = await network.call(feeds);
        given.forEach((value, k) => {
          largest = Math.max(largest, Math.abs(value - expected[network.name][k]));
        });
      }
    }
    return largest;
  }

  slider.addEventListener("input", () => setTemperature(slider.value));
  for (const button of document.querySelectorAll("[data-temperature]"))
    button.addEventListener("click", () => setTemperature(button.dataset.temperature));
  find("measure").addEventListener("click", showLatency);

  // ---- start

  // prepare: shows the first input and gives those of all samples; ready: what to do now.
  async function run(prepare, ready) {
    tell("loading");
    setTemperature(data.temperature);
    const inputs = await prepare();
    await startRuntime();
    for (const description of data.networks) networks.push(await Network.open(description));
    await see(input);
    if (inputs.length) {
      state.difference = await alone(() => compareWithPython(inputs));
      find("check").textContent =
        `On ${inputs.length} test ${one}s this browser gives the same logits as ONNX Runtime ` +
        `in Python${state.difference ? `, to ${state.difference.toExponential(0)}` : ", to the last bit"}.`;
    }
    state.latencies = await showLatency();
    say(ready);
    tell("ready");
  }

  function start(prepare, ready) {
    run(prepare, ready).catch((error) => {
      networks = [];
      tell("failed");
      say(`The networks could not be started: ${error.message ?? error}.`, true);
    });
  }

  return { find, say, choose, see, start, state };
}
