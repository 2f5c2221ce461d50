"""joblib (Python): Parallel over two processes; it picks batches by itself, results are in order. As work.lua: WORKLOAD N, prints seconds and sum."""
import sys
import time

from joblib import Parallel, delayed


def square(x):
    return x * x


def enrich(r):
    r["total"] = sum(r["v"]) + r["id"]
    return r


def record(i):
    return {"id": i, "name": "record %d" % i, "v": [1, 2, 3]}


f, make, value = {
    "numbers": (square, lambda i: i, lambda y: y),
    "records": (enrich, record, lambda r: r["total"] + len(r["name"])),
}[sys.argv[1]]
n = int(sys.argv[2])
with Parallel(n_jobs=2) as parallel:
    for count in (-(-n // 10), n):
        inputs = [make(i) for i in range(1, count + 1)]
        start = time.monotonic()
        results = parallel(delayed(f)(x) for x in inputs)
        seconds = time.monotonic() - start
print("%.9f %.17g" % (seconds, sum(map(value, results))))
