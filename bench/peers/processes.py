"""What runs Python functions in two processes: NAME WORKLOAD N, prints seconds and sum. Results are in order, one input per call, by each one's natural API.

NAME: joblib (its loky), futures (concurrent.futures) or ray. WORKLOAD: numbers, records (as work.lua), or calls (one after the other has come back).
"""
import sys
import time


def square(x):
    return x * x


def enrich(r):
    r["total"] = sum(r["v"]) + r["id"]
    return r


def record(i):
    return {"id": i, "name": "record %d" % i, "v": [1, 2, 3]}


def with_joblib(measure):
    from joblib import Parallel, delayed

    with Parallel(n_jobs=2) as parallel:
        measure(lambda f, xs: parallel(delayed(f)(x) for x in xs), lambda f, x: parallel([delayed(f)(x)])[0])


def with_futures(measure):
    from concurrent.futures import ProcessPoolExecutor

    with ProcessPoolExecutor(2) as pool:
        measure(lambda f, xs: list(pool.map(f, xs)), lambda f, x: pool.submit(f, x).result())


def with_ray(measure):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    remote = {f: ray.remote(f) for f in (square, enrich)}
    measure(lambda f, xs: ray.get([remote[f].remote(x) for x in xs]), lambda f, x: ray.get(remote[f].remote(x)))
    ray.shutdown()


def main():
    name, workload, n = sys.argv[1], sys.argv[2], int(sys.argv[3])
    f, make, value = {
        "numbers": (square, lambda i: i, lambda y: y),
        "calls": (square, lambda i: i, lambda y: y),
        "records": (enrich, record, lambda r: r["total"] + len(r["name"])),
    }[workload]

    def measure(many, one):
        for count in (-(-n // 10), n):  # the first ones start the processes
            inputs = [make(i) for i in range(1, count + 1)]
            start = time.monotonic()
            results = [one(f, x) for x in inputs] if workload == "calls" else many(f, inputs)
            seconds = time.monotonic() - start
        print("%.9f %.17g" % (seconds, sum(map(value, results))))

    {"joblib": with_joblib, "futures": with_futures, "ray": with_ray}[name](measure)


if __name__ == "__main__":
    main()
