import { crc32, deflateRawSync } from "node:zlib";

/** A ZIP archive of some files: what tests need of one, in memory. */
export function makeZip(
  files: Readonly<Record<string, string | Uint8Array>>,
  options: { readonly encrypted?: boolean; readonly sizes?: (size: number) => number } = {},
): Buffer {
  const parts: Buffer[] = [];
  const directory: Buffer[] = [];
  let offset = 0;
  for (const [name, content] of Object.entries(files)) {
    const data = Buffer.from(content as Uint8Array);
    const packed = deflateRawSync(data);
    const label = Buffer.from(name);
    const size = options.sizes?.(data.length) ?? data.length;
    const fields = Buffer.alloc(26);
    fields.writeUInt16LE(20, 0);
    fields.writeUInt16LE(0x800 | (options.encrypted === true ? 1 : 0), 2);
    fields.writeUInt16LE(8, 4);
    fields.writeUInt32LE(crc32(data), 10);
    fields.writeUInt32LE(packed.length, 14);
    fields.writeUInt32LE(size, 18);
    fields.writeUInt16LE(label.length, 22);
    const local = Buffer.concat([Buffer.from("PK\u0003\u0004", "latin1"), fields, label, packed]);
    const tail = Buffer.alloc(14);
    tail.writeUInt32LE(offset, 10);
    directory.push(Buffer.concat([Buffer.from("PK\u0001\u0002\u0014\u0000", "latin1"), fields, tail, label]));
    parts.push(local);
    offset += local.length;
  }
  const central = Buffer.concat(directory);
  const end = Buffer.alloc(22);
  end.write("PK\u0005\u0006", 0, "latin1");
  end.writeUInt16LE(directory.length, 8);
  end.writeUInt16LE(directory.length, 10);
  end.writeUInt32LE(central.length, 12);
  end.writeUInt32LE(offset, 16);
  return Buffer.concat([...parts, central, end]);
}

/** A PDF with a line of text on each page; with `password`, one whose key nobody knows. */
export function makePdf(
  pages: readonly string[],
  options: { readonly password?: boolean; readonly chinese?: boolean } = {},
): Buffer {
  const objects: string[] = [];
  const kids = pages.map((_, i) => `${4 + 2 * i} 0 R`).join(" ");
  objects[1] = "<< /Type /Catalog /Pages 2 0 R >>";
  objects[2] = `<< /Type /Pages /Kids [${kids}] /Count ${pages.length} >>`;
  objects[3] = "<< /Type /Font /Subtype /Type1 /BaseFont /Helvetica >>";
  // A font that is not in the file, coded by one of Adobe's maps, as Chinese office programs write it.
  if (options.chinese === true)
    objects[3] =
      "<< /Type /Font /Subtype /Type0 /BaseFont /STSong-Light /Encoding /UniGB-UCS2-H /DescendantFonts [<< /Type /Font /Subtype /CIDFontType0 " +
      "/BaseFont /STSong-Light /CIDSystemInfo << /Registry (Adobe) /Ordering (GB1) /Supplement 0 >> /FontDescriptor << /Type /FontDescriptor " +
      "/FontName /STSong-Light /Flags 4 /FontBBox [0 -200 1000 900] /ItalicAngle 0 /Ascent 800 /Descent -200 /CapHeight 700 /StemV 80 >> >>] >>";
  const shown = (text: string) =>
    options.chinese === true ? `<${Buffer.from(text, "utf16le").swap16().toString("hex")}>` : `(${text})`;
  for (const [i, text] of pages.entries()) {
    const stream = `BT /F1 12 Tf 72 720 Td ${shown(text)} Tj ET`;
    objects[4 + 2 * i] =
      `<< /Type /Page /Parent 2 0 R /MediaBox [0 0 612 792] /Resources << /Font << /F1 3 0 R >> >> /Contents ${5 + 2 * i} 0 R >>`;
    objects[5 + 2 * i] = `<< /Length ${stream.length} >>\nstream\n${stream}\nendstream`;
  }
  const info = objects.length;
  objects[info] = "<< /Title (A small file) /Author (Nobody) /CreationDate (D:20240203120000Z) >>";
  let body = "%PDF-1.4\n";
  const offsets: number[] = [];
  for (let i = 1; i < objects.length; i++) {
    offsets[i] = body.length;
    body += `${i} 0 obj\n${objects[i]}\nendobj\n`;
  }
  const start = body.length;
  body += `xref\n0 ${objects.length}\n0000000000 65535 f \n`;
  for (let i = 1; i < objects.length; i++) body += `${String(offsets[i]).padStart(10, "0")} 00000 n \n`;
  const hex = "ab".repeat(32);
  const lock =
    options.password === true
      ? ` /Encrypt << /Filter /Standard /V 1 /R 2 /Length 40 /P -44 /O <${hex}> /U <${hex}> >> /ID [<00> <00>]`
      : "";
  body += `trailer\n<< /Size ${objects.length} /Root 1 0 R /Info ${info} 0 R${lock} >>\nstartxref\n${start}\n%%EOF\n`;
  return Buffer.from(body, "latin1");
}
