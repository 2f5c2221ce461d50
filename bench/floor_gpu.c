/* floor_gpu.c: what the rows of devices are compared with, in C with OpenMP: gcc's -O3 without
 * -ffast-math, for this processor's own instructions only where that is said (-O3 alone means
 * SSE2).
 *
 *   floor_gpu WHAT N [ROUNDS]      default: 3 rounds
 *
 * WHAT is sincos (sin(x)*cos(x)+sqrt(x) into another array), line (2*x+1 in place), line_apart
 * (into another array, past the caches), sum, prices (Black and Scholes: three inputs, two
 * results), over N doubles; or mandelbrot, N x N pixels, 256 iterations, into int32. Prints the
 * median in milliseconds and a checksum, which bench/gpu.lua makes of its own results too. The
 * memory is touched before the first round, and each round runs once before it is timed. */
#include <math.h>
#include <omp.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifdef __SSE2__
#include <emmintrin.h>
#endif

enum { ROUNDS_MAX = 100 };

static double *x, *y, *z, *call, *put;
static int32_t *pixels;
static long n;

static void sincos_all(void)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++)
        y[i] = sin(x[i]) * cos(x[i]) + sqrt(x[i]);
}

static void line(void)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++)
        x[i] = 2 * x[i] + 1;
}

static void line_apart(void)
{
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n / 2 * 2; i += 2)
#ifdef __SSE2__
        _mm_stream_pd(y + i,
                      _mm_add_pd(_mm_mul_pd(_mm_loadu_pd(x + i), _mm_set1_pd(2)), _mm_set1_pd(1)));
#else
        y[i] = 2 * x[i] + 1, y[i + 1] = 2 * x[i + 1] + 1;
#endif
    if (n % 2)
        y[n - 1] = 2 * x[n - 1] + 1;
}

static double total;

static void sum(void)
{
    double s = 0;
#pragma omp parallel for simd schedule(static) reduction(+ : s)
    for (long i = 0; i < n; i++)
        s += x[i];
    total = s;
}

static double normal(double v)
{
    double k = 1 / (1 + 0.2316419 * fabs(v));
    double tail =
        exp(-0.5 * v * v) / 2.5066282746310002 *
        (k * (0.319381530 +
              k * (-0.356563782 + k * (1.781477937 + k * (-1.821255978 + k * 1.330274429)))));
    return v < 0 ? tail : 1 - tail;
}

static void prices(void)
{
    const double rate = 0.02, volatility = 0.3;
#pragma omp parallel for schedule(static)
    for (long i = 0; i < n; i++) {
        double spread = volatility * sqrt(z[i]);
        double d1 = (log(x[i] / y[i]) + (rate + 0.5 * volatility * volatility) * z[i]) / spread,
               d2 = d1 - spread;
        double paid = y[i] * exp(-rate * z[i]);
        call[i] = x[i] * normal(d1) - paid * normal(d2);
        put[i] = paid * normal(-d2) - x[i] * normal(-d1);
    }
}

static void mandelbrot(void)
{
#pragma omp parallel for schedule(dynamic, 16)
    for (long row = 0; row < n; row++)
        for (long column = 0; column < n; column++) {
            double cx = (double)column / (double)n * 3 - 2.25,
                   cy = (double)row / (double)n * 3 - 1.5, a = 0, b = 0;
            int32_t found = 0;
            for (int k = 1; k <= 256; k++) {
                double aa = a * a, bb = b * b;
                if (aa + bb > 4) {
                    found = k;
                    break;
                }
                b = 2 * a * b + cy;
                a = aa - bb + cx;
            }
            pixels[row * n + column] = found;
        }
}

static int compare(const void *a, const void *b)
{
    double d = *(const double *)a - *(const double *)b;
    return (d > 0) - (d < 0);
}

static double *allocate(size_t bytes)
{
    void *p = aligned_alloc(4096, (bytes + 4095) / 4096 * 4096);
    if (!p) {
        perror("floor_gpu");
        exit(1);
    }
    memset(p, 0, bytes);
    return p;
}

static void fill(void)
{
#pragma omp parallel for
    for (long i = 0; i < n; i++) {
        x[i] = (double)(i % 1000) * 0.001;
        y[i] = 1 + (double)(i % 991) * 0.1;
        z[i] = 0.25 + (double)(i % 97) * 0.1;
    }
}

static double sample(const double *results)
{
    double s = 0;
    for (long i = 0; i < n; i += 997)
        s += results[i];
    return s;
}

int main(int argc, char **argv)
{
    const char *what = argc > 1 ? argv[1] : "";
    n = argc > 2 ? atol(argv[2]) : 0;
    int rounds = argc > 3 ? atoi(argv[3]) : 3;
    void (*run)(void) = strcmp(what, "sincos") == 0       ? sincos_all
                        : strcmp(what, "line") == 0       ? line
                        : strcmp(what, "line_apart") == 0 ? line_apart
                        : strcmp(what, "sum") == 0        ? sum
                        : strcmp(what, "prices") == 0     ? prices
                        : strcmp(what, "mandelbrot") == 0 ? mandelbrot
                                                          : NULL;
    if (!run || n < 1 || rounds < 1 || rounds > ROUNDS_MAX) {
        fprintf(stderr,
                "usage: floor_gpu sincos|line|line_apart|sum|prices|mandelbrot N [ROUNDS]\n");
        return 2;
    }
    size_t bytes = (size_t)n * sizeof(double);
    if (run == mandelbrot) {
        pixels = (int32_t *)allocate((size_t)n * (size_t)n * sizeof *pixels);
    } else {
        x = allocate(bytes), y = allocate(bytes), z = allocate(bytes), call = allocate(bytes),
        put = allocate(bytes);
        fill();
    }
    double seconds[ROUNDS_MAX];
    run();
    for (int i = 0; i < rounds; i++) {
        if (run == line)
            fill(); /* not to end at infinity */
        double start = omp_get_wtime();
        run();
        seconds[i] = omp_get_wtime() - start;
    }
    qsort(seconds, (size_t)rounds, sizeof *seconds, compare);
    double check = total;
    if (run == mandelbrot) {
        check = 0;
        for (long i = 0; i < n * n; i++)
            check = fmod(check * 31 + pixels[i], 2147483647);
    } else if (run != sum) {
        check = run == sincos_all || run == line_apart ? sample(y)
                : run == line                          ? sample(x)
                                                       : sample(call) + sample(put);
    }
    printf("%.6f %.9g\n", seconds[(rounds - 1) / 2] * 1e3, check);
    return 0;
}
