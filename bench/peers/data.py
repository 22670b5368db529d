"""datatrove's side of `npm run bench -- data`: WARC files through extraction, filters and MinHash deduplication, with two processes."""

import os
import resource
import shutil
import sys
import tempfile
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


def prepare(request):
    p = request["parameters"]
    workers = p["workers"]
    near = p["near"]

    def step():
        folder = tempfile.mkdtemp(dir=p["scratch"])
        # What datatrove says goes to standard output, which is for answers.
        out, sys.stdout = sys.stdout, open(os.devnull, "w")
        try:
            run(
                folder,
                "read",
                [
                    WarcReader(p["folder"], glob_pattern="*.warc.gz"),
                    Trafilatura(favour_precision=False),
                    GopherRepetitionFilter(),
                    GopherQualityFilter(),
                    C4QualityFilter(filter_no_terminal_punct=False),
                    FineWebQualityFilter(),
                    JsonlWriter(f"{folder}/kept"),
                ],
                p["files"],
                workers,
            )
            config = MinhashConfig(n_grams=near["ngram"], num_buckets=near["bands"], hashes_per_bucket=near["rows"], hash_config=HashConfig(hash_fc="xxhash"))
            run(folder, "signatures", [JsonlReader(f"{folder}/kept"), MinhashDedupSignature(f"{folder}/signatures", config=config)], p["files"], workers)
            run(folder, "buckets", [MinhashDedupBuckets(f"{folder}/signatures", f"{folder}/buckets", config=config)], near["bands"], workers)
            run(folder, "cluster", [MinhashDedupCluster(f"{folder}/buckets", f"{folder}/remove", config=config)], 1, 1)
            run(folder, "filter", [JsonlReader(f"{folder}/kept"), MinhashDedupFilter(f"{folder}/remove"), JsonlWriter(f"{folder}/final")], p["files"], workers)
            count = lambda name: sum(1 for path in Path(folder, name).glob("*.jsonl.gz") for _ in __import__("gzip").open(path))
            return {"output": {"kept": count("kept"), "final": count("final")}}
        finally:
            sys.stdout = out
            shutil.rmtree(folder)

    return f"datatrove {version('datatrove')}, {workers} processes", step


def peak():
    """This process and as many of its largest children as ran at a time."""
    kilobytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss + 2 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return kilobytes * (1 if sys.platform == "darwin" else 1024)


protocol.peak_bytes = peak
if __name__ == "__main__":
    protocol.serve(prepare)
