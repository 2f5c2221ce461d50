-- source.lua: finds the text of a function value.
--
-- debug.getinfo gives a file and two lines. Several functions may share those, and the file may
-- have changed since it was loaded. So every candidate on those lines is compiled again with the
-- same upvalue names, and its bytecode is compared with that of the function: when it is equal, the
-- text is that of the code that runs.

local bit = require "bit"
local parse = require "tidepool.translate.parse"

local source = {}

---@class tidepool.gpu.Source what is known about a function's text
---@field def tidepool.gpu.Def the tree
---@field file string short name of the chunk, as in error messages
---@field lines string[] the chunk's lines
---@field upvalues table<string, integer> index of each upvalue by name

-- The chunks that were parsed last, by name: text, defs, lines. Few, since a program's functions
-- are in few files.
local recent, RECENT_MAX = {}, 8

local function parsed(name, text)
    for i, entry in ipairs(recent) do
        if entry.name == name and entry.text == text then
            table.remove(recent, i)
            table.insert(recent, 1, entry)
            return entry
        end
    end
    local defs, message, line = parse.chunk(text)
    if not defs then return nil, ("line %d: %s"):format(line, message) end
    local lines = {}
    for each in (text:gsub("\r\n?", "\n") .. "\n"):gmatch "(.-)\n" do lines[#lines + 1] = each end
    local entry = { name = name, text = text, defs = defs, lines = lines }
    table.insert(recent, 1, entry)
    recent[RECENT_MAX + 1] = nil
    return entry
end

local function read_uleb(code, at)
    local value, shift = 0, 1
    while true do
        local byte = code:byte(at)
        value = value + bit.band(byte, 127) * shift
        at = at + 1
        if byte < 128 then return value, at end
        shift = shift * 128
    end
end

-- Stripped bytecode in which the words are zeroed that say where the upvalues come from: those
-- depend on the code around the function. The layout is that of LuaJIT's lj_bcdump.h.
local function canonical_code(fn)
    local code = string.dump(fn, true)
    local _, at = read_uleb(code, 5)  -- ESC 'L' 'J' version, then flags; a stripped dump has no name
    local parts, from = {}, 1
    while at <= #code do
        local length, body = read_uleb(code, at)
        if length == 0 then break end
        local upvalues = code:byte(body + 3)
        local p = body + 4
        local instructions
        _, p = read_uleb(code, p)             -- collectable constants
        _, p = read_uleb(code, p)             -- number constants
        instructions, p = read_uleb(code, p)
        p = p + instructions * 4
        parts[#parts + 1] = code:sub(from, p - 1)
        parts[#parts + 1] = ("\0"):rep(upvalues * 2)
        from = p + upvalues * 2
        at = body + length
    end
    parts[#parts + 1] = code:sub(from)
    return table.concat(parts)
end

-- Compiles the candidate's text again among locals of the given names; nil when it does not
-- compile.
local function recompile(text, def, names)
    local body = text:sub(def.first, def.last)
    if def.is_method then
        body = "(self" .. (#def.params > 1 and ", " or def.is_vararg and ", " or "") .. body:sub(2)
    end
    local prefix = #names > 0 and ("local %s; "):format(table.concat(names, ", ")) or ""
    local chunk = loadstring(prefix .. "return function" .. body, "=candidate")
    return chunk and chunk()
end

local function same_upvalues(fn, names)
    for i = 1, #names + 1 do
        if debug.getupvalue(fn, i) ~= names[i] then return false end
    end
    return true
end

-- The texts that a chunk may have been loaded from: several when the host loaded several under one
-- name, as the lines at a prompt.
local function texts_of_chunk(name, short, text_of)
    local texts = text_of and text_of(name) or {}
    if type(texts) == "string" then texts = { texts } end
    local first = name:sub(1, 1)
    -- tried even if a text was stored: a chunk may have been loaded by hand under the name of an
    -- existing file
    if first == "@" then
        local file, why = io.open(name:sub(2), "rb")
        local text = file and file:read "*a"
        if file then file:close() end
        if text and text:sub(1, 3) ~= "\27LJ" then texts = { text, unpack(texts) } end
        if #texts > 0 then return texts end
        if not file then return nil, ("its file cannot be read (%s)"):format(why) end
        if not text then return nil, ("'%s' cannot be read"):format(short) end
        return nil, ("'%s' is bytecode, not text"):format(short)
    end
    if #texts > 0 then return texts end
    if first == "=" then
        return nil, ("the text of '%s' was not kept when it was loaded; load it without a name of its own, or from a file"):format(short)
    end
    return { name }
end

---The text and tree of a function.
---@param fn function
---@param text_of? fun(chunkname: string): string|string[]? texts that the host kept, by the chunk's full name ("@file", "=stdin"); of several the
---   last one first
---@return tidepool.gpu.Source? found
---@return string? why there is none: the end of a sentence, without the function's name
function source.find(fn, text_of)
    local info = debug.getinfo(fn, "S")
    if info.what == "C" then return nil, "it is a C function; only functions written in Lua can be translated" end
    if info.what == "main" then return nil, "it is a whole chunk; write a function" end
    if not pcall(string.dump, fn) then return nil, "it is built into LuaJIT and has no text" end
    local names, upvalues = {}, {}
    for i = 1, 255 do
        local name = debug.getupvalue(fn, i)
        if not name then break end
        if name == "" or name:find "^%(" then
            return nil, "its names were stripped from the bytecode; load it from its text"
        end
        names[i], upvalues[name] = name, i
    end
    if info.linedefined <= 0 then return nil, "its lines were stripped from the bytecode; load it from its text" end
    local texts, why = texts_of_chunk(info.source, info.short_src, text_of)
    if not texts then return nil, why end
    local where = ("%s:%d"):format(info.short_src, info.linedefined)
    local wanted = canonical_code(fn)
    why = "has the file changed?"
    for _, text in ipairs(texts) do
        local chunk, trouble = parsed(info.source, text)
        why = trouble or why
        for _, def in ipairs(chunk and chunk.defs or {}) do
            if def.line == info.linedefined and def.last_line == info.lastlinedefined then
                local again = recompile(text, def, names)
                if again and same_upvalues(again, names) and canonical_code(again) == wanted then
                    return { def = def, file = info.short_src, lines = chunk.lines, upvalues = upvalues }
                end
            end
        end
    end
    return nil, ("the text at %s is not the code that is loaded (%s)"):format(where, why)
end

return source
