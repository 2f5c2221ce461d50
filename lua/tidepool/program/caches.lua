--- `tidepool cache`: shows what is in a cache of results, and removes some of it.

local cache = require "tidepool.engine.cache"
local cli = require "tidepool.program.cli"
local core = require "tidepool.core"
local journal = require "tidepool.engine.journal"
local journals = require "tidepool.program.journals"
local json = require "tidepool.json"
local show = require "tidepool.base.show"
local words = require "tidepool.program.words"

local caches = {}

local functions_sql = [[
  select name, program, count(*), total(bytes), max(used), total(duration) from functions join results on results.function = functions.function
  group by name, program order by total(bytes) desc, name, program]]

local function print_functions(handle, path, as_json)
  local objects, rows, sum, count = {}, { { "function", "results", "size", "work", "used last", "of" } }, 0, 0
  for i, row in ipairs(journal.ask(handle, functions_sql)) do
    local name, program, n, bytes, used, work = unpack(row, 1, 6)
    sum, count = sum + bytes, count + n
    objects[i] = {
      ["function"] = name, program = program or json.null, results = n, bytes = bytes, used = used or json.null, seconds = work,
    }
    rows[i + 1] = {
      show.plain(tostring(name), true), tostring(n), core.amount_of_bytes(bytes), journals.seconds(work),
      type(used) == "number" and os.date("%Y-%m-%d %H:%M", used) or "-", show.plain(tostring(program or "-"), true),
    }
  end
  if as_json then return journals.print_json(objects) end
  if count > 0 then journals.print_table(rows) end
  io.stdout:write(("%d result%s, %s in %s\n"):format(count, count == 1 and "" or "s", core.amount_of_bytes(sum), path))
end

--- Removes the results of functions of that name, or all, from the file. Returns how many there
--- were.
local function forget(path, name)
  local handle, why = core.journal.open(journal.plain_path(path), 2 ^ 53)
  if not handle then error(why, 0) end
  if name then
    journal.ask(handle, "delete from results where function in (select function from functions where name = ?)", name)
  else
    journal.ask(handle, "delete from results where true")
  end
  local n = journal.ask(handle, "select changes()")[1][1]
  journal.ask(handle, "pragma incremental_vacuum")
  core.journal.close(handle)
  return n
end

local function exists(path)
  local file = io.open(path)
  return file and file:close()
end

local function main(path, forgets, name, as_json)
  path = path or cache.path_of({}, false)
  if not exists(path) then error(("there is no cache yet: %s is not there"):format(path), 0) end
  if forgets then
    local n = forget(path, name)
    io.stdout:write(("forgot %d result%s\n"):format(n, n == 1 and "" or "s"))
    return
  end
  local handle, why = core.journal.read(path, true)
  if not handle then error(why, 0) end
  print_functions(handle, path, as_json)
end

---`tidepool cache [FILE] [forget [FUNCTION]] [--json]`.
---@return integer code, string? message
function caches.main(...)
  local given, wrong = words.parse("cache", { { "--json", "json" } }, ...)
  if wrong then return 2, wrong end
  if not given then return cli.help "cache" end
  local path = given[1] ~= "forget" and table.remove(given, 1) or nil
  if #given > 2 or (given[1] and given[1] ~= "forget") then
    return 2, ("cache: what is '%s'? (tidepool cache [FILE] [forget [FUNCTION]])"):format(given[given[1] == "forget" and 3 or 1])
  end
  local fine, problem = pcall(main, path, given[1] == "forget", given[2], given.json)
  if not fine then return 1, problem end
  return 0
end

return caches
