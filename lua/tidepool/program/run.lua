-- run.lua: `tidepool run FILE[::NAME] [--key value ...] [arguments]`, and what follows a plain
-- script that has an entry.
--
-- Loads the file, picks one of the entries that it made with app:main (or a function of an app),
-- converts the words of the command line to typed values, and calls it. A wrong use is exit code 2
-- and one line; it is found before the entry runs, and a wrong NAME before the file does.
--
-- The words are parsed here and not by Debian's lua-argparse: that module cannot accept options
-- without a schema, takes "-5" for an option, answers a mistake in several lines with exit code 1,
-- takes 1.3 ms to load (this file: 0.4), and would be the only thing that the binary needs beside
-- itself. It would replace each_word and some 80 lines around it; not the rest (finding entries,
-- types, ranges, lists, help).

local app = require "tidepool.app"
local check = require "tidepool.base.check"
local cli = require "tidepool.program.cli"
local json = require "tidepool.json"
local show = require "tidepool.base.show"
local typed = require "tidepool.program.words".typed

local run = {}

local reserved = {
  help = true, workers = true, quiet = true, executor = true, progress = true, no_progress = true, log = true,
  journal = true, explain = true,
}

---@class tidepool.Option one option of an entry's schema, normalised
---@field name string as the user wrote it in the schema
---@field flag string `--max-depth`
---@field type "number"|"integer"|"string"|"boolean"|"list"
---@field of? string a list's elements: "number", "integer" or "string"
---@field default any
---@field help? string
---@field choices? any[]
---@field short? string  one letter; default: the name, if that is one
---@field min? number
---@field max? number
---@field required? boolean

-- A wrong use of the command line is raised as a table with this metatable, and caught by run.main.
local Usage = {}

local function refuse(format, ...)
  error(setmetatable({ text = format:format(...) }, Usage), 0)
end

-- A word of the command line for a one-line message.
local function quoted(word)
  return "'" .. show.value(word):sub(2, -2) .. "'"
end

local function flag_of(name)
  return "--" .. name:gsub("_", "-")
end

-- " (did you mean --verbose?)", or a list of what there is.
local function hint(flag, flags)
  local best = check.nearest(flag, flags)
  if best then
    return (" (did you mean %s?)"):format(best)
  elseif #flags == 0 then
    return " (it takes no options)"
  end
  return (" (there are: %s)"):format(table.concat(flags, ", "))
end

-- ---- the file and what it offers ----

local function split_target(target)
  local file, name = target:match "^(.*)::(.-)$"
  if not file then
    return target, nil
  elseif name == "" then
    refuse("a name is missing after :: in %s", quoted(target))
  elseif not name:find "^[%w_][%w_.-]*$" or name:find("..", 1, true) then
    refuse("%s cannot be the name of an entry: it has letters, digits, _ . and - only", quoted(name))
  end
  return file, name
end

-- Refuses a file that does not exist or is no Lua script, before anything is run.
local function check_file(file)
  local stream, why = io.open(file, "rb")
  if not stream then
    local script, name = file:match "^(.+%.lua):([%w_.-]+)$"
    if script then
      refuse("there is no file %s: did you mean %s::%s?", quoted(file), script, name)
    end
    refuse("cannot open %s: %s", quoted(file), (why:gsub("^.*: ", "")))
  end
  local start, read_error = stream:read(2)
  stream:close()
  if read_error then
    refuse("cannot read %s: %s", quoted(file), (read_error:gsub("^.*: ", "")))
  elseif not file:find "%.lua$" and start ~= "#!" then
    refuse("%s is no Lua script: its name does not end in .lua, nor is its first line a #! line", quoted(file))
  end
end

-- Everything that NAME may mean, in the order of the file: entries first.
local function offers()
  local found = {}
  for _, one in ipairs(app.list()) do
    for _, entry in ipairs(one.entries) do
      found[#found + 1] = { name = entry.name or "main", entry = entry, fn = entry.fn }
    end
  end
  local functions = {}
  for _, one in ipairs(app.list()) do
    for name, f in pairs(one.functions) do
      functions[#functions + 1] = { name = tostring(name), call = f, fn = f.method or f.raw, is_method = f.method ~= nil }
    end
  end
  table.sort(functions, function(a, b)
    return a.name < b.name
  end)
  for _, offer in ipairs(functions) do
    found[#found + 1] = offer
  end
  return found
end

local function names_of(found)
  local names, seen = {}, {}
  for _, offer in ipairs(found) do
    if not seen[offer.name] then
      seen[offer.name] = true
      names[#names + 1] = offer.name
    end
  end
  return table.concat(names, ", "), names
end

-- "did you mean score? it has: main, score"
local function offered(found, name)
  local text, names = names_of(found)
  local near = check.nearest(name, names)
  return (near and ("did you mean %s? "):format(near) or "") .. "it has: " .. text
end

-- Those of `found` for which test(offer) is true; a Function that several apps include counts once.
local function select_offers(found, test)
  local chosen, seen = {}, {}
  for _, offer in ipairs(found) do
    local identity = offer.call or offer
    if test(offer) and not seen[identity] then
      seen[identity] = true
      chosen[#chosen + 1] = offer
    end
  end
  return chosen
end

local function refuse_several(file, several)
  local places = {}
  for i, offer in ipairs(several) do
    local entry = offer.entry
    places[i] = entry and entry.line and ("line %d"):format(entry.line) or "a function"
  end
  refuse("%s has several that are called '%s' (%s): give them other names", file, several[1].name,
    table.concat(places, ", "))
end

local function choose_named(file, found, name)
  local chosen = select_offers(found, function(offer)
    return offer.name == name and offer.entry ~= nil
  end)
  if #chosen == 0 then
    chosen = select_offers(found, function(offer)
      return offer.name == name
    end)
  end
  if #chosen == 0 then
    refuse("%s has no entry '%s' (%s)", file, name, #found == 0 and "it makes no app" or offered(found, name))
  elseif #chosen > 1 then
    refuse_several(file, chosen)
  end
  return chosen[1]
end

local function choose(file, found, name)
  if name then
    return choose_named(file, found, name)
  end
  local entries = select_offers(found, function(offer)
    return offer.entry ~= nil
  end)
  local mains = select_offers(entries, function(offer)
    return offer.name == "main"
  end)
  if #entries == 1 then
    return entries[1]
  elseif #mains == 1 then
    return mains[1]
  elseif #mains > 1 then
    refuse_several(file, mains)
  elseif #entries > 1 then
    refuse("%s has several entries: %s (choose one: tidepool run %s::%s)", file, names_of(entries), typed(file),
      entries[1].name)
  elseif #found > 0 then
    refuse("%s has no app:main; its functions are: %s (run one: tidepool run %s::%s)", file, names_of(found), typed(file),
      found[1].name)
  end
  refuse("%s makes no app (to run it as a plain script: tidepool %s)", file, typed(file))
end

-- ---- the schema ----

local known_fields = {
  [1] = true, [2] = true, default = true, help = true, type = true, of = true, choices = true,
  min = true, max = true, required = true, short = true,
}
local types = { number = true, integer = true, string = true, boolean = true, list = true }

local function type_of_value(value)
  return type(value) == "table" and "list" or type(value)
end

-- One option of the schema as the user wrote it. `blame` raises an error at the entry's line.
---@return tidepool.Option
local function normalise(name, spec, blame)
  if type(spec) ~= "table" then
    spec = { spec }
  end
  for field in pairs(spec) do
    if not known_fields[field] then
      blame(name, ("unknown field '%s' (a list as the default is written { { 1, 2, 3 }, \"help\" })"):format(tostring(field)))
    end
  end
  local option = { name = name, flag = flag_of(name), choices = spec.choices, min = spec.min, max = spec.max,
    required = spec.required, short = spec.short or (name:find "^%a$" and name ~= "h" and name ~= "w" and name) or nil }
  if option.short ~= nil and (type(option.short) ~= "string" or not option.short:find "^%a$" or option.short == "h" or option.short == "w") then
    blame(name, "short must be one letter, but not h (help) or w (workers)")
  end
  option.default = spec[1]
  if option.default == nil then
    option.default = spec.default
  end
  option.help = spec[2] or spec.help
  option.type = spec.type or (option.default ~= nil and type_of_value(option.default))
    or (spec.choices and type_of_value(spec.choices[1])) or "string"
  if option.help ~= nil and type(option.help) ~= "string" then
    blame(name, "the help must be a string (a list as the default is written { { 1, 2, 3 }, \"help\" })")
  elseif not types[option.type] then
    blame(name, ("type '%s' is none of number, integer, string, boolean, list"):format(tostring(option.type)))
  elseif option.choices ~= nil and type(option.choices) ~= "table" then
    blame(name, "choices must be a list")
  end
  if option.type == "list" then
    local sample = (option.default or {})[1]
    if sample == nil then
      sample = (option.choices or {})[1]
    end
    option.of = spec.of or (sample ~= nil and type(sample)) or nil
  end
  return option
end

-- The options of an entry, sorted by name; nil when it has no schema.
---@return tidepool.Option[]?
local function schema_of(entry)
  local schema = entry.options and entry.options.args
  if schema == nil then
    return nil
  end
  local function blame(name, what)
    error(("%s:%d: app:main: args.%s: %s"):format((entry.source:gsub("^@", "")), entry.line, tostring(name), what), 0)
  end
  local options = {}
  for name, spec in pairs(schema) do
    if type(name) ~= "string" or not name:find "^[%a_][%w_]*$" then
      blame(name, "an option's name must be a name, as in args.name")
    elseif reserved[name] then
      blame(name, ("--%s belongs to tidepool itself: choose another name"):format(name))
    end
    options[#options + 1] = normalise(name, spec, blame)
  end
  table.sort(options, function(a, b)
    return a.name < b.name
  end)
  local taken = {}
  for _, option in ipairs(options) do
    local other = option.short and taken[option.short]
    if other then
      blame(option.name, ("-%s is args.%s, too"):format(option.short, other.name))
    end
    taken[option.short or option] = option
  end
  return options
end

-- ---- words to values ----

local function to_number(text)
  local number = text:find "^[-+]?%.?%d" and tonumber(text)
  return type(number) == "number" and number or nil
end

local function to_boolean(text)
  if text == "true" then
    return true
  elseif text == "false" then
    return false
  end
end

-- The value of a text whose type is not known.
local function guess(text)
  local value = to_boolean(text)
  if value == nil then
    value = to_number(text)
  end
  if value == nil then
    value = text
  end
  return value
end

local expected = {
  number = "a number", integer = "a whole number", string = "a text", boolean = "true or false",
}

local function check_choice(option, value, text)
  if not option.choices then
    return
  end
  local names = {}
  for i, choice in ipairs(option.choices) do
    if choice == value then
      return
    end
    names[i] = tostring(choice)
  end
  local best = check.nearest(tostring(value), names)
  refuse("%s: expected %s, got %s%s", option.flag, table.concat(names, " or "), quoted(text),
    best and (" (did you mean %s?)"):format(best) or "")
end

local function check_range(option, value, text)
  if type(value) ~= "number" then
    return
  end
  local low, high = option.min, option.max
  if (low and not (value >= low)) or (high and not (value <= high)) then
    local range = low and high and ("from %s to %s"):format(low, high) or low and ("%s or more"):format(low)
      or ("%s or less"):format(high)
    refuse("%s: expected a number %s, got %s", option.flag, range, quoted(text))
  end
end

local function convert_one(option, kind, text)
  local value = text
  if kind == "number" then
    value = to_number(text)
  elseif kind == "integer" then
    value = to_number(text)
    value = value and value % 1 == 0 and value or nil
  elseif kind == "boolean" then
    value = to_boolean(text)
  elseif kind == nil then
    value = guess(text)
  end
  if value == nil then
    refuse("%s: expected %s%s, got %s", option.flag, option.type == "list" and "a list, each " or "", expected[kind],
      quoted(text))
  end
  check_choice(option, value, text)
  check_range(option, value, text)
  return value
end

---@param option tidepool.Option
local function convert(option, text)
  if option.type ~= "list" then
    return convert_one(option, option.type, text)
  end
  local list = {}
  if text ~= "" then
    for element in (text .. ","):gmatch "([^,]*)," do
      list[#list + 1] = convert_one(option, option.of, element)
    end
  end
  return list
end

-- Goes through the words: take_option(flag, value or nil, next word or nil) returns true when it
-- used the next word; take_argument(word) gets the others. "--" ends the options.
local function each_word(words, take_option, take_argument)
  local i, plain = 1, false
  while i <= #words do
    local word = words[i]
    if not plain and word == "--" then
      plain = true
    elseif not plain and word:find "^%-%-." then
      local flag, value = word:match "^(%-%-[^=]+)=(.*)$"
      if take_option(flag or word, value, words[i + 1]) then
        i = i + 1
      end
    else
      take_argument(word, plain)
    end
    i = i + 1
  end
end

-- The value of an option that needs one, from behind "=" or from the next word; and whether the
-- next word was used.
local function value_for(flag, value, next_word)
  if value then
    return value, false
  elseif not next_word or next_word:find "^%-%-." or next_word == "--" then
    refuse("%s needs a value", flag)
  end
  return next_word, true
end

-- Defaults are copied, so that an entry may change its lists.
local function copy(value)
  if type(value) ~= "table" then
    return value
  end
  local t = {}
  for i, v in ipairs(value) do
    t[i] = v
  end
  return t
end

-- The words with short options spelled out: "-n", "3" and "-n3" become "--number", "3" and
-- "--number=3".
local function spell_out(options, words)
  local flags, out, plain = {}, {}, false
  for _, option in ipairs(options) do
    if option.short then flags[option.short] = option.flag end
  end
  for i, word in ipairs(words) do
    plain = plain or word == "--"
    local letter, rest = word:match "^%-(%a)(.*)$"
    if not plain and letter and flags[letter] then
      word = flags[letter] .. (rest ~= "" and "=" .. rest:gsub("^=", "") or "")
    end
    out[i] = word
  end
  return out
end

-- Parses words by a schema; returns the table for the entry.
---@param options tidepool.Option[]
local function parse_typed(options, words)
  local by_flag, flags, args = {}, {}, {}
  for i, option in ipairs(options) do
    by_flag[option.flag], flags[i] = option, option.flag
    args[option.name] = copy(option.default)
  end
  local given = {}
  each_word(spell_out(options, words), function(flag, value, next_word)
    flag = flag_of(flag:sub(3))
    local option, positive = by_flag[flag], flag:match "^%-%-no%-(.+)$"
    local negated = not option and positive and by_flag["--" .. positive]
    if negated and negated.type ~= "boolean" then
      refuse("%s: %s takes a value and cannot be switched off", flag, negated.flag)
    elseif negated and not value then
      args[negated.name], given[negated.name] = false, true
      return false
    elseif not option then
      refuse("unknown option %s%s", quoted(flag), hint(flag, flags))
    end
    local used = false
    given[option.name] = true
    if option.type == "boolean" and not value then
      args[option.name] = true
    else
      value, used = value_for(flag, value, next_word)
      args[option.name] = convert(option, value)
    end
    return used
  end, function(word, plain)
    local letter = not plain and word:match "^%-(%a[%w_-]*)"
    if letter then
      refuse("unknown option %s%s", quoted(word), hint("--" .. letter, flags))
    end
    args[#args + 1] = word
  end)
  for _, option in ipairs(options) do
    if option.required and not given[option.name] then
      refuse("%s is required", option.flag)
    end
  end
  return args
end

-- Parses words without a schema, where any --key is accepted.
local function parse_free(words)
  local args = {}
  each_word(words, function(flag, value, next_word)
    local name = flag:sub(3):gsub("-", "_")
    local used = false
    if not value and name:find "^no_." then
      args[name:sub(4)] = false
    elseif not value and (not next_word or next_word:find "^%-%-") then
      args[name] = true
    else
      value, used = value_for(flag, value, next_word)
      args[name] = guess(value)
    end
    return used
  end, function(word)
    args[#args + 1] = word
  end)
  return args
end

--- The names of a function's parameters, without a method's `self`; and whether it takes more.
local function parameters_of(offer)
  local fn, first = offer.fn, offer.is_method and 1 or 0
  local info, names = debug.getinfo(fn, "u"), {}
  for i = first + 1, info.nparams or 0 do
    names[i - first] = debug.getlocal(fn, i) or ("argument" .. i)
  end
  return names, info.isvararg
end

-- Parses words for a function's parameters: by name, or in their order. Returns the values and
-- their number.
local function parse_parameters(offer, words)
  local names, is_vararg = parameters_of(offer)
  local values, given, flags, position, last = {}, {}, {}, {}, 0
  for i, name in ipairs(names) do
    flags[i], position[flag_of(name)] = flag_of(name), i
  end
  local function put(i, value)
    values[i], given[i], last = value, true, math.max(last, i)
  end
  local rest = {}
  each_word(words, function(flag, value, next_word)
    local used
    local i = position[flag_of(flag:sub(3))]
    local negated = not i and not value and position[(flag:gsub("^%-%-no%-", "--"))]
    if negated then
      put(negated, false)
      return false
    elseif i and not value and (not next_word or next_word:find "^%-%-.") then
      put(i, true)
      return false
    elseif not i then
      refuse("unknown option %s%s", quoted(flag), hint(flag, flags))
    end
    value, used = value_for(flag, value, next_word)
    put(i, guess(value))
    return used
  end, function(word)
    rest[#rest + 1] = guess(word)
  end)
  local i = 1
  for _, value in ipairs(rest) do
    while given[i] do
      i = i + 1
    end
    if i > #names and not is_vararg then
      refuse("too many arguments: it takes %d (%s)", #names, table.concat(names, ", "))
    end
    put(i, value)
  end
  return values, last
end

-- ---- help ----

local function placeholder(option)
  if option.choices then
    local names = {}
    for i, choice in ipairs(option.choices) do
      names[i] = tostring(choice)
    end
    return " " .. table.concat(names, "|") .. (option.type == "list" and ",..." or "")
  elseif option.type == "boolean" then
    return ""
  elseif option.type == "list" then
    return " A,B,..."
  end
  return " " .. option.type:upper()
end

local function default_text(option)
  local default = option.default
  if option.required then
    return "required"
  elseif default == nil or default == false then
    return nil
  elseif type(default) == "table" then
    local texts = {}
    for i, value in ipairs(default) do
      texts[i] = tostring(value)
    end
    default = table.concat(texts, ",")
  elseif default == true then
    return ("default: on; --no-%s"):format(option.flag:sub(3))
  end
  return "default: " .. tostring(default)
end

local function help_lines(options)
  local lines, width = {}, 0
  local function left_of(option)
    return (option.short and "-" .. option.short .. ", " or "") .. option.flag .. placeholder(option)
  end
  for _, option in ipairs(options) do
    width = math.max(width, #left_of(option))
  end
  for _, option in ipairs(options) do
    local left, default = left_of(option), default_text(option)
    local right = (option.help or "") .. (default and (option.help and " (" or "(") .. default .. ")" or "")
    lines[#lines + 1] = ("  %s%s  %s"):format(left, (" "):rep(math.min(width, 30) - #left), right):gsub("%s+$", "") .. "\n"
  end
  return table.concat(lines)
end

-- `others`: the other names in the file.
local function print_help(target, offer, options, others)
  local out = {}
  if options then
    out[1] = ("Usage: tidepool run %s%s [arguments]\n"):format(target, #options > 0 and " [options]" or "")
    out[2] = #options > 0 and "\n" .. help_lines(options) or ""
  elseif offer.entry and #parameters_of(offer) <= 1 then
    out[1] = ("Usage: tidepool run %s [--key value ...] [arguments]\n\nAny option is accepted.\n"):format(target)
  else
    local names, is_vararg = parameters_of(offer)
    out[1] = ("Usage: tidepool run %s"):format(target)
    for _, name in ipairs(names) do
      out[#out + 1] = (" [%s VALUE]"):format(flag_of(name))
    end
    out[#out + 1] = (offer.call and " [--json]" or "") .. (is_vararg and " [arguments]\n" or "\n")
  end
  if #others > 0 then
    out[#out + 1] = ("\nAlso in %s: %s (tidepool run %s::NAME --help)\n"):format(target, table.concat(others, ", "), typed(target))
  end
  io.stdout:write(table.concat(out))
end

-- ---- the call ----

local function asks_for_help(words)
  for _, word in ipairs(words) do
    if word == "--" then
      return false
    elseif word == "--help" or word == "-h" then
      return true
    end
  end
  return false
end

-- Results are printed as `print` does, but tables are opened.
local function print_results(...)
  local texts = {}
  for i = 1, select("#", ...) do
    local value = (select(i, ...))
    texts[i] = type(value) == "string" and value or show.value(value, { width = 80 })
  end
  if #texts > 0 then
    io.stdout:write(table.concat(texts, "\t"), "\n")
  end
end

local function print_json(...)
  io.stdout:write(json.encode_results(...), "\n")
end

-- Removes --json from a function's words, unless it is a parameter of the function.
local function take_json(offer, words)
  for _, name in ipairs((parameters_of(offer))) do
    if name == "json" then
      return false, words
    end
  end
  local rest, has_json, plain = {}, false, false
  for _, word in ipairs(words) do
    plain = plain or word == "--"
    if word == "--json" and not plain then
      has_json = true
    else
      rest[#rest + 1] = word
    end
  end
  return has_json, rest
end

-- The call to make, as a function without arguments; nil after help was printed.
local function prepare(target, found, offer, words)
  local options = offer.entry and schema_of(offer.entry)
  if asks_for_help(words) then
    local _, others = names_of(select_offers(found, function(other)
      return other.name ~= offer.name and not target:find("::", 1, true)
    end))
    print_help(target, offer, options, others)
    return nil
  end
  local fn = offer.fn
  if offer.call then
    local has_json, rest = take_json(offer, words)
    local values, n = parse_parameters(offer, rest)
    return function()
      (has_json and print_json or print_results)(offer.call:remote(unpack(values, 1, n)))
    end
  elseif options or #parameters_of(offer) <= 1 then
    local args = options and parse_typed(options, words) or parse_free(words)
    return function()
      fn(args)
    end
  end
  local values, n = parse_parameters(offer, words)
  return function()
    fn(unpack(values, 1, n))
  end
end

-- Calls fn(...). A wrong use becomes exit code 2 and its line; all other errors are raised
-- unchanged.
local function catching_usage(fn, ...)
  local words = { n = select("#", ...), ... }
  local result
  local ok, problem = xpcall(function()
    result = fn(unpack(words, 1, words.n))
  end, function(problem)
    return problem
  end)
  if not ok and getmetatable(problem) == Usage then
    return nil, problem.text
  elseif not ok then
    error(problem, 0)
  end
  return result or false
end

---Runs a file with these words as its `...`; the apps that it makes stay. Returns true; or nil and
---what is wrong with its text.
---@return boolean? loaded, string? message
function run.load(file, ...)
  local chunk, syntax_error = loadfile(file)
  if not chunk then
    return nil, syntax_error
  end
  if type(arg) == "table" then
    arg[0] = file
  end
  app.keep(true)
  chunk(...)
  app.keep(false)
  return true
end

-- Runs the file of a target with these words as its `...`. Returns its path and the NAME; or nil,
-- what is wrong, and the exit code.
local function load_target(target, ...)
  local file, name
  local fine, problem = catching_usage(function()
    file, name = split_target(target)
    check_file(file)
  end)
  if fine == nil then
    return nil, problem, 2
  end
  local loaded, syntax_error = run.load(file, ...)
  if not loaded then
    return nil, syntax_error, 1
  end
  return file, name
end

local function choose_function(file, found, name)
  local functions = select_offers(found, function(offer)
    return offer.call ~= nil and (name == nil or offer.name == name)
  end)
  if #functions == 1 then
    return functions[1].call
  elseif #functions > 1 and name then
    refuse_several(file, functions)
  elseif #functions > 1 then
    refuse("%s has several functions: %s (choose one: tidepool map %s::%s)", file, names_of(functions), typed(file), functions[1].name)
  end
  local all = select_offers(found, function(offer)
    return offer.call ~= nil
  end)
  refuse("%s has no function%s (%s)", file, name and (" '%s'"):format(name) or "",
    #all == 0 and "it decorates none with app:func" or offered(all, name or ""))
end

---The Function that FILE::NAME, or FILE with only one, means: for `tidepool map`.
---@return tidepool.Function? f, string? message, integer? code
function run.load_function(target)
  local file, name, code = load_target(target)
  if not file then
    return nil, name, code
  end
  local f, problem = catching_usage(function()
    return choose_function(file, offers(), name)
  end)
  return f, problem, 2
end

---The rest of `tidepool FILE`, once the file has run: its entry is called as `tidepool run` would.
---@param file string
---@param source string the chunk whose entries count: those of files that it has loaded do not
---@return integer code, string? message the one line for stderr
function run.script(file, source, ...)
  local words = { ... }
  local call, problem = catching_usage(function()
    local own = select_offers(offers(), function(offer)
      return offer.entry ~= nil and offer.entry.made_in == source
    end)
    return prepare(file, own, choose(file, own), words)
  end)
  if call == nil then
    return 2, problem
  elseif call then
    call()
  end
  return 0
end

---`tidepool run`: the words after it, without the host's own options.
---@param target? string FILE or FILE::NAME
---@return integer code, string? message the one line for stderr
function run.main(target, ...)
  local words = { ... }
  if target == "--help" then
    return cli.help "run"
  elseif not target then
    return 2, "run what? (tidepool run FILE[::NAME]; more: tidepool help run)"
  end
  local file, name, code = load_target(target, ...)
  if not file then
    return code, name
  end
  local call, problem = catching_usage(function()
    local found = offers()
    return prepare(target, found, choose(file, found, name), words)
  end)
  if call == nil then
    return 2, problem
  elseif call then
    call()
  end
  return 0
end

return run
