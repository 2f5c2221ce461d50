--- Events: what somebody sets, and others wait for.

local tidepool = require "tidepool"
local support = require "tests.support"

local contains, failure_of, mistake = support.contains, support.failure_of, support.mistake

local app = tidepool.App "event"
local square = app:func(function(x) return x * x end)
local fails = app:func { name = "fails" } (function() error("ohno", 0) end)

describe("An event", function()
  after_each(function()
    assert.same({}, tidepool.loop())
    support.check_pool()
  end)

  it("gives what it was set to, to all who wait and to all who ask later", function()
    local event = tidepool.event()
    local tasks = {}
    for i = 1, 3 do tasks[i] = tidepool.async(function() return event:get() end) end
    assert.is_false(event:done())
    assert.is_true(event:set("a", nil, 3, nil))
    assert.is_true(event:done())
    for i = 1, 3 do assert.same({ n = 4, "a", nil, 3 }, { n = select("#", tasks[i]:get()), tasks[i]:get() }) end
    assert.same({ "a", nil, 3 }, { event:get() })
  end)

  it("raises what it has failed with, unchanged", function()
    for _, why in ipairs { "text", { code = 7 }, 5 } do
      local event = tidepool.event()
      local task = tidepool.async(function() return select(2, pcall(event.get, event)) end)
      assert.is_true(event:fail(why))
      assert.equal(why, (task:get()))
      assert.equal(why, select(2, pcall(event.get, event)))
    end
  end)

  it("is what it was made first", function()
    local event = tidepool.event()
    event:set(1)
    assert.is_false(event:set(2))
    assert.is_false(event:fail "late")
    event:cancel()
    assert.equal(1, event:get())
    local failed = tidepool.event()
    failed:fail "first"
    assert.is_false(failed:set(2))
    assert.same({ false, "first" }, { pcall(failed.get, failed) })
  end)

  it("can be waited for in the script, where a task sets it", function()
    local event = tidepool.event()
    tidepool.async(function()
      tidepool.sleep(0)
      event:set(square:remote(3))
    end)
    assert.equal(9, (event:get()))
  end)

  it("can be waited for with a limit", function()
    local event = tidepool.event()
    local failure = failure_of(event.get, event, 0.01)
    assert.same({ "timeout", "the event is not done after 0.01 s" }, { failure.kind, failure.message })
    event:set(1)
    assert.equal(1, event:get(0))
  end)

  it("calls back", function()
    local event, got = tidepool.event(), nil
    event:on_done(function(e)
      tidepool.sleep(0)
      got = { e, e:get() }
    end)
    event:set(5)
    assert.is_nil(got)
    tidepool.loop()
    assert.same({ event, 5 }, got)
  end)

  it("that is cancelled ends the waits", function()
    local event = tidepool.event()
    local task = tidepool.async(function() return failure_of(event.get, event).kind end)
    event:cancel()
    event:cancel()
    assert.equal("cancelled", (task:get()))
    assert.is_false(event:set(1))
  end)

  it("is left alone by a task that is cancelled while it waits", function()
    local event = tidepool.event()
    local task = tidepool.async(function() event:get() end)
    task:cancel()
    assert.equal("cancelled", failure_of(task.get, task).kind)
    assert.is_true(event:set(1))
    assert.equal(1, event:get())
  end)

  it("is one of many to gather, to wait for and to iterate over", function()
    local a, b = tidepool.event(), tidepool.event()
    tidepool.async(function()
      tidepool.sleep(0)
      b:set "b"
      a:set("a", "second")
    end)
    assert.same({ "a", 4, "b" }, { tidepool.gather(a, square:spawn(2), b) })
    local late = tidepool.event()
    local finished, rest = tidepool.wait({ late, a }, { n = 1 })
    assert.same({ { a }, { late } }, { finished, rest })
    late:set "late"
    local got = {}
    for x in tidepool.as_completed { late, square:map { 3 }, square:spawn(2), tidepool.async(function() return "task" end) } do
      local value = x:get()
      got[type(value) == "table" and value[1] or value] = true
    end
    assert.same({ late = true, [9] = true, [4] = true, task = true }, got)
  end)

  it("is cancelled with the others when one of them fails", function()
    local event = tidepool.event()
    local task = tidepool.async(function() return failure_of(event.get, event).kind end)
    assert.equal("ohno", failure_of(tidepool.gather, event, fails:spawn()).message)
    assert.equal("cancelled", (task:get()))
  end)

  it("may be set where nobody can wait: in a function in C, in a coroutine of others", function()
    local event = tidepool.event()
    local task = tidepool.async(function() return event:get() end)
    ;("x"):gsub("x", function() event:set(7) end)
    assert.equal(7, (task:get()))
  end)
end)

describe("An event's failure", function()
  it("that nobody has asked for is shown at the end, with where it was made one", function()
    local event = tidepool.event()
    event:fail "lost"
    local failures = tidepool.loop()
    assert.equal(1, #failures)
    contains(tostring(failures[1]), "lost", "event_spec.lua")
  end)
end)

describe("An event that nobody sets", function()
  it("is an error where the script waits for it, and where a task does at the end", function()
    local event = tidepool.event()
    local task = tidepool.async(function() event:get() end)
    mistake(function() local v = event:get() return v end, "this would wait for ever")
    local failures = tidepool.loop()
    assert.equal(1, #failures)
    contains(tostring(failures[1]), "a task has not ended: nothing is left that could wake it")
    assert.is_false(task:done())
  end)
end)

describe("Mistakes with events", function()
  it("are one line at the user's place", function()
    local event = tidepool.event()
    mistake(function() local v = tidepool.event(1) return v end, "tidepool.event takes no arguments, but has got more: 1")
    mistake(function() event.set(1) end, "event.set was called with a dot", "write event:set(...)")
    mistake(function() event:fail() end, "event:fail: expected an error, got nil")
    mistake(function() event:get "x" end, "event:get: the timeout must be a number of seconds")
    mistake(function() event:on_done(7) end, "event:on_done: expected a function, got 7")
    contains(failure_of(square.remote, square, event).message, "an Event cannot travel to a worker: pass what event:get() gives")
    contains(failure_of(function() app:func(function() return require "tidepool".event() end):remote() end).message,
      "tidepool.event: a mapped function has no loop")
    assert.equal("tidepool.Event: to come", tostring(event))
    event:set()
    assert.equal("tidepool.Event: set", tostring(event))
  end)
end)
