"""Models in int8: quantized with calibration images, and compared with the exact model."""

from __future__ import annotations

import contextlib
import io
import logging
import time
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from hierax.engine.context import inference_modes
from hierax.engine.pool import Runner
from hierax.engine.signature import Program
from hierax.engine.traced import INPUTS, quiet
from hierax.extras import require
from hierax.telemetry import import_nncf, import_openvino

Inputs = Sequence[tuple[Tensor, ...]]
"""Batches to calibrate on: pixels and, for an MAE model, the indices of visible units."""

_HELD_OUT = 16  # inputs of the calibration that are held out for the comparison
_ENOUGH = 0.995  # cosine below which the log warns
_log = logging.getLogger("hierax.engine")


def quantize(model: Any, batches: Inputs) -> Any:
    """The `openvino.Model` or `onnx.ModelProto` with int8 weights and activations, calibrated on `batches` by NNCF.

    SmoothQuant is off, because its factors come from the extremes of the inputs. After calibration on crops of one
    photo, the pooled features of other photos had a cosine of 0.92 with it and of 0.999 without it (weights with
    a standard deviation of 0.05).

    CPUs without VNNI add two products in 16 bits, which overflow. There, all weights get 7 bits instead of 8; femto's
    logits then have a cosine of 0.9996 instead of 0.9984.
    """
    require("precision 'int8'", "nncf")
    import_openvino()
    nncf = import_nncf()
    from nncf.quantization import advanced_parameters as advanced
    from nncf.quantization.range_estimator import RangeEstimatorParametersSet

    fix = advanced.OverflowFix
    plain = advanced.AdvancedQuantizationParameters(
        overflow_fix=fix.FIRST_LAYER if torch.cpu._is_vnni_supported() else fix.ENABLE,
        smooth_quant_alphas=advanced.AdvancedSmoothQuantParameters(-1, -1),
        activations_range_estimator_params=RangeEstimatorParametersSet.MINMAX,
    )
    arrays = [{n: t.numpy() for n, t in zip(INPUTS, batch, strict=False)} for batch in batches]
    with quiet("nncf"), contextlib.redirect_stdout(io.StringIO()):  # its progress bars
        return nncf.quantize(
            model,
            nncf.Dataset(arrays),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(arrays),
            advanced_parameters=plain,
        )


def quantize_and_compare(model: Any, batches: Inputs, program: Program, runner: Callable[[Any], Runner]) -> Any:
    """The model in int8. The log says how close it is to `program` on inputs that were not used for calibration."""
    fit, held_out = batches[:-_HELD_OUT], batches[-_HELD_OUT:]
    started = time.perf_counter()
    quantized = quantize(model, fit)
    seconds = time.perf_counter() - started
    running = runner(quantized)
    with inference_modes(torch.device("cpu")):
        pairs = [(running(*batch, *[None] * (2 - len(batch)))[0], program(*batch)[0]) for batch in held_out]
    running.close()
    cosine = min(torch.cosine_similarity(a.flatten(), b.flatten(), dim=0).item() for a, b in pairs)
    level = logging.INFO if cosine >= _ENOUGH else logging.WARNING
    _log.log(
        level,
        "int8: calibrated on %d inputs in %.0f s; cosine to the original on %d others at least %.4f%s",
        len(fit),
        seconds,
        len(held_out),
        cosine,
        "" if cosine >= _ENOUGH else f", which is less than {_ENOUGH}",
    )
    return quantized
