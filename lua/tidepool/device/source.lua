--- The text of a kernel by hand as the compiler gets it, with its definitions and the files that it
--- includes.
--
-- Files are included here and not by drivers. So a kernel travels to workers, and is stored on
-- disk, as one text, and a binary of an older file is never taken for it. Definitions become lines
-- of the text, too, since drivers differ in what they accept after -D.

local check = require "tidepool.base.check"

local source = {}

local DEPTH_MAX = 64 -- of files that include others

local function folder_of(path)
  return path:match "^(.*)/[^/]*$" or "."
end

function source.read_file(path)
  local file, why = io.open(path, "rb")
  if not file then return nil, why end
  local text, trouble = file:read "*a"
  file:close()
  if not text then return nil, ("%s: %s"):format(path, trouble) end
  return (text:gsub("\r\n?", "\n"))
end

--- The text with comments blanked out; everything else keeps its position.
local function without_comments(text)
  local parts, at = {}, 1
  while true do
    local found = text:find('["/]', at)
    if not found then break end
    local _, last
    if text:sub(found, found) == '"' then
      _, last = text:find('^"[^"\\\n]*', found)
      while text:sub(last + 1, last + 1) == "\\" do _, last = text:find('^\\.[^"\\\n]*', last + 1) end
      parts[#parts + 1] = text:sub(at, last + 1)
      at = last + 2
    elseif text:find("^//", found) or text:find("^/%*", found) then
      if text:find("^//", found) then _, last = text:find("^[^\n]*", found) else _, last = text:find("^/%*.-%*/", found) end
      last = last or #text
      parts[#parts + 1] = text:sub(at, found - 1) .. text:sub(found, last):gsub("[^\n]", " ")
      at = last + 1
    else
      parts[#parts + 1] = text:sub(at, found)
      at = found + 1
    end
  end
  return table.concat(parts) .. text:sub(at)
end

local function line_mark(line, file)
  return ('#line %d "%s"'):format(line, (file:gsub('[\\"]', "\\%0")))
end

local function lines_of(text)
  local lines = {}
  for line in (text .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = line end
  return lines
end

--- Replaces include directives by the files' texts. A file that is not found is left to the
--- compiler, which may skip the directive. `around`: the files that are being read, the innermost
--- last.
local function expand(text, file, line, folders, around)
  local lines = lines_of(text)
  if not text:find "#%s*include" then return text end
  local bare = lines_of(without_comments(text))
  for i, directive in ipairs(bare) do
    local quote, name = directive:match '^%s*#%s*include%s*(["<])([^">]+)[">]'
    local places = {}
    if name and (name:find "^/" or quote == '"') then places[1] = name:find "^/" and name or folder_of(file) .. "/" .. name end
    if name then
      for _, folder in ipairs(folders) do places[#places + 1] = folder .. "/" .. name end
    end
    for _, path in ipairs(places) do
      local included = source.read_file(path)
      if included then
        for _, outer in ipairs(around) do
          if outer == path and not included:find "^%s*#%s*ifndef" and not included:find "#%s*pragma%s+once" then
            error(("%s:%d: %s includes itself"):format(file, line + i - 1, path), 0)
          elseif outer == path then
            included = ""
          end
        end
        if included:find "#%s*pragma%s+once" and around.once[path] then included = "" end
        around.once[path] = true
        if #around >= DEPTH_MAX then error(("%s:%d: more than %d files include each other"):format(file, line + i - 1, DEPTH_MAX), 0) end
        around[#around + 1] = path
        included = expand(included, path, 1, folders, around):gsub("#(%s*)pragma%s+once", "//%1included once")
        around[#around] = nil
        lines[i] = line_mark(1, path) .. "\n" .. included .. "\n" .. line_mark(line + i, file)
        break
      end
    end
  end
  return table.concat(lines, "\n")
end

local INT64_MIN = -0x7fffffffffffffffLL - 1

local function show_define(value)
  if value == true then return "1" end
  if type(value) == "string" then return value end
  if type(value) == "cdata" then
    if value == INT64_MIN then return "(-9223372036854775807L - 1L)" end
    return (tostring(value):gsub("LL$", "L"))
  end
  if value ~= value then return "NAN" end
  if value == math.huge or value == -math.huge then return value > 0 and "INFINITY" or "(-INFINITY)" end
  if value % 1 == 0 and math.abs(value) < 2 ^ 53 then return ("%.0f"):format(value) end
  return ("%.17g"):format(value)
end

--- The whole text of a kernel, and its compiler options. Raises what is wrong with an include.
---@param line integer  the line there at which the text begins
---@param given table  checked options (options.of_kernels)
---@param file string  the file that the text is in
---@param line integer  there, at which it begins
---@return string text
---@return string flags
function source.assemble(text, given, file, line)
  local parts, names = {}, {}
  for name in pairs(given.defines or {}) do names[#names + 1] = name end
  table.sort(names)
  for _, name in ipairs(names) do
    local value = given.defines[name]
    if value then parts[#parts + 1] = ("#define %s %s\n"):format(name, show_define(value)) end
  end
  parts[#parts + 1] = line_mark(line, file) .. "\n"
  local fine, expanded = pcall(expand, text, file, line, given.include or {}, { file, once = {} })
  if not fine then check.fail("device:kernel: %s", expanded) end
  parts[#parts + 1] = expanded .. "\n"
  local own = given.options or ""
  local std = not own:find "%-cl%-std" and ("-cl-std=%s "):format(given.std or "CL1.2") or ""
  return table.concat(parts), ("%s-cl-kernel-arg-info%s"):format(std, own ~= "" and " " .. own or "")
end

--- Does a text include files, so that it may change?
function source.includes(text)
  return text:find "#%s*include" ~= nil
end

return source
