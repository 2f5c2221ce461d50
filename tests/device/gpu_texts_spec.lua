--- Functions for devices whose text is in no file: what was loaded with a name of its own is found
-- again.

local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local support = require "tests.support"

local contains, run = support.contains, shell.run

local on_device = devices.specs(it, pending, #devices.list > 0 and not os.getenv "TIDEPOOL_SANITIZER", "no OpenCL device")

describe("a function that was loaded at run time", function()
  on_device("is found on a device by the text it was loaded from", function()
    local done = run("$T job.lua", { ["there.lua"] = "return function(x) return x + 60 end", ["job.lua"] = [[
      local app = require "tidepool".App()
      local function show(f)
        local fine, source = pcall(function() return app:func { gpu = true } (f):opencl() end) -- what its text is translated to
        print(fine and source:match "%f[%d]%d0%f[%D]" or source)
      end
      local function pieces(...)
        local list, n = { ... }, 0
        return function()
          n = n + 1
          return list[n]
        end
      end
      show(loadstring "return function(x) return x + 10 end" ())
      local first = loadstring("return function(x) return x + 20 end", "=g")()
      show(loadstring("return function(x) return x + 30 end", "=g")())
      show(first)
      show(load("return function(x) return x + 40 end", "named")())
      show(loadstring("return function(x) return x + 50 end", "@nowhere.lua")())
      show(dofile "there.lua")
      show(loadstring("return function(x) return x + 70 end", "@there.lua")())
      show(load(pieces("return function(x)", " return x + 80 ", "end"))())
      show(load(pieces("return function(x)", " return x + 90 ", "end"), "=pieces")())
      print(app:func { gpu = true } (loadstring("return function(x) return x * x end", "=square")()):map({ 1, 2, 3 }):list()[3])
    ]] })
    assert.equal("", done.stderr)
    assert.equal("10\n30\n20\n40\n50\n60\n70\n80\n90\n9\n", done.stdout)
  end)
end)

describe("load and loadstring", function()
  it("are as ever", function()
    local done = run("$T job.lua", { ["job.lua"] = [[
      print(pcall(function() local f = load(nil) return f end))
      print(select("#", load("return 1", "=n", "t", {})), load("return y", "=n", "t", { y = 7 })())
      print(load("x =", "=n"))
      print(load(function() error "oops" end))
      print(load(function() return true end))
      print(loadstring(string.dump(loadstring("return 5", "=n")), "=n")())
      print(load(5))
      print(loadstring("return ...", "=n")(1, nil, 3))
    ]] })
    assert.equal("", done.stderr)
    contains(done.stdout, "false\t", "bad argument #1 to 'load' (function expected, got nil)\n")
    contains(done.stdout, "1\t7\nnil\tn:1: unexpected symbol near '<eof>'\nnil\t", "oops\nnil\treader function must return a string\n5\n")
    contains(done.stdout, "1\tnil\t3\n")
  end)

  it("travel to workers, where they are the same", function()
    local done = run("$T job.lua", { ["job.lua"] = [[
      local app = require "tidepool".App()
      local load, loadstring = load, loadstring
      local f = app:func(function(x) return loadstring("return " .. x, "=x")() + load("return 10")() end)
      print(f:map({ 1, 2 }):list()[2])
    ]] })
    assert.same({ "12\n", "" }, { done.stdout, done.stderr })
  end)

  it("keep a bounded amount of text", function()
    local done = run("$T job.lua", { ["job.lua"] = [[
      local text = ("x"):rep(1000)
      for i = 1, 50000 do loadstring("return '" .. text .. i .. "'", "=many") end
      collectgarbage()
      collectgarbage()
      print(collectgarbage "count" < 20 * 1024)
    ]] })
    assert.same({ "true\n", "" }, { done.stdout, done.stderr })
  end)
end)
