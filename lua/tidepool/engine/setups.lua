--- The functions of app:setup, in a worker: each runs once there, before the first item of the
-- app's functions.
--
-- Each image of a function has globals, captured variables and tables of its own. What a setup has
-- changed in those of the first image is changed in those of later ones, too: so a connection that
-- it puts into a variable is there for all functions of the app. Changes are found by looking at
-- all that the setup's function can reach, before and after; they are kept by the way that leads
-- there from the function, which is the same in all images.

local describe = require "tidepool.base.describe"

local getupvalue, setupvalue, getinfo = debug.getupvalue, debug.setupvalue, debug.getinfo
local getfenv, getmetatable, rawequal, rawget, rawset, unpack = getfenv, getmetatable, rawequal, rawget, rawset, unpack

local setups = {}

-- Fields of one table, and of all, that are looked at: what a setup changes in others stays in its
-- image.
local MOST_IN_TABLE, MOST = 200000, 1000000

local changes_of = {} -- by the id of a setup that has run in this state: the list of its changes
local runs = {} -- the ids of those that run

--- Sets of objects that belong to the state, and so are the same in all images: modules, their
--- functions and the tables in them; and the set of tables among these that are the library's own.
local function find_states()
  local states, ours = { [package.loaded] = true }, {}
  local function add(object, depth, is_ours)
    local kind = type(object)
    if (kind ~= "table" and kind ~= "function") or states[object] then return end
    states[object] = true
    if kind == "function" then return end
    ours[object] = is_ours or nil
    if depth == 0 then return end
    for _, value in next, object do add(value, depth - 1, is_ours) end
  end
  for _, is_ours in ipairs { true, false } do
    for name, module in next, package.loaded do
      if (type(name) == "string" and name:find "^tidepool%f[.%z]" ~= nil) == is_ours then add(module, 3, is_ours) end
    end
  end
  return states, ours
end

-- A way is a list of steps: a number goes from a function to its upvalue with that index, false to
-- its globals; { key } goes from a table to the value of the key.
local function follow(object, way)
  for i = 1, #way do
    local step = way[i]
    if type(step) == "table" then
      if type(object) ~= "table" then return nil end
      object = rawget(object, step[1])
    else
      if type(object) ~= "function" then return nil end
      if step then
        local _, value = getupvalue(object, step)
        object = value
      else
        object = getfenv(object)
      end
    end
  end
  return object
end

local function extended(way, step)
  local longer = { unpack(way) }
  longer[#longer + 1] = step
  return longer
end

--- All functions and tables of the image that the function can reach: { object, way to it, what it
--- has, unless that is too much }. Objects of our classes (apps, functions) look after themselves.
local function look(fn)
  local states, ours = find_states()
  local found, left = {}, MOST
  local function add(object, way)
    local kind = type(object)
    if (kind ~= "function" and kind ~= "table") or states[object] then return end
    if kind == "function" and getinfo(object, "S").what == "C" then return end
    if kind == "table" and ours[getmetatable(object)] then return end
    states[object] = true
    found[#found + 1] = { object = object, way = way }
  end
  local function look_into(one)
    local object, way, has = one.object, one.way, { n = 0 }
    if type(object) == "function" then
      for i = 1, getinfo(object, "u").nups do
        local _, value = getupvalue(object, i)
        has[i], has.n = value, i
        add(value, extended(way, i))
      end
      add(getfenv(object), extended(way, false))
    else
      local n = 0
      for _ in next, object do n = n + 1 end
      if n > MOST_IN_TABLE or n > left then return end
      left = left - n
      has.n = nil
      for key, value in next, object do
        has[key] = value
        if type(key) ~= "table" and type(key) ~= "function" then add(value, extended(way, { key })) end
      end
    end
    one.has = has
  end
  add(fn, {})
  local at = 1
  while found[at] do -- the list grows meanwhile
    look_into(found[at])
    at = at + 1
  end
  return found
end

--- What is different now: a list of { way to the function or table, variable or key, value }. A
--- value that is one of the image's objects is given by the way to it, as `at`.
local function differences(found)
  local changes, ways = {}, {}
  for _, each in ipairs(found) do ways[each.object] = each.way end
  for _, each in ipairs(found) do
    local object, has = each.object, each.has
    local function note(key, value)
      changes[#changes + 1] = { way = each.way, key = key, value = value, at = value ~= nil and ways[value] or nil }
    end
    if has and type(object) == "function" then
      for i = 1, has.n do
        local _, value = getupvalue(object, i)
        if not rawequal(value, has[i]) then note(i, value) end
      end
    elseif has then
      for key, value in next, object do
        if not rawequal(value, has[key]) then note(key, value) end
      end
      for key in next, has do
        if rawget(object, key) == nil then note(key, nil) end
      end
    end
  end
  return changes
end

local function repeat_changes(fn, changes)
  local objects, values = {}, {} -- all are found before one changes, which may lie on the way
  for i, change in ipairs(changes) do
    objects[i] = follow(fn, change.way)
    values[i] = change.value
    if change.at then values[i] = follow(fn, change.at) end
  end
  for i, change in ipairs(changes) do
    local object = objects[i]
    if type(object) == "function" then
      setupvalue(object, change.key, values[i])
    elseif type(object) == "table" then
      rawset(object, change.key, values[i])
    end
  end
end

--- (list of setups, { id, app, fn }): runs those that have not run in this state. Raises the first
--- error, with the name of its app.
function setups.run(list)
  for _, setup in ipairs(list) do
    local changes = changes_of[setup.id]
    if changes then
      repeat_changes(setup.fn, changes)
    else
      if runs[setup.id] then error(("setup of app '%s' calls a function of that app, which needs it first"):format(setup.app), 0) end
      local before = look(setup.fn)
      runs[setup.id] = true
      local fine, why = pcall(setup.fn)
      runs[setup.id] = nil
      if not fine then error(("setup of app '%s': %s"):format(setup.app, describe.message(why)), 0) end
      changes_of[setup.id] = differences(before)
    end
  end
end

return setups
