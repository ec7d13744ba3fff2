"""Optional packages: what each is for, which extra brings it, and the one error that names what to install."""

from __future__ import annotations

import importlib.util
from dataclasses import dataclass
from types import ModuleType


@dataclass(frozen=True)
class Package:
    """A package that hierax uses where it is installed.

    Attributes:
        requirement: what pip installs, such as "pyarrow>=15".
        extra: the extra of hierax that brings it; "" where none does.
        purpose: what it is for.
    """

    requirement: str
    extra: str
    purpose: str


PACKAGES: dict[str, Package] = {
    "simplejpeg": Package("simplejpeg>=1.8", "fast", "faster JPEG decoding"),
    "openvino": Package("openvino>=2025.4", "openvino", "the fastest backend on a CPU"),
    "nncf": Package("nncf>=2.19", "openvino", "precision int8"),
    "onnx": Package("onnx>=1.17", "onnx", "ONNX export"),
    "onnxscript": Package("onnxscript>=0.5", "onnx", "ONNX export"),
    "onnxruntime": Package("onnxruntime>=1.20", "onnx", "backend onnxruntime"),
    "matplotlib": Package("matplotlib>=3.8", "plot", "plots"),
    "tensorboard": Package("tensorboard>=2.16", "train", "TensorBoard logs of training"),
    "datasets": Package("datasets>=3", "data", "parquet tables with images, and datasets of the Hub"),
    "av": Package("av>=17.1", "video", "videos"),
    "pyarrow": Package("pyarrow>=15", "embed", "collections of features (embed, search, duplicates, outliers, map)"),
    "faiss": Package("faiss-cpu>=1.9", "search", "approximate search"),
    "ray": Package("ray[data]>=2.51", "ray", "embedding on a cluster"),
    "pillow_heif": Package("pillow-heif", "", "HEIC photos, as of an iPhone"),
    "pillow_jxl": Package("pillow-jxl-plugin", "", "JPEG XL images"),
    "sklearn": Package("scikit-learn", "", "t-SNE in hierax map"),
}
"""By the name that is imported."""


class MissingPackage(ModuleNotFoundError):
    """An optional package is not installed; the text names what it is for and the line that installs it."""


def installed(module: str) -> bool:
    """Whether a package can be imported, by the name that is imported. It is not imported."""
    try:
        return importlib.util.find_spec(module) is not None
    except (ImportError, ValueError):  # an importer that refuses it; set to None, or a stand-in without a spec
        return False


def install_line(*modules: str) -> str:
    """`pip install 'pyarrow>=15' (part of hierax[embed])`: what installs the packages."""
    requirements = " ".join(
        f"'{r}'" if set(r) & set("<>[") else r for r in dict.fromkeys(PACKAGES[m].requirement for m in modules)
    )
    extras = dict.fromkeys(PACKAGES[module].extra for module in modules)
    part = " and ".join(f"hierax[{extra}]" for extra in extras if extra)
    return f"pip install {requirements}" + (f" (part of {part})" if part else "")


def missing(what: str, module: str, *others: str) -> MissingPackage:
    """The error that `what` (a singular noun, such as "a plot") needs packages that are not installed."""
    named = f"package{'s' if others else ''} {', '.join((module, *others))}"
    return MissingPackage(f"{what} needs the {named}: {install_line(module, *others)}", name=module)


def require(what: str, *modules: str) -> None:
    """Checks that packages which `what` needs are installed; imports none.

    Raises:
        MissingPackage: some are not; the text names the packages and what installs them.
    """
    lacking = [module for module in modules if not installed(module)]
    if lacking:
        raise missing(what, *lacking)


def load(what: str, module: str) -> ModuleType:
    """An optional package or a module of one, imported.

    Raises:
        MissingPackage: it is not installed, or cannot be imported.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ImportError as error:
        if not installed(package):
            raise missing(what, package) from None
        text = f"{what} needs the package {package}, which cannot be imported ({error}): {install_line(package)}"
        raise MissingPackage(text, name=package) from error
