"""Every target with several networks, float and int8: size, speed, agreement, or why not.

Networks are trained for a moment on the handwritten digits, so that agreement means something:
images of 32 x 32 for the image classifiers, their 64 grey values as tokens for the text encoder.
The files of one network and target are timed as `tutelage measure` does, one sample a call and one
thread: against the float ONNX file, each runtime in a process of its own, in an order drawn anew
for each round. Results are kept by network and target, and the same command goes on where it
stopped.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from timing import machine
from torch import Tensor, nn

from tutelage.data.builtin import load_digits
from tutelage.deploy import TARGETS, export_checked, open_file, target_of
from tutelage.deploy.measuring import KitNetwork, measure_folder, write_kit
from tutelage.errors import ConfigError, ExportError, MissingExtraError
from tutelage.losses.divergences import cross_entropy
from tutelage.models.load import make_model
from tutelage.pipeline.exporting import LEAST_AGREEMENT

EPOCHS, BATCH, SECONDS = 12, 64, 5.0
FLOAT, REFERENCE = "float", "reference.onnx"


@dataclass(frozen=True)
class Row:
    """One file, or the reason why there is none."""

    network: str
    target: str
    kind: str
    reason: str = ""
    size_bytes: int = 0
    agreement: float = 0.0
    difference: float = 0.0
    accuracy: float = 0.0
    ratio: float = 0.0
    runtime: str = ""


class Encoder(nn.Module):
    """A BERT of two layers that reads whole numbers."""

    def __init__(self) -> None:
        """Make it, with random weights."""
        super().__init__()
        from transformers import BertConfig, BertForSequenceClassification

        config = BertConfig(
            vocab_size=17,
            hidden_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            intermediate_size=512,
            max_position_embeddings=64,
            num_labels=10,
            hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )
        self.bert = BertForSequenceClassification(config)

    def forward(self, tokens: Tensor) -> Tensor:
        """Logits."""
        logits: Tensor = self.bert(input_ids=tokens).logits
        return logits


def made(name: str, **settings: object) -> Callable[[], nn.Module]:
    """Makes a network by its name in recipes."""
    return lambda: make_model(name, settings, num_classes=10, in_channels=1, image_size=32)


def mobile() -> nn.Module:
    """MobileNetV2, which wants three channels."""
    network = made("torchvision:mobilenet_v2")()
    return nn.Sequential(Grey(), network)


class Grey(nn.Module):
    """A grey image as one of three equal channels."""

    def forward(self, images: Tensor) -> Tensor:
        """The same image three times."""
        return images.expand(-1, 3, -1, -1)


NETWORKS: dict[str, Callable[[], nn.Module]] = {
    "mlp 800-800": made("mlp", hidden=[800, 800]),
    "cnn 32": made("cnn", width=32),
    "resnet 32": made("resnet", width=32),
    "mobilenet_v2": mobile,
    "vit 64": made("vit", width=64, depth=4, patch=4),
    "bert 2x128": Encoder,
}


def digits(name: str) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Training and test inputs and labels, as the network takes them."""
    splits = load_digits()
    parts = []
    for source in (splits.train, splits.test):
        inputs, labels = source.fetch(torch.arange(len(source)))
        if name.startswith("bert"):
            inputs = (inputs.flatten(1).float() * 16 / 255).round().long()
        else:
            inputs = F.interpolate(inputs.float() / 255, scale_factor=4, mode="bilinear")
        parts += [inputs, labels]
    return parts[0], parts[1], parts[2], parts[3]


def trained(name: str, folder: Path, epochs: int) -> nn.Module:
    """The network after a few epochs; its weights are kept."""
    torch.manual_seed(0)
    network = NETWORKS[name]()
    kept = folder / f"{name}.pt".replace(" ", "-")
    if kept.is_file():
        network.load_state_dict(torch.load(kept, weights_only=True))
        return network.eval()
    inputs, labels, *_ = digits(name)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1e-3)
    network.train()
    for _ in range(epochs):
        for ids in torch.randperm(len(inputs)).split(BATCH):
            loss = cross_entropy(network(inputs[ids]), labels[ids])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    torch.save(network.state_dict(), kept)
    return network.eval()


def files(
    name: str, network: nn.Module, target: str, folder: Path
) -> Iterator[tuple[str, Path | None, str]]:
    """Float and int8 of one target: the kind, and the file or the reason why not."""
    kind = TARGETS[target]
    train, _, test, _ = digits(name)
    source = folder / f"{name.replace(' ', '-')}{kind.suffix}"
    try:
        export_checked(network, test[:256].split(64), source, name=name, target=target)
        yield FLOAT, source, ""
    except (ExportError, MissingExtraError) as error:
        yield FLOAT, None, str(error)
        return
    for scheme in kind.schemes:
        path = source.with_name(f"{source.stem}.{scheme}{kind.suffix}")
        try:
            kind.quantise(network, source, train[:256].split(64), path, scheme)
            yield scheme, path, ""
        except ExportError as error:
            yield scheme, None, str(error)
    if not kind.schemes:
        yield "int8", None, kind.why_no_int8


def judge(name: str, target: str, folder: Path, epochs: int, seconds: float) -> list[Row]:
    """All rows of one network and target."""
    network = trained(name, folder, epochs)
    *_, test, labels = digits(name)
    with torch.no_grad():
        expected = network(test)
    made = list(files(name, network, target, folder))
    reference = folder / f"{name.replace(' ', '-')}.{REFERENCE}"
    export_checked(network, test[:64].split(64), reference, name=name)
    ratios = faster(reference, [path for _, path, _ in made if path], test[:1], seconds)
    rows = []
    for kind, path, reason in made:
        if path is None:
            rows.append(Row(name, target, kind, reason))
            continue
        run = open_file(path)
        given = torch.from_numpy(run(test.numpy()))
        same = (given.argmax(1) == expected.argmax(1)).double().mean()
        right = (given.argmax(1) == labels).double().mean()
        rows.append(
            Row(
                name,
                target,
                kind,
                size_bytes=TARGETS[target].size_bytes(path),
                agreement=float(same),
                difference=float((given - expected).abs().max()),
                accuracy=float(right),
                ratio=ratios[path],
                runtime=run.runtime,
            )
        )
    return rows


def faster(reference: Path, paths: list[Path], sample: Tensor, seconds: float) -> dict[Path, float]:
    """Median time of the reference over that of each file."""
    if not paths:
        return {}
    write_kit(reference.parent, [in_kit(path, sample) for path in (reference, *paths)])
    found = measure_folder(reference.parent, batch_sizes=(1,), threads=(1,), seconds=seconds)
    problems = [f"{file.file}: {file.problem}" for file in found.files if file.problem]
    if problems:
        raise ExportError(f"Not measured: {problems}")
    median = {row.name: row.p50_ms for row in found.rows}
    return {path: median[reference.name] / median[path.name] for path in paths}


def in_kit(path: Path, sample: Tensor) -> KitNetwork:
    """A file as the measuring script takes it."""
    target = target_of(path)
    return KitNetwork(
        path.name,
        path.name,
        target.name,
        tuple(sample.shape[1:]),
        dtype=str(sample.dtype).removeprefix("torch."),
        batch=target.batch_size,
        parts=tuple(part.name for part in target.files(path) if part != path),
    )


def table(rows: list[Row]) -> str:
    """A row a network and target as Markdown: float, then each int8 scheme."""
    schemes = dict.fromkeys(scheme for target in TARGETS.values() for scheme in target.schemes)
    heads = ["network", "target", FLOAT, *schemes]
    lines = [f"| {' | '.join(heads)} |", "|" + "---|" * len(heads)]
    found = {(row.network, row.target, row.kind): row for row in rows}
    for network, target in dict.fromkeys((row.network, row.target) for row in rows):
        cells = [cell(found.get((network, target, kind))) for kind in (FLOAT, *schemes)]
        lines.append(f"| {network} | {target} | {' | '.join(cells)} |")
    reasons = dict.fromkeys(f"{row.target} {row.kind}: {row.reason}" for row in rows if row.reason)
    return "\n".join([*lines, "", *reasons])


def cell(row: Row | None) -> str:
    """Size, speed against float ONNX, and of int8 the agreement; or why there is no file."""
    if row is None or row.reason:
        return "–" if row is None else "no"
    text = f"{row.size_bytes / 1000:,.0f} kB, {row.ratio:.2f}×"
    if row.kind == FLOAT:
        return text
    if row.agreement < LEAST_AGREEMENT:
        return f"refused: {100 * row.agreement:.1f} %"
    return f"{text}, {100 * row.agreement:.1f} %"


def main() -> None:
    """Measure what is not there yet, and print all of it."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/targets"))
    parser.add_argument("--networks", default=",".join(NETWORKS))
    parser.add_argument("--targets", default=",".join(TARGETS))
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training")
    parser.add_argument("--seconds", type=float, default=SECONDS, help="to time each target for")
    parser.add_argument("--print", action="store_true", help="only print what was measured")
    chosen = parser.parse_args()
    chosen.out.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(1)
    print(machine(1))
    for name in [] if chosen.print else chosen.networks.split(","):
        for target in chosen.targets.split(","):
            kept = chosen.out / f"{name.replace(' ', '-')}.{target}.json"
            if name not in NETWORKS or target not in TARGETS:
                raise ConfigError(f"--networks {name} --targets {target}: unknown. See --help.")
            if not kept.is_file():
                rows = judge(name, target, chosen.out, chosen.epochs, chosen.seconds)
                kept.write_text(json.dumps([asdict(row) for row in rows], indent=1))
                print(table(rows), flush=True)
    found = [
        Row(**row)
        for name in NETWORKS
        for target in TARGETS
        if (kept := chosen.out / f"{name.replace(' ', '-')}.{target}.json").is_file()
        for row in json.loads(kept.read_text())
    ]
    print(table(found))


if __name__ == "__main__":
    main()
