--- Batched functions: called with lists of many inputs, as many as there are and at most so many.

local support = require "tests.support"
local tidepool = require "tidepool"

local here = debug.getinfo(1, "S").short_src

local function numbers(n)
  local list = {}
  for i = 1, n do list[i] = i end
  return list
end

--- How many batches of which size ran, from what each result says of its batch.
local function sizes_of(sizes)
  local counts, batches = {}, {}
  for i = 1, sizes.n or #sizes do counts[sizes[i]] = (counts[sizes[i]] or 0) + 1 end
  for size, n in pairs(counts) do batches[size] = n / size end
  return batches
end

for _, executor in ipairs { "inline", "threads", "processes" } do
  describe("On " .. executor .. " a batched function", function()
    local app = tidepool.App("batches", { executor = executor })

    --- Doubles, and says how large the batch was.
    local double = app:func { batched = { max = 10 } } (function(xs)
      local ys, sizes = {}, {}
      for i, x in ipairs(xs) do ys[i], sizes[i] = 2 * x, #xs end
      return ys, sizes
    end)

    it("is called with lists of as many inputs as a batch may have", function()
      local ys, sizes = double:map(numbers(105)):list()
      for i = 1, 105 do assert.equal(2 * i, ys[i]) end
      assert.same({ [10] = 10, [5] = 1 }, sizes_of(sizes))
    end)

    it("has as many inputs in its batches whatever they come from", function()
      local function step()
        local i = 0
        return function()
          i = i + 1
          if i <= 40 then return i end
        end
      end
      local patient = double:with { batched = { max = 10, wait = 60 } }
      for _, results in ipairs { patient:map(step()), patient:map(tidepool.range(40)), patient:map(tidepool.array("double", numbers(40))),
        patient:starmap({ { 1 }, { 2 }, { 3 }, { 4 }, { 5 }, { 6 }, { 7 }, { 8 }, { 9 }, { 10 } }) } do
        local ys, sizes = results:list()
        for i = 1, ys.n do assert.equal(2 * i, ys[i]) end
        assert.same({ [10] = ys.n / 10 }, sizes_of(sizes))
      end
    end)

    it("takes inputs of any kind and several arguments, and gives several results or none", function()
      local join = app:func { batched = 4 } (function(texts, tables, maybe)
        local joined, counts = {}, { n = #texts }
        for i = 1, #texts do
          joined[i] = texts[i] .. tables[i].x .. tostring(maybe[i])
          counts[i] = maybe[i]
        end
        return joined, counts
      end)
      local maybe = { nil, 2, nil, 4, nil, 6, n = 6 }
      local tables = { { x = 1 }, { x = 2 }, { x = 3 }, { x = 4 }, { x = 5 }, { x = 6 } }
      local joined, counts = join:map({ "a", "b", "c", "d", "e", "f" }, tables, maybe):list()
      assert.same({ "a1nil", "b22", "c3nil", "d44", "e5nil", "f66", n = 6 }, joined)
      assert.same({ nil, 2, nil, 4, nil, 6, n = 6 }, counts)
      local path = support.temp_path()
      local note = support.note
      local nothing = app:func { batched = 4 } (function(xs) note(path, #xs) end)
      assert.same({ ok = 8, failed = 0 }, nothing:for_each(numbers(8)))
      assert.same({ "4", "4" }, support.notes(path))
      assert.same({ n = 0 }, { n = select("#", nothing:remote(1)) })
    end)

    it("gives a list per argument whose n says so where values are nil", function()
      local count = app:func { batched = 8 } (function(xs)
        local ns = {}
        for i = 1, xs.n or #xs do ns[i] = xs.n or "no n" end
        return ns
      end)
      assert.same({ "no n", "no n", n = 2 }, count:map({ 1, 2 }):list())
      assert.same({ 2, 2, n = 2 }, count:map({ nil, 1, n = 2 }):list())
    end)

    it("keeps what `returns` promises, and takes typed arrays as its lists", function()
      local half = app:func { batched = 16, returns = "float" } (function(xs)
        local ys = require "tidepool".array("double", #xs)
        for i, x in ipairs(xs) do ys[i] = x / 2 end
        return ys
      end)
      local a = half:map(tidepool.array("double", numbers(100))):array()
      assert.equal("float", a.ctype)
      for i = 1, 100 do assert.equal(i / 2, a[i]) end
      local wrong = app:func { batched = 16, returns = "float" } (function(xs)
        local ys = {}
        for i in ipairs(xs) do ys[i] = i == 3 and "three" or i end
        return ys
      end)
      local failed = support.failure_of(function() wrong:map(numbers(5)):array() end)
      assert.equal(3, failed.index)
      local info = debug.getinfo(wrong.raw, "S")
      assert.equal(("%s:%d: it returned a string, but returns = \"float\""):format(info.short_src, info.linedefined), failed.message)
    end)

    it("fails for those inputs only that fail alone", function()
      local path = support.temp_path()
      local note = support.note
      local picky = app:func { batched = 64 } (function(xs)
        note(path, #xs)
        local ys = {}
        for i, x in ipairs(xs) do
          if x == 37 then error("no 37") end
          ys[i] = x
        end
        return ys
      end)
      local list = picky:map(numbers(64), { return_exceptions = true }):list()
      for i = 1, 64 do
        if i == 37 then
          assert.is_true(tidepool.is_failure(list[i]))
          assert.equal(37, list[i].index)
          assert.equal("error", list[i].kind)
          support.contains(list[i].message, here)
          support.contains(list[i].message, "no 37")
          support.contains(list[i].traceback, here)
          assert.same({ 37, n = 1 }, list[i].input)
        else
          assert.equal(i, list[i])
        end
      end
      assert.equal(1 + 2 * 6, #support.notes(path)) -- the whole, and two halves six times
    end)

    it("raises what the loop would have raised, with what was before it", function()
      local picky = app:func { batched = 16 } (function(xs)
        for _, x in ipairs(xs) do
          if x % 23 == 0 then error({ code = x }) end
        end
        return xs
      end)
      local failed = support.failure_of(function() picky:map(numbers(200)):list() end)
      assert.equal(23, failed.index)
      assert.equal(23, failed.code)
      assert.equal(22, failed.results.n)
    end)

    it("fails as a whole where it may not be split", function()
      local whole = app:func { batched = { max = 8, split = false } } (function(xs)
        for _, x in ipairs(xs) do
          if x == 12 then error("no 12") end
        end
        return xs
      end)
      local list = whole:map(numbers(24), { return_exceptions = true }):list()
      for i = 1, 24 do
        assert.equal(i >= 9 and i <= 16, tidepool.is_failure(list[i]))
        if i >= 9 and i <= 16 then assert.equal(i, list[i].index) end
      end
    end)

    it("is told when its lists are not as long as those it was given", function()
      for _, case in ipairs {
        { function(xs) xs[#xs] = nil return xs end, "its result 1 is a list of 5" },
        { function(xs) return xs, #xs end, "its result 2 is a number" },
        { function() return nil end, "its result 1 is nil" },
      } do
        local wrong = app:func { name = "wrong", batched = 6 } (case[1])
        local failed = support.failure_of(function() wrong:map(numbers(6)):list() end)
        support.contains(failed.message, here .. ":")
        support.contains(failed.message, "'wrong' is batched: it was called with lists of 6 and has to return lists of 6, but " .. case[2])
        assert.equal(1, failed.index)
      end
    end)

    it("is tried again for those inputs that failed", function()
      local path = support.temp_path()
      local note, notes = support.note, support.notes
      local flaky = app:func { batched = 8, retries = 2 } (function(xs)
        for _, x in ipairs(xs) do
          if x == 5 and #xs == 1 then
            note(path, "alone")
            if require "tidepool".current().attempt < 3 then error("not yet") end
          elseif x == 5 then
            error("not with others")
          end
        end
        return xs
      end)
      assert.same({ 1, 2, 3, 4, 5, 6, 7, 8, n = 8 }, flaky:map(numbers(8)):list())
      assert.equal(3, #notes(path))
    end)

    it("refuses a value that cannot travel for its input alone", function()
      local same = app:func { batched = 8 } (function(xs) return xs end)
      local list = same:map({ 1, 2, newproxy(), 4 }, { return_exceptions = true }):list()
      assert.equal("codec", list[3].kind)
      assert.same({ 1, 2, 4 }, { list[1], list[2], list[4] })
      local back = app:func { batched = 8 } (function(xs)
        xs[2] = coroutine.create(function() end)
        return xs
      end)
      list = back:map(numbers(3), { return_exceptions = true }):list()
      assert.equal("codec", list[2].kind)
      assert.same({ 1, 3 }, { list[1], list[3] })
    end)

    it("is called with lists of one when it is called itself", function()
      assert.same({ 14, 1 }, { double(7) })
      assert.same({ 14, 1 }, { double(7) })
      local wrong = app:func { name = "wrong", batched = 2 } (function() return 5 end)
      local fine, why = pcall(wrong, 1)
      assert.is_false(fine)
      support.contains(why, "'wrong' is batched: it was called with lists of 1")
    end)

    it("gathers single calls", function()
      local calls = {}
      for i = 1, 25 do calls[i] = double:spawn(i) end
      local sizes = {}
      for i, call in ipairs(calls) do
        local y, size = call:get()
        assert.equal(2 * i, y)
        sizes[i] = size
        assert.is_true(call:done())
      end
      assert.same({ [10] = 2, [5] = 1 }, sizes_of(sizes))
      assert.same({ 6, 1 }, { double:remote(3) })
    end)

    it("gathers the single calls of tasks", function()
      local patient = double:with { batched = { max = 10, wait = 60 } }
      local tasks = {}
      for i = 1, 30 do
        tasks[i] = tidepool.async(function()
          local y, size = patient:remote(i)
          return { y, size }
        end)
      end
      local sizes = {}
      for i, pair in ipairs(tidepool.gather(tasks)) do
        assert.equal(2 * i, pair[1])
        sizes[i] = pair[2]
      end
      assert.same({ [10] = 3 }, sizes_of(sizes))
    end)

    it("begins single calls that are fewer than a batch after `wait` seconds", function()
      local y, size = tidepool.gather(tidepool.async(function()
        local y, size = double:remote(4)
        return { y, size }
      end))
      assert.same({ { 8, 1 } }, { y, size })
    end)

    it("gives each single call its own failure", function()
      local picky = app:func { name = "picky", batched = 4 } (function(xs)
        for _, x in ipairs(xs) do
          if x == 3 then error("no 3") end
        end
        return xs
      end)
      local calls = {}
      for i = 1, 4 do calls[i] = picky:spawn(i) end
      for i = 1, 4 do
        if i == 3 then
          local failed = support.failure_of(function() calls[i]:get() end)
          support.contains(failed.message, "no 3")
          assert.equal(1, failed.index)
          assert.same({ 3, n = 1 }, failed.input)
        else
          assert.equal(i, calls[i]:get())
        end
      end
      local failed = support.failure_of(function() picky:remote(newproxy()) end)
      assert.equal("codec", failed.kind)
      assert.equal(5, picky:remote(5))
    end)

    it("has single calls cancelled one by one", function()
      local calls = {}
      for i = 1, 3 do calls[i] = double:spawn(i) end
      calls[2]:cancel()
      assert.equal("cancelled", support.failure_of(function() calls[2]:get() end).kind)
      assert.equal(2, (calls[1]:get()))
      assert.equal(6, (calls[3]:get()))
      local alone = double:spawn(1)
      alone:cancel()
      assert.is_true(alone:done())
      assert.equal(8, (double:remote(4)))
    end)

    it("drops the call of a task that is cancelled, and of its others none", function()
      local patient = double:with { batched = { max = 2, wait = 60 } }
      local first = tidepool.async(function() return (patient:remote(1)) end)
      first:cancel()
      assert.equal("cancelled", support.failure_of(function() first:get() end).kind)
      local third = patient:spawn(3)
      assert.equal(6, (third:get(50)))
    end)

    it("sees in single calls what its captured values were when each was made", function()
      local k = 1
      local add = app:func { batched = 10 } (function(xs)
        local ys = {}
        for i, x in ipairs(xs) do ys[i] = x + k end
        return ys
      end)
      local first = add:spawn(10)
      k = 2
      local second = add:spawn(10)
      assert.equal(11, first:get())
      assert.equal(12, second:get())
    end)

    it("runs in mapped functions, its calls and its maps", function()
      local outer = app:func(function(x)
        local ys = double:map({ x, x + 1 }):list()
        local call = double:spawn(5)
        return ys[1] + ys[2] + double:remote(1) + call:get()
      end)
      assert.same({ 2 + 4 + 2 + 10, 4 + 6 + 2 + 10, n = 2 }, outer:map({ 1, 2 }):list())
    end)

    it("is a method of a class as well", function()
      local Model = app:cls { batched = 8 } {
        enter = function(self) self.k = 3 end,
        scale = function(self, xs)
          local ys = {}
          for i, x in ipairs(xs) do ys[i] = x * self.k * #xs end
          return ys
        end,
      }
      assert.same({ 24, 48, 72, 96, 120, 144, 168, 192, n = 8 }, Model {}.scale:map(numbers(8)):list())
      assert.equal(6, Model {}.scale:remote(2))
    end)

    it("has what it prints, and limits, as other functions", function()
      local path = support.temp_path()
      local note, sleep = support.note, support.sleep
      local slow = app:func { batched = 5, concurrency_limit = 1 } (function(xs)
        note(path, "+")
        sleep(0.005)
        note(path, "-")
        return xs
      end)
      assert.equal(40, slow:map(numbers(40)):list().n)
      assert.equal(1, support.most_at_once(path))
    end)

    it("has its journal row by row", function()
      local file = support.temp_path()
      local path = support.temp_path()
      local note = support.note
      local wanted = false
      local job = app:func { name = "job", batched = 4 } (function(xs)
        for _, x in ipairs(xs) do
          note(path, x)
          if x == 6 and not wanted then error("not yet") end
        end
        return xs
      end)
      local first = job:map(numbers(10), { journal = { file = file, name = "batches" }, return_exceptions = true }):list()
      assert.is_true(tidepool.is_failure(first[6]))
      os.remove(path)
      local second = job:map(numbers(10), { journal = { file = file, name = "batches" }, return_exceptions = true }):list()
      assert.same({ "6" }, support.notes(path))
      assert.is_true(tidepool.is_failure(second[6]))
    end)

    it("stops when its loop is left, and when it is cancelled", function()
      local same = app:func { batched = 4 } (function(xs) return xs end)
      for i in same:map(tidepool.range(math.huge)) do
        if i == 100 then break end
      end
      local results = same:map(tidepool.range(math.huge))
      assert.equal(1, (results:next()))
      results:cancel()
      assert.equal("cancelled", support.failure_of(function() results:next() end).kind)
      assert.same({ 1, 2, 3, n = 3 }, same:map({ 1, 2, 3 }):list())
    end)
  end)
end

describe("On processes a batched function", function()
  local app = tidepool.App("torn", { executor = "processes" })

  it("costs the input that ends its process, and no other", function()
    local deadly = app:func { batched = 16, crash_retries = 0 } (function(xs)
      for _, x in ipairs(xs) do
        if x == 11 then os.execute("kill -9 $PPID") end
      end
      return xs
    end)
    local list = deadly:map(numbers(40), { return_exceptions = true }):list()
    for i = 1, 40 do
      if i == 11 then assert.equal("crash", list[i].kind) else assert.equal(i, list[i]) end
    end
  end)

  it("costs the input that takes too long, and no other", function()
    local slow = app:func { batched = 8, timeout = 0.7 } (function(xs)
      for _, x in ipairs(xs) do
        while x == 3 do end
      end
      return xs
    end)
    local list = slow:map(numbers(8), { return_exceptions = true }):list()
    for i = 1, 8 do
      if i == 3 then assert.equal("timeout", list[i].kind) else assert.equal(i, list[i]) end
    end
  end)

  it("fails as a whole with its process where it may not be split", function()
    local deadly = app:func { batched = { max = 4, split = false }, crash_retries = 0 } (function(xs)
      for _, x in ipairs(xs) do
        if x == 6 then os.execute("kill -9 $PPID") end
      end
      return xs
    end)
    local list = deadly:map(numbers(12), { return_exceptions = true }):list()
    for i = 1, 12 do
      if i >= 5 and i <= 8 then assert.equal("crash", list[i].kind) else assert.equal(i, list[i]) end
    end
  end)
end)

describe("The option batched", function()
  local app = tidepool.App "options"

  it("is checked where it is written", function()
    local function fails(given, text)
      local fine, why = pcall(app.func, app, { batched = given }, function() end)
      assert.is_false(fine)
      support.contains(tostring(why), text)
    end
    fails({ most = 3 }, "has no field 'most'")
    fails({ max = 0 }, "max must be an integer of at least 1")
    fails(0.5, "max must be an integer of at least 1")
    fails({ wait = -1 }, "wait must be a number of seconds")
    fails("many", "option 'batched'")
  end)

  it("is not for functions that are translated for devices", function()
    local fine, why = pcall(app.func, app, { batched = 4, gpu = true }, function(x) return x end)
    assert.is_false(fine)
    support.contains(tostring(why), "option 'batched' is for functions that Lua runs")
  end)
end)
