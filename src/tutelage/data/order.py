"""A random order of any number of samples, one block at a time, in constant memory."""

import functools
from collections.abc import Iterator

import torch
from jaxtyping import Int
from torch import Tensor

from tutelage.data.views import mix

LISTED = 2**20
ROUNDS = 6


def shuffled(count: int, *, seed: int, block: int) -> Iterator[Int[Tensor, " block"]]:
    """Every number below a count once, in the random order of a seed, in blocks.

    Up to 2^20 numbers the order is `torch.randperm`'s, which takes 8 bytes a number. Beyond, each
    place of the order is computed by itself, so that memory is that of a block.

    Args:
        count: How many numbers.
        seed: Another seed gives another order.
        block: Numbers at once; the last block may be smaller.
    """
    if count <= LISTED:
        generator = torch.Generator().manual_seed(seed)
        yield from torch.randperm(count, generator=generator).split(block)
        return
    for start in range(0, count, block):
        yield permuted(torch.arange(start, min(start + block, count)), count, seed)


def permuted(places: Int[Tensor, " places"], count: int, seed: int) -> Int[Tensor, " places"]:
    """Values of a random permutation at given positions.

    A Feistel network permutes the numbers below a power of four; where it leads beyond the count
    it is walked on, so that what is left is a permutation of the numbers below the count.

    Args:
        places: From 0 to count - 1.
        count: How many numbers there are.
        seed: Seed of the order.

    Source:
        Black & Rogaway 2002, "Ciphers with Arbitrary Finite Domains", section "cycle walking".
    """
    half = max(1, (max(1, count - 1).bit_length() + 1) // 2)
    step = functools.partial(_feistel, half=half, seed=seed)
    numbers = step(places)
    while bool((beyond := numbers >= count).any()):
        numbers[beyond] = step(numbers[beyond])
    return numbers


def _feistel(numbers: Tensor, *, half: int, seed: int) -> Tensor:
    """One-to-one on the numbers of 2 x half bits."""
    mask = (1 << half) - 1
    left, right = numbers >> half, numbers & mask
    for turn in range(ROUNDS):
        left, right = right, left ^ mix(right, seed, turn) & mask
    return left << half | right
