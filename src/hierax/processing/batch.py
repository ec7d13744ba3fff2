"""The output of a processor: a dictionary that can be passed to a model as `**batch`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from hierax.reprs.markup import entries_card, html_repr
from hierax.reprs.text import call_text, never_raises

if TYPE_CHECKING:
    import torch


class BatchFeature(dict[str, Any]):
    """The inputs of a model. Use `model(**batch)`, `batch["pixel_values"]` or `batch.pixel_values`.

    `repr` gives shapes and dtypes, not the numbers.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{name!r} is not in this batch; it contains {', '.join(self) or 'nothing'}") from None

    @never_raises
    def __repr__(self) -> str:
        return call_text(type(self).__name__, self)

    @html_repr
    def _repr_html_(self) -> str:
        return entries_card(type(self).__name__, self.items())

    def to(
        self,
        target: str | int | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | str | int | torch.device | None = None,
        *,
        device: str | int | torch.device | None = None,
        non_blocking: bool = False,
    ) -> BatchFeature:
        """Moves the tensors to a device, casts them to a dtype, or both, in place, and returns the batch.

        Examples: `batch.to("cuda")`, `batch.to(torch.bfloat16)`, `batch.to("cuda", torch.float16)`. A dtype applies
        only to floating-point tensors. Device and dtype can be in any order.

        Raises:
            TypeError: an entry is not a tensor, because `return_tensors` was "np" or None.
        """
        import torch

        if isinstance(target, torch.dtype):
            if isinstance(dtype, (str, int, torch.device)):  # batch.to(torch.float16, "cuda")
                device, dtype = dtype, None
            if dtype is not None:
                raise TypeError(f"two dtypes are given: {target} and {dtype}; expected one")
            dtype = target
        elif target is not None:
            device = target
        for name, value in self.items():
            if not isinstance(value, torch.Tensor):
                raise TypeError(f"{name} is a {type(value).__name__}, not a tensor; process with return_tensors='pt'")
            cast = dtype if value.is_floating_point() and isinstance(dtype, torch.dtype) else None
            self[name] = value.to(device=device, dtype=cast, non_blocking=non_blocking)
        return self
