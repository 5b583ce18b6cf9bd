from collections import OrderedDict

import numpy as np
import pytest
import torch
from PIL import Image
from torch.utils.data import (
    DataLoader,
    Dataset,
    IterableDataset,
    RandomSampler,
    Subset,
    SubsetRandomSampler,
    TensorDataset,
    WeightedRandomSampler,
)

from tutelage.data.forms import as_source, loader_note
from tutelage.data.sources import Source
from tutelage.errors import DataError

X, Y = torch.rand(20, 6), torch.arange(20) % 3


class Samples(Dataset):
    def __init__(self, item):
        self.item = item

    def __len__(self):
        return 20

    def __getitem__(self, number):
        return self.item(number)


def of_datasets(layout):
    datasets = pytest.importorskip("datasets")
    rows = datasets.Dataset.from_dict({"id": list(range(20)), "x": X.tolist(), "label": Y.tolist()})
    return rows if layout is None else rows.with_format(layout)


FORMS = {
    "tensors": lambda: (X, Y),
    "numpy": lambda: (X.numpy(), Y.numpy()),
    "float64": lambda: (X.numpy().astype(np.float64), Y.numpy()),
    "double tensors": lambda: (X.double(), Y),
    "double items": lambda: list(zip(X.double(), Y, strict=True)),
    "read only": lambda: (np.broadcast_to(X.numpy(), (20, 6)), Y),
    "backwards": lambda: (X.numpy()[::-1][::-1], Y.numpy()[::-1][::-1]),
    "list of both": lambda: [X, Y],
    "lists": lambda: (X.tolist(), Y.tolist()),
    "columns": lambda: {"x": X.numpy(), "y": Y.numpy()},
    "pairs": lambda: list(zip(X, Y.tolist(), strict=True)),
    "two pairs a list": lambda: list(zip(X.numpy(), Y.numpy(), strict=True)),
    "TensorDataset": lambda: TensorDataset(X, Y),
    "Subset": lambda: Subset(TensorDataset(X, Y), range(20)),
    "loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=7, shuffle=True, drop_last=True),
    "unbatched loader": lambda: DataLoader(TensorDataset(X, Y), batch_size=None),
    "pixel_values": lambda: Samples(lambda i: {"pixel_values": X[i], "labels": int(Y[i])}),
    "image": lambda: Samples(lambda i: {"image": X[i].numpy(), "label": np.int64(Y[i])}),
    "more entries": lambda: Samples(lambda i: OrderedDict(id=i, img=X[i].tolist(), y=Y[i])),
    "datasets": lambda: of_datasets(None),
    "datasets as torch": lambda: of_datasets("torch"),
    "datasets as numpy": lambda: of_datasets("numpy"),
}


@pytest.mark.parametrize("make", FORMS.values(), ids=FORMS)
def test_the_usual_forms_of_data_are_taken_as_they_are(make):
    inputs, labels = as_source(make(), "train_data").fetch(torch.tensor([4, 1, 17]))
    assert inputs.dtype == torch.float32
    assert torch.allclose(inputs, X[[4, 1, 17]])
    assert labels is not None
    assert labels.tolist() == Y[[4, 1, 17]].tolist()


def test_inputs_alone_are_unlabelled():
    for data in (X, X.numpy(), (X, None), list(X)):
        inputs, labels = as_source(data, "train_data").fetch(torch.arange(3))
        assert torch.equal(inputs, X[:3])
        assert labels is None


def test_pixels_stay_bytes_and_booleans_become_numbers():
    pixels = np.full((4, 1, 2, 2), 7, np.uint8)
    assert as_source((pixels, [0, 1, 0, 1]), "data").fetch(torch.arange(2))[0].dtype == torch.uint8
    marks = as_source((pixels > 3, [0, 1, 0, 1]), "data").fetch(torch.arange(2))[0]
    assert marks.dtype == torch.float32


@pytest.mark.parametrize(
    ("mode", "colour", "channels"),
    [
        ("RGB", (200, 100, 50), [200, 100, 50]),
        ("L", 90, [90]),
        ("1", 1, [255]),
        ("RGBA", (0, 0, 0, 0), [255, 255, 255]),
        ("LA", (0, 0), [255]),
        ("I;16", 257 * 90, [90]),
    ],
)
def test_images_of_pil_are_taken_as_bytes(mode, colour, channels):
    source = as_source([(Image.new(mode, (5, 4), colour), 0)] * 3, "train_data")
    inputs, _ = source.fetch(torch.arange(3))
    assert inputs.dtype == torch.uint8
    assert inputs.shape == (3, len(channels), 4, 5)
    assert inputs[1, :, 2, 2].tolist() == channels


class Stream(IterableDataset):
    def __len__(self):
        return 3

    def __iter__(self):
        return iter(zip(X, Y, strict=True))


class Frame:
    """Columns by name, as pandas has them."""

    columns = ("x", "label")

    def __array__(self, dtype=None, copy=None):
        return X.numpy()


WRONG = {
    "frame": (Frame(), r"got a Frame, whose columns .*frame\[label_column\]"),
    "path": ("folder", "got the path"),
    "nothing": (None, "got None. Give a map-style"),
    "three": ((X, Y, Y), r"got a tuple of 3. Give \(inputs, labels\)"),
    "triples": (list(zip(X, Y, Y, strict=True)), "Sample 0: it has 3 entries"),
    "TensorDataset of three": (TensorDataset(X, Y, Y), "Sample 0: it has 3 entries"),
    "stream": (Stream(), "Stream is not a map-style data set"),
    "loader of a stream": (DataLoader(Stream()), "Stream is not a map-style data set"),
    "generator": ((pair for pair in zip(X, Y, strict=True)), "generator is not a map-style"),
    "set": ({1, 2}, "set is not a map-style"),
    "collate": (
        DataLoader(TensorDataset(X, Y), collate_fn=lambda items: items),
        "the collate function gives a list",
    ),
    "some": (
        DataLoader(TensorDataset(X, Y), sampler=SubsetRandomSampler([1, 2])),
        "draws samples by a SubsetRandomSampler",
    ),
    "weighted": (
        DataLoader(TensorDataset(X, Y), sampler=WeightedRandomSampler([1.0] * 20, 20)),
        "draws samples by a WeightedRandomSampler",
    ),
    "with replacement": (
        DataLoader(TensorDataset(X, Y), sampler=RandomSampler(X, replacement=True)),
        "draws samples by a RandomSampler",
    ),
    "own batches": (
        DataLoader(TensorDataset(X, Y), batch_sampler=[[0, 1], [2, 3]]),
        "draws samples by a list",
    ),
    "parts": ({"train": [1], "test": [2]}, "its columns: its entries are train, test"),
    "no input": (Samples(lambda i: {"text": "a", "label": 0}), "Sample 0: its entries are text"),
    "two inputs": (Samples(lambda i: {"image": X[i], "x": X[i]}), "entries are image, x"),
    "two labels": (Samples(lambda i: {"x": X[i], "y": 0, "label": 0}), "at most one label"),
    "words": ((np.array(["a", "b"]), [0, 1]), "the input is an array of <U1"),
    "ragged": (([[1.0], [1.0, 2.0]], [0, 1]), "the input is no array of numbers"),
    "uint16": ((X.numpy().astype(np.uint16), Y), "the input is an array of uint16"),
    "complex": ((X.to(torch.complex64), Y), "dense tensor of real numbers"),
    "sparse": ((X.to_sparse(), Y), "dense tensor of real numbers"),
    "fewer labels": ((X, Y[:10]), "20 inputs and 10 labels"),
    "label names": ((X, ["cat"] * 20), "sample 0: the label is 'cat'"),
}


@pytest.mark.parametrize(("data", "message"), WRONG.values(), ids=WRONG)
def test_any_other_form_is_one_clear_error_that_names_the_argument(data, message):
    with pytest.raises(DataError, match=f"^valid_data: .*{message}"):
        as_source(data, "valid_data")


def test_a_loader_is_said_to_be_read_as_its_data_set():
    loader = DataLoader(TensorDataset(X, Y))
    assert isinstance(as_source(loader, "train_data"), Source)
    assert "train_data was given as a DataLoader" in loader_note(loader, "train_data")[0]
    assert loader_note(loader.dataset, "train_data") == []


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "I;16"])
def test_a_list_of_images_is_read_as_each_image_is(mode):
    bright = (200, 100, 50)
    image = Image.new("RGB", (5, 7), bright)
    image = Image.new(mode, (5, 7), 9000) if mode == "I;16" else image.convert(mode)
    columns = as_source(([image] * 4, [0, 1, 0, 1]), "data").fetch(torch.arange(2))[0]
    pairs = as_source([(image, 0), (image, 1)], "data").fetch(torch.arange(2))[0]
    assert columns.dtype == pairs.dtype == torch.uint8
    assert torch.equal(columns, pairs)


def test_images_of_several_sizes_are_refused():
    images = [Image.new("L", (5, 7)), Image.new("L", (7, 5))]
    with pytest.raises(DataError, match="data: inputs: the images differ in size or channels"):
        as_source((images, [0, 1]), "data")


@pytest.mark.parametrize("hidden", ["inputs", "labels"])
def test_masked_values_are_refused(hidden):
    given = {"inputs": np.ones((4, 3)), "labels": np.arange(4)}
    given[hidden] = np.ma.array(given[hidden], mask=given[hidden] == 1)
    with pytest.raises(DataError, match=rf"data: {hidden}: \d+ masked values? in the array"):
        as_source((given["inputs"], given["labels"]), "data")


def test_samples_of_several_types_are_refused():
    pixels, shares = torch.full((3,), 200, dtype=torch.uint8), torch.full((3,), 0.5)
    source = as_source([(pixels, 0), (shares, 1)], "data")
    with pytest.raises(DataError, match=r"differ in type: \{torch.uint8: 0, torch.float32: 1\}"):
        source.fetch(torch.arange(2))


def test_several_inputs_of_one_shape_are_not_stacked():
    with pytest.raises(DataError, match="Sample 0: the input is a tuple of 2 arrays"):
        as_source([((torch.ones(3), torch.zeros(3)), 1)] * 4, "data")


@pytest.mark.parametrize("kind", [torch.uint16, torch.uint32, torch.uint64])
def test_unsigned_labels_of_every_width_are_class_numbers(kind):
    labels = as_source((X, Y.to(kind)), "data").fetch(torch.arange(20))[1]
    assert torch.equal(labels, Y)
