--- Indices and counters of translated kernels: 32 bits where they suffice, with the results and
--- errors of plain Lua.

local devices = require "tests.support_device"
local tidepool = require "tidepool"
local translate = require "tidepool.translate.translate".translate

local on_device = devices.on_device(it, pending)

local app = tidepool.App()

local function numbers(n)
  local a = tidepool.array("double", n)
  for i = 1, n do a[i] = i * i end
  return a
end

--- Calls the function on a device for these inputs, and compares each result with plain Lua's.
--- Gives the kernel's text. Plain Lua is interpreted: LuaJIT's compiler, once a loop of integers
--- is hot, runs its body once where the limit is not a number (its issue 1433, of 2026).
local function same(f, inputs)
  local on = app:func { gpu = true, name = "f" } (f)
  local ys, plain = on:map(inputs):list(), {}
  jit.off()
  for i, x in ipairs(inputs) do plain[i] = f(x) end
  jit.on()
  for i, want in ipairs(plain) do assert.equal(want, ys[i]) end
  return on:opencl()
end

local INPUTS = { 1, 2, 3, 5, 7 }

describe("Counters and indices on a device", function()
  on_device("are 32-bit integers for constant bounds and lengths of arrays", function()
    for _, n in ipairs { 0, 1, 2, 7, 100 } do
      local A = numbers(n)
      local text = same(function(x)
        local s = 0
        for i = 1, #A do s = s + A[i] * x end
        for i = #A, 1, -1 do s = s * 0.5 + A[i] end
        for i = #A, 1, -3 do
          local j = i - 1
          if j > 2 then s = s + A[j] - A[j + 1] end
        end
        for i = 1, #A - 1 do
          for j = i + 1, #A do s = s + A[j] * (j - i) end
        end
        for i = -2, 4 do if i >= 1 and i <= #A then s = s + i * A[i] end end
        return s
      end, INPUTS)
      assert.is_nil(text:find("long [%w_]+ = [^\n]*length_of") or text:find("for %(long") or text:find("%(long%)[%w_]+ %- 1"), text)
    end
  end)

  on_device("count to the length of an array by any step, and stop", function()
    for _, n in ipairs { 0, 1, 2, 3, 10 } do
      local A = numbers(n)
      same(function(x)
        local s = 0
        for i = 1, #A, 2 do s = s + A[i] end
        for i = 1, #A - 1, 2 do s = s + 3 * A[i] end
        for i = 1, #A - 4, 3 do s = s + 5 * A[i] end
        for i = 1, #A, 1048576 do s = s + 7 * A[i] end
        for i = #A, -5, -2 do s = s + i end
        for i = #A + 3, #A - 3, -1 do s = s + 11 * i end
        return s + x
      end, INPUTS)
    end
  end)

  on_device("have 64 bits where the bounds are not known to fit", function()
    local A, n, big = numbers(10), 4, 3e9
    same(function(x)
      local s = 0
      for i = 1, n do s = s + A[i] end
      for i = 2147483640, 2147483652 do s = s + i end
      for i = -2147483652, -2147483640 do s = s + i end
      for i = 2147483652, 2147483640, -4 do s = s + i end
      for i = big, big + x do s = s + i end
      return s
    end, INPUTS)
  end)

  on_device("are 32-bit integers to captured numbers that are small, and to lengths of lists", function()
    local list, n, m = { 3, 1, 2 }, 4, -2
    local text = same(function(x)
      local s = 0
      for i = 1, n do s = s + i * x end
      for i = 3, m, -1 do s = s + i end
      for i = 1, #list do s = s + list[i] end
      local l = { x, 2, 3 }
      for i = 1, #l do l[i] = l[i] + i end
      for _, v in ipairs(list) do s = s * 3 + v * l[1] end
      return s
    end, INPUTS)
    assert.is_nil(text:find "for %(long" or text:find "\n%s+long [%w_]+ = ", text)
    local made = translate(function(x) for i = 1, n do x = x + i end return x end, { name = "f" })
    n = 2 ^ 30
    assert.is_true((made:is_current()))
    n = 2 ^ 30 + 1
    assert.is_false((made:is_current()))
    assert.truthy(translate(function(x) for i = 1, n do x = x + i end return x end, { name = "f" }).source:find "for %(long")
  end)

  on_device("count to any captured number, and computed one", function()
    local function counts(n, m)
      return function(x)
        local s, low = 0, n * (x / x)
        for i = 1, n do s = s + i if i > 5 then break end end
        for i = 1073741820, n do s = s + i if i > 1073741840 then break end end
        for i = 1073741822, n, 3 do s = s + i if i > 1073741840 then break end end
        for i = 2147483640, n, 3 do s = s + i if i > 2147483660 then break end end
        for i = -2, n % 5 do s = s + 3 * i end
        for i = 1, low do s = s + 7 * i if i > 5 then break end end
        for i = -1, m, -1 do s = s + i if i < -5 then break end end
        for i = -1073741820, m, -2 do s = s + i if i < -1073741840 then break end end
        for i = -2147483640, m, -4 do s = s + i if i < -2147483660 then break end end
        for i = 2, m % 3, -1 do s = s + 5 * i end
        return s
      end
    end
    for _, n in ipairs { 0, 1, 2.5, -0.5, 0 / 0, 1 / 0, -1 / 0, 2 ^ 30, 2 ^ 30 + 1, 2 ^ 31 - 1, 2 ^ 31 + 1 } do same(counts(n, -n), { 1, 2 }) end
  end)

  on_device("are 32-bit integers from captured numbers that are whole and small, with and without a minus", function()
    local r = 2
    local function f(x)
      local s, n = 0, 0
      for i = -r, r do
        s, n = s * 3 + i * x + 1 / (i + 10), n + 1
        if n > 20 then break end
      end
      for i = r, -r, -2 do
        s, n = s + i * x + 1 / i, n + 1
        if n > 40 then break end
      end
      for i = (-r), 3 do
        s, n = s - 1 / i, n + 1
        if n > 60 then break end
      end
      return s == s and s or -1
    end
    local text = same(f, INPUTS)
    assert.is_nil(text:find "for %(long" or text:find "for %(double" or text:find "\n%s+long [%w_]+ = ", text)
    local made = translate(f, { name = "f" })
    assert.is_true((made:is_current()))
    r = 5
    assert.is_true((made:is_current()))
    for _, v in ipairs { 0, -0.0, -3, 1.5, 2 ^ 30 - 1, 2 ^ 30, -2 ^ 31, 2 ^ 53, 1 / 0, -1 / 0, 0 / 0 } do
      r = v
      assert.equal(v == -3 or v == 2 ^ 30 - 1, (made:is_current()))
      same(f, { 1, 2 })
    end
  end)

  on_device("name an index that is not in the array, whatever it is", function()
    local A = numbers(10)
    local function fails(f, input, what)
      local on = app:func { gpu = true, name = "f" } (f)
      local fine, why = pcall(function() return on:map({ input }):list() end)
      assert.is_false(fine)
      assert.truthy(tostring(why):find(what, 1, true), tostring(why))
    end
    local function by_input(x) return A[x] end
    fails(by_input, 1e20, "index 1e+20 of 'A' is out of range (1 to 10)")
    fails(by_input, 2 ^ 32 + 1, "index 4294967297 of 'A' is out of range (1 to 10)")
    fails(by_input, -2 ^ 40, "index -1099511627776 of 'A' is out of range (1 to 10)")
    fails(by_input, 2.5, "index 2.5 of 'A' is not a whole number")
    local big, k = 2 ^ 32 + 1, 1e20
    fails(function(x) return A[big] + x end, 1, "index 4294967297 of 'A' is out of range (1 to 10)")
    fails(function(x) return A[k] + x end, 1, "index 1e+20 of 'A' is out of range (1 to 10)")
    fails(function(x)
      local s = 0
      for i = 4294967297, 4294967298 do s = s + A[i] end
      return s + x
    end, 1, "index 4294967297 of 'A' is out of range (1 to 10)")
    fails(function(x)
      local s = 0
      for i = 1, #A do s = s + A[i - 1] end
      return s + x
    end, 1, "index 0 of 'A' is out of range (1 to 10)")
    fails(function(x)
      local s = 0
      for i = 1, #A do s = s + A[i + 1] end
      return s + x
    end, 1, "index 11 of 'A' is out of range (1 to 10)")
  end)
end)
