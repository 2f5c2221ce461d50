--- The product of two matrices of floats by kernels by hand: one number for each work item, the
--- same with tiles of both matrices in local memory, as textbooks have it, and the one of
--- docs/devices.md, whose work items have a vector of sums each. In turns; the best of seven.
---
---   build/tidepool bench/product.lua [N]

local tidepool = require "tidepool"

local N, ROUNDS = tonumber(arg[1] or 512), 7
local device = tidepool.gpu.device()
local a, b = tidepool.array("float", N * N), tidepool.array("float", N * N)
for i = 1, N * N do a[i], b[i] = (i * 7 % 13) - 6, (i * 5 % 11) - 5 end
local A, B, C = device:buffer(a), device:buffer(b), device:buffer("float", N * N)

local naive = device:kernel [[
  __kernel void naive(__global const float *a, __global const float *b, __global float *c, int n) {
    int x = get_global_id(0), y = get_global_id(1);
    float sum = 0;
    for (int k = 0; k < n; k++) sum += a[y * n + k] * b[k * n + x];
    c[y * n + x] = sum;
  }]]
local tiled = device:kernel [[
  // 16 rows and 16 columns of the product in each group: an item has a row of them.
  __kernel void tiled(__global const float *a, __global const float *b, __global float *c, int n) {
    __local float16 tile[16];
    int column = get_global_id(0) * 16, y = get_global_id(1), row = get_local_id(1);
    float16 sum = 0;
    for (int from = 0; from < n; from += 16) {
      tile[row] = vload16(0, b + (from + row) * n + column);
      barrier(CLK_LOCAL_MEM_FENCE);
      __global const float *left = a + y * n + from;
      for (int k = 0; k < 16; k++) sum += left[k] * tile[k];
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    vstore16(sum, 0, c + y * n + column);
  }]]
local classic = device:kernel [[
  #define T 16
  __kernel void classic(__global const float *a, __global const float *b, __global float *c, int n) {
    __local float s[T][T], t[T][T];
    int x = get_global_id(0), y = get_global_id(1), i = get_local_id(0), j = get_local_id(1);
    float sum = 0;
    for (int from = 0; from < n; from += T) {
      s[j][i] = a[y * n + from + i];
      t[j][i] = b[(from + j) * n + x];
      barrier(CLK_LOCAL_MEM_FENCE);
      for (int k = 0; k < T; k++) sum += s[j][k] * t[k][i];
      barrier(CLK_LOCAL_MEM_FENCE);
    }
    c[y * n + x] = sum;
  }]]
local forms = {
  { "one number", naive, { N, N } },
  { "one number, tiles", classic, { N, N, local_size = { 16, 16 } } },
  { "a vector, a tile", tiled, { N / 16, N, local_size = { 1, 16 } } },
}
for _ = 1, ROUNDS do
  for _, form in ipairs(forms) do
    local kernel, global = form[2], form[3]
    kernel(global, A, B, C, N)
    form.best = math.min(form.best or math.huge, kernel:time() * 1e3)
    local c = C:read()
    form.first = form.first or c:copy()
    for i = 1, N * N, 997 do assert(c[i] == forms[1].first[i]) end
  end
end
for _, form in ipairs(forms) do print(("%-20s %8.1f ms"):format(form[1], form.best)) end
