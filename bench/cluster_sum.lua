--- What a reduction on a cluster costs on the wire: bytes that the server of NATS has taken and
-- given (by its own count), a result, and processor time of the server and the script.
--
--     build/tidepool bench/cluster_sum.lua [N [ROUNDS]]
--
-- N numbers (a million) through a function that takes a microsecond, on a server and a worker with
-- two slots of its own: read one by one in a loop, as a reduction did before workers reduced groups
-- of them, and summed. In turns, after a round that does not count; the middle of ROUNDS (5).

local n, rounds = tonumber(arg[1]) or 1000000, tonumber(arg[2]) or 5
local root = arg[0]:match "^(.*)/bench/[^/]*$" or "."
package.path = root .. "/?.lua;" .. package.path
local cluster = require "tests.support_cluster"
local support = require "tests.support"

local own = cluster.up()
local monitor = own.port + 10000
own:engine "down"
support.eventually("the engine is up", function()
  return own:engine(("up --listen 127.0.0.1:%d --monitor 127.0.0.1:%d"):format(own.port, monitor)):find "runs"
end)
own:worker(2)
local server = support.read_file(own.dir .. "/nats.pid"):match "%d+"
local done = own:run(([[
  local tidepool, uv = require "tidepool", require "luv"
  local f = tidepool.App("bench"):func(function(x)
    local y = x * 0.1
    for i = 1, 300 do y = y + i %% 3 end
    return y
  end)
  local n, rounds, server, monitor = %d, %d, %q, %d

  local function capture(command)
    local pipe = io.popen(command)
    local text = pipe:read "*a"
    pipe:close()
    return text
  end

  --- Bytes that the server has taken and given; seconds of processor time of it and of the script.
  local function counts()
    local ask = [=[timeout 20 bash -c 'exec 3<>/dev/tcp/127.0.0.1/%%d; printf "GET /varz HTTP/1.0\r\n\r\n" >&3; cat <&3']=]
    local said = capture(ask:format(monitor))
    local stat = io.open("/proc/" .. server .. "/stat"):read "*a"
    local user, system = stat:match "%%) %%S+ %%S+ %%S+ %%S+ %%S+ %%S+ %%S+ %%S+ %%S+ %%S+ %%S+ (%%d+) (%%d+)"
    local usage = uv.getrusage()
    return { tonumber(said:match '"in_bytes": (%%d+)'), tonumber(said:match '"out_bytes": (%%d+)'), (user + system) / 100,
      usage.utime.sec + usage.stime.sec + (usage.utime.usec + usage.stime.usec) * 1e-6 }
  end

  local ways = {
    { "read one by one", function()
      local sum = 0
      for _, x in f:map(tidepool.range(n)) do sum = sum + x end
      return sum
    end },
    { "summed", function() return f:map(tidepool.range(n)):sum() end },
  }
  local figures = { {}, {} }
  for round = 0, rounds do
    for w, way in ipairs(ways) do
      local before, at = counts(), uv.hrtime()
      way[2]()
      local took, after = (uv.hrtime() - at) * 1e-9, counts()
      local row = { took }
      for k = 1, 4 do row[k + 1] = after[k] - before[k] end
      if round > 0 then table.insert(figures[w], row) end
    end
  end
  local function middle(w, k)
    local list = {}
    for i, row in ipairs(figures[w]) do list[i] = row[k] end
    table.sort(list)
    return list[math.ceil(#list / 2)]
  end
  for w, way in ipairs(ways) do
    print(("%%-16s %%6.2f bytes taken and %%6.2f given by the server for a result; %%.2f s; processor time: server %%.2f s, script %%.2f s"):format(
      way[1], middle(w, 2) / n, middle(w, 3) / n, middle(w, 1), middle(w, 4), middle(w, 5)))
  end]]):format(n, rounds, server, monitor), { seconds = 900 })
io.write(done.stdout, done.stderr)
own:down()
