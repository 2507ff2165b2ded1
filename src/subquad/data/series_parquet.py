"""Rows of parquet files.

pandas writes periods as whole numbers, of months since 1970 say; they are read as the dates on
which the periods begin.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from subquad.data.series_sheet import Row

__all__ = ["parquet_rows"]

# frequency of pandas' periods -> unit of numpy's dates
_PERIODS = {"Y-DEC": "Y", "A-DEC": "Y", "M": "M", "D": "D", "h": "h", "H": "h"}
_PERIODS |= {"min": "m", "T": "m", "s": "s", "S": "s"}


def parquet_rows(file: Path) -> Iterator[Row]:
    """The names of the columns, then the rows. ValueError for a file that is damaged."""
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError as error:
        raise ValueError(
            f"{error}; {file.name} needs it: pip install 'subquad[series]', or write it as .csv"
        ) from error
    try:
        with parquet.ParquetFile(file) as found:
            yield 1, found.schema_arrow.names
            number = 1
            periods = [_period(file, one) for one in found.schema_arrow]
            for batch in found.iter_batches():
                columns = [
                    column.to_pylist() if unit is None else _dates(column, unit)
                    for column, unit in zip(batch.columns, periods, strict=True)
                ]
                for row in zip(*columns, strict=True):
                    number += 1
                    yield number, row
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"{file} is damaged: {error}") from None


def _period(file: Path, column: Any) -> str | None:
    """The unit of a column of periods, None for others. ValueError for one that is not read."""
    of = column.type
    if getattr(of, "extension_name", None) == "pandas.period":  # where pandas is loaded
        every = str(of.freq)
    else:
        told = {key.decode(): value for key, value in (column.metadata or {}).items()}
        if told.get("ARROW:extension:name") != b"pandas.period":
            return None
        every = json.loads(told["ARROW:extension:metadata"])["freq"]
    if every not in _PERIODS:
        raise ValueError(
            f"{file.name} has periods of {every} in column {column.name!r}; write their dates, as "
            "to_timestamp() gives them"
        )
    return _PERIODS[every]


def _dates(column: Any, unit: str) -> list[object]:
    plain = getattr(column, "storage", column).to_pylist()
    return [x if x is None else str(np.asarray(x, f"M8[{unit}]").astype("M8[s]")) for x in plain]
