"""Arrow IPC streams as bodies: many rows without JSON."""

from __future__ import annotations

import struct
from collections.abc import Collection, Iterator

import polars as pl
import pyarrow as pa
import pyarrow.compute as pc

from rayline.core.arrow_tables import to_arrow
from rayline.serve.protocol import POLARS_ERRORS, HTTPError

TYPE = b"application/vnd.apache.arrow.stream"

FEW_VALUES = 1 << 18
"""A stream may always have this many values; a larger stream at most one per byte. Columns of nulls, booleans, runs
and categories need few bytes or none in the stream, but many in the table."""

MAX_DECODED_BYTES = 256 << 20
"""Maximum total length of texts that a stream contains once and refers to several times (categories, views)."""

_RECORD_BATCH, _DICTIONARY = 3, 2


def decode(body: bytes, columns: Collection[str]) -> pl.DataFrame:
    """Decode an uncompressed IPC stream into a table with those of these columns that it contains; other columns are ignored.

    Raises HTTPError 400 when the stream is damaged, compressed (a small body could then fill the memory), followed by other data,
    or not a stream; 413 when it has too many values for its length.
    """
    try:
        buffer = pa.py_buffer(body)
        n_values = 0
        for compressed, n in _batches(buffer):
            if compressed:
                raise HTTPError(400, "The Arrow stream is compressed. Send it uncompressed.")
            n_values += n
            if n_values > max(len(body), FEW_VALUES):
                raise HTTPError(413, "The Arrow stream has more values than bytes. Send fewer rows in a request.")
        source = pa.BufferReader(buffer)
        with pa.ipc.open_stream(source) as stream:
            names = [name for name in stream.schema.names if name in columns]
            if len(set(names)) != len(names):
                raise HTTPError(400, "A column of the Arrow stream occurs twice.")
            table = stream.read_all().select(names)
        if source.tell() != len(body):
            raise HTTPError(400, f"{len(body) - source.tell()} bytes follow the Arrow stream.")
        table.validate(full=True)
        if sum(map(_decoded_bytes, table.columns)) > MAX_DECODED_BYTES:
            raise _too_long()
        frame = pl.from_arrow(table.combine_chunks())
    except (pa.ArrowException, OSError, ValueError, TypeError, IndexError, struct.error, *POLARS_ERRORS) as error:
        raise HTTPError(400, f"The body is not an Arrow IPC stream that can be read: {str(error)[:200]}.") from None
    assert isinstance(frame, pl.DataFrame)
    if frame.estimated_size() > MAX_DECODED_BYTES + 16 * len(body):
        raise _too_long()
    return frame


def _too_long() -> HTTPError:
    return HTTPError(
        413,
        f"The Arrow stream has texts of more than {MAX_DECODED_BYTES} bytes after decoding. Send fewer rows in a request.",
    )


def _decoded_bytes(column: pa.ChunkedArray) -> int:
    """Return the total length of the texts of a dictionary column, counted for each row."""
    kind = column.type
    if not pa.types.is_dictionary(kind):
        if "dictionary<" in str(kind):
            raise HTTPError(
                400, "The Arrow stream has dictionary values inside a nested column. Send the plain values."
            )
        return 0
    total = 0
    for chunk in column.chunks:
        values = chunk.dictionary
        if (
            pa.types.is_string(values.type)
            or pa.types.is_large_string(values.type)
            or pa.types.is_string_view(values.type)
        ):
            lengths = pc.binary_length(values.cast(pa.large_string())).take(chunk.indices)
            total += pc.sum(lengths).as_py() or 0
    return total


def encode(table: pl.DataFrame) -> bytes:
    """Encode a table as an IPC stream."""
    arrow = to_arrow(table)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, arrow.schema) as stream:
        stream.write_table(arrow)
    data: bytes = sink.getvalue().to_pybytes()
    return data


def _batches(buffer: pa.Buffer) -> Iterator[tuple[bool, int]]:
    """Yield for each record batch whether it is compressed and how many values it declares, read only from message headers."""
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
        n_values = 0 if length is None else _length(head, length)
        if _field(head, table, 1) is not None:  # a node for each column, nested ones included
            nodes = _table(head, table, 1)
            n_values += sum(_length(head, nodes + 4 + 16 * i) for i in range(_uint(head, nodes)))
        yield _field(head, table, 3) is not None, n_values


def _length(data: bytes, at: int) -> int:
    length: int = struct.unpack_from("<q", data, at)[0]
    if length < 0:
        raise ValueError("a negative length")
    return length


def _uint(data: bytes, at: int) -> int:
    value: int = struct.unpack_from("<I", data, at)[0]
    return value


def _field(data: bytes, table: int, slot: int) -> int | None:
    """Return the position of a field of a flatbuffer table; None when it is omitted."""
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
