--- Progress of running maps: the line on a terminal, lines for a log, and callbacks of users.
--
-- Counters are read at most ten times a second, when somebody waits for results or takes a block of
-- them; nothing is done per item. The library prints nothing itself: the program sets a display
-- (progress.display).

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local loop = require "tidepool.engine.loop"
local show = require "tidepool.base.show"

local gpu = require "tidepool.base.lazy" "tidepool.device.gpu"

local progress = {}

local INTERVAL = 0.1 -- seconds between two updates
local PATIENCE = 0.5 -- seconds; a map that takes less time gets no line
local PLAIN_INTERVAL = 1 -- seconds between two lines of a log
local STUCK = 2 -- seconds after which an item that holds up the others is named
local OLD = 10 -- seconds after which an input that still runs is shown
local SMOOTHING = 3 -- seconds over which the rate is averaged,
local SMOOTHED = 10 -- or so many inputs, where they take longer
local REASON = 1 -- seconds of waiting after which the reason is shown
-- the share of the inputs in flight that must be done for the reader to count as the bottleneck
local READY = 0.75
local BAR = 10
local NAME = 24 -- bytes of a device's name that the line has

-- The maps that are watched. Weak, since a map that was left in the middle of its loop must be
-- collected, which stops it.
local watched = setmetatable({}, { __mode = "k" })
local display, next_look, is_looking, opened = nil, 0, false, 0

--- Sets how a program shows progress: mode is "line", "plain" or "json". `line(text)` replaces the
--- bottom line ("" removes it), `note(text)` writes a line above it, `width()` returns the columns.
function progress.display(mode, line, note, width)
  display = { mode = mode, line = line, note = note, width = width }
end

--- Begins to watch a map. `wanted` is the call's option. Returns a value for progress.close; nil
--- when nobody wants to know.
---@param job userdata
---@param about table  { name, executor, ordered, is_compiling, is_auto }; is_compiling: before the first result a device compiles; is_auto:
--- threads run what a device does not come back from
---@param total integer?  how many inputs there are
---@param wanted boolean|function?
function progress.open(job, about, total, wanted)
  local on = type(wanted) == "function" and check.called(wanted, "the option 'progress'") or nil
  if wanted == false or not (on or display) then return nil end
  local now = core.loop.now()
  opened = opened + 1
  local entry = {
    job = job, about = about, total = total, on = on, serial = opened, started = now, looked = now, looked_done = 0, rate = nil,
    moved = now, seen = now, delivered = 0, next_plain = now + PATIENCE,
  }
  watched[entry] = true
  return entry
end

--- Calls work(...), which may take seconds before there is a map to watch; meanwhile the line on a
--- terminal is `text`. Gives what work gives.
---@param text string
---@param work function
function progress.during(text, work, ...)
  if not display or display.mode ~= "line" then return work(...) end
  display.line(text)
  local function after(...)
    display.line ""
    return ...
  end
  return after(work(...))
end

--- Updates the rate with what was done since the last update.
local function measure(entry, done, now)
  local elapsed = now - entry.looked
  if elapsed < INTERVAL / 2 then return end
  local rate = (done - entry.looked_done) / elapsed
  -- In the first seconds all count alike; later the older ones fade.
  local horizon = math.max(SMOOTHING, done > 0 and SMOOTHED * (now - entry.started) / done or 0)
  local weight = math.max(1 - math.exp(-elapsed / horizon), elapsed / (now - entry.started))
  entry.rate = entry.rate and entry.rate + (rate - entry.rate) * weight or rate
  entry.looked, entry.looked_done = now, done
end

--- Adds to the state what the map waits for (`waits`: somebody waits for results, so it is not the
--- reader that is slow), which of its inputs has been running for long, and the maps in its inputs.
local function add_reasons(entry, state, counts, now, waits)
  local reason, limit, oldest, seconds, maps, inside, inside_done, inside_total, given_up, compiles = core.job.state(entry.job)
  if given_up then reason = "given up" end
  local ready, in_flight = counts.finished - counts.skipped - counts.delivered, counts.pushed - counts.delivered
  if not waits and in_flight >= 2 and ready >= READY * in_flight then reason = "reader" end
  if reason ~= entry.reason then entry.reason, entry.reason_since = reason, now end
  state.waits_for, state.waits_since = reason, reason and now - entry.reason_since
  state.limit, state.given_up = limit, given_up
  state.is_compiling = state.is_compiling or compiles or nil
  if seconds and seconds >= OLD then state.oldest, state.oldest_seconds = oldest, seconds end
  if maps > 0 and inside ~= "" then state.inside = { name = inside, done = inside_done, total = inside_total, maps = maps } end
end

--- From which inputs a device has not come back: { device = its name, inputs = how many }; nil:
--- from none.
local function lost_of(entry)
  local lost, device = 0, nil
  if entry.about.is_auto then lost, device = core.job.lost(entry.job) end
  return lost > 0 and { device = gpu.devices()[gpu.place(device)].name, inputs = lost } or nil
end

--- The table that users' callbacks get.
local function state_of(entry, now, waits, is_over, is_complete)
  local counts, about = core.job.counts(entry.job), entry.about
  local is_compiling = about.is_compiling and counts.finished == 0
  -- Inputs that were dropped at the end are not done.
  local done = is_over and not is_complete and counts.delivered or counts.finished - counts.skipped
  -- While nobody looked, nobody waited, so that time does not count as stuck.
  if counts.delivered ~= entry.delivered or now - entry.seen > 1 then entry.delivered, entry.moved = counts.delivered, now end
  entry.seen = now
  measure(entry, done, now)
  local total = entry.total or (counts.has_all and counts.pushed) or nil
  local state = {
    name = about.name, done = done, total = total, failed = counts.failed, retried = counts.retried, elapsed = now - entry.started,
    is_over = is_over or false, is_complete = is_complete or false, workers = core.workers(),
    is_compiling = is_compiling or nil, lost = lost_of(entry),
  }
  if is_over then
    state.busy, state.rate = 0, done / math.max(state.elapsed, 1e-9)
    return state
  end
  state.busy, state.rate = core.job.busy(entry.job), entry.rate or 0
  add_reasons(entry, state, counts, now, waits)
  if total and state.rate > 0 then state.eta = (total - done) / state.rate end
  if about.ordered and done > counts.delivered and now - entry.moved >= STUCK then
    state.waiting_for, state.waiting = counts.delivered + 1, now - entry.moved
  end
  return state
end

--- "0:15", "1:02:03"
local function clock(seconds)
  seconds = math.floor(seconds + 0.5)
  local h, m, s = math.floor(seconds / 3600), math.floor(seconds / 60) % 60, seconds % 60
  return h > 0 and ("%d:%02d:%02d"):format(h, m, s) or ("%d:%02d"):format(m, s)
end

local function duration(seconds)
  return seconds < 60 and ("%.1f s"):format(seconds) or clock(seconds)
end

--- "37/s", "0.4/s", "1.2M/s"
local function per_second(rate)
  if rate >= 1e6 then return ("%.1fM/s"):format(rate / 1e6) end
  if rate >= 1e4 then return ("%.0fk/s"):format(rate / 1e3) end
  return (rate >= 9.95 and "%.0f/s" or "%.1f/s"):format(rate)
end

local function plain_name(name)
  return show.plain(name, true)
end

--- "digits 450/1000 45%"
local function count_text(s)
  if not s.total then return ("%s %.0f"):format(plain_name(s.name), s.done) end
  return ("%s %.0f/%.0f %.0f%%"):format(plain_name(s.name), s.done, s.total, s.total > 0 and math.floor(100 * s.done / s.total) or 100)
end

local function bar(s)
  local full = s.total > 0 and math.floor(BAR * s.done / s.total) or BAR
  return ("#"):rep(full) .. ("-"):rep(BAR - full)
end

local function busy_text(s, executor)
  if executor.by_owner then return nil end
  return ("%d/%d busy"):format(math.min(s.busy, s.workers), s.workers)
end

--- Why the map waits: "waits for inputs", "window full: reader", "limit 5", "waits to retry",
--- "held by spin, given up: threads cannot be stopped".
local function reason_text(s, executor)
  if not s.waits_for or s.waits_since < REASON then return nil end
  if s.given_up then
    return ("held by %s, given up%s"):format(plain_name(s.given_up), executor.kill and "" or ": threads cannot be stopped")
  end
  return s.waits_for == "inputs" and "waits for inputs" or s.waits_for == "reader" and "window full: reader"
    or s.waits_for == "limit" and ("limit %d"):format(s.limit) or s.waits_for == "retry" and "waits to retry" or nil
end

--- "#17 runs for 0:42", or which one the others wait for.
local function item_text(s)
  if s.oldest then return ("#%.0f runs for %s"):format(s.oldest, clock(s.oldest_seconds)) end
  return s.waiting_for and ("waiting for #%.0f (%.0f s)"):format(s.waiting_for, s.waiting) or nil
end

--- "H200 hangs": threads run what it was to run.
local function lost_text(s)
  if not s.lost then return nil end
  local name = plain_name(s.lost.device)
  return (#name > NAME and name:sub(1, NAME - 1) .. "." or name) .. " hangs"
end

--- The maps in its inputs: "(inner 45/100)", "(3 maps of inner: 45/100)".
local function inside_text(s)
  local of = s.inside
  if not of then return nil end
  return (of.maps > 1 and ("(%d maps, %s %.0f/%.0f)"):format(of.maps, plain_name(of.name), of.done, of.total)
    or ("(%s %.0f/%.0f)"):format(plain_name(of.name), of.done, of.total))
end

--- Everything about one map, in at most so many columns. When that is too little, the least
--- important parts are left out first (the bar, the busy workers, the rate, the maps inside, why it
--- waits, the time left, which input it waits for, a device that hangs). Without `columns` all but
--- the bar.
local function full_text(s, executor, columns)
  local parts = {
    count_text(s),
    columns and s.total and bar(s) or false,
    per_second(s.rate),
    s.eta and s.eta < 360000 and "eta " .. clock(s.eta) or false,
    s.failed > 0 and ("%.0f failed"):format(s.failed) or false,
    s.is_compiling and "compiling" or busy_text(s, executor) or false,
    reason_text(s, executor) or false,
    item_text(s) or false,
    inside_text(s) or false,
    lost_text(s) or false,
  }
  local function text()
    local shown = {}
    for _, part in ipairs(parts) do shown[#shown + 1] = part or nil end
    return table.concat(shown, " ")
  end
  for _, i in ipairs { 2, 6, 3, 9, 7, 4, 8, 10 } do
    if not columns or #text() < columns then break end
    parts[i] = false
  end
  return text()
end

--- The line for several maps. Where the columns are too few, their names are cut, and then those
--- behind the first ones are only counted.
local function short_text(states, columns)
  local function text(longest, n)
    local parts = {}
    for i = 1, n do
      local s = states[i]
      local cut = #s.name > longest and s.name:sub(1, longest) .. "." or s.name
      parts[i] = count_text({ name = cut, done = s.done, total = s.total }) .. (s.failed > 0 and (" %.0f failed"):format(s.failed) or "")
    end
    if n < #states then parts[n + 1] = ("%d more"):format(#states - n) end
    return table.concat(parts, " | ")
  end
  for n = #states, 1, -1 do
    for _, longest in ipairs { math.huge, 6, 2 } do
      local line = text(longest, n)
      if #line < columns then return line end
    end
  end
  return text(2, 1)
end

local function json_string(text)
  return '"' .. text:gsub('[%c"\\\127]', function(c) return ("\\u%04x"):format(c:byte()) end) .. '"'
end

local function json_text(s)
  local function number(value, format) return value and (format or "%.0f"):format(value) or "null" end
  return ('{"name":%s,"done":%s,"total":%s,"failed":%s,"rate":%s,"eta":%s,"elapsed":%s,"busy":%s,"workers":%s,"lost":%s,"over":%s}'):format(
    json_string(s.name), number(s.done), number(s.total), number(s.failed), number(s.rate, "%.3f"), number(s.eta, "%.1f"),
    number(s.elapsed, "%.3f"), number(s.busy), number(s.workers), number(s.lost and s.lost.inputs or 0), tostring(s.is_over))
end

local function summary(s)
  local failed = s.failed > 0 and (", %.0f failed"):format(s.failed) or ""
  local name = plain_name(s.name)
  if s.is_complete then
    return ("%s: %.0f done in %s, %s%s"):format(name, s.done, duration(s.elapsed), per_second(s.rate), failed)
  end
  return ("%s: stopped after %.0f%s in %s%s"):format(name, s.done, s.total and (" of %.0f"):format(s.total) or "", duration(s.elapsed),
    failed)
end

local function draw_line(states, executor)
  if #states == 0 then return display.line "" end
  if #states > 1 then return display.line(short_text(states, display.width())) end
  display.line(full_text(states[1], executor, display.width()))
end

local function in_order()
  local entries = {}
  for entry in pairs(watched) do entries[#entries + 1] = entry end
  table.sort(entries, function(a, b) return a.serial < b.serial end)
  return entries
end

local function look(now, waits)
  local states, executor = {}, nil
  for _, entry in ipairs(in_order()) do
    if watched[entry] then -- a user's callback may have ended another map
      local s = state_of(entry, now, waits)
      if entry.on then
        watched[entry] = nil -- a callback that raises is not called again
        entry.on(s)
        if not entry.is_closed then watched[entry] = true end
      elseif display.mode == "line" then
        -- A map that was done before somebody waited needs no line.
        if s.elapsed >= PATIENCE and (entry.was_shown or s.done ~= s.total) then
          states[#states + 1], executor = s, entry.about.executor
          entry.was_shown = true
        end
      elseif now >= entry.next_plain then
        entry.next_plain = now + PLAIN_INTERVAL
        display.note(display.mode == "json" and json_text(s) or full_text(s, entry.about.executor))
      end
    end
  end
  if display and display.mode == "line" then draw_line(states, executor) end
end

--- Updates the display when it is time to. Raises what a user's callback raises.
---@param waits boolean?  somebody waits now
function progress.step(waits)
  local now = core.loop.now()
  if now < next_look or is_looking then return end
  is_looking = true
  local fine, why = pcall(look, now, waits)
  is_looking = false
  next_look = core.loop.now() + INTERVAL
  if not fine then error(why, 0) end
end

-- Whoever waits updates the display meanwhile, and returns early for that.
loop.set_watcher(function(seconds)
  if next(watched) == nil then return seconds end
  progress.step(true)
  return seconds and math.min(seconds, INTERVAL) or INTERVAL
end)

--- Called when the map is over, with its job still open. `is_complete`: all results were handed
--- out.
function progress.close(entry, is_complete)
  watched[entry] = nil
  entry.is_closed = true
  local s = state_of(entry, core.loop.now(), false, true, is_complete)
  if entry.on then return entry.on(s) end
  if s.elapsed < PATIENCE then return end
  if display.mode == "line" and not entry.was_shown then return end
  if display.mode == "line" and next(watched) == nil then display.line "" end
  display.note(display.mode == "json" and json_text(s) or summary(s))
end

return progress
