"""What bench/card.lua's parts take in CuPy, PyTorch and Numba: card.py PART SIZE.

Prints `NAME MILLISECONDS` for each of them that is here, sees a card and has the part: the median of five, after one run
that compiles. Inputs and results are in the host's memory where those of ours are."""
import statistics
import sys
import time

import numpy as np

part, n = sys.argv[1], int(float(sys.argv[2]))


def show(name, run):
    run()
    times = []
    for _ in range(5):
        began = time.perf_counter()
        run()
        times.append(time.perf_counter() - began)
    print(f"{name} {statistics.median(times) * 1e3:.3f}")


def inputs():
    if part == "product":
        k = np.arange(1, n * n + 1)
        return (k % 13).astype(float).reshape(n, n), (k % 7).astype(float).reshape(n, n)
    if part == "n-body":
        i = np.arange(1, n + 1)
        return np.sin(i), np.cos(i * 1.3), np.sin(i * 0.7), 1 / i
    return (np.full(n, 0.5) if part == "sum" else (np.arange(n) % 1000) * 0.001,)


def cupy():
    import cupy as cp
    cp.cuda.runtime.getDeviceCount()
    given = inputs()
    if part == "sin*cos+sqrt":
        show("CuPy", lambda: (lambda x: cp.asnumpy(cp.sin(x) * cp.cos(x) + cp.sqrt(x)))(cp.asarray(given[0])))
        fused = cp.ElementwiseKernel("float64 x", "float64 y", "y = sin(x) * cos(x) + sqrt(x)", "fused")
        show("CuPy-kernel", lambda: cp.asnumpy(fused(cp.asarray(given[0]))))
    elif part == "sum":
        show("CuPy", lambda: float(cp.asarray(given[0]).sum()))
    elif part == "product":
        show("CuPy-BLAS", lambda: cp.asnumpy(cp.asarray(given[0]) @ cp.asarray(given[1])))


def torch():
    import torch as t
    t.zeros(1, device="cuda")
    given = [t.from_numpy(a) for a in inputs()]
    if part == "sin*cos+sqrt":
        show("PyTorch", lambda: (lambda x: (t.sin(x) * t.cos(x) + t.sqrt(x)).cpu())(given[0].cuda()))
    elif part == "sum":
        show("PyTorch", lambda: float(given[0].cuda().sum()))
    elif part == "product":
        show("PyTorch-BLAS", lambda: (given[0].cuda() @ given[1].cuda()).cpu())


def numba():
    import math
    from numba import cuda
    cuda.get_current_device()
    if part == "mandelbrot":
        @cuda.jit
        def pixels(out):
            x, y = cuda.grid(2)
            if x < n and y < n:
                cx, cy, a, b, result = (x + 1) / n * 3 - 2.25, (y + 1) / n * 3 - 1.5, 0.0, 0.0, 0
                for k in range(1, 257):
                    aa, bb = a * a, b * b
                    if aa + bb > 4:
                        result = k
                        break
                    a, b = aa - bb + cx, 2 * a * b + cy
                out[y, x] = result

        def run():
            out = cuda.device_array((n, n), np.int32)
            pixels[((n + 15) // 16, (n + 15) // 16), (16, 16)](out)
            return out.copy_to_host()
        show("Numba", run)
    elif part == "n-body":
        @cuda.jit
        def accelerate(X, Y, Z, M, A):
            i = cuda.grid(1)
            if i < n:
                x, y, z, ax, ay, az = X[i], Y[i], Z[i], 0.0, 0.0, 0.0
                for j in range(n):
                    dx, dy, dz = X[j] - x, Y[j] - y, Z[j] - z
                    d2 = dx * dx + dy * dy + dz * dz + 1e-9
                    s = M[j] / (d2 * math.sqrt(d2))
                    ax, ay, az = ax + dx * s, ay + dy * s, az + dz * s
                A[0, i], A[1, i], A[2, i] = ax, ay, az

        given = inputs()

        def run():
            out = cuda.device_array((3, n))
            accelerate[(n + 127) // 128, 128](*[cuda.to_device(a) for a in given], out)
            return out.copy_to_host()
        show("Numba", run)


for peer in cupy, torch, numba:
    try:
        peer()
    except Exception as trouble:  # not here, or no card
        print(f"{peer.__name__}: {trouble!r:.100}", file=sys.stderr)
