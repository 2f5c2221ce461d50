/* smallest.c: squares of four numbers, computed by a Lua function on all cores.
 *
 *     cc smallest.c $(pkg-config --cflags --libs tidepool) -o smallest
 *
 * prints: 1
 * prints: 4
 * prints: 9
 * prints: 16 */
#include <stdio.h>
#include <tidepool.h>

int main(void)
{
    tp_host *host = NULL;
    tp_function *square;
    tp_map *map;
    tp_error err = { TP_OK, "" };
    double x[] = { 1, 2, 3, 4 }, y[4];
    const double *columns[] = { x };

    if (tp_host_open(&host, NULL, &err) == 0 &&
        tp_function_from_lua(&square, host, "square",
                             "return function(x) return x * x end", NULL, &err) == 0 &&
        tp_map_doubles(&map, square, columns, 1, 4, NULL, &err) == 0 &&
        tp_map_read_doubles(map, y, 4, &err) == 0)
        for (int i = 0; i < 4; i++)
            printf("%g\n", y[i]);
    if (err.code)
        fprintf(stderr, "%s\n", err.message);
    tp_host_close(host);
    return err.code != TP_OK;
}
