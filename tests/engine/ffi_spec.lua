--- What a script has to do with C by the FFI is there in workers: declarations, libraries,
-- functions, types and structs.

local ffi = require "ffi"
local support = require "tests.support"
local tidepool = require "tidepool"

local contains, failure_of = support.contains, support.failure_of

ffi.cdef [[
  int abs(int);
  unsigned long compressBound(unsigned long sourceLen);
  typedef struct { double x, y; } ffi_spec_point; // a struct without a name of its own
  struct ffi_spec_named { int a[3]; ffi_spec_point at; /* not a * pointer */ };
  struct ffi_spec_text { const char *text; };
  struct ffi_spec_deep { int n; struct ffi_spec_text inner; };
  typedef struct ffi_spec_text *ffi_spec_handle;
  struct ffi_spec_hidden { ffi_spec_handle handle; };
  union ffi_spec_word { uint32_t whole; uint8_t bytes[4]; };
]]
local C, abs, z = ffi.C, ffi.C.abs, ffi.load "z"
local point = ffi.typeof "ffi_spec_point"
local pair = ffi.typeof "struct { int a, b; }"
local vec = ffi.metatype("struct { double x, y, z; }", {
  __index = { len = function(v) return math.sqrt(v.x ^ 2 + v.y ^ 2 + v.z ^ 2) end },
})

describe("What a script does with the FFI", function()
  local app = tidepool.App "ffi"
  local give = app:func(function(x) return x end)

  it("may use C's functions, by the namespace, by themselves, and in libraries", function()
    local calls = app:func(function(x) return C.abs(x), ffi.C.abs(x), abs(x), tonumber(z.compressBound(100)) end)
    for _, a, b, c, d in calls:map { -1, -2, -3 } do assert.same({ a, a, 113 }, { b, c, d }) end
    assert.equal(5, give:remote(C).abs(-5))
    assert.equal(ffi.C, (give:remote(C)))
    assert.equal(z, (give:remote(z)))
    assert.equal(7, (give:remote(abs))(-7))
  end)

  it("may have ctypes, also without a name, and their metatables", function()
    local make = app:func(function(x)
      local v = vec(3, 4, x)
      return point(x, 1).x, pair(x, 2).a, v:len(), ffi.istype(vec, v)
    end)
    assert.same({ 0, 0, 5, true }, { make:remote(0) })
    assert.equal(point, (give:remote(point)))
    assert.equal(vec, (give:remote(vec)))
    assert.equal(5, (give:remote(vec))(3, 0, 4):len())
    assert.equal(8, ffi.sizeof((give:remote(ffi.typeof "int64_t"))))
  end)

  it("may pass structs, unions, enums and numbers of C as copies, and return them", function()
    local move = app:func(function(p, by) return point(p.x + by.x, p.y + by.y), by end)
    local moved, by = move:remote(point(1, 2), vec(10, 20, 2))
    assert.is_true(ffi.istype(point, moved))
    assert.same({ 11, 22 }, { moved.x, moved.y })
    assert.is_true(ffi.istype(vec, by))
    assert.equal(math.sqrt(504), by:len())
    local named = ffi.new "struct ffi_spec_named"
    named.a[1], named.at.y = 7, 2
    assert.equal(9, app:func(function() return named.a[1] + named.at.y end):remote())
    local word = ffi.new("union ffi_spec_word", 258)
    assert.same({ 2, 1 }, { app:func(function(w) return w.bytes[0], w.bytes[1] end):remote(word) })
    assert.equal(3, tonumber((give:remote(ffi.new("int", 3)))))
    local same = app:func(function(list) return rawequal(list[1], list[2]), list[1].a end)
    local one = pair(4, 5)
    assert.same({ true, 4 }, { same:remote { one, one } })
    local list = {}
    for i = 1, 1000 do list[i] = point(i, -i) end
    local sums = app:func(function(p) return p.x + 2 * p.y end):map(list):list()
    for i = 1, 1000 do assert.equal(-i, sums[i]) end
  end)

  it("may pass NULL", function()
    local nothing = ffi.cast("void *", nil)
    local is_null = app:func(function(p) return p == nil, nothing == nil, tostring(ffi.typeof(p)) end)
    assert.same({ true, true, "ctype<char *>" }, { is_null:remote(ffi.cast("char *", nil)) })
  end)

  it("is told what cannot travel, and what to do", function()
    local function refused(x, ...)
      contains(failure_of(function() give:remote(x) end).message, "ffi_spec.lua:", ...)
    end
    refused(ffi.cast("char *", 8), "a cdata<char *> cannot travel to a worker (a pointer means nothing to others")
    refused(ffi.new("double[?]", 3), "a cdata<double [?]> cannot travel to a worker (tidepool.array")
    for _, name in ipairs { "text", "deep", "hidden" } do
      refused(ffi.new("struct ffi_spec_" .. name), "a cdata<struct ffi_spec_" .. name .. "> cannot travel to a worker (there are pointers in it")
    end
    local owner = ffi.metatype("struct { int fd; }", { __gc = function() end })
    refused(owner(1), "its metatable has a finalizer")
  end)

  it("and modules may declare the same", function()
    local output = support.output_of([[
      package.path = "DIR/?.lua;" .. package.path
      local ffi = require "ffi"
      local tidepool = require "tidepool"
      local shapes = require "ffi_shapes"
      ffi.cdef "struct of_script { int n; };"
      local app = tidepool.App "t"
      local area = app:func(function(s, n) return shapes.area(s), s:twice(), ffi.new("struct of_script", n).n end)
      print(area:remote(shapes.new(2, 3), 7))
      print((app:func(function(s) return s:twice() end):remote(shapes.new(1, 1))))
      print(pcall(ffi.cdef, "struct of_script { int n; };"))
      print(pcall(ffi.cdef, "rubbish"))
      print(pcall(ffi.typeof, "no_such_type"))
      print((app:func(function() ffi.cdef "struct in_worker { int q; };" return ffi.new("struct in_worker", 4).q end):remote()))
    ]], { files = { ["ffi_shapes.lua"] = [[
      local ffi = require "ffi"
      ffi.cdef "struct shape { double w, h; };"
      local shape = ffi.metatype("struct shape", { __index = { twice = function(s) return 2 * s.w * s.h end } })
      return { new = function(w, h) return shape(w, h) end, area = function(s) return s.w * s.h end }
    ]] } })
    assert.equal([[
6	12	7
2
false	attempt to redefine 'of_script'
false	declaration specifier expected near 'rubbish'
false	declaration specifier expected near 'no_such_type'
4
]], output)
  end)
end)
