"use strict";
(() => {
  const data = JSON.parse(document.getElementById("playground-data").textContent);
  const { channels, size, classes, hand } = data;
  const find = (id) => document.getElementById(id);
  const paper = find("paper");
  const slider = find("temperature");
  const MOST_BARS = 12;
  const BARS_OF_MANY = 8;
  const CLASS_OF_BAR = { teacher: "teacher", distilled: "distilled", "distilled int8": "int8" };

  let networks = [];
  let pixels = new Uint8Array(channels * size * size);
  let logits = {};
  let drawing = new Drawing();
  let picture = null; // the picture opened last, before light and dark are swapped
  let waiting = null;
  let isRunning = false;

  // What a test or another script may read; data-state of the page: loading, ready, busy, failed.
  const state = (window.playground = {
    get pixels() { return [...pixels]; },
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

  // ---- what the networks see

  function see(next, title) {
    pixels = next;
    const seen = find("seen");
    seen.width = seen.height = size;
    seen.getContext("2d").putImageData(toImageData(pixels, channels, size), 0, 0);
    find("seen-title").textContent = title;
    classify();
  }

  function look() {
    return hand
      ? { background: hand.background ? "#fff" : "#000", ink: hand.background ? "#000" : "#fff", pen: hand.pen }
      : { background: "#fff", ink: find("colour").value, pen: 0.06 };
  }

  function seeDrawing() {
    drawing.paint(paper, { ...look(), pen: Math.min(look().pen, 0.08) });
    const canvas = document.createElement("canvas");
    canvas.width = canvas.height = 8 * Math.max(size, 28);
    const fitted = hand && !drawing.isEmpty ? drawing.fitted(hand.extent, hand.pen) : drawing;
    fitted.paint(canvas, look());
    see(toPixels(canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height), channels, size), "your drawing");
  }

  function seePicture() {
    const { image, title } = picture;
    let next = toPixels(image, channels, size);
    if (find("swap").checked) next = next.map((value) => 255 - value);
    see(next, title);
    const shown = document.createElement("canvas");
    shown.width = shown.height = size;
    shown.getContext("2d").putImageData(toImageData(next, channels, size), 0, 0);
    const context = paper.getContext("2d", { willReadFrequently: true });
    context.imageSmoothingEnabled = false;
    context.drawImage(shown, 0, 0, paper.width, paper.height);
  }

  function choose(sample) {
    for (const button of document.querySelectorAll("[data-sample]"))
      button.setAttribute("aria-pressed", String(button === sample));
  }

  async function openPicture(source, title, sample = null) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(source, { colorSpaceConversion: "none" });
    } catch {
      say(`${title} cannot be read as a picture. Open a PNG, JPEG, WebP or GIF.`, true);
      return;
    }
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    if (sample) find("swap").checked = false;
    picture = { image: context.getImageData(0, 0, canvas.width, canvas.height), title };
    drawing = new Drawing();
    choose(sample);
    seePicture();
    if (!sample) say(`${title} is open.`);
  }

  // ---- running, the latest picture first

  async function classify() {
    waiting = pixels;
    if (isRunning || networks.length === 0) return;
    isRunning = true;
    tell("busy");
    try {
      while (waiting) {
        const now = waiting;
        waiting = null;
        const found = {};
        for (const network of networks) found[network.name] = await network.run(now, channels, size);
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
      if (waiting) classify();
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
    const times = await alone(() => measureLatency(networks, pixels, channels, size));
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
  async function compareWithPython() {
    let largest = 0;
    for (const [i, { logits: expected }] of data.samples.entries()) {
      const image = document.querySelector(`[data-sample="${i}"] img`);
      const bitmap = await createImageBitmap(await decoded(image), { colorSpaceConversion: "none" });
      const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
      const context = canvas.getContext("2d", { willReadFrequently: true });
      context.drawImage(bitmap, 0, 0);
      const input = toPixels(context.getImageData(0, 0, size, size), channels, size);
      for (const network of networks) {
        const given = await network.run(input, channels, size);
        given.forEach((value, k) => {
          largest = Math.max(largest, Math.abs(value - expected[network.name][k]));
        });
      }
    }
    return largest;
  }

  async function decoded(image) {
    await image.decode();
    return image;
  }

  // ---- hands

  function place(event) {
    const box = paper.getBoundingClientRect();
    return [(event.clientX - box.left) / box.width, (event.clientY - box.top) / box.height];
  }

  paper.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    paper.setPointerCapture(event.pointerId);
    if (picture) {
      picture = null;
      drawing = new Drawing();
      choose(null);
    }
    drawing.begin(place(event));
    seeDrawing();
  });
  paper.addEventListener("pointermove", (event) => {
    if (!paper.hasPointerCapture(event.pointerId)) return;
    for (const one of event.getCoalescedEvents?.() ?? [event]) drawing.extend(place(one));
    seeDrawing();
  });

  function startAgain(change) {
    picture = null;
    choose(null);
    change();
    seeDrawing();
  }
  find("clear").addEventListener("click", () => startAgain(() => { drawing = new Drawing(); }));
  find("undo").addEventListener("click", () => startAgain(() => drawing.undo()));
  find("colour")?.addEventListener("input", () => { if (!picture) seeDrawing(); });
  find("swap").addEventListener("change", () => { if (picture) seePicture(); });

  find("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) openPicture(file, file.name);
    event.target.value = "";
  });
  const droppable = find("drop");
  for (const kind of ["dragenter", "dragover"])
    document.addEventListener(kind, (event) => {
      event.preventDefault();
      droppable.classList.add("over");
    });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) droppable.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    droppable.classList.remove("over");
    const [file] = event.dataTransfer.files;
    if (file) openPicture(file, file.name);
    else say("Drop a picture file here.", true);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) openPicture(file, "the pasted picture");
  });

  async function openSample(button) {
    const { label } = data.samples[Number(button.dataset.sample)];
    const image = await decoded(button.querySelector("img"));
    await openPicture(image, `a test picture, label ${label}`, button);
  }
  for (const button of document.querySelectorAll("[data-sample]"))
    button.addEventListener("click", () => openSample(button));

  slider.addEventListener("input", () => setTemperature(slider.value));
  for (const button of document.querySelectorAll("[data-temperature]"))
    button.addEventListener("click", () => setTemperature(button.dataset.temperature));
  find("measure").addEventListener("click", showLatency);

  // ---- start

  async function start() {
    tell("loading");
    setTemperature(data.temperature);
    const first = document.querySelector("[data-sample]");
    if (first) await openSample(first);
    else seeDrawing();
    await startRuntime();
    for (const description of data.networks) networks.push(await Network.open(description));
    await classify();
    if (data.samples.length) {
      state.difference = await alone(compareWithPython);
      find("check").textContent =
        `On ${data.samples.length} test pictures this browser gives the same logits as ONNX Runtime ` +
        `in Python${state.difference ? `, to ${state.difference.toExponential(0)}` : ", to the last bit"}.`;
    }
    state.latencies = await showLatency();
    say("Ready. Draw, open a picture, or pick a test picture.");
    tell("ready");
  }

  start().catch((error) => {
    networks = [];
    tell("failed");
    say(`The networks could not be started: ${error.message ?? error}.`, true);
  });
})();
