"""Tables in Parquet files, read as those in CSV files are: rows of cells of text."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from src.contracts import ConfigError, DataError
from src.data.cells import cell


def rows(file: Path, separator: str = "|") -> Iterator[tuple[int, list[str]]]:
    """(row number, cells): row 1 is the header. Columns of bytes or records are left out: cells cannot hold them."""
    try:
        import pyarrow
        from pyarrow import parquet, types
    except ModuleNotFoundError as error:
        raise ConfigError(
            f"data.table={file}: a Parquet table needs pyarrow, which is not installed.\n"
            "Install it with `pip install pyarrow`, or save the table as CSV."
        ) from error
    try:
        with parquet.ParquetFile(file) as table:
            names = [f.name for f in table.schema_arrow if not (types.is_struct(f.type) or _is_bytes(types, f.type))]
            yield 1, names
            number = 1
            for batch in table.iter_batches(columns=names):
                for values in zip(*(column.to_pylist() for column in batch.columns), strict=True):
                    number += 1
                    yield number, [cell(value, separator) for value in values]
    except (pyarrow.ArrowException, OSError) as error:
        reason = str(error).split("\n")[0]
        raise DataError(f"data.table={file}: is not a Parquet file, or damaged ({reason}). Save it again.") from error


def _is_bytes(types, kind) -> bool:
    return types.is_binary(kind) or types.is_large_binary(kind) or types.is_fixed_size_binary(kind)
