"""datatrove's side of `npm run bench -- data`: WARC files through extraction, filters and MinHash deduplication, with two processes."""

import contextlib
import gzip
import json
import os
import resource
import shutil
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path

import protocol

try:
    from importlib.metadata import version
    from datatrove.executor import LocalPipelineExecutor
    from datatrove.pipeline.dedup import MinhashDedupCluster, MinhashDedupFilter, MinhashDedupSignature
    from datatrove.pipeline.dedup.minhash import MinhashConfig, MinhashDedupBuckets
    from datatrove.pipeline.extractors import Trafilatura
    from datatrove.pipeline.filters import C4QualityFilter, FineWebQualityFilter, GopherQualityFilter, GopherRepetitionFilter
    from datatrove.pipeline.readers import JsonlReader, WarcReader
    from datatrove.pipeline.writers import JsonlWriter
    from datatrove.utils.hashing import HashConfig
    from loguru import logger
except ImportError as error:
    protocol.need(error)

logger.remove()


def run(folder, name, pipeline, tasks, workers):
    LocalPipelineExecutor(pipeline=pipeline, tasks=tasks, workers=workers, logging_dir=f"{folder}/log-{name}").run()


def lines(folder, *parts):
    for path in sorted(Path(folder, *parts).rglob("*.jsonl.gz")):
        with gzip.open(path, "rt") as file:
            yield from map(json.loads, file)


def found(folder):
    """What became of every document, by its address: `final`, `duplicate`, or the filter that took it; and its text as it was extracted."""
    url = lambda d: d["metadata"]["url"]
    decisions = {url(d): "duplicate" for d in lines(folder, "kept")}
    decisions |= {url(d): "final" for d in lines(folder, "final")}
    for taken in Path(folder, "dropped").iterdir():
        decisions |= {url(d): taken.name for d in lines(taken)}
    return {"decisions": decisions, "texts": {url(d): d["text"] for d in lines(folder, "texts")}}


def prepare(request):
    p = request["parameters"]
    workers, near, files = p["workers"], p["near"], p["files"]
    first = True

    def step():
        nonlocal first
        global memory
        if first:
            memory = Memory()
            memory.start()
        folder = tempfile.mkdtemp(dir=p["scratch"])
        # What datatrove says goes to standard output, which is for answers.
        out, sys.stdout = sys.stdout, open(os.devnull, "w")
        dropped = lambda name: JsonlWriter(f"{folder}/dropped/{name}")
        start = time.perf_counter()
        try:
            if p["kind"] == "crawl":
                # By default it gives up on a page after a second, which on a busy machine depends on who is busy, and takes out what it has seen on
                # pages before, which depends on which pages a process was given: both are left out, so that a page's text depends on the page.
                read = [WarcReader(p["folder"], glob_pattern="*.warc.gz"), Trafilatura(favour_precision=False, timeout=60, deduplicate=False)]
            else:
                read = [JsonlReader(p["folder"], glob_pattern="*.jsonl")]
            # The first step is not timed: what was extracted is kept to be compared.
            seen = [JsonlWriter(f"{folder}/texts")] if first else []
            filters = [
                GopherRepetitionFilter(exclusion_writer=dropped("gopher_repetition")),
                GopherQualityFilter(exclusion_writer=dropped("gopher_quality")),
                C4QualityFilter(filter_no_terminal_punct=False, exclusion_writer=dropped("c4")),
                FineWebQualityFilter(exclusion_writer=dropped("fineweb")),
            ]
            run(folder, "read", [*read, *seen, *filters, JsonlWriter(f"{folder}/kept")], files, workers)
            config = MinhashConfig(n_grams=near["ngram"], num_buckets=near["bands"], hashes_per_bucket=near["rows"], hash_config=HashConfig(hash_fc="xxhash"))
            run(folder, "signatures", [JsonlReader(f"{folder}/kept"), MinhashDedupSignature(f"{folder}/signatures", config=config)], files, workers)
            run(folder, "buckets", [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)], near["bands"], workers)
            run(folder, "cluster", [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)], 1, 1)
            run(folder, "filter", [JsonlReader(f"{folder}/kept"), MinhashDedupFilter(f"{folder}/remove"), JsonlWriter(f"{folder}/final")], files, workers)
            seconds = time.perf_counter() - start
            memory.ended.set()
            result = found(folder)
            if first:
                Path(p["scratch"], f"datatrove-{p['kind']}.json").write_text(json.dumps(result))
                first = False
            counts = Counter(result["decisions"].values())
            return {"output": dict(sorted(counts.items())), "seconds": seconds}
        finally:
            sys.stdout = out
            shutil.rmtree(folder)

    return f"datatrove {version('datatrove')}, {workers} processes", step


class Memory(threading.Thread):
    """The most that this process and all that it started hold at a time, pages that they share counted once; looked at ten times a second."""

    def __init__(self):
        super().__init__(daemon=True)
        self.most = 0
        self.ended = threading.Event()

    def run(self):
        while not self.ended.wait(0.1):
            self.most = max(self.most, sum(map(self.held, self.family())))

    @staticmethod
    def family():
        """Processes that are gone meanwhile are left out."""
        parents = {}
        for entry in Path("/proc").iterdir():
            with contextlib.suppress(OSError, ValueError):
                parents[int(entry.name)] = int((entry / "stat").read_text().rsplit(")", 1)[1].split()[1])
        inside = {os.getpid()}
        while more := {child for child, parent in parents.items() if parent in inside} - inside:
            inside |= more
        return inside

    @staticmethod
    def held(process):
        with contextlib.suppress(OSError):
            for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
                if line.startswith("Pss:"):
                    return int(line.split()[1]) * 1024
        return 0


memory = None


def peak():
    """Of the first step, which is not timed: looking costs time. Where the system does not tell, this process and twice the largest that it started."""
    if memory is not None and memory.most > 0:
        return memory.most
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


protocol.peak_bytes = peak
if __name__ == "__main__":
    protocol.serve(prepare)
