--- Numbers, strings, booleans and nil side by side: they travel in columns
-- (lua/tidepool/engine/mixed.lua), where nothing may depend on what stands beside what, on where a
-- block ends, or on what came before.

local tidepool = require "tidepool"
local support = require "tests.support"

local contains = support.contains

local LONGEST = 4096 -- longer strings are pinned, or travel as messages

--- n values of all kinds; `salt` tells lists apart.
local function of_all_kinds(n, salt)
  local list = { n = n }
  for i = 1, n do
    local kind = (i * 7 + salt + math.floor(i / 50)) % 9
    if kind == 0 then list[i] = i * salt
    elseif kind == 1 then list[i] = "s" .. i
    elseif kind == 2 then list[i] = true
    elseif kind == 3 then list[i] = false
    elseif kind == 4 then list[i] = nil
    elseif kind == 5 then list[i] = ("long "):rep(i % 300)
    elseif kind == 6 then list[i] = ""
    elseif kind == 7 then list[i] = -i / 3
    else list[i] = "a\0b" .. string.char(i % 256) end
  end
  return list
end

local function pack(...)
  return { n = select("#", ...), ... }
end

--- Fails unless what `results` gives by next() is expected(i), packed, for i = 1..n.
local function expect(results, n, expected)
  for i = 1, n do
    local got, want = pack(results:next()), expected(i)
    assert(got[1] == i, ("result %d comes as %s"):format(i, tostring(got[1])))
    assert(got.n == want.n + 1, ("result %d has %d values instead of %d"):format(i, got.n - 1, want.n))
    for c = 1, want.n do
      local x, y = got[c + 1], want[c]
      assert(x == y or (x ~= x and y ~= y), ("value %d of result %d"):format(c, i))
    end
  end
  assert.is_nil((results:next()))
end

describe("Scalars of all kinds side by side", function()
  local app = tidepool.App "mixed"
  local give = app:func(function(...) return ... end)

  after_each(function() support.check_pool() end)

  for _, executor in ipairs { "threads", "inline" } do
    it("travel and come back as they are, on " .. executor, function()
      local list = of_all_kinds(20000, 3)
      local back = give:with { executor = executor }:map(list):list()
      assert.equal(list.n, back.n)
      for i = 1, list.n do assert(back[i] == list[i], i) end
    end)

    it("may be the results of one function, in any number, on " .. executor, function()
      local some = app:func { executor = executor } (function(i)
        local k = i % 6
        if k == 0 then return end
        if k == 1 then return nil end
        if k == 2 then return "text " .. i, i end
        if k == 3 then return i, nil, true end
        if k == 4 then return 0 / 0 end
        return nil, nil, nil, false, "last"
      end)
      expect(some:map(tidepool.range(5000)), 5000, function(i) return pack(some.raw(i)) end)
      local a, b, c, d, e, f = some:map(tidepool.range(600)):list()
      assert.is_nil(f)
      for i = 1, 600 do
        local p, q, r, s, t = some.raw(i)
        assert((a[i] == p or p ~= p) and b[i] == q and c[i] == r and d[i] == s and e[i] == t, i)
      end
    end)
  end

  it("may be zipped with numbers and ranges", function()
    local n = 3000
    local list, numbers = of_all_kinds(n, 5), {}
    for i = 1, n do numbers[i] = i / 7 end
    expect(give:map(list, numbers, tidepool.range(n)), n, function(i) return pack(list[i], numbers[i], i) end)
  end)

  it("may come from an iterator", function()
    local n = 40000
    local list, i = of_all_kinds(n, 11), 0
    for k = 1, n do if list[k] == nil then list[k] = "no hole" end end
    expect(give:map(function()
      i = i + 1
      return list[i]
    end), n, function(k) return pack(list[k]) end)
  end)

  it("may be arguments of starmap, in any number", function()
    local items = {}
    for i = 1, 4000 do
      if i % 5 == 0 then items[i] = { i, "second", i % 2 == 0 }
      elseif i % 1000 < 500 then items[i] = { i, i + 1 }
      elseif i % 7 == 0 then items[i] = { "only " .. i }
      elseif i % 11 == 0 then items[i] = {}
      else items[i] = { true, false } end
    end
    expect(give:starmap(items), #items, function(i) return pack(unpack(items[i])) end)
  end)

  it("may stand beside long strings, tables and functions", function()
    local n = 3000
    local list = {}
    for i = 1, n do
      if i % 97 == 0 then list[i] = ("x"):rep(LONGEST + i % 3 - 1)
      elseif i % 501 == 0 then list[i] = { i }
      elseif i % 2 == 0 then list[i] = i
      else list[i] = "s" .. i end
    end
    local i = 0
    for k, x in give:map(list) do
      i = i + 1
      assert(i == k)
      assert(type(x) == "table" and x[1] == i or x == list[i], i)
    end
    assert.equal(n, i)
  end)

  it("may be strings that fill their blocks", function()
    local n = 5000
    local list = {}
    for i = 1, n do list[i] = (string.char(97 + i % 26)):rep(i % LONGEST) end
    local double = app:func(function(s) return s .. "!" end)
    expect(double:map(list), n, function(i) return pack(list[i] .. "!") end)
  end)

  it("may be long strings among inputs, which are pinned and let go", function()
    local output = support.output_of([[
      local tidepool = require "tidepool"
      local app = tidepool.App "lent"
      local length = app:func { retries = 1 } (function(s, i)
        if i == 7 and tidepool.current().attempt == 1 then error "again" end
        return type(s) == "string" and #s + s:byte(-1) or s
      end)
      local function strings(salt)
        local list = {}
        for i = 1, 40 do list[i] = i % 4 == 0 and i or (string.char(64 + salt) .. i):rep(2 ^ 19) end
        return list
      end
      local function check(list, got)
        for i = 1, 40 do assert(got[i] == length.raw(list[i]), i) end
      end
      local function used()
        collectgarbage()
        collectgarbage()
        return collectgarbage "count" / 1024
      end
      local before = used()
      for salt = 1, 5 do
        local list = strings(salt)
        check(list, length:map(list, tidepool.range(40)):list())
      end
      print("read to the end", used() - before < 5)
      for salt = 1, 5 do
        local results = length:map(strings(salt), tidepool.range(40))
        results:next()
        if salt % 2 == 0 then results:cancel() end
      end
      used()
      while length:stats().running > 0 do os.execute "sleep 0.01" end
      length:map({ 1 }, { 1 }):list() -- whoever is here next takes back what workers had at the cancel
      print("left early", used() - before < 5)
      local inner = app:func(function(s) return #s end)
      local outer = app:func(function(k)
        local list = {}
        for i = 1, 5 do list[i] = ("x"):rep(k * 10000 + i) end
        return inner:map(list):sum()
      end)
      print("nested", outer:map({ 1, 2, 3 }):sum())
    ]], { workers = 2 })
    assert.equal("read to the end\ttrue\nleft early\ttrue\nnested\t300045\n", output)
  end)

  it("fail item by item, and the others keep their results", function()
    local picky = app:func(function(x)
      if x == false then error "not false" end
      return x, "kept"
    end)
    local list = of_all_kinds(5000, 2)
    local failed = 0
    for i, x, kept in picky:map(list, { return_exceptions = true }) do
      if tidepool.is_failure(x) then
        assert(list[i] == false and x.index == i)
        failed = failed + 1
      else
        assert(x == list[i] and kept == "kept", i)
      end
    end
    assert.is_true(failed > 100)
  end)

  it("are read in part by next and the rest as lists", function()
    local list = of_all_kinds(3000, 4)
    local results = give:map(list)
    for i = 1, 1234 do assert.equal(i, (results:next())) end
    local rest = results:list()
    for i = 1235, 3000 do assert(rest[i] == list[i], i) end
    assert.is_nil(rest[1234])
  end)

  it("run for their effect only in for_each", function()
    local done = app:func(function(x)
      if x == "s8" then error "this one" end
    end):for_each(of_all_kinds(1000, 3), { return_exceptions = true })
    assert.equal(1000, done.ok + done.failed)
  end)

  it("are no numbers: array and sum say which is not", function()
    local f = app:func(function(x) return x == 70 and "seventy" or x end)
    contains(tostring(select(2, pcall(function() return f:map(tidepool.range(100)):array() end))), "result 70", "seventy")
    contains(tostring(select(2, pcall(function() return f:map(tidepool.range(100)):sum() end))), "result 70", "seventy")
  end)

  it("turn numbers into numbers again when the function does", function()
    local f = app:func(function(x) return x == 10 and "ten" or x end)
    for _ = 1, 3 do
      local list = f:map(tidepool.range(30000)):list()
      for i = 1, 30000 do assert(list[i] == (i == 10 and "ten" or i), i) end
    end
    assert.equal(5050, give:map(tidepool.range(100)):sum())
  end)
end)
