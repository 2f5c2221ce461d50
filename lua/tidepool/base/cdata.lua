--- For the codec: what the script has declared to the FFI; what a cdata is and how to make one is
--- in cdata_values.lua, which is loaded when the first one travels. Run once per state, before
--- users' code and without require; its arguments are a function that registers a class, one that
--- loads cdata_values.lua, the kinds (tags of host/codec/message.h, and 0 for none of them) and how
--- the names of our chunks begin.
--
-- C types have no names that another state knows; what the other state gets are the texts that made
-- them. So ffi.cdef, ffi.typeof, ffi.metatype and ffi.load are wrapped to record their arguments.
-- Our own declarations are not recorded, since every state has them.

local add_class, load_values, INT64, UINT64, COMPLEX, CTYPE, BYTES, SYMBOL, NONE, OURS = ...
local ffi = require "ffi"

local typeof, tostring, pcall = ffi.typeof, tostring, pcall
local cdef, load, metatype = ffi.cdef, ffi.load, ffi.metatype
local find, gsub, concat = string.find, string.gsub, table.concat
local type, tonumber, select, error, getinfo, rawget, next = type, tonumber, select, error, debug.getinfo, rawget, next

local functions -- what the codec calls

local function is_ours(source)
  return find(source, OURS, 1, true) == 1
end

-- ---- what was declared ----

local declared, is_declared, joined = {}, {}, nil -- texts in their order; text -> true; the list as one text, or nil
local brought = {} -- text -> true: another state's declaration
local libraries = setmetatable({}, { __mode = "k" }) -- what ffi.load gave -> { name, is_global }
local made = {} -- text -> the first ctype that ffi.typeof made of it
local text_of = {}     -- number of a ctype -> the text
local metatables = {}  -- number of a ctype -> its metatable
local has_metatype = {} -- number of a ctype -> true: its metatable came with a message

--- Returns what a function of the FFI returned, or raises its error as the caller's.
local function give(fine, value)
  if fine then return value end
  error(type(value) == "string" and gsub(value, "^tidepool%.base%.cdata:%d+: ", "") or value, 3)
end

local function note(text)
  if is_declared[text] then return end
  is_declared[text] = true
  declared[#declared + 1] = text
  joined = nil
end

function ffi.cdef(text, ...)
  if type(text) ~= "string" or select("#", ...) > 0 then return cdef(text, ...) end
  -- another state's declaration is made again, by a module of the script, say
  if brought[text] then return end
  give(pcall(cdef, text))
  if not is_ours(getinfo(2, "S").source) then note(text) end
end

local function note_type(text, ct)
  local number = tonumber(ct)
  made[text] = made[text] or ct
  text_of[number] = text_of[number] or text
end

function ffi.typeof(ct, ...)
  if type(ct) ~= "string" or select("#", ...) > 0 then return typeof(ct, ...) end
  local t = give(pcall(typeof, ct))
  note_type(ct, t)
  return t
end

function ffi.load(name, is_global)
  local library = give(pcall(load, name, is_global))
  libraries[library] = libraries[library] or { name, is_global and true or false }
  return library
end

function ffi.metatype(ct, mt)
  local t = type(ct) == "string" and typeof(ct) or ct
  local number = type(t) == "cdata" and tonumber(typeof(t))
  if number and has_metatype[number] then return t end -- as above
  local result = give(pcall(metatype, ct, mt))
  number = tonumber(result)
  if type(ct) == "string" then note_type(ct, result) end
  local name = not is_ours(getinfo(2, "S").source) and functions.name_of(result)
  if name then
    metatables[number] = mt
    add_class("ctype " .. name, mt)
  end
  return result
end

--- All declarations as one text for another state; nil when there are none.
local function declarations()
  if not joined and #declared > 0 then joined = concat(declared, "\0") end
  return joined
end

--- The name that was given to ffi.load for this userdata, and whether the library is global; nil
--- for any other userdata.
local function library_of(userdata)
  local library = libraries[userdata]
  if library then return library[1], library[2] end
end

-- What cdata_values.lua uses: what is known here, and the standard functions as they are now.
local shared = {
  kinds = { INT64, UINT64, COMPLEX, CTYPE, BYTES, SYMBOL, NONE },
  declared = declared, is_declared = is_declared, brought = brought, libraries = libraries, made = made, text_of = text_of,
  metatables = metatables, has_metatype = has_metatype, note = note, note_type = note_type,
  ffi = ffi, istype = ffi.istype, typeof = typeof, new = ffi.new, sizeof = ffi.sizeof, cdef = cdef, load = load, metatype = metatype,
  find = find, gsub = gsub, match = string.match, gmatch = string.gmatch,
  type = type, tonumber = tonumber, tostring = tostring, pcall = pcall, rawget = rawget, rawequal = rawequal, next = next,
  getfenv = debug.getfenv,
}

functions = setmetatable({ declarations = declarations, library_of = library_of }, { __index = function(self, name)
  for key, value in next, load_values()(shared) do self[key] = value end
  return rawget(self, name)
end })
return functions
