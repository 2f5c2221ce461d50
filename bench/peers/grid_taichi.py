"""The loops of bench/grid.lua in Taichi, over all processors: prints the milliseconds of the fastest of so many runs."""
import sys
import time

import numpy as np
import taichi as ti

ti.init(arch=ti.cpu, default_fp=ti.f64, log_level=ti.ERROR)


@ti.kernel
def product(a: ti.types.ndarray(dtype=ti.f64, ndim=2), b: ti.types.ndarray(dtype=ti.f64, ndim=2), c: ti.types.ndarray(dtype=ti.f64, ndim=2)):
    for y, x in c:
        s = 0.0
        for k in range(a.shape[1]):
            s += a[y, k] * b[k, x]
        c[y, x] = s


@ti.kernel
def blur(photo: ti.types.ndarray(dtype=ti.f64, ndim=2), out: ti.types.ndarray(dtype=ti.f64, ndim=2)):
    for y, x in out:
        s = 0.0
        for j, i in ti.static(ti.ndrange((-2, 3), (-2, 3))):
            s += photo[min(max(y + j, 0), photo.shape[0] - 1), min(max(x + i, 0), photo.shape[1] - 1)]
        out[y, x] = s / 25


def matrix(n, factor, modulus, scale):
    made = ti.ndarray(ti.f64, (n, n))
    made.from_numpy((np.arange(1, n * n + 1) * factor % modulus / scale).reshape(n, n))
    return made


if sys.argv[1] == "product":
    a, b, c = matrix(512, 7, 13, 13), matrix(512, 5, 11, 11), ti.ndarray(ti.f64, (512, 512))
    run = lambda: product(a, b, c)
else:
    photo, out = matrix(1024, 7919, 256, 1), ti.ndarray(ti.f64, (1024, 1024))
    run = lambda: blur(photo, out)
for _ in range(3):
    run()
best = float("inf")
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    run()
    ti.sync()
    best = min(best, time.perf_counter() - start)
print("%.3f" % (best * 1e3))
