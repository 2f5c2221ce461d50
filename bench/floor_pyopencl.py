"""floor_pyopencl.py: what the rows of devices are compared with, by PyOpenCL on the first device (pip install pyopencl, or Debian's python3-pyopencl).

  floor_pyopencl.py WHAT N [ROUNDS]

WHAT is sincos (an ElementwiseKernel, arrays that are on the device), sincos_single (the same in floats), line (2*x+1: to_device, the kernel, get), small (the same for a list of N numbers
into a list), sum (a ReductionKernel). Prints the median in milliseconds, or "not installed". Each round runs once before it is timed.
"""
import sys
import time

what, n = sys.argv[1], int(sys.argv[2])
rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 3
try:
    import numpy
    import pyopencl as cl
    import pyopencl.array
    from pyopencl.elementwise import ElementwiseKernel
    from pyopencl.reduction import ReductionKernel
except ImportError as error:
    print("not installed (%s)" % error)
    sys.exit()

device = cl.get_platforms()[0].get_devices()[0]
context = cl.Context([device])
queue = cl.CommandQueue(context)
xs = (numpy.arange(n) % 1000) * 0.001
X = cl.array.to_device(queue, xs)
Y = cl.array.empty_like(X)

if what in ("sincos", "sincos_single"):
    real = "double"
    if what == "sincos_single":
        real = "float"
        X = cl.array.to_device(queue, xs.astype(numpy.float32))
        Y = cl.array.empty_like(X)
    kernel = ElementwiseKernel(context, "%s *x, %s *y" % (real, real), "y[i] = sin(x[i]) * cos(x[i]) + sqrt(x[i])")

    def run():
        kernel(X, Y)
        queue.finish()
elif what in ("line", "small"):
    kernel = ElementwiseKernel(context, "double *x, double *y", "y[i] = 2 * x[i] + 1")
    numbers = xs.tolist() if what == "small" else xs

    def run():
        a = cl.array.to_device(queue, numpy.array(numbers) if what == "small" else numbers)
        b = cl.array.empty_like(a)
        kernel(a, b)
        result = b.get()
        if what == "small":
            result.tolist()
else:
    kernel = ReductionKernel(context, numpy.float64, neutral="0", reduce_expr="a+b", map_expr="x[i]", arguments="double *x")

    def run():
        kernel(X).get()

seconds = []
for i in range(rounds + 3):
    start = time.perf_counter()
    run()
    seconds.append(time.perf_counter() - start)
print("%.6f" % (sorted(seconds[3:])[(rounds - 1) // 2] * 1e3))
