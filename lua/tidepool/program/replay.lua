--- `tidepool replay FILE [MAP] INDEX`: runs one input of a journal again in this terminal and in
--- the program's own state, so that its traceback, its prints and a debugger's breakpoints are the
--- script's.
--
-- The program is loaded as for `tidepool map`, without calling its entry. If the script starts the
-- map while it is being loaded, the rest of it is not run: what the function captures exists by
-- then.
--
-- The input has the random numbers and the tidepool.current() that it had: the journal says what
-- its map drew from. math.random is replaced for that before the program is loaded, since the
-- program may keep it in a local.

local app = require "tidepool.app"
local array = require "tidepool.array"
local cli = require "tidepool.program.cli"
local core = require "tidepool.core"
local describe = require "tidepool.base.describe"
local func = require "tidepool.func"
local identity = require "tidepool.engine.identity"
local journal = require "tidepool.engine.journal"
local journals = require "tidepool.program.journals"
local json = require "tidepool.json"
local random = require "tidepool.engine.random"
local run = require "tidepool.program.run"
local show = require "tidepool.base.show"
local words = require "tidepool.program.words"

local replay = {}

-- ---- the input ----

local item_sql = ("select state, kind, message, %s, %s, (select hex(identity) from versions where version = items.version), "
  .. "attempts, worker, run, version from items where id = (? << 40) + ?"):format(journals.columns "input", journals.columns "result")

local function text_or_nil(value)
  return type(value) == "string" and value or nil
end

--- Adds where the input ran and what it drew from (executor, stream), and of a method's input
--- (is_of_instance) the parameters of the instance: their identity, and themselves, where the
--- file has them. A file of an older Tidepool has none of that.
local function add_surroundings(reader, item, map, started_in, version)
  if not reader:ask("select 1 from sqlite_master where name = 'starts'")[1] then return end
  local start = reader:ask("select executor, stream from starts where map = ? and run = ?", map, started_in or nil)[1]
  if start then
    local stream = text_or_nil(start[2])
    item.executor, item.stream = text_or_nil(start[1]), stream and #stream == 16 and stream or nil
  end
  local instance = reader:ask("select identity, parameters from instances where version = ?", version or nil)[1]
  if not instance then return end
  item.is_of_instance, item.parameters_id = true, text_or_nil(instance[1])
  local values = instance[2] and journals.values("blob", instance[2])
  item.parameters = values and type(values[1]) == "table" and values[1] or nil
end

local function names_of(maps)
  local names = {}
  for i, row in ipairs(maps) do names[i] = show.plain(tostring(row[2]), true) end
  return table.concat(names, ", ")
end

--- The map's row, among maps of that name, or the only one. Or nil and what is wrong.
local function choose_map(reader, name)
  local maps = reader:ask "select map, name, function, program from maps order by map"
  if #maps == 0 then return nil, ("%s has no map yet"):format(reader.path) end
  if not name and #maps > 1 then
    return nil, ("%s has several maps: %s (choose one: tidepool replay FILE MAP INDEX)"):format(reader.path, names_of(maps))
  end
  for _, row in ipairs(maps) do
    if not name or row[2] == name then return row end
  end
  return nil, ("%s has no map '%s' (there %s: %s)"):format(reader.path, name, #maps == 1 and "is" or "are", names_of(maps))
end

--- What the file has about an input: { map, index, function_name, program, state, kind, message,
--- input, result, version, attempt, worker } and what add_surroundings adds. Or nil and what is
--- wrong.
local function find(reader, name, index)
  local map, problem = choose_map(reader, name)
  if not map then return nil, problem end
  local row = reader:ask(item_sql, map[1], index)[1]
  if not row then return nil, ("%s has no input %d of map '%s': it has not run yet"):format(reader.path, index, map[2]) end
  local input = journals.values(row[4], row[5])
  if not input then
    return nil, ("%s could not keep input %d of map '%s', so it cannot be run again"):format(reader.path, index, map[2])
  end
  if not map[4] then return nil, ("%s does not say which program map '%s' is of"):format(reader.path, map[2]) end
  local item = {
    map = tostring(map[2]), index = index, function_name = tostring(map[3]), program = tostring(map[4]),
    state = row[1], kind = row[2], message = row[3], input = input, result = journals.values(row[6], row[7]), version = row[8],
    attempt = tonumber(row[9] or nil) or 1, worker = tonumber(row[10] or nil) or 0,
  }
  add_surroundings(reader, item, map[1], row[11], row[12])
  return item
end

-- ---- the function ----

--- The functions of that name in all apps.
local function functions_named(name)
  local found = {}
  for _, one in ipairs(app.list()) do
    local f = one.functions[name]
    if f and f ~= found[#found] then found[#found + 1] = f end
  end
  return found
end

local function has_entry()
  for _, one in ipairs(app.list()) do
    if one.entries[1] then return true end
  end
  return false
end

--- Loads the program and returns the function: the one that starts a map of this name while the
--- program loads, or the one that the apps have then; and the instances that were made. Or nil,
--- what is wrong, and the exit code.
local function load_function(item)
  local enough, started, instances = {}, nil, {}
  core.on_instance = function(instance) instances[#instances + 1] = instance end
  core.on_map = function(f)
    if f.name ~= item.function_name then return end
    started = f
    error(enough, 0)
  end
  local fine, loaded, problem = pcall(run.load, item.program)
  core.on_map, core.on_instance = false, false
  if started then return started, instances end
  if not fine then error(loaded, 0) end
  if not loaded then return nil, problem, 1 end
  local found = functions_named(item.function_name)
  if #found == 1 then return found[1], instances end
  local name = show.plain(item.function_name, true)
  if #found > 1 then return nil, ("%s has several functions '%s'"):format(item.program, name), 1 end
  return nil, ("%s makes no function '%s' when it is loaded%s"):format(item.program, name,
    has_entry() and ": one that is made in app:main cannot be run again" or ""), 1
end

--- The same method of the instance that the input was run with: one with these parameters that the
--- program has made, or one that is made of the journal's. Or nil and what is wrong.
local function method_of_instance(item, f, instances, path)
  if not f.instance or not item.is_of_instance then return f end
  local class = rawget(f.instance, "_made_of").class
  local key
  for name, method in pairs(class.methods) do
    if method == f.method then key = name end
  end
  table.insert(instances, 1, f.instance)
  for _, instance in ipairs(instances) do
    if rawget(instance, "_made_of").class == class and journal.parameters_of(instance) == item.parameters_id then
      return instance == f.instance and f or instance[key]
    end
  end
  if item.parameters then return class(item.parameters)[key] end
  return nil, ("%s could not keep the parameters of the %s that map '%s' was of, and the program makes none with these when it is loaded, "
    .. "so input %d cannot be run again"):format(path, class.name, show.plain(item.map, true), item.index)
end

--- Says so when the function is not what it was: it has been changed, or captures what the script
--- sets later.
local function compare(item, f, path)
  local parts = identity.parts(f.raw, f.setups)
  if not parts then return end
  journal.add_options(parts, f.options)
  local id = journal.identity_of(parts):gsub(".", function(c) return ("%02X"):format(c:byte()) end)
  if id ~= item.version then
    core.io.warn(("tidepool: %s #%d: the function, or what it captures, is not as it was for %s\n"):format(show.plain(item.map, true), item.index,
      path:match "[^/]*$"))
  end
end

--- The results as `returns` has them kept.
local function as_kept(f, results)
  for c, name in ipairs(f.options.returns or {}) do
    local fine, value = pcall(function() return array.new(name, { results[c] })[1] end)
    if fine then results[c] = value end
  end
  return results
end

-- ---- the command ----

local function same(a, b)
  if not a or a.n ~= b.n then return false end
  return core.func.identity("results", a) == core.func.identity("results", b)
end

--- How the input ended before.
local function before(item, path)
  local file = path:match "[^/]*$"
  if item.state == "failed" then
    return ("in %s it failed: %s: %s"):format(file, show.plain(item.kind or "?", true), show.plain(item.message or "?", true))
  elseif item.state == "done" then
    return ("in %s it gave %s"):format(file, item.result and item.result.n > 0 and journals.text(item.result) or "nothing")
  end
  return ("what it gave could not be kept in %s"):format(file)
end

local function pack(...)
  return { n = select("#", ...), ... }
end

local function print_json(item, results, seconds, failed)
  local object = {
    map = item.map, index = item.index, input = journals.json_list(item.input), state = item.state, seconds = seconds,
    result = results and journals.json_list(results) or json.null, error = failed or json.null,
  }
  if item.state == "done" and results then object.same = same(item.result, results) end
  io.stdout:write(json.encode(object), "\n")
end

local function print_results(item, path, results)
  if results.n > 0 then
    local texts = {}
    for i = 1, results.n do
      local value = results[i]
      texts[i] = type(value) == "string" and value or show.value(value, { width = 80 })
    end
    io.stdout:write(table.concat(texts, "\t"), "\n")
  end
  local is_same = item.state == "done" and same(item.result, results)
  core.io.warn(("tidepool: %s #%d: %s\n"):format(show.plain(item.map, true), item.index, is_same and ("the same as in %s"):format(path:match "[^/]*$")
    or before(item, path)))
end

--- From here on random numbers and tidepool.current() are the input's.
local function begin(item, f, path)
  core.in_item = true
  core.current = function() return item.index, item.attempt, f.name, item.worker, item.executor or core.executor end
  if item.stream then
    core.random.replay(item.stream, item.index)
  else
    core.io.warn(("tidepool: %s #%d: %s does not say which random numbers it drew: an older Tidepool has written it\n"):format(
      show.plain(item.map, true), item.index, path:match "[^/]*$"))
  end
  local aside = core.random.set_aside()
  for _, setup in ipairs(f.setups or {}) do setup.fn() end
  if aside then core.random.go_back(aside, true) end
end

--- Runs the input; returns the exit code. Without --json an error is raised as it is, with its
--- traceback.
local function run_item(item, f, path, as_json)
  begin(item, f, path)
  if not as_json then
    print_results(item, path, as_kept(f, pack(func.single(f)(unpack(item.input, 1, item.input.n)))))
    return 0
  end
  local started = core.loop.now()
  local outcome = pack(pcall(func.single(f), unpack(item.input, 1, item.input.n)))
  local seconds = core.loop.now() - started
  if not outcome[1] then
    print_json(item, nil, seconds, describe.message(outcome[2]))
    return 1
  end
  print_json(item, as_kept(f, pack(unpack(outcome, 2, outcome.n))), seconds)
  return 0
end

--- Has math.random and os.exit do in the input what they do in a worker, and otherwise what they
--- did.
local function replace_functions()
  local exit = os.exit
  core.replace("math", "random", random.of_items(math.random))
  core.replace("os", "exit", function(code, ...)
    if core.in_item then error(("os.exit(%s) called in a worker"):format(code == nil and "" or tostring(code)), 2) end
    return exit(code, ...)
  end)
end

local function main(path, name, index, as_json)
  local reader, why = journals.open(path)
  if not reader then return 1, why end
  local fine, item, problem = pcall(find, reader, name, index)
  if not fine then return 1, item end
  if not item then return 2, problem end
  if not as_json then
    core.io.warn(("tidepool: %s #%d: %s(%s) of %s\n"):format(show.plain(item.map, true), item.index, show.plain(item.function_name, true),
      journals.text(item.input), show.plain(item.program, true)))
  end
  replace_functions()
  local f, instances, code = load_function(item)
  if not f then return code, instances end
  f, problem = method_of_instance(item, f, instances, path)
  if not f then return 1, problem end
  if not as_json then compare(item, f, path) end
  return run_item(item, f, path, as_json)
end

---`tidepool replay FILE [MAP] INDEX [--json]`.
---@return integer code, string? message
function replay.main(...)
  local given, wrong = words.parse("replay", { { "--json", "json" } }, ...)
  if wrong then return 2, wrong end
  if not given then return cli.help "replay" end
  if #given < 2 then return 2, "replay what? (tidepool replay FILE [MAP] INDEX; more: tidepool help replay)" end
  if #given > 3 then return 2, ("replay: '%s' is one too many (tidepool replay FILE [MAP] INDEX)"):format(given[4]) end
  local last = given[#given]
  local index = last:find "^#?%d+$" and tonumber((last:gsub("^#", "")))
  if not index or index < 1 or index >= 2 ^ 40 then return 2, ("replay: '%s' is not the index of an input, from 1"):format(last) end
  return main(given[1], #given == 3 and given[2] or nil, index, given.json)
end

return replay
