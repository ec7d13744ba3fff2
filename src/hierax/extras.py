"""Optional packages: their purpose, the extra that installs them, and the error that says what to install."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Package:
    """An optional package of hierax.

    Attributes:
        requirement: the requirement for pip, such as "pyarrow>=15".
        extra: the extra of hierax that installs it; "" if there is none.
        purpose: the purpose of the package.
    """

    requirement: str
    extra: str
    purpose: str


PACKAGES: dict[str, Package] = {
    "simplejpeg": Package("simplejpeg>=1.8", "fast", "faster JPEG decoding"),
    "openvino": Package("openvino>=2025.4", "openvino", "the fastest backend on a CPU"),
    "nncf": Package("nncf>=2.19", "openvino", "precision int8"),
    "onnx": Package("onnx>=1.17", "onnx", "ONNX export"),
    "onnxscript": Package("onnxscript>=0.6", "onnx", "ONNX export"),
    "onnxruntime": Package("onnxruntime>=1.20", "onnx", "backend onnxruntime"),
    "matplotlib": Package("matplotlib>=3.8", "plot", "plots"),
    "tensorboard": Package("tensorboard>=2.16", "train", "TensorBoard logs of training"),
    "datasets": Package("datasets>=3", "data", "parquet tables with images, and datasets of the Hub"),
    "av": Package("av>=17.1", "video", "videos"),
    "pyarrow": Package("pyarrow>=15", "embed", "collections of features (embed, search, duplicates, outliers, map)"),
    "faiss": Package("faiss-cpu>=1.9", "search", "approximate search"),
    "ray": Package("ray[data,serve]>=2.51", "ray", "embedding and serving on a cluster"),
    "pillow_heif": Package("pillow-heif", "", "HEIC photos, such as those of an iPhone"),
    "transformers": Package(
        "transformers>=5.23", "transformers", "hierax.integrations.transformers, and hierax bench --against"
    ),
    "timm": Package("timm>=1.0.31", "timm", "hierax.integrations.timm, and hierax bench --against"),
    "scipy": Package("scipy>=1.13", "dense", "detection and instance segmentation"),
    "accelerate": Package("accelerate>=1.3", "dense", "detection and instance segmentation"),
    "faster_coco_eval": Package("faster-coco-eval>=1.6", "dense", "detection and instance segmentation"),
    "yaml": Package("pyyaml>=6", "dense", "descriptions of YOLO data sets (data.yaml)"),
    "peft": Package("peft>=0.18", "adapters", "adapters (hierax finetune adapter=lora)"),
    "fastapi": Package("fastapi>=0.115.3", "serve", "hierax serve"),
    "uvicorn": Package("uvicorn>=0.32", "serve", "hierax serve"),
    "python_multipart": Package("python-multipart>=0.0.18", "serve", "hierax serve"),
    "prometheus_client": Package("prometheus-client>=0.21", "serve", "metrics of hierax serve"),
    "fastapi_offline": Package("fastapi-offline>=1.7", "serve", "the page of the API of hierax serve"),
    "httptools": Package("httptools>=0.6.3", "serve", "faster reading of requests in hierax serve"),
    "uvloop": Package("uvloop>=0.21; sys_platform != 'win32'", "serve", "a faster event loop of hierax serve"),
    "pillow_jxl": Package("pillow-jxl-plugin", "", "JPEG XL images"),
    "sklearn": Package("scikit-learn", "", "t-SNE in hierax map"),
    "hiera": Package("hiera-transformer", "", "hierax bench --against official"),
}
"""The optional packages, by the name that is imported."""


_OTHERS = {"libarchive": "libarchive-c", "smbclient": "smbprotocol"}
"""Packages of fsspec's clients that pip knows by another name than the one that is imported."""


class MissingPackage(ModuleNotFoundError):
    """An optional package is not installed. The message says what needs it, and which command installs it."""


def is_installed(module: str) -> bool:
    """Whether a package is installed, by the name that is imported. It is not imported."""
    try:
        spec = importlib.util.find_spec(module)
        # a folder of the user with the same name is searched for modules, but comes from no file
        return spec is not None and not (spec.origin is None and spec.submodule_search_locations is not None)
    except (ImportError, ValueError):  # an importer refuses it, or the module has no spec
        return False


def install_line(*modules: str) -> str:
    """The command that installs the packages: `pip install 'pyarrow>=15' (part of hierax[embed])`."""
    known = [PACKAGES.get(module) or Package(_OTHERS.get(module, module), "", "") for module in modules]
    named = dict.fromkeys(package.requirement for package in known)
    requirements = " ".join(f"'{name}'" if set(name) & set("<>[") else name for name in named)
    extras = dict.fromkeys(package.extra for package in known)
    part = " and ".join(f"hierax[{extra}]" for extra in extras if extra)
    return f"pip install {requirements}" + (f" (part of {part})" if part else "")


def missing_package(what: str, module: str, *others: str) -> MissingPackage:
    """The error for missing packages that `what` needs (a singular noun, such as "a plot")."""
    named = f"package{'s' if others else ''} {', '.join((module, *others))}"
    return MissingPackage(f"{what} needs the {named}: {install_line(module, *others)}", name=module)


def require(what: str, *modules: str) -> None:
    """Checks that the packages that `what` needs are installed. They are not imported.

    Raises:
        MissingPackage: a package is missing; the message names the missing packages and the command that installs them.
    """
    lacking = [module for module in modules if not is_installed(module)]
    if lacking:
        raise missing_package(what, *lacking)


def load(what: str, module: str) -> ModuleType:
    """Imports and returns an optional package, or a module of one.

    Raises:
        MissingPackage: the package is not installed, or cannot be imported.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise explain(what, error, module) from error


def explain(what: str, error: ImportError, module: str = "") -> MissingPackage:
    """The error for an import that failed here or in a library, which names the package that is really missing.

    Args:
        module: what was imported, if that is known.
    """
    cause = error.__cause__ if isinstance(error.__cause__, ImportError) else error
    lacking = (cause.name or module).partition(".")[0]
    if not lacking:
        return MissingPackage(f"{what} needs a package that is missing: {error}")
    if not is_installed(lacking):
        return missing_package(what, lacking)
    package = module.partition(".")[0] or lacking
    text = f"{what} needs the package {package}, which cannot be imported ({error}): {install_line(package)}"
    return MissingPackage(text, name=package)
