-- A crawler of a site that this script serves itself. Each page takes 20 ms, as over a network, and
-- `fetch` has many of them under way at once: 100 in each worker, whose sockets are luv's.
--
--   build/tidepool examples/site.lua
--   build/tidepool examples/site.lua --pages 2000
--
-- prints: 200 pages in 8 steps, 601 links, 1 dead:
-- prints: /404 is linked to by /13: status 404
-- prints: page after page it would have taken ... times as long
-- test: --pages 31
-- prints: 31 pages in 5 steps, 93 links, 1 dead:
-- prints: /404 is linked to by /13: status 404
-- prints: page after page it would have taken ... times as long

local tidepool = require "tidepool"
local uv = require "luv"
local app = tidepool.App "site"

local DELAY = 0.02

-- ---- the site ----

--- Page n of a site: it links to two further ones, and page 13 to one that does not exist.
local function page(n, pages)
  if n > pages then return "HTTP/1.0 404 Not Found\r\n\r\n" end
  local links = {}
  for next_page = 2 * n, math.min(2 * n + 1, pages) do links[#links + 1] = ('<a href="/%d">'):format(next_page) end
  for other = n % 3, 0, -1 do links[#links + 1] = ('<a href="/%d">'):format(other + 1) end
  if n == 13 then links[#links + 1] = '<a href="/404">' end
  return "HTTP/1.0 200 OK\r\n\r\n" .. table.concat(links, "\n")
end

--- Serves it, and gives the server and its port. A callback of luv's is a task, so it can wait.
local function serve(pages)
  local server = uv.new_tcp()
  server:bind("127.0.0.1", 0)
  server:listen(512, function(err)
    assert(not err, err)
    local peer, request = uv.new_tcp(), ""
    server:accept(peer)
    peer:read_start(function(why, chunk)
      if why or not chunk then return end
      request = request .. chunk
      local n = request:match "^GET /(%d+) .-\r\n\r\n"
      if not n then return end
      tidepool.sleep(DELAY)
      peer:write(page(tonumber(n), pages))
      peer:shutdown(function() peer:close() end)
    end)
  end)
  return server, server:getsockname().port
end

-- ---- the crawler ----

--- The body of a page. While it waits for the answer, its worker goes on with other pages.
local function get(port, path)
  local socket, answer, chunks = uv.new_tcp(), tidepool.event(), {}
  socket:connect("127.0.0.1", port, function(err)
    if err then return answer:fail(err) end
    socket:write(("GET %s HTTP/1.0\r\n\r\n"):format(path))
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
  local fine, text = pcall(answer.get, answer, 60)
  socket:close()
  if not fine then error(text, 0) end
  local status, body = text:match "^HTTP/%d%.%d (%d+).-\r\n\r\n(.*)$"
  if status ~= "200" then error("status " .. tostring(status), 0) end
  return body
end

--- The links of a page.
local fetch = app:func { concurrent_inputs = 100, retries = { max = 2, initial_delay = 0.01 } } (function(port, path)
  local links = {}
  for link in get(port, path):gmatch 'href="([^"]+)"' do links[#links + 1] = link end
  return links
end)

app:main(function(options)
  local pages = tonumber(options.pages or 200)
  local server, port = serve(pages)
  local known, from, step, n_pages, n_links, dead = { ["/1"] = true }, {}, { "/1" }, 0, 0, {}
  local n_steps, start = 0, tidepool.now()
  while step[1] do
    local following = {}
    for i, links in fetch:map(tidepool.const(port), step, { return_exceptions = true }) do
      if tidepool.is_failure(links) then
        dead[#dead + 1] = ("%s is linked to by %s: %s"):format(step[i], from[step[i]], links.message)
      else
        n_pages = n_pages + 1
        for _, link in ipairs(links) do
          n_links = n_links + 1
          if not known[link] then
            known[link], from[link] = true, step[i]
            following[#following + 1] = link
          end
        end
      end
    end
    step, n_steps = following, n_steps + 1
  end
  local seconds = tidepool.now() - start
  server:close()
  print(("%d pages in %d steps, %d links, %d dead:"):format(n_pages, n_steps, n_links, #dead))
  for _, line in ipairs(dead) do print(line) end
  print(("page after page it would have taken %.1f times as long"):format(n_pages * DELAY / seconds))
end)
