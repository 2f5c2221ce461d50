--- scripts/check-gpu and its parts (bench/card.lua), for which somebody with a card has minutes:
-- what must not stop them (not stock: they run with the program).

local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local root = shell.quote(io.popen("pwd"):read "*l")
local contains, on_pocl = support.contains, devices.on_pocl(it, pending)

describe("check-gpu", function()
  it("says what is missing where nothing was built", function()
    local done = shell.run(("TIDEPOOL=/none %s/scripts/check-gpu; echo code $?"):format(root))
    contains(done.stderr, "check-gpu: there is no /none: run make, or check-gpu in a folder that check-gpu pack has made")
    assert.equal("code 2\n", done.stdout)
  end)

  on_pocl("tries a card that has no doubles, and one with little memory", function()
    local command = "TIDEPOOL_OPENCL=%s FAULTS_COPIES=1 SMALL=1 GPU=any %s $T " .. root .. "/bench/card.lua %s"
    local done = shell.run(command:format(devices.faults(), "FAULTS_SINGLE=1", "start"))
    assert.same({ "", 0 }, { done.stderr, done.code })
    contains(done.stdout, "result right")
    done = shell.run(command:format(devices.faults(), "FAULTS_SINGLE=1", "sixty"))
    assert.same({ "", 0 }, { done.stderr, done.code })
    contains(done.stdout, "left out: the card has no doubles")
    done = shell.run(command:format(devices.faults(), "FAULTS_MEMORY=20000000 TIDEPOOL_PYTHON=false", "sum"))
    assert.same({ "", 0 }, { done.stderr, done.code })
    contains(done.stdout, "sum: ", ", right\n", "sum: peers: none here\n")
  end)

  on_pocl("says that functions were not tried, or that a card's compiler takes none, by its exit code", function()
    local command = ("TIDEPOOL_OPENCL=%s FAULTS_BUILD=1 LIMIT_S=%%d SMALL=1 GPU=any $T %s/bench/card.lua sixty"):format(devices.faults(), root)
    local done = shell.run(command:format(600))
    assert.same({ "", 1 }, { done.stderr, done.code })
    contains(done.stdout, "FAILED Perlin noise: ", "\n0 of 60 functions run, ")
    done = shell.run(command:format(0))
    assert.same({ "", 1 }, { done.stderr, done.code })
    contains(done.stdout, "0 of 60 functions run, ", ", 60 had NO TIME LEFT\n")
  end)
end)
