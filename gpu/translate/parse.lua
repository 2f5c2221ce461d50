-- parse.lua: parses the text of a Lua chunk into a tree.
--
-- A hand-written recursive descent over the whole grammar of Lua 5.1 as LuaJIT reads it (goto and
-- labels, 64-bit and imaginary literals, hexadecimal floats, the escapes \x \u \z). It has no
-- dependency, knows the line of everything, and resolves names as it goes: a name that is a local
-- variable points to its Local, so that later passes see no scopes.
--
-- Nothing here knows OpenCL: infer.lua decides what a device cannot run.
--
-- Every node is a table with `tag` and `line`:
--   expressions  Nil True False Number{value} Wide{text, value: nil for an imaginary one}
--                String{value} Vararg Function{def}
--                Table{items: key, value}
--                Paren{expr} Name{name, var} Index{object, key} Call{callee, args} Method{object,
--                name, args} Unop{op, expr} Binop{op, left, right} And{left, right} Or{left, right}
--   statements   Local{vars, exprs} LocalFunction{var, def} Assign{targets, exprs} CallStat{call}
--                Do{body} While{cond, body} Repeat{body, cond} If{clauses, orelse} Fornum{var,
--                start, limit, step, body} Forin{vars, exprs, body} Return{exprs} Break Goto{name}
--                Region{name, body}: a label, and what stands before it in its block
-- A block is a list of statements. `var` of a Name is nil for a global.

---@class tidepool.gpu.Local a local variable or parameter
---@field name string
---@field line integer where it is declared
---@field def tidepool.gpu.Def the function that it belongs to
---@field assigned boolean whether anything assigns to it after its declaration
---@field bound tidepool.gpu.Def? the function that it is declared with

---@class tidepool.gpu.Def a function in the text
---@field line integer as debug.getinfo's linedefined
---@field last_line integer as debug.getinfo's lastlinedefined
---@field first integer byte position of its "("
---@field last integer byte position of the last letter of its "end"
---@field params tidepool.gpu.Local[]
---@field is_method boolean declared with a colon: the first parameter, self, is not in the text
---@field is_vararg boolean
---@field outer tidepool.gpu.Def the function around it
---@field names table[] the Name nodes in it that stand for locals of functions around it
---@field body table[]

local wide = require "tidepool.translate.wide"

local parse = {}

local KEYWORDS = {}
for word in ("and break do else elseif end false for function if in local nil not or repeat return then true until while")
    :gmatch "%a+" do
    KEYWORDS[word] = true
end

-- Left and right binding power; the right one is smaller where the operator associates to the
-- right.
local BINARY = {
    ["or"] = { 1, 1 }, ["and"] = { 2, 2 },
    ["<"] = { 3, 3 }, [">"] = { 3, 3 }, ["<="] = { 3, 3 }, [">="] = { 3, 3 }, ["~="] = { 3, 3 }, ["=="] = { 3, 3 },
    [".."] = { 5, 4 }, ["+"] = { 6, 6 }, ["-"] = { 6, 6 },
    ["*"] = { 7, 7 }, ["/"] = { 7, 7 }, ["%"] = { 7, 7 }, ["^"] = { 10, 9 },
}
local UNARY_POWER = 8
local BLOCK_END = { ["end"] = true, ["else"] = true, ["elseif"] = true, ["until"] = true, eof = true }
local ESCAPES = { a = "\a", b = "\b", f = "\f", n = "\n", r = "\r", t = "\t", v = "\v",
                  ["\\"] = "\\", ['"'] = '"', ["'"] = "'" }

-- UTF-8 of a code point, as LuaJIT's \u{...} writes it.
local function utf8(code)
    if code < 0x80 then return string.char(code) end
    local tail, limit = "", 0x40
    while code >= limit do
        tail = string.char(0x80 + code % 64) .. tail
        code = math.floor(code / 64)
        limit = limit == 0x40 and 0x20 or limit / 2
    end
    return string.char((256 - limit * 2) + code) .. tail
end

---------------------------------------------------------------------------------------------------
-- Words. The parser state `p` holds the text, the byte position behind the current word, and the
-- word: p.kind is "name", "number", "string", "eof", or the keyword or punctuation itself.

local function fail(p, format, ...)
    error({ line = p.line, message = format:format(...) }, 0)
end

local function count_newlines(p, from, to)
    local at = from
    while true do
        local found = p.text:find("[\r\n]", at)
        if not found or found > to then return end
        local pair = p.text:sub(found, found + 1)
        at = found + ((pair == "\r\n" or pair == "\n\r") and 2 or 1)
        p.line = p.line + 1
    end
end

-- Reads a long bracket whose "[" is at `at`. Gives its contents and the position behind it; nothing
-- when there is none.
local function long_bracket(p, at)
    local level = p.text:match("^%[(=*)%[", at)
    if not level then return end
    local first = at + #level + 2
    local close, last = p.text:find("]" .. level .. "]", first, true)
    if not close then fail(p, "unfinished long string or comment") end
    local value = p.text:sub(first, close - 1):gsub("\r\n", "\n"):gsub("\n\r", "\n"):gsub("\r", "\n"):gsub("^\n", "")
    count_newlines(p, at, last)
    return value, last + 1
end

local function skip_blank(p)
    local text, at = p.text, p.at
    while true do
        local first, last = text:find("^%s+", at)
        if first then
            count_newlines(p, first, last)
            at = last + 1
        elseif text:find("^%-%-", at) then
            local _, behind = long_bracket(p, at + 2)
            at = behind or (text:find("[\r\n]", at) or #text + 1)
        else
            p.at = at
            return
        end
    end
end

-- Reads a quoted string whose quote is at `at`.
local function quoted(p, at)
    local text, parts, quote = p.text, {}, p.text:sub(at, at)
    at = at + 1
    while true do
        local stop = text:find("[\\\r\n" .. quote .. "]", at)
        if not stop then fail(p, "unfinished string") end
        parts[#parts + 1] = text:sub(at, stop - 1)
        local c = text:sub(stop, stop)
        if c == quote then return table.concat(parts), stop + 1 end
        if c ~= "\\" then fail(p, "unfinished string") end
        local e = text:sub(stop + 1, stop + 1)
        local digits = text:match("^%d%d?%d?", stop + 1)
        at = stop + 2
        if ESCAPES[e] then
            parts[#parts + 1] = ESCAPES[e]
        elseif digits then
            if tonumber(digits) > 255 then fail(p, "invalid escape in a string") end
            parts[#parts + 1] = string.char(tonumber(digits))
            at = stop + 1 + #digits
        elseif e == "x" and text:find("^%x%x", at) then
            parts[#parts + 1] = string.char(tonumber(text:sub(at, at + 1), 16))
            at = at + 2
        elseif e == "u" and text:find("^{%x+}", at) then
            local hex = text:match("^{(%x+)}", at)
            parts[#parts + 1] = utf8(tonumber(hex, 16))
            at = at + #hex + 2
        elseif e == "z" then
            local _, last = text:find("^%s*", at)
            count_newlines(p, at, last)
            at = last + 1
        elseif e == "\n" or e == "\r" then
            local pair = text:sub(stop + 1, stop + 2)
            local length = (pair == "\r\n" or pair == "\n\r") and 2 or 1
            parts[#parts + 1] = "\n"
            p.line = p.line + 1
            at = stop + 1 + length
        else
            fail(p, "invalid escape in a string")
        end
    end
end

-- Reads the next word.
local function advance(p)
    skip_blank(p)
    local text, at = p.text, p.at
    p.first = at
    p.value = nil
    if at > #text then
        p.kind = "eof"
        return
    end
    local word = text:match("^[%a_\128-\255][%w_\128-\255]*", at)
    if word then
        p.kind = KEYWORDS[word] and word or "name"
        p.value = word
        p.at = at + #word
        return
    end
    local number = text:match("^0[xX][%x%.]*[pP][+-]?[%w%.]*", at) or text:match("^0[xX][%w%.]*", at)
        or text:match("^%.?%d[%d%.]*[eE][+-]?[%w%.]*", at) or text:match("^%.?%d[%w%.]*", at)
    if number then
        p.kind, p.value, p.at = "number", number, at + #number
        return
    end
    local c = text:sub(at, at)
    if c == '"' or c == "'" then
        p.kind = "string"
        p.value, p.at = quoted(p, at)
        return
    end
    if c == "[" then
        local value, behind = long_bracket(p, at)
        if value then
            p.kind, p.value, p.at = "string", value, behind
            return
        end
    end
    local sign = text:match("^%.%.%.?", at) or text:match("^[=~<>]=", at) or text:match("^::", at)
        or text:match("^[%+%-%*/%%%^#<>=%(%){}%[%];:,%.]", at)
    if not sign then fail(p, "unexpected character near '%s'", c) end
    p.kind, p.at = sign, at + #sign
end

local function accept(p, kind)
    if p.kind ~= kind then return false end
    advance(p)
    return true
end

local function expect(p, kind)
    if p.kind ~= kind then fail(p, "'%s' expected near '%s'", kind, p.text:sub(p.first, p.at - 1)) end
    local value = p.value
    advance(p)
    return value
end

---------------------------------------------------------------------------------------------------
-- Scopes. A scope is a table of names to Locals with its parent in scope[0].

local function open_scope(p)
    p.scope = { [0] = p.scope }
end

local function close_scope(p)
    p.scope = p.scope[0]
end

local function new_local(p, name)
    return { name = name, line = p.line, def = p.def, assigned = false }
end

local function declare(p, var)
    p.scope[var.name] = var
    return var
end

local function lookup(p, name)
    local scope = p.scope
    while scope do
        if scope[name] then return scope[name] end
        scope = scope[0]
    end
end

-- Notes a name in the functions around it, up to the one that declares it.
local function note_name(p, node)
    local def = p.def
    while def and def ~= node.var.def do
        def.names[#def.names + 1] = node
        def = def.outer
    end
end

---------------------------------------------------------------------------------------------------
-- Expressions

local expression, block, suffixed, table_constructor

local function expression_list(p)
    local list = { expression(p, 0) }
    while accept(p, ",") do list[#list + 1] = expression(p, 0) end
    return list
end

-- Parses parameters and body; the current word is "(". `line` is what debug.getinfo calls
-- linedefined.
local function function_body(p, line, is_method)
    local def = { tag = "Def", line = line, first = p.first, params = {}, is_method = is_method, is_vararg = false,
                  outer = p.def, names = {} }
    local outer = p.def
    p.def = def
    p.defs[#p.defs + 1] = def
    open_scope(p)
    if is_method then def.params[1] = declare(p, new_local(p, "self")) end
    expect(p, "(")
    if p.kind ~= ")" then
        repeat
            if accept(p, "...") then
                def.is_vararg = true
                break
            end
            local var = new_local(p, expect(p, "name"))
            def.params[#def.params + 1] = declare(p, var)
        until not accept(p, ",")
    end
    expect(p, ")")
    def.body = block(p)
    def.last_line = p.line
    def.last = p.at - 1
    close_scope(p)
    p.def = outer
    expect(p, "end")
    return def
end

local function arguments(p)
    if p.kind == "string" then
        local node = { tag = "String", line = p.line, value = p.value }
        advance(p)
        return { node }
    elseif p.kind == "{" then
        return { table_constructor(p) }
    end
    expect(p, "(")
    local list = p.kind == ")" and {} or expression_list(p)
    expect(p, ")")
    return list
end

function table_constructor(p)
    local node = { tag = "Table", line = p.line, items = {} }
    expect(p, "{")
    while p.kind ~= "}" do
        local item = {}
        if accept(p, "[") then
            item.key = expression(p, 0)
            expect(p, "]")
            expect(p, "=")
        elseif p.kind == "name" and p.text:find("^%s*=[^=]", p.at) then
            item.key = { tag = "String", line = p.line, value = p.value }
            advance(p)
            advance(p)
        end
        item.value = expression(p, 0)
        node.items[#node.items + 1] = item
        if not (accept(p, ",") or accept(p, ";")) then break end
    end
    expect(p, "}")
    return node
end

local function number(p)
    local text = expect(p, "number")
    local value = tonumber(text)
    if type(value) == "number" then return { tag = "Number", line = p.line, value = value } end
    if value ~= nil or text:find "[LlIi]$" then return { tag = "Wide", line = p.line, text = text, value = wide.value_of(text) } end
    return fail(p, "malformed number near '%s'", text)
end

local CONSTANTS = { ["nil"] = "Nil", ["true"] = "True", ["false"] = "False", ["..."] = "Vararg" }

local function simple(p)
    local line, kind = p.line, p.kind
    if kind == "number" then
        local node = number(p)
        node.line = line
        return node
    elseif kind == "string" then
        local node = { tag = "String", line = line, value = p.value }
        advance(p)
        return node
    elseif CONSTANTS[kind] then
        advance(p)
        return { tag = CONSTANTS[kind], line = line }
    elseif kind == "{" then
        return table_constructor(p)
    elseif kind == "function" then
        advance(p)
        return { tag = "Function", line = line, def = function_body(p, p.line, false) }
    end
    return suffixed(p)
end

-- Parses a name or a parenthesis, and the indexes and calls behind it.
function suffixed(p)
    local node
    local line = p.line
    if p.kind == "name" then
        node = { tag = "Name", line = line, name = p.value, var = lookup(p, p.value) }
        if node.var then note_name(p, node) end
        advance(p)
    elseif accept(p, "(") then
        node = { tag = "Paren", line = line, expr = expression(p, 0) }
        expect(p, ")")
    else
        fail(p, "unexpected '%s'", p.kind == "eof" and "end of the text" or p.text:sub(p.first, p.at - 1))
    end
    while true do
        line = p.line
        if accept(p, ".") then
            node = { tag = "Index", line = line, object = node,
                     key = { tag = "String", line = line, value = p.value } }
            expect(p, "name")
        elseif accept(p, "[") then
            node = { tag = "Index", line = line, object = node, key = expression(p, 0) }
            expect(p, "]")
        elseif accept(p, ":") then
            local name = expect(p, "name")
            node = { tag = "Method", line = line, object = node, name = name, args = arguments(p) }
        elseif p.kind == "(" or p.kind == "string" or p.kind == "{" then
            node = { tag = "Call", line = line, callee = node, args = arguments(p) }
        else
            return node
        end
    end
end

-- Parses an expression of operators that bind more tightly than `power`.
function expression(p, power)
    p.depth = p.depth + 1
    if p.depth > 190 then fail(p, "expressions are nested too deeply") end
    local left
    local line = p.line
    if p.kind == "not" or p.kind == "-" or p.kind == "#" then
        local op = p.kind
        advance(p)
        left = { tag = "Unop", line = line, op = op, expr = expression(p, UNARY_POWER) }
    else
        left = simple(p)
    end
    while true do
        local op = p.kind
        local binds = BINARY[op]
        if not binds or binds[1] <= power then break end
        line = p.line
        advance(p)
        local right = expression(p, binds[2])
        local tag = op == "and" and "And" or op == "or" and "Or" or "Binop"
        left = { tag = tag, line = line, op = op, left = left, right = right }
    end
    p.depth = p.depth - 1
    return left
end

---------------------------------------------------------------------------------------------------
-- Statements. Each function gets the line of the statement, and begins at its first word.

local statement = {}

-- Parses a block in a scope of its own.
local function scoped_block(p)
    open_scope(p)
    local body = block(p)
    close_scope(p)
    return body
end

statement["if"] = function(p, line)
    local node = { tag = "If", line = line, clauses = {} }
    repeat
        local at = p.line
        advance(p)
        local cond = expression(p, 0)
        expect(p, "then")
        node.clauses[#node.clauses + 1] = { line = at, cond = cond, body = scoped_block(p) }
    until p.kind ~= "elseif"
    if accept(p, "else") then node.orelse = scoped_block(p) end
    expect(p, "end")
    return node
end

statement["while"] = function(p, line)
    advance(p)
    local cond = expression(p, 0)
    expect(p, "do")
    local body = scoped_block(p)
    expect(p, "end")
    return { tag = "While", line = line, cond = cond, body = body }
end

statement["do"] = function(p, line)
    advance(p)
    local body = scoped_block(p)
    expect(p, "end")
    return { tag = "Do", line = line, body = body }
end

statement["repeat"] = function(p, line)
    advance(p)
    open_scope(p)
    local body = block(p)
    expect(p, "until")
    local cond = expression(p, 0)  -- sees the body's locals
    close_scope(p)
    return { tag = "Repeat", line = line, body = body, cond = cond }
end

statement["for"] = function(p, line)
    advance(p)
    local names = { expect(p, "name") }
    local node
    if accept(p, "=") then
        local list = expression_list(p)
        if #list < 2 or #list > 3 then fail(p, "'for' needs two or three numbers") end
        node = { tag = "Fornum", line = line, start = list[1], limit = list[2], step = list[3] }
    else
        while accept(p, ",") do names[#names + 1] = expect(p, "name") end
        expect(p, "in")
        node = { tag = "Forin", line = line, exprs = expression_list(p), vars = {} }
    end
    expect(p, "do")
    open_scope(p)
    for i, name in ipairs(names) do
        local var = declare(p, new_local(p, name))
        if node.tag == "Fornum" then node.var = var else node.vars[i] = var end
    end
    node.body = block(p)
    close_scope(p)
    expect(p, "end")
    return node
end

statement["function"] = function(p, line)
    advance(p)
    local target = { tag = "Name", line = line, name = p.value, var = lookup(p, p.value) }
    expect(p, "name")
    local is_method = false
    while p.kind == "." or p.kind == ":" do
        is_method = p.kind == ":"
        advance(p)
        local key = { tag = "String", line = p.line, value = expect(p, "name") }
        target = { tag = "Index", line = line, object = target, key = key }
        if is_method then break end
    end
    if target.var then target.var.assigned = true end
    local def = function_body(p, line, is_method)
    return { tag = "Assign", line = line, targets = { target }, exprs = { { tag = "Function", line = line, def = def } } }
end

statement["local"] = function(p, line)
    advance(p)
    if accept(p, "function") then
        local var = declare(p, new_local(p, expect(p, "name")))
        var.bound = function_body(p, p.line, false)
        return { tag = "LocalFunction", line = line, var = var, def = var.bound }
    end
    local vars = {}
    repeat vars[#vars + 1] = new_local(p, expect(p, "name")) until not accept(p, ",")
    local exprs = accept(p, "=") and expression_list(p) or {}
    for i, var in ipairs(vars) do
        declare(p, var)
        if exprs[i] and exprs[i].tag == "Function" then var.bound = exprs[i].def end
    end
    return { tag = "Local", line = line, vars = vars, exprs = exprs }
end

statement["return"] = function(p, line)
    advance(p)
    local exprs = (BLOCK_END[p.kind] or p.kind == ";") and {} or expression_list(p)
    accept(p, ";")
    local only = #exprs == 1 and exprs[1]
    if only and (only.tag == "Call" or only.tag == "Method") then only.is_tail = true end
    return { tag = "Return", line = line, exprs = exprs }
end

statement["break"] = function(p, line)
    advance(p)
    return { tag = "Break", line = line }
end

-- Parses an assignment or a call; or a goto, since `goto` is a name unless another name follows.
local function other_statement(p, line)
    local first = suffixed(p)
    if first.tag == "Name" and first.name == "goto" and p.kind == "name" then
        return { tag = "Goto", line = line, name = expect(p, "name") }
    end
    if first.tag == "Call" or first.tag == "Method" then return { tag = "CallStat", line = line, call = first } end
    local targets = { first }
    while accept(p, ",") do targets[#targets + 1] = suffixed(p) end
    expect(p, "=")
    for _, target in ipairs(targets) do
        if target.tag ~= "Name" and target.tag ~= "Index" then fail(p, "cannot assign to this") end
        if target.var then target.var.assigned = true end
    end
    return { tag = "Assign", line = line, targets = targets, exprs = expression_list(p) }
end

function block(p)
    local list = {}
    while not BLOCK_END[p.kind] do
        if not accept(p, ";") then
            p.depth = p.depth + 1
            if p.depth > 190 then fail(p, "statements are nested too deeply") end
            local line = p.line
            if accept(p, "::") then
                list = { { tag = "Region", line = line, name = expect(p, "name"), body = list } }
                expect(p, "::")
            else
                list[#list + 1] = (statement[p.kind] or other_statement)(p, line)
            end
            p.depth = p.depth - 1
            if list[#list].tag == "Return" then break end
        end
    end
    return list
end

---Parses a whole chunk.
---@param text string
---@return tidepool.gpu.Def[]? defs all its functions, in the order of their text; nil when the text is not Lua
---@return string? message what is wrong
---@return integer? line where
function parse.chunk(text)
    local p = { text = text, at = 1, line = 1, depth = 0, defs = {} }
    if text:sub(1, 3) == "\239\187\191" then p.at = 4 end                        -- byte order mark
    if text:sub(p.at, p.at) == "#" then p.at = text:find("[\r\n]", p.at) or #text + 1 end  -- shebang
    p.def = { tag = "Def", line = 0, params = {}, names = {}, is_vararg = true }
    local ok, failure = pcall(function()
        open_scope(p)
        advance(p)
        p.def.body = block(p)
        if p.kind ~= "eof" then fail(p, "'<eof>' expected near '%s'", p.text:sub(p.first, p.at - 1)) end
    end)
    if ok then return p.defs end
    if type(failure) ~= "table" then error(failure, 0) end
    return nil, failure.message, failure.line
end

return parse
