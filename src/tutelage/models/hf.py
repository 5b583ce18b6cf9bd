"""Networks of `transformers`: whole, reduced, or fresh."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from tutelage.errors import ConfigError, find, require
from tutelage.models.origin import Origin, class_names_in, remember
from tutelage.models.shrink import shrink
from tutelage.paths import NO_CODE, path_or_hub_name, resolve_path
from tutelage.wording import quantity

HEADS = {
    **dict.fromkeys(
        ("classification", "multi_label", "regression", "gaussian_regression"),
        "AutoModelForSequenceClassification",
    ),
    "token_classification": "AutoModelForTokenClassification",
}


def hf_factory(name: str) -> Callable[..., nn.Module]:
    """A function that builds a network of `transformers`.

    Args:
        name: A folder as `save_pretrained` leaves it, or a name on the hub.
    """
    transformers = require("transformers", "text", f"Model 'hf:{name}'")

    def make(  # noqa: PLR0913 - the settings of a recipe's model
        num_classes: int,
        task: str = "classification",
        vocab_size: int | None = None,
        tokenizer: str | None = None,
        keep_layers: Sequence[int] | None = None,
        num_layers: int | None = None,
        mlp_width: int | None = None,
        fresh: bool = False,
        freeze_embeddings: bool = False,
        head: str | None = None,
        **config: Any,
    ) -> nn.Module:
        """Build a network with a head for a task.

        Args:
            num_classes: Width of the head.
            task: Task of the recipe, which determines the head.
            vocab_size: Vocabulary size of the data's tokenizer, to be checked.
            tokenizer: The data's, to be checked.
            keep_layers: Numbers of the layers that stay, from 0; null keeps all.
            num_layers: How many stay, evenly spread, first and last among them.
            mlp_width: Units that stay in each MLP, those whose weights are largest; null keeps all.
            fresh: Whether the weights are drawn anew rather than loaded.
            freeze_embeddings: Whether the token vectors stay as they are; they are most of a small
                network's weights and most of an optimizer's work.
            head: "new" draws the head anew, for whatever number of classes; null loads it where it
                is one for this task, of as many classes.
            **config: Entries of the configuration, such as hidden_dropout_prob; of a fresh network
                its sizes too.
        """
        kind = getattr(transformers, find("head for task", task, HEADS))
        suppress_logs(transformers)
        origin = Origin(drawn=("every weight",))
        settings = {**config, "num_labels": num_classes}
        if fresh:
            made = kind.from_config(_configured(name, settings), **NO_CODE)
        else:
            made, origin = _loaded(kind, name, settings, task, head)
        model: nn.Module = made.float()
        check_vocabulary(model, name, vocab_size, tokenizer)
        if freeze_embeddings:
            made.get_input_embeddings().requires_grad_(False)
        shrunk = shrink(model, keep_layers, num_layers, mlp_width)
        remember(shrunk, origin)
        return shrunk

    return make


def _loaded(
    kind: Any, name: str, settings: dict[str, Any], task: str, head: str | None
) -> tuple[Any, Origin]:
    """A network with the folder's weights, and what is known of its head."""
    config = _configured(name, {})
    suffix = HEADS[task].removeprefix("AutoModel")
    is_tuned = any(kind.endswith(suffix) for kind in config.architectures or ())
    if is_tuned and head is None and config.num_labels != settings["num_labels"]:
        raise ConfigError(
            f"model 'hf:{name}': its head has {quantity(config.num_labels, 'class')} "
            f"({', '.join(map(str, list(config.id2label.values())[:4]))}), the data have "
            f"{settings['num_labels']}. head: new draws one for the data's classes, to be trained."
        )
    made, found = kind.from_pretrained(
        path_or_hub_name(name),
        config=_configured(name, settings),
        output_loading_info=True,
        ignore_mismatched_sizes=head is not None,
        **NO_CODE,
    )
    drawn = [*found["missing_keys"], *(entry[0] for entry in found["mismatched_keys"])]
    if head is None and (is_tuned or not config.architectures):
        names = class_names_in({"id2label": made.config.id2label})
        return made, Origin(names, tuple(sorted(drawn)))
    drawn = [key for key, _ in made.named_parameters() if not _is_of_body(made, key)]
    if head is not None:
        _draw_anew(made, kind.from_config(made.config, **NO_CODE), drawn)
    return made, Origin(drawn=tuple(drawn))


def _is_of_body(made: Any, key: str) -> bool:
    return key.startswith(f"{made.base_model_prefix}.")


@torch.no_grad()
def _draw_anew(made: Any, fresh: Any, names: Sequence[str]) -> None:
    """Initialise the weights of a head, as in an untrained network."""
    own, other = dict(made.named_parameters()), dict(fresh.named_parameters())
    for name in names:
        own[name].copy_(other[name])


def save_hf(model: nn.Module, folder: Path, *, tokenizer: Any, class_names: Sequence[str]) -> None:
    """Save a network of `transformers` as a folder that it loads, with its tokenizer.

    Args:
        model: A network from `hf_factory`; of one that a loss has wrapped, the weights alone are
            written.
        folder: Made if it is not there.
        tokenizer: A tokenizer of `transformers`.
        class_names: Names of the logits.
    """
    made: Any = model
    tokenizer.save_pretrained(folder)
    if not hasattr(made, "save_pretrained"):
        save_model(made, str(folder / "weights.safetensors"))
        return
    made.config.id2label = dict(enumerate(class_names))
    made.config.label2id = {name: number for number, name in enumerate(class_names)}
    made.save_pretrained(folder)


def suppress_logs(transformers: Any) -> None:
    """Suppress the warning about a new head, and progress bars that the run shows itself."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _configured(name: str, settings: dict[str, Any]) -> Any:
    """A network's configuration with some entries changed.

    They are entries of the configuration and nothing else: given to `from_pretrained` as arguments,
    one of them could let Python files of the folder run.
    """
    transformers = require("transformers", "text", f"Model 'hf:{name}'")
    config = transformers.AutoConfig.from_pretrained(path_or_hub_name(name), **NO_CODE)
    for key, value in settings.items():
        if not hasattr(config, key) or key in NO_CODE:
            known = {entry: old for entry, old in config.to_dict().items() if entry not in NO_CODE}
            find(f"setting of model 'hf:{name}'", key, known)
        setattr(config, key, value)
    return config


def check_vocabulary(
    model: nn.Module, name: str, vocab_size: int | None, tokenizer: str | None, prefix: str = "hf:"
) -> None:
    """Refuse token numbers that mean other tokens to the network.

    Args:
        model: A network of `transformers`.
        name: Where it comes from.
        vocab_size: Vocabulary size of the data's tokenizer; None checks nothing.
        tokenizer: Where the data's tokenizer comes from.
        prefix: Prefix of the name in a recipe.

    Raises:
        ConfigError: It knows fewer tokens, or comes with another tokenizer.
    """
    embeddings: Any = model
    rows = int(embeddings.get_input_embeddings().num_embeddings)
    if vocab_size is not None and rows < vocab_size:
        raise ConfigError(
            f"model '{prefix}{name}': it knows {rows} tokens, but the data's tokenizer {tokenizer} "
            f"has {vocab_size}. Give data.tokenizer: {name}."
        )
    if tokenizer is None or _is_same(name, tokenizer) or not _has_tokenizer(name):
        return
    own, other = (_vocabulary(where) for where in (name, tokenizer))
    if own != other:
        raise ConfigError(
            f"model '{prefix}{name}': its tokenizer numbers the tokens otherwise than "
            f"data.tokenizer ({tokenizer}), so it would read other words. Give data.tokenizer: "
            f"{name}, or networks that share one tokenizer."
        )


def _is_same(name: str, other: str) -> bool:
    return name == other or (resolve_path(name) or name) == (resolve_path(other) or other)


def _has_tokenizer(name: str) -> bool:
    place = resolve_path(name)
    files = ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json")
    return place is not None and any((place / file).is_file() for file in files)


def _vocabulary(name: str) -> dict[str, int]:
    transformers = require("transformers", "text", "Comparing tokenizers")
    place = resolve_path(name)
    if place is not None and place.is_file():
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(place))
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(path_or_hub_name(name), **NO_CODE)
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


def input_embeddings(name: str, width: int) -> Tensor:
    """A network's token embeddings, reduced to a width by principal components.

    Args:
        name: A folder as `save_pretrained` leaves it, or a name on the hub.
        width: At most that of the network.

    Raises:
        ConfigError: The width is larger.
    """
    transformers = require("transformers", "text", "Starting from a teacher's embeddings")
    suppress_logs(transformers)
    model = transformers.AutoModel.from_pretrained(path_or_hub_name(name), **NO_CODE)
    vectors: Tensor = model.get_input_embeddings().weight.detach().float()
    if width > vectors.shape[1]:
        raise ConfigError(
            f"settings.width: {width} is more than the {vectors.shape[1]} of {name}'s embeddings."
        )
    centred = vectors - vectors.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    reduced: Tensor = centred @ axes[:, -width:].flip(dims=(1,))
    return reduced
