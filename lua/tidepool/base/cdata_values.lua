--- The second half of cdata.lua: what a cdata is, and how to make one. It is run once per state, at
--- the first cdata that travels or is asked about; `shared` is what cdata.lua gives it. Users' code
--- may have replaced standard functions by then, so that only those in there are used.

local shared = ...
local INT64, UINT64, COMPLEX, CTYPE, BYTES, SYMBOL, NONE = shared.kinds[1], shared.kinds[2], shared.kinds[3], shared.kinds[4],
  shared.kinds[5], shared.kinds[6], shared.kinds[7]
local declared, is_declared, brought, libraries = shared.declared, shared.is_declared, shared.brought, shared.libraries
local made, text_of, metatables, has_metatype = shared.made, shared.text_of, shared.metatables, shared.has_metatype
local note, note_type = shared.note, shared.note_type
local ffi, istype, typeof, new, sizeof = shared.ffi, shared.istype, shared.typeof, shared.new, shared.sizeof
local cdef, load, metatype = shared.cdef, shared.load, shared.metatype
local find, gsub, match, gmatch = shared.find, shared.gsub, shared.match, shared.gmatch
local type, tonumber, tostring, pcall, rawget, rawequal = shared.type, shared.tonumber, shared.tostring, shared.pcall, shared.rawget, shared.rawequal
local next, getfenv = shared.next, shared.getfenv
local int64, uint64, complex = typeof "int64_t", typeof "uint64_t", typeof "complex"

-- Structs that are declared in a typedef have no name of their own. They are found by the text that
-- tostring gives for them.
local typedefs, n_looked = {}, 0

local function look_for_typedefs()
  for i = n_looked + 1, #declared do
    for name in gmatch(declared[i], "}%s*([%a_][%w_]*)%s*;") do
      local fine, t = pcall(typeof, name)
      if fine then
        local text = match(tostring(t), "^ctype<(.*)>$")
        typedefs[text] = typedefs[text] or name
      end
    end
  end
  n_looked = #declared
end

--- A text that means the same type in a state with the same declarations; nil when there is none.
local function name_of(ct)
  local text = match(tostring(ct), "^ctype<(.*)>$")
  if not find(text, "%f[%a]struct %d") and not find(text, "%f[%a]union %d") and not find(text, "%f[%a]enum %d") then return text end
  if text_of[tonumber(ct)] then return text_of[tonumber(ct)] end
  look_for_typedefs()
  local is_known = true
  text = gsub(text, "%f[%a]%a+ %d+", function(one)
    is_known = is_known and typedefs[one] ~= nil
    return typedefs[one]
  end)
  return is_known and text or nil
end

--- Makes another state's declarations here. One that contradicts those of this state has no effect.
local function declare(texts)
  for text in gmatch(texts, "[^%z]+") do
    if not brought[text] then
      brought[text] = true
      if not is_declared[text] then pcall(cdef, text) end
      note(text)
    end
  end
end

-- ---- what a type has in it ----

--- The text between the braces of a struct's declaration; nil when it is not found.
local function body_of(text, name)
  text = gsub(gsub(text, "/%*.-%*/", " "), "//[^\n]*", " ")
  if find(text, "^%s*%a+%s*{") and text == name then return match(text, "%b{}") end
  local tag = match(name, "^%a+ ([%a_][%w_]*)$")
  if tag then return match(text, "%f[%w_]" .. tag .. "%s*(%b{})") end
  return match(text, "(%b{})%s*" .. name .. "%s*;")
end

local has_pointer

local function body_has_pointer(body, seen)
  if find(body, "[*&(]") then return true end
  for word in gmatch(body, "[%a_][%w_]*") do
    for _, text in next, { word, "struct " .. word, "union " .. word } do
      local fine, t = pcall(typeof, text)
      if fine and has_pointer(t, seen) then return true end
    end
  end
  return false
end

--- Can values of the type contain pointers, or is that not known?
function has_pointer(t, seen)
  local name = name_of(t)
  if not name then return true end
  if seen[name] then return false end
  seen[name] = true
  local plain = match(tostring(t), "^ctype<(.*)>$")
  if find(plain, "[*&(]") then return true end
  if not find(plain, "%f[%a]struct ") and not find(plain, "%f[%a]union ") then return false end
  name = gsub(name, "%s*%[.*", "")
  local body = find(name, "{", 1, true) and body_of(name, name)
  for i = #declared, body and #declared + 1 or 1, -1 do
    body = body_of(declared[i], name)
    if body then break end
  end
  return not body or body_has_pointer(body, seen)
end

local is_safe = {} -- number of a ctype -> true when its values contain no pointers

local function parts(v) return v.re, v.im end

-- istype(ct, ct) is true for a ctype itself, so its text is checked too. tonumber excludes values
-- with a metatable of the user's, whose __tostring must not be called.
local function is_ctype(v) return tonumber(v) ~= nil and find(tostring(v), "^ctype<") ~= nil end
local function is(ct, v) return istype(ct, v) and not is_ctype(v) end

--- The name and the library of a C function.
local function symbol_of(v)
  local function look(library)
    for name, value in next, getfenv(library) do
      if type(value) == "cdata" and rawequal(value, v) then return name, library end
    end
  end
  local name, library = look(ffi.C)
  if name then return name, library end
  for each in next, libraries do
    name, library = look(each)
    if name then return name, library end
  end
end

--- Returns one of these: INT64 and a new int64_t (which C reads through lua_topointer); UINT64 and
--- a uint64_t; COMPLEX and its two numbers; CTYPE, a ctype's text, and its metatable or nil; BYTES,
--- the text of a value's type, its metatable, and its size; SYMBOL, the name of a C function, and
--- its library; for all others NONE, the type, and advice on what to do.
local function kind_of(v)
  if is(int64, v) then return INT64, int64(v) end
  if is(uint64, v) then return UINT64, uint64(v) end
  if istype(complex, v) and not is_ctype(v) then
    local ok, re, im = pcall(parts, v)
    if ok then return COMPLEX, re, im end
  end
  local t = typeof(v)
  local number, name = tonumber(t), name_of(t)
  local shown = "cdata<" .. (name or match(tostring(t), "^ctype<(.*)>$")) .. ">"
  if is_ctype(v) then
    if not name then return NONE, shown, "declare it with ffi.cdef, or in ffi.typeof as a text" end
    return CTYPE, name, metatables[number]
  end
  local text = tostring(t)
  if find(text, "%(%)") and not find(text, "[*&]>$") then
    local symbol, library = symbol_of(v)
    if symbol then return SYMBOL, symbol, library end
  end
  if find(text, "[*&]>$") or find(text, "%(%)") then
    if find(text, "%*>$") and v == nil then return BYTES, name, nil, sizeof(v) end
    return NONE, shown, "a pointer means nothing to others: pass what it points to, or a tidepool.array"
  elseif find(text, "%]>$") then
    return NONE, shown, "tidepool.array is shared by all workers; a struct with an array in it travels as a copy"
  elseif not name then
    return NONE, shown, "declare it with ffi.cdef, or in ffi.typeof as a text"
  end
  local mt = metatables[number]
  if mt and rawget(mt, "__gc") then return NONE, shown, "its metatable has a finalizer, which would run for the copy, too" end
  if is_safe[number] == nil then is_safe[number] = not has_pointer(t, {}) end
  if not is_safe[number] then return NONE, shown, "there are pointers in it, or its declaration is not known" end
  return BYTES, name, mt, sizeof(v)
end

-- ---- decoding ----

--- A new cdata of that kind; the value of an integer is set later.
local function make(kind, re, im)
  if kind == COMPLEX then return complex(re, im) end
  return new(kind == INT64 and int64 or uint64)
end

--- The ctype of a text, with the metatable that it has in the state that sent it.
local function ctype(text, mt)
  local t = made[text]
  if not t then
    local fine
    fine, t = pcall(typeof, text)
    if not fine then return nil, ("C type %q is not declared here"):format(text) end
    note_type(text, t)
  end
  local number = tonumber(t)
  if mt and not metatables[number] then
    metatables[number] = mt
    has_metatype[number] = true
    pcall(metatype, t, mt)
  end
  return t
end

--- A new value of that type; its bytes are set later.
local function value(text, mt)
  local t, why = ctype(text, mt)
  if not t then return nil, why end
  return new(t)
end

local function symbol(name, library)
  local fine, found = pcall(function() return library[name] end)
  if fine then return found end
  return nil, ("C function %q is not declared here"):format(name)
end

local function open_library(name, is_global)
  for library, known in next, libraries do
    if known[1] == name and known[2] == is_global then return library end
  end
  local fine, library = pcall(load, name, is_global)
  if not fine then return nil, ("library %q cannot be loaded here: %s"):format(name, tostring(library)) end
  libraries[library] = { name, is_global }
  return library
end

return {
  name_of = name_of, kind_of = kind_of, make = make, ctype = ctype, value = value, symbol = symbol, open_library = open_library,
  declare = declare,
}
