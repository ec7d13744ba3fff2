"""A script of a user, which is not run: pyright checks, as part of `make lint`, that its types are as stated."""

from collections.abc import Iterator

from torch import Tensor
from typing_extensions import assert_type

import hierax
import hierax.train

engine = hierax.Engine("hierax/femto")
assert_type(engine("photo.jpg").logits, Tensor)
assert_type(engine("photo.jpg").pooler_output, Tensor)
assert_type(engine.config, hierax.HieraConfig)
assert_type(engine.preprocessing, hierax.Preprocessing)

processor = hierax.AutoImageProcessor.from_pretrained("hierax/femto", use_fast=True)
assert_type(processor, hierax.HieraImageProcessor | hierax.HieraVideoProcessor)
assert_type(processor.size, dict[str, int])
assert_type(processor.do_resize, bool)
processor.do_resize = False
assert_type(processor.save_pretrained("folder"), list[str])

model = hierax.HieraForImageClassification.from_pretrained("hierax/femto", num_labels=3, dtype="float16")
assert_type(model, hierax.HieraForImageClassification)
assert_type(model(**processor("photo.jpg")).logits, Tensor)
assert_type(model.num_parameters(only_trainable=True), int)
assert_type(model.config.id2label[0], str)
assert_type(hierax.HieraConfig.from_pretrained("hierax/femto"), hierax.HieraConfig)
assert_type(hierax.load("hierax/femto", task="features"), hierax.HieraModel)
segmenter = hierax.load("hierax/femto", task="segmentation", num_labels=3)
assert_type(segmenter, hierax.HieraForSemanticSegmentation)
assert_type(segmenter(**processor("photo.jpg")).logits, Tensor)
assert_type(hierax.load_image("photo.jpg").size, tuple[int, int])

assert_type(hierax.embed("photos", "features"), hierax.EmbedReport)
assert_type(hierax.search("features", "photo.jpg"), list[hierax.SearchResult])
assert_type([hit.score for found in hierax.search("features", "photo.jpg") for hit in found.hits], list[float])
assert_type(hierax.stats("photos"), hierax.DatasetStatistics)
assert_type(hierax.write_map("features", "map.html").points[0].x, float)
assert_type(hierax.duplicates("features")[0].members[0].path, str)
assert_type(hierax.export("hierax/femto", "folder", format="onnx"), hierax.ParityReport)
assert_type(hierax.__version__, str)
assert_type(hierax.train.evaluate("photos", model=engine).metrics, dict[str, float])


def best(paths: list[str]) -> Iterator[tuple[str, float]]:
    """What a loop over the classes of images sees."""
    for classified in hierax.classify(paths):
        for prediction in classified.predictions:
            yield prediction.label, prediction.probability
