"""The base of all models: configuration, loading, saving, and methods that models of transformers have."""

from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, cast

import torch
from torch import Tensor, nn

from hierax.model.config import HieraConfig
from hierax.model.summary import model_html, model_text, within_a_tree
from hierax.reprs.markup import html_repr
from hierax.reprs.text import never_raises

if TYPE_CHECKING:
    from typing_extensions import Self

    from hierax.checkpoint.load import LoadingReport, Source
    from hierax.processing import Preprocessing


def require_config(config: object) -> None:
    """Raises a `TypeError` if `config` is not a `HieraConfig`."""
    if not isinstance(config, HieraConfig):
        found, hint = type(config).__name__, ""
        if type(config).__module__.startswith("transformers."):  # its class has the same name
            found = f"transformers.{found}"
            hint = " of hierax; hierax.HieraConfig.from_dict(config.to_dict()) makes one"
        raise TypeError(f"config is a {found}; expected a HieraConfig{hint}")


class Pretrained(nn.Module):
    """A model with a configuration that can be loaded and saved.

    Models do not read or write files: `from_pretrained`, `save_pretrained` and `push_to_hub` call `hierax.checkpoint`.

    `repr(model)`, which a prompt shows, is one line. `print(model)` shows the tree of modules, as of any model of
    PyTorch; so does printing a module that contains this one.

    Attributes:
        config: the `HieraConfig`.
        loading_report: the report of loading, or None for a model that was not loaded.
        preprocessing: the checkpoint's record of preprocessing, or None.
    """

    main_input_name = "pixel_values"
    base_model_prefix = "encoder"
    supports_gradient_checkpointing = True
    constructor_arguments: ClassVar[tuple[str, ...]] = ()
    """What the constructor takes besides the configuration, and `from_pretrained` with it."""

    def __init__(self, config: HieraConfig) -> None:
        super().__init__()
        require_config(config)
        self.config = config
        self.loading_report: LoadingReport | None = None
        self.preprocessing: Preprocessing | None = None
        self.gradient_checkpointing, self.recomputed_every = False, 1

    @never_raises
    def __repr__(self) -> str:
        return super().__repr__() if within_a_tree() else model_text(self)

    @never_raises
    def __str__(self) -> str:
        return super().__repr__()

    @html_repr
    def _repr_html_(self) -> str:
        return model_html(self)

    def _replicate_for_data_parallel(self) -> NoReturn:
        """Raises an error: replicas of `nn.DataParallel`, on several GPUs, have no parameters."""
        raise RuntimeError(
            "nn.DataParallel does not run models of hierax on several GPUs; start one process per GPU with torchrun "
            "(DistributedDataParallel), or set CUDA_VISIBLE_DEVICES=0 for one GPU"
        )

    def init_weights(self) -> None:
        """Replaces all weights with random weights; does nothing on the meta device."""
        raise NotImplementedError

    @property
    def license(self) -> str | None:
        """License of the weights (an SPDX name), or None if it is not stated."""
        return self.config.license

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the weights."""
        return next(self.parameters()).dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return next(self.parameters()).device

    def num_parameters(self, only_trainable: bool = False, exclude_embeddings: bool = False) -> int:
        """Number of weights, or of the trainable ones.

        `exclude_embeddings` leaves out tables of tokens, as in transformers. Hiera has none, so it changes nothing.
        """
        return sum(p.numel() for p in self.parameters() if p.requires_grad or not only_trainable)

    def get_memory_footprint(self, return_buffers: bool = True) -> int:
        """Bytes of the weights, and of the buffers."""
        tensors = [*self.parameters(), *(self.buffers() if return_buffers else ())]
        return sum(tensor.numel() * tensor.element_size() for tensor in tensors)

    @property
    def base_model(self) -> "Pretrained":
        """The encoder; of a `Hiera`, the model itself."""
        return cast("Pretrained", self.get_submodule("encoder")) if "encoder" in self._modules else self

    @property
    def name_or_path(self) -> str:
        """The source that the weights were loaded from, or ""."""
        return "" if self.loading_report is None else self.loading_report.source

    def get_input_embeddings(self) -> nn.Module:
        """The patch embedding, as in transformers."""
        return self.base_model.get_submodule("patch_embed")

    def get_output_embeddings(self) -> None:
        """None: a model of images has no output embeddings."""

    def resize_token_embeddings(self, size: int | None = None) -> nn.Module:
        """Always raises: a model of images has no table of tokens."""
        raise NotImplementedError("a model of images has no table of tokens that could be resized")

    def resize_position_embeddings(self, size: int | Sequence[int]) -> None:
        """Always raises; the message says how to get a model of another native size."""
        raise NotImplementedError(
            f"calls take any size; from_pretrained(…, image_size={size!r}) makes a model of another native size"
        )

    def tie_weights(self) -> None:
        """Does nothing: no weights are shared."""

    def can_generate(self) -> bool:
        """False: the model does not write text."""
        return False

    def leaves_out(self, name: str) -> bool:
        """Whether this model does not need a tensor of a checkpoint, given by our name."""
        return False

    def gradient_checkpointing_enable(
        self, enabled: bool = True, gradient_checkpointing_kwargs: Mapping[str, Any] | None = None
    ) -> None:
        """In training, blocks of the encoder recompute their activations in the backward pass instead of keeping them.

        Args:
            enabled: False switches it off again.
            gradient_checkpointing_kwargs: for code written for transformers; `use_reentrant` is accepted and changes
                nothing, because gradients are the same either way.

        Raises:
            ValueError: an option other than `use_reentrant`.
        """
        self._recompute(gradient_checkpointing_kwargs, every=1, enabled=enabled)

    def activation_checkpointing_enable(
        self,
        activation_checkpointing_kwargs: Mapping[str, Any] | None = None,
        *,
        every_n_layers: int = 1,
        offload: bool = False,
    ) -> None:
        """`gradient_checkpointing_enable` under its name in transformers 5.

        Args:
            activation_checkpointing_kwargs: only `use_reentrant`, which changes nothing.
            every_n_layers: recompute every n-th block only.
            offload: only False.

        Raises:
            ValueError: any other option.
        """
        if offload:
            raise ValueError("activation checkpointing with offload=True; expected offload=False")
        self._recompute(activation_checkpointing_kwargs, every=every_n_layers, enabled=True)

    def _recompute(self, options: Mapping[str, Any] | None, *, every: int, enabled: bool) -> None:
        unknown = set(options or ()) - {"use_reentrant"}
        if unknown or every < 1:
            given = f"{dict(options or {})}, every_n_layers={every}"
            raise ValueError(f"activation checkpointing with {given}; expected use_reentrant alone, and n >= 1")
        for part in self.modules():
            if isinstance(part, Pretrained):
                part.gradient_checkpointing, part.recomputed_every = enabled, every

    def activation_checkpointing_disable(self) -> None:
        """Undoes `activation_checkpointing_enable`."""
        self.gradient_checkpointing_enable(False)

    def gradient_checkpointing_disable(self) -> None:
        """Undoes `gradient_checkpointing_enable`."""
        self.gradient_checkpointing_enable(False)

    @property
    def is_gradient_checkpointing(self) -> bool:
        """Whether blocks recompute their activations in training."""
        return self.gradient_checkpointing

    def layer_groups(self) -> list[list[str]]:
        """Names of all parameters, grouped by depth, for layer-wise learning rates. Each name is in exactly one list.

        The first list has the embeddings. One list per block of the encoder follows. The last list has norm, head,
        fusion and decoder, which come after the last block, as in the fine-tuning code of BEiT, MAE and MViT.
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
        source: "Source",
        *,
        variant: str | None = None,
        num_labels: int | None = None,
        reinit: Collection[str] = (),
        part: str | None = None,
        config: HieraConfig | None = None,
        base: "Source | None" = None,
        ignore_mismatched_sizes: bool = False,
        image_size: int | Sequence[int] | None = None,
        windows: str | None = None,
        dtype: torch.dtype | str | None = None,
        device: torch.device | str | None = None,
        revision: str | None = None,
        cache_dir: str | Path | None = None,
        token: str | bool | None = None,
        local_files_only: bool = False,
        **overrides: Any,
    ) -> "Self":
        """Loads weights of any format and returns the model in eval mode.

        Args:
            source: a Hub id, a folder, a file (`.safetensors`, `.pth`, `.pth.tar`, `.pt`, `.bin`, `.ckpt`), or an open
                checkpoint; "hierax/femto" and "hierax/femto.mae" are part of hierax and need no network.
            variant: name of the architecture, for a tensor file with shapes of several architectures.
            num_labels: gives a classifier a new head for this many labels.
            reinit: names of parts that get random weights even if the file has weights for them, such as "norm", "head"
                or "decoder"; or of modules in them, such as "patch_embed" or "decoder.pred". `new=` is its former name.
            part: which model of a file that holds several: the name of its container or prefix, such as "model_ema" or
                "teacher". If None, a moving average is preferred to the model that it averages, with a warning.
            config: the configuration to use instead of the source's own.
            base: the base model of an adapter (LoRA); None is the one that the adapter names.
            ignore_mismatched_sizes: modules whose tensors have another shape in the file get random weights, such as
                the head for another `num_labels`; a head of the same size is kept.
            image_size: another native size in pixels, to which the position embeddings are resized.
            windows: "sam2" gives a classic model the windows of SAM 2 in stages 3 and 4 and three blocks that see all
                tokens: cheaper at high resolution, equal at 224 pixels. None keeps the model as it is.
            dtype: precision of the weights; None is float32, "auto" that of the file.
            device: the device of the weights; None is the CPU.
            revision, cache_dir, token, local_files_only: passed to the client of the Hub.
            overrides: other values for fields of `HieraConfig`; `num_channels` averages the patch embedding over the
                channels of the file. Names of transformers and timm are understood too: `torch_dtype`, `device_map`
                (one device, or "auto"), `attn_implementation`, `in_chans`, `num_classes`; `output_hidden_states` and
                `output_attentions` (the defaults of calls). Those that have no effect here are accepted.

        Raises:
            ValueError: the file is not a Hiera model, is damaged, lacks tensors, has tensors of another shape, or holds
                several models; or a field is unknown. Names file and tensor.
            OSError: the file or the Hub cannot be reached.
        """
        from hierax.checkpoint.load import HubOptions, load_model

        return load_model(
            cls,
            source,
            variant=variant,
            num_labels=num_labels,
            reinit=reinit,
            part=part,
            config=config,
            base=base,
            ignore_mismatched_sizes=ignore_mismatched_sizes,
            image_size=image_size,
            windows=windows,
            dtype=dtype,
            device=device,
            hub=HubOptions(revision, cache_dir, token, local_files_only),
            overrides=overrides,
        )

    def save_pretrained(
        self,
        folder: str | Path,
        *,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        safe_serialization: bool = True,
        **options: Any,
    ) -> None:
        """Writes `config.json`, `model.safetensors` and `preprocessor_config.json`, as `transformers` reads them.

        Args:
            folder: created if it is missing.
            is_main_process: False writes nothing.
            state_dict: weights to write instead of the model's own, with the names of `state_dict()`, as accelerate
                gathers them.
            safe_serialization: only True; weights are never pickled.
            options: accepted for code written for transformers if they have no effect, such as `max_shard_size` (the
                weights are one file) and `push_to_hub=False`.

        Raises:
            ValueError: `state_dict` has other names than the model, `safe_serialization` is False, or an option would
                have an effect.
            TypeError: an unknown option.
        """
        from hierax.checkpoint.save import check_options, save_model

        check_options(options)
        if not safe_serialization:
            raise ValueError("safe_serialization is False; expected True: weights are written as safetensors")
        if is_main_process:
            save_model(self, folder, state_dict=state_dict)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        token: str | bool | None = None,
        private: bool | None = None,
        commit_message: str | None = None,
        revision: str | None = None,
        create_pr: bool = False,
    ) -> str:
        """Uploads what `save_pretrained` writes, and a model card that states the license; returns the address. A
        `README.md` that the repository has is kept.

        Args:
            repo_id: "owner/name"; created if it is missing, `private` or not.
            token: of the Hub; None is that of `hf auth login`.
            commit_message, revision, create_pr: the commit's message, its branch, and whether it becomes a pull
                request.
        """
        from hierax.checkpoint.save import push_model

        return push_model(
            self, repo_id, token=token, private=private, message=commit_message, revision=revision, create_pr=create_pr
        )
