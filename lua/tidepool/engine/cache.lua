--- Caches: a function finds the results of inputs that it, or the same function in another program,
--- was given before.
--
-- host/journal/ has the file and what happens for each item; here is what happens once in a map or
-- call. When a cache cannot be used, that costs a line on stderr and everything is run.

local check = require "tidepool.base.check"
local core = require "tidepool.core"
local identity = require "tidepool.engine.identity"
local journal = require "tidepool.engine.journal"

local cache = {}

local NAME = "results.db"
local LIMIT = 2 ^ 30 -- bytes, where the option does not say it

-- Open files, by their path; false: one that cannot be used. They stay open until the state is
-- closed. `has_none`: there is no folder for the user's own cache either.
local opened, has_none = {}, false

-- The part of a cache that belongs to a function as it is now: { name, id, file, path, cache,
-- handle = for core.job.open }. Its `finish` is called when a map is over, as that of a map's part
-- of a journal is.
local Part = {}
Part.__index = Part

-- By the core of a function: its latest part, and the counts of the earlier parts, { hits =, misses
-- = }.
local parts_of, counted = setmetatable({}, { __mode = "k" }), setmetatable({}, { __mode = "k" })

--- Stops using the file, and says so.
local function give_up(name, path, why)
  if path then opened[path] = false end
  core.io.warn(("tidepool: %s: goes on without its cache: %s\n"):format(name, why))
end

function Part.explain() end
function Part.leave() end

--- Called when a map is over: from here on what it has recorded is in the file.
function Part:finish()
  if not opened[self.path] then return end
  local fine, why = core.journal.flush(self.handle)
  why = core.cache.trouble(self.handle) or not fine and why
  if why then give_up(self.name, self.path, why) end
end

--- The path of the file that the option names, or of this user's own.
local function path_of(spec, is_made)
  if spec.file then return spec.file end
  local folder, why = core.cache.folder(is_made)
  if not folder then
    has_none = true
    error(why, 0)
  end
  return folder .. "/" .. NAME
end
cache.path_of = path_of

local function open(spec)
  if has_none and not spec.file then return false end
  local path = path_of(spec, true)
  if opened[path] == nil then
    local handle, why = core.journal.open(journal.plain_path(path), spec.size or LIMIT)
    opened[path] = handle or false
    if not handle then error(why, 0) end
  end
  return opened[path], path
end

--- The number of the function in the file, found by its identity; made when it is not there.
local function number_of(handle, f, id)
  local hex, program = journal.hex(id), journal.program_file(f.raw)
  journal.ask(handle, "insert or ignore into functions (name, program, identity) values (?, ?, " .. hex .. ")", f.name, program)
  return journal.ask(handle, "select function from functions where identity = " .. hex)[1][1]
end

local function count_of(part)
  local hits, misses = core.journal.counts(part.handle)
  return hits, misses
end

--- How many results were found, and how many were not, in all caches of this function.
function cache.counts(f)
  local before, part = counted[f.core] or { hits = 0, misses = 0 }, parts_of[f.core]
  local hits, misses = 0, 0
  if part then hits, misses = count_of(part) end
  return before.hits + hits, before.misses + misses
end

local function keep_counts(f)
  local hits, misses = cache.counts(f)
  counted[f.core] = { hits = hits, misses = misses }
end

--- The identity of a function, with what it captures and its options. Raises a text.
local function identify(f)
  local parts, why = identity.parts(f.raw, f.setups)
  if not parts then error(why, 0) end
  journal.add_options(parts, f.options)
  return journal.identity_of(parts)
end

--- The function's part of its cache, for the function as it is now; nil when the cache cannot be
--- used.
function cache.open(f)
  local spec, part, path = f.options.cache, parts_of[f.core], nil
  local fine, why = pcall(function()
    local id = identify(f)
    if part and part.id == id and part.file == spec.file then return end
    keep_counts(f)
    part, parts_of[f.core] = nil, nil
    local handle
    handle, path = open(spec)
    if not handle then return end
    part = setmetatable({ name = f.name, id = id, file = spec.file, path = path, cache = handle }, Part)
    part.handle = core.cache.map(handle, number_of(handle, f, id), id)
    parts_of[f.core] = part
  end)
  if not fine then give_up(f.name, path, why) end
  if not fine or not part or not opened[part.path] then return nil end
  why = core.cache.trouble(part.handle)
  if not why then return part end
  give_up(f.name, part.path, why)
end

--- Forgets the result of the input with these arguments; without arguments all results of the
--- function, including those of earlier versions. Returns how many.
---@return integer
function cache.forget(f, n, ...)
  local arguments = { ... }
  local fine, result = pcall(function()
    local handle = open(f.options.cache)
    if not handle then return 0 end
    local flushed, why = core.journal.flush(handle)
    if not flushed then error(why, 0) end
    if n == 0 then
      journal.ask(handle, "delete from results where function in (select function from functions where name = ? and program is ?)", f.name,
        journal.program_file(f.raw))
    else
      local input
      input, why = core.func.identity("argument", unpack(arguments, 1, n))
      if not input then error(why, 0) end
      journal.ask(handle, "delete from results where key = " .. journal.hex(core.cache.key(identify(f), input)))
    end
    return journal.ask(handle, "select changes()")[1][1]
  end)
  if not fine then check.fail("Function:forget: %s: %s", f.name, tostring(result)) end
  return result
end

return cache
