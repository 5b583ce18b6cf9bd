"""A cached teacher: outputs that were written once and are read back by sample and view."""

from pathlib import Path

import numpy as np
import torch

from tutelage.errors import CacheError
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


class CachedTeacher:
    """A teacher that looks its outputs up on disk.

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
        shards = self.manifest.shards
        self._per_shard = shards[0].stop
        self._arrays = [
            map_shard(shard_path(folder, number), (shard.stop - shard.start) * self._views)
            for number, shard in enumerate(shards)
        ]

    def __call__(self, batch: Batch) -> Outputs:
        """Outputs of the batch's views, as they were written."""
        arrays = self._look_up(batch.sample_ids.numpy(), batch.view_ids.numpy())
        outputs = self.codec.decode(arrays, self.manifest.key.num_classes)
        if batch.device.type == "cpu":
            return outputs
        return Outputs(outputs.logits.to(batch.device, non_blocking=True))

    def _look_up(self, samples: np.ndarray, views: np.ndarray) -> dict[str, np.ndarray]:
        key = self.manifest.key
        if samples.min() < 0 or samples.max() >= key.num_samples or views.max() >= key.num_views:
            raise CacheError(
                f"{self.folder}: asked for sample {samples.max()}, view {views.max()}; the cache "
                f"holds {key.num_samples} samples of {key.num_views} views."
            )
        shards = samples // self._per_shard
        items = (samples - shards * self._per_shard) * self._views + views
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
