--- Sixty numeric functions as people write them, for gpu_sixty_spec.lua: noise, bodies, rays,
--- hashes, generators, transforms, matrices, words, clusters, images, colours, dates, curves,
--- filters. They were written for this test in the style of what is found in public code, before it
--- was known which of them a device can run, and are not made to please the translator.
---
--- Each is { name, what its inputs are, the function }: a letter for each input, which says where
--- it lies (`sixty.inputs`): r any number, s -3 to 3, u 0 to 1, n 1 to 12, i any 32-bit integer, d
--- degrees, y a year, m a month. Special values are among all but n, y and m, as far as they end.

local bit = require "bit"
local band, bor, bxor, lshift, rshift, tobit = bit.band, bit.bor, bit.bxor, bit.lshift, bit.rshift, bit.tobit
local floor, sqrt, abs, min, max, sin, cos, pi = math.floor, math.sqrt, math.abs, math.min, math.max, math.sin, math.cos, math.pi

local sixty = {}
local function add(name, inputs, fn) sixty[#sixty + 1] = { name = name, inputs = inputs, fn = fn } end

---------------------------------------------------------------------------------------------------
-- Noise

local perm = {}
for i = 0, 255 do perm[i] = (i * 167 + 13) % 256 end
for i = 0, 255 do perm[i + 256] = perm[i] end

local function lerp(a, b, t) return a + (b - a) * t end
local function fade(t) return t * t * t * (t * (t * 6 - 15) + 10) end

local function grad(hash, x, y)
  local h = hash % 4
  if h == 0 then return x + y elseif h == 1 then return -x + y elseif h == 2 then return x - y end
  return -x - y
end

add("Perlin noise", "ss", function(x, y)
  local X, Y = floor(x) % 256, floor(y) % 256
  x, y = x - floor(x), y - floor(y)
  local u, v = fade(x), fade(y)
  local A, B = perm[X] + Y, perm[X + 1] + Y
  return lerp(lerp(grad(perm[A], x, y), grad(perm[B], x - 1, y), u), lerp(grad(perm[A + 1], x, y - 1), grad(perm[B + 1], x - 1, y - 1), u), v)
end)

local gradients = { { 1, 1 }, { -1, 1 }, { 1, -1 }, { -1, -1 }, { 1, 0 }, { -1, 0 }, { 0, 1 }, { 0, -1 } }

add("simplex noise", "ss", function(xin, yin)
  local F2, G2 = 0.5 * (sqrt(3) - 1), (3 - sqrt(3)) / 6
  local n0, n1, n2
  local s = (xin + yin) * F2
  local i, j = floor(xin + s), floor(yin + s)
  local t = (i + j) * G2
  local x0, y0 = xin - (i - t), yin - (j - t)
  local i1, j1
  if x0 > y0 then i1, j1 = 1, 0 else i1, j1 = 0, 1 end
  local x1, y1 = x0 - i1 + G2, y0 - j1 + G2
  local x2, y2 = x0 - 1 + 2 * G2, y0 - 1 + 2 * G2
  local ii, jj = i % 256, j % 256
  local gi0 = perm[ii + perm[jj]] % 8
  local gi1 = perm[ii + i1 + perm[jj + j1]] % 8
  local gi2 = perm[ii + 1 + perm[jj + 1]] % 8
  local t0 = 0.5 - x0 * x0 - y0 * y0
  if t0 < 0 then n0 = 0 else
    t0 = t0 * t0
    n0 = t0 * t0 * (gradients[gi0 + 1][1] * x0 + gradients[gi0 + 1][2] * y0)
  end
  local t1 = 0.5 - x1 * x1 - y1 * y1
  if t1 < 0 then n1 = 0 else
    t1 = t1 * t1
    n1 = t1 * t1 * (gradients[gi1 + 1][1] * x1 + gradients[gi1 + 1][2] * y1)
  end
  local t2 = 0.5 - x2 * x2 - y2 * y2
  if t2 < 0 then n2 = 0 else
    t2 = t2 * t2
    n2 = t2 * t2 * (gradients[gi2 + 1][1] * x2 + gradients[gi2 + 1][2] * y2)
  end
  return 70 * (n0 + n1 + n2)
end)

local function hash2(x, y)
  local h = sin(x * 127.1 + y * 311.7) * 43758.5453
  return h - floor(h)
end

add("fractal value noise", "ss", function(x, y, octaves, gain)
  octaves, gain = octaves or 4, gain or 0.5
  local sum, amplitude, total = 0, 1, 0
  for _ = 1, octaves do
    local ix, iy = floor(x), floor(y)
    local fx, fy = fade(x - ix), fade(y - iy)
    local n = lerp(lerp(hash2(ix, iy) > 0.5 and 1 or 0, hash2(ix + 1, iy) > 0.5 and 1 or 0, fx),
      lerp(hash2(ix, iy + 1) > 0.5 and 1 or 0, hash2(ix + 1, iy + 1) > 0.5 and 1 or 0, fx), fy)
    sum, total = sum + n * amplitude, total + amplitude
    x, y, amplitude = x * 2, y * 2, amplitude * gain
  end
  return sum / total
end)

local function cell_point(cx, cy)
  local h = (cx * 374761 + cy * 668265) % 65536
  return { x = cx + (h % 256) / 256, y = cy + floor(h / 256) / 256 }
end

add("Worley noise", "ss", function(x, y)
  local cx, cy = floor(x), floor(y)
  local nearest, second = math.huge, math.huge
  for dy = -1, 1 do
    for dx = -1, 1 do
      local p = cell_point(cx + dx, cy + dy)
      local d = sqrt((p.x - x) ^ 2 + (p.y - y) ^ 2)
      if d < nearest then nearest, second = d, nearest elseif d < second then second = d end
    end
  end
  return nearest, second
end)

---------------------------------------------------------------------------------------------------
-- Bodies

local planets = {
  { x = 0, y = 0, z = 0, mass = 39.47 }, { x = 4.84, y = -1.16, z = -0.10, mass = 0.037 },
  { x = 8.34, y = 4.12, z = -0.4, mass = 0.011 }, { x = 12.89, y = -15.11, z = -0.22, mass = 0.0017 },
}

add("gravity of planets", "rrr", function(x, y, z)
  local ax, ay, az = 0, 0, 0
  for _, b in ipairs(planets) do
    local dx, dy, dz = b.x - x, b.y - y, b.z - z
    local d2 = dx * dx + dy * dy + dz * dz + 0.01
    local mag = b.mass / (d2 * sqrt(d2))
    ax, ay, az = ax + dx * mag, ay + dy * mag, az + dz * mag
  end
  return ax, ay, az
end)

add("two bodies", "su", function(vy, mass)
  local a = { x = 0, y = 0, vx = 0, vy = 0, mass = 10 }
  local b = { x = 1, y = 0, vx = 0, vy = vy, mass = mass }
  local dt = 0.01
  for _ = 1, 20 do
    local dx, dy = a.x - b.x, a.y - b.y
    local d = sqrt(dx * dx + dy * dy) + 0.1
    local f = dt / (d * d * d)
    a.vx = a.vx - dx * b.mass * f
    a.vy = a.vy - dy * b.mass * f
    b.vx = b.vx + dx * a.mass * f
    b.vy = b.vy + dy * a.mass * f
    for _, each in ipairs { a, b } do
      each.x = each.x + dt * each.vx
      each.y = each.y + dt * each.vy
    end
  end
  return a.x, a.y, b.x, b.y
end)

local Vec = {}
Vec.__index = Vec
function Vec.new(x, y, z) return setmetatable({ x = x, y = y, z = z }, Vec) end
function Vec.__add(a, b) return Vec.new(a.x + b.x, a.y + b.y, a.z + b.z) end
function Vec.__sub(a, b) return Vec.new(a.x - b.x, a.y - b.y, a.z - b.z) end
function Vec.__mul(a, k) return Vec.new(a.x * k, a.y * k, a.z * k) end
function Vec:dot(o) return self.x * o.x + self.y * o.y + self.z * o.z end
function Vec:length() return sqrt(self:dot(self)) end
function Vec:normalized()
  local l = self:length()
  if l == 0 then return Vec.new(0, 0, 0) end
  return Vec.new(self.x / l, self.y / l, self.z / l)
end

add("ray and sphere", "sss", function(dx, dy, dz)
  local origin, center = Vec.new(0, 0, -3), Vec.new(0.2, 0.1, 0)
  local dir = Vec.new(dx, dy, dz):normalized()
  local oc = origin - center
  local b, c = oc:dot(dir), oc:dot(oc) - 1
  local h = b * b - c
  if h < 0 then return -1, 0 end
  local t = -b - sqrt(h)
  local normal = (origin + dir * t - center):normalized()
  return t, max(0, normal:dot(Vec.new(0.577, 0.577, -0.577)))
end)

local function length3(p) return math.sqrt(p[1] * p[1] + p[2] * p[2] + p[3] * p[3]) end
local function scene(p)
  local q = { p[1] % 4 - 2, p[2], p[3] }
  return math.min(length3(q) - 1, p[2] + 1)
end

add("ray marching", "ss", function(u, v)
  local dir = { u, v, 1.5 }
  local l = length3(dir)
  for i = 1, 3 do dir[i] = dir[i] / l end
  local t = 0
  for step = 1, 40 do
    local p = { dir[1] * t, dir[2] * t, dir[3] * t - 4 }
    local d = scene(p)
    if d < 0.001 then return t, step end
    t = t + d
    if t > 30 then break end
  end
  return -1, 0
end)

local function cross(a, b) return { x = a.y * b.z - a.z * b.y, y = a.z * b.x - a.x * b.z, z = a.x * b.y - a.y * b.x } end
local function sub(a, b) return { x = a.x - b.x, y = a.y - b.y, z = a.z - b.z } end
local function dot(a, b) return a.x * b.x + a.y * b.y + a.z * b.z end
local triangle = { { x = -1, y = -1, z = 0 }, { x = 1, y = -1, z = 0.5 }, { x = 0, y = 1, z = 1 } }

add("ray and triangle", "sss", function(x, y, z)
  local o, d = { x = x, y = y, z = -2 }, { x = 0, y = z / 10, z = 1 }
  local e1, e2 = sub(triangle[2], triangle[1]), sub(triangle[3], triangle[1])
  local h = cross(d, e2)
  local a = dot(e1, h)
  if a > -1e-6 and a < 1e-6 then return -1 end
  local f = 1 / a
  local s = sub(o, triangle[1])
  local u = f * dot(s, h)
  if u < 0 or u > 1 then return -1 end
  local q = cross(s, e1)
  local v = f * dot(d, q)
  if v < 0 or u + v > 1 then return -1 end
  return f * dot(e2, q)
end)

local light = { x = 0.3, y = 0.8, z = -0.5 }
local function normalize(v)
  local l = math.sqrt(v.x ^ 2 + v.y ^ 2 + v.z ^ 2)
  return { x = v.x / l, y = v.y / l, z = v.z / l }
end

add("Lambert and Blinn shading", "sss", function(x, y, z)
  local n, l = normalize { x = x, y = y, z = z }, normalize(light)
  local diffuse = math.max(0, n.x * l.x + n.y * l.y + n.z * l.z)
  local half = normalize { x = l.x, y = l.y, z = l.z - 1 }
  local specular = math.max(0, n.x * half.x + n.y * half.y + n.z * half.z)
  return 0.1 + 0.7 * diffuse + 0.2 * specular * specular * specular
end)

---------------------------------------------------------------------------------------------------
-- Hashes and generators

add("FNV-1a", "i", function(n)
  local hash = 2166136261
  for shift = 0, 24, 8 do
    hash = bxor(hash, band(rshift(n, shift), 255))
    local low, high = band(hash, 0xffff), rshift(hash, 16)
    hash = (low * 16777619 + lshift(band(high * 403, 0xffff), 16)) % 4294967296
  end
  return hash
end)

local function mul32(a, b)
  local al, ah = band(a, 0xffff), rshift(a, 16)
  return tobit(al * band(b, 0xffff) + lshift(band(ah * band(b, 0xffff) + al * rshift(b, 16), 0xffff), 16) % 2 ^ 32)
end

add("Murmur finalizer", "i", function(h)
  h = bxor(h, rshift(h, 16))
  h = mul32(h, 0x85ebca6b)
  h = bxor(h, rshift(h, 13))
  h = mul32(h, 0xc2b2ae35)
  return bxor(h, rshift(h, 16))
end)

local crc_table = {}
for i = 0, 255 do
  local c = i
  for _ = 1, 8 do c = band(c, 1) == 1 and bxor(0xEDB88320, rshift(c, 1)) or rshift(c, 1) end
  crc_table[i] = c
end

add("CRC-32", "i", function(n)
  local crc = -1
  for k = 0, 3 do
    local byte = band(rshift(n, k * 8), 255)
    crc = bxor(rshift(crc, 8), crc_table[band(bxor(crc, byte), 255)])
  end
  return bit.bnot(crc)
end)

add("xorshift", "in", function(seed, n)
  local x = bor(seed, 1)
  for _ = 1, n do
    x = bxor(x, lshift(x, 13))
    x = bxor(x, rshift(x, 17))
    x = bxor(x, lshift(x, 5))
  end
  return x
end)

local Random = {}
Random.__index = Random
function Random.new(seed) return setmetatable({ state = seed % 2147483647 }, Random) end
function Random:next()
  self.state = self.state * 16807 % 2147483647
  return self.state / 2147483647
end
function Random:range(a, b) return a + floor(self:next() * (b - a + 1)) end

add("dice of a generator", "in", function(seed, n)
  local rng = Random.new(abs(seed) + 1)
  local sum = 0
  for _ = 1, n do sum = sum + rng:range(1, 6) end
  return sum, rng.state
end)

add("Halton sequence", "nn", function(index, base)
  base = base + 1
  local f, r = 1, 0
  while index > 0 do
    f = f / base
    r = r + f * (index % base)
    index = floor(index / base)
  end
  return r
end)

add("Monte Carlo pi", "i", function(seed)
  local inside, state = 0, abs(seed) % 65536
  for _ = 1, 50 do
    state = (state * 25173 + 13849) % 65536
    local x = state / 65536
    state = (state * 25173 + 13849) % 65536
    local y = state / 65536
    if x * x + y * y <= 1 then inside = inside + 1 end
  end
  return 4 * inside / 50
end)

---------------------------------------------------------------------------------------------------
-- Transforms and matrices

add("FFT of eight", "sss", function(a, b, c)
  local n = 8
  local re, im = { a, b, c, a + b, a - b, b * c, a * c, 1 }, {}
  for i = 1, n do im[i] = 0 end
  local j = 1
  for i = 1, n - 1 do
    if i < j then re[i], re[j] = re[j], re[i] end
    local m = n / 2
    while m >= 1 and j > m do
      j = j - m
      m = m / 2
    end
    j = j + m
  end
  local step = 1
  while step < n do
    for k = 0, step - 1 do
      local angle = -pi * k / step
      local wr, wi = cos(angle), sin(angle)
      for i = k + 1, n, 2 * step do
        local l = i + step
        local tr, ti = wr * re[l] - wi * im[l], wr * im[l] + wi * re[l]
        re[l], im[l] = re[i] - tr, im[i] - ti
        re[i], im[i] = re[i] + tr, im[i] + ti
      end
    end
    step = step * 2
  end
  return re[2], im[2], re[4], im[4]
end)

local signal = {}
for i = 1, 32 do signal[i] = sin(i * 0.7) + 0.3 * cos(i * 1.9) end

add("power of a frequency", "u", function(f)
  local re, im = 0, 0
  for i, v in ipairs(signal) do
    re = re + v * cos(2 * pi * f * i)
    im = im - v * sin(2 * pi * f * i)
  end
  return (re * re + im * im) / #signal
end)

add("DCT of eight", "su", function(base, slope)
  local N = 8
  local input, output = {}, {}
  for i = 0, N - 1 do input[i] = base + slope * i * i end
  for k = 0, N - 1 do
    local sum = 0
    for i = 0, N - 1 do sum = sum + input[i] * math.cos(math.pi / N * (i + 0.5) * k) end
    output[k] = sum * (k == 0 and math.sqrt(1 / N) or math.sqrt(2 / N))
  end
  return output[0], output[1], output[7]
end)

add("matrix product", "sss", function(a, b, c)
  local A = { { 1, a, b }, { a, 2, c }, { b, c, 3 } }
  local C = {}
  for i = 1, 3 do
    C[i] = {}
    for j = 1, 3 do
      local sum = 0
      for k = 1, 3 do sum = sum + A[i][k] * A[k][j] end
      C[i][j] = sum
    end
  end
  return C[1][1] + C[2][2] + C[3][3], C[1][3], C[3][1]
end)

local projection = { { 1.2, 0, 0, 0 }, { 0, 1.6, 0.1, 0 }, { 0, 0, -1.02, -0.2 }, { 0, 0, -1, 0 } }

add("projection of a point", "sss", function(x, y, z)
  local v, r = { x, y, z, 1 }, { 0, 0, 0, 0 }
  for i = 1, 4 do
    for j = 1, 4 do r[i] = r[i] + projection[i][j] * v[j] end
  end
  return r[1] / r[4], r[2] / r[4], r[3] / r[4]
end)

local function eval_a(i, j) return 1 / ((i + j) * (i + j + 1) / 2 + i + 1) end
local function multiply_av(n, v, av)
  for i = 1, n do
    local a = 0
    for j = 1, n do a = a + v[j] * eval_a(i - 1, j - 1) end
    av[i] = a
  end
end

add("spectral norm", "u", function(start)
  local n = 6
  local u, v = {}, {}
  for i = 1, n do u[i] = 1 + start * i end
  for _ = 1, 3 do
    multiply_av(n, u, v)
    multiply_av(n, v, u)
  end
  local vbv, vv = 0, 0
  for i = 1, n do vbv, vv = vbv + u[i] * v[i], vv + v[i] * v[i] end
  return sqrt(vbv / vv)
end)

add("determinant by elimination", "sss", function(a, b, c)
  local m = { { 2, a, b }, { a, 3, c }, { b, c, 4 } }
  local det = 1
  for k = 1, 3 do
    local pivot = k
    for i = k + 1, 3 do
      if math.abs(m[i][k]) > math.abs(m[pivot][k]) then pivot = i end
    end
    if m[pivot][k] == 0 then return 0 end
    if pivot ~= k then
      m[pivot], m[k] = m[k], m[pivot]
      det = -det
    end
    det = det * m[k][k]
    for i = k + 1, 3 do
      local f = m[i][k] / m[k][k]
      for j = k, 3 do m[i][j] = m[i][j] - f * m[k][j] end
    end
  end
  return det
end)

---------------------------------------------------------------------------------------------------
-- Words, lists, clusters

add("Levenshtein distance", "i", function(n)
  local s, t = { 107, 105, 116, 116, 101, 110 }, { 115, 105, 116, 116, 105, 110, 103 }
  for i = 1, 6 do s[i] = s[i] + band(rshift(n, i), 1) end
  local d = {}
  for i = 0, #s do
    d[i] = {}
    d[i][0] = i
  end
  for j = 0, #t do d[0][j] = j end
  for i = 1, #s do
    for j = 1, #t do
      local cost = s[i] == t[j] and 0 or 1
      d[i][j] = min(d[i - 1][j] + 1, d[i][j - 1] + 1, d[i - 1][j - 1] + cost)
    end
  end
  return d[#s][#t]
end)

add("longest common subsequence", "i", function(n)
  local a, b = {}, {}
  for i = 1, 10 do
    a[i] = band(rshift(n, i), 3)
    b[i] = band(rshift(n, i + 12), 3)
  end
  local prev, cur = {}, {}
  for j = 0, #b do prev[j] = 0 end
  for i = 1, #a do
    cur[0] = 0
    for j = 1, #b do
      if a[i] == b[j] then cur[j] = prev[j - 1] + 1 else cur[j] = max(prev[j], cur[j - 1]) end
    end
    prev, cur = cur, prev
  end
  return prev[#b]
end)

local centroids = { { x = -1, y = 0 }, { x = 1, y = 1 }, { x = 0, y = -2 } }

add("nearest centroid", "rr", function(x, y)
  local best, best_distance = nil, math.huge
  for i = 1, #centroids do
    local c = centroids[i]
    local d = (c.x - x) ^ 2 + (c.y - y) ^ 2
    if d < best_distance then best, best_distance = i, d end
  end
  return best or 0, best_distance
end)

add("k-means of six numbers", "sss", function(a, b, c)
  local data = { a, b, c, a + 1, b - 1, c * 2 }
  local centers = { -1, 0, 1 }
  for _ = 1, 5 do
    local sums, counts = { 0, 0, 0 }, { 0, 0, 0 }
    for i = 1, #data do
      local best = 1
      for k = 2, 3 do
        if abs(data[i] - centers[k]) < abs(data[i] - centers[best]) then best = k end
      end
      sums[best] = sums[best] + data[i]
      counts[best] = counts[best] + 1
    end
    for k = 1, 3 do
      if counts[k] > 0 then centers[k] = sums[k] / counts[k] end
    end
  end
  return centers[1], centers[2], centers[3]
end)

add("count of primes by a sieve", "n", function(n)
  local limit = 50
  local composite = {}
  for i = 1, limit do composite[i] = false end
  local count = 0
  for i = 2, limit do
    if not composite[i] then
      if i > n then count = count + 1 end
      for j = i * i, limit, i do composite[j] = true end
    end
  end
  return count
end)

local sorted = {}
for i = 1, 64 do sorted[i] = i * i / 7 end

add("binary search", "r", function(x)
  local lo, hi = 1, #sorted
  while lo <= hi do
    local mid = floor((lo + hi) / 2)
    if sorted[mid] == x then return mid end
    if sorted[mid] < x then lo = mid + 1 else hi = mid - 1 end
  end
  return -lo
end)

add("mean of arguments", "sss", function(...)
  local sum, n = 0, select("#", ...)
  for i = 1, n do sum = sum + (select(i, ...)) end
  return sum / n
end)

local function fib(n)
  if n < 2 then return n end
  return fib(n - 1) + fib(n - 2)
end
add("Fibonacci by recursion", "n", function(n) return fib(n) end)

add("Luhn check of a number", "i", function(n)
  local digits = tostring(abs(n))
  local sum = 0
  for i = 1, #digits do
    local d = tonumber(digits:sub(-i, -i))
    if i % 2 == 0 then
      d = d * 2
      if d > 9 then d = d - 9 end
    end
    sum = sum + d
  end
  return sum % 10
end)

---------------------------------------------------------------------------------------------------
-- Images and grids

local width, height = 16, 12
local image, rows = {}, {}
for y = 1, height do
  rows[y] = {}
  for x = 1, width do
    local v = (x * 31 + y * 17 + x * y * 7) % 256
    image[(y - 1) * width + x] = v
    rows[y][x] = v
  end
end

add("life", "nn", function(x, y)
  local neighbours = 0
  for dy = -1, 1 do
    for dx = -1, 1 do
      if not (dx == 0 and dy == 0) then
        local cx, cy = (x + dx - 1) % width + 1, (y + dy - 1) % height + 1
        if rows[cy][cx] > 127 then neighbours = neighbours + 1 end
      end
    end
  end
  if rows[y][x] > 127 then return neighbours == 2 or neighbours == 3 end
  return neighbours == 3
end)

add("box blur", "nn", function(x, y)
  local sum, count = 0, 0
  for j = max(1, y - 1), min(height, y + 1) do
    for i = max(1, x - 1), min(width, x + 1) do
      sum, count = sum + rows[j][i], count + 1
    end
  end
  return sum / count
end)

add("Gauss blur", "nn", function(x, y)
  local kernel = { 1, 4, 6, 4, 1 }
  local sum, weight = 0, 0
  for k = -2, 2 do
    local i = x + k
    if i >= 1 and i <= width then
      sum = sum + image[(y - 1) * width + i] * kernel[k + 3]
      weight = weight + kernel[k + 3]
    end
  end
  return sum / weight
end)

add("median of a window", "nn", function(x, y)
  local window = {}
  for dy = -1, 1 do
    for dx = -1, 1 do
      local i = min(max(x + dx, 1), width)
      local j = min(max(y + dy, 1), height)
      window[#window + 1] = rows[j][i]
    end
  end
  table.sort(window)
  return window[5]
end)

add("median by insertion", "sss", function(a, b, c)
  local t = { a, b, c, a * b, b - c }
  for i = 2, #t do
    local v, j = t[i], i - 1
    while j >= 1 and t[j] > v do
      t[j + 1] = t[j]
      j = j - 1
    end
    t[j + 1] = v
  end
  return t[3]
end)

add("Sobel edges", "nn", function(x, y)
  local gx_kernel = { { -1, 0, 1 }, { -2, 0, 2 }, { -1, 0, 1 } }
  local gx, gy = 0, 0
  for j = -1, 1 do
    for i = -1, 1 do
      local row = rows[y + j]
      local v = row and row[x + i] or 0
      gx = gx + v * gx_kernel[j + 2][i + 2]
      gy = gy + v * gx_kernel[i + 2][j + 2]
    end
  end
  return sqrt(gx * gx + gy * gy)
end)

add("erosion by a drop", "nn", function(x0, y0)
  local pos = { x = x0 + 0.5, y = y0 + 0.25 }
  local dir = { x = 0, y = 0 }
  local water, sediment = 1, 0
  for _ = 1, 8 do
    local ix, iy = floor(pos.x), floor(pos.y)
    if ix < 1 or iy < 1 or ix >= width or iy >= height then break end
    local at = (iy - 1) * width + ix
    local fx, fy = pos.x - ix, pos.y - iy
    local nw, ne, sw, se = image[at], image[at + 1], image[at + width], image[at + width + 1]
    local g = { x = (ne - nw) * (1 - fy) + (se - sw) * fy, y = (sw - nw) * (1 - fx) + (se - ne) * fx }
    dir.x, dir.y = dir.x * 0.5 - g.x * 0.5, dir.y * 0.5 - g.y * 0.5
    local len = sqrt(dir.x * dir.x + dir.y * dir.y)
    if len == 0 then break end
    pos = { x = pos.x + dir.x / len, y = pos.y + dir.y / len }
    sediment = sediment + min(len * water * 0.01, 1)
    water = water * 0.9
  end
  return pos.x, pos.y, sediment
end)

---------------------------------------------------------------------------------------------------
-- Colours, easing, dates, the earth

add("RGB to HSV", "uuu", function(r, g, b)
  local hi, lo = max(r, g, b), min(r, g, b)
  local h, s, v = 0, 0, hi
  local d = hi - lo
  if hi ~= 0 then s = d / hi end
  if d ~= 0 then
    if hi == r then h = (g - b) / d + (g < b and 6 or 0) elseif hi == g then h = (b - r) / d + 2 else h = (r - g) / d + 4 end
    h = h / 6
  end
  return h, s, v
end)

add("HSV to RGB", "uuu", function(h, s, v)
  local i = floor(h * 6)
  local f = h * 6 - i
  local p, q, t = v * (1 - s), v * (1 - f * s), v * (1 - (1 - f) * s)
  i = i % 6
  local r, g, b
  if i == 0 then r, g, b = v, t, p
  elseif i == 1 then r, g, b = q, v, p
  elseif i == 2 then r, g, b = p, v, t
  elseif i == 3 then r, g, b = p, q, v
  elseif i == 4 then r, g, b = t, p, v
  else r, g, b = v, p, q end
  return r, g, b
end)

local to_xyz = { { 0.4124, 0.3576, 0.1805 }, { 0.2126, 0.7152, 0.0722 }, { 0.0193, 0.1192, 0.9505 } }
local function linear(c) return c <= 0.04045 and c / 12.92 or ((c + 0.055) / 1.055) ^ 2.4 end
local function lab_f(t) return t > 0.008856 and t ^ (1 / 3) or 7.787 * t + 16 / 116 end

add("RGB to Lab", "uuu", function(r, g, b)
  local rgb = { linear(r), linear(g), linear(b) }
  local xyz = {}
  for i, row in ipairs(to_xyz) do
    local sum = 0
    for j, c in ipairs(row) do sum = sum + c * rgb[j] end
    xyz[i] = sum
  end
  local fx, fy, fz = lab_f(xyz[1] / 0.9505), lab_f(xyz[2]), lab_f(xyz[3] / 1.089)
  return 116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)
end)

add("elastic easing", "u", function(t, b, c, d, a, p)
  b, c, d = b or 0, c or 1, d or 1
  if t == 0 then return b end
  t = t / d
  if t == 1 then return b + c end
  if not p then p = d * 0.3 end
  local s
  if not a or a < abs(c) then
    a = c
    s = p / 4
  else
    s = p / (2 * pi) * math.asin(c / a)
  end
  return a * 2 ^ (-10 * t) * sin((t * d - s) * (2 * pi) / p) + c + b
end)

local easing = {}
function easing.outBounce(t)
  if t < 1 / 2.75 then return 7.5625 * t * t end
  if t < 2 / 2.75 then
    t = t - 1.5 / 2.75
    return 7.5625 * t * t + 0.75
  end
  if t < 2.5 / 2.75 then
    t = t - 2.25 / 2.75
    return 7.5625 * t * t + 0.9375
  end
  t = t - 2.625 / 2.75
  return 7.5625 * t * t + 0.984375
end
function easing.inOutBounce(t)
  if t < 0.5 then return (1 - easing.outBounce(1 - t * 2)) / 2 end
  return (1 + easing.outBounce(t * 2 - 1)) / 2
end
add("bouncing", "u", function(t) return easing.inOutBounce(t) end)

add("haversine", "dddd", function(lat1, lon1, lat2, lon2)
  local rad = math.rad
  local dlat, dlon = rad(lat2 - lat1), rad(lon2 - lon1)
  local a = sin(dlat / 2) ^ 2 + cos(rad(lat1)) * cos(rad(lat2)) * sin(dlon / 2) ^ 2
  return 2 * 6371 * math.asin(min(1, sqrt(a)))
end)

local month_days = { 31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31 }
local function is_leap(y) return y % 4 == 0 and (y % 100 ~= 0 or y % 400 == 0) end

add("day of the year", "ymn", function(year, month, day)
  local n = day
  for m = 1, month - 1 do
    n = n + month_days[m]
    if m == 2 and is_leap(year) then n = n + 1 end
  end
  return n
end)

add("Easter", "y", function(Y)
  local a, b, c = Y % 19, floor(Y / 100), Y % 100
  local d, e = floor(b / 4), b % 4
  local f = floor((b + 8) / 25)
  local g = floor((b - f + 1) / 3)
  local h = (19 * a + b - d - g + 15) % 30
  local i, k = floor(c / 4), c % 4
  local l = (32 + 2 * e + 2 * i - h - k) % 7
  local m = floor((a + 11 * h + 22 * l) / 451)
  local month = floor((h + l - 7 * m + 114) / 31)
  return month, (h + l - 7 * m + 114) % 31 + 1
end)

---------------------------------------------------------------------------------------------------
-- Curves, steps, fractals

add("Bezier curve", "uss", function(t, x, y)
  local points = { { 0, 0 }, { x, 1 }, { 1, y }, { 1, 1 } }
  local n = #points
  for k = 1, n - 1 do
    for i = 1, n - k do
      points[i][1] = (1 - t) * points[i][1] + t * points[i + 1][1]
      points[i][2] = (1 - t) * points[i][2] + t * points[i + 1][2]
    end
  end
  return points[1][1], points[1][2]
end)

local knots = { 0, 1, 0.5, 2, 1.5, 3 }
add("Catmull-Rom spline", "u", function(t)
  local n = #knots
  local p = t * (n - 1)
  local i = min(floor(p), n - 2)
  local u = p - i
  local function knot(k) return knots[max(1, min(n, k))] end
  local p0, p1, p2, p3 = knot(i), knot(i + 1), knot(i + 2), knot(i + 3)
  return 0.5 * (2 * p1 + (p2 - p0) * u + (2 * p0 - 5 * p1 + 4 * p2 - p3) * u ^ 2 + (3 * p1 - p0 - 3 * p2 + p3) * u ^ 3)
end)

local function oscillator(_, x, v) return v, 0.5 * (1 - x * x) * v - x end
local function rk4(f, t, x, v, h)
  local k1x, k1v = f(t, x, v)
  local k2x, k2v = f(t + h / 2, x + h / 2 * k1x, v + h / 2 * k1v)
  local k3x, k3v = f(t + h / 2, x + h / 2 * k2x, v + h / 2 * k2v)
  local k4x, k4v = f(t + h, x + h * k3x, v + h * k3v)
  return x + h / 6 * (k1x + 2 * k2x + 2 * k3x + k4x), v + h / 6 * (k1v + 2 * k2v + 2 * k3v + k4v)
end

add("Runge-Kutta", "uu", function(x, v)
  local h = 0.1
  for i = 0, 9 do x, v = rk4(oscillator, i * h, x, v, h) end
  return x, v
end)

local function lorenz(s) return { x = 10 * (s.y - s.x), y = s.x * (28 - s.z) - s.y, z = s.x * s.y - 8 / 3 * s.z } end
add("Lorenz attractor", "uuu", function(x, y, z)
  local state = { x = x, y = y, z = z }
  for _ = 1, 10 do
    local d = lorenz(state)
    state = { x = state.x + d.x * 0.01, y = state.y + d.y * 0.01, z = state.z + d.z * 0.01 }
  end
  return state.x, state.y, state.z
end)

add("Mandelbrot set", "ss", function(cr, ci)
  local zr, zi = 0, 0
  for i = 1, 60 do
    zr, zi = zr * zr - zi * zi + cr, 2 * zr * zi + ci
    if zr * zr + zi * zi > 4 then return i end
  end
  return 0
end)

local function cmul(a, b) return { re = a.re * b.re - a.im * b.im, im = a.re * b.im + a.im * b.re } end
local function cadd(a, b) return { re = a.re + b.re, im = a.im + b.im } end
local function cabs(a) return math.sqrt(a.re * a.re + a.im * a.im) end

add("Julia set", "ss", function(re, im)
  local z, c = { re = re, im = im }, { re = -0.4, im = 0.6 }
  local n = 0
  while n < 50 and cabs(z) <= 2 do
    z = cadd(cmul(z, z), c)
    n = n + 1
  end
  return n
end)

add("Newton fractal", "ss", function(x, y)
  local roots = { { 1, 0 }, { -0.5, sqrt(3) / 2 }, { -0.5, -sqrt(3) / 2 } }
  for step = 1, 25 do
    local x2, y2 = x * x - y * y, 2 * x * y
    local d = 3 * (x2 * x2 + y2 * y2)
    if d == 0 then return 0, step end
    local nx = (2 * x * d + 3 * x2) / (3 * d / 1)
    local ny = (2 * y * d - 3 * y2) / (3 * d / 1)
    x, y = nx, ny
    for i, root in ipairs(roots) do
      if abs(x - root[1]) < 1e-3 and abs(y - root[2]) < 1e-3 then return i, step end
    end
  end
  return 0, 25
end)

---------------------------------------------------------------------------------------------------
-- Filters, finance, geometry

local Biquad = {}
Biquad.__index = Biquad
function Biquad.lowpass(f)
  local w = 2 * pi * f
  local alpha = sin(w) / (2 * 0.707)
  local a0 = 1 + alpha
  return setmetatable({
    b0 = (1 - cos(w)) / 2 / a0, b1 = (1 - cos(w)) / a0, b2 = (1 - cos(w)) / 2 / a0, a1 = -2 * cos(w) / a0, a2 = (1 - alpha) / a0,
    x1 = 0, x2 = 0, y1 = 0, y2 = 0,
  }, Biquad)
end
function Biquad:process(x)
  local y = self.b0 * x + self.b1 * self.x1 + self.b2 * self.x2 - self.a1 * self.y1 - self.a2 * self.y2
  self.x2, self.x1 = self.x1, x
  self.y2, self.y1 = self.y1, y
  return y
end

add("low-pass filter", "u", function(f)
  local filter = Biquad.lowpass(f * 0.4)
  local energy = 0
  for i = 1, #signal do
    local y = filter:process(signal[i])
    energy = energy + y * y
  end
  return energy
end)

add("moving average", "un", function(noise, seed)
  local size, at, sum = 4, 1, 0
  local ring = {}
  for i = 1, size do ring[i] = 0 end
  local out = 0
  for i = 1, 24 do
    local v = sin(i * 0.3) + noise * ((i * seed * 37) % 11 - 5) / 5
    sum = sum - ring[at] + v
    ring[at] = v
    at = at % size + 1
    if i >= size then out = max(out, sum / size) end
  end
  return out
end)

add("Kalman filter", "uu", function(q, r)
  local state = { x = 0, p = 1 }
  local function update(self, z)
    self.p = self.p + q
    local k = self.p / (self.p + r)
    self.x = self.x + k * (z - self.x)
    self.p = (1 - k) * self.p
  end
  for i = 1, 10 do update(state, i + (i * 7 % 3 - 1)) end
  return state.x, state.p
end)

local polygon = { { x = 0, y = 0 }, { x = 2, y = 0.5 }, { x = 2.5, y = 2 }, { x = 1, y = 1 }, { x = -1, y = 2.5 } }
add("point in a polygon", "rr", function(x, y)
  local inside = false
  local j = #polygon
  for i = 1, #polygon do
    local a, b = polygon[i], polygon[j]
    if (a.y > y) ~= (b.y > y) and x < (b.x - a.x) * (y - a.y) / (b.y - a.y) + a.x then inside = not inside end
    j = i
  end
  return inside
end)

local function qmul(a, b)
  return {
    a[1] * b[1] - a[2] * b[2] - a[3] * b[3] - a[4] * b[4], a[1] * b[2] + a[2] * b[1] + a[3] * b[4] - a[4] * b[3],
    a[1] * b[3] - a[2] * b[4] + a[3] * b[1] + a[4] * b[2], a[1] * b[4] + a[2] * b[3] - a[3] * b[2] + a[4] * b[1],
  }
end
add("rotation by a quaternion", "sss", function(angle, x, y)
  local s, c = math.sin(angle / 2), math.cos(angle / 2)
  local q = { c, 0, 0, s }
  local inverse = { q[1], -q[2], -q[3], -q[4] }
  local p = qmul(qmul(q, { 0, x, y, 1 }), inverse)
  return p[2], p[3], p[4]
end)

---------------------------------------------------------------------------------------------------

-- Numbers of a fixed sequence, the same in every run.
local state = 1
local function draw()
  state = state * 16807 % 2147483647
  return state / 2147483647
end

local KINDS = {
  r = function() return (draw() - 0.5) * 10 ^ floor(draw() * 5 - 1) end,
  s = function() return draw() * 6 - 3 end,
  u = draw,
  n = function() return floor(draw() * 12) + 1 end,
  i = function() return floor(draw() * 2 ^ 32) - 2 ^ 31 end,
  d = function() return draw() * 180 - 90 end,
  y = function() return floor(draw() * 600) + 1600 end,
  m = function() return floor(draw() * 12) + 1 end,
}
local SPECIAL = {
  r = { 0, -0.0, 1, -1, 0.5, 1e300, -1e300, 5e-324, 2 ^ 53, 1 / 0, -1 / 0, 0 / 0 },
  s = { 0, -0.0, 1, -1, 0.5, -3, 3, 5e-324, 1e-20, 2, 0 / 0, 1 / 0 },
  u = { 0, 1, 0.5, 0.25, 1 / 3, 5e-324, 1 - 2 ^ -53, 0 / 0 },
  i = { 0, 1, -1, 2 ^ 31 - 1, -2 ^ 31, 255, 65536 },
  d = { 0, -0.0, 90, -90, 45, 0 / 0, 1 / 0 },
  n = { 1, 2, 12 }, y = { 1900, 2000, 2024 }, m = { 1, 2, 12 },
}

--- The inputs of a function: a list for each of its arguments.
---@param kinds string its letters
---@param count integer
function sixty.inputs(kinds, count)
  local lists = {}
  for at = 1, #kinds do
    local kind, list = kinds:sub(at, at), {}
    for i = 1, count do
      local special = SPECIAL[kind]
      local size = #special
      -- all specials with one another, as far as there is room; then each of them at times
      local pick = math.floor((i - 1) / size ^ (at - 1))
      if i <= math.min(count / 4, size ^ #kinds) then
        list[i] = special[pick % size + 1]
      else
        list[i] = (i * 7 + at * 3) % 41 == 0 and special[i % size + 1] or KINDS[kind]()
      end
    end
    lists[at] = list
  end
  return lists
end

return sixty
