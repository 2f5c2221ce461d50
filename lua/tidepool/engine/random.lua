--- What math.random is in a mapped function. (tidepool.random is in stream.lua.)
--
-- An item's stream is xoroshiro128++ (see host/engine/random.h); its state is made from the map's
-- key and the item's index when the item first draws. Until then it costs nothing: two integers are
-- compared to see whether the state is the running item's, one of which the worker's loop writes
-- anyway (ctl[0]). After an item has called math.randomseed its numbers are LuaJIT's own, as in a
-- plain loop, so a function that seeds itself gives the same everywhere. gpu/translate/builtins.lua
-- has the same generator for devices, and gpu/translate/emit/calls.lua the same forms of calls.

local abi = require "tidepool.base.abi"
local bit = require "bit"
local core = require "tidepool.core"
local ffi = require "ffi"

local random = {}

local bxor, band, rol, lshift, rshift = bit.bxor, bit.band, bit.rol, bit.lshift, bit.rshift
local error, floor, select, tonumber, type = error, math.floor, select, tonumber, type

-- tp_draws of host/engine/random.h, which a tp_work begins with.
local draws_type = ffi.typeof(abi.draws_struct .. " *")

--- One step of xoroshiro128++ from the halves a and b: the 64 random bits, and the next halves.
local function step(a, b)
  local x = bxor(a, b)
  return rol(a + b, 17) + a, bxor(rol(a, 49), x, lshift(x, 21)), rol(x, 28)
end
random.step = step

--- The 53 highest bits as a number in [0, 1).
local function fraction(bits)
  return tonumber(rshift(bits, 11)) * 0x1p-53
end
random.fraction = fraction

--- The number that a string argument of math.random stands for; raises an error at the caller of
--- the function that was tail-called from math.random.
local function check_number(value, place)
  local number = type(value) == "string" and tonumber(value)
  if number then return number end
  error(("bad argument #%d to 'random' (number expected, got %s)"):format(place, type(value)), 3)
end

--- The result of math.random with n arguments, for x in [0, 1). As LuaJIT's, it accepts empty
--- intervals and fractions. Must be called in tail position, because of check_number's error level.
local function shape(x, n, from, to)
  if n == 0 then return x end
  if type(from) ~= "number" then from = check_number(from, 1) end
  if n == 1 then return floor(x * from) + 1 end
  if type(to) ~= "number" then to = check_number(to, 2) end
  return floor(x * (to - from + 1)) + from
end
random.shape = shape

-- ---- in a worker ----

-- LuaJIT's generator (host/engine/random.c): one step of each of its four registers.
local function step_luajit(u)
  local z0, z1, z2, z3 = u[0], u[1], u[2], u[3]
  z0 = bxor(rshift(bxor(lshift(z0, 31), z0), 45), lshift(band(z0, -2LL), 18))
  z1 = bxor(rshift(bxor(lshift(z1, 19), z1), 30), lshift(band(z1, -64LL), 28))
  z2 = bxor(rshift(bxor(lshift(z2, 24), z2), 48), lshift(band(z2, -512LL), 7))
  z3 = bxor(rshift(bxor(lshift(z3, 21), z3), 39), lshift(band(z3, -131072LL), 8))
  u[0], u[1], u[2], u[3] = z0, z1, z2, z3
  return tonumber(band(bxor(z0, z1, z2, z3), 0xfffffffffffffLL)) * 0x1p-52
end

--- math.random for a state that runs items: a worker's, or the script's that replays one; `outside`
--- is LuaJIT's own.
function random.of_items(outside)
  local address, ctl_offset = core.random.streams()
  local streams = ffi.cast(ffi.typeof("$ *", draws_type), address)
  local int32_pointer, byte_pointer = ffi.typeof "int32_t *", ffi.typeof "char *"

  -- Sets the state for the item at that offset, as tp_key_of does.
  local function open(draws, at)
    local i = ffi.cast("int64_t", draws.first + at)
    local a, b = draws.map[0] + i * 0x9e3779b97f4a7c15LL, bxor(draws.map[1], i * 0xd1342543de82ef95LL)
    a = bxor(a, rshift(a, 30)) * 0xbf58476d1ce4e5b9LL
    a = bxor(a, rshift(a, 27)) * 0x94d049bb133111ebLL
    b = bxor(b, rshift(b, 33)) * 0xff51afd7ed558ccdLL
    b = bxor(b, rshift(b, 33)) * 0xc4ceb9fe1a85ec53LL
    draws.state[0], draws.state[1] = bxor(a, rshift(a, 31)), bxor(b, rshift(b, 33))
    draws.at = at
  end

  local function draw()
    local draws = streams[0]
    if draws == nil then return outside() end -- in a worker: a finalizer that runs at its end
    local at = ffi.cast(int32_pointer, ffi.cast(byte_pointer, draws) + ctl_offset)[0]
    if draws.at ~= at then
      if draws.seeded_at == at then return step_luajit(draws.luajit) end
      open(draws, at)
    end
    local state = draws.state
    local bits, a, b = step(state[0], state[1])
    state[0], state[1] = a, b
    return fraction(bits)
  end

  return function(...)
    local n, from, to = select("#", ...), ...
    return shape(draw(), n, from, to)
  end
end

return random
