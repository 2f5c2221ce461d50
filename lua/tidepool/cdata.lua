--- For the codec: what a cdata is, and cdata of a kind. Loaded before users' code runs, without require, once per state.

local ffi = require "ffi"

local istype, typeof, new, tostring, pcall = ffi.istype, ffi.typeof, ffi.new, tostring, pcall
local find, gsub = string.find, string.gsub
local int64, uint64, complex = typeof "int64_t", typeof "uint64_t", typeof "complex"

local function parts(v) return v.re, v.im end

-- A ctype passes istype as its own instance; its text tells it apart.
local function is(ct, v) return istype(ct, v) and not find(tostring(v), "^ctype") end

--- 1 and a fresh int64_t (read through lua_topointer), 2 and a uint64_t, 3 and a complex's two numbers; 0 and its type for all others.
local function kind_of(v)
  if is(int64, v) then return 1, int64(v) end
  if is(uint64, v) then return 2, uint64(v) end
  if istype(complex, v) then
    local ok, re, im = pcall(parts, v)
    if ok then return 3, re, im end
  end
  return 0, (gsub(tostring(typeof(v)), "^ctype", "cdata"))
end

--- A new one of that kind; of 1 and 2 the value is set later.
local function make(kind, re, im)
  if kind == 3 then return complex(re, im) end
  return new(kind == 1 and int64 or uint64)
end

return { kind_of = kind_of, make = make }
