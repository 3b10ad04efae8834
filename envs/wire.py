"""Messages to and from a simulator that runs under an interpreter of its own: json and plain arrays.

One message is ``SFVG``, the length of its header (uint32, big-endian), the header (json: ``data``, and
name, dtype and shape of each array), then the arrays' bytes in C order. Nothing is pickled, so neither
side can make the other run code, and their versions of Python and numpy may differ.

Both sides import this file: it keeps to the standard library, numpy and Python 3.9's syntax.
"""

from __future__ import annotations

import json
import struct
import traceback
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO

import numpy as np

Arrays = dict[str, np.ndarray]
Reply = tuple[dict[str, Any], Arrays]
Calls = Mapping[str, Callable[[dict[str, Any], Arrays], Reply]]

MAGIC = b"SFVG"
PREFIX = struct.Struct("!4sI")
HEADER_LIMIT, ARRAY_LIMIT = 1 << 24, 1 << 28  # bytes
KINDS = "biuf"  # bool, int, uint, float: what has no objects inside


class GarbageError(ValueError):
    """Bytes that are no message."""


def encode(data: Mapping[str, Any], arrays: Mapping[str, np.ndarray] | None = None) -> bytes:
    """The bytes of one message; ``data`` is json-able, ``arrays`` hold numbers or bools."""
    described, parts = [], []
    for name, value in (arrays or {}).items():
        array = np.asarray(value)
        if array.dtype.kind not in KINDS:
            raise TypeError(f"array {name!r} of {array.dtype} can't be sent; expected numbers or bools")
        array = array.astype(array.dtype.newbyteorder("<"), order="C", copy=False)
        described.append({"name": name, "dtype": array.dtype.str, "shape": list(array.shape)})
        parts.append(array.tobytes())
    header = json.dumps({"data": dict(data), "arrays": described}).encode()
    return b"".join([PREFIX.pack(MAGIC, len(header)), header, *parts])


def decode(read: Callable[[int], bytes]) -> Reply:
    """One message; ``read(n)`` gives exactly n bytes or raises.

    Raises:
        GarbageError: what came is no message.
    """
    magic, length = PREFIX.unpack(read(PREFIX.size))
    if magic != MAGIC or length > HEADER_LIMIT:
        raise GarbageError(f"expected a message, got bytes that begin with {magic!r}")
    try:
        header = json.loads(read(length))
        data, described = header["data"], header["arrays"]
        plans = [(str(d["name"]), np.dtype(d["dtype"]), tuple(map(int, d["shape"]))) for d in described]
    except (ValueError, TypeError, KeyError) as error:
        raise GarbageError(f"a message with a header that can't be read: {error!r}") from None
    arrays: Arrays = {}
    for name, dtype, shape in plans:
        size = dtype.itemsize
        for extent in shape:
            size *= extent
        if dtype.kind not in KINDS or min(shape, default=0) < 0 or size > ARRAY_LIMIT:
            raise GarbageError(f"a message with an array {name!r} of {dtype} {shape}")
        arrays[name] = np.frombuffer(read(size), dtype).reshape(shape).copy()
    if not isinstance(data, dict):
        raise GarbageError(f"a message whose data are {type(data).__name__}, expected a dict")
    return data, arrays


def serve(calls: Calls, requests: BinaryIO, replies: BinaryIO) -> None:
    """Answer requests, one after the other, until the other side closes.

    A request's ``data`` is ``{"call": name, "data": {…}}``. An exception becomes a reply
    ``{"error": type, "message": text}``, and its traceback goes to stderr.
    """

    def read(count: int) -> bytes:
        got = requests.read(count)
        if len(got) < count:
            raise EOFError
        return got

    while True:
        try:
            request, arrays = decode(read)
        except EOFError:
            return
        try:
            data, out = calls[request["call"]](request["data"], arrays)
            message = encode({"reply": data}, out)
        except Exception as error:  # whatever a simulator raises is the other side's to judge
            traceback.print_exc()
            message = encode({"error": type(error).__name__, "message": str(error)})
        replies.write(message)
        replies.flush()
