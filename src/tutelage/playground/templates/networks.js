"use strict";
// The exported networks in ONNX Runtime Web: one thread of WebAssembly, nothing from elsewhere.

// A file of the playground: from the page itself where it lies in it, else from beside the page.
async function loadFile(name) {
  const packed = document.querySelector(`script[data-file="${name}"]`);
  if (packed) {
    const bytes = Uint8Array.from(atob(packed.textContent), (character) => character.charCodeAt(0));
    packed.remove();
    const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
    return new Uint8Array(await new Response(stream).arrayBuffer());
  }
  if (location.protocol === "file:")
    throw new Error(
      "browsers let no page opened from a file read the files beside it. Serve this folder " +
        "(tutelage playground RUN --open), or write one file (--single-file)",
    );
  const answer = await fetch(name);
  if (!answer.ok) throw new Error(`${name}: ${answer.status} ${answer.statusText}`);
  return new Uint8Array(await answer.arrayBuffer());
}

async function startRuntime() {
  const [loader, binary] = await Promise.all([
    loadFile("runtime/ort-wasm-simd-threaded.mjs"),
    loadFile("runtime/ort-wasm-simd-threaded.wasm"),
  ]);
  ort.env.wasm.numThreads = 1;
  ort.env.wasm.wasmBinary = binary;
  ort.env.wasm.wasmPaths = {
    mjs: URL.createObjectURL(new Blob([loader], { type: "text/javascript" })),
  };
}

class Network {
  static async open(description) {
    const file = await loadFile(description.file);
    const session = await ort.InferenceSession.create(file, { executionProviders: ["wasm"] });
    return new Network(description, session);
  }

  constructor(description, session) {
    Object.assign(this, description);
    this.session = session;
  }

  // Logits of one picture, given in bytes.
  async run(pixels, channels, size) {
    const values = Float32Array.from(pixels, (value) => value / 255);
    return this.call(new ort.Tensor("float32", values, [1, channels, size, size]));
  }

  async call(tensor) {
    const outputs = await this.session.run({ [this.session.inputNames[0]]: tensor });
    return [...outputs[this.session.outputNames[0]].data];
  }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

async function timeCalls(network, tensor, calls) {
  const start = performance.now();
  for (let i = 0; i < calls; i++) await network.call(tensor);
  return (performance.now() - start) / calls;
}

// Milliseconds a picture, in turns: browsers' clocks are coarse, so a turn is many calls.
async function measureLatency(networks, pixels, channels, size, { turnMs = 25, turns = 7 } = {}) {
  const values = Float32Array.from(pixels, (value) => value / 255);
  const tensor = new ort.Tensor("float32", values, [1, channels, size, size]);
  const calls = [];
  for (const network of networks) {
    const once = await timeCalls(network, tensor, 3);
    calls.push(Math.min(Math.max(Math.ceil(turnMs / Math.max(once, 0.01)), 3), 1000));
  }
  const times = networks.map(() => []);
  for (let turn = 0; turn < turns; turn++)
    for (const [i, network] of networks.entries())
      times[i].push(await timeCalls(network, tensor, calls[i]));
  return times.map(median);
}
