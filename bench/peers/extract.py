"""trafilatura's side of `npm run bench -- extract`: the main text of pages in memory, as the benchmark runs it."""

import gzip
import json
from pathlib import Path

from protocol import need, serve

try:
    import trafilatura
except ImportError as error:
    need(error)


def prepare(request):
    p = request["parameters"]
    folder = Path(p["folder"])
    ids = list(json.loads((folder / "ground-truth.json").read_text(encoding="utf8")))
    pages = {one: gzip.open(folder / "html" / f"{one}.html.gz").read().decode("utf8", "replace") for one in ids}
    extract = lambda html: trafilatura.extract(html, include_comments=False) or ""
    found = {one: extract(html) for one, html in pages.items()}
    (Path(p["out"]) / "trafilatura.json").write_text(json.dumps(found), encoding="utf8")
    characters = sum(map(len, pages.values()))

    def step():
        for html in pages.values():
            extract(html)
        return {"output": {"pages": len(pages), "characters": characters}}

    return f"trafilatura {trafilatura.__version__}, text", step


serve(prepare, lambda: 1)
