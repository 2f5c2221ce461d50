"""What others take for bench/cluster.lua's task on two processes of this machine: NAME N, prints calls a second, and a call's round trip: median and 99th percentile, in microseconds.

NAME: ray, dask (distributed, with a scheduler and two workers of its own) or joblib (its loky). A call gets a text of 1 KiB and gives it back. N of them at once by the natural way to map, then N / 4 + 100, one after the other.
"""
import sys
import time

TEXT = "x" * 1024


def same(x):
    return x


def with_ray(measure):
    import ray

    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    f = ray.remote(same)
    measure(lambda xs: ray.get([f.remote(x) for x in xs]), lambda x: ray.get(f.remote(x)))
    ray.shutdown()


def with_dask(measure):
    from distributed import Client, LocalCluster

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as cluster, Client(cluster) as client:
        measure(lambda xs: client.gather(client.map(same, xs, pure=False)), lambda x: client.submit(same, x, pure=False).result())


def with_joblib(measure):
    from joblib import Parallel, delayed

    with Parallel(n_jobs=2) as parallel:
        measure(lambda xs: parallel(delayed(same)(x) for x in xs), lambda x: parallel([delayed(same)(x)])[0])


def main():
    name, n = sys.argv[1], int(sys.argv[2])

    def measure(many, one):
        for _ in range(2):  # the first ones start the processes
            start = time.monotonic()
            assert many([TEXT] * n) == [TEXT] * n
            seconds = time.monotonic() - start
        times = []
        for _ in range(n // 4 + 100):
            start = time.monotonic()
            assert one(TEXT) == TEXT
            times.append(time.monotonic() - start)
        times = sorted(times[100:])
        print("%.0f %.0f %.0f" % (n / seconds, times[len(times) // 2] * 1e6, times[len(times) * 99 // 100] * 1e6))

    {"ray": with_ray, "dask": with_dask, "joblib": with_joblib}[name](measure)


if __name__ == "__main__":
    main()
