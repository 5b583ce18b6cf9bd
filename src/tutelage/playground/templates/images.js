"use strict";
// A page of images: drawn, opened, dropped, pasted, or taken from the run's test data.
(() => {
  const data = JSON.parse(document.getElementById("playground-data").textContent);
  const { channels, size, hand } = data;

  function toFeeds(bytes) {
    const values = Float32Array.from(bytes, (value) => value / 255);
    return { inputs: new ort.Tensor("float32", values, [1, channels, size, size]) };
  }

  const board = makeBoard(data, toFeeds, "image");
  const { find, say, choose } = board;
  const paper = find("paper");

  let pixels = new Uint8Array(channels * size * size);
  let drawing = new Drawing();
  let opened = null; // the image opened last, before light and dark are swapped

  Object.defineProperty(window.playground, "pixels", { get: () => [...pixels] });

  // ---- what the networks see

  function see(next, title) {
    pixels = next;
    const seen = find("seen");
    seen.width = seen.height = size;
    seen.getContext("2d").putImageData(toImageData(pixels, channels, size), 0, 0);
    find("seen-title").textContent = title;
    board.see(pixels);
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

  function seeImage() {
    const { image, title } = opened;
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

  async function openImage(source, title, sample = null) {
    let bitmap;
    try {
      bitmap = await createImageBitmap(source, { colorSpaceConversion: "none" });
    } catch {
      say(`${title} cannot be read as an image. Open a PNG, JPEG, WebP or GIF.`, true);
      return;
    }
    const canvas = document.createElement("canvas");
    [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    if (sample) find("swap").checked = false;
    opened = { image: context.getImageData(0, 0, canvas.width, canvas.height), title };
    drawing = new Drawing();
    choose(sample);
    seeImage();
    if (!sample) say(`${title} is open.`);
  }

  // A test image as the networks take it.
  async function pixelsOf(sample) {
    const image = await decoded(sample.querySelector("img"));
    const bitmap = await createImageBitmap(image, { colorSpaceConversion: "none" });
    const canvas = Object.assign(document.createElement("canvas"), { width: size, height: size });
    const context = canvas.getContext("2d", { willReadFrequently: true });
    context.drawImage(bitmap, 0, 0);
    return toPixels(context.getImageData(0, 0, size, size), channels, size);
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
    if (opened) {
      opened = null;
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
    opened = null;
    choose(null);
    change();
    seeDrawing();
  }
  find("clear").addEventListener("click", () => startAgain(() => { drawing = new Drawing(); }));
  find("undo").addEventListener("click", () => startAgain(() => drawing.undo()));
  find("colour")?.addEventListener("input", () => { if (!opened) seeDrawing(); });
  find("swap").addEventListener("change", () => { if (opened) seeImage(); });

  find("file").addEventListener("change", (event) => {
    const [file] = event.target.files;
    if (file) openImage(file, file.name);
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
    if (file) openImage(file, file.name);
    else say("Drop an image file here.", true);
  });
  document.addEventListener("paste", (event) => {
    const [file] = event.clipboardData.files;
    if (file) openImage(file, "the pasted image");
  });

  async function openSample(button) {
    const { label } = data.samples[Number(button.dataset.sample)];
    const image = await decoded(button.querySelector("img"));
    await openImage(image, `a test image, label ${label}`, button);
  }
  for (const button of document.querySelectorAll("[data-sample]"))
    button.addEventListener("click", () => openSample(button));

  async function prepare() {
    const samples = [...document.querySelectorAll("[data-sample]")];
    if (samples.length) await openSample(samples[0]);
    else seeDrawing();
    return Promise.all(samples.map(pixelsOf));
  }

  board.start(prepare, "Ready. Draw, open an image, or pick a test image.");
})();
