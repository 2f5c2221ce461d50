--- Maps on devices with memory of their own that are left before their end: what their items have
-- written to arrays comes home, or is missed aloud (not stock: the same code runs there).

local assert = require "luassert"
local card = require "tests.support_card"
local devices = require "tests.support_device"

local on_pocl = devices.on_pocl(it, pending)

-- seen(): how many elements are there, from the first one on. begun(): a map of which 3,000 results
-- were read, and nothing runs.
local PRELUDE = [[
  local n = 200000
  local out = tidepool.array("double", n)
  local w = app:func { name = "w" } (function(x)
    out[x] = 3 * x
    return x
  end)
  local plain = app:func(function(x) return x end)
  w:map({ 1 }):list()
  out:fill(0)
  local function seen()
    local k = 0
    while k < n and out[k + 1] == 3 * (k + 1) do k = k + 1 end
    return k
  end
  local function at_rest(results)
    local before
    repeat
      before = results:progress().done
      tidepool.sleep(0.1)
    until results:progress().running == 0 or results:progress().done == before
  end
  local function begun()
    local results = w:map(tidepool.range(n), { window = 5000 })
    for i in results do
      if i == 3000 then break end
    end
    at_rest(results)
    return results
  end
  local function kill()
    faults.faults_kill_all()
    pcall(function() plain:map({ 1 }):list() end) -- it is noticed now
  end
  local function collect_until(is_so)
    for _ = 1, 600 do
      collectgarbage()
      if is_so() then return true end
      tidepool.sleep(0.05)
    end
    return false
  end
]]

--- Runs the script; its stdout must be this, and its stderr match that.
local function script(says, stdout, stderr, text)
  on_pocl(says, function()
    local done = card.run(PRELUDE .. text)
    assert.equal(stdout, done.stdout, done.stderr)
    assert.matches("^" .. stderr .. "$", done.stderr)
  end)
end

local MISSED = "tidepool: w: [^\n]+: the device has lost %d+ bytes of results that only it had %([^\n]+%): run their map again\n"

describe("A map on a device that is left before its end", function()
  script("by break has what its items wrote in the arrays when it is collected", "true\n", "", [[
    begun()
    print(collect_until(function() return seen() >= 3000 end))
  ]])

  script("by cancel has it there when nothing of it runs any more", "true\n", "", [[
    local results = begun()
    results:cancel()
    print(collect_until(function() return seen() >= 3000 end))
    assert(not pcall(results.next, results))
  ]])

  script("by an error has it there", "true\n", "", [[
    local results = w:map(tidepool.range(n), { window = 5000 })
    pcall(function()
      for i in results do
        if i == 3000 then at_rest(results) error "enough" end
      end
    end)
    results = nil
    print(collect_until(function() return seen() >= 3000 end))
  ]])

  script("is missed in a line when the device has lost it", "true\tfalse\n", MISSED, [[
    do
      local results = begun()
      kill()
      assert(results)
    end
    for _ = 1, 3 do collectgarbage() end
    print((pcall(function() return w:map({ n }):list() end)), seen() >= 3000)
  ]])

  script("and cancelled is missed in a line, too", "cancelled\n", MISSED, [[
    local results = begun()
    kill()
    results:cancel()
    print(select(2, pcall(function() return results:next() end)).kind)
  ]])
end)

describe("Results that only a lost device had", function()
  --- How many failures of a map of n inputs with these options are there, when the device is lost
  --- before they are read; the values beside them must be right.
  local READ = [[
    local f = app:func { name = "f" } (function(x) return x + 1 end)
    local xs = tidepool.array("double", n)
    for i = 1, n do xs[i] = i end
    local function failures(options, read)
      local results = f:map(xs, options)
      while not results:done() do tidepool.sleep(0.01) end
      kill()
      local failed = 0
      local function look(i, v)
        if not tidepool.is_failure(v) then return assert(v == i + 1 or v == -1) end
        failed = failed + 1
        assert(v.kind == "device" and v.index == i and v.message:find "^job.lua:%d+: f: .*: the device has lost %d+ bytes of results", v.message)
      end
      read(results, look)
      return failed
    end
  ]]
  script("are a failure for each input with return_exceptions", "200000\t200000\t0\t-1\tfalse\n", "", READ .. [[
    local looped = failures({ return_exceptions = true }, function(results, look)
      local last = 0
      for i, v in results do
        assert(i == last + 1)
        last = i
        look(i, v)
      end
      assert(last == n)
    end)
    local listed = failures({ return_exceptions = true }, function(results, look)
      local list = results:list()
      assert(list.n == n)
      for i = 1, n do look(i, list[i]) end
    end)
    local replaced = failures({ on_error = function() return -1 end }, function(results, look)
      for i, v in results do look(i, v) end
    end)
    local a
    failures({ on_error = function() return -1 end }, function(results) a = results:array() end)
    local sum = f:map(a):sum()
    assert(sum == 0, sum) -- nothing of the array is missed any more
    print(looped, listed, replaced, a[n], (pcall(failures, {}, function(results) results:list() end)))
  ]])
end)
