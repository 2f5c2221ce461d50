--- For specs: reads a trace back, and fails where it breaks the rules of Chrome's trace format that
-- viewers rely on.

local assert = require "luassert"
local cjson = require "cjson"
local support = require "tests.support"

local reader = {}

local known = {}
for phase in ("X B E i C M b e n s f"):gmatch "%S" do known[phase] = true end

local function number(value, what, e)
  assert(type(value) == "number" and value == value and value >= 0 and value < math.huge,
    ("%s of %s is %s"):format(what, cjson.encode(e), tostring(value)))
end

local function check_event(e)
  assert(known[e.ph], "phase of " .. cjson.encode(e))
  number(e.pid, "pid", e)
  number(e.tid, "tid", e)
  if e.ph ~= "M" then number(e.ts, "ts", e) end
  if e.ph == "X" then number(e.dur, "dur", e) end
  if e.ph ~= "E" and e.ph ~= "e" then assert(type(e.name) == "string" and e.name ~= "", "name of " .. cjson.encode(e)) end
  if e.ph == "C" then
    for _, value in pairs(e.args) do assert.equal("number", type(value)) end
  end
end

--- Nanoseconds, so that ends can be compared.
local function ns(us) return math.floor(us * 1000 + 0.5) end

--- Boxes of one track lie one inside the other. Halves (B, E) are joined first, so that the first
--- one gets a duration; where the script was killed, halves have no end.
local function check_nesting(events, is_whole)
  local tracks = {}
  for order, e in ipairs(events) do
    if e.ph == "X" or e.ph == "B" or e.ph == "E" then
      local key = e.pid .. ":" .. e.tid
      tracks[key] = tracks[key] or { boxes = {}, halves = {} }
      local track = tracks[key]
      if e.ph == "X" then
        track.boxes[#track.boxes + 1] = { from = ns(e.ts), to = ns(e.ts) + ns(e.dur), name = e.name, order = order }
      else
        track.halves[#track.halves + 1] = { at = ns(e.ts), is_end = e.ph == "E", name = e.name, order = order, event = e }
      end
    end
  end
  for key, track in pairs(tracks) do
    table.sort(track.halves, function(a, b) return a.at < b.at or a.at == b.at and a.order < b.order end)
    local open = {}
    for _, half in ipairs(track.halves) do
      if half.is_end then
        local began = table.remove(open)
        assert(began, "an end without a beginning on track " .. key)
        began.event.dur = half.event.ts - began.event.ts
        track.boxes[#track.boxes + 1] = { from = began.at, to = half.at, name = began.name, order = began.order }
      else
        open[#open + 1] = half
      end
    end
    if is_whole then assert(#open == 0, "a beginning without an end on track " .. key) end
    local boxes = track.boxes
    table.sort(boxes, function(a, b) return a.from < b.from or a.from == b.from and a.to > b.to end)
    local around = {}
    for _, box in ipairs(boxes) do
      while around[1] and around[#around].to <= box.from do table.remove(around) end
      local outer = around[#around]
      assert(not outer or box.to <= outer.to, ("%s of track %s overlaps %s"):format(box.name, key, outer and outer.name or ""))
      around[#around + 1] = box
    end
  end
end

--- The events with whole boxes in the place of halves, which are written where a box is open for
--- long: how long depends on the machine.
local function joined(events)
  local list = {}
  for _, e in ipairs(events) do
    if e.ph == "B" and e.dur then e.ph = "X" end
    if e.ph ~= "E" then list[#list + 1] = e end
  end
  return list
end

--- Asynchronous beginnings and ends go together, and so do the two ends of an arrow. An arrow
--- begins and ends in a box.
local function check_pairs(events, is_whole)
  local depth, arrows = {}, {}
  for _, e in ipairs(events) do
    if e.ph == "b" or e.ph == "e" then
      local key = e.cat .. ":" .. e.id
      depth[key] = (depth[key] or 0) + (e.ph == "b" and 1 or -1)
    elseif e.ph == "s" or e.ph == "f" then
      arrows[e.id] = arrows[e.id] or {}
      assert(not arrows[e.id][e.ph], "an arrow has two such ends: " .. e.id)
      arrows[e.id][e.ph] = e
    end
  end
  for key, n in pairs(depth) do assert(n == 0 or not is_whole and n > 0, key .. " has not as many ends as beginnings") end
  for id, arrow in pairs(arrows) do
    assert(arrow.s and arrow.f, "an arrow lacks an end: " .. id)
    assert(arrow.s.ts <= arrow.f.ts, "an arrow goes back in time: " .. id)
    for _, at in pairs(arrow) do
      local is_in = false
      for _, e in ipairs(events) do
        is_in = is_in or e.pid == at.pid and e.tid == at.tid and (e.ph == "X" and ns(e.ts) <= ns(at.ts) and ns(at.ts) <= ns(e.ts) + ns(e.dur)
          or e.ph == "B" and ns(e.ts) <= ns(at.ts))
      end
      assert(is_in, "an arrow ends beside all boxes: " .. id)
    end
  end
end

---@class TraceRead
---@field events table[]
local Read = {}
Read.__index = Read

--- The events that have these fields. A function as a value is asked.
function Read:all(fields)
  local found = {}
  for _, e in ipairs(self.events) do
    local is_one = true
    for key, value in pairs(fields) do
      local matches
      if type(value) == "function" then matches = value(e[key]) else matches = e[key] == value end
      is_one = is_one and matches
    end
    if is_one then found[#found + 1] = e end
  end
  return found
end

--- The only one.
function Read:one(fields)
  local found = self:all(fields)
  assert(#found == 1, ("there are %d of them, not one: %s"):format(#found, fields.name or fields.cat or fields.ph))
  return found[1]
end

--- How many items of the function the boxes show.
function Read:items(name)
  local n = 0
  for _, e in ipairs(self:all { cat = "items" }) do
    if e.name:match "^(.*) #" == name then n = n + e.args.items end
  end
  return n
end

--- Does box `a` lie in box `b`, on the same track?
function reader.lies_in(a, b)
  return a.pid == b.pid and a.tid == b.tid and ns(b.ts) <= ns(a.ts) and ns(a.ts) + ns(a.dur or 0) <= ns(b.ts) + ns(b.dur)
end

--- Reads a trace. `is_cut`: its script was killed, so that the array has no end.
---@return TraceRead
function reader.read(path, is_cut)
  local text = support.read_file(path)
  assert(text, "there is no " .. path)
  if path:find "%.gz$" then
    local pipe = io.popen("gzip -dc " .. path)
    text = pipe:read "*a"
    pipe:close()
  end
  if is_cut then
    assert.is_nil(text:find "%]%s*$")
    text = text .. "]"
  end
  local events = cjson.decode(text)
  for _, e in ipairs(events) do check_event(e) end
  check_nesting(events, not is_cut)
  check_pairs(events, not is_cut)
  return setmetatable({ events = joined(events), size = #text }, Read)
end

return reader
