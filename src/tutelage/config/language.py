"""Recipes of language models: consistency checks before anything is loaded."""

from functools import partial
from pathlib import Path

from tutelage.config.data import CorpusData
from tutelage.config.schema import Export, Network, Recipe
from tutelage.data.corpus import (
    Corpus,
    load_corpus,
    tokenizer_fingerprint,
)
from tutelage.data.pairs import load_pairs
from tutelage.deploy.text_targets import TEXT_TARGETS
from tutelage.engine.generation import WritingSettings
from tutelage.errors import ConfigError, find
from tutelage.inputs.tokenizer import load_tokenizer
from tutelage.models.causal import PREFIX, num_positions, save_causal
from tutelage.models.served import DEFAULT_TOP
from tutelage.models.served import PREFIX as SERVED
from tutelage.paths import path_or_hub_name
from tutelage.problem import Problem
from tutelage.tasks import LanguageModeling, Task
from tutelage.tasks.other_tokenizer import OtherTokenizer
from tutelage.wording import quantity

TASK = "language_modeling"
LIKELIHOOD = "span_likelihood"
ACROSS = ("universal_logit_distance", LIKELIHOOD)


def is_language_model(recipe: Recipe) -> bool:
    """Whether the recipe is about next tokens.

    Raises:
        ConfigError: Task and data do not belong together.
    """
    has_text = isinstance(recipe.data, CorpusData)
    if recipe.on_policy is not None and not has_text:
        raise ConfigError(f"on_policy: only language models write (task: {TASK}).")
    if has_text != (recipe.task == TASK):
        raise ConfigError(
            f"task: {recipe.task} does not go with data kind {recipe.data.kind!r}. task: {TASK} "
            "needs data: {kind: corpus, path: ...}, and the other way round."
        )
    return has_text


def build_language_problem(recipe: Recipe) -> Problem:
    """Read the text and check that all networks tokenise it alike.

    Raises:
        ConfigError: Something in the recipe does not go with language models.
    """
    data = recipe.data
    assert isinstance(data, CorpusData)
    _check(recipe)
    name = data.tokenizer or _model_name(recipe.teacher)
    if name is None:
        raise ConfigError(
            f"data.tokenizer: the teacher {recipe.teacher.model!r} is no Hugging Face model. Name "
            "the folder of a tokenizer."
        )
    settings = data.model_dump(exclude={"kind", "path", "tokenizer"})
    path = Path(path_or_hub_name(str(data.path)))
    teacher_task: Task | None = None
    if _learns_across(recipe):
        own = _model_name(recipe.student) or name
        del settings["is_packed"]
        corpus, vocab_size = load_pairs(path, own, name, **settings)
        is_likelihood = any(t.loss == LIKELIHOOD for t in recipe.objective.terms or ())
        teacher_task = OtherTokenizer(vocab_size, tells_likelihood=is_likelihood)
    else:
        corpus = load_corpus(path, name, **settings)
        for role, network in _networks(recipe):
            _check_tokenizer(role, network, corpus, name)
    for role, network in _networks(recipe):
        is_pair = teacher_task is not None and role != "student"  # it reads the last one too
        _check_positions(role, network, data.block_size + is_pair)
    return Problem(
        splits=corpus.splits,
        task=LanguageModeling(corpus.vocab_size, corpus.block_size),
        teacher_task=teacher_task,
        save_student=partial(save_causal, tokenizer=corpus.tokenizer),
        tokenizer=corpus.tokenizer,
        text_targets=_text_targets(recipe),
        writing=_writing(recipe, data),
        facts={"vocab_size": corpus.vocab_size, "num_words": corpus.vocab_size},
        notes=(*corpus.notes, *_cost(recipe, corpus)),
    )


def _learns_across(recipe: Recipe) -> bool:
    """Whether student and teacher have different tokenizers.

    Raises:
        ConfigError: It would, and the rest of the recipe does not go with that.
    """
    losses = [term.loss for term in recipe.objective.terms or ()]
    across = next((name for name in ACROSS if name in losses), None)
    if across is None:
        return False
    plain = recipe.teacher.training is None and not recipe.co_teachers and not recipe.assistants
    if losses != [across] or recipe.cache is not None or not plain or recipe.on_policy:
        raise ConfigError(
            f"objective: {across} is for a teacher with another tokenizer. It stands alone beside "
            "the task loss, and goes with one trained teacher, asked live (cache: null)."
        )
    return True


def located(model: str) -> str:
    """A network's name, with the folder of a causal language model found in the user's cache."""
    if not model.startswith(PREFIX):
        return model
    return PREFIX + path_or_hub_name(model.removeprefix(PREFIX))


def _check(recipe: Recipe) -> None:
    if recipe.optimizer.kind == "dot":
        raise ConfigError(
            "optimizer.kind: dot parts the gradients of task and teacher, which a language model's "
            "loss gives in one. Use adamw."
        )
    if recipe.measure is not None:
        raise ConfigError(
            "measure: a language model is written as a Hugging Face folder, not as one file that "
            "is timed. Set measure: null."
        )


def _text_targets(recipe: Recipe) -> tuple[str, ...]:
    """Settings of the files beside the student's folder.

    Raises:
        ConfigError: There is no such kind of file, or another key of export is set.
    """
    export, nothing = recipe.export, Export()
    targets = export.targets or ()
    for name in ("int8", "finetune", "licences"):
        if getattr(export, name) != getattr(nothing, name):
            raise ConfigError(
                f"export.{name}: a language model's export has targets alone "
                f"({', '.join(TEXT_TARGETS)}); int8 files are gguf_q8_0."
            )
    for target in targets:
        find("export.targets", target, TEXT_TARGETS)
    return tuple(dict.fromkeys(targets))


def _cost(recipe: Recipe, corpus: Corpus) -> list[str]:
    """Tokens requested from a served teacher, and their price."""
    if not recipe.teacher.model.startswith(SERVED):
        return []
    splits = corpus.splits
    parts = [splits.train, splits.test] + ([] if splits.valid is None else [splits.valid])
    tokens = sum(len(part) for part in parts) * (corpus.block_size or 0)
    price = recipe.teacher.settings.get("price_per_million")
    cost = "" if price is None else f", about {tokens * price / 1e6:.2f} at {price} a million"
    top = recipe.teacher.settings.get("top", DEFAULT_TOP)
    return [
        f"The served teacher reads {quantity(tokens, 'token')} once{cost}.",
        f"It returns only the {top} most likely tokens of each position. The remaining probability "
        "is spread evenly over all others, which is not its own distribution. So its perplexity, "
        "and the KL to it, are estimates, exact only where the token is among these.",
    ]


def _writing(recipe: Recipe, data: CorpusData) -> WritingSettings | None:
    """Settings of on-policy text, checked against the rest of the recipe.

    Raises:
        ConfigError: They do not.
    """
    chosen = recipe.on_policy
    terms = {term.loss for term in recipe.objective.terms or ()}
    is_own = chosen is not None and chosen.writer == "student"
    if "sampled_reverse_kl" in terms and not (
        chosen and is_own and chosen.share == 1 and chosen.sampling_temperature == 1
    ):
        raise ConfigError(
            "objective: sampled_reverse_kl judges tokens that the student drew. Set on_policy: "
            "{writer: student, share: 1, sampling_temperature: 1}."
        )
    if chosen is None:
        return None
    if recipe.cache is not None:
        raise ConfigError("on_policy: a cache holds only text that was there. Set cache: null.")
    if not data.is_packed or chosen.prompt_tokens >= data.block_size:
        raise ConfigError(
            f"on_policy: prompt_tokens ({chosen.prompt_tokens}) must be below data.block_size "
            f"({data.block_size}), of text in blocks (is_packed: true)."
        )
    if is_own and recipe.objective.task_weight > 0:
        raise ConfigError(
            "on_policy: with task_weight above 0 the student would learn its own mistakes by "
            "heart. Set objective.task_weight: 0."
        )
    return WritingSettings(**chosen.model_dump())


def _networks(recipe: Recipe) -> list[tuple[str, Network]]:
    others = [(f"co_teachers[{n}]", network) for n, network in enumerate(recipe.co_teachers)]
    assistants = [(f"assistants[{n}]", network) for n, network in enumerate(recipe.assistants)]
    return [("teacher", recipe.teacher), *others, *assistants, ("student", recipe.student)]


def _model_name(network: Network) -> str | None:
    return network.model.removeprefix(PREFIX) if network.model.startswith(PREFIX) else None


def _check_positions(role: str, network: Network, length: int) -> None:
    """Check that a network has enough positions for a sample's tokens.

    Raises:
        ConfigError: It was made for fewer.
    """
    name = _model_name(network)
    if name is None:
        return
    changes = network.settings.get("changes") or {}
    most = changes.get("max_position_embeddings", num_positions(name))
    if most is not None and most < length:
        raise ConfigError(
            f"data.block_size: samples of {length} tokens are more than the {most} positions that "
            f"{role} ({name}) was made for. Set data.block_size to less."
        )


def _check_tokenizer(role: str, network: Network, corpus: Corpus, name: str) -> None:
    """Check that a network's own tokenizer is the one that tokenises the text.

    Raises:
        ConfigError: It brings another one.
    """
    own = _model_name(network)
    if own is None or path_or_hub_name(own) == path_or_hub_name(name):
        return
    tokenizer = load_tokenizer(own)
    if tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(corpus.tokenizer):
        return
    raise ConfigError(
        f"{role}: {own} reads text with another tokenizer ({len(tokenizer)} words) than {name} "
        f"({corpus.vocab_size} words), so their next tokens cannot be compared one by one. Make "
        "the student from the teacher (settings: {keep_layers: [...]}), or learn across "
        f"tokenizers: one of the losses {', '.join(ACROSS)}, with cache: null."
    )
