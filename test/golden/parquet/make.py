"""Writes the Parquet files beside it, for the test of the reader: pip install pyarrow, then python make.py. The text is made up."""

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

here = Path(__file__).parent
rows = [f"Row {i}: a short text, 短文, 🐘." for i in range(1, 8)]
table = pa.table({"id": list(range(1, 8)), "text": rows, "url": [f"https://example.com/{i}" for i in range(1, 8)], "score": [0.5] * 7})
for codec in ("snappy", "zstd", "gzip"):
    pq.write_table(table, here / f"{codec}.parquet", compression=codec, row_group_size=3)
