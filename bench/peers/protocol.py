"""The other side of `npm run bench`: answers one line of JSON per request, as bench/protocol.ts describes.

A peer is a script that calls `serve(prepare)`. `prepare(request)` gets {"work", "variant", "parameters"} and returns `(about, step)`: who
measures, and a function that does one step and returns what it computed, or a dict with any of "output", "seconds" (in place of the time
that the call took) and "metrics" (other numbers by name).
"""

import json
import os
import resource
import sys
import time

THREADS = int(os.environ["OMP_NUM_THREADS"])


def say(answer):
    print(json.dumps(answer), flush=True)


def need(error):
    """Says which package is missing, and ends."""
    say({"error": f"this Python lacks a package ({error}); install bench/peers/requirements.txt into it"})
    sys.exit(1)


def peak_bytes():
    # Kilobytes on Linux, bytes on macOS.
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def serve(prepare, threads=lambda: THREADS):
    """`threads()` is asked after each `prepare`: how many the libraries in use say they have."""
    step = None
    for line in sys.stdin:
        request = json.loads(line)
        try:
            if request["command"] == "close":
                break
            if request["command"] == "prepare":
                step = None  # frees the work before
                about, step = prepare(request)
                say({"about": about, "threads": threads()})
                continue
            seconds, outputs, metrics = [], [], {}
            for _ in range(request["steps"]):
                start = time.perf_counter()
                result = step()
                took = time.perf_counter() - start
                if not isinstance(result, dict):
                    result = {"output": result}
                seconds.append(result.get("seconds", took))
                outputs.append(result.get("output"))
                for name, value in result.get("metrics", {}).items():
                    metrics.setdefault(name, []).append(value)
            say({"seconds": seconds, "outputs": outputs, "metrics": metrics, "peakBytes": peak_bytes()})
        except Exception as error:  # answered, so that the other side can say it
            say({"error": f"{type(error).__name__}: {str(error)[:2000]}"})
