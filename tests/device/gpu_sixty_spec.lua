--- Sixty numeric functions as people write them (sixty.lua): which of them a device runs as they
--- are, each compared with plain Lua over many inputs, in the vector and the scalar form. README.md
--- says how many run, and the first of these specs whether that is true.

package.path = "tests/?.lua;tests/device/?.lua;" .. package.path
require "tidepool" -- first, as users do
local opencl = require "support_opencl"
local sixty = require "sixty"
local translate = require "tidepool.translate.translate".translate

local device, no_device = opencl.open()

--- Those that no device runs, and what their refusal says.
local REFUSED = {
  ["nearest centroid"] = "'best' may be read before it has a value",
  ["mean of arguments"] = "there are no variable arguments on a device",
  ["Fibonacci by recursion"] = "'fib' calls itself; there is no recursion on a device",
  ["Luhn check of a number"] = "there are no strings on a device",
}

--- Those that run, but fail where plain Lua goes on with nil.
local FAILING = { ["Sobel edges"] = "index .* of 'rows' is out of range" }

local COUNT = 2000

--- What differs between the device and plain Lua; nil when nothing does.
local function difference(each, translation, inputs)
  local built = device:build(translation)
  local outputs, failed = device:run(built, inputs)
  device:release(built)
  local arguments = {}
  for i = 1, COUNT do
    for k = 1, #inputs do arguments[k] = inputs[k][i] end
    local plain = { pcall(each.fn, unpack(arguments, 1, #inputs)) }
    local status = failed and failed[i - 1] or 0
    local where = ("lanes %d, f(%s)"):format(translation.lanes, table.concat(arguments, ", "))
    if plain[1] ~= (status == 0) then
      local what = status ~= 0 and "fails on the device: " .. translation:describe(status) or "fails in plain Lua only: " .. plain[2]
      return ("%s: %s"):format(where, what)
    end
    for k = 1, plain[1] and #translation.outputs or 0 do
      local want, got = plain[k + 1], outputs[k][i - 1]
      if type(want) == "boolean" then want = want and 1 or 0 end
      -- some ulp of what went into it: sums of numbers of different signs lose digits
      local close = math.abs(want - got) <= 1e-9 * math.max(1, math.abs(want)) * (each.loose or 1)
      if opencl.ulps(want, got) > 16 and not close then
        return ("%s: result %d is %.17g, should be %.17g (%g ulp)"):format(where, k, got, want, opencl.ulps(want, got))
      end
    end
  end
end

describe("of sixty functions", function()
  it("there are sixty", function() assert.equal(60, #sixty) end)

  it("the README says how many run", function()
    local runs = #sixty
    for _, list in ipairs { REFUSED, FAILING } do
      for _ in pairs(list) do runs = runs - 1 end
    end
    local file = assert(io.open "README.md")
    local said = file:read("*a"):match "(%d+) of sixty"
    file:close()
    assert.equal(runs, tonumber(said))
  end)

  for _, each in ipairs(sixty) do
    local types = {}
    for i = 1, #each.inputs do types[i] = "double" end
    if REFUSED[each.name] then
      it("a device refuses " .. each.name, function()
        local fine, why = pcall(translate, each.fn, { name = each.name, lanes = 8, inputs = types })
        assert.is_false(fine)
        assert.matches(REFUSED[each.name], why)
      end)
    elseif device and FAILING[each.name] then
      it("a device fails in " .. each.name, function()
        local trouble = difference(each, translate(each.fn, { name = each.name, lanes = 8, inputs = types }), sixty.inputs(each.inputs, COUNT))
        assert.matches(FAILING[each.name], trouble)
      end)
    elseif not device then
      pending(("a device runs %s -- skipped: %s"):format(each.name, no_device))
    else
      it("a device runs " .. each.name, function()
        local inputs = sixty.inputs(each.inputs, COUNT)
        for _, lanes in ipairs { 1, 8 } do
          local trouble = difference(each, translate(each.fn, { name = each.name, lanes = lanes, inputs = types }), inputs)
          assert(not trouble, trouble)
        end
      end)
    end
  end
end)
