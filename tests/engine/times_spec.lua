--- When inputs ran and for how long: the option times, results:times() and f:stats().

local tidepool = require "tidepool"
local support = require "tests.support"

local contains, sleep = support.contains, support.sleep

local app = tidepool.App "times"

--- Every element is a number in the range.
local function within(a, least, most)
  for i, x in a:each() do assert.is_true(x >= least and x <= most, ("element %d is %s"):format(i, tostring(x))) end
end

describe("results:times()", function()
  after_each(function() support.check_pool() end)

  it("says when each input was queued and run, for how long, by whom and how often", function()
    for _, executor in ipairs { "inline", "threads", "processes" } do
      local f = app:func { executor = executor, retries = 2 } (function(x)
        if x == 3 and tidepool.current().attempt < 3 then error "again" end
        sleep(x / 50)
        return tidepool.current().worker
      end)
      local began = os.time()
      local results = f:map({ 1, 2, 3, 4 }, { times = true })
      local workers = results:list()
      local times = results:times()
      for _, name in ipairs { "queued", "started", "duration", "worker", "attempts" } do assert.equal(4, #times[name]) end
      within(times.queued, began - 1, os.time() + 1)
      for i = 1, 4 do
        assert.is_true(times.started[i] >= times.queued[i] - 0.001)
        assert.is_true(times.duration[i] >= i / 50 * 0.9, times.duration[i])
        assert.equal(i == 3 and 3 or 1, times.attempts[i])
        assert.equal(workers[i], times.worker[i])
      end
    end
  end)

  it("has those of the results that were handed out, failures too, in the inputs' places", function()
    local f = app:func(function(x)
      if x % 2 == 0 then error "even" end
      sleep((5 - x) / 100)
    end)
    local results = f:map({ 1, 2, 3, 4 }, { times = true, return_exceptions = true, ordered = false })
    assert.equal(0, #results:times().duration)
    local n, seen = 0, {}
    for i in results do
      n, seen[i] = n + 1, true
      local times = results:times()
      for k = 1, #times.attempts do
        assert.equal(seen[k] and 1 or 0, times.attempts[k])
        assert.equal(seen[k] or false, times.duration[k] == times.duration[k])
      end
    end
    assert.equal(4, n)
    within(results:times().duration, 0, 600)
  end)

  it("has those of a million small inputs, however their results are read", function()
    local n = support.times(1000000)
    local f = app:func(function(x) return x end)
    local results = f:map(tidepool.range(n), { times = true })
    assert.equal(n * (n + 1) / 2, results:sum())
    local times = results:times()
    assert.equal(n, #times.duration)
    within(times.duration, 0, 600)
    assert.equal(1, times.attempts:min())
    local returns = app:func { returns = "double" } (function(x) return x end):map(tidepool.range(1000), { times = true })
    returns:array()
    assert.equal(1000, #returns:times().worker)
  end)

  it("has NaN and no attempt for what was not run", function()
    local f = app:func { name = "kept", cache = support.temp_path() } (function(x) return x end)
    f:map({ 1, 2 }):list()
    local results = f:map({ 1, 2, 3 }, { times = true })
    results:list()
    local times = results:times()
    assert.same({ n = 3, 0, 0, 1 }, times.attempts:list())
    for i = 1, 2 do assert.is_true(times.duration[i] ~= times.duration[i] and times.started[i] ~= times.started[i]) end
    within(times.duration:slice(3), 0, 600)
  end)

  it("is an error of a map that keeps none", function()
    local results = app:func { name = "none" } (function(x) return x end):map { 1 }
    local fine, why = pcall(function() local times = results:times() return times end)
    assert.is_false(fine)
    contains(tostring(why), "times_spec.lua:", "results:times: the map of 'none' keeps no times: give it the option times = true")
    assert.equal(1, results:list()[1])
  end)
end)

describe("f:stats().duration", function()
  it("has the mean, percentiles and the maximum over all maps and calls", function()
    local f = app:func(function(x) sleep(x) return x end)
    assert.is_nil(f:stats().duration)
    f:remote(0.2)
    local inputs = {}
    for i = 1, 9 do inputs[i] = 0.02 end
    f:map(inputs):list()
    support.eventually("all is counted", function() return f:stats().done == 10 end)
    local d = f:stats().duration
    assert.is_true(d.p50 >= 0.018 and d.p50 <= d.p90 and d.p90 <= d.p99 and d.p99 <= d.max)
    assert.is_true(d.mean >= 0.03 and d.mean <= d.max)
    assert.is_true(d.max >= 0.2 and d.p99 >= 0.18)
  end)
end)
