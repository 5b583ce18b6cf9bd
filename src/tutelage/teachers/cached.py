"""A cached teacher: stored outputs, read by sample and view."""

from pathlib import Path

import numpy as np
import torch

from tutelage.errors import CacheError, TeacherChangedError
from tutelage.files import file_sha256
from tutelage.teachers.codecs import make_codec
from tutelage.teachers.store import (
    CacheKey,
    Manifest,
    check_fits,
    load_manifest,
    map_shard,
    shard_path,
    verify,
)
from tutelage.types import Batch, Outputs, Signal
from tutelage.wording import quantity

MOST_CLASSES = 10**7


class CachedTeacher:
    """A teacher that reads its outputs from disk.

    Args:
        folder: The cache.
        wanted: What the cache must have been made from; None takes any.
        gives: What kind of scores it holds.

    Raises:
        CacheError: The cache is missing, damaged, or was made from something else.
    """

    def __init__(
        self, folder: Path, wanted: CacheKey | None = None, gives: Signal = Signal.LOGITS
    ) -> None:
        """Verify the cache and map its shards."""
        self.manifest: Manifest = load_manifest(folder)
        if wanted is not None:
            check_fits(folder, self.manifest, wanted)
        verify(folder, self.manifest)
        self.folder = folder
        self.gives = frozenset({gives})
        self.device = torch.device("cpu")
        self.codec = make_codec(self.manifest.key.codec)
        self.fingerprint = self.manifest.key.text
        self._views = self.manifest.key.num_views
        self._items = self.manifest.key.items_per_sample
        shards = self.manifest.shards
        self._per_shard = shards[0].stop
        self._seen = [_state(shard_path(folder, n)) or (0, 0) for n in range(len(shards))]
        self._arrays = [
            map_shard(
                shard_path(folder, number),
                (shard.stop - shard.start) * self.manifest.key.items_of_sample,
            )
            for number, shard in enumerate(shards)
        ]
        self._check_arrays()

    def _check_arrays(self) -> None:
        """Refuse shards with other arrays than their codec writes."""
        num_classes = self.manifest.key.num_classes
        if not 0 < num_classes <= MOST_CLASSES:
            raise CacheError(f"{self.folder}: the manifest says {num_classes} classes.")
        wanted = {
            name: (str(array.dtype), tuple(array.shape[1:]))
            for name, array in self.codec.encode(torch.zeros(1, num_classes)).items()
        }
        for number, arrays in enumerate(self._arrays):
            held = {name: (f"torch.{a.dtype}", a.shape[1:]) for name, a in arrays.items()}
            if held != wanted:
                raise CacheError(
                    f"{shard_path(self.folder, number)}: holds {held}, the codec "
                    f"{self.codec.name} writes {wanted}. Build the cache anew."
                )

    def __call__(self, batch: Batch) -> Outputs:
        """The stored outputs of the batch's views."""
        arrays = self._look_up(batch.sample_ids.numpy(), batch.view_ids.numpy())
        outputs = self.codec.decode(arrays, self.manifest.key.num_classes)
        return outputs if batch.device.type == "cpu" else outputs.to(batch.device)

    def check(self) -> None:
        """Check whether a shard was written to since it was opened.

        A shard that was replaced or removed is of no account: the old content stays mapped.

        Raises:
            TeacherChangedError: A shard's content is another now.
        """
        for number, (shard, seen) in enumerate(zip(self.manifest.shards, self._seen, strict=True)):
            path = shard_path(self.folder, number)
            now = _state(path)
            if now is None or now == seen or now[0] != seen[0]:
                continue
            if file_sha256(path) != shard.sha256:
                raise TeacherChangedError(
                    f"{path}: the cache changed while it taught. What was learned from it is "
                    "thrown away. Build it again (tutelage cache build RECIPE), and let nothing "
                    "write there during a run."
                )

    def _look_up(self, samples: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
        key = self.manifest.key
        if samples.min() < 0 or samples.max() >= key.num_samples or views.max() >= key.num_views:
            raise CacheError(
                f"{self.folder}: asked for sample {samples.max()}, view {views.max()}; the cache "
                f"holds {quantity(key.num_samples, 'sample')} of {quantity(key.num_views, 'view')}."
            )
        shards = samples // self._per_shard
        items = (samples - shards * self._per_shard) * self._views + views
        if self._items > 1:
            items = (items[:, None] * self._items + np.arange(self._items)).reshape(-1)
            shards = shards.repeat(self._items)
        if len(self._arrays) == 1:
            return {name: array[items] for name, array in self._arrays[0].items()}
        return self._gather(shards, items)

    def _gather(self, shards: np.ndarray, items: np.ndarray) -> dict[str, np.ndarray]:
        gathered = {
            name: np.empty((len(items), *array.shape[1:]), dtype=array.dtype)
            for name, array in self._arrays[0].items()
        }
        for shard in np.flatnonzero(np.bincount(shards)):
            rows = np.nonzero(shards == shard)[0]
            for name, array in self._arrays[shard].items():
                gathered[name][rows] = array[items[rows]]
        return gathered


def _state(path: Path) -> tuple[int, int] | None:
    """Identity and modification time of a file; None if there is none."""
    try:
        found = path.stat()
    except OSError:
        return None
    return found.st_ino, found.st_mtime_ns
