--- A slow input of a cluster's chunk (not stock: workers and scripts are the program).

local support = require "tests.support"
local cluster = require "tests.support_cluster"

describe("On a cluster a slow input", function()
  if not cluster.is_possible() then
    pending "nats-server is not installed"
    return
  end

  local own

  before_each(function() own = cluster.up() end)
  after_each(function() own:down() end)

  -- Fast inputs first, so that many of them travel together; then one waits for a file.
  local SOURCE = [[
    local tidepool = require "tidepool"
    local app = tidepool.App "job"
    local path = %q
    local f = app:func { name = "f" } (function(x)
      if x == 300 then
        local support = require "tests.support"
        support.eventually("it may go on", function() return support.read_file(path) end)
      end
      return x
    end)
    f:map(tidepool.range(-20000, -1)):list()
    local got, sum = 0, 0
    for _, value in f:map(tidepool.range(600), { ordered = %s, journal = %s }) do
      got, sum = got + 1, sum + value
      if got == %d then require "tests.support".note(path, "go on") end
    end
    print(got, sum)]]

  local function gives(ordered, most)
    local done = own:run(SOURCE:format(support.temp_path(), ordered, "nil", most))
    assert.same({ "600\t180300\n", "", 0 }, { done.stdout, done.stderr, done.code })
  end

  it("does not keep back the results of those before it", function()
    own:worker(1)
    gives(true, 299)
  end)

  it("does not keep back those behind it, which other workers run", function()
    own:worker(1)
    own:worker(1)
    gives(false, 599)
  end)

  it("does not keep them back in a map with a journal either, which has them all in the end", function()
    own:worker(1)
    own:worker(1)
    local source = SOURCE:format(support.temp_path(), false, ("%q"):format(support.temp_path()), 599)
    local done = own:run(source)
    assert.same({ "600\t180300\n", "", 0 }, { done.stdout, done.stderr, done.code })
    local again = own:run(source)
    assert.same({ "600\t180300\n", 0 }, { again.stdout, again.code }, again.stderr)
    support.contains(again.stderr, "f: all 600 from ")
  end)

  it("may kill its worker when the results before it were read, and others run those behind", function()
    local first = own:worker(1)
    local path, there = support.temp_path(), support.temp_path()
    local source = SOURCE:format(path, true, "nil", 299):gsub("note%(path", ("note(%q"):format(there))
    local script = own:start(source)
    support.eventually("those before it are there", function() return support.read_file(there) end)
    own:kill(first, "KILL")
    support.note(path, "go on")
    own:worker(1)
    local out, status, errors = script.done()
    assert.same({ "600\t180300\n", 0 }, { out, status }, errors)
  end)
end)
