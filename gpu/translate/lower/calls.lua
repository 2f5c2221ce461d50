-- calls.lua: finds out what is called and evaluates its arguments.

local builtins = require "tidepool.translate.builtins"
local callees = require "tidepool.translate.lower.callees"
local choices = require "tidepool.translate.lower.choices"
local classes = require "tidepool.translate.lower.classes"
local ctypes = require "tidepool.translate.ctypes"
local facts = require "tidepool.translate.lower.facts"
local falses = require "tidepool.translate.lower.falses"
local functions = require "tidepool.translate.lower.functions"
local inlining = require "tidepool.translate.lower.inlining"
local library = require "tidepool.translate.lower.library"
local nodes = require "tidepool.translate.lower.nodes"
local optional = require "tidepool.translate.lower.optional"
local presence = require "tidepool.translate.lower.presence"
local scopes = require "tidepool.translate.lower.scopes"
local statics = require "tidepool.translate.lower.statics"
local structs = require "tidepool.translate.lower.structs"
local walk = require "tidepool.translate.lower.walk"
local wide = require "tidepool.translate.wide"

local calls = {}

local find = classes.find
local emit, fixed, hold_value, is_stable, name_of = nodes.emit, nodes.fixed, nodes.hold_value, nodes.is_stable, nodes.name_of
local new_local, node_at, number, refuse, scalar = nodes.new_local, nodes.node_at, nodes.number, nodes.refuse, nodes.scalar
local of_static, static_field, static_function = statics.of_static, statics.static_field, statics.static_function
local carried, carry, expr, expression = walk.carried, walk.carry, walk.expr, walk.expression
local results_of, touches = functions.results_of, functions.touches
local inline = inlining.inline

local call_values
local function varargs(L, node)
    return L.context.varargs or refuse(L, node, "'...' of the function that is mapped; on a device its parameters have names")
end

function carried.Vararg(L, node) return varargs(L, node)[1] or scalar(node_at(L, node, "Nil", {})) end
function expression.Vararg(L, node) return optional.settle(L, node, carried.Vararg(L, node)) end

-- The metatable of a table, a value of the host; nil when it has none.
local function meta_of(value)
    if value.t == "object" then
        local meta = find(value.storage.class).meta
        return meta and meta.value
    elseif value.t == "static" and value.static.layout or value.t == "element" and value.example.layout then
        return ctypes.metatable((value.static or value.example).layout)
    elseif value.t == "static" and type(value.static.value) == "table" then
        return debug.getmetatable(value.static.value)
    elseif value.t == "element" then
        return debug.getmetatable(value.example.value)
    end
end
calls.meta_of = meta_of

-- The first value of a call, which may have a flag.
local function first_value(L, node)
    local values = call_values(L, node)
    if not values[1] then
        local last = L.out[#L.out]
        local fails = last and last.tag == "CallStat" and last.call.callee and last.call.callee.static
        if fails and fails.value == error then return scalar(number(L, node, 0)) end -- it never returns
        refuse(L, node, "a call that returns nothing, used as a value")
    end
    return values[1]
end

calls.first_value = first_value

function expression.Call(L, node) return optional.settle(L, node, first_value(L, node)) end

expression.Method = expression.Call

function carried.Name(L, node)
    local value = scopes.name_value(L, node)
    if value.flag and L.present[value.flag] then return optional.stripped(value) end
    return value.several and expr(L, node) or value
end

function carried.Paren(L, node) return carry(L, node.expr) end

-- A call whose value may not be there. Of a byte of a text that is known once somebody asks for it.
function carried.Call(L, node)
    if not presence.is_byte(L, node) then return first_value(L, node) end
    if L.optional[node] then return presence.byte(L, node) end
    local value = hold_value(L, node, first_value(L, node))
    value.origin, value.is_element = node, true
    return value
end

carried.Method = carried.Call

-- Of values that are wanted: none may be nil.
local function hold_values(L, at, values)
    for i, value in ipairs(values) do values[i] = hold_value(L, at, optional.settle(L, at, value)) end
    return values
end

-- May the expression have several values, at the end of a list?
local function is_open(node) return node.tag == "Call" or node.tag == "Method" or node.tag == "Vararg" end
calls.is_open = is_open

-- All values of such an expression. `is_single`: only the first one is wanted.
local function all_values(L, node, is_single)
    if node.tag == "Vararg" then return varargs(L, node) end
    if presence.is_byte(L, node) then return { carry(L, node) } end
    local values = call_values(L, node)
    if values.is_cut and not is_single then
        refuse(L, node, "all values from an index on that is computed; put the call in parentheses for the first one")
    end
    return values
end
calls.all_values = all_values

-- The values of an expression list, with all of the last call's. `names`: of what they are given
-- to.
local function expr_list(L, exprs, names)
    local list, marks = {}, {}
    for i, node in ipairs(exprs) do
        if i == #exprs and is_open(node) then
            marks[#list + 1] = #L.out
            for _, value in ipairs(all_values(L, node, names and #names == i)) do list[#list + 1] = value end
        else
            marks[i] = #L.out
            L.naming = node.tag == "Table" and names and names[i] and names[i].name or nil
            list[i] = carry(L, node)
        end
    end
    -- If later expressions need statements, values of earlier ones are put into locals, so that
    -- these cannot change them.
    local last = #L.out
    for i = #exprs, 1, -1 do
        local value = list[i]
        local mark = marks[i + 1]
        if mark and value and value.t == "scalar" and last > mark and not is_stable(value.node) then
            list[i] = optional.like(value, nodes.hold_before(L, exprs[i], mark, value.node))
            last = last + 1
        end
    end
    return list
end
calls.expr_list = expr_list

-- Where error(message, 2) in a function that is inlined says that it was raised: at its call, or
-- where that is a tail call, at the call of the caller. Nothing calls the function that is mapped.
local function place_of_caller(context)
    while context.caller and context.call.is_tail do context = context.caller end
    if context.lift then return end -- infer.lua knows it
    return context.caller and ("%s:%d: "):format(context.caller.fn.source.file, context.call.line) or ""
end

local function nodes_of(L, at, values, fn)
    local list, callee = {}, at.callee
    local path = callee and (callee.static and callee.static.path or callees.path_of(callee)) or at.name
    local what = path and path ~= "?" and ("'%s'"):format(path) or "a function of the library"
    for i, value in ipairs(values) do
        value = optional.settle(L, at, value)
        if value.t ~= "scalar" and (fn == error or fn == assert and i == 2) then
            refuse(L, at, "the message of %s is no text that a device has; it is made of texts that are known beforehand and of numbers, by .., "
                .. "tostring and string.format", fn == error and "error" or "assert")
        end
        if value.t == "object" or value.t == "element" then refuse(L, at, "a table as an argument of %s; pass its fields or elements", what) end
        list[i] = value.t == "scalar" and value.node or value.t == "static" and fixed(L, at, value.static)
        if not list[i] then
            refuse(L, at, "a function as an argument of %s, which on a device takes numbers; call the function and pass what it gives", what)
        end
    end
    return list
end

-- Which function is called, and the values before its arguments.
local function callee_of(L, node)
    if node.tag == "Call" then
        local callee = expr(L, node.callee)
        if callee.t == "static" and type(callee.static.value) == "table" then
            local meta = debug.getmetatable(callee.static.value)
            local handler = meta and rawget(meta, "__call")
            if type(handler) == "function" then return static_function(callee.static.path, handler), { callee } end
        end
        return callee, {}
    end
    local object_ = expr(L, node.object)
    local path = ("%s"):format(node.name)
    if object_.t == "static" and type(object_.static.value) == "table" then
        local method = object_.static.value[node.name]
        if method ~= nil then return of_static(L, node, static_field(object_.static, node.name)), { object_ } end
    end
    local own = object_.t == "object" and object_.storage.functions
    if own and own[node.name] then return own[node.name], { object_ } end
    local meta = meta_of(object_)
    local index = meta and (rawget(meta, "__index") or L.indexes[meta])
    local method = type(index) == "table" and index[node.name]
    if type(method) == "function" then
        return { t = "static", static = { path = path, key = tostring(index) .. "." .. path, value = method,
            read = function() return index[node.name] end } },
            { object_ }
    end
    if object_.t == "scalar" or object_.t == "static" then return nil, nil, object_ end
    if meta or object_.t ~= "object" then
        refuse(L, node, "the method ':%s', which %s", node.name, meta and "its class has not" or "a table without a metatable has not")
    end
    -- What is put there further below may have one.
    nodes.refuse_later(L, node, "the method ':%s', which a table without a metatable has not", node.name)
    return nil, nil, { t = "scalar", node = nodes.number(L, node, 0), is_unknown = true }
end

-- The values of a call that gives `count` results: it is made once, and they are locals.
local function values_of_call(L, node, made, count)
    if count < 2 then return { scalar(made) } end
    local vars, list = {}, {}
    for i = 1, count do
        vars[i] = new_local(L, "t", node)
        list[i] = scalar(name_of(L, node, vars[i]))
    end
    emit(L, node_at(L, node, "Local", { vars = vars, exprs = { made } }))
    return list
end

-- assert of what may be nil. Its message may be the second result of the same call.
local function assert_there(L, node, callee, values)
    local value, message = values[1], values[2]
    optional.demand(L, value)
    local args = { optional.is_there(L, node, value) }
    if message then args[2] = nodes_of(L, node, { message.text and not message.several and optional.stripped(message) or message }, assert)[1] end
    emit(L, node_at(L, node, "CallStat", { call = node_at(L, node, "Call", { callee = fixed(L, node, callee.static), args = args }) }))
    values[1] = optional.stripped(value)
    return values
end

-- Does the callee have to know whether argument i is there: is it a result that may be missing, or
-- an element for which it asks?
local function is_wanted(L, at, callee, value, i)
    if not value.is_element or callee.t ~= "static" then return true end
    local fn = callee.static.value
    if builtins.find(fn) or debug.getinfo(fn, "S").what ~= "Lua" then return fn == assert and i == 1 end
    local about = L.function_of(fn, callee.static.path, at)
    return optional.asked(L, about, about.def)[about.def.params[i] or false] or false
end

function call_values(L, node)
    local callee, first, base = callee_of(L, node)
    if not callee then -- a method of a string or a typed array
        local args = expr_list(L, node.args)
        local of_text = library.of_texts[node.name]
        if of_text then
            table.insert(args, 1, base)
            return of_text(L, node, hold_values(L, node, args))
        end
        if node.name == "format" then hold_values(L, node, args) end
        args = nodes_of(L, node, args)
        local target = base.t == "static" and fixed(L, node, base.static) or base.node
        if base.is_unknown then return { { t = "scalar", node = target, is_unknown = true } } end
        return { scalar(node_at(L, node, "Method", { object = target, name = node.name, args = args })) }
    end
    local struct = callee.t == "static" and type(callee.static.value) == "cdata" and structs.call(L, node, callee.static, function()
        return hold_values(L, node, expr_list(L, node.args))
    end)
    if struct then return struct end
    local makes_wide = callee.t == "static" and type(callee.static.value) == "cdata" and wide.kind_of_type(callee.static.value)
    if callee.t == "scalar" or callee.t == "static" and type(callee.static.value) ~= "function" and not makes_wide then
        local static = callee.static or callee.node.static
        local value = static and static.value
        refuse(L, node, "a call of %s", static and ("'%s', which is %s"):format(static.path, value == nil and "nil" or "a " .. type(value))
            or "something that is computed; only functions with a name can be called")
    elseif callee.t ~= "function" and callee.t ~= "static" and callee.t ~= "choice" then
        refuse(L, node, "a call of a table")
    end
    local values = expr_list(L, node.args)
    for i, value in ipairs(values) do first[#first + 1] = value values[i] = nil end
    values = first
    if callee.t == "choice" then
        choices.check(L, node, callee)
        local key = scalar(callee.key)
        callee = choices.dispatcher(L, node, callee, #values)
        table.insert(values, 1, key)
    end
    local fn = callee.static and callee.static.value
    local as_number = callee.t == "static" and fn == tonumber and library.tonumber(L, node, values)
    if as_number then return as_number end
    local type_name = callee.t == "static" and fn == type and facts.type_of_value(L, values[1])
    if type_name then return { scalar(node_at(L, node, "String", { value = type_name })) } end
    if callee.t == "static" and structs.knows(fn) then
        local of_structs = structs.library(L, node, fn, hold_values(L, node, values))
        if of_structs then return of_structs end
    end
    if fn == select then return library.select(L, node, values) end
    if callee.t == "static" and library.functions[fn] then return library.functions[fn](L, node, hold_values(L, node, values)) end
    local has_tables = callee.t == "function"
    for i, value in ipairs(values) do
        if (value.flag or value.origin) and is_wanted(L, node, callee, value, i) then has_tables = true end
        has_tables = has_tables or value.t == "object" or value.t == "element" or value.t == "function" or value.t == "choice"
            or value.t == "scalar" and (value.node.tag == "String" or value.node.tag == "True" or value.node.tag == "False")
            or value.t == "static" and type(value.static.value) == "table" and not L.infer.array_type(value.static.value)
    end
    if callee.t == "static" then
        local builtin = builtins.find(fn)
        if fn == assert and values[1] and (values[1].flag or values[1].origin) then return assert_there(L, node, callee, values) end
        if builtin or makes_wide or debug.getinfo(fn, "S").what ~= "Lua" then
            -- the parts of a text are evaluated here, and the text when it is wanted
            if fn == tostring or fn == string.format then hold_values(L, node, values) end
            local made = node_at(L, node, "Call", { callee = fixed(L, node, callee.static), args = nodes_of(L, node, values, fn),
                caller_place = fn == error and place_of_caller(L.context) or nil, is_tail = node.is_tail })
            return values_of_call(L, node, made, builtin and builtin.results and #builtin.results or 1)
        end
        local about = L.function_of(fn, callee.static.path, node)
        local lends = optional.lends(L, about, about.def)
        if not has_tables and not touches(L, about, about.def) and not optional.misses(L, about, about.def)
            and not falses.gives(L, about, about.def)
            and not functions.asks_type(L, about, about.def) and not (lends and L.optional[about.def]) then
            local made = node_at(L, node, "Call", { callee = fixed(L, node, callee.static), args = nodes_of(L, node, values),
                caller_place = node.is_tail and place_of_caller(L.context) or nil, is_tail = node.is_tail })
            local results = values_of_call(L, node, made, results_of(about.def))
            for _, value in ipairs(lends and results or {}) do value.origin, value.is_element = about.def, true end
            return results
        end
    end
    return inline(L, node, callee, values)
end
calls.call_values = call_values

-- Marks tables that go on being reached by their own name.
function calls.mark_named(exprs, values)
    for i, value in ipairs(values) do
        if scopes.is_named(exprs[i], value) then
            values[i] = optional.mark({ t = "object", storage = value.storage, at = value.at, is_named = true }, value)
        end
    end
    return values
end

return calls
