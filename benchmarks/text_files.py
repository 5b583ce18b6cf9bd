"""A delivered language model in PyTorch, ONNX Runtime and llama.cpp: how fast it writes, and what.

Tokens are compared up to the first end sign, where llama.cpp is told to go on with the next best.
Each runtime reads the same beginnings of test text and goes on with the likeliest token, one text
at a time on one thread, by turns in an order drawn anew for each text. llama.cpp comes with the
package xllamacpp.

    tutelage run smollm2
    python benchmarks/text_files.py runs/smollm2
"""

import argparse
import json
import random
import statistics
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import xllamacpp
from timing import machine
from torch import Tensor

from tutelage.deploy.causal import OnnxText
from tutelage.deploy.text_targets import TEXT_TARGETS
from tutelage.engine.generation import generate, greedy
from tutelage.models.causal import make_causal
from tutelage.pipeline.lm_export import READ, test_sample
from tutelage.pipeline.reopen import reopen

Write = Callable[[Tensor], list[int]]


def llama_cpp(path: Path, count: int) -> tuple[Write, Callable[[str], list[int]]]:
    """What llama.cpp writes after a beginning, and how it cuts a text."""
    settings = xllamacpp.CommonParams()
    settings.model.path = str(path)
    settings.n_ctx, settings.n_parallel, settings.cpuparams.n_threads = 512, 1, 1
    settings.cpuparams_batch.n_threads, settings.verbosity = 1, -1
    server = xllamacpp.Server(settings)

    def ask(what: str, **content: object) -> Any:
        data, kind = json.dumps(content).encode(), {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{server.listening_address}/{what}", data, kind)
        with urllib.request.urlopen(request, timeout=300) as answer:
            return json.loads(answer.read())

    def write(prompt: Tensor) -> list[int]:
        settings = {"temperature": 0, "ignore_eos": True, "cache_prompt": False}
        said = ask(
            "completion",
            prompt=prompt[0].tolist(),
            n_predict=count,
            return_tokens=True,
            **settings,
        )
        return list(said["tokens"])

    return write, lambda text: list(ask("tokenize", content=text)["tokens"])


def before_end(tokens: list[int], end: int) -> list[int]:
    """Tokens up to the first end sign."""
    return tokens[: tokens.index(end)] if end in tokens else tokens


def same_beginning(said: list[int], wanted: list[int]) -> int:
    """Tokens before the first that is another one: after a near tie, texts part for good."""
    pairs = enumerate(zip(said, wanted, strict=False))
    return next((place for place, (a, b) in pairs if a != b), len(wanted))


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--texts", type=int, default=4)
    parser.add_argument("--turns", type=int, default=5)
    parser.add_argument("--written", type=int, default=64, help="tokens of each text")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    run, count = reopen(chosen.run), chosen.written
    folder = chosen.run / "student"
    prompts = test_sample(run.job).tokens[: chosen.texts, :READ]
    model = make_causal(str(folder)).eval()
    onnx = OnnxText(folder / TEXT_TARGETS["onnx"].file)
    sides: dict[str, Write] = {
        "PyTorch": lambda one: generate(model, one, count, greedy)[0, READ:].tolist(),
        "onnx": lambda one: onnx.write(one, count)[0, READ:].tolist(),
    }
    text = run.job.problem.tokenizer.decode(prompts.flatten())
    wanted = run.job.problem.tokenizer(text, add_special_tokens=False)["input_ids"]
    print(machine(torch.get_num_threads()))
    for name in ("gguf", "gguf_q8_0"):
        sides[name], cut = llama_cpp(folder / TEXT_TARGETS[name].file, count)
        print(f"llama.cpp cuts the text of {name} as the student: {cut(text) == wanted}")
    seconds: dict[str, list[float]] = {name: [] for name in sides}
    alike, compared, draw = dict.fromkeys(sides, 0), 0, random.Random(0)
    for turn in range(chosen.turns):
        for prompt in prompts[:, None]:
            first = before_end(sides["PyTorch"](prompt), run.job.problem.tokenizer.eos_token_id)
            compared += len(first) if turn == 0 else 0
            for name in draw.sample(list(sides), len(sides)):
                begun = time.perf_counter()
                said = sides[name](prompt)
                seconds[name].append(time.perf_counter() - begun)
                if turn == 0:
                    alike[name] += same_beginning(said, first)
    print(f"\n{len(prompts)} texts of {READ} tokens read and {count} written\n")
    print_table(seconds, alike, compared, count)


def print_table(
    seconds: dict[str, list[float]], alike: dict[str, int], compared: int, count: int
) -> None:
    """Speeds, as ratios turn by turn, and how many tokens were the same."""
    print(
        "| file | tokens/s | of PyTorch | tokens before it parts from PyTorch |\n|---|---|---|---|"
    )
    for name, spans in seconds.items():
        ratios = [a / b for a, b in zip(seconds["PyTorch"], spans, strict=True)]
        cells = (f"{count / statistics.median(spans):.0f}", f"{statistics.median(ratios):.1f}")
        print(f"| {name} | {' | '.join(cells)} | {alike[name]} of {compared} |")


if __name__ == "__main__":
    main()
