--- Journals of maps: finds a map's rows in the file and what has changed since they were written,
--- and says so in a line.
--
-- host/journal/ has the file and what happens for each item; here is what happens once in a map.

local abi = require "tidepool.base.abi"
local check = require "tidepool.base.check"
local core = require "tidepool.core"
local failure = require "tidepool.failure"
local ffi = require "ffi"
local identity = require "tidepool.engine.identity"

local journal = {}

ffi.cdef [[
  char *tidepool_realpath(const char *, char *) __asm__("realpath");
  void tidepool_free(void *) __asm__("free");
]]

-- The program's options --explain and --quiet.
local explains, is_quiet = false, false

local PARAMETERS_MAX = 2 ^ 26 -- bytes of an instance's parameters, with more they are not kept

-- By the path that a file really has (path_key): { path, handle, run, taken = the maps with it, by
-- their names, as long as somebody has them }; the file is open while one of its maps is, which is
-- asked by core.journal.enter. And, also by that, for each function: how many of its maps have
-- asked for a name, and whether the last one came to its end ({ n, is_complete }).
local opened, asked = {}, {}

--- Sets what the program's options say: a file for maps of the script that name none, or nil
--- (func.lua reads it); whether to say for each input why it runs or does not; whether to say
--- nothing.
function journal.configure(path, explain, quiet)
  core.journal_default, explains, is_quiet = path and { file = path }, explain, quiet
end

--- Was --explain given?
---@return boolean
function journal.explains()
  return explains
end

--- The path in a form that SQLite takes for a file.
function journal.plain_path(path)
  return (path:find "^:" or path:find "^file:") and "./" .. path or path
end

--- Bytes as SQL writes them.
function journal.hex(bytes)
  return "x'" .. bytes:gsub(".", function(c) return ("%02x"):format(c:byte()) end) .. "'"
end

local function program()
  local words = {}
  if type(arg) == "table" then
    for i = 0, #arg do words[#words + 1] = tostring(arg[i]) end
  end
  return table.concat(words, " ")
end

local function host_name()
  local file = io.open "/proc/sys/kernel/hostname"
  local name = file and file:read "*l"
  if file then file:close() end
  return name or ""
end

local function process_number()
  local file = io.open "/proc/self/stat"
  local number = file and file:read "*n"
  if file then file:close() end
  return number
end

--- Asks a journal or cache; raises errors as texts.
function journal.ask(handle, sql, ...)
  local rows, why = core.journal.query(handle, sql, ...)
  if not rows then error(why, 0) end
  return rows
end

local function ask(j, ...)
  return journal.ask(j.handle, ...)
end

--- The path that the system finds for a path; nil when there is nothing.
local function real_path(path)
  local found = ffi.C.tidepool_realpath(path, nil)
  if found == nil then return nil end
  local text = ffi.string(found)
  ffi.C.tidepool_free(found)
  return text
end

--- The same for a file that need not be there.
local function path_key(path)
  local folder, name = path:match "^(.*/)([^/]*)$"
  local found = real_path(path)
  if found then return found end
  found = real_path(folder or ".")
  return found and ("%s/%s"):format(found, name or path) or path
end

--- The journal with that path, which the caller then uses (core.journal.leave).
local function open(path)
  local key = path_key(path)
  local j = opened[key]
  if j and core.journal.enter(j.handle) then
    local fine, why = core.journal.flush(j.handle) -- so that what earlier maps have recorded is found
    if fine then return j end
    core.journal.leave(j.handle)
    error(why, 0)
  end
  local handle, why = core.journal.open(journal.plain_path(path))
  if not handle then error(why, 0) end
  j = { path = path, handle = handle, taken = setmetatable({}, { __mode = "v" }) }
  local fine, problem = pcall(function()
    ask(j, "insert into runs (started, process, host, program) values (?, ?, ?, ?)", os.time(), process_number(), host_name(), program())
    j.run = ask(j, "select last_insert_rowid()")[1][1]
  end)
  if not fine then
    core.journal.leave(handle)
    error(problem, 0)
  end
  opened[key] = j
  asked[key] = asked[key] or {}
  j.asked = asked[key]
  return j
end

local function nth_name(function_name, n)
  return n == 1 and function_name or ("%s#%d"):format(function_name, n)
end

--- Has somebody the map of that name?
local function is_taken(j, name)
  if j.taken[name] then
    -- perhaps only a loop that was left early
    collectgarbage()
    collectgarbage()
  end
  return j.taken[name] ~= nil
end

--- The map's name in the file: the user's, or the function's with a count of its maps. At the
--- prompt a map that was interrupted gives its name to the next one, which goes on with it. Returns
--- also the function's entry in j.asked.
local function name_of(j, given, function_name)
  local name, entry = given, nil
  if not name then
    entry = j.asked[function_name] or { n = 0, is_complete = true }
    j.asked[function_name] = entry
    if entry.is_complete or not core.in_session or is_taken(j, nth_name(function_name, entry.n)) then entry.n = entry.n + 1 end
    entry.is_complete = false
    name = nth_name(function_name, entry.n)
  end
  if is_taken(j, name) then error(("a map called '%s' is running with it already: give one of them another name"):format(name), 0) end
  return name, entry
end

--- Adds those options of a function that affect its results to its parts.
function journal.add_options(parts, options)
  for _, name in ipairs { "kernel", "precision", "returns", "with" } do
    if options[name] ~= nil then parts[#parts + 1] = { ('option "%s"'):format(name), core.func.identity(name, options[name]) } end
  end
end

--- The file of the running program: the script's, or (as with -e) the function's; nil when there is
--- none.
function journal.program_file(fn)
  local script = type(arg) == "table" and arg[0]
  for _, path in ipairs { type(script) == "string" and script or "", debug.getinfo(fn, "S").source:match "^@(.*)" } do
    local found = real_path(path)
    if found then return found end
  end
end

--- The identity of a function with these parts.
function journal.identity_of(parts)
  local ids = {}
  for i, part in ipairs(parts) do ids[i] = part[1] .. "\0" .. part[2] end
  return core.func.identity("function", table.concat(ids, "\0"))
end

--- The identity of an instance's parameters, and their bytes, if a file can keep them.
---@param instance tidepool.Instance
---@return string? identity, string? bytes
function journal.parameters_of(instance)
  local parameters = rawget(instance, "_made_of").parameters
  local bytes = core.journal.pack(parameters)
  return core.func.identity("parameters", parameters), bytes and #bytes <= PARAMETERS_MAX and bytes or nil
end

--- Notes with which parameters the instance was made whose method the version is.
local function add_instance(j, version, instance)
  if ask(j, "select 1 from instances where version = ?", version)[1] then return end
  local id, bytes = journal.parameters_of(instance)
  ask(j, "insert into instances values (?, cast(? as blob), cast(? as blob))", version, id, bytes)
end

--- Notes what the items of a map that starts now draw random numbers from, and where they run.
--- Returns the number of the run: another one when the run has had the map before.
local function add_start(j, map, executor)
  local run = j.run
  if ask(j, "select 1 from starts where map = ? and run = ?", map, run)[1] then
    ask(j, "insert into runs (started, process, host, program) select ?, process, host, program from runs where run = ?", os.time(), run)
    run = ask(j, "select last_insert_rowid()")[1][1]
  end
  ask(j, "insert into starts values (?, ?, ?, " .. journal.hex(core.random.next()) .. ")", map, run, executor)
  return run
end

--- The numbers of the map, of its function's version, and of its run in the file; made when they
--- are new.
local function find_rows(j, name, f, parts, total, executor)
  local id = journal.hex(journal.identity_of(parts))
  ask(j, "begin immediate")
  local fine, map, version, run = pcall(function()
    local path = journal.program_file(f.raw)
    ask(j, "insert or ignore into maps (name, function) values (?, ?)", name, f.name)
    ask(j, "update maps set function = ?, program = ?, inputs = ?, finished = null where name = ?", f.name, path, total, name)
    local m = ask(j, "select map from maps where name = ?", name)[1][1]
    local r = add_start(j, m, executor)
    local v = ask(j, "select version from versions where map = ? and identity = " .. id, m)[1]
    if v then
      if f.instance then add_instance(j, v[1], f.instance) end
      return m, v[1], r
    end
    ask(j, "insert into versions (map, created, identity) values (?, ?, " .. id .. ")", m, os.time())
    local new = ask(j, "select last_insert_rowid()")[1][1]
    for i, part in ipairs(parts) do
      ask(j, "insert into parts (version, position, name, identity) values (?, ?, ?, " .. journal.hex(part[2]) .. ")", new, i, part[1])
    end
    if f.instance then add_instance(j, new, f.instance) end
    return m, new, r
  end)
  if not fine then
    core.journal.query(j.handle, "rollback")
    error(map, 0)
  end
  ask(j, "commit")
  return map, version, run
end

--- Takes what earlier runs have left on the cluster: results of items that ended while, or after,
--- their script died. Then notes this script's session there. One that cannot be asked now is asked
--- the next time.
local function take_leftovers(j, run)
  local own, engine = core.journal.session()
  local has = false
  for _, row in ipairs(ask(j, "select session from sessions where engine = ?", engine)) do
    has = has or row[1] == own
    if row[1] ~= own and core.journal.restore(j.handle, run, row[1]) then ask(j, "delete from sessions where session = ?", row[1]) end
  end
  if not has then ask(j, "insert into sessions values (?, ?)", own, engine) end
  local fine, why = core.journal.flush(j.handle)
  if not fine then error(why, 0) end
end

local Map = {}
Map.__index = Map

--- Opens the journal of a map of the Function f; `spec` is the checked option. Returns the map's
--- part of the journal, or nil when it is optional and cannot be opened. With only_failed in `spec`
--- (`tidepool map --retry-failed`) only inputs that have failed before are run.
---@param who string  for messages: "Function:map"
---@param executor string  on which it is started
function journal.open(who, f, spec, total, executor)
  local j
  local fine, result = pcall(function()
    local parts, why = identity.parts(f.raw, f.setups)
    if not parts then error(("%s: %s"):format(f.name, why), 0) end
    journal.add_options(parts, f.options)
    j = open(spec.file)
    local name, count = name_of(j, spec.name, f.name)
    local map, version, run = find_rows(j, name, f, parts, total, executor)
    if executor == "cluster" then take_leftovers(j, run) end
    local settings = {
      keeps_failed = spec.failed == "keep", only_failed = spec.only_failed, is_optional = spec.optional, explains = explains,
    }
    local self = setmetatable({
      journal = j, name = name, parts = parts, number = map, version = version, run = run, is_optional = spec.optional,
      only_failed = spec.only_failed, asked = count, function_name = f.name,
    }, Map)
    self.handle = core.journal.map(j.handle, map, version, run, settings)
    j.taken[name] = self
    return self
  end)
  if j then core.journal.leave(j.handle) end
  if fine then return result end
  if not spec.optional then check.fail("%s: option 'journal': %s", who, failure.is_failure(result) and result.message or tostring(result)) end
  if not is_quiet then core.io.warn(("tidepool: %s: goes on without its journal: %s\n"):format(f.name, tostring(result))) end
end

-- ---- what is said about it ----

--- Which parts of the function differ from those of a version in the file: 'upvalue "x" has
--- changed'.
local function difference(self, version)
  local before, names = {}, {}
  for _, row in ipairs(ask(self.journal, "select name, hex(identity) from parts where version = ? order by position", version)) do
    before[row[1]] = row[2]
  end
  for _, part in ipairs(self.parts) do
    local id = part[2]:gsub(".", function(c) return ("%02X"):format(c:byte()) end)
    if before[part[1]] ~= id then names[#names + 1] = part[1] == "code" and "its code" or part[1] end
    before[part[1]] = nil
  end
  local gone = {}
  for name in pairs(before) do gone[#gone + 1] = name end
  table.sort(gone)
  for _, name in ipairs(gone) do names[#names + 1] = name end
  if #names == 0 then return "its options have changed" end
  local text = table.concat(names, ", ", 1, math.min(#names, 3))
  if #names > 3 then text = ("%s and %d others"):format(text, #names - 3) end
  return text .. (#names == 1 and " has changed" or " have changed")
end

local function count(n, one, many)
  return ("%d %s"):format(n, n == 1 and one or many)
end

--- The line that sums up the map's journal; nil when there is nothing to say because all inputs
--- were new.
local function account(self)
  local known, new, changed, input, failed, not_kept, versions = core.journal.counts(self.handle)
  local ran = new + changed + input + failed + not_kept
  local file = self.journal.path:match "[^/]*$"
  if self.only_failed then return ("%s: %d that failed before %s again"):format(self.name, ran, ran == 1 and "runs" or "run") end
  if known + ran == new then return nil end
  if ran == 0 then return ("%s: %s from %s"):format(self.name, known == 1 and "its one result" or ("all %d"):format(known), file) end
  local why = {}
  if new > 0 then why[#why + 1] = count(new, "is new", "are new") end
  for _, each in ipairs(versions) do why[#why + 1] = ("%d since %s"):format(each[2], difference(self, each[1])) end
  if input > 0 then why[#why + 1] = count(input, "is another input than before", "are other inputs than before") end
  if failed > 0 then why[#why + 1] = ("%d failed before"):format(failed) end
  if not_kept > 0 then why[#why + 1] = count(not_kept, "has a result that a file cannot keep", "have results that a file cannot keep") end
  return ("%s: %d of %d from %s; %d run: %s"):format(self.name, known, known + ran, file, ran, table.concat(why, ", "))
end

local reasons = {
  function(_, file) return "from " .. file end,
  function() return "runs: it is new" end,
  function(self, _, version) return "runs, since " .. difference(self, version) end,
  function() return "runs: it is another input than before" end,
  function() return "runs: it failed before" end,
  function() return "runs: its result cannot be kept in a file" end,
}

--- With --explain: writes a line for each input that was looked up since the last call.
function Map:explain()
  if not explains or not self.handle then return end
  local list, lines, texts = core.journal.reasons(self.handle), {}, {}
  local file = self.journal.path:match "[^/]*$"
  for i = 1, #list, 3 do
    local key = list[i + 1] .. ":" .. list[i + 2]
    texts[key] = texts[key] or reasons[list[i + 1]](self, file, list[i + 2])
    lines[#lines + 1] = ("%s #%d: %s\n"):format(self.name, list[i], texts[key])
  end
  if #lines > 0 then core.io.warn(table.concat(lines)) end
end

--- The map is given up: from here on another one may have its name.
function Map:leave()
  local taken = self.journal.taken
  if taken[self.name] == self then taken[self.name] = nil end
end

--- Called when the map is over: from here on what was recorded is in the file. Raises when
--- something could not be written.
function Map:finish(is_complete)
  if not self.handle then return end
  local j = self.journal
  local fine, why = core.journal.flush(self.handle)
  local told, line = pcall(function()
    self:explain()
    return account(self)
  end)
  if self.asked and nth_name(self.function_name, self.asked.n) == self.name then self.asked.is_complete = is_complete end
  if fine and is_complete then core.journal.query(j.handle, "update maps set finished = ? where map = ?", os.time(), self.number) end
  core.journal.query(j.handle, "update runs set ended = ? where run = ?", os.time(), self.run)
  core.journal.close(self.handle)
  self.handle = nil
  self:leave()
  if told and line and not is_quiet then core.io.warn("tidepool: " .. line .. "\n") end
  if fine then return end
  if not self.is_optional then error(failure.new { kind = abi.kind.RESOURCE, message = why, function_name = self.name, attempts = 0 }, 0) end
  if not is_quiet then core.io.warn(("tidepool: %s: went on without its journal: %s\n"):format(self.name, why)) end
end

return journal
