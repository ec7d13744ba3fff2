"""Finds weights that cannot be right: NaN or infinite values, and files with only zeros."""

from collections.abc import Mapping

import torch
from torch import Tensor

from hierax.checkpoint.report import join_names
from hierax.notices import notify


def not_finite(tensors: Mapping[str, Tensor]) -> list[str]:
    """The names of the tensors that contain NaN or infinite values.

    It computes one sum per tensor, which takes 9 ms for Hiera-B. If a sum is not finite, all values of the tensor are
    checked, because large values can overflow the sum.
    """
    return _scan(tensors)[0]


def check_values(
    file: object, tensors: Mapping[str, Tensor], read: Mapping[str, Tensor], theirs: Mapping[str, str]
) -> None:
    """Checks the weights that a model gets from a file.

    Args:
        file: the file, for messages.
        tensors: the tensors of the model, in its precision.
        read: the same tensors in the precision of the file.
        theirs: the names of the tensors in the file, for messages.

    Raises:
        ValueError: values are NaN or infinite, in the file or in this precision; or all matrices are zero.
    """
    odd, zero = _scan(tensors)
    if odd:
        dtype = tensors[odd[0]].dtype
        own = [theirs.get(name, name) for name in not_finite({name: read[name] for name in odd})]
        if own:
            hold = "tensor holds" if len(own) == 1 else "tensors hold"
            raise ValueError(
                f"{file}: {len(own)} {hold} NaN or infinite values: {join_names(own, 3)}; expected finite weights "
                "(an earlier checkpoint may have them)"
            )
        raise ValueError(
            f"{file}: values of {join_names([theirs.get(name, name) for name in odd], 3)} are too large for {dtype} "
            f"(at most {torch.finfo(dtype).max:g}); expected another dtype, such as 'float32' or 'bfloat16'"
        )
    matrices = [name for name, tensor in tensors.items() if _is_matrix(name, tensor)]
    if zero and len(zero) == len(matrices):
        raise ValueError(f"{file}: all its weights are zero; expected a file that was copied or downloaded whole")
    if zero:
        first = theirs.get(zero[0], zero[0])
        are = f"{first} is" if len(zero) == 1 else f"{len(zero)} of {len(matrices)} weights, such as {first}, are"
        notify(f"{file}: {are} all zero (was the file copied or downloaded whole?)")


def _scan(tensors: Mapping[str, Tensor]) -> tuple[list[str], list[str]]:
    """The names of the tensors that are not finite, and of the matrices that contain only zeros."""
    there = {name: tensor.detach() for name, tensor in tensors.items() if not tensor.is_meta and tensor.numel()}
    if not there:
        return [], []
    sums = torch.stack([_plain(tensor).sum().float() for tensor in there.values()])
    finite, zero = (sums.isfinite()).tolist(), (sums == 0).tolist()
    names = list(there)
    odd = [n for n, good in zip(names, finite, strict=True) if not good and not _plain(there[n]).isfinite().all()]
    empty = [n for n, none in zip(names, zero, strict=True) if none and _is_matrix(n, there[n]) and not there[n].any()]
    return odd, empty


def _plain(tensor: Tensor) -> Tensor:
    """The tensor in a precision in which PyTorch can compute a sum; it cannot do so in float8."""
    return tensor.float() if tensor.element_size() == 1 else tensor


def _is_matrix(name: str, tensor: Tensor) -> bool:
    """Whether a tensor is the weight of a layer that mixes channels. Biases, tables and tokens may be zero."""
    return tensor.ndim >= 2 and name.endswith(".weight") and not any(p in name for p in ("pos_embed", "mask_token"))
