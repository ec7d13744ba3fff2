"""The engine: fast inference of a model on images or pixels of any size and number, from any thread."""

from __future__ import annotations

import logging
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NoReturn, cast

import torch
from torch import Tensor

from hierax.advice import ENGINE, advised
from hierax.checkpoint.opened import Checkpoint
from hierax.digests import weights_digest
from hierax.engine.backends.exported import ExportedBackend, find_export
from hierax.engine.backends.onnx import OnnxBackend
from hierax.engine.backends.openvino import OpenVinoBackend
from hierax.engine.backends.pytorch import SeldomRunner, TorchBackend
from hierax.engine.calibration import ImageInputs, calibration_batches, source_digest
from hierax.engine.context import renew_lock
from hierax.engine.device_pixels import DevicePixels
from hierax.engine.forking import follow, in_main_thread, keep_forever, openvino_is_lost
from hierax.engine.hardware import Choice, choose, fast_bf16
from hierax.engine.memory import check_outputs, memory_errors
from hierax.engine.opening import axes_of, cache_for, check_counts, check_inputs, model_for
from hierax.engine.pool import Backend, Runner, RunnerPool, Shape, buckets
from hierax.engine.signature import EngineOutput, Program, Signature, encoder_of, mae_of, to_output, typed_mae
from hierax.engine.streaming import Item, StreamResult, check_items, stream_results
from hierax.model.pretrained import Pretrained
from hierax.model.registry import TASKS, task_of
from hierax.processing import HieraImageProcessor, ImageInput
from hierax.processing.defaults import preprocessing_for
from hierax.reprs.text import never_raises

if TYPE_CHECKING:
    from typing_extensions import Self

_log = logging.getLogger("hierax.engine")
_MOST_ROWS = 65535  # a limit of fused attention on CUDA, where each mask unit is one row (pytorch/pytorch#146704)


class Engine:
    """A model, prepared for the fastest inference on this machine.

    `Engine("facebook/hiera-tiny-224-in1k-hf")("photo.jpg").logits`. One engine serves one task; its calls return the
    typed output of that task's model, in float32. It may be called from many threads; calls run one after another, each
    on all `threads`. Compiled programs are kept on disk, so that the next start is fast.

    Args:
        model: a model, which is copied; a Hub id, a folder or a file of a checkpoint; or a folder that `hierax export`
            wrote, or the model's file in it.
        task: as in `hierax.load`: "features" for embeddings, "backbone" for maps, "classification", "mae", …
        device: "auto" is CUDA or MPS if available, else the CPU.
        precision: "fp32", "bf16", "fp16" or "int8"; "auto" is bf16 if the hardware multiplies it, else fp32.
        backend: "torch" (eager, with CUDA graphs on a GPU), "compile" (`torch.compile`), "openvino" (CPU) or
            "onnxruntime"; "auto" is the fastest that is installed.
        threads: CPU threads; None is PyTorch's number.
        hidden_states: whether to return the maps of all stages too (`reshaped_hidden_states`).
        out_features: names of the maps of a backbone.
        calibration: images to calibrate "int8" on: a folder, a list, or preprocessed pixels; None uses crops of the
            photo that is part of hierax, with a warning.
        processor: makes pixels from images; None is the checkpoint's own.
        cache_dir: folder of the compiled programs; None is `$HIERAX_CACHE`, else the user's cache folder; False turns
            the cache off.
        max_shapes: number of sizes that stay compiled; others run in eager mode.

    Attributes:
        config, license: configuration and license of the model; `config.id2label` names a classifier's labels.
        task: as in `hierax.load`: "classification", "segmentation", "features", "backbone", "mae", …
        source: the origin of the weights, or None if it is unknown.
        device, precision, backend: the ones in use.
        processor, preprocessing: the maker of pixels from images, and its record; `record` is None if the model states
            none.
        exported: the export, with the report of its differences from the checkpoint; None for other models.

    Raises:
        ValueError: a name is unknown or a combination is not possible; or an error of `hierax.load`.
        ImportError: the backend's package is missing; the message names the extra.
    """

    @advised(ENGINE)
    def __init__(
        self,
        model: Pretrained | str | os.PathLike[str] | Checkpoint,
        *,
        task: str | None = None,
        device: str | torch.device = "auto",
        precision: str = "auto",
        backend: str = "auto",
        threads: int | None = None,
        hidden_states: bool = False,
        out_features: Sequence[str] | None = None,
        calibration: ImageInputs | None = None,
        processor: HieraImageProcessor | None = None,
        cache_dir: str | os.PathLike[str] | bool | None = None,
        max_shapes: int = 8,
    ) -> None:
        check_counts(threads=1 if threads is None else threads, max_shapes=max_shapes)
        exported = find_export(model)
        if exported is not None:
            choice = exported.choice(
                device=device, precision=precision, backend=backend, task=task,
                hidden_states=hidden_states, out_features=out_features,
            )  # fmt: skip
        else:
            choice = choose(device, precision, backend)
        check_inputs(processor, calibration, choice.precision, exported=exported is not None)
        self._lock = threading.RLock()
        with memory_errors("loading the model"):
            self._model = exported.model() if exported else model_for(model, task, out_features)
        self.config, self.license = self._model.config, self._model.license
        self.task = task_of(type(self._model)).name
        report = self._model.loading_report
        self.source = exported.source if exported else report.source if report else None
        self.device, self.precision, self.backend = choice.device, choice.precision, choice.backend
        self.signature = Signature.of(self._model, hidden_states=hidden_states)
        self.processor = processor or HieraImageProcessor(preprocessing_for(self.config, self._model.preprocessing))
        on_device = processor is None and choice.device.type == "cuda"
        self.preprocessing, self.record = self.processor.record, self._model.preprocessing
        self.exported = exported
        self._device_pixels = DevicePixels(self.processor, choice.device) if on_device else None
        self.threads = threads
        self._calibration = calibration
        self._closed, self._lost = False, ""
        on_cpu = choice.device.type == "cpu"
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="hierax-engine") if on_cpu else None
        self._slow: TorchBackend | None = None
        self._backend: Backend = (
            ExportedBackend(exported, threads=threads) if exported else self._make_backend(choice, cache_dir)
        )
        self._pool = RunnerPool(self._backend.runner, None if exported else self._eager, limit=max_shapes)
        follow(self)

    def after_fork(self) -> None:
        """Called in a forked child: drops objects that need threads of the parent; the next call makes new ones.

        PyTorch on a CPU needs only a new thread, and ONNX Runtime new sessions. OpenVINO cannot be used in the child:
        an engine made from weights continues with PyTorch. CUDA cannot be used either.
        """
        self._lock = threading.RLock()
        renew_lock()
        if self._closed:
            return
        if self.device.type != "cpu":
            self._lost = f"{self.device} cannot be used in a forked child; start processes by 'spawn'"
            return
        if self._thread is not None:
            self._thread = ThreadPoolExecutor(1, thread_name_prefix="hierax-engine")
        if self.backend in ("torch", "compile"):
            return
        keep_forever(self._pool)
        make, limit = self._backend.runner, self._pool.limit
        eager = None if isinstance(self._backend, ExportedBackend) else self._eager
        if self.backend == "openvino" and openvino_is_lost() and eager is not None:
            make = eager
            _log.warning("OpenVINO was used before this process was forked: in the child the engine runs on PyTorch")
        self._pool = RunnerPool(make, eager, limit=limit)

    def _make_backend(self, choice: Choice, cache_dir: str | os.PathLike[str] | bool | None) -> Backend:
        if choice.backend in ("torch", "compile"):
            self._slow = self._torch(choice.precision, compiler=choice.backend == "compile")
            return self._slow
        cache = cache_for(self._model, cache_dir)
        key: dict[str, Any] = {
            "weights": weights_digest(self._model),
            "config": self.config.to_json(),
            "task": self.signature.task,
            "outputs": self.signature.outputs,
        }
        if choice.precision == "int8":
            key["calibration"] = [source_digest(self._calibration), self.processor.to_dict()]
        if choice.backend == "onnxruntime":
            return OnnxBackend(
                self._model,
                self.signature,
                precision=choice.precision,
                threads=self.threads,
                cache=cache,
                key=key,
                calibration=self._calibration_batches,
            )
        return OpenVinoBackend(
            Program(self._model, self.signature).eval(),
            precision=choice.precision,
            threads=self.threads,
            cache=cache,
            key=key,
            calibration=self._calibration_batches,
        )

    def _torch(self, precision: str, *, compiler: bool = False) -> TorchBackend:
        return TorchBackend(
            self._model,
            self.signature,
            device=self.device,
            precision=precision,
            threads=self.threads,
            compiler=compiler,
        )

    def __call__(
        self,
        images: ImageInput | Sequence[ImageInput] | None = None,
        *,
        pixel_values: Tensor | None = None,
        noise: Tensor | None = None,
        keep: Tensor | None = None,
    ) -> EngineOutput:
        """The model's typed output, in float32 on the engine's device, for images or pixels.

        Args:
            images: an image or a list of images, as for `HieraImageProcessor`; or a value for `pixel_values`.
            pixel_values: preprocessed pixels `[B, C, *size]`, floating point, any size and number.
            noise, keep: for MAE models, which mask units are visible; as in `HieraForPreTraining`.

        Raises:
            ValueError: the shape is wrong, or an image cannot be read (`ImageError`).
            RuntimeError: the engine is closed.
        """
        pixels = self._pixels(images, pixel_values)
        if not self.signature.masked:
            if noise is not None or keep is not None:
                raise ValueError(f"noise and keep are for MAE models; this one's task is {self.signature.task}")
            encoder_of(self._model).unit_grid(pixels)  # checks the shape
            found = to_output(self.signature, self._run(pixels, None), self._model, pixels.shape[2:])
            return cast("EngineOutput", found)
        kept, ranks = mae_of(self._model).visible(pixels, keep=keep, noise=noise)
        tensors = self._run(pixels, kept)
        device = tensors[0].device
        pixels, kept, ranks = pixels.to(device), kept.to(device), None if ranks is None else ranks.to(device)
        made = typed_mae(self.signature, tensors, pixels=pixels, kept=kept, ranks=ranks, config=self.config)
        return cast("EngineOutput", made)

    def coarse_logits(self, images: ImageInput | None = None, *, pixel_values: Tensor | None = None) -> Tensor:
        """Logits `[B, num_labels, ceil(height / 4), ceil(width / 4)]` of a segmentation model, for the same arguments.

        A call enlarges them to the image; see `HieraForSemanticSegmentation.enlarged`.

        Raises:
            ValueError: the model is for another task.
        """
        if not TASKS[self.task].dense:
            raise ValueError(f"coarse_logits is for task 'segmentation'; the task of this engine is {self.task}")
        pixels = self._pixels(images, pixel_values)
        encoder_of(self._model).unit_grid(pixels)  # checks the shape
        return self._run(pixels, None)[0]

    def stream(
        self,
        items: Iterable[Item],
        *,
        batch_size: int = 32,
        workers: int | None = None,
        read: Callable[[Item], Tensor] | None = None,
    ) -> Iterator[StreamResult[Item]]:
        """Outputs for many images, one by one and in order: `StreamResult(item, output, error)`.

        Images are decoded ahead in threads and run in batches. An image that cannot be read or run has an `error` and
        no `output`; the others are not affected. At most about three batches are in memory.

        Args:
            items: paths, or other inputs of the processor; the iterable is read as items are needed.
            batch_size: rows per call of the engine.
            workers: decoding threads; None is the number of CPUs, at most 8.
            read: a function from an item to pixels `[rows, C, *size]`, such as several views of a clip; it is called in
                these threads. None is the engine's processor.

        Raises:
            ValueError: the model is an MAE model, whose loss is for a whole batch; or the batch size is below 1.
            RuntimeError: the engine is closed. MemoryError: it ran out of memory.
        """
        self._check_open()
        check_counts(batch_size=batch_size, workers=workers or 1)
        check_items(items)
        if self.signature.masked:
            raise ValueError("stream is for tasks with an output per input; call an engine of task 'mae' itself")
        return stream_results(
            self, items, read or (lambda item: self._pixels(item, None)), batch_size=batch_size, workers=workers
        )

    def _pixels(self, images: Any, pixel_values: Tensor | None) -> Tensor:
        """Preprocessed pixels in float32, on the CPU or on their device."""
        self._check_open()
        if (images is None) == (pixel_values is None):
            raise ValueError("expected either images or pixel_values")
        if pixel_values is None:
            ready = isinstance(images, Tensor) and images.is_floating_point() and images.ndim == self.config.axes + 2
            if not ready:
                if self.config.axes != 2:
                    raise ValueError(
                        f"this model takes {'clips' if self.config.is_video else f'{self.config.axes}-D inputs'}: "
                        "pass ready pixels"
                    )
                if self._device_pixels is not None:
                    return self._device_pixels(images)
                return self.processor(images).pixel_values
            pixel_values = images
        if not isinstance(pixel_values, Tensor):
            raise TypeError(f"pixel_values is a {type(pixel_values).__name__}; expected a tensor")
        return pixel_values.detach().float() if pixel_values.is_floating_point() else pixel_values

    def _run(self, pixels: Tensor, kept: Tensor | None, *, at_once: bool = False) -> list[Tensor]:
        """`_run_here`; on a CPU, in the main thread or in the engine's own thread.

        Every computing thread keeps memory: with eight callers, an engine grew by 370 MiB. But PyTorch's helpers of
        two threads wait for each other, which takes twice as long: the main thread computes itself.
        """
        if self._thread is None or in_main_thread():
            return self._run_here(pixels, kept, at_once=at_once)
        try:
            return self._thread.submit(self._run_here, pixels, kept, at_once=at_once).result()
        except RuntimeError:
            self._check_open()  # closed between the two checks
            raise

    def _run_here(self, pixels: Tensor, kept: Tensor | None, *, at_once: bool) -> list[Tensor]:
        """The program's tensors for a batch, from one call or from calls of the compiled batches."""
        size, shown = tuple(pixels.shape[2:]), None if kept is None else kept.shape[1]
        units = torch.Size(self.config.unit_grid(size)).numel()
        usual = shown is None or shown == int(units * (1 - self.config.mask_ratio))
        at_once = at_once or (usual and size == self.config.image_size)
        with self._lock:
            self._check_open()
            if not self._backend.batched:
                return self._answer(Shape(size, None, shown), pixels, kept, at_once=at_once)
            parts: list[list[Tensor]] = []
            for start, count, batch in buckets(len(pixels), most=_MOST_ROWS // units):
                part, seen = pixels[start : start + count], None if kept is None else kept[start : start + count]
                if count < batch:
                    part = torch.cat([part, part[-1:].expand(batch - count, *part.shape[1:])])
                    seen = None if seen is None else torch.cat([seen, seen[-1:].expand(batch - count, -1)])
                found = self._answer(Shape(size, batch, shown), part, seen, at_once=at_once)
                parts.append([tensor[:count] for tensor in found])
        return parts[0] if len(parts) == 1 else [torch.cat(tensors) for tensors in zip(*parts, strict=True)]

    def _answer(self, shape: Shape, pixels: Tensor, kept: Tensor | None, *, at_once: bool) -> list[Tensor]:
        """The tensors of a runner, checked to be whole: a library that is short of memory may return fewer rows."""
        count = len(pixels)
        with memory_errors(f"running {count} input{'s'[: count != 1]} of {shape}"):
            found = self._pool.get(shape, at_once=at_once)(pixels, kept)
        rows = [tensor.shape[:1] for tensor in found]
        check_outputs(rows, [[count]] * len(self.signature.outputs), by=f"the backend {self.backend!r}")
        return found

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("this engine is closed")
        if self._lost:
            raise RuntimeError(self._lost)

    def _eager(self, shape: Shape) -> Runner:
        """The runner of shapes that are not compiled: PyTorch, in a precision that is not lower than the engine's."""
        if self._slow is None:
            precision = "bf16" if self.precision in ("bf16", "int8") and fast_bf16() else "fp32"
            self._slow = self._torch(precision)
            _log.info("sizes that are seldom requested run on PyTorch in %s", precision)
        return SeldomRunner(self._slow.eager(shape))

    def _calibration_batches(self, shape: Shape) -> list[tuple[Tensor, ...]]:
        return calibration_batches(self._calibration, shape, config=self.config, processor=self.processor)

    def warm_up(self, *, size: Sequence[int] | None = None, batches: Sequence[int] = (1,)) -> Self:
        """Compiles and runs the programs for these batches at `size` (None: the native one); returns the engine."""
        wanted, batches = axes_of(self.config, size), (batches,) if isinstance(batches, int) else batches
        for batch in batches:
            check_counts(batch=batch)
            pixels = torch.zeros(batch, self.config.num_channels, *wanted, dtype=torch.float32)
            kept = None
            if self.signature.masked:
                kept, _ = mae_of(self._model).visible(pixels, keep=None, noise=None)
            self._run(pixels, kept, at_once=True)
        return self

    def close(self) -> None:
        """Frees memory and threads. Later calls raise; closing twice does not."""
        with self._lock:
            if not self._closed:
                self._closed = True
                self._pool.close()
                self._backend.close()
                self._slow = None
                if self._thread is not None:
                    self._thread.shutdown(wait=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __reduce__(self) -> NoReturn:
        raise TypeError("an engine cannot be pickled or copied; make one in each process, of the same model")

    @never_raises
    def __repr__(self) -> str:
        size, name = "x".join(map(str, self.config.image_size)), type(self._model).__name__
        return f"Engine({name}, {self.precision} on {self.device} by {self.backend}, {size} pixels)"
