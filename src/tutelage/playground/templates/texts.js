"use strict";
// A page of texts: written into a box, or taken from the run's test data.
(() => {
  const data = JSON.parse(document.getElementById("playground-data").textContent);
  const special = new Set(data.special);
  let tokenizer = null;

  // As tutelage.data.cutting does it: the first tokens, and what the tokenizer ends a text with.
  function cut(text) {
    const { ids, tokens } = tokenizer.encode(text);
    let tail = 0;
    if (ids.length > data.longest) while (special.has(ids[ids.length - 1 - tail])) tail++;
    const keeps = (_, place) => place < data.longest - tail || place >= ids.length - tail;
    return { ids: ids.filter(keeps), tokens: tokens.filter(keeps), isCut: ids.length > data.longest };
  }

  function toFeeds(ids) {
    const tensor = (values) => new ort.Tensor("int64", BigInt64Array.from(values, BigInt), [1, ids.length]);
    return { input_ids: tensor(ids), attention_mask: tensor(ids.map(() => 1)) };
  }

  const board = makeBoard(data, toFeeds, "text");
  const { find, say, choose } = board;
  const box = find("text");
  let seen = [];

  Object.defineProperty(window.playground, "tokens", { get: () => [...seen] });

  function read() {
    const { ids, tokens, isCut } = cut(box.value);
    if (ids.length === 0) {
      say("The tokenizer finds no token in this text. Write a word.", true);
      return;
    }
    seen = ids;
    const end = isCut ? `, cut to ${data.longest}` : "";
    find("seen-title").textContent = `${ids.length} tokens${end}`;
    find("seen").textContent = tokens.join(" ");
    board.see(ids);
  }

  function openSample(sample) {
    box.value = data.samples[Number(sample.dataset.sample)].text;
    choose(sample);
    read();
  }

  box.addEventListener("input", () => {
    choose(null);
    read();
  });
  find("clear").addEventListener("click", () => {
    box.value = "";
    box.focus();
    box.dispatchEvent(new Event("input"));
  });
  const samples = [...document.querySelectorAll("[data-sample]")];
  for (const sample of samples) sample.addEventListener("click", () => openSample(sample));

  async function prepare() {
    const names = ["runtime/tokenizers.min.mjs", "tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json"];
    const [code, ...parts] = await Promise.all(names.map(loadFile));
    const address = URL.createObjectURL(new Blob([code], { type: "text/javascript" }));
    const { Tokenizer } = await import(address);
    tokenizer = new Tokenizer(...parts.map((part) => JSON.parse(new TextDecoder().decode(part))));
    box.disabled = false;
    if (samples.length) openSample(samples[0]);
    else read();
    return data.samples.map(({ text }) => cut(text).ids);
  }

  board.start(prepare, "Ready. Write a text, or pick a test text.");
})();
