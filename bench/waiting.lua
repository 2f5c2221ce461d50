--- What many inputs at once are worth that wait: sleeps, and requests to an HTTP server that is in
-- the script.

local tidepool = require "tidepool"

return function(bench)
  local app = tidepool.App("bench", { executor = "threads" })
  local n, at_once = bench.size(1000, 100), bench.size(500, 50)
  local workers = tidepool.workers()
  local rounds = math.ceil(n / at_once / workers)

  -- wanted: 1,000 inputs of 50 ms on 2 workers, 500 at once, in under 0.5 s
  for _, executor in ipairs { "threads", "processes" } do
    local sleep = app:func { concurrent_inputs = at_once, executor = executor } (function(x)
      tidepool.sleep(0.05)
      return x
    end)
    bench.compare {
      id = "WAIT", what = ("%d inputs that sleep for 50 ms, %d at once in each worker (%s)"):format(n, at_once, executor), unit = "ms",
      sum = function(sum) return sum == n * (n + 1) / 2 end, rounds = 5,
      floor_is = "such sleeps at once, once a round", floor = function()
        for _ = 1, rounds do tidepool.sleep(0.05) end
        return n * (n + 1) / 2
      end,
      run = function() return sleep:map(tidepool.range(n)):sum() end, at_most = 500,
    }
  end

  local uv = require "luv"
  local function get(port, path)
    local socket, answer, chunks = uv.new_tcp(), tidepool.event(), {}
    socket:connect("127.0.0.1", port, function(err)
      if err then return answer:fail(err) end
      socket:write(("GET /%d HTTP/1.0\r\n\r\n"):format(path))
      socket:read_start(function(why, chunk)
        if why then
          answer:fail(why)
        elseif chunk then
          chunks[#chunks + 1] = chunk
        else
          answer:set(table.concat(chunks))
        end
      end)
    end)
    local text = answer:get()
    socket:close()
    return tonumber(text:match "\r\n\r\n(%d+)$")
  end
  local server = uv.new_tcp()
  server:bind("127.0.0.1", 0)
  server:listen(1024, function(err)
    assert(not err, err)
    local peer = uv.new_tcp()
    server:accept(peer)
    peer:read_start(function(why, chunk)
      if why or not chunk then return end
      peer:write("HTTP/1.0 200 OK\r\n\r\n" .. chunk:match "^GET /(%d+)")
      peer:shutdown(function() peer:close() end)
    end)
  end)
  local port = server:getsockname().port
  local fetch = app:func { concurrent_inputs = at_once } (get)
  bench.compare {
    id = "WAIT", what = ("%d HTTP requests, %d at once in each worker; the server is the script"):format(n, at_once), unit = "us", per = n,
    sum = function(sum) return sum == n * (n + 1) / 2 end, rounds = 5,
    floor_is = "in tasks of the script", floor = function()
      local tasks, sum = {}, 0
      for i = 1, n do tasks[i] = tidepool.async(get, port, i) end
      for _, x in ipairs(tidepool.gather(tasks)) do sum = sum + x end
      return sum
    end,
    run = function() return fetch:map(tidepool.const(port), tidepool.range(n)):sum() end,
  }
  server:close()
end
