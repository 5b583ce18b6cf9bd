"""Result of a comparison on disk: each method with its interval, as data and as a page."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tutelage.bench.candidates import candidates
from tutelage.bench.cost import Cost
from tutelage.bench.records import Measured, table
from tutelage.bench.suites import SUITES
from tutelage.losses import FAMILIES, LOSSES
from tutelage.pipeline.environment import say_machine

BASELINE, KD = "cross_entropy", "kd"
COMPARED = ("labels", "logit", "feature", "relational", "teacher_free")  # families for classifiers

Interval = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Score:
    """Metrics of one network on the test data.

    Attributes:
        accuracy: Share of samples put into the right class.
        agreement: Share of samples put where the teacher puts them.
        ece: Expected calibration error, share.
        nll: Cross-entropy against the labels, nats.
    """

    accuracy: float
    agreement: float
    ece: float
    nll: float


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting that was tried.

    Attributes:
        objective: In words.
        accuracy: On validation data after the last epoch; None where the numbers went wrong.
    """

    objective: str
    accuracy: float | None


@dataclass(frozen=True, slots=True)
class Standing:
    """One method with its best settings.

    Attributes:
        method: Its name in a recipe.
        objective: What was minimised, in words.
        trials: All settings that were tried; none for the baseline, which has no settings.
        last: Students of the last epoch, one a seed.
        selected: Students that the validation data selects, one a seed.
        over_baseline: Difference of accuracy to the baseline with its interval; None for itself.
        over_kd: The same to plain KD; None for the baseline and for KD.
        seconds: Training time of all its settings and seeds, as first measured.
        parameters: Number of parameters of the student that it trains and delivers; None where it
            is not recorded.
    """

    method: str
    objective: str
    trials: Sequence[Trial]
    last: Sequence[Score]
    selected: Sequence[Score]
    over_baseline: Interval | None
    over_kd: Interval | None
    seconds: float = 0.0
    parameters: int | None = None

    def mean(self, metric: str, choice: str = "last") -> Measured:
        """A metric over seeds, in percent."""
        return Measured([100 * float(getattr(score, metric)) for score in getattr(self, choice)])


@dataclass(frozen=True, slots=True)
class Leaderboard:
    """All methods under one protocol.

    Attributes:
        suite: Name.
        title: For people.
        length: Name of the students' budget.
        command: What repeats it.
        version: Version of Tutelage.
        environment: Versions and machine.
        date: When the last of it was measured.
        num_seeds: Trainings of each method with its best settings.
        num_train: Samples that students learn from.
        num_valid: Samples that settings are chosen on.
        num_test: Samples that the numbers are of.
        epochs: Epochs of each student.
        batch_size: Batch size of each step.
        optimizer: In words.
        views: What students see.
        grid_size: Settings tried of each method.
        teacher_parameters: Number of parameters of the teacher.
        student_parameters: Number of parameters of a student.
        teacher: On the test data.
        standings: One a method, as far as measured.
        costs: By method; measured last.
        notes: What a reader must know of these numbers.
    """

    suite: str
    title: str
    length: str
    command: str
    version: str
    environment: Mapping[str, object]
    date: str
    num_seeds: int
    num_train: int
    num_valid: int
    num_test: int
    epochs: int
    batch_size: int
    optimizer: str
    views: str
    grid_size: int
    teacher_parameters: int
    student_parameters: int
    teacher: Score
    standings: list[Standing] = field(default_factory=list)
    costs: Mapping[str, Cost] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def verdict(interval: Interval | None) -> str:
    """The verdict in a word, from the interval of a difference of accuracies."""
    if interval is None:
        return ""
    _, low, high = interval
    return "helped" if low > 0 else "hurt" if high < 0 else "no evidence"


def ranked(standings: Sequence[Standing]) -> list[Standing]:
    """All methods, the most accurate first, by the students of the last epoch."""
    return sorted(standings, key=lambda standing: -standing.mean("accuracy").mean)


def as_points(interval: Interval | None) -> str:
    """A difference of accuracies with its interval, in points."""
    if interval is None:
        return "–"
    mean, low, high = (100 * value for value in interval)
    return f"{mean:+.2f} [{low:+.2f}, {high:+.2f}]"


def as_page(board: Leaderboard) -> str:
    """The comparison as a Markdown page."""
    standings = ranked(board.standings)
    headings = (
        "method",
        "accuracy, last epoch",
        "accuracy, selected",
        "over the baseline",
        "over KD",
        "agreement",
        "ECE",
        "step / KD's",
        "memory of a step",
    )
    lines = [
        f"# {board.title}",
        "",
        *_protocol(board),
        *_limits(board),
        "",
        "## Where each method stands",
        "",
        *table(headings, [_cells(standing, board) for standing in standings]),
        "",
        "Accuracy, agreement with the teacher and expected calibration error (ECE, 15 bins) are in "
        "percent on the test data, mean over seeds ± half the 95 % interval of that mean over "
        "other seeds alone (Student's t). Differences are in points of accuracy of the last "
        "epoch's students, paired by seed and test sample, with their 95 % interval over other "
        "seeds and samples, in bold where it does "
        "not hold 0; the teacher is one training, hence one draw. Step and memory "
        "are of the student's side alone, without the teacher's forward: a step's time over one "
        "of plain KD, and the most that a step holds at once.",
        "",
        "## What helped, what did nothing, what hurt",
        "",
        *_sentences(standings),
        "",
        "## The settings that were tried",
        "",
        "Validation accuracy in percent after the last epoch, one seed that is none of those "
        "reported; the best in bold.",
        "",
        *table(
            ("method", "settings", "validation accuracy"),
            [cells for standing in board.standings for cells in _trials(standing)],
        ),
    ]
    return "\n".join(lines) + "\n"


def _protocol(board: Leaderboard) -> list[str]:
    teacher = board.teacher
    return [
        f"Repeat it: `{board.command}` (Tutelage {board.version}). Measured until {board.date} "
        f"with {say_machine(board.environment)}; the students' trainings took "
        f"{sum(standing.seconds for standing in board.standings) / 3600:.1f} hours.",
        "",
        f"One teacher ({board.teacher_parameters:,} parameters, {teacher.accuracy:.2%} on test "
        f"data, ECE {teacher.ece:.2%}) teaches students of {board.student_parameters:,} "
        f"parameters: every student gets the same {board.num_train:,} training samples, "
        f"{board.epochs} epochs of batches of {board.batch_size}, views `{board.views}`, "
        f"and {board.optimizer}; under one seed all methods have the same initial weights and order"
        f" of data. Of each method {board.grid_size} settings are tried on {board.num_valid:,} "
        "validation samples, plain KD no less and no more than any other; the best is trained with "
        f"{board.num_seeds} seeds and judged on {board.num_test:,} test samples. The baseline, "
        f"`{BASELINE}`, has no settings.",
    ]


def _limits(board: Leaderboard) -> list[str]:
    """Limits of the comparison, as text."""
    lines = []
    if board.length == "short":
        lines += [
            "",
            "This is the length `short`, for two cores: few samples, one view, few epochs, at "
            "which losses that pull hard early look better than they are. Nothing on this page is "
            "of `--length full` (all samples in all views, for a GPU).",
        ]
    suite = SUITES.get(board.suite)
    there = candidates(suite.layers) if suite else {}
    missing = [name for kind in COMPARED for name in FAMILIES[kind] if name not in there]
    if there and missing:
        names = ", ".join(f"`{name}`" for name in missing)
        lines += ["", f"Not compared here, for want of maps or channels that fit: {names}."]
    changed = [s for s in board.standings if _change(s, board)]
    if changed:
        names = ", ".join(f"`{standing.method}`" for standing in changed)
        lines += [
            "",
            f"Not the same student: {names}. What it delivers has other parts and another start "
            "than all others here, and mostly another size, so its difference is not the loss's "
            "alone.",
        ]
    return lines + [line for note in board.notes for line in ("", note)]


def _change(standing: Standing, board: Leaderboard) -> str:
    """How the delivered student differs from the others; empty if it does not."""
    if standing.parameters not in (None, board.student_parameters):
        change = standing.parameters / board.student_parameters - 1
        return f"a student {abs(change):.0%} {'larger' if change > 0 else 'smaller'}, another start"
    loss = LOSSES.get(standing.method)
    return "" if loss is None or not loss.changes_student else "another student, another start"


def _name(standing: Standing, board: Leaderboard) -> str:
    change = _change(standing, board)
    return f"`{standing.method}`" + (f" ({change})" if change else "")


def _cells(standing: Standing, board: Leaderboard) -> Sequence[str]:
    cost = board.costs.get(standing.method)
    return (
        _name(standing, board),
        _percent(standing.mean("accuracy")),
        _percent(standing.mean("accuracy", "selected")),
        _points(standing.over_baseline),
        _points(standing.over_kd),
        _percent(standing.mean("agreement")),
        _percent(standing.mean("ece")),
        "" if cost is None else f"{cost.ratio:.2f}",
        "" if cost is None else f"{cost.megabytes:.1f} MB",
    )


def _percent(measured: Measured) -> str:
    shown = f"{measured.mean:.2f}"
    return shown if measured.reach is None else f"{shown} ± {measured.reach:.2f}"


def _points(interval: Interval | None) -> str:
    shown = as_points(interval)
    return f"**{shown}**" if verdict(interval) in ("helped", "hurt") else shown


def _sentences(standings: Sequence[Standing]) -> list[str]:
    """What the intervals show, method by method."""
    others = [standing for standing in standings if standing.over_baseline is not None]
    rivals = [standing for standing in standings if standing.over_kd is not None]

    def named(compared: Sequence[Standing], which: str, word: str) -> str:
        found = [s.method for s in compared if verdict(getattr(s, which)) == word]
        return ", ".join(f"`{name}`" for name in found) or "none"

    return [
        f"- Helped, against the labels alone: {named(others, 'over_baseline', 'helped')}.",
        f"- Did nothing that could be seen: {named(others, 'over_baseline', 'no evidence')}.",
        f"- Hurt: {named(others, 'over_baseline', 'hurt')}.",
        f"- Better than plain KD, tuned as carefully: {named(rivals, 'over_kd', 'helped')}.",
        f"- Worse than plain KD: {named(rivals, 'over_kd', 'hurt')}.",
        "",
        f"Each interval is of its own: of {len(others) + len(rivals)} that hold 95 % of the time, "
        f"about {max(1, round(0.05 * (len(others) + len(rivals))))} miss by chance.",
    ]


def _trials(standing: Standing) -> list[Sequence[str]]:
    rows: list[Sequence[str]] = []
    for trial in standing.trials:
        shown = "diverged" if trial.accuracy is None else f"{100 * trial.accuracy:.2f}"
        is_best = trial.objective == standing.objective
        rows.append(
            (f"`{standing.method}`", f"`{trial.objective}`", f"**{shown}**" if is_best else shown)
        )
    return rows
