-- functions.lua: what is known of a function before it is called: its text, its results, and
-- whether there are tables in it.

local ffi = require "ffi"

local ctypes = require "tidepool.translate.ctypes"
local choices = require "tidepool.translate.lower.choices"
local callees = require "tidepool.translate.lower.callees"
local falses = require "tidepool.translate.lower.falses"
local optional = require "tidepool.translate.lower.optional"
local sets = require "tidepool.translate.lower.sets"
local statics = require "tidepool.translate.lower.statics"

local functions = {}

local called, static_of = callees.called, callees.static_of
local from_zero, is_list_of_tables = statics.from_zero, statics.is_list_of_tables

-- Functions of the library that library.lua knows, of which no argument needs to be a local table.
local TAKES_SEVERAL = { [select] = true, [unpack] = true, [next] = true }

-- Functions of the FFI that structs.lua knows.
local FFI = { [ffi.new] = true, [ffi.typeof] = true, [ffi.istype] = true, [ffi.sizeof] = true }

-- Functions of texts, by their names as methods.
local OF_TEXTS = { byte = string.byte, len = string.len, sub = string.sub, upper = string.upper, lower = string.lower, rep = string.rep,
                   reverse = string.reverse }

-- Is it a table that a text may be the key of, or a list of texts?
local function has_names(value)
    return type(value[1]) == "string" or type((next(value))) == "string"
end
-- Fields of nodes that are no parts of the text.
local BESIDE = { var = true, vars = true, names = true, params = true, outer = true, assigns = true }

-- Must the function be inlined: because it handles tables, because it asks whether there is what
-- may be nil, or because a function in it assigns to its locals?
local function touches(L, fn, def, seen)
    seen = seen or {}
    if seen[def] then return false end
    seen[def] = true
    if def.is_vararg then return true end
    for _, param in ipairs(def.params) do
        if param.assigned and L.program:is_unset(fn.source.file, param) then return true end
    end
    -- Is the expression a result that may be missing, or an element of a captured list, which may
    -- be nil: has it a computed index?
    local function may_be_nil(node)
        return optional.is_optional(L, fn, def, node) and true or false
    end
    -- Is it a byte, or the length, of a text?
    local function is_of_text(node)
        if node.tag == "Method" then return OF_TEXTS[node.name] ~= nil end
        if node.tag == "Call" then
            local value, is_known = static_of(fn, node.callee)
            for _, each in pairs(is_known and type(value) == "function" and OF_TEXTS or {}) do
                if each == value then return true end
            end
            local first = value == tonumber and node.args[1]
            return first and (first.tag == "String" or first.tag == "Method" or type((static_of(fn, first))) == "string") or false
        end
        if node.tag == "Binop" and node.op ~= ".." and node.op ~= "==" and node.op ~= "~=" then
            for _, each in ipairs { node.left, node.right } do
                if each.tag == "String" or type((static_of(fn, each))) == "string" then return true end
            end
        end
        return node.tag == "Unop" and node.op == "#" and (node.expr.tag == "String" or type((static_of(fn, node.expr))) == "string")
    end
    -- Is it a captured table whose elements are read in another way than those of a list?
    local function is_other_table(value)
        return type(value) == "table" and not L.infer.array_type(value) and not L.infer.is_list(value) and (from_zero(value)
            or is_list_of_tables(value) or choices.count(value) or has_names(value) or sets.form(value)) and true or false
    end
    -- Is it a captured struct or array of C?
    local function is_struct(value)
        return type(value) == "cdata" and not L.infer.array_type(value) and ctypes.layout(value) ~= nil
    end
    -- Is it a function of the FFI, of a type of structs or arrays?
    local function is_of_ffi(node, value)
        if type(value) ~= "function" or not FFI[value] then return false end
        local first = node.args[1]
        local ctype = first and (first.tag == "String" and first.value or static_of(fn, first))
        return ctype == nil or ctypes.layout(ctype) ~= nil
    end
    -- Does the node ask whether such an element is there?
    local function asks(node)
        local tag = node.tag
        if tag == "And" or tag == "Or" then return may_be_nil(node.left) or may_be_nil(node.right) end
        if tag == "Call" then return optional.is_passed(L, fn, def, node, static_of(fn, node.callee)) end
        if tag == "Unop" then return node.op == "not" and may_be_nil(node.expr) end
        if tag == "Binop" and (node.op == "==" or node.op == "~=") then
            if node.right.tag == "Nil" then return may_be_nil(node.left) end
            return may_be_nil(node.right) or node.left.tag ~= "Nil" and may_be_nil(node.left)
        end
        return node.cond ~= nil and may_be_nil(node.cond) -- of a statement
    end
    -- Does the assignment in the function `within` change a local of one around it?
    local function shares(node, within)
        for _, target in ipairs(node.targets) do
            local var = target.tag == "Name" and target.var
            if var and var.def ~= within and not fn.outside[var.def] then return true end
        end
        return false
    end
    local function is_function(node)
        local value, is_known = static_of(fn, node)
        return node.tag == "Function" or node.tag == "Name" and node.var and node.var.bound or is_known and type(value) == "function"
    end
    -- Is a text, or a function, put somewhere, or a text compared with what is not known?
    local function has_text(node)
        local tag = node.tag
        if tag == "Local" or tag == "Assign" or tag == "Return" then
            for _, each in ipairs(node.exprs) do
                local is_made = tag == "Local" and each.tag == "Binop" and each.op == ".." or tag == "Return" and is_function(each)
                if each.tag == "String" or is_made then return true end
            end
        elseif tag == "Binop" and (node.op == "==" or node.op == "~=") then
            if node.left.tag ~= "String" and node.right.tag ~= "String" then return false end
            local other = node.left.tag == "String" and node.right or node.left
            return other.tag ~= "String" and not select(2, static_of(fn, other))
                and not (other.tag == "Call" and static_of(fn, other.callee) == type)
        elseif tag == "And" or tag == "Or" then
            return node.left.tag == "String" or node.right.tag == "String"
        elseif tag == "Call" and called(L, fn, node) then
            for _, arg in ipairs(node.args) do
                if arg.tag == "String" then return true end
            end
        end
        return false
    end
    -- Is a name given a function, as in `less = less or function(a, b) ... end`?
    local function gives_function(node)
        for _, each in ipairs(node.exprs) do
            while each.tag == "Paren" or each.tag == "Or" do each = each.expr or each.right end
            if is_function(each) then return true end
        end
        return false
    end
    -- Calls whose values nobody wants here.
    local is_passed_on = {}
    local function visit(node, within)
        local tag = node.tag
        if tag == "CallStat" then is_passed_on[node.call] = true end
        for _, each in ipairs(tag == "Return" and node.exprs or {}) do is_passed_on[each] = true end
        if tag == "Local" then
            for _, var in ipairs(node.vars) do
                if var.assigned and (L.program:is_unset(fn.source.file, var) or falses.is_mixed(L, fn, within, var)) then return true end
            end
        end
        if tag == "Table" or tag == "Forin" or tag == "Vararg" or asks(node) or is_of_text(node) then return true end
        if tag == "Assign" and (shares(node, within) or gives_function(node)) then return true end
        for i, var in ipairs(tag == "Local" and node.vars or {}) do
            if var.assigned and node.exprs[i] and is_function(node.exprs[i]) then return true end
        end
        if has_text(node) then return true end
        if tag == "Method" and node.object.tag ~= "String" and node.object.tag ~= "Paren" then
            local value, is_known = static_of(fn, node.object)
            if not is_known or type(value) == "table" and not L.infer.array_type(value) or is_struct(value) then return true end
        elseif tag == "Index" then
            local value, is_known = static_of(fn, node.object)
            local is_computed = node.key.tag ~= "String" and node.key.tag ~= "Number"
            if is_struct(value) then return true end
            if is_known and is_computed and is_other_table(value) then return true end
        elseif (tag == "And" or tag == "Or") and (is_function(node.left) or is_function(node.right)) then
            return true
        elseif tag == "Call" then
            local of, of_def = called(L, fn, node)
            if not is_passed_on[node] and (optional.misses(L, of, of_def) or falses.gives(L, of, of_def)) then return true end
            local callee_value = static_of(fn, node.callee)
            if ctypes.layout(callee_value) or is_of_ffi(node, callee_value) then return true end
            if TAKES_SEVERAL[static_of(fn, node.callee) or false] then return true end
            local callee, its_def = called(L, fn, node)
            if callee and callee ~= fn and touches(L, callee, its_def, seen) then return true end
            if callee and optional.gives_texts(L, callee, its_def) then return true end
            for _, arg in ipairs(callee and node.args or {}) do
                local value = static_of(fn, arg)
                if is_struct(value) or is_other_table(value) then return true end
            end
        end
        for key, child in pairs(node) do
            if type(child) == "table" and not BESIDE[key] and visit(child, tag == "Def" and node or within) then return true end
        end
        return false
    end
    return visit(def.body, def)
end
functions.touches = touches

--- Does the function ask for the type() of something, and not call itself? Where it is inlined, the
--- answer is known, and so which of its branches there are.
function functions.asks_type(L, fn, def)
    local asks, calls_itself = false, false
    local function visit(node)
        if node.tag == "Call" then
            local value, is_known = static_of(fn, node.callee)
            asks = asks or is_known and value == type
            calls_itself = calls_itself or select(2, called(L, fn, node)) == def
        end
        for key, child in pairs(node) do
            if type(child) == "table" and not BESIDE[key] then visit(child) end
        end
    end
    visit(def.body)
    return asks and not calls_itself
end

-- The function of a static, and what is known about its text.
function functions.function_of(L, at, value)
    local fn = L.function_of(value.static.value, value.static.path, at)
    return { t = "function", def = fn.def, fn = fn, name = value.static.path, static = value.static }
end

-- How many results a function returns everywhere; 1 when it differs.
function functions.results_of(def)
    local least
    local function visit(list)
        for _, node in ipairs(list) do
            if node.tag == "Return" then
                local last = node.exprs[#node.exprs]
                local count = (last and (last.tag == "Call" or last.tag == "Method")) and 1 or #node.exprs
                if last and last.tag == "Call" and #node.exprs > 1 then count = #node.exprs end
                least = math.min(least or count, count)
            end
            for key, child in pairs(node) do
                if type(child) == "table" and (key == "body" or key == "orelse") then visit(child) end
                if key == "clauses" then
                    for _, clause in ipairs(child) do visit(clause.body) end
                end
            end
        end
    end
    visit(def.body)
    return least or 0
end

return functions
