--- A luv server with maps behind it, 50 clients, and a ticker, in one process. Not a spec: `make
-- soak` runs it after tests/soak.lua.
--
--   tidepool tests/soak_server.lua [SECONDS [SEED]]
--
-- Each client sends one request after the other and checks its answer: calls, maps over numbers,
-- records and strings below 1 MB, nested maps, failures, and now and then 5,000 calls, or tasks, at
-- once. The last line says how many answers there were, and for how long the loop kept a timer of 1
-- ms waiting at most: by the clock, which other load on the machine moves too, and by what this
-- thread itself did in that time.

local ffi = require "ffi"
local tidepool = require "tidepool"
local uv = require "luv"

local seconds, seed = math.min(tonumber(arg[1]) or 60, 60), tonumber(arg[2]) or os.time()
local CLIENTS, AT_ONCE = 50, 5000

ffi.cdef [[
  typedef struct tidepool_soak_time { long s, ns; } tidepool_soak_time;
  int clock_gettime(int, tidepool_soak_time *);
]]
local time = ffi.new "tidepool_soak_time"

--- What this thread has computed so far, in milliseconds.
local function work_ms()
  ffi.C.clock_gettime(3, time) -- CLOCK_THREAD_CPUTIME_ID
  return tonumber(time.s) * 1e3 + tonumber(time.ns) / 1e6
end

-- ---- what is asked for ----

local app = tidepool.App "soak_server"
local triple = app:func(function(x) return 3 * x end)
local record = app:func(function(r) return { sum = r.a + r.b[1], text = r.text } end)
local length = app:func { concurrency_limit = 2 } (function(s) return #s end)
local nest = app:func(function(x) return triple:map(tidepool.range(x)):sum() end)
local fails = app:func { name = "fails", retries = 1 } (function(x) error("no " .. x, 0) end)

-- Name -> what a server does for a request with a number; the answer is what the client expects.
local services = {
  call = { function(x) return (triple:remote(x)) end, function(x) return 3 * x end },
  sum = { function(x) return triple:map(tidepool.range(x)):sum() end, function(x) return 3 * x * (x + 1) / 2 end },
  records = { function(x)
    local xs, sum = {}, 0
    for i = 1, x do xs[i] = { a = i, b = { x }, text = "text " .. i } end
    for i, r in record:map(xs) do
      if r.text ~= "text " .. i then return "mixed" end
      sum = sum + r.sum
    end
    return sum
  end, function(x) return x * (x + 1) / 2 + x * x end },
  strings = { function(x)
    local sum = 0
    for _, n in length:map { ("x"):rep(x), ("x"):rep(200 * x), "" } do sum = sum + n end
    return sum
  end, function(x) return 201 * x end },
  nested = { function(x) return (nest:remote(x)) end, function(x) return 3 * x * (x + 1) / 2 end },
  failure = { function(x)
    local _, failure = pcall(fails.remote, fails, x)
    return failure.message == "no " .. x and x or tostring(failure)
  end, function(x) return x end },
  calls = { function(x)
    local calls, sum = {}, 0
    for i = 1, AT_ONCE do calls[i] = triple:spawn(x) end
    for _, value in ipairs(tidepool.gather(calls)) do sum = sum + value end
    return sum
  end, function(x) return 3 * x * AT_ONCE end },
  tasks = { function(x)
    local tasks, sum = {}, 0
    for i = 1, AT_ONCE do tasks[i] = tidepool.async(function() return (triple:remote(x)) end) end
    for _, value in ipairs(tidepool.gather(tasks)) do sum = sum + value end
    return sum
  end, function(x) return 3 * x * AT_ONCE end },
}
local common = { "call", "sum", "records", "strings", "nested", "failure" }

local function serve()
  local server = uv.new_tcp()
  server:bind("127.0.0.1", 0)
  server:listen(CLIENTS, function()
    local peer, rest = uv.new_tcp(), ""
    server:accept(peer)
    peer:read_start(function(_, text)
      if not text then return peer:close() end
      rest = rest .. text
      local lines = rest
      rest = lines:match "[^\n]*$"
      for id, name, x in lines:gmatch "(%d+) (%a+) (%d+)\n" do
        local fine, answer = pcall(services[name][1], tonumber(x)) -- a callback is a task
        peer:write(("%s %s\n"):format(id, fine and ("%.0f"):format(answer) or tostring(answer):match "[^\n]*"))
      end
    end)
  end)
  return server
end

-- ---- who asks ----

local n_answers = 0

local function client(port, number, ends)
  local socket, came, rest = uv.new_tcp(), tidepool.event(), ""
  socket:connect("127.0.0.1", port, function(why) came:set(why) end)
  assert(not came:get())
  socket:read_start(function(why, text)
    if why or not text then return came:fail(why or "the server has closed the connection") end
    rest = rest .. text
    local line = rest:match "^[^\n]*\n"
    if not line then return end
    rest = rest:sub(#line + 1)
    came:set(line)
  end)
  local n = 0
  while tidepool.now() < ends do
    n = n + 1
    local id, x = number * 1000000 + n, math.random(300)
    local name = math.random(2000) == 1 and (math.random(2) == 1 and "calls" or "tasks") or common[math.random(#common)]
    came = tidepool.event()
    socket:write(("%d %s %d\n"):format(id, name, x))
    local answer, expected = came:get(), ("%d %.0f\n"):format(id, services[name][2](x))
    if answer ~= expected then error(("client %d: %s %d: expected %s got %s"):format(number, name, x, expected, answer), 0) end
    n_answers = n_answers + 1
  end
  socket:close()
end

-- ---- the ticker ----

local function tick()
  local timer, gap, work = uv.new_timer(), 0, 0
  local last, last_work = uv.hrtime(), work_ms()
  timer:start(1, 1, function()
    local now, now_work = uv.hrtime(), work_ms()
    gap, work = math.max(gap, (now - last) / 1e6), math.max(work, now_work - last_work)
    last, last_work = now, now_work
  end)
  return function()
    timer:close()
    return gap, work
  end
end

math.randomseed(seed)
local server = serve()
local port, ends = server:getsockname().port, tidepool.now() + seconds
local stop = tick()
local clients = {}
for i = 1, CLIENTS do clients[i] = tidepool.async(client, port, i, ends) end
local fine, why = pcall(tidepool.gather, clients)
if not fine then
  io.stderr:write(("soak: seed %d: %s\n"):format(seed, tostring(why)))
  os.exit(1)
end
local gap, work = stop()
server:close()
print(("soak: seed %d, %d clients had %d answers in %d s, none lost or wrong; a timer of 1 ms waited %.1f ms at most, %.1f ms for this thread's work")
  :format(seed, CLIENTS, n_answers, seconds, gap, work))
