"use strict";
// A page of texts: written into a box, or taken from the run's test data.
(() => {
  const data = JSON.parse(document.getElementById("playground-data").textContent);
  let tokenizer = null;

  // As tutelage.data.cutting does it: what fits of a text, within what the tokenizer sets around it. A control token that
  // somebody wrote into the text is spelt out.
  function cut(text) {
    const { ids } = tokenizer.encode(text, { add_special_tokens: false });
    const own = ids.flatMap((id) => data.letters[id] ?? [id]);
    const kept = own.length <= data.room ? own : data.keepsEnd ? own.slice(-data.room) : own.slice(0, data.room);
    const whole = [...data.before, ...kept, ...data.after];
    const names = whole.map((id) => tokenizer.id_to_token(id));
    return { ids: whole, tokens: names, isCut: own.length > data.room };
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
