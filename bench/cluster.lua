--- A cluster on this machine: what one chunk of work costs, through a NATS server.
--
--     build/tidepool bench/cluster.lua [N]
--
-- Starts a server and two workers of its own. With TPF=path of the prototype (proto-nats/tpf) it
-- runs that beside it, on a server with the same settings, in turns: chunks of 1 KiB, one item
-- each, and one chunk in flight.

local n = tonumber(arg[1]) or 2000
local root = arg[0]:match "^(.*)/bench/[^/]*$" or "."
package.path = root .. "/?.lua;" .. package.path
local cluster = require "tests.support_cluster"
local support = require "tests.support"

-- What a script measures, in a process of its own. A limit keeps a chunk to one item.
local measure = [[
  local tidepool = require "tidepool"
  local uv = require "luv"
  local app = tidepool.App "bench"
  local n = N
  local text = ("x"):rep(1024)
  local f = app:func { concurrency_limit = 100000 } (function(x) return x end)
  local inputs = {}
  for i = 1, n do inputs[i] = text end
  for _ = 1, 2 do f:map(inputs):list() end
  local begun = uv.hrtime()
  f:map(inputs):list()
  local rate = n / ((uv.hrtime() - begun) * 1e-9)
  local g, times = app:func(function(x) return x end), {}
  for i = 1, 200 + n / 4 do
    local at = uv.hrtime()
    g:remote(text)
    if i > 200 then times[#times + 1] = (uv.hrtime() - at) * 1e-3 end
  end
  table.sort(times)
  print(("%.0f %.0f %.0f"):format(rate, times[math.ceil(#times / 2)], times[math.ceil(#times * 0.99)]))]]

local own = cluster.up()
own:worker(1)
own:worker(1)

local function ours()
  local done = own:run((measure:gsub("N\n", n .. "\n", 1)))
  if done.stderr ~= "" then error(done.stderr) end
  local rate, p50, p99 = done.stdout:match "(%S+) (%S+) (%S+)"
  print(("tidepool   %6s chunks/s   remote: p50 %5s us, p99 %5s us"):format(rate, p50, p99))
end

-- The prototype on a server without users: a coordinator and two workers.
local function theirs(tpf)
  local dir, port = support.temp_dir(), own.port + 1
  local function sh(command, ...)
    local pipe = io.popen(("cd %s; "):format(dir) .. command:format(...))
    local text = pipe:read "*a"
    pipe:close()
    return text
  end
  support.write_file(dir .. "/nats.conf", ('listen: "127.0.0.1:%d"\njetstream { store_dir: "%s/js" }\n'):format(port, dir))
  local server = sh("nats-server -c nats.conf >/dev/null 2>&1 & echo $!"):match "%d+"
  support.sleep(1)
  local function coord(chunks, window)
    local workers = sh("for i in 1 2; do %s worker --url nats://127.0.0.1:%d --job j%d --id $i --batch 2 >/dev/null 2>&1 & echo $!; done", tpf, port,
      chunks):gsub("\n", " ")
    local said = sh("%s coord --url nats://127.0.0.1:%d --job j%d --n %d --size 1024 --window %d --await 2 2>&1", tpf, port, chunks, chunks, window)
    sh("kill %s 2>/dev/null", workers)
    return said
  end
  local many, one = coord(n, 0), coord(math.floor(n / 4), 1)
  print(("prototype  %6s chunks/s   one in flight: p50 %5s us, p99 %5s us"):format(many:match "chunks_per_s=(%d+)" or many,
    one:match "lat_p50_us=(%d+)" or one, one:match "lat_p99_us=(%d+)"))
  sh("kill %s", server)
end

for _ = 1, 3 do
  ours()
  if os.getenv "TPF" then theirs(os.getenv "TPF") end
end
own:down()
