"""The base of all models: configuration, where weights come from and go to, and what PyTorch leaves out."""

from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from hierax.config import HieraConfig

if TYPE_CHECKING:
    from typing_extensions import Self

    from hierax.checkpoint.load import LoadingReport
    from hierax.processing import Preprocessing


class Pretrained(nn.Module):
    """A model with a configuration that can be loaded and saved.

    The model side knows no files: `from_pretrained`, `save_pretrained` and `push_to_hub` only pass on to
    `hierax.checkpoint`.

    Attributes:
        config: the `HieraConfig`.
        loading_report: what loading found, or None for a model that was not loaded.
        preprocessing: the checkpoint's record of how pixels are made, or None.
    """

    def __init__(self, config: HieraConfig) -> None:
        if not isinstance(config, HieraConfig):
            raise TypeError(f"config is a {type(config).__name__}; expected a HieraConfig")
        super().__init__()
        self.config = config
        self.loading_report: LoadingReport | None = None
        self.preprocessing: Preprocessing | None = None
        self.gradient_checkpointing = False

    def init_weights(self) -> None:
        """Draws all weights anew; nothing happens on the meta device."""
        raise NotImplementedError

    @property
    def license(self) -> str | None:
        """Licence of the weights (an SPDX name), or None when nobody stated one."""
        return self.config.license

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def num_parameters(self) -> int:
        """Number of weights."""
        return sum(p.numel() for p in self.parameters())

    def gradient_checkpointing_enable(self, enabled: bool = True) -> None:
        """In training, blocks of the encoder recompute what the backward pass needs instead of keeping it."""
        for part in self.modules():
            if isinstance(part, Pretrained):
                part.gradient_checkpointing = enabled

    def gradient_checkpointing_disable(self) -> None:
        """Undoes `gradient_checkpointing_enable`."""
        self.gradient_checkpointing_enable(False)

    def layer_groups(self) -> list[list[str]]:
        """Names of all parameters by depth, for layer-wise learning rates: a partition.

        The first list is the embeddings, then one per block of the encoder, and the last one norm, head, fusion and
        decoder: they come after the last block, as in the fine-tuning code of BEiT, MAE and MViT.
        """
        depth = sum(self.config.depths)
        layers: list[list[str]] = [[] for _ in range(depth + 2)]
        for name, _ in self.named_parameters():
            inner = name.removeprefix("encoder.")
            if inner.startswith("blocks."):
                layers[int(inner.split(".")[1]) + 1].append(name)
            else:
                layers[0 if inner.startswith(("patch_embed", "pos_embed")) else depth + 1].append(name)
        return layers

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        variant: str | None = None,
        num_labels: int | None = None,
        new: Collection[str] = (),
        image_size: int | Sequence[int] | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> "Self":
        """Loads weights of any dialect and returns the model in eval mode.

        Args:
            source: a Hub id, a folder, or a file (`.safetensors`, `.pth`, `.pt`, `.bin`); "hierax/femto" and
                "hierax/femto.mae" come with hierax and need no network.
            variant: name of the architecture, for a bare tensor file whose shapes do not tell it.
            num_labels: gives a classifier a new head for this many labels.
            new: names of parts that start anew, in the file or not, such as "norm", "head" or "decoder".
            image_size: resizes the position embeddings to another native size in pixels.
            dtype: precision of the weights; None is float32, "auto" that of the file.
            device: where the weights are put; None is the CPU.
            revision, cache_dir, token, local_files_only: passed on to the Hub's client.
            overrides: other values for fields of `HieraConfig`.

        Raises:
            ValueError: not Hiera, corrupt, tensors missing or of another shape, or an unknown field; it names
                file and tensor.
            OSError: the file or the Hub cannot be reached.
        """
        from hierax.checkpoint.load import HubOptions, load_model

        return load_model(
            cls,
            source,
            variant=variant,
            num_labels=num_labels,
            new=new,
            image_size=image_size,
            dtype=dtype,
            device=device,
            hub=HubOptions(revision, cache_dir, token, local_files_only),
            overrides=overrides,
        )

    def save_pretrained(self, folder: str | Path) -> None:
        """Writes `config.json`, `model.safetensors` and `preprocessor_config.json`, as `transformers` reads them."""
        from hierax.checkpoint.save import save_model

        save_model(self, folder)

    def push_to_hub(self, repo_id: str, *, token: str | bool | None = None, private: bool | None = None) -> str:
        """Uploads what `save_pretrained` writes, and a model card that states the licence; returns the address."""
        from hierax.checkpoint.save import push_model

        return push_model(self, repo_id, token=token, private=private)
