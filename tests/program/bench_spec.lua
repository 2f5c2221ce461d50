--- The benchmarks: that all of them run, and that their results are those of the serial loop. No
-- figure is asserted. (not stock)

local cjson = require "cjson"
local support = require "tests.support"

-- Bound before other specs may change the folder; the runner's own process starts in the
-- repository's.
local run = ("%s --workers 2 bench/run.lua"):format(support.binary)

--- Runs the benchmarks; gives the exit code, what they print and what --json writes.
local function quick(arguments)
  local dir = support.temp_dir()
  local status = os.execute(("timeout 800 %s --quick --json %s/json %s >%s/out 2>&1 </dev/null"):format(run, dir, arguments, dir))
  local json = support.read_file(dir .. "/json")
  return status / 256, support.read_file(dir .. "/out"), json and cjson.decode(json)
end

describe("The benchmarks", function()
  it("measure each workload of the issue, with results that are the serial loop's", function()
    local code, output, json = quick ""
    assert.equal(0, code, output)
    local seen = {}
    for _, row in ipairs(json.rows) do
      assert.is_true(row.is_right, row.id)
      assert.is_true(row.figure == row.figure and row.figure < math.huge, row.id)
      assert.is_string(row.unit)
      support.contains(output, row.what)
      seen[row.id] = true
    end
    for _, id in ipairs { "W1", "W1b", "W2", "W3", "W3b", "W4", "W5", "W5b", "W6", "W6b", "W7", "W8", "W9", "W10", "W11", "L", "Lm", "Le", "Lf",
      "n", "mixed", "fail", "two",
      "nil", "str", "star", "iter", "RND", "RND1", "RND2", "P1", "P2", "J1", "J1p", "J2", "J3", "J3p", "J4", "J4p" } do
      assert.is_true(seen[id], "there is no row of " .. id)
    end
    assert.is_nil(json.broken)
    assert.equal(2, json.machine.workers)
    assert.is_true(json.machine.quick)
  end)

  it("can be run by name", function()
    local code, output, json = quick "w2 w7"
    assert.equal(0, code, output)
    for _, row in ipairs(json.rows) do assert.is_truthy(row.workload == "w2" or row.workload == "w7") end
    support.contains(output, "W2", "W7", "W8")
  end)

  it("refuse what they do not know, and say how they are used", function()
    local code, output = quick "w99"
    assert.equal(2, code)
    support.contains(output, 'there is no workload "w99"', "usage: ")
  end)

  it("fail when the results are not the serial loop's", function()
    local dir = support.temp_dir()
    os.execute(("cp bench/*.lua %s/ && sed -i 's/return square:map(xs):list()/return square:map(square:map(xs)):list()/' %s/w1.lua"):format(dir, dir))
    local status = os.execute(("timeout 800 %s --workers 2 %s/run.lua --quick w1 w2 >%s/out 2>&1 </dev/null"):format(support.binary, dir, dir))
    local output = support.read_file(dir .. "/out")
    assert.equal(1, status / 256)
    support.contains(output, "W1: the results are wrong: ", "broken: w1", "W2")
  end)
end)
