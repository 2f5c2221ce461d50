--- Lua functions made at random, on a device: not stock luajit, where the same code runs. A few of
-- those that tests/fuzz/translate_fuzz.lua makes, which by hand tries any number.

require "tidepool" -- it brings what the translator needs
local fuzz = require "tests.fuzz.translate_fuzz"
local opencl = require "tests.support_opencl"

local on_device, device = opencl.specs(it, pending)

describe("A Lua function made at random", function()
  on_device("gives on a device what it gives in plain Lua, in both forms", function()
    local tried, wrong = fuzz.try(device, 1, 5)
    assert.same({ 10, "" }, { tried, table.concat(wrong, "\n\n") })
  end)

  it("follows from its seed, and is no other one's", function()
    local seen = {}
    for seed = 1, 200 do
      local text = fuzz.make(seed)
      assert.equal(text, fuzz.make(seed))
      assert.is_nil(seen[text])
      assert(loadstring(text))
      seen[text] = true
    end
  end)
end)
