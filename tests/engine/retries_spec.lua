--- retries: how often, after which waits, and for which failures.

local tidepool = require "tidepool"
local support = require "tests.support"

local collect, contains, failure_of = support.collect, support.contains, support.failure_of
local note, now = support.note, support.now

describe("retries", function()
  local app = tidepool.App "retries"

  after_each(function() support.check_pool() end)

  --- Fails until its attempt-th try.
  local function works_at(attempt, options)
    return app:func(options)(function(x)
      if tidepool.current().attempt < attempt then error("attempt " .. tidepool.current().attempt, 0) end
      return x
    end)
  end

  it("are 0 by default", function()
    local f = app:func(function() error "no" end)
    assert.equal(1, failure_of(f.remote, f).attempts)
  end)

  it("give the value of the first attempt that works", function()
    assert.equal(5, (works_at(3, { retries = 2 }):remote(5)))
    assert.same({ 1, 2, 3, n = 3 }, works_at(2, { retries = 5 }):map({ 1, 2, 3 }):list())
  end)

  it("end with the last attempt's failure", function()
    local f = works_at(9, { retries = 2 })
    local failure = failure_of(f.remote, f, 1)
    assert.equal(3, failure.attempts)
    assert.equal("attempt 3", failure.message)
    contains(tostring(failure), "attempt 3 of 3")
  end)

  it("may be a table with max", function()
    local f = works_at(9, { retries = { max = 1 } })
    assert.equal(2, failure_of(f.remote, f, 1).attempts)
  end)

  it("tell each failure that will be tried again to `on`, in the caller", function()
    local seen = {}
    local f = works_at(3, {
      retries = { max = 4, on = function(failure) seen[#seen + 1] = failure end },
    })
    assert.equal(7, (f:remote(7)))
    assert.equal(2, #seen)
    for i, failure in ipairs(seen) do
      assert.is_true(tidepool.is_failure(failure))
      assert.equal("attempt " .. i, failure.message)
      assert.equal(i, failure.attempts)
      assert.equal(1, failure.index)
    end
  end)

  it("wait initial_delay, times backoff each, up to max_delay", function()
    local path = support.temp_path()
    local f = app:func {
      retries = { max = 4, initial_delay = 0.05, backoff = 2, max_delay = 0.12, jitter = 0 },
    } (function()
      note(path, ("%.6f"):format(now()))
      error "always"
    end)
    assert.equal(5, failure_of(f.remote, f).attempts)
    local starts = support.notes(path)
    assert.equal(5, #starts)
    for i, delay in ipairs { 0.05, 0.1, 0.12, 0.12 } do
      local waited = tonumber(starts[i + 1]) - tonumber(starts[i])
      assert.is_true(waited >= delay - 0.002, ("waited %.4f s instead of %.2f s"):format(waited, delay))
      assert.is_true(waited < delay + 5, "hangs")
    end
  end)

  it("of one input do not hold up the others, and its value comes in its place", function()
    local path = support.temp_path()
    local f = app:func { retries = { max = 2, initial_delay = 0.4, backoff = 1 } } (function(x)
      note(path, x)
      if x == 2 and tidepool.current().attempt < 3 then error "later" end
      return x
    end)
    local list = f:map({ 1, 2, 3, 4, 5, 6 }):list()
    assert.same({ 1, 2, 3, 4, 5, 6, n = 6 }, list)
    local lines = support.notes(path)
    assert.equal(8, #lines)
    assert.same({ "2", "2" }, { lines[7], lines[8] })
  end)

  it("hold no worker and no place under concurrency_limit while they wait", function()
    local f = app:func { concurrency_limit = 1, retries = { max = 1, initial_delay = 0.3 } } (function(x)
      if x == 1 and tidepool.current().attempt == 1 then error "later" end
      return x
    end)
    local order = {}
    for i in f:map({ 1, 2, 3 }, { ordered = false }) do order[#order + 1] = i end
    assert.same({ 2, 3, 1 }, order)
  end)

  it("jitter stays between no wait and twice the delay", function()
    local path = support.temp_path()
    local f = app:func { retries = { max = 5, initial_delay = 0.02, backoff = 1, jitter = 0.5 } } (function()
      note(path, ("%.6f"):format(now()))
      error "always"
    end)
    assert.equal(6, failure_of(f.remote, f).attempts)
    local starts = support.notes(path)
    for i = 1, 5 do
      assert.is_true(tonumber(starts[i + 1]) - tonumber(starts[i]) >= 0.009)
    end
  end)

  it("count per input", function()
    local path = support.temp_path()
    local f = app:func { retries = 3 } (function(x)
      note(path, x)
      if tidepool.current().attempt < x then error "not yet" end
      return x
    end)
    assert.same({ 1, 2, 3, 4, n = 4 }, f:map({ 1, 2, 3, 4 }):list())
    assert.equal(1 + 2 + 3 + 4, #support.notes(path))
  end)

  it("work with return_exceptions and with failures of other inputs", function()
    local f = app:func { retries = 1 } (function(x)
      if x == 2 then error { code = x } end
      if x == 3 and tidepool.current().attempt == 1 then error "once" end
      return x
    end)
    local got, n = collect(f:map({ 1, 2, 3 }, { return_exceptions = true }))
    assert.equal(3, n)
    assert.equal(2, got[2].code)
    assert.equal(2, got[2].attempts)
    assert.equal(3, got[3])
  end)

  it("are not for values that cannot travel", function()
    local path = support.temp_path()
    local f = app:func { retries = 3 } (function()
      note(path, "x")
      return io.tmpfile()
    end)
    local failure = failure_of(f.remote, f)
    assert.equal("codec", failure.kind)
    assert.equal(1, failure.attempts)
    assert.equal(1, #support.notes(path))
  end)

  it("stop when the map is cancelled", function()
    local path = support.temp_path()
    local f = app:func { retries = { max = 1000, initial_delay = 0.01, backoff = 1 } } (function()
      note(path, "x")
      error "always"
    end)
    local results = f:map { 1 }
    support.eventually("some attempts", function() return #support.notes(path) >= 3 end)
    results:cancel()
    support.eventually("nothing runs", function() return f:stats().running == 0 end)
    local tries = #support.notes(path)
    support.sleep(0.2)
    assert.equal(tries, #support.notes(path))
  end)

  it("of many inputs at once all finish", function()
    local f = app:func { retries = { max = 2, initial_delay = 0.001 } } (function(x)
      if x % 3 == tidepool.current().attempt then error "again" end
      return x
    end)
    local n = 0
    for i, v in f:map(tidepool.range(2000)) do
      assert(i == v)
      n = n + 1
    end
    assert.equal(2000, n)
  end)
end)
