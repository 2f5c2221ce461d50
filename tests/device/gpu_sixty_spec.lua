--- Sixty numeric functions as people write them (sixty.lua; not stock: the same code runs there):
--- which of them a device runs as they are, each compared with plain Lua over many inputs, in the
--- vector and the scalar form. docs/devices.md says how many run, and a spec whether that is true.

package.path = "tests/?.lua;tests/device/?.lua;" .. package.path
require "tidepool" -- first, as users do
local devices = require "tests.support_device"
local shell = require "tests.cli.shell"
local opencl = require "support_opencl"
local support = require "tests.support"
local sixty = require "sixty"
local translate = require "tidepool.translate.translate".translate

local on_device, device = opencl.specs(it, pending)

--- Those that no device runs, and what their refusal says.
local REFUSED = {
  ["Fibonacci by recursion"] = "'fib' calls itself; there is no recursion on a device",
  ["Luhn check of a number"] = "there are no strings on a device",
}

local COUNT = 2000

--- What differs between the device and plain Lua; nil when nothing does.
local function compare(each, translation, inputs)
  local built = device:build(translation)
  local outputs, failed = device:run(built, inputs)
  device:release(built)
  local arguments = {}
  jit.off() -- LuaJIT's compiler and its interpreter differ in max and min of NaN
  jit.flush()
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

local function difference(...)
  local trouble = compare(...)
  jit.on()
  return trouble
end

describe("of sixty functions", function()
  it("there are sixty", function() assert.equal(60, #sixty) end)

  it("docs/devices.md says how many run", function()
    local runs = #sixty
    for _ in pairs(REFUSED) do runs = runs - 1 end
    local file = assert(io.open "docs/devices.md")
    local said = file:read("*a"):match "(%d+) of sixty"
    file:close()
    assert.equal(runs, tonumber(said))
  end)

  it("each has the same text in every process, by which programs are kept", function()
    local files = { ["sixty.lua"] = support.read_file "tests/device/sixty.lua", ["job.lua"] = [[
      require "tidepool"
      local translate, sixty = require "tidepool.translate.translate".translate, require "sixty"
      for _, each in ipairs(sixty) do
        local types = {}
        for i = 1, #each.inputs do types[i] = "double" end
        local fine, made = pcall(translate, each.fn, { name = each.name, lanes = 8, inputs = types })
        print(each.name, fine and made.source or "refused")
      end]] }
    local first = shell.run("$T job.lua", files)
    assert.equal("", first.stderr)
    assert.is_true(#first.stdout > 60000)
    for _ = 1, 2 do assert.is_true(first.stdout == shell.run("$T job.lua", files).stdout) end
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
    else
      on_device("a device runs " .. each.name, function()
        local inputs = sixty.inputs(each.inputs, COUNT)
        for _, lanes in ipairs { 1, 8 } do
          local trouble = difference(each, translate(each.fn, { name = each.name, lanes = lanes, inputs = types }), inputs)
          assert(not trouble, trouble)
        end
      end)
    end
  end
end)

describe("on a device with memory of its own", function()
  on_device("some of them run from a script, with the results of plain Lua", function()
    local pwd = io.popen("pwd"):read "*l"
    local done = shell.run(("FAULTS_COPIES=1 TIDEPOOL_OPENCL=%s $T job.lua %s"):format(devices.faults(), pwd), { ["job.lua"] = [[
      package.path = ... .. "/tests/device/?.lua;" .. package.path
      local tidepool = require "tidepool"
      jit.off()
      local app, chosen = tidepool.App(), {}
      for _, name in ipairs { "two bodies", "ray and sphere", "dice of a generator", "Levenshtein distance", "median of a window", "elastic easing",
        "erosion by a drop" } do chosen[name] = true end
      for _, each in ipairs(require "sixty") do
        if chosen[each.name] then
          local f = app:func { gpu = true } (each.fn)
          local lists, tuples = each.inputs and require("sixty").inputs(each.inputs, 500), {}
          for i = 1, 500 do
            tuples[i] = {}
            for k, list in ipairs(lists) do tuples[i][k] = list[i] end
          end
          for i, got, second in f:starmap(tuples) do
            local want, other = each.fn(unpack(tuples[i]))
            for _, pair in ipairs { { want, got }, { other or 0, second or 0 } } do
              local a, b = pair[1], pair[2]
              local close = a == b or a ~= a and b ~= b or math.abs(a - b) <= 1e-9 * math.max(1, math.abs(a))
              if not close then error(("%s(%s): %.17g, should be %.17g"):format(each.name, table.concat(tuples[i], ", "), b, a)) end
            end
          end
          io.write "+"
        end
      end
    ]] })
    assert.equal("", done.stderr)
    assert.equal("+++++++", done.stdout)
  end)
end)
