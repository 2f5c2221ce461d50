--- What must not fall off a cliff beside W1: few inputs, other inputs, other results, one failure.
-- Where a limit is a ratio to W1, the floor is W1 itself, measured in turns.

local tidepool = require "tidepool"

return function(bench)
  local n = bench.size(100000, 5000)
  local app = tidepool.App "bench"
  local square = app:func(function(x) return x * x end)
  local f = square.raw
  local xs = {}
  for i = 1, n do xs[i] = i end

  --- A number that tells lists apart.
  local function sum(list)
    local s = 0
    for i = 1, list.n or n do
      local x = list[i]
      s = s + (type(x) == "number" and x or type(x) == "string" and #x + x:byte(-1) or x and 3 or 5) * (i % 7)
    end
    return s
  end

  local function same_as_serial(id, list, expected)
    if sum(list) ~= expected then error(id .. ": the results are wrong", 0) end
  end

  --- The floor of the ratios to W1, which gives the sum that the variant's own serial loop has.
  local function w1_for(expected)
    return function()
      local list = square:map(xs):list()
      return { is_w1 = true, list = list, expected = expected }
    end
  end

  local w1_sum = 0
  for i = 1, n do w1_sum = w1_sum + f(i) * (i % 7) end

  --- A variant against W1: `call` gives a list; `plain` the same by a plain loop.
  local function against_w1(row)
    local expected = sum(row.plain())
    row.floor, row.floor_is = w1_for(expected), "W1"
    row.unit, row.per = "ns a call", n
    row.sum = function(result)
      if not result.is_w1 then return sum(result) end
      same_as_serial("W1", result.list, w1_sum)
      return result.expected
    end
    bench.compare(row)
  end

  --- The results of fn over the items of a list, by a plain loop.
  local function plain(fn, list)
    return function()
      local out = { n = n }
      for i = 1, n do out[i] = fn(list[i]) end
      return out
    end
  end

  -- ---- few inputs ----

  for _, count in ipairs { 1, 10, 1000 } do
    local few = {}
    for i = 1, count do few[i] = i end
    local times = math.max(1, math.floor(bench.size(2000, 20) / math.max(1, count / 10)))
    bench.compare {
      id = "n", what = ("map(%d numbers):list()"):format(count), unit = "us a map", per = times,
      floor_is = "serial loop into a table",
      floor = function()
        local s = 0
        for _ = 1, times do
          local out = {}
          for i = 1, count do out[i] = f(few[i]) end
          s = s + out[count]
        end
        return s
      end,
      run = function()
        local s = 0
        for _ = 1, times do s = s + square:map(few):list()[count] end
        return s
      end,
    }
  end

  -- ---- other inputs ----

  local mixed = {}
  for i = 1, n do mixed[i] = i % 2 == 0 and i or "s" .. i end
  local measure = app:func(function(x)
    if type(x) == "number" then return x * x end
    return #x
  end)
  against_w1 {
    id = "mixed", what = "numbers and strings in turns", at_most_ratio = 4,
    plain = plain(measure.raw, mixed), run = function() return measure:map(mixed):list() end,
  }

  local rarely = {}
  for i = 1, n do rarely[i] = i % 1000 == 0 and "s" .. i or i end
  against_w1 {
    id = "mixed", what = "1 string in 1,000 numbers", at_most_ratio = 4,
    plain = plain(measure.raw, rarely), run = function() return measure:map(rarely):list() end,
  }

  against_w1 {
    id = "range", what = "map(range(100,000)):list()",
    plain = plain(f, xs), run = function() return square:map(tidepool.range(n)):list() end,
  }

  against_w1 {
    id = "iter", what = "an iterator's numbers",
    plain = plain(f, xs),
    run = function()
      local i = 0
      return square:map(function()
        i = i + 1
        if i <= n then return i end
      end):list()
    end,
  }

  local strings = {}
  for i = 1, n do strings[i] = "name " .. i end
  local length = app:func(function(s) return #s end)
  against_w1 {
    id = "str", what = "strings in, numbers out",
    plain = plain(length.raw, strings), run = function() return length:map(strings):list() end,
  }

  local add = app:func(function(a, b) return a + b end)
  local pairs_of = {}
  for i = 1, n do pairs_of[i] = { i, i % 3 } end
  against_w1 {
    id = "star", what = "starmap over pairs of numbers",
    plain = function()
      local out = { n = n }
      for i = 1, n do out[i] = add.raw(pairs_of[i][1], pairs_of[i][2]) end
      return out
    end,
    run = function() return add:starmap(pairs_of):list() end,
  }

  -- ---- other results ----

  local both = app:func(function(x) return x, -x end)
  against_w1 {
    id = "two", what = "functions that return two values",
    plain = plain(function(x) return x - x / 2 end, xs),
    run = function()
      local first, second = both:map(xs):list()
      for i = 1, n do first[i] = first[i] + second[i] / 2 end
      return first
    end,
  }

  local nothing = app:func(function() return nil end)
  against_w1 {
    id = "nil", what = "functions that return nil",
    plain = plain(nothing.raw, xs), run = function() return nothing:map(xs):list() end,
  }

  local is_even = app:func(function(x) return x % 2 == 0 end)
  against_w1 {
    id = "bool", what = "functions that return booleans",
    plain = plain(is_even.raw, xs), run = function() return is_even:map(xs):list() end,
  }

  local tag = app:func(function(x) return "item " .. x end)
  bench.compare {
    id = "tag", what = "functions that return strings", unit = "ns a call", per = n,
    floor = plain(tag.raw, xs), floor_is = "serial loop into a table",
    run = function() return tag:map(xs):list() end, sum = sum,
  }

  -- ---- failures ----

  local bad = -1
  local picky = app:func(function(x)
    if x < 0 then error "negative" end
    return x * x
  end)
  local with_bad = {}
  for i = 1, n do with_bad[i] = xs[i] end
  with_bad[math.floor(n / 2)] = bad
  local function forgiving_sum(list)
    local s = 0
    for i = 1, n do
      local x = list[i]
      if i ~= math.floor(n / 2) then
        s = s + x * (i % 7)
      elseif x ~= f(i) and not (tidepool.is_failure(x) and x.index == i) then
        error("fail: the failure is not in its place", 0)
      end
    end
    return s
  end
  bench.compare {
    id = "fail", what = "one failing item, return_exceptions", unit = "ns a call", per = n, at_most_ratio = 1.2,
    floor = function() return picky:map(xs, { return_exceptions = true }):list() end, floor_is = "the same, none failing",
    run = function() return picky:map(with_bad, { return_exceptions = true }):list() end,
    sum = forgiving_sum,
  }
end
