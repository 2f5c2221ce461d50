-- What scripts/embed does to the bytecode of our modules: tables keep the room that their
-- constructors give them (scripts/templates.lua).

local complete = dofile("scripts/templates.lua")

local source = [[
  local function many(a, b)
    return { x = a, y = b and a, z = a, k = 1, inner = { q = a, [3] = b }, a, b, f = function() return a end }
  end
  local function later(a)
    local t = {}
    t.one, t.two = a, a
    if a then t.three = a end
    local u = { "x", "y", n = a }
    u = { z = 0 }
    u.z = a
    return t, u
  end
  local numbers = { 1.5, -2, 1e300, true, false, "text", n = 6, [0.5] = 7, [true] = 8 }
  return many, later, numbers, ...
]]

describe("tables made by our modules", function()
  it("have what their constructors say", function()
    local many, later, numbers, given = assert(loadstring(complete(string.dump(loadstring(source, "=source")))))("given")
    local t = many(5, false)
    local f = t.f
    t.f = nil
    assert.are.same({ x = 5, y = false, z = 5, k = 1, inner = { q = 5, [3] = false }, 5, false }, t)
    assert.are.equal(5, f())
    local first, second = later(7)
    assert.are.same({ one = 7, two = 7, three = 7 }, first)
    assert.are.same({ z = 7 }, second)
    assert.are.same({ 1.5, -2, 1e300, true, false, "text", n = 6, [0.5] = 7, [true] = 8 }, numbers)
    assert.are.equal("given", given)
  end)

  it("have places for the fields that the code sets", function()
    local dump = string.dump(loadstring [[
      local function open(apple)
        local t = { colour = "red", apple = apple, peach = apple or 1 }
        if apple then t.mango = apple end
        return t
      end
      local lemon = open(1)
      lemon.grape = 2
      return lemon]])
    local completed = complete(dump)
    -- a key in a template: its length and 5, itself, and the kind of its value, nil
    for _, key in ipairs { "apple", "peach", "mango" } do
      assert.is_truthy(completed:find("\10" .. key .. "\0", 1, true), key)
    end
    local lemon = loadstring(completed)()
    assert.are.same({ colour = "red", apple = 1, peach = 1, mango = 1, grape = 2 }, lemon)
  end)

  it("are those of all modules of ours", function()
    for path in io.popen("find lua gpu -name '*.lua'"):lines() do
      local dump = string.dump(assert(loadfile(path)))
      local completed = complete(dump)
      assert.are.equal(completed, complete(completed), path) -- whatever LuaJIT has left out
      assert.is_function(loadstring(completed), path)
    end
  end)

  it("are left alone in bytecode of another format", function()
    local other = "\27LJ\1" .. string.dump(function() end):sub(5)
    assert.are.equal(other, complete(other))
  end)
end)
