--- The command-line words of a command: its options, and the rest.

local check = require "tidepool.base.check"

local words = {}

--- A word as it is typed in a shell: in quotes where it has more than what never needs them.
---@return string
function words.typed(word)
  if word:find "^[%w_./:@%%+=,\128-\255-]+$" then return word end
  return "'" .. word:gsub("'", "'\\''") .. "'"
end

--- An option of a command.
---@class tidepool.Word
---@field [1] string       how it is written: "--json"
---@field [2] string       the field that says that it was given, or what its value is
---@field needs string?    it has a value, `--limit SIZE` or `--limit=SIZE`: what that is, for messages

--- Parses the words of a command. `--` ends the options, and `-` alone is not one. The list part of
--- the result has the other words.
---@param command string
---@param rows tidepool.Word[]
---@return table? given  nil: a wrong use, or --help
---@return string? problem  what is wrong; nil: help is asked for
function words.parse(command, rows, ...)
  local given, by_name, names, all = {}, {}, {}, { ... }
  for i, row in ipairs(rows) do by_name[row[1]], names[i] = row, row[1] end
  names[#names + 1] = "--help"
  local i, is_plain = 1, false
  while i <= #all do
    local word = all[i]
    local name, value = word:match "^(%-%-[^=]+)=(.*)$"
    local row = by_name[name or word]
    if is_plain or not word:find "^%-." then
      given[#given + 1] = word
    elseif word == "--" then
      is_plain = true
    elseif word == "--help" then
      return nil
    elseif not row or (value and not row.needs) then
      local near = check.nearest(word, names)
      return nil, ("%s: unknown option '%s' (%s)"):format(command, word, near and "did you mean " .. near .. "?"
        or "there are: " .. table.concat(names, ", "))
    elseif not row.needs then
      given[row[2]] = true
    else
      if not value and all[i + 1] and not all[i + 1]:find "^%-%-" then
        i = i + 1
        value = all[i]
      end
      if not value or value == "" then return nil, ("%s: %s needs %s"):format(command, row[1], row.needs) end
      given[row[2]] = value
    end
    i = i + 1
  end
  return given
end

return words
