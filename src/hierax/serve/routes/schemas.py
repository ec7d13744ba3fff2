"""The answers of the routes, for the OpenAPI document. Handlers return JSON of these forms."""

from __future__ import annotations

from typing import Generic, TypeVar

from pydantic import BaseModel, ConfigDict, Field

T = TypeVar("T")


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid", protected_namespaces=())


class ItemError(_Answer):
    """Why an image has no answer."""

    code: str = Field(description="as in the errors of requests, such as unreadable_image")
    message: str


class Failed(_Answer):
    """An image of several that could not be answered; the others are not affected."""

    name: str
    error: ItemError


class Answer(_Answer, Generic[T]):
    """One result for each image, in order."""

    model: str = Field(description="the source of the model")
    results: list[T | Failed]
    milliseconds: float = Field(description="time from the arrival of the request until the answer")


class Prediction(_Answer):
    """A class and its probability."""

    label: str
    index: int
    probability: float = Field(ge=0, le=1)


class Classified(_Answer):
    """The most probable classes, best first."""

    name: str
    image: list[int] = Field(description="[height, width] of the model's input, in pixels")
    predictions: list[Prediction]


class Embedded(_Answer):
    """The vector of an image."""

    name: str
    embedding: list[float] = Field(description="[D]")


class Featured(_Answer):
    """The map of a stage."""

    name: str
    stage: int
    shape: list[int] = Field(description="[C, h, w] of the map: channels, rows, columns")
    image: list[int] = Field(description="[height, width] of the model's input, in pixels")
    data: str = Field(description="the map in base64: float32, little-endian, [C, h, w] in C order")


class Similar(_Answer):
    """How similar each cell of a map is to the cell at a point."""

    name: str
    stage: int
    shape: list[int] = Field(description="[h, w]: rows and columns of the map")
    image: list[int] = Field(description="[height, width] of the model's input, in pixels")
    cell: list[int] = Field(description="[row, column] of the cell at the point")
    values: list[list[float]] = Field(description="[h, w]: cosines, -1 to 1")


class Explained(_Answer):
    """Which regions speak for a label."""

    name: str
    label: str | None = Field(description="None with method=rollout")
    index: int | None
    probability: float | None
    shape: list[int] = Field(description="[h, w]: rows and columns of the map")
    stride: list[int] = Field(description="[vertical, horizontal]: pixels of the model's input per cell")
    image: list[int] = Field(description="[height, width] of the model's input, in pixels")
    values: list[list[float]] = Field(description="[h, w]: 0 to 1")


class Reconstructed(_Answer):
    """An image whose hidden mask units a masked autoencoder has predicted."""

    name: str
    size: list[int] = Field(description="[height, width] in pixels")
    units: list[int] = Field(description="[rows, columns] of mask units")
    keep: list[bool] = Field(description="one for each mask unit, row by row; true: it was visible")
    original: str = Field(description="the model's view, a PNG in base64")
    reconstruction: str = Field(description="a PNG in base64: visible units as they are, hidden ones as predicted")
    loss: float = Field(description="mean squared error over the hidden patches, as the model was trained on it")


class Area(_Answer):
    """A class in an image."""

    label: str
    index: int
    pixels: int
    share: float = Field(ge=0, le=1)
    color: list[int] = Field(description="[red, green, blue] in the mask's palette")


class Segmented(_Answer):
    """The class of every pixel."""

    name: str
    width: int
    height: int
    areas: list[Area] = Field(description="the classes that occur, largest first")
    mask: str = Field(description="a PNG in base64, whose values are the classes [height, width] of the upright image")


class Predicted(_Answer):
    """The fields of all tasks."""

    name: str
    image: list[int] = Field(description="[height, width] of the model's input, in pixels")
    predictions: list[Prediction] | None = None
    embedding: list[float] | None = None
    stage: int | None = None
    shape: list[int] | None = None
    data: str | None = None


class Hit(_Answer):
    """A row of the collection."""

    id: str
    name: str = Field(description="the name of its file")
    path: str
    score: float = Field(description="cosine similarity, -1 to 1")


class Found(_Answer):
    """The hits of a query, best first."""

    name: str
    hits: list[Hit]


class Columns(_Answer):
    """A column of vectors."""

    name: str
    layer: str
    shape: list[int]


class Collected(_Answer):
    """A collection."""

    count: int
    name: str
    columns: list[Columns]
    model: str
    folders: int


class Row(_Answer):
    """A row of the collection."""

    id: str
    name: str
    width: int
    height: int


class Rows(_Answer):
    """Rows, in the order of the collection."""

    offset: int
    count: int = Field(description="of all rows")
    rows: list[Row]


class GroupMember(_Answer):
    """An image of a group."""

    id: str
    name: str
    score: float = Field(description="cosine similarity to the first of its group")
    exact: bool = Field(description="whether the files are equal")


class Groups(_Answer):
    """Groups of near-duplicates."""

    threshold: float
    groups: list[list[GroupMember]]


class Point(_Answer):
    """A row and its place."""

    id: str
    x: float = Field(ge=0, le=1)
    y: float = Field(ge=0, le=1)


class Points(_Answer):
    """The collection in two dimensions: similar images are close together."""

    points: list[Point]
    count: int = Field(description="of all rows; the points may be a sample of them")
    method: str = Field(description="tsne or pca")


class MainModel(_Answer):
    """The main model."""

    source: str
    license: str | None
    image_size: list[int]
    labels: list[str]
    precision: str
    backend: str
    device: str
    stages: int


class MaeModel(_Answer):
    """The masked autoencoder."""

    source: str
    license: str | None
    image_size: list[int]
    unit: list[int] = Field(description="[height, width] of a mask unit in pixels")
    units: list[int] = Field(description="[rows, columns] at image_size")
    mask_ratio: float


class SegmentationModel(_Answer):
    """The segmentation model."""

    source: str
    license: str | None
    labels: list[str]
    colors: list[list[int]]


class ServerLimits(_Answer):
    """What a request may have."""

    max_images: int
    max_body: int
    max_pixels: int


class Description(_Answer):
    """What this server has."""

    version: str
    tasks: list[str]
    model: MainModel
    mae: MaeModel | None
    segmentation: SegmentationModel | None
    collection: Collected | None
    limits: ServerLimits
