"""What caches of a language model's tokens keep: bytes, divergence, bias of the gradient, speed.

python benchmarks/token_cache.py              # SmolLM2 on English text (scripts/get-language)
python benchmarks/token_cache.py --tokens 8192 --model FOLDER --text FOLDER
"""

import argparse
import tempfile
import time
from pathlib import Path

import torch
from timing import machine

from tutelage.data.corpus import load_corpus
from tutelage.data.loading import BatchBuilder
from tutelage.models.causal import make_causal
from tutelage.paths import path_or_hub_name
from tutelage.tasks import LanguageModeling
from tutelage.teachers import CachedTeacher
from tutelage.teachers.build import build_cache
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.module import ModuleTeacher
from tutelage.types import Batch, HiddenStates, Outputs

CODECS = (
    "float16",
    "topk:2",
    "topk:4",
    "topk:8",
    "topk:32",
    "sampled:8",
    "sampled:16",
    "sampled:64",
)


class Asked(ModuleTeacher):
    """A live teacher whose hidden states are kept, so that each codec costs no forward."""

    def __call__(self, batch: Batch) -> Outputs:
        """What was said before of the same blocks, or is said now."""
        self.said = getattr(self, "said", {})
        key = tuple(batch.sample_ids.tolist())
        if key not in self.said:
            self.said[key] = super().__call__(batch)
        assert isinstance(self.said[key].scores, HiddenStates)
        return self.said[key]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--model", default="smollm2")
    parser.add_argument("--text", default="english")
    parser.add_argument("--block-size", type=int, default=128, help="tokens of a block")
    parser.add_argument("--codecs", nargs="+", default=CODECS)
    chosen = parser.parse_args()
    corpus = load_corpus(
        Path(path_or_hub_name(chosen.text)),
        chosen.model,
        block_size=chosen.block_size,
        train_tokens=chosen.tokens,
    )
    task = LanguageModeling(corpus.vocab_size, chosen.block_size)
    reader = BatchBuilder(corpus.splits.train, num_classes=corpus.vocab_size)
    teacher = Asked(make_causal(path_or_hub_name(chosen.model)), task, chunk=4)
    ids = torch.arange(len(reader))
    begun = time.process_time()
    for part in ids.split(4):
        teacher(reader[part, torch.zeros_like(part)])
    count = len(reader) * chosen.block_size
    forward = count / (time.process_time() - begun)
    print(machine(torch.get_num_threads()))
    print(f"{chosen.model}, {count} tokens, {corpus.vocab_size} words")
    print(f"The teacher says {forward:.0f} tokens a second (of the processor).\n")
    print(
        "| codec | bytes a token | KL, nats | gradient's bias | tokens/s written | tokens/s read |"
    )
    print("|---|---|---|---|---|---|")
    for name in chosen.codecs:
        print(row(name, teacher, reader, count), flush=True)


def row(name: str, teacher: Asked, reader: BatchBuilder, count: int) -> str:
    """One codec's row of the table.

    Args:
        name: The codec.
        teacher: Has been asked about all of the reader's blocks.
        reader: The blocks.
        count: Tokens of all blocks.
    """
    ids = torch.arange(len(reader))
    with tempfile.TemporaryDirectory() as folder:
        begun = time.process_time()
        codec = make_codec(name)
        manifest = build_cache(Path(folder), teacher, reader, codec, device=torch.device("cpu"))
        written = count / (time.process_time() - begun)
        cached = CachedTeacher(Path(folder))
        begun = time.process_time()
        for part in ids.split(4):
            cached(reader[part, torch.zeros_like(part)])
        read = count / (time.process_time() - begun)
    bias = "" if manifest.gradient_bias is None else f"{manifest.gradient_bias:.4f}"
    cells = (name, f"{manifest.bytes_per_item:.1f}", f"{manifest.kl_to_live:.4f}", bias)
    return f"| {' | '.join(cells)} | {written:.0f} | {read:,.0f} |"


if __name__ == "__main__":
    main()
