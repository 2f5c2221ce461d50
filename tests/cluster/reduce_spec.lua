--- Reductions on a cluster, in its workers (not stock: they are the program): the same bits as on
--- every other executor, whatever dies.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

describe("sum, mean, min and max on a cluster", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own

  before_each(function()
    own = cluster.up()
    own:worker(2)
  end)
  after_each(function() own:down() end)

  -- `check(f, inputs, options)` compares what reductions give with what they give on inline, bit by
  -- bit, or the failures that they raise; and gives how many results came back in groups.
  local BEGIN = [[
    local tidepool = require "tidepool"
    local results = require "tidepool.results"
    local app = tidepool.App "job"
    local function shape(x) return math.sin(x) * 10000 + 1 / x end
    local function told(fine, value)
      if fine then return value and ("%.17g %s"):format(value, tostring(1 / value)) or "nil" end
      return tidepool.is_failure(value) and ("%s %s %s"):format(value.kind, value.index, value.message) or tostring(value):gsub("^[^:]*:%d+: ", "")
    end
    local function check(f, inputs, options)
      local there, inline = 0, f:with { executor = "inline" }
      for _, op in ipairs { "sum", "mean", "min", "max" } do
        local r = f:map(inputs, options or { ordered = true })
        local got = told(pcall(r[op], r))
        there = there + (results.of(r).n_partial or 0)
        r = inline:map(inputs, options or { ordered = true })
        local wanted = told(pcall(r[op], r))
        if got ~= wanted then error(("%s: %s, and inline: %s"):format(op, got, wanted)) end
      end
      return there
    end
  ]]

  it("have the bits that they have on inline, at all lengths, and come back as numbers for groups", function()
    local said = support.printed(own:run(BEGIN .. [[
      local function limited(x)
        local y = shape(x)
        return y > 7000 and y / 3 or y
      end
      local function special(x) return x % 1500 == 0 and 0 / 0 or x == 1 and -0 or 0 end
      for _, n in ipairs { 0, 1, 1023, 1024, 1025, 10 * 1024 + 3 } do
        for _, f in ipairs { app:func(limited), app:func({ returns = "float" }, limited), app:func(function(x) return shape(x), "more" end),
          app:func({ returns = "int32" }, function(x) return x * 3 end), app:func(special) } do
          check(f, tidepool.range(n))
        end
      end
      local f, there = app:func(limited), 0
      for i = 1, 200 do -- how long items take there is the machine's business
        there = there + check(f, tidepool.range(50 * 1024 + 3))
        if there > 0 and i > 2 then break end
      end
      print(there > 0 and there % 1024 or "never")]], { seconds = 240 }))
    assert.equal("0\n", said)
  end)

  it("raise what they raise on inline, take what takes a failure's place, and reduce what is left", function()
    local said = support.printed(own:run(BEGIN .. [[
      local n, texts = 20 * 1024, {}
      for i = 1, 5000 do texts[i] = ("x"):rep(i % 40) end
      local fails = app:func(function(x) if x % 3000 == 5 then error "no" end return shape(x) end)
      check(fails, tidepool.range(n))
      check(fails, tidepool.range(n), { return_exceptions = true })
      check(fails, tidepool.range(n), { on_error = function(why) return why.index end })
      check(app:func { retries = 2 } (function(x)
        if x % 3000 == 5 and tidepool.current().attempt < 3 then error "no" end
        return shape(x)
      end), tidepool.range(n), { ordered = false })
      check(app:func(function(x) return x ~= 9000 and shape(x) or "text" end), tidepool.range(n))
      check(app:func(function(x) if x ~= 9000 then return shape(x) end end), tidepool.range(n), { window = 5000 })
      check(app:func(function(text) return #text / 3 end), texts)
      check(app:func { batched = { max = 100 } } (function(list)
        for i, x in ipairs(list) do list[i] = shape(x) end
        return list
      end), tidepool.range(5000))
      local f = app:func(shape)
      local function rest(g)
        local r = g:map(tidepool.range(n))
        for _ = 1, 10 do r() end
        return r:sum()
      end
      print(rest(f) - rest(f:with { executor = "inline" }))
      local r = f:map(tidepool.range(n))
      results.of(r):_reduce_there("results:sum", "sum")
      print(pcall(r.max, r))
      r:cancel()]]))
    support.contains(said, "0\nfalse\t", "results:max: these results were being reduced where they are made, in another way")
  end)

  it("are the same when workers, their processes and the server are killed, and count nothing that comes late", function()
    local path = support.temp_path()
    local late = own.workers[1]
    local script = own:start(BEGIN .. ([[
      local support = require "tests.support"
      local function slow(x)
        local y = shape(x)
        for i = 1, 1000 do y = y + i %% 3 end
        return y
      end
      local f, n = app:func(slow), 20 * 1024 + 7
      local wanted = f:with { executor = "inline" }:map(tidepool.range(n)):sum()
      local maps, there = 0, 0
      while not support.read_file(%q) or there == 0 do
        local r = f:map(tidepool.range(n))
        local got = r:sum()
        assert(got == wanted, ("%%.17g, not %%.17g"):format(got, wanted))
        maps, there = maps + 1, there + (results.of(r).n_partial or 0)
        support.write_file(%q, tostring(maps))
      end
      print "right"]]):format(path .. ".stop", path))
    --- Waits for so many more maps.
    local function go_on(n)
      local before = tonumber(support.read_file(path) or "0") or 0
      support.eventually("maps go on", function() return (tonumber(support.read_file(path) or "") or 0) >= before + n end, 60)
    end
    go_on(2)
    own:kill(late, "STOP")
    local other = own:worker(2)
    go_on(2)
    own:kill(late, "CONT")
    os.execute(("kill -KILL $(ps -o pid= --ppid %d)"):format(other.pid))
    go_on(2)
    own:kill_server()
    own:up_again()
    go_on(1)
    support.note(path .. ".stop", "stop")
    local said, status, errors = script.done()
    assert.same({ "right\n", 0 }, { said, status }, errors)
  end)
end)
