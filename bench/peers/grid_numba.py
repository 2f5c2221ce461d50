"""The loops of bench/grid.lua in Numba, over all processors: prints the milliseconds of the fastest of so many runs."""
import sys
import time

import numpy as np
from numba import njit, prange


@njit(parallel=True)
def product(a, b):
    n = a.shape[0]
    c = np.empty((n, n))
    for y in prange(n):
        for x in range(n):
            s = 0.0
            for k in range(n):
                s += a[y, k] * b[k, x]
            c[y, x] = s
    return c


@njit(parallel=True)
def blur(photo):
    h, w = photo.shape
    out = np.empty((h, w))
    for y in prange(h):
        for x in range(w):
            s = 0.0
            for j in range(-2, 3):
                row = min(max(y + j, 0), h - 1)
                for i in range(-2, 3):
                    s += photo[row, min(max(x + i, 0), w - 1)]
            out[y, x] = s / 25
    return out


def matrix(n, factor, modulus, scale):
    return (np.arange(1, n * n + 1) * factor % modulus / scale).reshape(n, n)


if sys.argv[1] == "product":
    a, b = matrix(512, 7, 13, 13), matrix(512, 5, 11, 11)
    run = lambda: product(a, b)
else:
    photo = matrix(1024, 7919, 256, 1)
    run = lambda: blur(photo)
for _ in range(3):
    run()
best = float("inf")
for _ in range(int(sys.argv[2])):
    start = time.perf_counter()
    run()
    best = min(best, time.perf_counter() - start)
print("%.3f" % (best * 1e3))
