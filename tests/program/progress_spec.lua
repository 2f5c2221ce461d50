--- Progress of maps, as functions of the user's get it. What the program shows stands in
-- progress_line_spec.

local support = require "tests.support"
local tidepool = require "tidepool"

local app = tidepool.App "progress"

describe("a function as the option progress", function()
  local slow = app:func { name = "slow" } (function(x)
    local ffi = require "ffi"
    pcall(ffi.cdef, "int usleep(unsigned);")
    ffi.C.usleep(30000)
    if x == 2 then error "two" end
    return x
  end)

  it("gets the counts meanwhile, and at the end", function()
    local states = {}
    slow:map(tidepool.range(20), { return_exceptions = true, progress = function(s) states[#states + 1] = s end }):list()
    assert.is_true(#states >= 2)
    local last = states[#states]
    assert.same({ "slow", 20, 20, 1, true, true },
      { last.name, last.done, last.total, last.failed, last.is_over, last.is_complete })
    assert.is_false(states[1].is_over)
    for i = 2, #states do assert.is_true(states[i].done >= states[i - 1].done) end
  end)

  it("is called at most ten times a second", function()
    local calls, began = 0, tidepool.now()
    slow:map(tidepool.range(20), { return_exceptions = true, progress = function() calls = calls + 1 end }):list()
    assert.is_true(calls <= (tidepool.now() - began) * 10 + 2)
  end)

  it("hears of a map that fails, or has no known total", function()
    local last
    local function on(s) last = s end
    assert.is_false(pcall(function() slow:map({ 1, 2, 3 }, { progress = on }):list() end))
    assert.same({ true, 3 }, { last.is_over, last.total })
    local n = 0
    slow:map(function() n = n + 1 return n < 5 and n or nil end, { progress = on, return_exceptions = true }):list()
    assert.equal(4, last.done)
  end)

  it("that fails ends the map with its error", function()
    local fine, why = pcall(function() slow:map({ 1, 3, 4 }, { progress = function() error("mine", 0) end }):list() end)
    assert.same({ false, "mine" }, { fine, why })
    support.check_pool()
  end)

  --- The states that a map of f over `inputs` has until it is over; `read` reads it.
  local function states_of(f, inputs, given, read)
    local states = {}
    given.progress = function(s) if not s.is_over then states[#states + 1] = s end end
    local results = f:map(inputs, given)
    if read then read(results) else results:list() end
    return states
  end

  --- Some of the states have this value in this field.
  local function has(states, field, value)
    local seen = {}
    for _, s in ipairs(states) do
      if s[field] == value then return s end
      seen[#seen + 1] = tostring(s[field])
    end
    assert(false, field .. " was " .. table.concat(seen, ", "))
  end

  it("gets what the map waits for", function()
    local one = app:func { name = "one", concurrency_limit = 1 } (function() tidepool.sleep(0.15) end)
    assert.equal(1, has(states_of(one, { 1, 2, 3, 4 }, {}), "waits_for", "limit").limit)
    local n, same = 0, app:func { name = "same" } (function(x) return x end)
    local function slowly()
      n = n + 1
      tidepool.sleep(0.12)
      return n < 6 and n or nil
    end
    assert.is_true(has(states_of(same, slowly, {}), "waits_for", "inputs").waits_since >= 0)
    has(states_of(same, tidepool.range(30), { window = 8 }, function(results)
      for _ in results do tidepool.sleep(0.03) end
    end), "waits_for", "reader")
    local again = app:func { name = "again", retries = { max = 1, initial_delay = 0.5 } } (function()
      if tidepool.current().attempt == 1 then error "again" end
    end)
    has(states_of(again, { 1 }, {}), "waits_for", "retry")
  end)

  it("gets the function whose items keep all workers, though their map was given up", function()
    local ffi = require "ffi"
    local declare = "int pipe(int *); long read(int, void *, size_t); long write(int, const void *, size_t); int close(int);"
    pcall(ffi.cdef, declare)
    local ends = ffi.new "int[2]"
    assert.equal(0, ffi.C.pipe(ends))
    local from, to, begun = ends[0], ends[1], tidepool.array("int32", 1)
    local hold = app:func { name = "hold" } (function() -- in C, where nothing stops it before somebody writes
      local c = require "ffi"
      pcall(c.cdef, declare)
      begun:add(1, 1)
      c.C.read(from, c.new "char[1]", 1)
    end)
    local given_up = hold:spawn_map(tidepool.range(tidepool.workers()))
    support.eventually("all workers have begun one", function() return begun[1] == tidepool.workers() end)
    given_up:cancel()
    local seen
    app:func { name = "late" } (function(x) return x end):map({ 1 }, { progress = function(s)
      if seen or not (s.waits_for == "given up" or s.elapsed > 120) then return end
      seen = s.given_up or false
      for _ = 1, tidepool.workers() do ffi.C.write(to, " ", 1) end
    end }):list()
    assert.equal("hold", seen)
    support.check_pool()
    ffi.C.close(from)
    ffi.C.close(to)
  end)

  it("gets the maps inside of its inputs", function()
    local inner = app:func { name = "inner" } (function(x) tidepool.sleep(0.05) return x end)
    local outer = app:func { name = "outer" } (function() return inner:map(tidepool.range(10)):sum() end)
    local seen
    for _, s in ipairs(states_of(outer, { 1 }, {})) do seen = seen or s.inside and s.inside.done > 0 and s.inside end
    assert.same({ "inner", 10, 1 }, { seen.name, seen.total, seen.maps })
    assert.is_true(seen.done <= 10)
  end)

  it("gets the maps inside of inputs that worker processes run, also of those that wait beside each other", function()
    local inner = app:func { name = "inner", executor = "inline" } (function(x) tidepool.sleep(0.05) return x end)
    local outer = app:func { name = "outer", executor = "processes" } (function() return inner:map(tidepool.range(10)):sum() end)
    for _, of in ipairs { outer, outer:with { concurrent_inputs = 2 } } do
      local seen
      for _, s in ipairs(states_of(of, { 1 }, {})) do seen = seen or s.inside and s.inside.done > 0 and s.inside end
      assert.same({ "inner", 10, 1 }, { seen.name, seen.total, seen.maps })
      assert.is_true(seen.done <= 10)
    end
  end)

  it("may map itself", function()
    local sums = {}
    slow:map({ 1, 3 }, { progress = function() sums[#sums + 1] = slow:remote(7) end }):list()
    assert.equal(7, sums[#sums])
  end)

  it("works in a worker, and on the inline executor", function()
    local outer = app:func(function()
      local seen
      slow:map({ 1, 3, 4 }, { progress = function(s) seen = s.done end }):list()
      return seen
    end)
    assert.equal(3, outer:remote())
    local seen
    slow:with { executor = "inline" }:map({ 1, 3 }, { progress = function(s) seen = s end }):list()
    assert.same({ 2, true }, { seen.done, seen.is_over })
  end)

  it("must be a function or a boolean", function()
    support.mistake(function() local r = slow:map({ 1 }, { progress = 5 }) return r end, "option 'progress' must be true, false or a function, got 5")
  end)
end)
