"""Arrow IPC streams as bodies: many rows without JSON."""

from __future__ import annotations

import struct
from collections.abc import Iterator

import polars as pl
import pyarrow as pa

from rayline.serve.protocol import Refusal

TYPE = b"application/vnd.apache.arrow.stream"
MOST_ROWS = 1 << 27

_RECORD_BATCH, _DICTIONARY = 3, 2


def decode(body: bytes) -> pl.DataFrame:
    """The table of an uncompressed IPC stream.

    Raises
    ------
    Refusal
        400 when it is damaged, compressed (a small body could then fill the memory), or no stream.
    """
    try:
        buffer = pa.py_buffer(body)
        for compressed, n_rows in _batches(buffer):
            if compressed or not 0 <= n_rows <= MOST_ROWS:
                raise Refusal(400, "The Arrow stream is compressed or too long. Send it uncompressed, in parts.")
        with pa.ipc.open_stream(buffer) as stream:
            table = stream.read_all()
        table.validate(full=True)
        frame = pl.from_arrow(table)
    except (pa.ArrowException, OSError, ValueError, IndexError, struct.error, pl.exceptions.PolarsError) as error:
        raise Refusal(400, f"The body is not an Arrow IPC stream: {str(error)[:200]}.") from None
    assert isinstance(frame, pl.DataFrame)
    return frame


def encode(table: pl.DataFrame) -> bytes:
    """The IPC stream of a table."""
    arrow = table.to_arrow(compat_level=pl.CompatLevel.oldest())
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow.schema) as stream:
        stream.write_table(arrow)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _batches(buffer: pa.Buffer) -> Iterator[tuple[bool, int]]:
    """Of each record batch whether it is compressed and how many rows it claims, read from the messages' heads alone."""
    reader = pa.ipc.MessageReader.open_stream(buffer)
    while True:
        try:
            message = reader.read_next_message()
        except StopIteration:
            return
        head = message.metadata.to_pybytes()
        root = _uint(head, 0)
        kind = _field(head, root, 1)
        if kind is None or head[kind] not in (_RECORD_BATCH, _DICTIONARY):
            continue
        table = _table(head, root, 2)
        if head[kind] == _DICTIONARY:
            table = _table(head, table, 1)
        length = _field(head, table, 0)
        yield _field(head, table, 3) is not None, 0 if length is None else struct.unpack_from("<q", head, length)[0]


def _uint(data: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", data, at)[0]
    return value


def _field(data: bytes, table: int, slot: int) -> int | None:
    """Where the field of a flatbuffer table is; None when it is left out."""
    vtable = table - struct.unpack_from("<i", data, table)[0]
    size = struct.unpack_from("<H", data, vtable)[0]
    if 4 + 2 * slot + 2 > size:
        return None
    offset = struct.unpack_from("<H", data, vtable + 4 + 2 * slot)[0]
    return table + offset if offset else None


def _table(data: bytes, table: int, slot: int) -> int:
    at = _field(data, table, slot)
    if at is None:
        raise ValueError("a message without a header")
    return at + _uint(data, at)
