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

  // Logits of one input, given as named tensors; a network may take fewer of them.
  async call(feeds) {
    const taken = Object.fromEntries(this.session.inputNames.map((name) => [name, feeds[name]]));
    const outputs = await this.session.run(taken);
    return [...outputs[this.session.outputNames[0]].data];
  }
}

function median(values) {
  const sorted = [...values].sort((a, b) => a - b);
  return sorted[Math.floor(sorted.length / 2)];
}

async function timeCalls(network, feeds, calls) {
  const start = performance.now();
  for (let i = 0; i < calls; i++) await network.call(feeds);
  return (performance.now() - start) / calls;
}

// Milliseconds an input, in turns: browsers' clocks are coarse, so a turn is many calls.
async function measureLatency(networks, feeds, { turnMs = 25, turns = 7 } = {}) {
  const calls = [];
  for (const network of networks) {
    const once = await timeCalls(network, feeds, 3);
    calls.push(Math.min(Math.max(Math.ceil(turnMs / Math.max(once, 0.01)), 3), 1000));
  }
  const times = networks.map(() => []);
  for (let turn = 0; turn < turns; turn++)
    for (const [i, network] of networks.entries())
      times[i].push(await timeCalls(network, feeds, calls[i]));
  return times.map(median);
}
