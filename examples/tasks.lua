-- Calls, maps, timers and sockets in one process: a small server whose answers are computed in
-- parallel, and its clients.
--
--   tidepool run examples/tasks.lua [--clients N]
--
-- test: --clients 3
-- prints: client 1: the primes below 1000: 168
-- prints: client 2: the primes below 2000: 303
-- prints: client 3: the primes below 3000: 430
-- prints: a map went on meanwhile: 5000 results
-- prints: the sum of all answers: 901

local tidepool = require "tidepool"
local uv = require "luv" -- the same loop
local app = tidepool.App "tasks"

local count_primes = app:func {} (function(n)
  local count = 0
  for candidate = 2, n - 1 do
    local is_prime = true
    for d = 2, math.sqrt(candidate) do
      if candidate % d == 0 then is_prime = false break end
    end
    if is_prime then count = count + 1 end
  end
  return count
end)

local square = app:func {} (function(x) return x * x end)

--- Starts a request of luv's and waits for its callback, which says what it has got to an event.
-- Where the task is cancelled, the wait ends.
local function await(start, ...)
  local answered = tidepool.event()
  local arguments = { ... }
  arguments[#arguments + 1] = function(...) answered:set(...) end
  assert(start(unpack(arguments)))
  local why, value = answered:get()
  assert(not why, why)
  return value
end

--- Answers each number that comes with how many primes are below it.
local function serve()
  local server = uv.new_tcp()
  server:bind("127.0.0.1", 0)
  server:listen(16, function()
    local peer = uv.new_tcp()
    server:accept(peer)
    peer:read_start(function(_, text)
      if not text then return peer:close() end
      peer:write(tostring(count_primes:remote(tonumber(text)))) -- a callback may wait too: it is a task
    end)
  end)
  return server
end

local function ask(port, n)
  local socket = uv.new_tcp()
  await(socket.connect, socket, "127.0.0.1", port)
  socket:write(tostring(n))
  local answer = tonumber(await(socket.read_start, socket))
  socket:close()
  return answer
end

app:main { args = { clients = { 3, "how many ask at once", min = 1 } } } (function(args)
  local server = serve()
  local port = server:getsockname().port

  -- Inside a task the same calls yield, so that all of them go on together.
  local clients = {}
  for i = 1, args.clients do clients[i] = tidepool.async(ask, port, i * 1000) end
  local background = tidepool.async(function() return square:map(tidepool.range(5000)):list().n end)

  local answers = tidepool.gather(clients)
  local sum = 0
  for i, answer in ipairs(answers) do
    print(("client %d: the primes below %d: %d"):format(i, i * 1000, answer))
    sum = sum + answer
  end
  print(("a map went on meanwhile: %d results"):format((background:get())))
  print("the sum of all answers: " .. sum)
  server:close()
end)
