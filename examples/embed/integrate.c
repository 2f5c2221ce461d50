/* integrate.c: a C function, mapped over arrays: the area under exp(-x * x), piece by piece on all
 * cores.
 *
 *     cc integrate.c $(pkg-config --cflags --libs tidepool) -lm -o integrate
 *
 * prints: 1.772454
 * prints: piece 3 failed: the piece is empty */
#include <math.h>
#include <stdio.h>
#include <tidepool.h>

enum { PIECES = 64 };

/* Runs on worker threads: Simpson's rule over one piece. */
static int integrate(void *user, tp_call *call, const tp_value *in, size_t n)
{
    const int steps = *(const int *)user;
    if (n != 2 || in[0].kind != TP_NUMBER || in[1].kind != TP_NUMBER)
        return tp_call_fail(call, "two numbers expected: from and to");
    const double from = in[0].as.number, to = in[1].as.number;
    if (!(from < to))
        return tp_call_fail(call, "the piece is empty");
    const double h = (to - from) / steps;
    double sum = 0;
    for (int i = 0; i <= steps; i++) {
        const double x = from + i * h;
        sum += (i == 0 || i == steps ? 1 : i % 2 ? 4 : 2) * exp(-x * x);
    }
    const tp_value area = tp_number(sum * h / 3);
    return tp_call_return(call, &area, 1);
}

int main(void)
{
    tp_host *host = NULL;
    tp_function *f;
    tp_map *map;
    tp_error err = { TP_OK, "" };
    int steps = 10000; /* is read by all workers, and outlives the host */
    double from[PIECES], to[PIECES], areas[PIECES], sum = 0;
    const double *columns[] = { from, to };

    for (int i = 0; i < PIECES; i++) {
        from[i] = -8 + 16.0 * i / PIECES;
        to[i] = -8 + 16.0 * (i + 1) / PIECES;
    }
    if (tp_host_open(&host, NULL, &err)
        || tp_function_from_c(&f, host, "integrate", integrate, &steps, NULL, &err)
        || tp_map_doubles(&map, f, columns, 2, PIECES, NULL, &err)
        || tp_map_read_doubles(map, areas, PIECES, &err))
        goto failed;
    for (int i = 0; i < PIECES; i++)
        sum += areas[i];
    printf("%f\n", sum);
    tp_map_close(map);

    /* A failure: that of the first input that fails, whichever worker came first. */
    to[3] = from[3];
    to[5] = from[5];
    if (tp_map_doubles(&map, f, columns, 2, PIECES, NULL, &err))
        goto failed;
    if (tp_map_read_doubles(map, areas, PIECES, &err))
        printf("piece %zu failed: %s\n", tp_map_failure(map)->index, tp_map_failure(map)->message);
    tp_host_close(host);
    return 0;

failed:
    fprintf(stderr, "%s\n", err.message);
    tp_host_close(host);
    return 1;
}
