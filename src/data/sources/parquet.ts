import zlib from "node:zlib";
import { ReadError } from "../document.ts";
import type { Access } from "./access.ts";
import { findTextField, type Row, type RowOptions } from "./rows.ts";

/** A row group of more bytes than this, unpacked, is read in parts. Each part costs a walk over the group's pages, so that few large ones are best. */
const PART = 2 ** 26;
/** Rows of a part at least. */
const LEAST_ROWS = 1000;

/**
 * The rows of a Parquet file with the name of the field that holds the text. Only the columns that are used are read, one row group (as
 * its writer cut it) at a time.
 * @throws ReadError `package` when the optional package hyparquet is not installed
 */
export async function* readParquet(
  access: Access,
  options: RowOptions,
): AsyncGenerator<{ readonly row: Row; readonly field: string; readonly record: number }> {
  const { parquetMetadataAsync, parquetReadObjects, parquetSchema } = await import("hyparquet").catch(
    (error: unknown) => {
      throw new ReadError(
        "package",
        "Parquet files are read by the package hyparquet, which is not installed: npm install hyparquet",
        { cause: error },
      );
    },
  );
  const { decompress } = await import("fzstd");
  const file = {
    byteLength: access.size,
    slice: async (from: number, to = access.size): Promise<ArrayBuffer> => {
      const bytes = await access.read(from < 0 ? access.size + from : from, to < 0 ? access.size + to : to);
      return bytes.buffer.slice(bytes.byteOffset, bytes.byteOffset + bytes.byteLength) as ArrayBuffer;
    },
  };
  const compressors = {
    GZIP: (input: Uint8Array) => new Uint8Array(zlib.gunzipSync(input)),
    BROTLI: (input: Uint8Array) => new Uint8Array(zlib.brotliDecompressSync(input)),
    ZSTD: (input: Uint8Array, size: number) => decompress(input, new Uint8Array(size)),
  };
  try {
    const metadata = await parquetMetadataAsync(file);
    const names = parquetSchema(metadata).children.map((child) => child.element.name);
    const field = findTextField(names, options);
    const root = field in Object.fromEntries(names.map((name) => [name, 1])) ? field : field.split(".")[0]!;
    if (!names.includes(root))
      throw new ReadError(
        "unsupported",
        `There is no field "${field}" (its fields: ${names.slice(0, 20).join(", ")}).`,
      );
    const about = [
      "url",
      "source_url",
      "link",
      "title",
      "headline",
      "date",
      "timestamp",
      "published",
      "created",
      "author",
      "authors",
      "language",
      "lang",
      "license",
      "licence",
    ];
    const columns = [
      ...new Set([
        root,
        ...names.filter((name) => about.includes(name)),
        ...(options.keep ?? []).map((name) => name.split(".")[0]!).filter((name) => names.includes(name)),
      ]),
    ];
    let start = 0;
    for (const group of metadata.row_groups) {
      const end = start + Number(group.num_rows);
      let bytes = 1;
      for (const { meta_data: about } of group.columns)
        if (about && columns.includes(about.path_in_schema[0] ?? "")) bytes += Number(about.total_uncompressed_size);
      const step = Math.max(LEAST_ROWS, Math.floor(((end - start) * PART) / Math.max(PART, bytes)));
      for (let rowStart = start; rowStart < end; rowStart += step) {
        const rows: Row[] = await parquetReadObjects({
          file,
          metadata,
          columns,
          rowStart,
          rowEnd: Math.min(end, rowStart + step),
          compressors,
        });
        for (const [i, row] of rows.entries()) yield { row, field, record: rowStart + i + 1 };
      }
      start = end;
    }
  } catch (error) {
    if (error instanceof ReadError) throw error;
    throw new ReadError(
      "malformed",
      `It is no Parquet file that can be read (${error instanceof Error ? error.message : String(error)}).`,
      { cause: error },
    );
  }
}
