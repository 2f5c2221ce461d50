--- What C and Lua share: generated from the headers (scripts/abi.c), and the same on both sides.

local tidepool = require "tidepool"
local abi = require "tidepool.base.abi"
local ffi = require "ffi"

describe("what C and Lua share", function()
  it("has the same layouts in FFI as in C", function()
    for _, name in ipairs { "scalar_struct", "text_struct", "draws_struct" } do
      assert.equal(abi[name .. "_size"], ffi.sizeof(ffi.typeof(abi[name])), name)
    end
    for i, c_type in ipairs(abi.c_types) do
      assert.equal(abi.view_struct_size, ffi.sizeof(ffi.typeof((abi.view_struct:gsub("%$", c_type)))), abi.types[i])
    end
    -- That its members lie where C has them is what maps over strings, arrays and random numbers
    -- show.
    local scalar = ffi.typeof(abi.scalar_struct)
    assert.equal(0, ffi.offsetof(scalar, "number"))
    assert.equal(0, ffi.offsetof(scalar, "pinned"))
    assert.equal(0, ffi.offsetof(scalar, "at"))
    assert.equal(4, ffi.offsetof(scalar, "length"))
    assert.equal(8, ffi.offsetof(scalar, "kind"))
  end)

  it("numbers the element types in the order of their names", function()
    assert.equal(#abi.types, abi.type.MIXED)
    for i, name in ipairs(abi.types) do
      assert.equal(i - 1, abi.type[name:upper()])
      assert.equal(abi.c_types[i], (name:gsub("%d+$", "%0_t")))
      local f = tidepool.App "abi":func { returns = name } (function(x) return x end)
      assert.equal(7, tonumber(f:map({ 7 }):array()[1]), name)
    end
  end)

  it("has the fields of a failure in the order in which they come", function()
    -- As host/workers/vm and describe.failure give them, too.
    assert.equal("kind message value traceback attempts worker stderr", table.concat(abi.failure, " "))
    local f = tidepool.App "abi":func { retries = 1, name = "f" } (function() error { code = 7 } end)
    for _, failed in ipairs { select(2, f:map({ 1 }, { return_exceptions = true })()), (select(2, pcall(f.remote, f))) } do
      for _, name in ipairs(abi.failure) do assert.equal(name ~= "stderr", rawget(failed, name) ~= nil, name) end -- that is of dead processes
      assert.same({ "error", { code = 7 }, 2 }, { failed.kind, rawget(failed, "value"), failed.attempts })
    end
  end)

  it("has the kinds of failures by the names that users see", function()
    for name, kind in pairs(abi.kind) do assert.equal(name:lower(), kind) end
    assert.equal("error", abi.kind.ERROR)
    assert.equal(abi.NO_MEMORY, select(2, pcall(string.rep, "x", 2 ^ 31 - 40)))
  end)

  it("raises for a name that C does not define", function()
    assert.has_error(function() return abi.NO_SUCH_LIMIT end, "the ABI has no NO_SUCH_LIMIT")
    assert.has_error(function() return abi.block.NO_SUCH_KIND end, "the ABI has no NO_SUCH_KIND")
  end)
end)
