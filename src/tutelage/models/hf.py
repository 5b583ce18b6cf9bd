"""Networks of `transformers`: whole, with some of their layers, or fresh and narrower."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_model
from torch import Tensor, nn

from tutelage.errors import ConfigError, ModelError, find, require
from tutelage.places import find_place, place_or_name

HEADS = {
    "classification": "AutoModelForSequenceClassification",
    "token_classification": "AutoModelForTokenClassification",
}


def hf_factory(name: str) -> Callable[..., nn.Module]:
    """A function that makes a network of `transformers`.

    Args:
        name: A folder as `save_pretrained` leaves it, or a name on the hub.
    """
    transformers = require("transformers", "text", f"Model 'hf:{name}'")

    def make(
        num_classes: int,
        task: str = "classification",
        vocab_size: int | None = None,
        tokenizer: str | None = None,
        keep_layers: Sequence[int] | None = None,
        num_layers: int | None = None,
        fresh: bool = False,
        freeze_embeddings: bool = False,
        **config: Any,
    ) -> nn.Module:
        """A network with a head for a task.

        Args:
            num_classes: Width of the head.
            task: Of the recipe; it chooses the head.
            vocab_size: Of the data's tokenizer, to be checked.
            tokenizer: The data's, to be checked.
            keep_layers: Numbers of the layers that stay, from 0; null keeps all.
            num_layers: How many stay, evenly spread, first and last among them.
            fresh: Whether the weights are drawn anew rather than loaded.
            freeze_embeddings: Whether the token vectors stay as they are; they are most of a small
                network's weights and most of an optimizer's work.
            **config: Entries of the configuration, such as hidden_dropout_prob; of a fresh network
                its sizes too.
        """
        head = getattr(transformers, find("head for task", task, HEADS))
        hush(transformers)
        if config:
            _check_config(
                transformers.AutoConfig.from_pretrained(place_or_name(name)), config, name
            )
        settings = {**config, "num_labels": num_classes}
        if fresh:
            made = head.from_config(
                transformers.AutoConfig.from_pretrained(place_or_name(name), **settings)
            )
        else:
            made = head.from_pretrained(place_or_name(name), **settings)
        model: nn.Module = made.float()
        check_vocabulary(model, name, vocab_size, tokenizer)
        if freeze_embeddings:
            made.get_input_embeddings().requires_grad_(False)
        keep = chosen_layers(model, keep_layers, num_layers)
        return model if keep is None else keep_some_layers(model, keep)

    return make


def save_hf(model: nn.Module, folder: Path, *, tokenizer: Any, class_names: Sequence[str]) -> None:
    """Write a network of `transformers` as a folder that it loads, with its tokenizer.

    Args:
        model: As `hf_factory` makes them; of one that a loss has put into another, the weights
            alone are written.
        folder: Made if it is not there.
        tokenizer: Of `transformers`.
        class_names: Of the logits.
    """
    made: Any = model
    tokenizer.save_pretrained(folder)
    if not hasattr(made, "save_pretrained"):
        save_model(made, str(folder / "weights.safetensors"))
        return
    made.config.id2label = dict(enumerate(class_names))
    made.config.label2id = {name: number for number, name in enumerate(class_names)}
    made.save_pretrained(folder)


def hush(transformers: Any) -> None:
    """A new head is meant here, and progress is shown by the run."""
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()


def _check_config(known: Any, given: dict[str, Any], name: str) -> None:
    for key in given:
        if not hasattr(known, key):
            find(f"setting of model 'hf:{name}'", key, known.to_dict())


def check_vocabulary(
    model: nn.Module, name: str, vocab_size: int | None, tokenizer: str | None, prefix: str = "hf:"
) -> None:
    """Refuse tokens that the network would take for others.

    Args:
        model: Of `transformers`.
        name: Where it comes from.
        vocab_size: Of the data's tokenizer; None checks nothing.
        tokenizer: Where the data's tokenizer comes from.
        prefix: Of the name in a recipe.

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
    return name == other or (find_place(name) or name) == (find_place(other) or other)


def _has_tokenizer(name: str) -> bool:
    place = find_place(name)
    files = ("tokenizer.json", "vocab.txt", "tokenizer.model", "vocab.json")
    return place is not None and any((place / file).is_file() for file in files)


def _vocabulary(name: str) -> dict[str, int]:
    transformers = require("transformers", "text", "Comparing tokenizers")
    place = find_place(name)
    if place is not None and place.is_file():
        tokenizer = transformers.PreTrainedTokenizerFast(tokenizer_file=str(place))
    else:
        tokenizer = transformers.AutoTokenizer.from_pretrained(place_or_name(name))
    vocabulary: dict[str, int] = tokenizer.get_vocab()
    return vocabulary


def chosen_layers(
    model: nn.Module, keep_layers: Sequence[int] | None, num_layers: int | None
) -> Sequence[int] | None:
    """Numbers of the layers that stay, however they were asked for; None for all.

    Raises:
        ConfigError: They were asked for in two ways, or there are not so many.
    """
    if keep_layers is not None and num_layers is not None:
        raise ConfigError("settings: give keep_layers or num_layers, not both.")
    if num_layers is None:
        return keep_layers
    return spread_evenly(len(layers_of(model)[1]), num_layers)


def spread_evenly(total: int, count: int) -> list[int]:
    """So many of the layers, first and last among them; a single one is the first.

    Raises:
        ConfigError: There are not so many.
    """
    if not 1 <= count <= total:
        raise ConfigError(f"settings.num_layers must be 1 to {total}, got {count}.")
    if count == 1:
        return [0]
    return [round(number * (total - 1) / (count - 1)) for number in range(count)]


def layers_of(model: nn.Module) -> tuple[str, nn.ModuleList]:
    """The list of a transformer's layers, and its name.

    Raises:
        ModelError: There is none.
    """
    config = getattr(model, "config", None)
    count = getattr(config, "num_hidden_layers", None)
    for name, module in model.named_modules():
        if isinstance(module, nn.ModuleList) and len(module) == count:
            return name, module
    raise ModelError(
        f"{type(model).__name__}: no list of {count} layers was found in it, so none can be left "
        "out. Leave out keep_layers and num_layers."
    )


def keep_some_layers(model: nn.Module, keep: Sequence[int]) -> nn.Module:
    """The same network with some of its layers alone, in the order given.

    Args:
        model: Of `transformers`; it is changed.
        keep: Numbers of layers, from 0.

    Raises:
        ConfigError: A number is no layer's.
        ModelError: It has no list of layers.
    """
    name, layers = layers_of(model)
    if not keep or not all(0 <= number < len(layers) for number in keep):
        raise ConfigError(
            f"settings.keep_layers: {type(model).__name__} has the layers 0 to {len(layers) - 1}, "
            f"got {list(keep)}."
        )
    kept = nn.ModuleList(layers[number] for number in keep)
    parent, _, attribute = name.rpartition(".")
    setattr(model.get_submodule(parent), attribute, kept)
    for number, layer in enumerate(kept):
        for part in layer.modules():
            if hasattr(part, "layer_idx"):  # its place in the key-value cache
                part.layer_idx = number  # type: ignore[assignment]
    config: Any = model.config
    config.num_hidden_layers = len(kept)
    return model


def input_embeddings(name: str, width: int) -> Tensor:
    """A network's token embeddings, brought to a width by their principal components.

    Args:
        name: A folder as `save_pretrained` leaves it, or a name on the hub.
        width: At most that of the network.

    Raises:
        ConfigError: The width is larger.
    """
    transformers = require("transformers", "text", "Starting from a teacher's embeddings")
    hush(transformers)
    model = transformers.AutoModel.from_pretrained(place_or_name(name))
    vectors: Tensor = model.get_input_embeddings().weight.detach().float()
    if width > vectors.shape[1]:
        raise ConfigError(
            f"settings.width: {width} is more than the {vectors.shape[1]} of {name}'s embeddings."
        )
    centred = vectors - vectors.mean(dim=0)
    _, axes = torch.linalg.eigh(centred.T @ centred)
    reduced: Tensor = centred @ axes[:, -width:].flip(dims=(1,))
    return reduced
