--- Scripts with a journal whose process dies (not stock: it is the program): the next run has what
--- the workers had finished, and what they finish meanwhile.

local support = require "tests.support"
local cluster = require "tests.support_cluster"

describe("a map with a journal on a cluster", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end
  local own

  setup(function() own = cluster.up() end)
  teardown(function() own:down() end)

  --- Waits for the end of a worker that is to leave when what it runs is over.
  local function await_end(worker)
    support.eventually("the worker has left", function() return not own:is_alive(worker) end)
  end

  local function lines_of(path)
    local lines = {}
    for line in (support.read_file(path) or ""):gmatch "%d+" do lines[#lines + 1] = tonumber(line) end
    return lines
  end

  --- Starts a map whose inputs note in a file that they run. When some are done and two are
  --- running, which wait for that, kills the script, and has its worker leave, which lets the two
  --- finish. Then runs it again, with another worker. Each input has run once.
  ---@param result string  an expression of x, which is checked
  local function survives(result, options)
    local dir = support.temp_dir()
    local ran, journal, killed = dir .. "/ran", dir .. "/run.db", dir .. "/killed"
    local worker = own:worker(2)
    local source = ([[
      local ffi = require "ffi"
      ffi.cdef "int getpid(void);"
      require "tests.support".note(%q, ffi.C.getpid())
      local tidepool = require "tidepool"
      local f = tidepool.App "job":func { name = "f" %s } (function(x)
        local support = require "tests.support"
        support.note(%q, x)
        support.sleep(0.02)
        if x > 12 then support.wait_for(%q) end
        return %s
      end)
      local n = 0
      for x, value in f:map(tidepool.range(24), { journal = %q }) do
        n = n + 1
        assert(x == n and value == %s, "wrong")
      end
      print(n)]]):format(dir .. "/pid", options or "", ran, killed, result, journal, result)
    local script = own:start(source)
    support.eventually("two inputs wait for the end of their script", function() return #lines_of(ran) == 14 end)
    os.execute("kill -KILL " .. support.read_file(dir .. "/pid"):match "%d+")
    script.done()
    own:kill(worker, "TERM")
    support.note(killed, "yes")
    await_end(worker)
    local before = #lines_of(ran)
    assert.is_true(before < 24, "it was over already")
    worker = own:worker(2)
    local said, status, errors = own:start(source).done()
    own:kill(worker, "TERM")
    await_end(worker)
    assert.same({ "24\n", 0 }, { said, status }, errors)
    local times = lines_of(ran)
    table.sort(times)
    local all = {}
    for i = 1, 24 do all[i] = i end
    assert.same(all, times)
    return errors, before
  end

  it("has what workers finished when its script was dead, and runs nothing twice", function()
    local errors, before = survives "2 * x"
    support.contains(errors, ("f: %d of 24 from run.db; %d run"):format(before, 24 - before))
  end)

  it("has results that went in pieces", function() survives '("x"):rep(100000) .. x' end)

  it("has results of promised types", function() survives("-x", ', returns = "int32"') end)
end)
