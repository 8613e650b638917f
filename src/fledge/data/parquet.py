"""Documents as Parquet files with the columns text, source, kind: what stages hand on and `readers` reads."""

from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from fledge.core.files import disk_errors
from fledge.core.nouns import Document

COLUMNS = ("text", "source", "kind")


def write_documents(path: Path, documents: Sequence[Document]) -> None:
    """Writes documents in order, compressed with zstd."""
    columns = {name: pa.array([getattr(d, name) for d in documents], pa.large_string()) for name in COLUMNS}
    with disk_errors(path):
        pq.write_table(pa.table(columns), path, compression="zstd")
