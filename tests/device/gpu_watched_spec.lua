--- Elements that are read in one place and written in another one on a device: no other input comes
--- between, or the input fails.

local devices = require "tests.support_device"
local tidepool = require "tidepool"
local translate = require "tidepool.translate.translate"

local on_device = devices.on_device(it, pending)
local on_card = devices.on_card(it, pending, 'local tidepool = require "tidepool"\nlocal app = tidepool.App()\n')
local app = tidepool.App()
local COUNT = 20000

--- Arrays for a function that counts, and what is in them after `count` calls on a device.
local function counted(make, inputs, n, ctype)
  local arrays = {}
  for k = 1, n do arrays[k] = tidepool.array(ctype or "double", 8) end
  app:func { gpu = true } (make(unpack(arrays))):for_each(inputs or tidepool.range(COUNT))
  local lists = {}
  for k = 1, n do lists[k] = arrays[k]:list() end
  return lists
end

--- The same by plain Lua.
local function in_order(make, n, ctype)
  local arrays, lists = {}, {}
  for k = 1, n do arrays[k] = tidepool.array(ctype or "double", 8) end
  local f = make(unpack(arrays))
  for i = 1, COUNT do f(i) end
  for k = 1, n do lists[k] = arrays[k]:list() end
  return lists
end

describe("An element that is read in one statement and written in another on a device", function()
  on_device("loses nothing, whatever stands between", function()
    local function make(a, b, c, d, e, f, g, h)
      return function(i)
        local k = i % 4 + 1
        local v = a[k]
        local w = 1
        if i % 3 == 0 then w = 2 end
        a[k] = v + w
        v = b[k]
        for _ = 1, 3 do v = v + 1 end
        b[k] = v
        local t = { n = c[k], d[k] }
        t.n, t[1] = t.n + 1, 2
        c[k] = t.n
        d[k] = d[k] + t[1]
        local x
        repeat x = e[k] until x >= 0
        if i % 2 == 0 then goto done end
        x = x + 1
        ::done::
        e[k] = x + 1
        for j = 1, 4 do
          local each = f[j]
          if i % 2 == 0 then each = each + 1 end
          f[j] = each + 1
        end
        local sum = 1
        for j = 1, 4 do
          if j == k then sum = sum + g[j] end
        end
        g[k] = sum
        h[k] = h[2 * k - k] + 1
        h[k] = h[k] + h[k + 4] + 1
      end
    end
    assert.same(in_order(make, 8), counted(make, nil, 8))
  end)

  on_device("loses nothing where it decides what is written, or whether", function()
    local function make(a, b, c, d, e)
      return function(i)
        local k, x = i % 4 + 1, i * 7919 % 10007
        if x > a[k] then a[k] = x end
        local least = b[k]
        if least == 0 then b[k] = x + 1 elseif x + 1 < least then b[k] = x + 1 end
        if c[k] < 100 then c[k] = c[k] + 1 end
        if d[1] == 0 then
          d[1] = 1
          d[2] = d[2] + 1
        end
        while e[k] < i do e[k] = i end
      end
    end
    assert.same(in_order(make, 5), counted(make, nil, 5))
  end)

  on_device("loses nothing across functions", function()
    local function make(a, b, c, d, e, f)
      local function get(k)
        local v = a[k]
        if v < 0 then return 0 end
        return v
      end
      local function put(k, v) b[k] = v end
      local function bump(array, k)
        local v = array[k]
        if v >= 0 then v = v + 1 end
        array[k] = v
      end
      local function both(x)
        local t = { x, 1 }
        return t[1] + t[2]
      end
      local function go(n, k)
        if n == 0 then return end
        local v = e[k]
        if v >= 0 then v = v + 1 end
        e[k] = v
        return go(n - 1, k)
      end
      return function(i)
        local k = i % 4 + 1
        a[k] = get(k) + 1
        put(k, b[k] + 1)
        for j = 1, 4 do bump(c, j) end
        d[k] = both(d[k])
        go(3, k)
        local v = f[k]
        local function set() f[k] = v + 1 end
        set()
      end
    end
    assert.same(in_order(make, 6), counted(make, nil, 6))
  end)

  on_device("loses nothing where a function is called for several arrays", function()
    local function make(a, b)
      local function counter(array)
        return function(k)
          local v = array[k]
          if v >= 0 then v = v + 1 end
          array[k] = v
        end
      end
      local count_a, count_b = counter(a), counter(b)
      return function()
        count_a(1)
        count_b(2)
      end
    end
    assert.same(in_order(make, 2), counted(make, nil, 2))
  end)

  on_device("loses nothing where what was read later stands before", function()
    local function make(a)
      local function late(k)
        local v = a[k]
        for _ = 1, 5 do v = v + 0 end
        return v
      end
      return function()
        local v = a[1]
        for _ = 1, 20 do v = v + 0 end
        local w = late(1)
        a[1] = v + (w - w) + 1
      end
    end
    assert.same(in_order(make, 1), counted(make, nil, 1))
  end)

  on_device("loses nothing where a function writes in several calls, or in one that `or` asks for", function()
    local function make(a)
      local function put(k, v)
        a[k] = v
        return true
      end
      return function(i)
        local u = a[1]
        if u >= 0 then u = u + 1 end
        put(1, u)
        local v = a[2]
        if v >= 0 then v = v + 1 end
        put(2, v)
        local x = i * 7919 % 10007
        local _ = x <= a[3] or put(3, x)
      end
    end
    assert.same(in_order(make, 1), counted(make, nil, 1))
  end)

  on_device("loses nothing where a branch that has returned has written it, too", function()
    local function make(a, b)
      return function(i)
        local v = a[1]
        if i % 2 == 0 then
          a[1] = v + 1
          return
        end
        a[1] = v + 2
        b[1] = b[1] + 1
      end
    end
    assert.same(in_order(make, 2), counted(make, nil, 2))
  end)

  on_device("loses nothing in inputs that repeat, after a map of a range in another state of the script", function()
    local a, out, is_on, keys = tidepool.array("double", 4), tidepool.array("double", 4), false, {}
    local f = app:func { gpu = true } (function(k)
      out[k] = 1
      if is_on then
        local v = a[k]
        for _ = 1, 5 do v = v + 0 end
        a[k] = v + 1
      end
    end)
    f:for_each(tidepool.range(4))
    is_on = true
    f:for_each(tidepool.range(4))
    for i = 1, COUNT do keys[i] = i % 4 + 1 end
    f:for_each(keys)
    local each = COUNT / 4 + 1
    assert.same({ n = 4, each, each, each, each }, a:list())
  end)

  on_device("loses nothing by another name, or another way to number it", function()
    local a, m = tidepool.array("double", 8), tidepool.array("double", tidepool.grid(2, 2))
    local b, c, planes = a:slice(3, 8), m.columns, tidepool.array("uint16", tidepool.grid(2, 2, 2))
    app:func { gpu = true } (function(i)
      local k, y, x = i % 4 + 1, i % 2 + 1, i % 4 > 1 and 2 or 1
      a[k + 2] = b[k] + 1
      m[(y - 1) * c + x] = m:at(y, x) + 1
      m:set(y, 1, m:at(y, 0, "clamp") + m:at(y, 7, 0))
      local v = planes:at(y, 1, 2)
      local w = 1
      if v < 0 then w = 2 end
      planes:set(y, 1, 2, v + w)
    end):for_each(tidepool.range(COUNT))
    local quarter = COUNT / 4
    assert.same({ n = 8, 0, 0, quarter, quarter, quarter, quarter, 0, 0 }, a:list())
    assert.same({ quarter, quarter, quarter, quarter }, { m[1], m[2], m[3], m[4] })
    assert.same({ COUNT / 2, COUNT / 2, COUNT }, { planes:at(1, 1, 2), planes:at(2, 1, 2), planes:sum() })
  end)

  on_device("is what was replaced, where it is used", function()
    local next_place, places = tidepool.array("int32", 1), tidepool.array("int8", COUNT)
    local function take()
      local at = next_place[1] + 1
      next_place[1] = at
      return at
    end
    local take_two = tidepool.array("int32", 1)
    local others = tidepool.array("int8", COUNT)
    app:func { gpu = true } (function()
      places[take()] = 1
    end):for_each(tidepool.range(COUNT))
    app:func { gpu = true } (function()
      local at = take_two[1]
      take_two[1] = at + 1
      others[at + 1] = 1
    end):for_each(tidepool.range(COUNT))
    assert.same({ COUNT, COUNT, COUNT, COUNT }, { next_place[1], take_two[1], places:sum(), others:sum() })
  end)

  on_device("loses nothing in elements of other types, and where inputs repeat", function()
    local function make(a)
      return function(i)
        local k = i % 8 + 1
        local v = a[k]
        if v >= 0 then v = (v + 1) % 100 end
        a[k] = v
      end
    end
    for _, ctype in ipairs { "int8", "uint8", "int16", "uint16", "int32", "uint32", "float" } do
      assert.same(in_order(make, 1, ctype), counted(make, nil, 1, ctype), ctype)
    end
    local a, keys = tidepool.array("double", 4), tidepool.array("double", COUNT)
    for i = 1, COUNT do keys[i] = i % 4 + 1 end
    app:func { gpu = true } (function(k)
      local v = a[k]
      if v >= 0 then v = v + 1 end
      a[k] = v
    end):for_each(keys)
    assert.same({ n = 4, COUNT / 4, COUNT / 4, COUNT / 4, COUNT / 4 }, a:list())
  end)

  on_device("writes once more what it wrote between, and has its locals as they were", function()
    local a, out = tidepool.array("double", 1), tidepool.array("double", COUNT)
    local sums = app:func { gpu = true } (function(i)
      local s, n = i, 0
      local v = a[1]
      out[i] = 2 * i
      s, n = s + 1, n + 1
      if n > 1 then s = -1 end
      a[1] = v + s
      return s + n
    end):map(tidepool.range(COUNT)):array()
    for i = 1, COUNT do assert.same({ i + 2, 2 * i }, { sums[i], out[i] }) end
    assert.equal(COUNT * (COUNT + 1) / 2 + COUNT, a[1])
  end)

  on_device("is lost by none, or fails with what to write, where it cannot be done again", function()
    local a, b = tidepool.array("double", 1), tidepool.array("double", 1)
    local f = app:func { gpu = true } (function()
      local v = a[1]
      b[1] = b[1] + 1
      for _ = 1, 20 do v = v + b[1] % 1 end
      a[1] = v + 1
    end)
    local done, failed = 0, 0
    for _, r in f:map(tidepool.range(COUNT), { return_exceptions = true }) do
      if r == nil then
        done = done + 1
      else
        failed = failed + 1
        assert.matches("gpu_watched_spec.lua:%d+: another input changed the element of 'a' that this reads in line %d+, before it was written "
          .. "here; update it in one statement, a%[k%] = a%[k%] %+ v, or by a:add%(k, v%)", r.message)
      end
    end
    assert.same({ COUNT, COUNT, COUNT }, { done + failed, b[1], a[1] + failed })
  end)
end)

describe("Two arrays that share elements", function()
  on_card("are refused where each would have a copy that is written", "0\t0\t2\nfalse\ttrue\n", [[
    local a = tidepool.array("double", 3)
    local part, name = a:slice(3, 3), a
    local function add(b, k)
      return pcall(function() app:func { gpu = true } (function() if k > 0 then a[3] = a[3] + 1 else b[k] = b[k] + 1 end end):for_each { 1, 2 } end)
    end
    add(name, 3)
    print(a[1], a[2], a[3])
    local fine, why = add(part, 1)
    print(fine, why:find("'a' and 'b' share elements, which are written", 1, true) ~= nil or why:find("'b' and 'a' share", 1, true) ~= nil)
  ]])
end)

describe("An element of an input's own", function()
  local a = tidepool.array("double", 100)
  local m = tidepool.array("double", tidepool.grid(10, 10))

  local function is_watched(fn, distinct, inputs)
    return translate.translate(fn, { inputs = inputs or { "double" }, distinct = distinct }).is_watched
  end

  it("is watched only where inputs may repeat", function()
    local function sweep(i)
      local v = a[i]
      for _ = 1, 3 do v = v * 0.5 + 1 end
      a[i] = v
    end
    local function by_helper(i)
      local k = i + 1
      sweep(k)
    end
    local function row(y)
      for x = 2, 10 do m:set(y, x, m:at(y, x - 1) + m:at(y, x)) end
    end
    local function place(y, x)
      local v = m:at(y, x)
      if v > 0 then v = -v end
      m:set(y, x, v)
    end
    local function segment(i)
      local base = (i - 1) * 10
      for j = 1, 5 do
        local u, v = a[base + j], a[base + j + 5]
        a[base + j] = u + v
        a[base + j + 5] = u - v
      end
    end
    local function by_index(y)
      for x = 2, m.columns do m[(y - 1) * m.columns + x] = m:at(y, x - 1) + m:at(y, x) end
    end
    for i, fn in ipairs { sweep, by_helper, row, segment, by_index } do
      assert.same({ i, false, true }, { i, is_watched(fn, "range"), is_watched(fn) })
    end
    local PLACE = { "row", "column" }
    assert.same({ false, true }, { is_watched(place, "grid", PLACE), is_watched(place, nil, PLACE) })
  end)

  it("is watched where others are written, too", function()
    assert.is_true(is_watched(function(i)
      local v = a[i]
      if v > 0 then v = -v end
      a[i] = v
      a[i + 1] = 0
    end, "range"))
    assert.is_true(is_watched(function(i)
      for j = 1, 3 do
        local v = a[2 * i + j]
        if v > 0 then v = -v end
        a[2 * i + j] = v
      end
    end, "range"))
    assert.is_true(is_watched(function(i)
      local v = a[i % 8 + 1]
      if v > 0 then v = -v end
      a[i % 8 + 1] = v
    end, "range"))
    local function two(i) return i, i % 3 + 1 end
    local function bump(_, k)
      local v = a[k]
      if v > 0 then v = -v end
      a[k] = v
    end
    assert.is_true(is_watched(function(i)
      bump(two(i))
      bump(1, i)
    end, "range"))
    assert.is_true(is_watched(function(i)
      local k = 3 * i + i / 2 % 2 * 2 -- 3 more where i / 2 is not whole
      local v = a[k]
      if v > 0 then v = -v end
      a[k] = v
    end, "range"))
    assert.is_false(is_watched(function(i)
      local k = 4 * i - i * 7 % 4
      local v = a[k]
      if v > 0 then v = -v end
      a[k] = v
    end, "range"))
  end)

  it("is none that is watched where another array is written", function()
    local b = tidepool.array("double", 100)
    assert.is_false(is_watched(function(i)
      local v = a[i % 8 + 1]
      if v > 0 then b[i] = a[i] + v end
      b[i % 7 + 1] = v
    end))
  end)
end)
