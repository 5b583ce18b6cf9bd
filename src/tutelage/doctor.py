"""Checks before training: what would go wrong, and what the run will cost."""

import copy
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch
from torch import nn

from tutelage.data.labels import some_names
from tutelage.data.loading import BatchBuilder, in_order, num_batches, spread
from tutelage.data.randomness import random_state_kept
from tutelage.data.scan import Scan, check_files, parts_of, scan, sources_of_files
from tutelage.data.sources import same_inputs
from tutelage.deploy import TARGETS
from tutelage.deploy.text_targets import TEXT_TARGETS
from tutelage.engine import TrainSettings
from tutelage.engine.prepare import prepare_from
from tutelage.engine.training_module import TrainingModule
from tutelage.engine.trial import FEW, check_trainable, told_as, try_training
from tutelage.errors import (
    ConfigError,
    DataError,
    RunFolderError,
    TutelageError,
    of_role,
)
from tutelage.files import write_text
from tutelage.forwards import (
    first_batch,
    longest_batch,
    still,
    try_between,
    try_network,
    try_teachers,
)
from tutelage.job import Job
from tutelage.models.copies import copied
from tutelage.models.cost import count_parameters
from tutelage.models.estimators import holds_estimator
from tutelage.objective import Objective, Ramp, value_at
from tutelage.records import ACCURACY
from tutelage.report.remarks import FEW_SAMPLES, few_samples_advice
from tutelage.tasks import Task
from tutelage.teachers.codecs import check_scores, make_codec, try_codec
from tutelage.teachers.module import ModuleTeacher, new_head, state_fingerprint
from tutelage.teachers.steady import said_twice
from tutelage.types import Batch, Outputs, Signal, first_tensor, map_tensors
from tutelage.wording import quantity

PROBLEM, WARNING, OK = "problem", "warning", "fine"
SAMPLE = 512
SKEWED = 0.8  # share of one class from where on accuracy says little
REPEATED = 16  # samples that are asked for twice before a cache is built
TIMED_STEPS = 3
BYTES_A_PARAMETER = 16
HIGH = 2.0  # temperatures above it flatten what the teacher says of most samples


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check.

    Attributes:
        level: "problem" (the run would fail or mean nothing), "warning" or "fine".
        about: What was looked at.
        text: What was found, and what to do.
    """

    level: str
    about: str
    text: str


def preflight(job: Job) -> None:
    """Fail on whatever shows without training: networks, data, losses, codec, output.

    Raises:
        TutelageError: The first thing that would fail later.
    """
    if job.codec is not None:
        _check_cache(job, job.codec)
    check_output(job)
    _check_shards(job)
    batch = first_batch(job, job.settings.batch_size)
    _check_export(job, batch)
    batches = (batch, *longest_batch(job))
    try_network("student", lambda: job.new_student(0), job.task, *batches)
    _check_text_targets(job)
    try_teachers(job, *batches)
    try_between(job, *batches)
    _try_objective(job, batch)
    _try_labels(job)
    _try_splits(job)


def _check_export(job: Job, batch: Batch) -> None:
    if job.measure is None:
        return
    if job.task.items_per_sample not in (1, None):
        raise ConfigError(
            "measure: networks of texts can be exported and timed where texts or their words are "
            f"classified, not by {type(job.task).__name__}. Set measure: null."
        )
    kind = job.splits.inputs
    for target in job.export.all_targets:
        TARGETS[target].check_inputs(kind.export_inputs(batch.inputs), kind)


def _check_text_targets(job: Job) -> None:
    for name in job.problem.text_targets:
        TEXT_TARGETS[name].check(job.new_student(0), job.problem.tokenizer)


def _check_shards(job: Job) -> None:
    """Refuse what sharded networks do not support."""
    if job.shards_teacher and job.codec is not None:
        raise ConfigError(
            "teacher.shard: each process builds its own part of a cache, which a teacher in pieces "
            "cannot do. Teach live (cache: null), or leave teacher.shard out."
        )
    if job.problem.writing is not None and (job.settings.shard or job.shards_teacher):
        raise ConfigError(
            "on_policy: texts are written by a whole network. Leave train.shard and teacher.shard "
            "out."
        )


def _check_cache(job: Job, codec: str) -> None:
    if job.task.items_per_sample is None:
        raise ConfigError(
            f"cache: it holds as many rows of every sample, but samples of "
            f"{type(job.task).__name__} differ in their tokens. Teach live (cache: null), or pack "
            "the text into blocks."
        )
    check_scores(make_codec(codec), job.teacher_task.gives)
    try_codec(make_codec(codec), job.task.width)
    _item_bytes(codec, job.task.width)
    _check_repeatable(job)


def _check_repeatable(job: Job) -> None:
    """Check that a cached sample is the same every time it is read."""
    if job.splits.train.is_random:
        raise DataError(
            "cache: the training data are random, an item differs from call to call (random "
            "transforms?), so a cache would hold what the teacher said of other draws. Take the "
            "random transforms out of the data set and pass them as views=SeededViews(transform, "
            "num_views=20), or teach live (cache: null, codec=None)."
        )
    reader = job.train_reader
    ids, views = spread(len(reader), REPEATED)
    views = torch.arange(len(ids)) % job.views.num_views
    with random_state_kept():
        first, second = reader[ids, views].inputs, reader[ids, views].inputs
        turned = map_tensors(reader[ids.flip(0), views.flip(0)].inputs, lambda rows: rows.flip(0))
    for other, how in ((second, "from call to call"), (turned, "with its place in the batch")):
        if not same_inputs(first, other):
            raise DataError(
                f"cache: the same sample in the same view differs {how}. Data and views "
                f"({job.views.fingerprint}) must depend on the numbers of sample and view alone, "
                "and draw only from the random numbers of torch, NumPy or Python in a "
                "SeededViews; or teach live (cache: null, codec=None)."
            )


def _try_objective(job: Job, batch: Batch) -> None:
    """Compute one step's loss with an untrained teacher, to find mismatches."""
    says = job.teacher_task.gives
    gives = frozenset({says} if job.codec else {says, Signal.FEATURES})
    giver = "a live teacher" if job.codec is None else "a cached teacher"
    if batch.labels is not None:
        gives |= {Signal.LABELS}
    job.objective.check(gives, f"{giver} with this data", job.task.gives)
    if job.splits.train.is_partly_labelled:
        job.objective.check_all_labelled("the training data")
    trainee, teacher = _try_out(job, batch)
    with of_role("teacher"):
        said = said_twice(teacher, batch)
    with told_as(f"distilled, a first step of batch size {len(batch)}"):
        check_trainable(trainee(batch, said), trainee.objective)
    try_training("distilled", trainee, teacher, job.train_reader, job.settings)
    for number in range(len(job.assistants)):
        with of_role(f"assistants[{number}]"):
            network = copied(job.new_assistant(number))
        trainee, _ = _try_out(job, batch, network)
        try_training(f"assistant {number + 1}", trainee, teacher, job.train_reader, job.settings)


def _try_labels(job: Job) -> None:
    """Make one step of each training on labels alone: baseline and teachers."""
    if job.has_baseline:
        _try_on_labels(job, "baseline", job.new_student(0), job.settings, job.labelled_reader)
    for plan in job.teachers:
        if plan.train is not None:
            if plan.head_epochs:
                new_head(job.new_member(plan))
            reader = job.reader(job.splits.labelled or job.splits.train, plan.views)
            _try_on_labels(job, "teacher", copied(job.new_member(plan)), plan.train, reader)


def _try_on_labels(
    job: Job, name: str, network: nn.Module, settings: TrainSettings, reader: BatchBuilder
) -> None:
    objective = job.baseline_objective
    size = min(FEW, settings.batch_size)
    network = prepare_from(network, objective, job.task, reader, batch_size=size)
    try_training(name, TrainingModule(network, objective, job.task), None, reader, settings)


@torch.no_grad()
def _try_splits(job: Job) -> None:
    """Run both networks on samples of every part of the data."""
    student, teacher = still(job.new_student(0)), still(job.new_teacher())
    splits = job.splits
    for name, source in (("train", splits.train), ("valid", splits.valid), ("test", splits.test)):
        if source is None:
            continue
        reader = job.reader(source)
        for number in dict.fromkeys((0, len(reader) - 1)):
            place = f"{name} data, sample {number}"
            batch = reader[torch.tensor([number]), torch.tensor([0])]
            with told_as(f"student on {place}"):
                job.task.run(student, batch)
            with told_as(f"teacher on {place}"):
                job.teacher_task.run(teacher, batch)


def _try_out(
    job: Job, batch: Batch, network: nn.Module | None = None
) -> tuple[TrainingModule, ModuleTeacher]:
    """The training module with its adapters, and an untrained teacher with the outputs it needs.

    Args:
        job: The run.
        batch: A few samples.
        network: What learns; a student if not given.
    """
    layers = job.objective.teacher_layers
    teacher = ModuleTeacher(
        still(job.new_teacher()),
        job.teacher_task,
        chunk=len(batch),
        precision=job.teacher.precision,
        layers=layers,
        inputs=job.splits.inputs,
    )
    objective = copy.deepcopy(job.objective)
    student = prepare_from(
        job.new_student(0) if network is None else network,
        objective,
        job.task,
        job.train_reader,
        batch_size=len(batch),
        teacher=teacher,
    )
    return TrainingModule(student, objective, job.task, job.settings.precision), teacher


def check(job: Job) -> list[CheckResult]:
    """Check everything, continue after a problem, and estimate memory and time.

    Args:
        job: A run that has not begun; nothing of it is changed or written, save for a test file
            in the output folder.
    """
    looks: list[Callable[[Job], Iterator[CheckResult]]] = [
        _check_output,
        _check_data,
        _check_student,
        _check_teacher,
        _check_inputs,
        _check_training,
        _check_cost,
    ]
    findings: list[CheckResult] = []
    for look in looks:
        try:
            findings += list(look(job))
        except TutelageError as error:
            about = look.__name__.removeprefix("_check_")
            if str(error) not in {finding.text for finding in findings}:
                findings.append(CheckResult(PROBLEM, about, str(error)))
    return findings


def check_output(job: Job) -> None:
    """Write a file in the output folder and remove it again.

    Raises:
        RunFolderError: It cannot be written.
    """
    if job.out.exists() and not job.out.is_dir():
        raise RunFolderError(f"output: {job.out} is a file. Name a folder.")
    probe = job.out / ".probe"
    write_text(probe, "")
    probe.unlink()


def _check_output(job: Job) -> Iterator[CheckResult]:
    check_output(job)
    yield CheckResult(OK, "output", f"{job.out} can be written.")


def _check_data(job: Job) -> Iterator[CheckResult]:
    splits = job.splits
    yield from (CheckResult(OK, "data", note) for note in job.notes)
    files = sources_of_files(splits)
    check_files(files)
    for source in files:
        yield from (CheckResult(OK, "images", text) for text in source.describe())
    if splits.valid is None:
        yield CheckResult(WARNING, "data", "There is no valid data: the last epoch is delivered.")
    for name, source in parts_of(splits).items():
        found = scan(source, name, job.task.width, workers=job.settings.workers)
        yield from _check_part(job, name, found)


def _check_part(job: Job, name: str, found: Scan) -> Iterator[CheckResult]:
    if not found.has_labels:
        level = WARNING if Signal.LABELS in job.task.task_loss().needs else OK
        yield CheckResult(
            level, "data", f"{name}: {quantity(found.num_samples, 'sample')} without labels."
        )
        return
    if found.counts is not None and found.num_read == found.num_samples:
        absent = (found.counts == 0).nonzero().flatten().tolist()
        names = [job.splits.class_names[number] for number in absent]
        if absent:
            yield CheckResult(WARNING, "data", f"{name}: no sample of {some_names(names)}.")
        largest, all_known = int(found.counts.max()), int(found.counts.sum())
        if name == "test" and largest > SKEWED * all_known and job.task.metric == ACCURACY:
            yield CheckResult(
                WARNING,
                "data",
                f"{largest / all_known:.0%} of the test samples are of one class: always naming it "
                "is as accurate. metric: balanced_accuracy or macro_f1 says more.",
            )
    text = f"{name}: {quantity(found.num_samples, 'sample')}, {found.num_read:,} read."
    yield CheckResult(OK, "data", text)


def _check_student(job: Job) -> Iterator[CheckResult]:
    student = still(job.new_student(0))
    batches = (first_batch(job, 4), *longest_batch(job))
    try_network("student", lambda: student, job.task, *batches)
    yield _compare_sizes(job, _count_delivered(job, student))
    if not any(parameter.requires_grad for parameter in job.new_student(0).parameters()):
        yield CheckResult(PROBLEM, "student", "It has no parameter that can be trained.")


def _compare_sizes(job: Job, count: int) -> CheckResult:
    try:
        network = job.new_teacher()
    except TutelageError:  # told where the teacher is looked at
        return CheckResult(OK, "student", f"{quantity(count, 'parameter')}.")
    if holds_estimator(network):
        text = f"{quantity(count, 'parameter')}; the teacher is no network."
        return CheckResult(OK, "student", text)
    teacher = count_parameters(network)
    times = f"{teacher / max(1, count):.1f} x"
    text = f"{quantity(count, 'parameter')}, the teacher has {teacher:,} ({times})."
    if count < teacher:
        return CheckResult(OK, "student", text)
    return CheckResult(WARNING, "student", f"{text} It is no smaller.")


def _count_delivered(job: Job, student: nn.Module) -> int:
    """Parameters of the delivered student, with the parts that a loss such as SimKD adds."""
    try:
        return count_parameters(_try_out(job, first_batch(job, 4))[0].student)
    except TutelageError:  # told where the objective is tried
        return count_parameters(student)


def _check_teacher(job: Job) -> Iterator[CheckResult]:
    teacher = job.new_teacher()
    batch = first_batch(job, 16)
    given_training = teacher.training
    teacher.eval()
    try_teachers(job, batch, *longest_batch(job))
    yield from _check_steadiness(teacher, job.teacher_task, batch)
    if job.teacher.train is not None:
        yield CheckResult(OK, "teacher", "It is trained here before it teaches.")
        return
    for plan in job.teachers:
        for note in job.order_notes(plan, job.new_member(plan)):
            yield CheckResult(WARNING, "teacher", note)
    if given_training:
        text = "It was given in train mode; it teaches in eval mode."
        yield CheckResult(WARNING, "teacher", text)
    yield from _check_accuracy(job, teacher)


def _check_steadiness(teacher: nn.Module, task: Task, batch: Batch) -> Iterator[CheckResult]:
    """Check that the teacher gives the same outputs twice and does not change."""
    with torch.no_grad():
        before = state_fingerprint(teacher)
        first, second = task.run(teacher, batch).logits, task.run(teacher, batch).logits
        after = state_fingerprint(teacher)
    moving = [name for name, module in teacher.named_modules() if module.training]
    if before != after:
        text = "Its buffers change in eval mode (a batch norm that still updates?)."
        yield CheckResult(PROBLEM, "teacher", f"{text} {_modules(moving)}")
    elif not torch.equal(first.nan_to_num(), second.nan_to_num()):
        text = "It gives other logits for the same inputs in eval mode (dropout left on?)."
        yield CheckResult(PROBLEM, "teacher", f"{text} {_modules(moving)}")
    elif moving:
        yield CheckResult(WARNING, "teacher", f"Parts stay in train mode. {_modules(moving)}")
    else:
        yield CheckResult(OK, "teacher", "Same outputs on two passes; its buffers do not change.")


def _modules(names: list[str]) -> str:
    return f"In train mode: {', '.join(names[:3])}." if names else "Look at its forward."


def _check_accuracy(job: Job, teacher: nn.Module) -> Iterator[CheckResult]:
    source = job.splits.valid or job.splits.train
    reader = job.reader(source)
    requests = in_order(min(len(reader), 4 * SAMPLE), batch_size=job.settings.batch_size)
    batches = (reader[request] for request in requests)
    said = job.teacher_task.predict(teacher, batches, torch.device("cpu"))
    value, _ = job.teacher_task.validate(said)
    metric = job.task.metric
    if metric != ACCURACY:
        items = quantity(len(said.labels), "validation item")
        text = f"{metric.title} {metric.text(value)} on {items}."
        yield CheckResult(OK, "teacher", text)
        return
    accuracy, labels = value, said.labels
    chance = job.task.chance(labels)
    count = quantity(len(labels), "validation sample")
    found = f"{accuracy:.2%} on {count}; the largest class is {chance:.2%}"
    if accuracy <= chance:
        text = f"It is no better than chance: {found}. Are its weights loaded, its classes in the "
        yield CheckResult(
            PROBLEM, "teacher", f"{text}order of the labels, its normalisation right?"
        )
        return
    yield CheckResult(OK, "teacher", f"{found}.")
    floor = _linear_floor(job)
    if floor is not None and accuracy <= floor:
        text = (
            f"A linear classifier on the inputs reaches {floor:.2%} on the same data: the teacher"
        )
        yield CheckResult(WARNING, "teacher", f"{text} may be no better than the baseline student.")


def _linear_floor(job: Job) -> float | None:
    """Accuracy of logistic regression on raw inputs, a baseline that takes a second."""
    kind = job.splits.inputs
    if job.splits.valid is None or kind.as_rows(first_batch(job, 1).inputs) is None:
        return None
    from sklearn.linear_model import RidgeClassifier

    def flat(source: object, limit: int) -> tuple[object, object]:
        reader = job.reader(source)  # type: ignore[arg-type]
        ids = torch.linspace(0, len(reader) - 1, min(limit, len(reader))).long().unique()
        batch = reader[ids, torch.zeros_like(ids)]
        if batch.labels is None:
            raise DataError("no labels")
        rows = kind.as_rows(batch.inputs)
        assert rows is not None
        return rows.numpy(), batch.labels.numpy()

    model = RidgeClassifier().fit(*flat(job.splits.train, 4 * SAMPLE))
    return float(model.score(*flat(job.splits.valid, 4 * SAMPLE)))


def _check_inputs(job: Job) -> Iterator[CheckResult]:
    """Check whether the teacher expects another size or normalisation than the data have."""
    teacher = job.teacher.make()
    wanted = getattr(teacher, "pretrained_cfg", None) or getattr(teacher, "default_cfg", None)
    if not isinstance(wanted, dict) or job.teacher.train is not None:
        return
    size = first_tensor(first_batch(job, 1).inputs).shape[-1]
    expected = wanted.get("input_size", (0, 0, size))[-1]
    if job.teacher.image_size is None and expected != size:
        text = f"It was trained on {expected} pixels, the data have {size}. Set"
        yield CheckResult(WARNING, "inputs", f"{text} teacher.image_size: {expected}.")
    mean = tuple(wanted.get("mean", ()))
    if mean and job.teacher.norm is None and job.splits.mean is not None:
        close = all(abs(a - b) < 0.02 for a, b in zip(mean, job.splits.mean, strict=False))
        if not close:
            text = f"It expects mean {mean}, the data are normalised with {job.splits.mean}. Set"
            yield CheckResult(WARNING, "inputs", f"{text} teacher.mean and teacher.std.")


def _check_training(job: Job) -> Iterator[CheckResult]:
    """Make one step of every training, and run samples of every part of the data."""
    batch = first_batch(job, FEW)
    try_between(job, batch, *longest_batch(job))
    _try_objective(job, batch)
    _try_labels(job)
    _try_splits(job)
    yield CheckResult(OK, "training", "One step of each training was made, as a trial.")
    settings = job.settings
    steps = num_batches(len(job.splits.train), settings.batch_size) * settings.epochs
    steps = -(-steps // settings.accumulate)
    if settings.schedule.warmup_steps >= steps:
        text = f"schedule.warmup_steps is {settings.schedule.warmup_steps}, but the training has"
        text += f" {quantity(steps, 'step')}: the learning rate never reaches optimizer.lr."
        yield CheckResult(WARNING, "training", text)
    count = len(job.splits.train)
    if count < FEW_SAMPLES and _is_mostly_soft(job.objective):
        yield CheckResult(WARNING, "objective", few_samples_advice(count))


def _is_mostly_soft(objective: Objective) -> bool:
    """Whether outputs softened by a high temperature outweigh all other terms."""
    soft = rest = 0.0
    for term in objective.active_terms:
        weight = value_at(term.weight, 0.0)
        temperature = getattr(term.loss, "temperature", None)
        if isinstance(temperature, int | float | Ramp) and value_at(temperature, 0.0) > HIGH:
            soft += weight
        else:
            rest += weight
    return soft > rest


def _check_cost(job: Job) -> Iterator[CheckResult]:
    batch = first_batch(job, job.settings.batch_size)
    step_s, teacher_s = _time_steps(job, batch)
    steps = num_batches(len(job.splits.train), job.settings.batch_size) * job.settings.epochs
    arms = len(job.seeds) * (2 if job.has_baseline else 1)
    views = job.views.num_views * len(job.splits.train) / job.settings.batch_size
    teaching = views if job.codec else steps * len(job.seeds)
    seconds = steps * arms * step_s + teaching * teacher_s
    source = "cache" if job.codec else "live teaching"
    yield CheckResult(
        OK,
        "time",
        f"About {_duration(seconds)} for {quantity(arms, 'training')} of {quantity(steps, 'step')} "
        f"({1000 * step_s:.1f} ms each) and the {source} ({1000 * teacher_s:.1f} ms a batch), "
        "the teacher's own training not counted.",
    )
    shown = job.settings.epochs * len(job.seeds)
    if job.codec and job.views.num_views > shown:
        text = (
            f"The cache takes {quantity(job.views.num_views, 'view')} of each sample, the distilled"
        )
        text += f" students see {shown}: teaching live (cache: null) costs less for this run."
        yield CheckResult(WARNING, "cache", text)
    parameters = count_parameters(job.new_student(0)) * BYTES_A_PARAMETER
    parameters += count_parameters(job.new_teacher()) * 4
    text = f"At least {parameters / 1e6:.2g} MB for weights, gradients and optimizer"
    cache = ""
    if job.codec:
        rows = job.task.items_per_sample or 1
        items = len(job.splits.train) * job.views.num_views * rows
        size = _item_bytes(job.codec, job.task.width) * items
        size_text = quantity(items, "view" if rows == 1 else "token")
        cache = f"; the cache takes {size / 1e6:.1f} MB on disk ({size_text})"
    yield CheckResult(OK, "memory", f"{text}{cache}.")


def _time_steps(job: Job, batch: Batch) -> tuple[float, float]:
    """Best time in seconds of a training step and of a teacher's forward."""
    trainee, teacher = _try_out(job, batch)
    outputs = teacher(batch)
    optimizer = job.settings.optimizer.build(trainee.parameters())

    def step() -> None:
        optimizer.zero_grad()
        report = trainee(batch, outputs)
        check_trainable(report, trainee.objective)
        report.total.backward()
        optimizer.step()

    def teach() -> Outputs:
        return teacher(batch)

    return _best_time(step), _best_time(teach)


def _best_time(call: Callable[[], object]) -> float:
    times = []
    for _ in range(TIMED_STEPS + 1):
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return min(times[1:])


def _item_bytes(codec: str, num_classes: int) -> int:
    arrays = make_codec(codec).encode(torch.zeros(1, num_classes))
    return sum(array.element_size() * array.numel() for array in arrays.values())


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {rest} s" if minutes else f"{max(1, rest)} s"
