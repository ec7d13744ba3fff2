"""What a processor returns: a dictionary to splat into a model."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch


class BatchFeature(dict[str, Any]):
    """Inputs of a model: `model(**batch)`, `batch["pixel_values"]`, `batch.pixel_values`."""

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{name!r} is not in this batch; it holds {', '.join(self) or 'nothing'}") from None

    def to(
        self,
        target: str | int | torch.device | torch.dtype | None = None,
        dtype: torch.dtype | str | int | torch.device | None = None,
        *,
        device: str | int | torch.device | None = None,
        non_blocking: bool = False,
    ) -> BatchFeature:
        """Move the tensors to a device, cast them to a dtype, or both, in place, and return the batch.

        `batch.to("cuda")`, `batch.to(torch.bfloat16)`, `batch.to("cuda", torch.float16)`. A dtype applies to floating
        tensors only; either order is taken. Raises TypeError if an entry is not a tensor (made with `return_tensors`
        "np" or None).
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
