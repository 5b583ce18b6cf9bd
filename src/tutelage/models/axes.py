"""Principal axes of vectors."""

import torch
from jaxtyping import Float
from torch import Tensor

from tutelage.errors import ShapeError


def principal_axes(
    vectors: Float[Tensor, "rows width"], num_axes: int
) -> Float[Tensor, "width axes"]:
    """Principal directions of vectors as orthonormal columns, by decreasing variance.

    Args:
        vectors: Row vectors. With fewer rows than axes, the last axes are any orthogonal ones.
        num_axes: How many directions, at most the width.

    Raises:
        ShapeError: The vectors are narrower than that.
    """
    if vectors.shape[1] < num_axes:
        raise ShapeError(
            f"{num_axes} principal axes need vectors of that width or more, got "
            f"{vectors.shape[1]}. Ask for fewer."
        )
    centred = vectors.double() - vectors.double().mean(dim=0)
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(dims=[1])[:, :num_axes]
    largest = axes.gather(dim=0, index=axes.abs().argmax(dim=0, keepdim=True))
    signed: Tensor = axes * largest.sign()
    return signed.float()


def rotation_onto(
    vectors: Float[Tensor, "rows width"], wanted: Float[Tensor, "rows width"]
) -> Float[Tensor, "width width"]:
    """The rotation or reflection that brings vectors closest to others with the same rows.

    Source:
        Schönemann 1966, "A Generalized Solution of the Orthogonal Procrustes Problem".
    """
    left, _, right = torch.linalg.svd(vectors.double().T @ wanted.double())
    turned: Tensor = left @ right
    return turned.to(vectors.dtype)
