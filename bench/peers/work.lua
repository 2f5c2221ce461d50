--- What all peers do: one call per input, on two threads. A peer is a function(f, inputs, take) ->
-- nothing, which calls take(result) for each.
--
-- Run as `luajit bench/peers/NAME.lua WORKLOAD N`; prints the seconds of a run and what its results
-- add up to. A run of a tenth of the inputs warms up. Functions that other systems send to threads
-- take nothing from around them, so that these do not either.

local ffi = require "ffi"

ffi.cdef "typedef struct { long sec, nsec; } peer_time; int clock_gettime(int, peer_time *);"

local function now()
  local t = ffi.new "peer_time"
  ffi.C.clock_gettime(1, t)
  return tonumber(t.sec) + tonumber(t.nsec) * 1e-9
end

local workloads = {
  numbers = {
    f = function(x) return x * x end,
    input = function(i) return i end,
    value = function(y) return y end,
  },
  records = {
    f = function(r)
      r.total = r.v[1] + r.v[2] + r.v[3] + r.id
      return r
    end,
    input = function(i) return { id = i, name = "record " .. i, v = { 1, 2, 3 } } end,
    value = function(r) return r.total + #r.name end,
  },
}

return function(peer, arguments)
  local name, n = arguments[1], tonumber(arguments[2])
  local workload = assert(workloads[name], "numbers or records")
  local function run(count)
    local inputs, sum = {}, 0
    for i = 1, count do inputs[i] = workload.input(i) end
    collectgarbage()
    local start = now()
    peer(workload.f, inputs, function(y) sum = sum + workload.value(y) end)
    return now() - start, sum
  end
  run(math.ceil(n / 10))
  io.stdout:write(("%.9f %.17g\n"):format(run(n)))
end
