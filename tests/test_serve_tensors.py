"""Requests and answers of the Open Inference Protocol: JSON, bytes of tensors, and everything that is wrong in them."""

from __future__ import annotations

import base64
import gzip
import json
import zlib
from typing import Any

import numpy as np
import pytest

pytest.importorskip("fastapi", reason="the extra `serve` is not installed")

from hierax.serve.errors import Refusal
from hierax.serve.protocol.answers import Answer, encode
from hierax.serve.protocol.requests import decompressed, read_request
from hierax.serve.protocol.tensors import texts_from_bytes, texts_to_bytes


def body(head: Any, *parts: bytes) -> tuple[bytes, str]:
    text = json.dumps(head).encode()
    return text + b"".join(parts), str(len(text))


def pixels(shape: list[Any] | None = None, **entry: Any) -> dict[str, Any]:
    return {"inputs": [{"name": "pixel_values", "shape": shape or [1, 2], "datatype": "FP32", **entry}]}


def problem(content: bytes, length: str | None = None) -> str:
    with pytest.raises(Refusal) as caught:
        read_request(content, length)
    caught.value.message.encode()  # it can be sent
    assert caught.value.status in (400, 413)
    return caught.value.message


def test_nested_and_flat_numbers_of_json_are_the_same_tensor() -> None:
    nested = read_request(json.dumps(pixels([2, 2], data=[[1, 2.5], [3, 4]])).encode(), None)
    flat = read_request(json.dumps(pixels([2, 2], data=[1, 2.5, 3, 4])).encode(), None)
    assert nested.inputs[0].numbers is not None
    assert nested.inputs[0].numbers.dtype == np.float32
    np.testing.assert_array_equal(nested.inputs[0].numbers, np.array([[1, 2.5], [3, 4]], np.float32))
    np.testing.assert_array_equal(nested.inputs[0].numbers, flat.inputs[0].numbers)  # type: ignore[arg-type]


@pytest.mark.parametrize(("datatype", "kind"), [("FP16", "<f2"), ("FP32", "<f4"), ("FP64", "<f8")])
def test_bytes_of_every_float_are_read(datatype: str, kind: str) -> None:
    values = np.array([[0.5, -2.25]], kind)
    raw = values.tobytes()
    head = pixels(datatype=datatype, parameters={"binary_data_size": len(raw)})
    found = read_request(*body(head, raw)).inputs[0]
    assert found.shape == (1, 2)
    np.testing.assert_array_equal(found.numbers, values.astype(np.float32))  # type: ignore[arg-type]


def test_elements_of_bytes_come_back() -> None:
    texts = [b"", b"\x00\xff", b"a" * 300]
    assert texts_from_bytes(memoryview(texts_to_bytes(texts)), (3,), "image") == texts


def test_elements_in_json_are_base64() -> None:
    entry = {"name": "image", "shape": [1, 1], "datatype": "BYTES", "data": [[base64.b64encode(b"\x89PNG").decode()]]}
    assert read_request(json.dumps({"inputs": [entry]}).encode(), None).inputs[0].texts == (b"\x89PNG",)


def test_the_bytes_of_several_inputs_follow_one_another() -> None:
    first, second = np.array([1], np.float32).tobytes(), texts_to_bytes([b"xy"])
    head = {
        "id": "7",
        "inputs": [
            {"name": "a", "shape": [1], "datatype": "FP32", "parameters": {"binary_data_size": 4}},
            {"name": "b", "shape": [1], "datatype": "BYTES", "parameters": {"binary_data_size": len(second)}},
        ],
        "outputs": [{"name": "logits", "parameters": {"binary_data": True, "classification": 3}}, {"name": "stage1"}],
    }
    found = read_request(*body(head, first, second))
    assert found.inputs[1].texts == (b"xy",)
    assert found.id == "7"
    assert found.outputs is not None
    assert [(o.name, o.binary, o.classes) for o in found.outputs] == [("logits", True, 3), ("stage1", False, 0)]


ENTRY = {"name": "pixel_values", "shape": [1], "datatype": "FP32"}
WRONG: list[tuple[Any, str]] = [
    ([], "no object"),
    ({}, "inputs is missing"),
    ({"inputs": []}, "inputs is missing or empty"),
    ({"inputs": {"name": "a"}}, "inputs is missing"),
    ({"inputs": ["a"]}, "has no name"),
    ({"inputs": [{"shape": [1]}]}, "has no name"),
    (pixels(), "neither data nor binary_data_size"),
    (pixels(data=[1, 2, 3]), "has 3 values, but its shape [1, 2] needs 2"),
    (pixels([10**12, 10**12], data=[1]), "has 1 values"),
    (pixels(data=[[1], [2, 3]]), "lists of different lengths"),
    (pixels(data=[[1], 2]), "mixes lists and values"),
    (pixels(data=["1", "2"]), "a text among its values"),
    (pixels(data=[True, False]), "a boolean among its values"),
    (pixels(data=[1, None]), "null among its values"),
    (pixels(data="1,2"), "data of pixel_values is a text"),
    (pixels(data=[10**400, 1]), "does not fit"),
    (pixels(data=[1e300, 1]), "not finite"),
    (pixels([1, -2], data=[1, 2]), "shape of pixel_values"),
    (pixels([1.0, 2], data=[1, 2]), "shape of pixel_values"),
    (pixels([True, 2], data=[1, 2]), "shape of pixel_values"),
    (pixels([1] * 9, data=[1]), "at most 8"),
    (pixels(data=[1, 2], datatype="INT8"), "datatype of pixel_values is 'INT8'"),
    (pixels(data=[1, 2], datatype=["FP32"]), "datatype of pixel_values"),
    (pixels(parameters={"shared_memory_region": "x"}), "shares no memory"),
    (pixels(parameters=[1]), "parameters of pixel_values is not an object"),
    (pixels(parameters={"binary_data_size": -4}), "binary_data_size of pixel_values is -4"),
    (pixels(parameters={"binary_data_size": 10**18}), "0 bytes are left"),
    (pixels(parameters={"binary_data_size": True}), "binary_data_size of pixel_values is True"),
    (pixels(data=[1, 2], parameters={"binary_data_size": 0}), "both data and binary_data_size"),
    ({"inputs": [{**ENTRY, "data": [1]}] * 2}, "inputs names 'pixel_values' twice"),
    ({**pixels(data=[1, 2]), "outputs": [{"name": "a"}, {"name": "a"}]}, "outputs names 'a' twice"),
    ({**pixels(data=[1, 2]), "outputs": [{"name": "a", "parameters": {"classification": "3"}}]}, "classification of a"),
    ({**pixels(data=[1, 2]), "outputs": [{"name": "a", "parameters": {"binary_data": 1}}]}, "binary_data of a"),
    ({**pixels(data=[1, 2]), "parameters": {"binary_data_output": "yes"}}, "binary_data_output is not a boolean"),
    ({**pixels(data=[1, 2]), "id": 7}, "id is not a text"),
    ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": ["é"]}]}, "no base64"),
    ({"inputs": [{"name": "image", "shape": [1], "datatype": "BYTES", "data": [5]}]}, "a number at 0"),
]


@pytest.mark.parametrize(("head", "words"), WRONG, ids=[words for _, words in WRONG])
def test_a_wrong_request_is_told_what_is_wrong(head: Any, words: str) -> None:
    assert words in problem(json.dumps(head).encode())


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "is no JSON"),
        (b"\xff\xfe", "is no JSON"),
        (b"{", "is no JSON"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"inputs": [' + b"[]," * 100_001 + b"[]]}", "more than 100,000 lists"),
        (b'{"inputs": [' + b"0," * 2_000_001 + b"0]}", "more than 2,000,000 values"),
        (b'"' + b"a" * (32 << 20) + b'"', "bytes; at most"),
        (json.dumps(pixels(data=[1, 2])).replace("2]}", "NaN]}").encode(), "NaN is not a number of JSON"),
        (json.dumps(pixels(data=[1, 2])).replace("2]}", "-Infinity]}").encode(), "-Infinity is not a number"),
        (json.dumps(pixels(data=[1, 2])).replace("2]}", "1e999]}").encode(), "not finite"),
        (b'{"inputs": [{"name": "a", "shape": ' + b"9" * 5000 + b"}]}", "is no JSON"),
        (json.dumps(pixels(datatype="\ud800")).encode(), "datatype of pixel_values"),
        (json.dumps({"inputs": [{"name": "\ud800", "shape": [1], "datatype": "FP32"}]}).encode(), "neither data"),
    ],
    ids=lambda value: str(value[:30]),
)
def test_json_that_is_none_or_that_is_hostile_is_an_error_of_one_line(content: bytes, words: str) -> None:
    assert words in problem(content)


@pytest.mark.parametrize("length", ["", "-1", "1e3", "٣", "9" * 30, "100000", "0x10"])
def test_a_wrong_length_of_the_json_is_refused(length: str) -> None:
    assert "Inference-Header-Content-Length" in problem(*(json.dumps(pixels(data=[1, 2])).encode(), length))


def test_bytes_that_belong_to_no_input_are_refused() -> None:
    assert "3 bytes after the JSON" in problem(*body(pixels(data=[1, 2]), b"abc"))


@pytest.mark.parametrize(
    ("raw", "shape", "words"),
    [
        (b"\x05\x00\x00\x00ab", [1], "states 5 bytes for element 0, but 2 are left"),
        (b"\xff\xff\xff\xffab", [1], "states 4294967295 bytes"),
        (b"\x05\x00", [1], "states 5 bytes"),
        (texts_to_bytes([b"a", b"b"]), [1], "more bytes than its shape"),
        (texts_to_bytes([b"a"]), [2], "has 1 values, but its shape [2] needs 2"),
        (b"", [1], "has 0 values"),
    ],
)
def test_damaged_elements_of_bytes_are_refused(raw: bytes, shape: list[int], words: str) -> None:
    entry = {"name": "image", "shape": shape, "datatype": "BYTES", "parameters": {"binary_data_size": len(raw)}}
    assert words in problem(*body({"inputs": [entry]}, raw))


def test_pixels_of_bytes_that_are_not_finite_are_refused() -> None:
    raw = np.array([1, np.nan], np.float32).tobytes()
    assert "not finite" in problem(*body(pixels(parameters={"binary_data_size": 8}), raw))


@pytest.mark.parametrize(("encoding", "compress"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_compressed_bodies_are_opened_up_to_the_limit(encoding: str, compress: Any) -> None:
    assert decompressed(compress(b"x" * 1000), encoding, 1000) == b"x" * 1000
    with pytest.raises(Refusal) as caught:
        decompressed(compress(b"x" * 100_000_000), encoding, 1000)
    assert caught.value.status == 413
    for damaged in (compress(b"x" * 1000)[:-3], b"no", b""):
        with pytest.raises(Refusal, match=encoding):
            decompressed(damaged, encoding, 1000)


def test_an_unknown_compression_is_refused_and_none_is_none() -> None:
    assert decompressed(b"abc", None, 10) == decompressed(b"abc", "identity", 10) == b"abc"
    with pytest.raises(Refusal, match="expected gzip or deflate"):
        decompressed(b"abc", "br", 10)


def test_an_answer_has_the_bytes_after_the_json() -> None:
    numbers = np.array([[1.5, -2]], np.float32)
    answers = [Answer("logits", (1, 2), False, numbers), Answer("labels", (1, 1), True, texts=(b"0.5:3:cat",))]
    answers.append(Answer("stage1", (1, 2), True, numbers))
    content, length = encode("hierax/femto", answers, request_id="a\ud800")
    assert length is not None
    head = json.loads(content[:length])
    assert head["model_name"] == "hierax/femto"
    assert head["id"] == "a\ud800"
    assert head["outputs"][0]["data"] == [1.5, -2]
    sizes = [output["parameters"]["binary_data_size"] for output in head["outputs"][1:]]
    assert content[length:] == texts_to_bytes([b"0.5:3:cat"]) + numbers.tobytes()
    assert sizes == [13, 8]


def test_an_answer_of_json_alone_has_no_length_of_its_json() -> None:
    content, length = encode("m", [Answer("logits", (1, 2), False, np.array([[1.5, -2]], np.float32))], request_id=None)
    assert length is None
    assert "id" not in json.loads(content)
