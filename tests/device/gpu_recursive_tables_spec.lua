--- Functions on devices that call themselves and have tables, or results that may be missing:
--- arguments, results and locals of the functions around them. Each is compared with plain Lua over
--- 64 pairs of small whole numbers, in the scalar and the vector form; which of them run in vectors
--- only as scalars, recursion.lua says.

package.path = "tests/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)

local XS, YS = {}, {}
for i = 0, 63 do XS[i + 1], YS[i + 1] = math.floor(i / 8), i % 8 end

--- A spec that compares functions of two whole numbers from 0 to 7; where plain Lua fails, the
--- device does. `limit`: their recursion_limit.
local function same(what, limit, ...)
  local functions = { ... }
  on_device(what, function()
    for i, fn in ipairs(functions) do
      for _, lanes in ipairs { 1, 8 } do
        local translation = translate(fn, { lanes = lanes, name = "f" .. i, inputs = { "double", "double" }, recursion_limit = limit })
        if lanes == 8 and translation.lanes == 1 then break end -- the same text
        local outputs, failed, details = device:run(device:build(translation), { XS, YS })
        for k = 1, 64 do
          local where = ("function %d, lanes %d, f(%d, %d)"):format(i, lanes, XS[k], YS[k])
          local fine, value = pcall(fn, XS[k], YS[k])
          local code = failed and failed[k - 1] or 0
          local message = code ~= 0 and opencl.message(translation, 64, k - 1, outputs, failed, details) or nil
          assert.equal(fine, code == 0, where .. ": " .. tostring(message or value))
          if fine then assert.equal(value, outputs[1][k - 1], where) end
        end
      end
    end
  end)
end

---------------------------------------------------------------------------------------------------

local function swap(a, i, j) a[i], a[j] = a[j], a[i] end

-- How many permutations of 1 to n have no element in its place; `sign`: the difference of even and
-- odd ones.
local function permute(a, k, n, count)
  if k > n then
    for i = 1, n do if a[i] == i then return end end
    count.all = count.all + 1
    count.first = count.first + a[1]
    return
  end
  for i = k, n do
    swap(a, k, i)
    permute(a, k + 1, n, count)
    swap(a, k, i)
  end
end

local function derangements(x, y)
  local n, a, count = math.max(2, math.min(x, 4)), { 1, 2, 3, 4 }, { all = 0, first = y }
  permute(a, 1, n, count)
  return count.all * 100 + count.first + a[1] + a[n]
end

-- Queens on a board of n, with the columns of those in the rows above.
local function queens(x, y)
  local n, columns, found = 1 + x % 6, { 0, 0, 0, 0, 0, 0 }, 0
  local function place(row)
    if row > n then found = found + 1 return end
    for column = 1, n do
      local is_free = true
      for above = 1, row - 1 do
        local apart = math.abs(columns[above] - column)
        if apart == 0 or apart == row - above then is_free = false break end
      end
      if is_free then
        columns[row] = column
        place(row + 1)
      end
    end
  end
  place(1)
  return found * 10 + y
end

local function partition(a, lo, hi)
  local pivot, i = a[hi], lo - 1
  for j = lo, hi - 1 do
    if a[j] <= pivot then
      i = i + 1
      a[i], a[j] = a[j], a[i]
    end
  end
  a[i + 1], a[hi] = a[hi], a[i + 1]
  return i + 1
end

local function quicksort(a, lo, hi)
  if lo < hi then
    local p = partition(a, lo, hi)
    quicksort(a, lo, p - 1)
    quicksort(a, p + 1, hi)
  end
  return a
end

local function sorted(x, y)
  local a = { 5, x, 3, y, x * y % 7, -x, 2, y - x }
  local b = quicksort(a, 1, #a)
  local code = 0
  for i = 1, 8 do code = code * 3 + b[i] + a[i] end
  return code
end

-- The size of the region of a 5 x 5 picture that a point is in.
local function region(x, y)
  local cells, w = {}, 5
  for i = 1, 25 do cells[i] = (i * i + x + (i % 3) * y) % 3 == 0 and 1 or 0 end
  local across, down = { 1, -1, 0, 0 }, { 0, 0, 1, -1 }
  local function fill(cx, cy, colour)
    if cx < 1 or cx > w or cy < 1 or cy > w then return 0 end
    local at, size = (cy - 1) * w + cx, 1
    if cells[at] ~= colour then return 0 end
    cells[at] = 2
    for d = 1, 4 do size = size + fill(cx + across[d], cy + down[d], colour) end
    return size
  end
  return fill(1 + x % 5, 1 + y % 5, cells[y % 5 * 5 + x % 5 + 1])
end

-- The same without a loop, of 3 x 3.
local function small_region(x, y)
  local cells = {}
  for i = 1, 9 do cells[i] = (i * i + x + (i % 3) * y) % 3 == 0 and 1 or 0 end
  local function fill(cx, cy, colour)
    if cx < 1 or cx > 3 or cy < 1 or cy > 3 or cells[cy * 3 + cx - 3] ~= colour then return 0 end
    cells[cy * 3 + cx - 3] = 2
    return 1 + fill(cx + 1, cy, colour) + fill(cx - 1, cy, colour) + fill(cx, cy + 1, colour) + fill(cx, cy - 1, colour)
  end
  return fill(1 + x % 3, 1 + y % 3, cells[y % 3 * 3 + x % 3 + 1])
end

local COINS = { 1, 2, 3, 5, 7 }

local function subsets(x, y)
  local chosen = { false, false, false, false, false }
  local best = { count = 0, weight = 0 }
  local function try(i, left)
    if left == 0 then
      best.count = best.count + 1
      for k = 1, #COINS do if chosen[k] then best.weight = best.weight + k end end
      return
    end
    if i > #COINS or left < 0 then return end
    chosen[i] = true
    try(i + 1, left - COINS[i])
    chosen[i] = false
    try(i + 1, left)
  end
  try(1, x + y)
  return best.count * 1000 + best.weight
end

-- Every way of putting numbers from a list together, by what is left of them.
local function path_sums(x, y)
  local path, all = {}, 0
  local function go(k, sum)
    if k == 0 then
      all = all + sum + #path * path[1]
      return
    end
    for step = 1, 2 do
      path[#path + 1] = step + y
      go(k - 1, sum * 3 + step)
      path[#path] = nil
    end
  end
  go(x % 4 + 1, 0)
  return all
end

---------------------------------------------------------------------------------------------------

-- A tree for ranges of numbers, each node with its halves by index, and the points that it is of.
local NODES, POINTS = {}, { 7, 1, 5, 3, 2, 6, 0, 4 }
local function build(lo, hi)
  local node = { split = 0, left = 0, right = 0, first = lo, last = hi }
  NODES[#NODES + 1] = node
  local at = #NODES
  if hi - lo >= 2 then
    local middle = math.floor((lo + hi) / 2)
    node.split = middle
    node.left, node.right = build(lo, middle), build(middle + 1, hi)
  end
  return at
end
build(1, 8)

-- The nearest point, through the whole tree, with the best one in a record.
local function nearest(x, y)
  local function visit(nodes, at, best)
    local node = nodes[at]
    if node.left == 0 then
      for i = node.first, node.last do
        local d = math.abs(POINTS[i] - x) + math.abs(i - y)
        if d < best.distance then best.distance, best.index = d, i end
      end
      return
    end
    visit(nodes, node.left, best)
    visit(nodes, node.right, best)
  end
  local best = { distance = math.huge, index = 0 }
  visit(NODES, 1, best)
  return best.distance * 10 + best.index
end

-- A sum over a tree of records, by what the function around it has.
local function tree_sum(x, y)
  local function sum(at, depth)
    local node = NODES[at]
    if node.left == 0 then return depth * (node.last - node.first + 1) + x end
    if node.split > x + y then return sum(node.left, depth + 1) end
    return sum(node.left, depth + 1) + 2 * sum(node.right, depth + 1)
  end
  return sum(1, 0)
end

local function times(a, b) return { re = a.re * b.re - a.im * b.im, im = a.re * b.im + a.im * b.re } end

local function power(z, n)
  if n == 0 then return { re = 1, im = 0 } end
  if n % 2 == 1 then return times(z, power(z, n - 1)) end
  local half = power(z, n / 2)
  return times(half, half)
end

local function complex_power(x, y)
  local z = power({ re = x - 3, im = 1 }, y)
  local again = power(z, 2)
  return z.re + 1000 * z.im + again.re
end

-- The smallest and the largest of a list, in halves.
local function extremes(list, lo, hi)
  if lo == hi then return { low = list[lo], high = list[lo], sum = list[lo] } end
  local middle = math.floor((lo + hi) / 2)
  local a, b = extremes(list, lo, middle), extremes(list, middle + 1, hi)
  return { low = math.min(a.low, b.low), high = math.max(a.high, b.high), sum = a.sum + b.sum }
end

local function span(x, y)
  local e = extremes({ x, y, x * y % 5, 3, y - x }, 1, 5)
  return e.low + 10 * e.high + 100 * e.sum
end

-- Records inside of records, and lists in them.
local Walker = {}
Walker.__index = Walker
function Walker:go(n)
  if n == 0 then return self end
  self.at.x, self.at.y = self.at.y + n, self.at.x
  self.seen[n % 3 + 1] = self.seen[n % 3 + 1] + self.at.x
  return self:go(n - 1)
end

local function walked(x, y)
  local walker = setmetatable({ at = { x = x, y = y }, seen = { 0, 0, 0 } }, Walker)
  local same_one = walker:go(x % 5)
  same_one.at.x = same_one.at.x + 0.5
  return walker.at.x + 10 * walker.at.y + 100 * walker.seen[1] + 1000 * same_one.seen[2]
end

-- Each level has a table of its own, and gives it to the next one.
local function chain(x, y)
  local function down(p, n)
    if n <= 0 then return p.a * 100 + p.b end
    local q = { a = p.b, b = p.a + p.b }
    local value = down(q, n - 1)
    return value + p.a + q.a
  end
  return down({ a = x, b = y }, x % 5)
end

local even
local function odd(n, t, log)
  t.turns = t.turns + 1
  log[2] = log[2] + n
  if n == 0 then return false end
  return even(n - 1, t, log)
end
function even(n, t, log)
  t.turns = t.turns + 1
  log[1] = log[1] + n
  if n == 0 then return true end
  return odd(n - 1, t, log)
end

local function odd_or_even(x, y)
  local t, log, turns = { turns = y }, { 0, 0, 0 }, 0
  local function inner(n)
    local function other(k) turns = turns + k if k > 0 then return inner(k - 1) end return t.turns end
    t.turns = t.turns + 1
    if n > 0 then return other(n - 1) end
    return turns
  end
  local value = inner(y)
  return (even(x, t, log) and 1000 or 0) + t.turns + 10 * log[1] + 100 * log[2] + value
end

---------------------------------------------------------------------------------------------------

local function find(v, depth)
  if v > 9 then return v elseif depth > 0 then return find(v * 2, depth - 1) end
end

local function found(x, y) return find(x, y) or -1 end

local LIST = { 4, 8, 15, 16, 23, 42 }
local function search(lo, hi, v)
  if lo > hi then return nil, "not there" end
  local middle = math.floor((lo + hi) / 2)
  if LIST[middle] == v then return middle end
  if LIST[middle] < v then return search(middle + 1, hi, v) end
  return search(lo, middle - 1, v)
end

local function searched(x, y)
  local at = search(1, #LIST, x * 2 + y)
  if not at then return 0 end
  return at
end

-- Fails where it is not there, as plain Lua does.
local function must_be_there(x, y) return search(1, #LIST, x * 2 + y) + 1 end

-- The first way out of a range that has one, as a record or nothing.
local function hit(lo, hi, n, x)
  if hi < lo or n == 0 then return nil end
  local middle = math.floor((lo + hi) / 2)
  if middle == x then return { at = middle, left = n } end
  local h = hit(lo, middle - 1, n - 1, x)
  if h then return h end
  return hit(middle + 1, hi, n - 1, x)
end

local function hits(x, y)
  local h = hit(0, y, 4, x)
  if h == nil then return -1 end
  return h.at * 10 + h.left
end

-- Arguments that may be missing, a table and a number.
local function optional(x, y)
  local function walk(p, n, extra)
    if n == 0 then return (p and p.v or 7) + (extra or 0) end
    local q
    if n % 3 ~= 0 then q = { v = n } end
    local more = find(x, 1)
    return walk(q, n - 1, more) + n
  end
  return walk({ v = y }, x % 5)
end

describe("Lists of a caller, in functions that call themselves,", function()
  same("are read and written there", 6, derangements)
  same("also by functions in it", 7, queens, subsets)
  same("also where they are returned", 9, sorted)
  same("also where it goes deep", 26, region)
  same("also by four calls", 10, small_region)
  same("also where they grow", 5, path_sums)
end)

describe("Records, in functions that call themselves,", function()
  same("are of the caller", 5, nearest, tree_sum, walked)
  same("are results", 8, complex_power, span)
  same("are made anew at each level", 5, chain)
  same("are given to another function that calls the first", 9, odd_or_even)
end)

describe("What may be missing, of functions that call themselves,", function()
  same("is nil where a caller asks", 8, found, searched)
  same("fails where nobody asks", 8, must_be_there)
  same("may be a table", 5, hits)
  same("may be an argument", 6, optional)
end)

---------------------------------------------------------------------------------------------------

-- With arguments that are known these run in vectors, too.
local function known_permutations(x, y)
  local a, count = { x, y, 3 }, { all = 0, first = 0 }
  permute(a, 1, 3, count)
  return count.all * 10 + count.first + a[1]
end

local function known_power(x, y)
  local z = power({ re = x, im = y }, 5)
  return z.re + z.im * 3
end

local function filled(x, y)
  local a = { 0, 0, 0, 0 }
  local function fill(i) if i > 4 then return 0 end a[i] = x * i return fill(i + 1) end
  return fill(1) + a[3] + y
end

local function in_turns(x, y)
  local p = { sum = 0, count = 0 }
  local function walk(v, n)
    if n == 0 then return v end
    if v > y then p.sum = p.sum + v return walk(v - 2, n - 1) end
    p.count = p.count + 1
    return walk(v + 3, n - 1) + p.count
  end
  return walk(x, 4) * 100 + p.sum * 10 + p.count
end

-- A loop: it returns only what it gives for others, and the same table.
local function counted_down(x, y)
  local t = { n = 0 }
  local function down(v, p) if v <= 0 then return p.n end p.n = p.n + v return down(v - 1, p) end
  return down(x, t) + y * t.n
end

-- No loop, since the tables change places.
local function in_other_places(x, y)
  local function go(a, b, n) if n <= 0 then return a.v * 10 + b.v end a.v = a.v + n return go(b, a, n - 1) end
  return go({ v = x }, { v = y }, 3)
end

-- What is read before a call that changes it, and behind it.
local function in_order(x, y)
  local t, v = { v = x }, y
  local function bump(n) if n == 0 then return 1 end t.v, v = t.v + 1, v + 2 return bump(n - 1) end
  local s = t.v * 1000 + v + bump(2) * t.v + (t.v + bump(1)) * 7 + t.v
  s = s + math.max(t.v, bump(1), v) * 100 + v
  if bump(1) > 1 or bump(2) == 1 and t.v > 5 then s = s + 0.5 end
  while bump(1) == 1 and t.v < 20 do s = s + v end
  return s
end

-- Names for parts of tables that a call changes, or puts others in the place of; arguments that are
-- one table; and tables that are in lists.
local function by_other_names(x, y)
  local t = { c = { v = x }, d = { v = y } }
  local p, q = t.c, t.d
  local function mix(a, n) if n == 0 then return end a.c = { v = n * 10 } a.d.v = a.d.v + n mix(a, n - 1) end
  mix(t, 2)
  local function twice(a, b, n) if n == 0 then return a.v end a.v = a.v + 1 b.v = b.v * 2 return twice(a, b, n - 1) end
  local list = { { v = x, n = 0 }, { v = y, n = 0 }, { v = 3, n = 0 } }
  local function visit(one, n) one.n = one.n + n if n == 0 then return one.v end return visit(list[n], n - 1) + one.v end
  return p.v + t.c.v * 3 + q.v * 5 + twice(q, q, 2) * 7 + t.d.v + visit(list[1 + x % 3], 3) * 11 + list[2].n
end

local function larger_of(x, y)
  local function larger(p, q, n) if n == 0 then if p.v > q.v then return p end return q end p.v = p.v + 1 return larger(p, q, n - 1) end
  local a, b = { v = x }, { v = y }
  return larger(a, b, 2).v * 10 + a.v
end

-- A parameter that is assigned to, and may be missing.
local function best_of(x, y)
  local function best(list, i, b)
    if i > 4 then return b end
    if list[i] > x then if not b or list[i] < b then b = list[i] end end
    return best(list, i + 1, b)
  end
  return best({ 5, y, 2, 7 }, 1) or -1
end

local function told(x, y)
  local t = { v = 0 }
  local function go(n)
    t.v = n
    if n > 5 then error("too large: " .. n) end
    local r = n > 0 and go(n - 1) or 0
    return r + t.v
  end
  return go(y) + x
end

describe("Functions with tables that call themselves", function()
  same("have vectors where known arguments end that", nil, known_permutations, known_power, filled, in_turns, in_other_places, counted_down)
  same("are run where they are called", 9, in_order)
  same("change tables, whatever the names for these", 4, by_other_names, larger_of)
  same("may have parameters that are given nothing at first", nil, best_of)
  same("fail as others do", 9, told)

  it("are refused where a table would be two, or has no size, with what to do", function()
    local function one_of_two(x)
      local function larger(p, q, n) if n == 0 then if p.v > q.v then return p end return q end return larger(p, q, n - 1) end
      local a, b = { v = x }, { v = 3 }
      local u = larger(a, b, 2)
      u.v = 7
      return a.v
    end
    local function held(x)
      local n = { v = x }
      local t = { c = n }
      local function change(q, k) if k == 0 then return end q.c.v = k change(q, k - 1) end
      change(t, 2)
      return n.v
    end
    local function put(x)
      local t, s = { c = { v = x } }, { c = { v = 1 } }
      local function change(p, q, k) if k == 0 then return end p.c = q.c change(p, q, k - 1) end
      change(t, s, 2)
      return t.c.v
    end
    local function grows(x)
      local l = {}
      local function add(k) if k > x then return end l[#l + 1] = k add(k + 1) end
      add(1)
      return #l
    end
    for fn, says in pairs { [one_of_two] = "a change of 'u', which is also 'a' since line %d+", [held] = "a change of 't.c', which is also 'n'",
      [put] = "'q.c' is put into 'p.c' in 'change', which calls itself; on a device these are two tables, put a new one there",
      [grows] = "'l' grows in 'add', which calls itself, and how far is not known before it runs; give a bound, as in recursion_limit = 16" } do
      local ok, message = pcall(translate, fn, { name = "f", recursion_limit = fn ~= grows and 5 or nil })
      assert.is_false(ok)
      assert.matches(says, message)
    end
  end)
end)

describe("a function that calls itself", function()
  local chosen = { math.abs, function(v) return v * 3 end }
  same("sees names as they are when it is called", 9, function(x, y)
    local f, best = function(v) return v + y end, nil
    local function sum(n)
      if n <= 0 then return 0 end
      local s = f(n) + (best and 100 or 1)
      best = n
      return s + sum(n - 1)
    end
    local first = sum(x)
    f = function(v) return v * 10 end
    return first * 1000 + sum(y)
  end)
  same("takes functions and texts that are chosen, and gives texts", 9, function(x, y)
    local function walk(n, f, mode)
      if n <= 0 then return 0, mode end
      if n > 6 then return 1, "far" end
      local s, last = walk(n - 1, chosen[n % 2 + 1], n > 3 and "slow" or mode)
      return s + f(n - 4), last
    end
    local s, last = walk(x, chosen[y % 2 + 1], "fast")
    return s * 10 + (last == "fast" and 1 or last == "slow" and 2 or 3)
  end)
  same("sees one table by two names", 9, function(x, y)
    local function set(a, b, n)
      if n <= 0 then return 0 end
      a.v = 1
      b.v = 2
      return (a.v == 1 and 1 or 10) + set(b, a, n - 1)
    end
    local t, u = { v = 0 }, { v = y }
    return set(t, t, x) * 100 + set(t, u, 2) + t.v
  end)
end)
