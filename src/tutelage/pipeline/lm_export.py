"""A language model's student as files: its folder, and formats of other runtimes."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from tutelage.deploy.causal import OnnxText
from tutelage.deploy.standalone import take_turns
from tutelage.deploy.text_targets import TEXT_TARGETS, TextReader
from tutelage.engine.events import Listener
from tutelage.engine.generation import generate, greedy
from tutelage.errors import ExportError
from tutelage.files import fingerprint, staged, staged_folder
from tutelage.job import Job
from tutelage.losses.divergences import kl_of_logs, log_of_labels, log_soften
from tutelage.models.causal import merged
from tutelage.pipeline.stages import MARKER, Stage
from tutelage.pipeline.training import TrainedModel
from tutelage.records import RefusedFile, TextFileRow, load_record, save_record
from tutelage.tasks.language_modeling import perplexity
from tutelage.types import by_name

Reading = Callable[[Tensor], Tensor]
ROWS = "files.json"
NUM_TEXTS, NUM_PROMPTS, READ, WRITTEN = 16, 4, 32, 32
TURNS, SECONDS = 5, 10.0
MOST_SHORTFALL = 0.01  # in logits: far above rounding, far below a choice


@dataclass(frozen=True, slots=True)
class TextFiles:
    """The content of `student/files.json`: written files and refused ones."""

    rows: list[TextFileRow]
    refused: list[RefusedFile] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Sample:
    """Test text for comparing files.

    Attributes:
        tokens: One row a text, all of one length.
        labels: The next token of each.
    """

    tokens: Tensor
    labels: Tensor


def student_stage(job: Job, student: TrainedModel, listener: Listener) -> TextFiles:
    """Write the student as a folder that its own library loads, if there is one.

    Beside it go the files of `job.problem.text_targets`, each compared with PyTorch on test text.

    Returns:
        How the files compare, and which cannot be written or say something else than the student:
        those are not left, and the others are.
    """
    if job.problem.save_student is None:
        return TextFiles([])
    folder = job.out / "student"
    stage = Stage(
        name="student folder",
        folder=folder,
        key=fingerprint([student.key, job.problem.text_targets]),
        do=lambda: _write_folder(job, student.selected, folder),
        load=lambda: load_record(folder / ROWS, TextFiles),
        note=lambda _: str(folder),
    )
    return stage.run(listener)


def _write_folder(job: Job, student: nn.Module, folder: Path) -> list[Path]:
    assert job.problem.save_student is not None
    with staged_folder(folder) as staging:
        job.problem.save_student(student, staging)
    for target in TEXT_TARGETS.values():
        (folder / target.file).unlink(missing_ok=True)
    save_record(folder / ROWS, _export(job, student))
    return [path for path in folder.iterdir() if path.is_file() and path.name != MARKER]


def _export(job: Job, student: nn.Module) -> TextFiles:
    files = TextFiles([])
    if not job.problem.text_targets:
        return files
    model = merged(student).cpu().float().eval()
    sample = test_sample(job)
    for name in job.problem.text_targets:
        try:
            files.rows.append(export_one(job, model, name, sample))
        except ExportError as error:
            files.refused.append(RefusedFile(TEXT_TARGETS[name].file, str(error)))
    return files


def export_one(job: Job, model: nn.Module, name: str, sample: Sample) -> TextFileRow:
    """Write one file into the student's folder, and compare it.

    Args:
        job: For the tokenizer and the run folder.
        model: On the CPU, in eval mode.
        name: A name in `TEXT_TARGETS`.
        sample: Test text.

    Raises:
        ExportError: It cannot be written, or says something else than the model; none is left.
    """
    target = TEXT_TARGETS[name]
    with staged(job.out / "student" / target.file) as path:
        target.write(model, job.problem.tokenizer, path)
        found = compare(model, target.open(path), sample)
        size = path.stat().st_size
        row = replace(found, file=target.file, target=name, size_bytes=size)
        check(row, target.most_kl)
    return row


def test_sample(job: Job) -> Sample:
    """The longest of the first test samples, truncated to one length."""
    reader = job.test_reader
    ids = torch.arange(min(4 * NUM_TEXTS, len(reader)))
    batch = reader[ids, torch.zeros_like(ids)]
    assert batch.labels is not None
    inputs = by_name(batch.inputs)
    lengths = inputs["counted"].sum(dim=1)
    longest = lengths.argsort(descending=True, stable=True)[:NUM_TEXTS]
    shortest = int(lengths[longest].min())
    return Sample(inputs["input_ids"][longest, :shortest], batch.labels[longest, :shortest])


@torch.no_grad()
def compare(model: nn.Module, reader: TextReader, sample: Sample) -> TextFileRow:
    """Compare a file's outputs on a sample with the model's.

    A file that keeps keys and values reads each text twice: at once, and in pieces. The worse of
    the two counts.
    """
    schemes = [reader.logits]
    if isinstance(reader, OnnxText):
        schemes.append(reader.logits_in_pieces)
    pairs = zip(sample.tokens[:, None], sample.labels, strict=True)
    found = torch.stack([_of_text(model, schemes, tokens, labels) for tokens, labels in pairs])
    agreement, kl, nll = found[..., 1].mean(dim=0), found[..., 2].mean(dim=0), found[:, 0, 3:]
    given, expected = (perplexity(mean) for mean in nll.mean(dim=0))
    row = TextFileRow(
        file="",
        target="",
        runtime=reader.runtime,
        size_bytes=0,
        count=sample.tokens.numel(),
        max_abs_difference=float(found[..., 0].max()),
        agreement=float(agreement.min()),
        kl=max(0.0, float(kl.max())),
        perplexity=given,
        expected_perplexity=expected,
    )
    return replace(row, **_writing(model, reader, sample)) if isinstance(reader, OnnxText) else row


def _of_text(model: Any, schemes: Sequence[Reading], tokens: Tensor, labels: Tensor) -> Tensor:
    """Gap, agreement, KL and both likelihoods of one text; one row per way of reading it."""
    wanted = model(input_ids=tokens).logits[0]
    wanted_log = log_soften(wanted)
    rows = []
    for read in schemes:
        given = read(tokens)[0]
        given_log = log_soften(given)
        rows.append(
            torch.stack(
                [
                    (given - wanted).abs().max(),
                    (given.argmax(dim=-1) == wanted.argmax(dim=-1)).float().mean(),
                    kl_of_logs(given_log, wanted_log).mean(),
                    -log_of_labels(given_log, labels).mean(),
                    -log_of_labels(wanted_log, labels).mean(),
                ]
            )
        )
    return torch.stack(rows).double()


def _writing(model: Any, reader: OnnxText, sample: Sample) -> dict[str, Any]:
    """Correctness and speed of generation by a file with a key-value cache."""
    prompts = sample.tokens[:NUM_PROMPTS, : max(1, min(READ, sample.tokens.shape[1] // 2))]
    texts = reader.write(prompts, WRITTEN)
    read = prompts.shape[1]
    at_once = (reader.logits(texts[:, :-1]), model(input_ids=texts[:, :-1]).logits)
    shortfalls = [_shortfall(logits[:, read - 1 :], texts[:, read:]) for logits in at_once]
    own, expected = _tokens_per_s(
        [
            lambda: reader.write(prompts[:1], WRITTEN),
            lambda: generate(model, prompts[:1], WRITTEN, greedy),
        ]
    )
    return {
        "written": len(prompts) * WRITTEN,
        "shortfall": max(shortfalls),
        "tokens_per_s": own,
        "expected_tokens_per_s": expected,
    }


def _tokens_per_s(schemes: Sequence[Callable[[], Tensor]]) -> list[float]:
    """Tokens per second of each way of generating, in alternation, on one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        seconds = take_turns(schemes, TURNS, SECONDS)
    finally:
        torch.set_num_threads(threads)
    rates: list[float] = (WRITTEN / np.median(seconds, axis=0)).tolist()
    return rates


def _shortfall(logits: Tensor, written: Tensor) -> float:
    """Largest gap between the logit of a generated token and the best one."""
    chosen = logits.gather(dim=-1, index=written[..., None])[..., 0]
    return float((logits.max(dim=-1).values - chosen).max())


def check(row: TextFileRow, most_kl: float) -> None:
    """Refuse a file that does not compute what the student computes.

    Raises:
        ExportError: Its next tokens or what it writes differ too much.
    """
    if not row.kl <= most_kl:
        raise ExportError(
            f"{row.file}: its next tokens differ from PyTorch's by {row.kl:.4f} nats of KL, "
            f"{most_kl} is allowed. No file was written. Its kind of weights or positions may not "
            "exist in this format: leave it out of export.targets."
        )
    if not row.shortfall <= MOST_SHORTFALL:
        raise ExportError(
            f"{row.file}: with its key-value cache it writes tokens whose logits lie "
            f"{row.shortfall:.3f} below the best one, {MOST_SHORTFALL} is allowed. No file was "
            "written."
        )
